//! Requests that may come twice and are done once.

use sqlx::Row as _;

use crate::{Store, StoreError};

/// A request that began before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Began {
    /// The digest of its body.
    pub body: String,
    /// Its answer, encrypted (master key, data key, value); `None` while it is under way.
    pub answer: Option<[String; 3]>,
}

impl Store {
    /// Begins the request `id`; `Ok(Some(_))`: it began before, at `since_ms` or later.
    pub async fn begin(
        &self,
        id: &str,
        body: &str,
        now_ms: i64,
        since_ms: i64,
    ) -> Result<Option<Began>, StoreError> {
        sqlx::query("DELETE FROM idempotent WHERE began_ms < $1")
            .bind(since_ms)
            .execute(self.pool()?)
            .await?;
        let begun = sqlx::query(
            "INSERT INTO idempotent (id, body, began_ms) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
        );
        let begun = begun.bind(id).bind(body).bind(now_ms).execute(self.pool()?).await?;
        if begun.rows_affected() > 0 {
            return Ok(None);
        }
        let row = sqlx::query("SELECT body, master, data_key, answer FROM idempotent WHERE id = $1").bind(id);
        // Gone in between: it failed, and may be tried again.
        let Some(row) = row.fetch_optional(self.pool()?).await? else {
            return Err(StoreError::Database("the same request ended just now".to_owned()));
        };
        let [master, data_key, answer]: [Option<String>; 3] =
            [row.try_get("master")?, row.try_get("data_key")?, row.try_get("answer")?];
        let answer = master.zip(data_key).zip(answer).map(|((master, key), answer)| [master, key, answer]);
        Ok(Some(Began { body: row.try_get("body")?, answer }))
    }

    /// Keeps the answer of the request `id`.
    pub async fn ended(&self, id: &str, answer: &[String; 3]) -> Result<(), StoreError> {
        let [master, data_key, value] = answer;
        let done = sqlx::query("UPDATE idempotent SET master = $1, data_key = $2, answer = $3 WHERE id = $4");
        Ok(done.bind(master).bind(data_key).bind(value).bind(id).execute(self.pool()?).await.map(drop)?)
    }

    /// Forgets the request `id`: nothing was done.
    pub async fn forget(&self, id: &str) -> Result<(), StoreError> {
        Ok(sqlx::query("DELETE FROM idempotent WHERE id = $1")
            .bind(id)
            .execute(self.pool()?)
            .await
            .map(drop)?)
    }
}
