//! Following the configuration file: its folder is watched, its content is compared every second as well (some
//! file systems tell nothing), and SIGHUP asks at once. All or nothing: a document with a problem changes
//! nothing but a log line and a gauge.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use notify::Watcher as _;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::Gateway;

/// How often the file's content is compared.
const POLL: Duration = Duration::from_secs(1);
/// How long changed content must stay the same before it is used.
const SETTLE: Duration = Duration::from_millis(50);

/// The file that holds the configuration.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    path: PathBuf,
}

impl ConfigSource {
    /// A file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path as the user wrote it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its text.
    pub fn read(&self) -> std::io::Result<String> {
        std::fs::read_to_string(&self.path)
    }
}

/// Applies changes of the file to a gateway.
pub struct Reloader {
    asked: Arc<Notify>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Reloader {
    /// Keeps `serving`, the text that the gateway serves now, as its document, and starts following `source` on the
    /// current runtime.
    pub async fn start(gateway: Arc<Gateway>, source: ConfigSource, serving: &str) -> Self {
        gateway.keep_document(Some(source.clone()), serving).await;
        let watched = Arc::clone(&gateway);
        let asked = Arc::new(Notify::new());
        let watcher = watch(&source, &asked);
        if watcher.is_none() {
            tracing::warn!("the configuration's folder cannot be watched; changes are seen within a second");
        }
        let mut seen = digest(serving);
        let wake = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let _polled = tokio::time::timeout(POLL, wake.notified()).await;
                // A file that is away for a moment is being replaced.
                let Ok(mut text) = source.read() else { continue };
                while digest(&text) != seen {
                    // Editors write in steps: what counts is what stays.
                    tokio::time::sleep(SETTLE).await;
                    let again = source.read().unwrap_or_default();
                    if again == text {
                        break;
                    }
                    text = again;
                }
                let found = digest(&text);
                if found != seen && !text.is_empty() {
                    seen = found;
                    if let Some(documents) = gateway.documents() {
                        documents.follow(&gateway, &text).await;
                    }
                }
            }
        });
        tokio::spawn(refresh(Arc::downgrade(&watched)));
        Self { asked, _watcher: watcher }
    }

    /// Looks at the file now (SIGHUP).
    pub fn ask(&self) {
        self.asked.notify_one();
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Editors replace files by renaming, so the folder is watched, not the file.
fn watch(source: &ConfigSource, asked: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let folder = source.path().parent().filter(|folder| !folder.as_os_str().is_empty());
    let asked = Arc::clone(asked);
    let name = source.path().file_name()?.to_owned();
    // A log may be written beside it, some times a second. Kubernetes swaps the links `..data` and `..DATE`.
    let concerns = move |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default();
        file == name || file.as_encoded_bytes().starts_with(b"..")
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too: without this filter every look would ask for the next one.
        let other = |event: notify::Event| event.kind.is_access() || !event.paths.iter().any(&concerns);
        if !event.is_ok_and(other) {
            asked.notify_one();
        }
    })
    .ok()?;
    watcher.watch(folder.unwrap_or(Path::new(".")), notify::RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Looks for other values of what the configuration refers to: files (a mounted folder's are swapped by a link), stored
/// secrets that another replica set, those of Vault.
async fn refresh(gateway: Weak<Gateway>) {
    let mut failing = false;
    loop {
        let Some(gateway) = gateway.upgrade() else { return };
        let Some(documents) = gateway.documents() else { return };
        match documents.refresh(&gateway).await {
            Ok(_) => failing = false,
            Err(fault) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%fault, "a secret cannot be read again; the last ones are used");
                }
            }
        }
        drop(gateway);
        tokio::time::sleep(POLL).await;
    }
}
