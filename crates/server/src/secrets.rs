//! Secrets that configurations refer to: those of the gateway's own store, encrypted, and those of Vault. A document is
//! read twice: the first time tells which references it holds, the second gets their values.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use millgate_config::{Kept, Loaded, Problem, Severity, Values, VaultConfig, load_with};
use millgate_secret::{Master, Sealed, Vault};
use millgate_store::{SecretRow, Store, StoreError};
use tokio::sync::Mutex;

use crate::LastKnown;
use crate::keys::now_ms;

/// The store's secrets and Vault's.
pub struct Secrets {
    store: Store,
    master: Option<Master>,
    /// As they were read last.
    rows: ArcSwap<Vec<SecretRow>>,
    changes: AtomicU64,
    vault: Mutex<Option<Arc<Vault>>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("master", &self.master).finish_non_exhaustive()
    }
}

/// What a value is bound to.
fn context(name: &str) -> String {
    format!("millgate secret {name}")
}

fn sealed(row: &SecretRow) -> Sealed {
    Sealed { master: row.master.clone(), data_key: row.data_key.clone(), value: row.value.clone() }
}

impl Secrets {
    /// Opens the store's secrets; what a master key of before encrypted is put under the present one. Without a master key
    /// none can be set or read. Where the store is away, they are those that were `last_known`.
    pub async fn open(
        store: Store,
        master: Option<Master>,
        last_known: Option<&LastKnown>,
    ) -> Result<Arc<Self>, StoreError> {
        let rows = match last_known {
            Some(last) => last.secrets.clone(),
            None => store.secrets().await?,
        };
        if let (Some(master), None) = (&master, last_known) {
            let mut moved = 0;
            for row in rows.clone() {
                match master.rewrap(&context(&row.name), &sealed(&row)) {
                    Ok(None) => {}
                    Ok(Some(fresh)) => {
                        let row = SecretRow { master: fresh.master, data_key: fresh.data_key, ..row };
                        moved += usize::from(store.rewrap_secret(&row).await?);
                    }
                    Err(error) => tracing::error!(name = row.name, %error, "a stored secret cannot be read"),
                }
            }
            if moved > 0 {
                tracing::info!(
                    moved,
                    master = master.id(),
                    "stored secrets are under the present master key"
                );
            }
        }
        let (rows, changes) = (ArcSwap::from_pointee(rows), AtomicU64::new(0));
        Ok(Arc::new(Self { store, master, rows, changes, vault: Mutex::default() }))
    }

    /// How often a change was seen.
    pub(crate) fn generation(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// All of them; those that were read last while the store is away.
    pub(crate) async fn rows(&self) -> Arc<Vec<SecretRow>> {
        if let Ok(rows) = self.store.secrets().await
            && rows != **self.rows.load()
        {
            self.rows.store(Arc::new(rows));
            self.changes.fetch_add(1, Relaxed);
        }
        self.rows.load_full()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn master(&self) -> Option<&Master> {
        self.master.as_ref()
    }

    /// Sets a secret; gives what is kept of it. `None`: there is no master key.
    pub(crate) async fn set(
        &self,
        name: &str,
        value: &str,
        by: &str,
    ) -> Option<Result<SecretRow, StoreError>> {
        let sealed = match self.master.as_ref()?.seal(&context(name), value.as_bytes()) {
            Ok(sealed) => sealed,
            Err(error) => return Some(Err(StoreError::Database(error.to_string()))),
        };
        let row = SecretRow {
            name: name.to_owned(),
            version: 0,
            master: sealed.master,
            data_key: sealed.data_key,
            value: sealed.value,
            updated_by: by.to_owned(),
            updated_ms: now_ms(),
        };
        Some(self.store.set_secret(&row).await.map(|version| SecretRow { version, ..row }))
    }

    /// Reads a document with the present values of its references.
    pub async fn load(&self, text: &str) -> Result<Loaded, Vec<Problem>> {
        let first = blocking(text, Values::placeholders()).await?;
        let references: BTreeSet<_> = first.references().map(str::to_owned).collect();
        let kept = |reference: &&String| Kept::parse(reference).is_some();
        if !references.iter().any(|reference| kept(&reference)) {
            return Ok(first);
        }
        let values = self.values(references.iter().filter(kept), first.config.secrets.vault.as_ref()).await;
        blocking(text, values).await
    }

    async fn values(&self, references: impl Iterator<Item = &String>, vault: Option<&VaultConfig>) -> Values {
        let mut values = Values::default();
        let mut stored = None;
        for reference in references {
            let value = match Kept::parse(reference) {
                Some(Ok(Kept::Stored(name))) => {
                    if stored.is_none() {
                        stored = Some(self.rows().await);
                    }
                    self.stored(name, stored.as_deref().map_or(&[], Vec::as_slice))
                }
                Some(Ok(Kept::Vault { path, field })) => match self.vault(vault).await {
                    Ok(vault) => vault.field(path, field).await.map_err(|error| error.to_string()),
                    Err(reason) => Err(reason),
                },
                Some(Err(reason)) => Err(reason),
                None => continue,
            };
            values.insert(reference.as_str(), value);
        }
        values
    }

    fn stored(&self, name: &str, rows: &[SecretRow]) -> Result<String, String> {
        let row = rows.iter().find(|row| row.name == name).ok_or_else(|| {
            format!("no secret `{name}` is stored; set it with `millgate secrets set {name}`")
        })?;
        let master = self.master.as_ref().ok_or("no `secrets.master_key` is set to read it with")?;
        let plain = master.open(&context(name), &sealed(row)).map_err(|error| error.to_string())?;
        String::from_utf8(plain).map_err(|_| "it is not text".to_owned())
    }

    async fn vault(&self, config: Option<&VaultConfig>) -> Result<Arc<Vault>, String> {
        let config = config.ok_or("`secrets.vault` says nothing of a Vault")?;
        let mut kept = self.vault.lock().await;
        if let Some(known) = kept.as_ref().filter(|known| known.is_for(config)) {
            return Ok(Arc::clone(known));
        }
        let opened = Arc::new(Vault::new(config).map_err(|error| error.to_string())?);
        *kept = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// Reads a document on the blocking pool: it may name files.
pub(crate) async fn blocking(text: &str, values: Values) -> Result<Loaded, Vec<Problem>> {
    let text = text.to_owned();
    let read = tokio::task::spawn_blocking(move || load_with(&text, &values)).await;
    read.unwrap_or_else(|_| {
        let reason = "reading it failed; the log knows more".to_owned();
        let (path, hint) = (String::new(), String::new());
        Err(vec![Problem { severity: Severity::Error, line: 0, column: 0, path, reason, hint }])
    })
}
