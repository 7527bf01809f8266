//! The spend ledger: what calls used and cost, appended and never changed, and sums of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use foldhash::HashMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use crate::many::{AnyQuery, Many};
use crate::{Store, StoreError};

/// The length of a slot of [`UsageSum`], in milliseconds. Time zones are off by quarters of an hour at most.
pub const SLOT_MS: i64 = 15 * 60_000;

/// Of whom it is asked what they spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whose {
    /// A key, by its name.
    Key,
    /// A user.
    User,
    /// A team.
    Team,
}

impl Whose {
    fn column(self) -> &'static str {
        match self {
            Self::Key => "principal",
            Self::User => "user_name",
            Self::Team => "team",
        }
    }
}

/// For whom and by what something was used. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Spender {
    /// The principal's name.
    pub principal: String,
    /// The person.
    pub user: String,
    /// The team.
    pub team: String,
    /// The application.
    pub app: String,
    /// The organisation.
    pub organization: String,
    /// Words of the owner's choice.
    pub tags: BTreeMap<String, String>,
    /// The endpoint.
    pub endpoint: String,
    /// `provider/model` or a `models:/` URI.
    pub target: String,
    /// The registry version that answered.
    pub model_version: String,
    /// What was asked for.
    pub operation: String,
}

/// One call at one target, which cost something or may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// The request's id, and the number of the target within it.
    pub id: String,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: i64,
    /// For whom and by what.
    pub spender: Arc<Spender>,
    /// `completed`, `failed`, `cancelled`; `lost`: the process died before it was known, and what had been reserved
    /// counts; `gap`: a process died, and what it did within its last second may be missing.
    pub outcome: Cow<'static, str>,
    /// Tokens of the prompt.
    pub input_tokens: i64,
    /// Tokens of the answer.
    pub output_tokens: i64,
    /// Rows predicted.
    pub rows: i64,
    /// Nano-USD; `None`: not known.
    pub cost: Option<i64>,
    /// The tokens were counted by us.
    pub estimated: bool,
}

/// What was used in a quarter of an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageSum {
    /// When the slot begins, in milliseconds since 1970.
    pub slot_ms: i64,
    /// For whom and by what.
    pub spender: Arc<Spender>,
    /// Calls.
    pub requests: i64,
    /// Calls that failed.
    pub failed: i64,
    /// Tokens of prompts.
    pub input_tokens: i64,
    /// Tokens of answers.
    pub output_tokens: i64,
    /// Rows predicted.
    pub rows: i64,
    /// Nano-USD, as far as known.
    pub cost: i64,
    /// Calls that used something whose price is not known.
    pub unpriced: i64,
    /// Calls whose tokens were counted by us.
    pub estimated: i64,
}

impl UsageSum {
    /// Adds what one call used.
    pub fn add(&mut self, row: &LedgerRow) {
        let used = row.input_tokens + row.output_tokens > 0;
        self.requests += 1;
        self.failed += i64::from(row.outcome == "failed");
        self.input_tokens = self.input_tokens.saturating_add(row.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(row.output_tokens);
        self.rows = self.rows.saturating_add(row.rows);
        self.cost = self.cost.saturating_add(row.cost.unwrap_or(0));
        self.unpriced += i64::from(row.cost.is_none() && used);
        self.estimated += i64::from(row.estimated);
    }

    /// Adds what another sum holds.
    pub fn plus(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.rows = self.rows.saturating_add(other.rows);
        self.cost = self.cost.saturating_add(other.cost);
        self.unpriced += other.unpriced;
        self.estimated += other.estimated;
    }
}

static ROWS: LazyLock<Many> = LazyLock::new(|| {
    let before = "INSERT INTO ledger (id, at_ms, spender, outcome, input_tokens, output_tokens, predicted, cost, estimated)
                  VALUES";
    Many::new(before, 9, "")
});
static OPENED: LazyLock<Many> = LazyLock::new(|| {
    Many::new(
        "INSERT INTO ledger_open (id, replica, row) VALUES",
        3,
        " ON CONFLICT (id) DO UPDATE SET row = excluded.row",
    )
});
static CLOSED: LazyLock<Many> = LazyLock::new(|| Many::new("DELETE FROM ledger_open WHERE id IN (", 1, ")"));

impl Spender {
    /// Names it in the store: the same for the same names, whoever writes them.
    fn id(&self) -> i64 {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(text).into();
        let (first, _) = digest.split_at(8);
        i64::from_be_bytes(first.try_into().unwrap_or_default()) & i64::MAX
    }

    fn tags(&self) -> String {
        serde_json::to_string(&self.tags).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// Where it stands for whom a row is.
fn place(row: &LedgerRow) -> usize {
    Arc::as_ptr(&row.spender) as usize
}

/// Writes down for whom rows are, and gives their names in the store by where they stand.
async fn note_spenders(
    connection: &mut AnyConnection,
    rows: &[LedgerRow],
) -> Result<HashMap<usize, i64>, sqlx::Error> {
    let distinct: HashMap<usize, &Spender> = rows.iter().map(|row| (place(row), &*row.spender)).collect();
    let mut ids = HashMap::default();
    for (at, spender) in distinct {
        let id = spender.id();
        ids.insert(at, id);
        let insert = sqlx::query(
            "INSERT INTO spenders (id, principal, user_name, team, app, organization, tags, endpoint, target, model_version, operation)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING",
        );
        named(insert.bind(id), spender).execute(&mut *connection).await?;
    }
    Ok(ids)
}

/// Binds the ten columns that say for whom something is.
fn named<'q>(query: AnyQuery<'q>, spender: &'q Spender) -> AnyQuery<'q> {
    query
        .bind(&spender.principal)
        .bind(&spender.user)
        .bind(&spender.team)
        .bind(&spender.app)
        .bind(&spender.organization)
        .bind(spender.tags())
        .bind(&spender.endpoint)
        .bind(&spender.target)
        .bind(&spender.model_version)
        .bind(&spender.operation)
}

async fn insert(connection: &mut AnyConnection, kind: &str, rows: &[LedgerRow]) -> Result<(), sqlx::Error> {
    let ids = note_spenders(connection, rows).await?;
    ROWS.run(connection, kind, rows, |query, row| {
        query
            .bind(&row.id)
            .bind(row.at_ms)
            .bind(ids[&place(row)])
            .bind(&*row.outcome)
            .bind(row.input_tokens)
            .bind(row.output_tokens)
            .bind(row.rows)
            .bind(row.cost)
            .bind(i64::from(row.estimated))
    })
    .await
}

async fn add_sum(connection: &mut AnyConnection, sum: &UsageSum) -> Result<(), sqlx::Error> {
    let spender = &sum.spender;
    let id = serde_json::to_string(&(sum.slot_ms, spender)).unwrap_or_default();
    let query = sqlx::query(
        "INSERT INTO usage_sums (id, slot_ms, principal, user_name, team, app, organization, tags, endpoint, target,
           model_version, operation, requests, failed, input_tokens, output_tokens, predicted, cost, unpriced, estimated)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
         ON CONFLICT (id) DO UPDATE SET
           requests = usage_sums.requests + excluded.requests,
           failed = usage_sums.failed + excluded.failed,
           input_tokens = usage_sums.input_tokens + excluded.input_tokens,
           output_tokens = usage_sums.output_tokens + excluded.output_tokens,
           predicted = usage_sums.predicted + excluded.predicted,
           cost = usage_sums.cost + excluded.cost,
           unpriced = usage_sums.unpriced + excluded.unpriced,
           estimated = usage_sums.estimated + excluded.estimated",
    )
    .bind(id)
    .bind(sum.slot_ms);
    named(query, spender)
        .bind(sum.requests)
        .bind(sum.failed)
        .bind(sum.input_tokens)
        .bind(sum.output_tokens)
        .bind(sum.rows)
        .bind(sum.cost)
        .bind(sum.unpriced)
        .bind(sum.estimated)
        .execute(connection)
        .await
        .map(drop)
}

fn spender(row: &AnyRow) -> Result<Arc<Spender>, sqlx::Error> {
    let tags: String = row.try_get("tags")?;
    Ok(Arc::new(Spender {
        principal: row.try_get("principal")?,
        user: row.try_get("user_name")?,
        team: row.try_get("team")?,
        app: row.try_get("app")?,
        organization: row.try_get("organization")?,
        tags: serde_json::from_str(&tags).unwrap_or_default(),
        endpoint: row.try_get("endpoint")?,
        target: row.try_get("target")?,
        model_version: row.try_get("model_version")?,
        operation: row.try_get("operation")?,
    }))
}

/// What is written at once: rows of calls that cost something, and sums over them and all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerBatch {
    /// Random. A batch that is there is not written again.
    pub id: String,
    /// Calls that cost something.
    pub rows: Vec<LedgerRow>,
    /// What all calls used.
    pub sums: Vec<UsageSum>,
}

impl LedgerBatch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.sums.is_empty()
    }
}

/// Sums of rows by slot and spender.
#[must_use]
pub fn sums(rows: &[LedgerRow]) -> Vec<UsageSum> {
    let mut sums: BTreeMap<(i64, &Spender), UsageSum> = BTreeMap::new();
    for row in rows {
        let slot_ms = row.at_ms - row.at_ms.rem_euclid(SLOT_MS);
        let sum = sums.entry((slot_ms, &*row.spender)).or_insert_with(|| UsageSum {
            slot_ms,
            spender: Arc::clone(&row.spender),
            ..UsageSum::default()
        });
        sum.add(row);
    }
    sums.into_values().collect()
}

impl Store {
    /// Writes a batch, and notes which calls are under way now; all of it or nothing. `false`: the batch was there already.
    pub async fn write_ledger(
        &self,
        replica: &str,
        now_ms: i64,
        batch: &LedgerBatch,
        opened: &[LedgerRow],
        closed: &[String],
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool()?.begin().await?;
        let noted =
            sqlx::query("INSERT INTO ledger_batches (id, at_ms) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
                .bind(&batch.id)
                .bind(now_ms)
                .execute(&mut *transaction)
                .await?;
        let fresh = noted.rows_affected() == 1;
        if fresh {
            insert(&mut transaction, self.kind, &batch.rows).await?;
            for sum in &batch.sums {
                add_sum(&mut transaction, sum).await?;
            }
        }
        let opened: Vec<_> = opened
            .iter()
            .map(|row| (&*row.id, replica, serde_json::to_string(row).unwrap_or_default()))
            .collect();
        OPENED
            .run(&mut transaction, self.kind, &opened, |query, (id, replica, row)| {
                query.bind(*id).bind(*replica).bind(row)
            })
            .await?;
        CLOSED.run(&mut transaction, self.kind, closed, |query, id| query.bind(id)).await?;
        sqlx::query(
            "INSERT INTO ledger_writers (replica, seen_ms) VALUES ($1, $2)
             ON CONFLICT (replica) DO UPDATE SET seen_ms = excluded.seen_ms",
        )
        .bind(replica)
        .bind(now_ms)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(fresh)
    }

    /// Forgets which batches were written before a moment: nobody tries them again.
    pub async fn forget_batches(&self, before_ms: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM ledger_batches WHERE at_ms < $1")
            .bind(before_ms)
            .execute(self.pool()?)
            .await?;
        Ok(())
    }

    /// Ends what writers left that were not seen since `before_ms`: what they had reserved becomes rows with the outcome
    /// `lost`, and one row says that there may be a gap. Gives how many calls that were.
    pub async fn settle_the_dead(&self, before_ms: i64, now_ms: i64) -> Result<u64, StoreError> {
        let dead = sqlx::query("SELECT replica, seen_ms FROM ledger_writers WHERE seen_ms < $1")
            .bind(before_ms)
            .fetch_all(self.pool()?)
            .await?;
        let mut lost = 0;
        for writer in dead {
            let replica: String = writer.try_get(0)?;
            let seen_ms: i64 = writer.try_get(1)?;
            let mut transaction = self.pool()?.begin().await?;
            // Whoever takes the writer away settles what it left: no two do.
            let taken = sqlx::query("DELETE FROM ledger_writers WHERE replica = $1 AND seen_ms = $2")
                .bind(&replica)
                .bind(seen_ms)
                .execute(&mut *transaction)
                .await?;
            if taken.rows_affected() == 0 {
                continue;
            }
            let open = sqlx::query("SELECT row FROM ledger_open WHERE replica = $1")
                .bind(&replica)
                .fetch_all(&mut *transaction)
                .await?;
            let mut rows = Vec::with_capacity(open.len() + 1);
            for row in &open {
                let text: String = row.try_get(0)?;
                let broken =
                    |error: serde_json::Error| StoreError::Database(format!("a row of the ledger: {error}"));
                let row: LedgerRow = serde_json::from_str(&text).map_err(broken)?;
                // What it had put aside when it could not write may be there by now.
                let ended = sqlx::query("SELECT 1 FROM ledger WHERE at_ms >= $1 AND id = $2")
                    .bind(row.at_ms)
                    .bind(&row.id)
                    .fetch_optional(&mut *transaction)
                    .await?;
                if ended.is_none() {
                    rows.push(LedgerRow { outcome: "lost".into(), at_ms: now_ms, ..row });
                }
            }
            let calls = rows.len();
            lost += calls as u64;
            rows.push(LedgerRow {
                id: format!("gap-{replica}"),
                at_ms: now_ms,
                outcome: "gap".into(),
                ..LedgerRow::default()
            });
            insert(&mut transaction, self.kind, &rows).await?;
            for sum in sums(&rows[..calls]) {
                add_sum(&mut transaction, &sum).await?;
            }
            sqlx::query("DELETE FROM ledger_open WHERE replica = $1")
                .bind(&replica)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
        }
        Ok(lost)
    }

    /// A writer that ends as it should: it leaves nothing open.
    pub async fn end_writer(&self, replica: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM ledger_writers WHERE replica = $1")
            .bind(replica)
            .execute(self.pool()?)
            .await?;
        Ok(())
    }

    /// Sums of the slots from `from_ms` to before `to_ms`.
    pub async fn usage(&self, from_ms: i64, to_ms: i64) -> Result<Vec<UsageSum>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT slot_ms, principal, user_name, team, app, organization, tags, endpoint, target, model_version, ",
            "operation, requests, failed, input_tokens, output_tokens, predicted, cost, unpriced, estimated ",
            "FROM usage_sums WHERE slot_ms >= $1 AND slot_ms < $2 ORDER BY slot_ms, id"
        ))
        .bind(from_ms)
        .bind(to_ms)
        .fetch_all(self.pool()?)
        .await?;
        let read = |row: &AnyRow| -> Result<UsageSum, sqlx::Error> {
            Ok(UsageSum {
                slot_ms: row.try_get("slot_ms")?,
                spender: spender(row)?,
                requests: row.try_get("requests")?,
                failed: row.try_get("failed")?,
                input_tokens: row.try_get("input_tokens")?,
                output_tokens: row.try_get("output_tokens")?,
                rows: row.try_get("predicted")?,
                cost: row.try_get("cost")?,
                unpriced: row.try_get("unpriced")?,
                estimated: row.try_get("estimated")?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// What was spent since `from_ms`, in nano-USD: by each of a kind, or by the `one` that is named.
    pub async fn spent(
        &self,
        whose: Whose,
        from_ms: i64,
        one: Option<&str>,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let column = whose.column();
        let only = if one.is_some() { format!("AND {column} = $2 ") } else { String::new() };
        // A sum of BIGINT is NUMERIC in PostgreSQL.
        let text = format!(
            "SELECT {column}, CAST(SUM(cost) AS BIGINT) FROM usage_sums WHERE slot_ms >= $1 {only}GROUP BY {column}"
        );
        let mut query = sqlx::query(AssertSqlSafe(text)).bind(from_ms);
        if let Some(one) = one {
            query = query.bind(one);
        }
        let rows = query.fetch_all(self.pool()?).await?;
        Ok(rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, sqlx::Error>>()?)
    }

    /// Rows of the ledger, from `from_ms` to before `to_ms`, at most `most` of them.
    pub async fn ledger(&self, from_ms: i64, to_ms: i64, most: i64) -> Result<Vec<LedgerRow>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT ledger.id, at_ms, principal, user_name, team, app, organization, tags, endpoint, target, model_version, ",
            "operation, outcome, input_tokens, output_tokens, predicted, cost, estimated ",
            "FROM ledger JOIN spenders ON spenders.id = ledger.spender ",
            "WHERE at_ms >= $1 AND at_ms < $2 ORDER BY at_ms, ledger.id LIMIT $3"
        ))
        .bind(from_ms)
        .bind(to_ms)
        .bind(most)
        .fetch_all(self.pool()?)
        .await?;
        let read = |row: &AnyRow| -> Result<LedgerRow, sqlx::Error> {
            Ok(LedgerRow {
                id: row.try_get("id")?,
                at_ms: row.try_get("at_ms")?,
                spender: spender(row)?,
                outcome: row.try_get::<String, _>("outcome")?.into(),
                input_tokens: row.try_get("input_tokens")?,
                output_tokens: row.try_get("output_tokens")?,
                rows: row.try_get("predicted")?,
                cost: row.try_get("cost")?,
                estimated: row.try_get::<i64, _>("estimated")? != 0,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }
}
