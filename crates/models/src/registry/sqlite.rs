//! MLflow's database file, opened read-only for each question: no server is needed, and none is disturbed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millgate_types::{ModelRef, VersionSelector};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

use super::{Place, RegistryError, Resolved, join, locate, what};

pub(super) struct SqliteStore {
    registry: String,
    path: PathBuf,
}

impl SqliteStore {
    pub(super) fn new(registry: String, path: PathBuf) -> Self {
        Self { registry, path }
    }

    pub(super) fn failed(&self, error: &sqlx::Error) -> RegistryError {
        let reason = match error {
            sqlx::Error::Database(error) if error.message().contains("no such table") => {
                "the file is not an MLflow database".to_owned()
            }
            sqlx::Error::Database(error) => error.message().to_owned(),
            _ => "the database cannot be read".to_owned(),
        };
        RegistryError::Unreachable { registry: self.registry.clone(), reason }
    }

    pub(super) fn none(&self, what: String) -> RegistryError {
        RegistryError::NotFound { registry: self.registry.clone(), what }
    }

    pub(super) async fn open(&self) -> Result<SqliteConnection, RegistryError> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .read_only(true)
            .create_if_missing(false)
            .busy_timeout(Duration::from_secs(5));
        SqliteConnection::connect_with(&options).await.map_err(|error| self.failed(&error))
    }

    pub(super) async fn probe(&self) -> Result<(), RegistryError> {
        let mut database = self.open().await?;
        let found = sqlx::query("SELECT count(*) FROM registered_models").fetch_one(&mut database).await;
        found.map(drop).map_err(|error| self.failed(&error))
    }

    pub(super) async fn resolve(&self, model: &ModelRef) -> Result<Resolved, RegistryError> {
        let mut database = self.open().await?;
        let resolved = self.resolve_in(&mut database, model).await;
        let _ = database.close().await;
        resolved
    }

    async fn resolve_in(
        &self,
        database: &mut SqliteConnection,
        model: &ModelRef,
    ) -> Result<Resolved, RegistryError> {
        let failed = |error: sqlx::Error| self.failed(&error);
        let (name, selector) = match model {
            ModelRef::Registered { name, selector } => (name, selector),
            ModelRef::Logged(id) => {
                let uri = self.logged(database, id).await?.ok_or_else(|| self.none(what(model)))?;
                let place = self.place(&uri)?;
                return Ok(Resolved { version: id.clone(), identity: id.clone(), place });
            }
            ModelRef::Run { run_id, path } => {
                let row = sqlx::query("SELECT artifact_uri FROM runs WHERE run_uuid = ?")
                    .bind(run_id)
                    .fetch_optional(&mut *database)
                    .await
                    .map_err(failed)?
                    .ok_or_else(|| self.none(what(model)))?;
                let uri: String = row.try_get(0).map_err(failed)?;
                let (name, rest) = path.split_once('/').unwrap_or((path, ""));
                if let Some((id, uri)) = self.logged_by(database, run_id, name).await? {
                    let (place, identity) = (self.place(&join(&uri, rest))?, join(&id, rest));
                    return Ok(Resolved { version: run_id.clone(), identity, place });
                }
                let place = self.place(&format!("{uri}/{path}"))?;
                return Ok(Resolved { version: run_id.clone(), identity: format!("{run_id}/{path}"), place });
            }
            ModelRef::Path(_) => return Err(self.none(what(model))),
        };
        let row = self.version_row(database, name, selector).await.map_err(failed)?;
        let Some(row) = row else {
            let known = sqlx::query("SELECT 1 FROM registered_models WHERE name = ?")
                .bind(name)
                .fetch_optional(&mut *database)
                .await
                .map_err(failed)?;
            return Err(match known {
                Some(_) => self.none(what(model)),
                None => self.none(format!("model `{name}`")),
            });
        };
        let version: i64 = row.try_get("version").map_err(failed)?;
        let source: Option<String> = row.try_get("source").map_err(failed)?;
        let storage: Option<String> = row.try_get("storage_location").map_err(failed)?;
        let status: Option<String> = row.try_get("status").map_err(failed)?;
        let created: Option<i64> = row.try_get("creation_time").map_err(failed)?;
        if let Some(status) = status.filter(|status| status != "READY") {
            return Err(RegistryError::Refused {
                registry: self.registry.clone(),
                reason: format!("version {version} of model `{name}` is {status}"),
            });
        }
        let source = source.unwrap_or_default();
        let logged = match source.strip_prefix("models:/") {
            Some(id) => self.logged(database, id).await?,
            None => None,
        };
        let uri = logged.or(storage).unwrap_or_else(|| source.clone());
        Ok(Resolved {
            version: version.to_string(),
            identity: format!("{name}/{version}/{}/{source}", created.unwrap_or(0)),
            place: self.place(&uri)?,
        })
    }

    async fn version_row(
        &self,
        database: &mut SqliteConnection,
        name: &str,
        selector: &VersionSelector,
    ) -> Result<Option<SqliteRow>, sqlx::Error> {
        let query = match selector {
            VersionSelector::Version(version) => sqlx::query(
                "SELECT version, source, storage_location, status, creation_time FROM model_versions
                 WHERE name = ? AND version = ? AND current_stage != 'Deleted_Internal'",
            )
            .bind(name)
            .bind(*version as i64),
            VersionSelector::Latest => sqlx::query(
                "SELECT version, source, storage_location, status, creation_time FROM model_versions
                 WHERE name = ? AND current_stage != 'Deleted_Internal' ORDER BY version DESC LIMIT 1",
            )
            .bind(name),
            VersionSelector::Stage(stage) => sqlx::query(
                "SELECT version, source, storage_location, status, creation_time FROM model_versions
                 WHERE name = ? AND lower(current_stage) = lower(?) ORDER BY version DESC LIMIT 1",
            )
            .bind(name)
            .bind(stage),
            VersionSelector::Alias(alias) => sqlx::query(
                "SELECT v.version, v.source, v.storage_location, v.status, v.creation_time
                 FROM model_versions v JOIN registered_model_aliases a
                   ON a.name = v.name AND a.version = v.version
                 WHERE a.name = ? AND a.alias = ? AND v.current_stage != 'Deleted_Internal'",
            )
            .bind(name)
            .bind(alias),
        };
        query.fetch_optional(database).await
    }

    async fn logged(
        &self,
        database: &mut SqliteConnection,
        id: &str,
    ) -> Result<Option<String>, RegistryError> {
        let row = sqlx::query("SELECT artifact_location FROM logged_models WHERE model_id = ?")
            .bind(id)
            .fetch_optional(database)
            .await
            .map_err(|error| self.failed(&error))?;
        row.map(|row| row.try_get(0).map_err(|error| self.failed(&error))).transpose()
    }

    /// The newest model of this name that a run logged, and its address: MLflow 3 keeps models beside runs.
    async fn logged_by(
        &self,
        database: &mut SqliteConnection,
        run: &str,
        name: &str,
    ) -> Result<Option<(String, String)>, RegistryError> {
        let row = sqlx::query(
            "SELECT model_id, artifact_location FROM logged_models
             WHERE source_run_id = ? AND name = ? AND lifecycle_stage = 'active'
             ORDER BY creation_timestamp_ms DESC LIMIT 1",
        )
        .bind(run)
        .bind(name)
        .fetch_optional(database)
        .await;
        let row = match row {
            // A database of MLflow 2.
            Err(sqlx::Error::Database(error)) if error.message().contains("no such table") => None,
            other => other.map_err(|error| self.failed(&error))?,
        };
        let read = |row: SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
        row.map(read).transpose().map_err(|error: sqlx::Error| self.failed(&error))
    }

    /// Files named by a database lie on this machine: where the address says, or beside the database.
    /// A server with proxied artifacts writes `mlflow-artifacts:/...`; its default folder is `mlartifacts`.
    fn place(&self, uri: &str) -> Result<Place, RegistryError> {
        let beside = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let beside = beside.unwrap_or(Path::new("."));
        let found = match uri.strip_prefix("mlflow-artifacts:/") {
            Some(rest) => locate(&beside.join("mlartifacts"), rest.trim_start_matches('/')),
            None => locate(beside, uri),
        };
        found.map(Place::Folder).ok_or_else(|| {
            let scheme = uri.split(':').next().unwrap_or_default();
            let reason = if uri.starts_with("mlflow-artifacts:") {
                "the model's files are behind a tracking server; use its http:// address as registry"
                    .to_owned()
            } else if uri.contains("://") && scheme != "file" {
                format!(
                    "artifact store `{scheme}://` is not supported without a tracking server that proxies it"
                )
            } else {
                "the model's files are not on this machine".to_owned()
            };
            RegistryError::Refused { registry: self.registry.clone(), reason }
        })
    }
}
