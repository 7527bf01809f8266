//! Encrypted secrets by name. What encrypts them is the caller's business.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::{Store, StoreError};

/// A secret as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRow {
    /// What references say.
    pub name: String,
    /// Counts its values, from 1.
    pub version: i64,
    /// Which master key encrypted the data key.
    pub master: String,
    /// The encrypted data key.
    pub data_key: String,
    /// The encrypted value.
    pub value: String,
    /// Who set it.
    pub updated_by: String,
    /// Milliseconds since 1970.
    pub updated_ms: i64,
}

fn read(row: &AnyRow) -> Result<SecretRow, StoreError> {
    Ok(SecretRow {
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        master: row.try_get("master")?,
        data_key: row.try_get("data_key")?,
        value: row.try_get("value")?,
        updated_by: row.try_get("updated_by")?,
        updated_ms: row.try_get("updated_ms")?,
    })
}

impl Store {
    /// Sets a secret, new or known; gives its version.
    pub async fn set_secret(&self, secret: &SecretRow) -> Result<i64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO secrets (name, version, master, data_key, value, updated_by, updated_ms)
             VALUES ($1, 1, $2, $3, $4, $5, $6)
             ON CONFLICT (name) DO UPDATE SET version = secrets.version + 1, master = excluded.master,
             data_key = excluded.data_key, value = excluded.value, updated_by = excluded.updated_by,
             updated_ms = excluded.updated_ms RETURNING version",
        )
        .bind(&secret.name)
        .bind(&secret.master)
        .bind(&secret.data_key)
        .bind(&secret.value)
        .bind(&secret.updated_by)
        .bind(secret.updated_ms)
        .fetch_one(self.pool()?)
        .await?;
        Ok(row.try_get(0)?)
    }

    /// Puts a secret's data key under another master key, unless its value is another by now.
    pub async fn rewrap_secret(&self, secret: &SecretRow) -> Result<bool, StoreError> {
        let done =
            sqlx::query("UPDATE secrets SET master = $1, data_key = $2 WHERE name = $3 AND version = $4")
                .bind(&secret.master)
                .bind(&secret.data_key)
                .bind(&secret.name)
                .bind(secret.version)
                .execute(self.pool()?)
                .await?;
        Ok(done.rows_affected() > 0)
    }

    /// All secrets by name.
    pub async fn secrets(&self) -> Result<Vec<SecretRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM secrets ORDER BY name").fetch_all(self.pool()?).await?;
        rows.iter().map(read).collect()
    }

    /// Deletes a secret; `false`: there is none.
    pub async fn delete_secret(&self, name: &str) -> Result<bool, StoreError> {
        let done =
            sqlx::query("DELETE FROM secrets WHERE name = $1").bind(name).execute(self.pool()?).await?;
        Ok(done.rows_affected() > 0)
    }
}
