//! Browsers that are signed on. Asked on every request of one: the admin API alone takes them, and an end counts at
//! once everywhere.

use serde_json::Value;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::{Store, StoreError};

/// A browser that is signed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// A keyed hash, in hexadecimal.
    pub hash: String,
    /// The principal's name.
    pub principal: String,
    /// Who it is; reading that is the caller's business.
    pub person: Value,
    /// When it began.
    pub created_ms: i64,
    /// When it ends.
    pub expires_ms: i64,
}

fn read(row: &AnyRow) -> Result<SessionRecord, StoreError> {
    let person: String = row.try_get("person")?;
    let person = serde_json::from_str(&person);
    Ok(SessionRecord {
        hash: row.try_get("hash")?,
        principal: row.try_get("principal")?,
        person: person.map_err(|error| StoreError::Database(format!("a session's row: {error}")))?,
        created_ms: row.try_get("created_ms")?,
        expires_ms: row.try_get("expires_ms")?,
    })
}

impl Store {
    /// Adds a session; those that have ended are forgotten.
    pub async fn add_session(&self, session: &SessionRecord) -> Result<(), StoreError> {
        let mut transaction = self.pool()?.begin().await?;
        sqlx::query("DELETE FROM sessions WHERE expires_ms <= $1")
            .bind(session.created_ms)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO sessions (hash, principal, person, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&session.hash)
        .bind(&session.principal)
        .bind(session.person.to_string())
        .bind(session.created_ms)
        .bind(session.expires_ms)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// A session that has not ended.
    pub async fn session(&self, hash: &str, now_ms: i64) -> Result<Option<SessionRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT hash, principal, person, created_ms, expires_ms FROM sessions WHERE hash = $1 AND expires_ms > $2",
        )
        .bind(hash)
        .bind(now_ms)
        .fetch_optional(self.pool()?)
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// All sessions that have not ended, by their hashes.
    pub async fn sessions(&self, now_ms: i64) -> Result<Vec<SessionRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT hash, principal, person, created_ms, expires_ms FROM sessions WHERE expires_ms > $1 ORDER BY hash",
        )
        .bind(now_ms)
        .fetch_all(self.pool()?)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Ends a session.
    pub async fn end_session(&self, hash: &str) -> Result<(), StoreError> {
        let done = sqlx::query("DELETE FROM sessions WHERE hash = $1").bind(hash).execute(self.pool()?).await;
        Ok(done.map(drop)?)
    }
}
