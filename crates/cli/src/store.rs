//! Opening the store and the audit log, and the first administrator.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use millgate_audit::{Audit, Settings};
use millgate_config::{Config, KeyMode, Role, Secret};
use millgate_observe::Metrics;
use millgate_secret::Master;
use millgate_server::{Counters, Kept, Keys, LastKnown, Ledger, Secrets};
use millgate_store::{Store, StoreError};

/// How long the command that gives the master key may take.
const MASTER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Opens the store that the configuration names, or the file in the data folder.
pub(crate) async fn open(config: &Config, data: &Path) -> Result<Store, StoreError> {
    match &config.store {
        Some(uri) => Store::open(uri.expose()).await,
        None => Store::open_file(&data.join("millgate.db")).await,
    }
}

/// Everything that outlives the process.
pub(crate) async fn kept(config: &Config, data: &Path, metrics: &Arc<Metrics>) -> anyhow::Result<Kept> {
    let pepper = pepper(config, data)?;
    let (store, last_known) = open_or_later(config, data, &pepper).await?;
    let last_known = last_known.as_ref();
    let max_age = config.access.last_known_max_age.0;
    let keys = Keys::load(store.clone(), &pepper, max_age, last_known).await?;
    keys.follow();
    if last_known.is_none() {
        first_admin(config, data, &keys).await?;
    }
    let settings = Settings {
        folder: data.join("audit"),
        segment_bytes: config.audit.max_segment.0,
        retention: config.audit.retention.map(|retention| retention.0),
    };
    let secret = audit_key(data)?;
    let opened = tokio::task::spawn_blocking(move || Audit::open(settings, &secret)).await?;
    let audit = opened.context(
        "the audit log cannot be opened; `millgate audit verify` looks at it, and one that was \
         changed must be moved aside before another begins",
    )?;
    let secrets = Secrets::open(store.clone(), master(config, data).await?, last_known).await?;
    LastKnown::follow(&keys, &secrets, data, &pepper);
    let ledger = Ledger::open(&keys, data, config.ledger.mode, last_known.is_some());
    let ledger = ledger.await.context("the ledger")?;
    ledger.follow();
    let shared = match &config.shared {
        Some(written) => {
            let counters = Counters::open(written, Arc::clone(&ledger), Arc::clone(metrics)).await?;
            counters.follow();
            Some(counters)
        }
        None => None,
    };
    Ok(Kept { keys, audit, store, secrets, ledger, shared })
}

/// Opens the store. Where that is a PostgreSQL that is away, and it is known what was there not long ago, the gateway begins with
/// that.
async fn open_or_later(
    config: &Config,
    data: &Path,
    pepper: &[u8],
) -> Result<(Store, Option<LastKnown>), StoreError> {
    let error = match (open(config, data).await, &config.store) {
        (Err(error @ StoreError::Database(_)), Some(uri)) if !uri.expose().starts_with("sqlite") => error,
        (opened, _) => return opened.map(|store| (store, None)),
    };
    let uri = config.store.as_ref().map(Secret::expose).unwrap_or_default();
    let Some(known) = LastKnown::read(data, pepper, config.access.last_known_max_age.0) else {
        return Err(error);
    };
    tracing::error!(
        %error,
        seconds_old = known.age().as_secs(),
        "the store cannot be reached: issued keys are those known last, and hard budgets admit nothing until it is back"
    );
    Ok((Store::open_later(uri)?, Some(known)))
}

/// What stored secrets and kept answers are encrypted with. Replicas that share a store must be given the same; without,
/// there is none for them.
async fn master(config: &Config, data: &Path) -> anyhow::Result<Option<Master>> {
    let secrets = &config.secrets;
    let previous: Vec<_> =
        secrets.previous_master_keys.iter().map(|key| key.expose().as_bytes().to_vec()).collect();
    let material = match (&secrets.master_key, &*secrets.master_key_command) {
        (Some(key), _) => key.expose().as_bytes().to_vec(),
        (None, [program, arguments @ ..]) => printed(program, arguments).await?,
        (None, []) => {
            let shared = config.store.as_ref().is_some_and(|uri| !uri.expose().starts_with("sqlite"));
            if shared {
                return Ok(None);
            }
            secret(&data.join("master-key")).context("the data folder's `master-key`")?
        }
    };
    Ok(Some(Master::new(&material, &previous)))
}

/// What a command prints, for a master key that a KMS holds.
async fn printed(program: &str, arguments: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(MASTER_PATIENCE, command.output())
        .await
        .context("`secrets.master_key_command` takes longer than 30 s")?
        .with_context(|| format!("`secrets.master_key_command`: {program} cannot be started"))?;
    if !output.status.success() {
        // What it says on standard output may be the key.
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("`secrets.master_key_command` ended with {}: {}", output.status, said.trim());
    }
    let key = output.stdout.trim_ascii().to_vec();
    if key.len() < 32 {
        anyhow::bail!("`secrets.master_key_command` printed less than 32 characters");
    }
    Ok(key)
}

/// What the audit log is bound with.
pub(crate) fn audit_key(data: &Path) -> anyhow::Result<Vec<u8>> {
    let file = data.join("audit-key");
    if !file.exists() && data.join("audit/head.json").exists() {
        // Another one would make the log look changed.
        anyhow::bail!("{} is gone: restore it from a backup, or move the audit log aside", file.display());
    }
    secret(&data.join("audit-key")).context("the data folder's `audit-key`")
}

/// What issued keys are hashed with.
fn pepper(config: &Config, data: &Path) -> anyhow::Result<Vec<u8>> {
    match &config.access.key_pepper {
        Some(pepper) => Ok(pepper.expose().as_bytes().to_vec()),
        None => secret(&data.join("key-pepper")).context("the data folder's `key-pepper`"),
    }
}

/// Where keys are required and nobody may administer, a first key is made and left in a file.
async fn first_admin(config: &Config, data: &Path, keys: &Keys) -> anyhow::Result<()> {
    let declared = config.access.declared.iter().any(|key| key.roles.contains(&Role::Admin));
    if config.access.keys == KeyMode::Required && !declared && !keys.has_admin() {
        let key = keys.issue_admin().await.map_err(|fault| anyhow::anyhow!("{fault}"))?;
        let file = data.join("first-admin-key");
        let mut out =
            private(&file, true).with_context(|| format!("{} cannot be written", file.display()))?;
        writeln!(out, "{key}")?;
        // Not into the log: logs are kept and read by others.
        tracing::warn!(
            file = %file.display(),
            "nobody could administer: a first admin key is in this file; take it and delete the file"
        );
    }
    Ok(())
}

/// A file for us alone.
fn private(file: &Path, truncate: bool) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(truncate).create_new(!truncate).mode(0o600);
    options.open(file)
}

/// A random secret in a file, made at the first start.
fn secret(file: &Path) -> std::io::Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(file)?.read_to_end(&mut bytes)?;
        if bytes.len() < 32 {
            return Err(std::io::Error::other(
                "it is too short: restore it, what was made with it depends on it",
            ));
        }
        Ok(bytes)
    };
    if file.exists() {
        return read();
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| std::io::Error::other("no random numbers"))?;
    match private(file, false).and_then(|mut out| {
        out.write_all(&bytes)?;
        out.sync_all()
    }) {
        Ok(()) => Ok(bytes.to_vec()),
        // Another process was first.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => read(),
        Err(error) => Err(error),
    }
}
