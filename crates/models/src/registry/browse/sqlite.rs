//! The database file.

use std::collections::BTreeMap;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

use super::super::RegistryError;
use super::super::sqlite::SqliteStore;
use super::{ModelVersion, RegisteredModel};

/// Tags and the like, by what they belong to.
type Pairs = BTreeMap<String, BTreeMap<String, String>>;

impl SqliteStore {
    /// All models.
    pub(super) async fn models(&self) -> Result<Vec<RegisteredModel>, RegistryError> {
        let mut database = self.open().await?;
        let models = read_models(&mut database).await.map_err(|error| self.failed(&error));
        let _ = database.close().await;
        models
    }

    pub(super) async fn model(
        &self,
        name: &str,
    ) -> Result<(RegisteredModel, Vec<ModelVersion>), RegistryError> {
        let mut database = self.open().await?;
        let read = async {
            let models = read_models(&mut database).await?;
            let model = models.into_iter().find(|model| model.name == name);
            let versions = read_versions(&mut database, name).await?;
            Ok((model, versions))
        };
        let read = read.await.map_err(|error| self.failed(&error));
        let _ = database.close().await;
        let (model, versions) = read?;
        Ok((model.ok_or_else(|| self.none(format!("model `{name}`")))?, versions))
    }
}

async fn read_models(database: &mut SqliteConnection) -> Result<Vec<RegisteredModel>, sqlx::Error> {
    let rows = sqlx::query("SELECT name, key, value FROM registered_model_tags");
    let mut tags = pairs(rows.fetch_all(&mut *database).await?)?;
    let rows = sqlx::query("SELECT name, alias, CAST(version AS TEXT) FROM registered_model_aliases");
    let mut aliases = pairs(rows.fetch_all(&mut *database).await?)?;
    let rows = sqlx::query(
        "SELECT m.name, m.description, m.creation_time, m.last_updated_time,
           (SELECT max(v.version) FROM model_versions v
            WHERE v.name = m.name AND v.current_stage != 'Deleted_Internal')
         FROM registered_models m",
    );
    let read = |row: SqliteRow| {
        let name: String = row.try_get(0)?;
        Ok(RegisteredModel {
            description: row.try_get::<Option<String>, _>(1)?.filter(|text| !text.is_empty()),
            created_ms: time(&row, 2)?,
            updated_ms: time(&row, 3)?,
            tags: tags.remove(&name).unwrap_or_default(),
            aliases: aliases.remove(&name).unwrap_or_default(),
            latest_version: row.try_get::<Option<i64>, _>(4)?.map(|version| version.to_string()),
            name,
        })
    };
    rows.fetch_all(database).await?.into_iter().map(read).collect()
}

async fn read_versions(
    database: &mut SqliteConnection,
    name: &str,
) -> Result<Vec<ModelVersion>, sqlx::Error> {
    let rows = sqlx::query("SELECT CAST(version AS TEXT), key, value FROM model_version_tags WHERE name = ?");
    let mut tags = pairs(rows.bind(name).fetch_all(&mut *database).await?)?;
    let rows = sqlx::query(
        "SELECT CAST(version AS TEXT), current_stage, status, description, run_id, source, creation_time,
           last_updated_time
         FROM model_versions WHERE name = ? AND current_stage != 'Deleted_Internal'",
    );
    let read = |row: SqliteRow| {
        let version: String = row.try_get(0)?;
        let text = |column: usize| {
            row.try_get::<Option<String>, _>(column).map(|text| text.filter(|text| !text.is_empty()))
        };
        Ok(ModelVersion {
            stage: text(1)?,
            status: text(2)?,
            aliases: Vec::new(),
            description: text(3)?,
            run_id: text(4)?,
            source: text(5)?,
            created_ms: time(&row, 6)?,
            updated_ms: time(&row, 7)?,
            tags: tags.remove(&version).unwrap_or_default(),
            version,
        })
    };
    rows.bind(name).fetch_all(database).await?.into_iter().map(read).collect()
}

fn time(row: &SqliteRow, column: usize) -> Result<Option<u64>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.and_then(|time| u64::try_from(time).ok()))
}

fn pairs(rows: Vec<SqliteRow>) -> Result<Pairs, sqlx::Error> {
    let mut found: Pairs = BTreeMap::new();
    for row in rows {
        let value: Option<String> = row.try_get(2)?;
        found.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, value.unwrap_or_default());
    }
    Ok(found)
}
