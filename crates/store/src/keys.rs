//! Virtual keys and what callers show for them.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use crate::{Store, StoreError};

/// A virtual key. What it may do is written down as its owner's words; reading them is the caller's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Random; names the key in the API.
    pub id: String,
    /// Shown in logs and metrics.
    pub name: String,
    /// The first characters of the newest secret.
    pub prefix: String,
    /// Role names.
    pub roles: Vec<String>,
    /// What it may reach, as JSON.
    pub scope: Value,
    /// For whom it calls, as JSON.
    pub owner: Value,
    /// Words of its owner's choice.
    pub tags: BTreeMap<String, String>,
    /// What it may spend, as JSON.
    #[serde(default)]
    pub budget: Option<Value>,
    /// The principal that made it.
    pub created_by: String,
    /// Milliseconds since 1970, as all times here.
    pub created_ms: i64,
    /// The last change of anything but `used_ms`.
    pub updated_ms: i64,
    /// From then on it is not known any more.
    pub expires_ms: Option<i64>,
    /// Since then it is not known any more.
    pub revoked_ms: Option<i64>,
    /// The last request, as far as written down.
    pub used_ms: Option<i64>,
}

/// What a caller shows for a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// Its keyed hash, in hexadecimal.
    pub hash: String,
    /// The key's id.
    pub key_id: String,
    /// Good until then, after a rotation.
    pub until_ms: Option<i64>,
}

fn read(row: &AnyRow) -> Result<KeyRecord, StoreError> {
    let json = |column: &str| -> Result<String, sqlx::Error> { row.try_get(column) };
    let broken = |error: serde_json::Error| StoreError::Database(format!("a key's row: {error}"));
    Ok(KeyRecord {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        prefix: row.try_get("prefix")?,
        roles: serde_json::from_str(&json("roles")?).map_err(broken)?,
        scope: serde_json::from_str(&json("scope")?).map_err(broken)?,
        owner: serde_json::from_str(&json("owner")?).map_err(broken)?,
        tags: serde_json::from_str(&json("tags")?).map_err(broken)?,
        budget: optional(row, "budget")?,
        created_by: row.try_get("created_by")?,
        created_ms: row.try_get("created_ms")?,
        updated_ms: row.try_get("updated_ms")?,
        expires_ms: row.try_get("expires_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
        used_ms: row.try_get("used_ms")?,
    })
}

pub(crate) fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// JSON of a column that may be NULL.
pub(crate) fn optional(row: &AnyRow, column: &str) -> Result<Option<Value>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    let broken = |error: serde_json::Error| StoreError::Database(format!("the column {column}: {error}"));
    text.map(|text| serde_json::from_str(&text)).transpose().map_err(broken)
}

async fn insert_secret(connection: &mut AnyConnection, secret: &SecretRecord) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO key_secrets (hash, key_id, until_ms) VALUES ($1, $2, $3)")
        .bind(&secret.hash)
        .bind(&secret.key_id)
        .bind(secret.until_ms)
        .execute(connection)
        .await
        .map(drop)
}

impl Store {
    /// Adds a key with its first secret.
    pub async fn add_key(&self, key: &KeyRecord, secret: &SecretRecord) -> Result<(), StoreError> {
        let mut transaction = self.pool()?.begin().await?;
        sqlx::query(
            "INSERT INTO keys (id, name, prefix, roles, scope, owner, tags, created_by, created_ms, updated_ms, expires_ms,
             budget) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&key.id)
        .bind(&key.name)
        .bind(&key.prefix)
        .bind(text(&key.roles))
        .bind(text(&key.scope))
        .bind(text(&key.owner))
        .bind(text(&key.tags))
        .bind(&key.created_by)
        .bind(key.created_ms)
        .bind(key.updated_ms)
        .bind(key.expires_ms)
        .bind(key.budget.as_ref().map(text))
        .execute(&mut *transaction)
        .await?;
        insert_secret(&mut transaction, secret).await?;
        Ok(transaction.commit().await?)
    }

    /// Gives a key a new secret; those before are good until `grace_ms`.
    pub async fn rotate_key(
        &self,
        secret: &SecretRecord,
        prefix: &str,
        now_ms: i64,
        grace_ms: i64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool()?.begin().await?;
        sqlx::query(
            "UPDATE key_secrets SET until_ms = $1 WHERE key_id = $2 AND (until_ms IS NULL OR until_ms > $1)",
        )
        .bind(grace_ms)
        .bind(&secret.key_id)
        .execute(&mut *transaction)
        .await?;
        insert_secret(&mut transaction, secret).await?;
        sqlx::query("UPDATE keys SET prefix = $1, updated_ms = $2 WHERE id = $3")
            .bind(prefix)
            .bind(now_ms)
            .bind(&secret.key_id)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Writes what a key may, until when, and its tags, if nobody changed it since `seen_ms`. `false`: somebody did.
    pub async fn change_key(&self, key: &KeyRecord, seen_ms: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE keys SET roles = $1, scope = $2, tags = $3, expires_ms = $4, budget = $5, updated_ms = $6
             WHERE id = $7 AND updated_ms = $8 AND revoked_ms IS NULL",
        )
        .bind(text(&key.roles))
        .bind(text(&key.scope))
        .bind(text(&key.tags))
        .bind(key.expires_ms)
        .bind(key.budget.as_ref().map(text))
        .bind(key.updated_ms)
        .bind(&key.id)
        .bind(seen_ms)
        .execute(self.pool()?)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Takes a key back. `false`: there is none, or it was taken back before.
    pub async fn revoke_key(&self, id: &str, now_ms: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE keys SET revoked_ms = $1, updated_ms = $1 WHERE id = $2 AND revoked_ms IS NULL",
        )
        .bind(now_ms)
        .bind(id)
        .execute(self.pool()?)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Every key that was changed at `since_ms` or later, one after the other: there may be very many.
    pub async fn keys_since(&self, since_ms: i64, mut see: impl FnMut(KeyRecord)) -> Result<(), StoreError> {
        let mut rows = sqlx::query(concat!(
            "SELECT id, name, prefix, roles, scope, owner, tags, created_by, created_ms, updated_ms, expires_ms, ",
            "revoked_ms, used_ms, budget FROM keys WHERE updated_ms >= $1 ORDER BY created_ms, id"
        ))
        .bind(since_ms)
        .fetch(self.pool()?);
        while let Some(row) = rows.try_next().await? {
            see(read(&row)?);
        }
        Ok(())
    }

    /// What callers show for the keys that changed since a moment, one after the other.
    pub async fn secrets_since(
        &self,
        since_ms: i64,
        mut see: impl FnMut(SecretRecord),
    ) -> Result<(), StoreError> {
        let mut rows = sqlx::query(
            "SELECT s.hash, s.key_id, s.until_ms FROM key_secrets s JOIN keys k ON k.id = s.key_id
             WHERE k.updated_ms >= $1",
        )
        .bind(since_ms)
        .fetch(self.pool()?);
        while let Some(row) = rows.try_next().await? {
            see(SecretRecord { hash: row.try_get(0)?, key_id: row.try_get(1)?, until_ms: row.try_get(2)? });
        }
        Ok(())
    }

    /// Notes when keys were used last: `(id, milliseconds)`.
    pub async fn note_use(&self, used: &[(String, i64)]) -> Result<(), StoreError> {
        let mut transaction = self.pool()?.begin().await?;
        for (id, at) in used {
            sqlx::query("UPDATE keys SET used_ms = $1 WHERE id = $2 AND (used_ms IS NULL OR used_ms < $1)")
                .bind(at)
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}
