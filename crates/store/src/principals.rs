//! Teams and users.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::keys::{optional, text};
use crate::{Store, StoreError};

/// A team or a user. What they may do is written down as their owner's words; reading them is the caller's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalRecord {
    /// `team` or `user`.
    pub kind: String,
    /// Unique among its kind, for ever.
    pub name: String,
    /// A team's organisation, a user's team.
    pub parent: Option<String>,
    /// Role names.
    pub roles: Vec<String>,
    /// What may be reached, as JSON.
    pub scope: Value,
    /// Words of its owner's choice.
    pub tags: BTreeMap<String, String>,
    /// What may be spent by all of them together, as JSON.
    #[serde(default)]
    pub budget: Option<Value>,
    /// The principal that made it.
    pub created_by: String,
    /// When it was made.
    pub created_ms: i64,
    /// When it was changed last.
    pub updated_ms: i64,
    /// Since when nobody may call for it.
    pub disabled_ms: Option<i64>,
    /// Since when it is gone.
    pub removed_ms: Option<i64>,
}

fn read(row: &AnyRow) -> Result<PrincipalRecord, StoreError> {
    let json = |column: &str| -> Result<String, sqlx::Error> { row.try_get(column) };
    let broken = |error: serde_json::Error| StoreError::Database(format!("a principal's row: {error}"));
    Ok(PrincipalRecord {
        kind: row.try_get("kind")?,
        name: row.try_get("name")?,
        parent: row.try_get("parent")?,
        roles: serde_json::from_str(&json("roles")?).map_err(broken)?,
        scope: serde_json::from_str(&json("scope")?).map_err(broken)?,
        tags: serde_json::from_str(&json("tags")?).map_err(broken)?,
        budget: optional(row, "budget")?,
        created_by: row.try_get("created_by")?,
        created_ms: row.try_get("created_ms")?,
        updated_ms: row.try_get("updated_ms")?,
        disabled_ms: row.try_get("disabled_ms")?,
        removed_ms: row.try_get("removed_ms")?,
    })
}

impl Store {
    /// Adds a team or a user. An error where the name is there, or was.
    pub async fn add_principal(&self, record: &PrincipalRecord) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO principals (kind, name, parent, roles, scope, tags, created_by, created_ms, updated_ms,
             disabled_ms, removed_ms, budget) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&record.kind)
        .bind(&record.name)
        .bind(&record.parent)
        .bind(text(&record.roles))
        .bind(text(&record.scope))
        .bind(text(&record.tags))
        .bind(&record.created_by)
        .bind(record.created_ms)
        .bind(record.updated_ms)
        .bind(record.disabled_ms)
        .bind(record.removed_ms)
        .bind(record.budget.as_ref().map(text))
        .execute(self.pool()?)
        .await
        .map(drop)
        .map_err(StoreError::from)
    }

    /// Writes what a team or a user is now, if nobody changed it since `seen_ms`. `false`: somebody did, or it is gone.
    pub async fn change_principal(&self, record: &PrincipalRecord, seen_ms: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE principals SET parent = $1, roles = $2, scope = $3, tags = $4, updated_ms = $5, disabled_ms = $6,
             removed_ms = $7, budget = $8 WHERE kind = $9 AND name = $10 AND updated_ms = $11 AND removed_ms IS NULL",
        )
        .bind(&record.parent)
        .bind(text(&record.roles))
        .bind(text(&record.scope))
        .bind(text(&record.tags))
        .bind(record.updated_ms)
        .bind(record.disabled_ms)
        .bind(record.removed_ms)
        .bind(record.budget.as_ref().map(text))
        .bind(&record.kind)
        .bind(&record.name)
        .bind(seen_ms)
        .execute(self.pool()?)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Every team and user that was changed at `since_ms` or later, removed ones too.
    pub async fn principals_since(&self, since_ms: i64) -> Result<Vec<PrincipalRecord>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT kind, name, parent, roles, scope, tags, created_by, created_ms, updated_ms, disabled_ms, removed_ms, ",
            "budget FROM principals WHERE updated_ms >= $1 ORDER BY kind, name"
        ))
        .bind(since_ms)
        .fetch_all(self.pool()?)
        .await?;
        rows.iter().map(read).collect()
    }
}
