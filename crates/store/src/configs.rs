//! Configurations that were put to use, the newest last: who, when, why, and the text.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::{Store, StoreError};

/// Versions that are kept.
const KEPT: i64 = 1000;
/// Replicas may ask for the same number at once.
const ATTEMPTS: usize = 8;

/// One version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigVersion {
    /// Counts from 1.
    pub id: i64,
    /// SHA-256 of the text, in hexadecimal.
    pub digest: String,
    /// The text; `None` where it holds secrets in clear text, and in lists.
    pub text: Option<String>,
    /// `start`, `file`, `api` or `undo`.
    pub origin: String,
    /// Who did it; empty for a change of the file.
    pub principal: String,
    /// Why, in the words of who did it.
    pub reason: String,
    /// The version that it is again.
    pub restored: Option<i64>,
    /// Milliseconds since 1970.
    pub applied_ms: i64,
}

fn read(row: &AnyRow) -> Result<ConfigVersion, StoreError> {
    Ok(ConfigVersion {
        id: row.try_get("id")?,
        digest: row.try_get("digest")?,
        text: row.try_get("text")?,
        origin: row.try_get("origin")?,
        principal: row.try_get("principal")?,
        reason: row.try_get("reason")?,
        restored: row.try_get("restored")?,
        applied_ms: row.try_get("applied_ms")?,
    })
}

impl Store {
    /// Adds a version behind all others; its `id` is given. Gives that.
    pub async fn add_config(&self, version: &ConfigVersion) -> Result<i64, StoreError> {
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let row = sqlx::query(
                "INSERT INTO config_versions (id, digest, text, origin, principal, reason, restored, applied_ms)
                 SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5, $6, $7 FROM config_versions RETURNING id",
            )
            .bind(&version.digest)
            .bind(&version.text)
            .bind(&version.origin)
            .bind(&version.principal)
            .bind(&version.reason)
            .bind(version.restored)
            .bind(version.applied_ms)
            .fetch_one(self.pool()?)
            .await;
            match row {
                Ok(row) => {
                    let id: i64 = row.try_get(0)?;
                    let old = sqlx::query("DELETE FROM config_versions WHERE id <= $1").bind(id - KEPT);
                    old.execute(self.pool()?).await?;
                    return Ok(id);
                }
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                    failed = Some(sqlx::Error::Database(error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(failed.map_or_else(|| StoreError::Database("no number was free".to_owned()), StoreError::from))
    }

    /// Takes back a version that was not put to use after all.
    pub async fn remove_config(&self, id: i64) -> Result<(), StoreError> {
        Ok(sqlx::query("DELETE FROM config_versions WHERE id = $1")
            .bind(id)
            .execute(self.pool()?)
            .await
            .map(drop)?)
    }

    /// A version with its text.
    pub async fn config(&self, id: i64) -> Result<Option<ConfigVersion>, StoreError> {
        let row = sqlx::query("SELECT * FROM config_versions WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()?).await?.as_ref().map(read).transpose()
    }

    /// The newest version with its text.
    pub async fn last_config(&self) -> Result<Option<ConfigVersion>, StoreError> {
        let row = sqlx::query("SELECT * FROM config_versions ORDER BY id DESC LIMIT 1");
        row.fetch_optional(self.pool()?).await?.as_ref().map(read).transpose()
    }

    /// The newest version before `id` whose text is another than that of `digest`.
    pub async fn config_before(&self, id: i64, digest: &str) -> Result<Option<ConfigVersion>, StoreError> {
        let row = sqlx::query(
            "SELECT * FROM config_versions WHERE id < $1 AND digest <> $2 ORDER BY id DESC LIMIT 1",
        );
        row.bind(id).bind(digest).fetch_optional(self.pool()?).await?.as_ref().map(read).transpose()
    }

    /// At most `limit` versions with ids below `before`, the newest first, without their texts.
    pub async fn configs(&self, before: i64, limit: i64) -> Result<Vec<ConfigVersion>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, digest, CAST(NULL AS TEXT) AS text, origin, principal, reason, restored, applied_ms
             FROM config_versions WHERE id < $1 ORDER BY id DESC LIMIT $2",
        );
        rows.bind(before).bind(limit).fetch_all(self.pool()?).await?.iter().map(read).collect()
    }
}
