//! What was last known of a store that replicas share, sealed in a file of the data folder: a process that starts while the
//! store is away begins with it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use millgate_store::{KeyRecord, PrincipalRecord, SecretRecord, SecretRow};
use serde::{Deserialize, Serialize};

use crate::keys::now_ms;
use crate::seal::Seal;
use crate::{Keys, Secrets};

/// The file's name.
const FILE: &str = "store-last-known";
/// Pause between two looks for something new.
const LOOK: Duration = Duration::from_secs(5);
/// The file is written again after this also where nothing is new: its age counts.
const RENEW: Duration = Duration::from_mins(10);

/// Issued keys, teams and users, and stored secrets, as they are in the store.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct LastKnown {
    /// When the store was read, in milliseconds since 1970.
    pub(crate) read_ms: i64,
    pub(crate) keys: Vec<KeyRecord>,
    pub(crate) shown: Vec<SecretRecord>,
    pub(crate) principals: Vec<PrincipalRecord>,
    /// Encrypted by the master key, as in the store.
    pub(crate) secrets: Vec<SecretRow>,
}

impl LastKnown {
    /// Reads what a process before left in a data folder. `None`: nothing, or nothing that was sealed with this pepper, or it
    /// is older than `max_age`.
    #[must_use]
    pub fn read(data: &Path, pepper: &[u8], max_age: Duration) -> Option<Self> {
        let text = std::fs::read_to_string(data.join(FILE)).ok()?;
        let known: Self = seal(pepper)?.open(&text)?;
        (now_ms() - known.read_ms < millis(max_age)).then_some(known)
    }

    /// How long ago the store was read.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(u64::try_from(now_ms() - self.read_ms).unwrap_or(0))
    }

    /// Writes it whole, for us alone.
    fn write(&self, data: &Path, seal: &Seal) -> std::io::Result<()> {
        let text = seal.close(self).ok_or_else(|| std::io::Error::other("it cannot be sealed"))?;
        let fresh = data.join(format!("{FILE}.new"));
        let mut file =
            std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(fresh, data.join(FILE))
    }

    /// Keeps the file of a data folder up to date, as long as somebody holds the keys.
    pub fn follow(keys: &Arc<Keys>, secrets: &Arc<Secrets>, data: &Path, pepper: &[u8]) {
        // Nobody else writes SQLite's file, and it is as near as ours.
        if keys.store().kind() == "sqlite" {
            return;
        }
        if let Some(seal) = seal(pepper) {
            let (keys, secrets) = (Arc::downgrade(keys), Arc::downgrade(secrets));
            tokio::spawn(follow(keys, secrets, data.to_owned(), Arc::new(seal)));
        }
    }
}

async fn follow(keys: Weak<Keys>, secrets: Weak<Secrets>, data: PathBuf, seal: Arc<Seal>) {
    let (mut written, mut at, mut failing) = (None, Instant::now(), false);
    while let Some((keys, secrets)) = keys.upgrade().zip(secrets.upgrade()) {
        let rows = secrets.rows().await;
        let state = (keys.generation(), secrets.generation());
        drop(secrets);
        if !keys.is_fresh() || (written == Some(state) && at.elapsed() < RENEW) {
            drop(keys);
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let (seal, data) = (Arc::clone(&seal), data.clone());
        let write = move || keys.last_known(Vec::clone(&rows)).write(&data, &seal);
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => (written, at, failing) = (Some(state), Instant::now(), false),
            Ok(Err(error)) if !failing => {
                failing = true;
                tracing::error!(%error, "a start without the store will not be possible: {FILE} cannot be written");
            }
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn seal(pepper: &[u8]) -> Option<Seal> {
    let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, pepper), b"what was last known of the store");
    Seal::new(key.as_ref().try_into().ok()?)
}

/// In whole milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
