//! What changes at run time and must outlive the process: virtual keys, teams and users, browsers that are signed on, and
//! the ledger of what was spent. SQLite in the data folder by default, PostgreSQL
//! for several replicas; the same statements run on both. Nothing here is asked on the request path: callers hold what
//! they need in memory and write behind.

mod configs;
mod idempotent;
mod keys;
mod ledger;
mod many;
mod principals;
mod secrets;
mod sessions;
mod shared;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migrator};

pub use configs::ConfigVersion;
pub use idempotent::Began;
pub use keys::{KeyRecord, SecretRecord};
pub use ledger::{LedgerBatch, LedgerRow, SLOT_MS, Spender, UsageSum, Whose, sums};
pub use principals::PrincipalRecord;
pub use secrets::SecretRow;
pub use sessions::SessionRecord;
pub use shared::{Shared, SharedAnswer, SharedAsk, SharedCell, SharedKind};

/// How long a statement waits for a connection, and SQLite for a lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections to PostgreSQL.
const CONNECTIONS: u32 = 8;
/// Pause between two tries to reach a store that was away at the start.
const AGAIN: Duration = Duration::from_secs(1);

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Why the store could not do it. The text holds no address and no login.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or answered with an error.
    #[error("the store: {0}")]
    Database(String),
    /// Its schema is newer than this program, or was changed by hand.
    #[error("the store's schema: {0}")]
    Schema(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(match error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::PoolTimedOut => "no connection in time".to_owned(),
            // Its text may hold the address.
            sqlx::Error::Configuration(_) => "the address cannot be used".to_owned(),
            sqlx::Error::Io(error) => error.kind().to_string(),
            other => other.to_string(),
        })
    }
}

/// An open store.
#[derive(Clone, Debug)]
pub struct Store {
    pool: AnyPool,
    kind: &'static str,
    /// Its schema is up to date.
    ready: Arc<AtomicBool>,
}

impl Store {
    /// Opens the SQLite database `file`, made where it is missing.
    pub async fn open_file(file: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = file.parent() {
            private(folder).map_err(|error| StoreError::Database(error.kind().to_string()))?;
        }
        let path = file.to_str().ok_or_else(|| StoreError::Database("the path is not UTF-8".to_owned()))?;
        // Characters that mean something in a URI.
        let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        Self::open(&format!("sqlite://{path}?mode=rwc")).await
    }

    /// Opens `postgres://...` or `sqlite://...` and brings its schema up to date.
    pub async fn open(uri: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let kind = if uri.starts_with("sqlite:") { "sqlite" } else { "postgres" };
        // SQLite has one writer anyhow; a second connection would only wait for its lock.
        let connections = if kind == "sqlite" { 1 } else { CONNECTIONS };
        let options = AnyPoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE);
        let pool = options.connect(uri).await?;
        if kind == "sqlite" {
            sqlx::query("PRAGMA journal_mode = WAL").execute(&pool).await?;
            sqlx::query("PRAGMA synchronous = FULL").execute(&pool).await?;
            sqlx::query("PRAGMA foreign_keys = ON").execute(&pool).await?;
            sqlx::query("PRAGMA busy_timeout = 5000").execute(&pool).await?;
        }
        let migrated = MIGRATIONS.run(&pool).await;
        migrated.map_err(|error| StoreError::Schema(error.to_string()))?;
        Ok(Self { pool, kind, ready: Arc::new(AtomicBool::new(true)) })
    }

    /// Opens a PostgreSQL that cannot be reached now. Everything fails until it can and its schema is up to date; that is tried
    /// on the current runtime as long as somebody holds the store.
    pub fn open_later(uri: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let options = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
        let pool = options.connect_lazy(uri)?;
        let ready = Arc::new(AtomicBool::new(false));
        tokio::spawn(become_ready(pool.clone(), Arc::downgrade(&ready)));
        Ok(Self { pool, kind: "postgres", ready })
    }

    /// Where statements go. Error: it was never reached so far.
    fn pool(&self) -> Result<&AnyPool, StoreError> {
        if self.ready.load(Ordering::Acquire) {
            return Ok(&self.pool);
        }
        Err(StoreError::Database("it was not reached yet".to_owned()))
    }

    /// `sqlite` or `postgres`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Whether it answers.
    pub async fn probe(&self) -> Result<(), StoreError> {
        Ok(sqlx::query("SELECT 1").execute(self.pool()?).await.map(drop)?)
    }

    /// Ends all connections; what is under way is finished.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Brings the schema of a store up to date once it can be reached.
async fn become_ready(pool: AnyPool, ready: Weak<AtomicBool>) {
    let mut told = false;
    loop {
        let migrated = MIGRATIONS.run(&pool).await;
        let Some(ready) = ready.upgrade() else { return };
        match migrated {
            Ok(()) => return ready.store(true, Ordering::Release),
            Err(MigrateError::Execute(_)) => {}
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, "the store is there, but its schema is not ours");
                }
            }
        }
        drop(ready);
        tokio::time::sleep(AGAIN).await;
    }
}

/// A folder that only we may look into.
fn private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
