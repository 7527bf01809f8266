//! The spend ledger's writer. Records of calls come in from the observer's thread and are written to the store some times
//! a second, together with which calls are under way and what they have reserved: a process that dies leaves word of it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millgate_policy::{Limit, Now, Span};
use millgate_store::{LedgerRow, Spender, Store, StoreError, UsageSum};
use millgate_types::{Exchange, Owner, RequestId};

use crate::keys::now_ms;
use crate::limits::{Rule, Who};

/// Pause between two writes.
const PAUSE: Duration = Duration::from_millis(200);
/// A writer that was not seen for this long is dead.
const DEAD_AFTER_MS: i64 = 60_000;
/// Rows that may wait for the store. More go to a file of their own in the data folder.
const WAITING: usize = 100_000;
/// Rows of one transaction.
const BATCH: usize = 8_192;
/// The largest spill file, in bytes: beyond it hard budgets admit nothing.
const SPILL: u64 = 256 << 20;

/// The ledger, open for writing.
pub struct Ledger {
    store: Store,
    /// Names this process among all that ever wrote.
    replica: String,
    /// Rows that the store would not take.
    spill: PathBuf,
    state: Mutex<State>,
    /// Budgets whose counts hold what was spent before this process began.
    begun: Mutex<HashSet<u64>>,
    /// The budgets of the present configuration.
    budgets: Mutex<Vec<Rule>>,
    /// One write at a time.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    rows: Vec<LedgerRow>,
    /// Calls under way, and whether the store knows of them.
    open: HashMap<RequestId, (LedgerRow, bool)>,
    closed: Vec<String>,
    failing: bool,
    /// Bytes in the spill file.
    spilled: u64,
    /// Rows that found no place anywhere.
    lost: u64,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the ledger of a store. `folder` is this process's own; what an earlier one left there is written now, and what
    /// dead ones had reserved counts as spent.
    pub async fn open(store: Store, folder: &Path) -> Result<Arc<Self>, StoreError> {
        let replica = format!("{}", RequestId::random());
        let ledger = Self {
            spill: folder.join("ledger-spill.jsonl"),
            store,
            replica,
            state: Mutex::default(),
            begun: Mutex::default(),
            budgets: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        };
        ledger.bring_back().await?;
        // SQLite has one writer: whoever else is there is dead.
        let dead = if ledger.store.kind() == "sqlite" { 0 } else { DEAD_AFTER_MS };
        let lost = ledger.store.settle_the_dead(now_ms() - dead, now_ms()).await?;
        if lost > 0 {
            tracing::warn!(
                calls = lost,
                "a process died with calls under way; what they had reserved counts as spent"
            );
        }
        ledger.store.write_ledger(&ledger.replica, now_ms(), &[], &[], &[]).await?;
        Ok(Arc::new(ledger))
    }

    /// Writes what comes, as long as somebody holds the ledger.
    pub fn follow(self: &Arc<Self>) {
        tokio::spawn(follow(Arc::downgrade(self)));
    }

    /// Writes what is left, and leaves nothing open.
    pub async fn close(&self) {
        if let Err(error) = self.write().await {
            tracing::error!(%error, "the ledger cannot be written; its rows wait in the data folder");
        }
        let open = lock(&self.state).open.is_empty();
        if open && let Err(error) = self.store.end_writer(&self.replica).await {
            tracing::warn!(%error, "the ledger was not closed");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether spending cannot be written down any more, anywhere.
    pub(crate) fn is_full(&self) -> bool {
        self.state().spilled > SPILL
    }

    /// Notes a call under way and what it has reserved.
    pub(crate) fn begin(&self, id: RequestId, spender: Spender, reserved: u64) {
        let row = LedgerRow {
            id: format!("{id}"),
            at_ms: now_ms(),
            spender,
            outcome: "lost".to_owned(),
            cost: i64::try_from(reserved).ok(),
            ..LedgerRow::default()
        };
        self.state().open.insert(id, (row, false));
    }

    /// Notes what a finished call used.
    pub(crate) fn record(&self, exchange: &Exchange) {
        let at_ms = exchange.started + exchange.duration;
        let at_ms = at_ms.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let mut state = self.state();
        if let Some((_, true)) = state.open.remove(&exchange.request_id) {
            state.closed.push(format!("{}", exchange.request_id));
        }
        if exchange.attempts == 0 || exchange.endpoint.is_none() {
            return;
        }
        if state.rows.len() >= WAITING && !state.failing {
            state.lost += 1;
            return;
        }
        if exchange.hops.is_empty() {
            state.rows.push(row(exchange, exchange, at_ms, 0));
        } else {
            let rows = exchange.hops.iter().enumerate();
            let rows: Vec<_> = rows.map(|(number, hop)| row(exchange, hop, at_ms, number)).collect();
            state.rows.extend(rows);
        }
    }

    /// Writes what waits.
    pub(crate) async fn write(&self) -> Result<(), StoreError> {
        let _one = self.writing.lock().await;
        loop {
            let (rows, opened, closed, more) = {
                let mut state = self.state();
                let count = state.rows.len().min(BATCH);
                let rows: Vec<_> = state.rows.drain(..count).collect();
                let mut opened = Vec::new();
                for (row, known) in state.open.values_mut().filter(|(_, known)| !known) {
                    *known = true;
                    opened.push(row.clone());
                }
                let more = !state.rows.is_empty();
                (rows, opened, std::mem::take(&mut state.closed), more)
            };
            match self.store.write_ledger(&self.replica, now_ms(), &rows, &opened, &closed).await {
                Ok(_) if self.state().failing => {
                    self.state().failing = false;
                    tracing::info!("the ledger is written again");
                    self.bring_back().await?;
                }
                Ok(_) => {}
                Err(error) => {
                    self.put_aside(&rows, &closed, &error);
                    return Err(error);
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Puts rows that the store would not take into a file: they outlive this process there.
    fn put_aside(&self, rows: &[LedgerRow], closed: &[String], error: &StoreError) {
        let mut lines = Vec::new();
        for row in rows {
            if serde_json::to_writer(&mut lines, row).is_ok() {
                lines.push(b'\n');
            }
        }
        let mut state = self.state();
        if !std::mem::replace(&mut state.failing, true) {
            tracing::error!(%error, "the ledger cannot be written; its rows wait in the data folder");
        }
        state.closed.extend_from_slice(closed);
        if lines.is_empty() {
            return;
        }
        let written = File::options().append(true).create(true).open(&self.spill).and_then(|mut file| {
            file.write_all(&lines)?;
            file.sync_data()
        });
        match written {
            Ok(()) => state.spilled += lines.len() as u64,
            Err(error) => {
                tracing::error!(%error, rows = rows.len(), "rows of the ledger can be put nowhere; they wait in memory");
                let waiting = std::mem::take(&mut state.rows);
                state.rows = rows.iter().cloned().chain(waiting).collect();
                state.spilled = SPILL + 1;
            }
        }
    }

    /// Writes what was put aside.
    async fn bring_back(&self) -> Result<(), StoreError> {
        let Ok(file) = File::open(&self.spill) else {
            self.state().spilled = 0;
            return Ok(());
        };
        let mut rows = Vec::new();
        // A line that a crash cut short was never acknowledged.
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            rows.extend(serde_json::from_str::<LedgerRow>(&line).ok());
        }
        for rows in rows.chunks(BATCH) {
            self.store.write_ledger(&self.replica, now_ms(), rows, &[], &[]).await?;
        }
        let _gone = std::fs::remove_file(&self.spill);
        self.state().spilled = 0;
        tracing::info!(rows = rows.len(), "rows of the ledger that had been put aside are written");
        Ok(())
    }

    /// Sums from `from_ms` to before `to_ms`, with what waits to be written.
    pub(crate) async fn usage(&self, from_ms: i64, to_ms: i64) -> Result<Vec<UsageSum>, StoreError> {
        self.write().await?;
        self.store.usage(from_ms, to_ms).await
    }

    /// Lets budgets begin with what was spent in their windows before.
    pub(crate) async fn begin_budgets(
        &self,
        rules: &[Rule],
        now: millgate_policy::Now,
    ) -> Result<(), StoreError> {
        let fresh: Vec<&Rule> = {
            let mut begun = lock(&self.begun);
            rules.iter().filter(|rule| rule.limit.budget && begun.insert(rule.limit.cells.number())).collect()
        };
        let start = |rule: &&Rule| match &rule.limit.span {
            Span::Calendar(calendar) => Some(calendar.window(now.wall_ms).0),
            _ => None,
        };
        let Some(from) = fresh.iter().filter_map(start).min() else { return Ok(()) };
        let sums = match self.usage(from, i64::MAX).await {
            Ok(sums) => sums,
            Err(error) => {
                let mut begun = lock(&self.begun);
                for rule in fresh {
                    begun.remove(&rule.limit.cells.number());
                }
                return Err(error);
            }
        };
        for rule in fresh {
            let from = start(&rule).unwrap_or(i64::MAX);
            for (label, cost) in spent(rule, &sums, from) {
                rule.limit.book(&label, cost, now);
            }
        }
        Ok(())
    }

    /// What was spent of a budget in the present window by whom the label names, at all replicas.
    pub(crate) async fn spent(&self, limit: &Limit, label: &str, now: Now) -> Result<u64, StoreError> {
        let rule = lock(&self.budgets).iter().find(|rule| rule.limit.key == limit.key).cloned();
        let (Some(rule), Span::Calendar(calendar)) = (rule, &limit.span) else { return Ok(0) };
        let (from, _) = calendar.window(now.wall_ms);
        let sums = self.usage(from, i64::MAX).await?;
        Ok(spent(&rule, &sums, from).filter(|(whose, _)| &**whose == label).map(|(_, cost)| cost).sum())
    }
}

/// What sums say was spent of a budget since `from`, and by whom.
fn spent<'a>(rule: &'a Rule, sums: &'a [UsageSum], from: i64) -> impl Iterator<Item = (Arc<str>, u64)> + 'a {
    let counts = move |sum: &&UsageSum| sum.slot_ms >= from && rule.covers(&sum.spender.endpoint);
    sums.iter().filter(counts).filter_map(|sum| {
        let spender = &sum.spender;
        let name = |name: &String| (!name.is_empty()).then(|| name.as_str().into());
        let owner = Owner {
            user: name(&spender.user),
            team: name(&spender.team),
            app: name(&spender.app),
            organization: name(&spender.organization),
            tags: spender.tags.clone(),
        };
        let (key, endpoint) = (name(&spender.principal), spender.endpoint.as_str().into());
        let who = Who { key: key.as_ref(), owner: &owner, peer: None, endpoint: &endpoint };
        Some((rule.ask(&who)?.label, u64::try_from(sum.cost).ok()?))
    })
}

/// The row of a call, or of one of its hops.
fn row(exchange: &Exchange, hop: &Exchange, at_ms: i64, number: usize) -> LedgerRow {
    let id = &exchange.request_id;
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    LedgerRow {
        id: if number == 0 { format!("{id}") } else { format!("{id}.{number}") },
        at_ms,
        spender: spender(exchange, hop),
        outcome: hop.outcome.name().to_owned(),
        input_tokens: count(hop.usage.prompt_total()),
        output_tokens: count(hop.usage.completion_total()),
        rows: count(hop.rows),
        cost: hop.cost.map(|cost| cost.0),
        estimated: hop.usage.estimated,
    }
}

/// For whom a call is, and where it goes.
pub(crate) fn spender(exchange: &Exchange, hop: &Exchange) -> Spender {
    let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
    let nobody = Owner::default();
    let owner = exchange.owner.as_deref().unwrap_or(&nobody);
    Spender {
        principal: name(&exchange.principal),
        user: name(&owner.user),
        team: name(&owner.team),
        app: name(&owner.app),
        organization: name(&owner.organization),
        tags: owner.tags.clone(),
        endpoint: name(&exchange.endpoint),
        target: name(&hop.target),
        model_version: name(&hop.model_version),
        operation: hop
            .operation
            .or(exchange.operation)
            .map_or("", millgate_types::Operation::name)
            .to_owned(),
    }
}

async fn follow(ledger: Weak<Ledger>) {
    let mut looked = SystemTime::now();
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(ledger) = ledger.upgrade() else { return };
        if ledger.write().await.is_err() {
            tokio::time::sleep(4 * PAUSE).await;
            continue;
        }
        let lost = std::mem::take(&mut ledger.state().lost);
        if lost > 0 {
            tracing::error!(rows = lost, "the ledger is behind; rows are lost");
        }
        if ledger.store.kind() != "sqlite"
            && looked.elapsed().is_ok_and(|since| since > Duration::from_secs(20))
        {
            looked = SystemTime::now();
            if let Err(error) = ledger.store.settle_the_dead(now_ms() - DEAD_AFTER_MS, now_ms()).await {
                tracing::warn!(%error, "what dead processes left could not be settled");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
