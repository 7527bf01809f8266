//! The configuration's text: which one is served, how it came, and how it is replaced. Every way of changing it (the
//! file by hand, the admin API, going back) ends in [`Documents::put`], one at a time: checked, written down, swapped
//! in whole, or nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use millgate_config::{Loaded, Problem, Severity, Values};
use millgate_store::{ConfigVersion, Store};
use millgate_types::{Fault, FieldError, code};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::keys::{now_ms, unavailable};
use crate::{ConfigSource, Gateway, secrets};

/// The text that is served.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) text: String,
    /// SHA-256 of the text, in hexadecimal.
    pub(crate) digest: String,
    /// Its place in the history; `None` while it could not be written down.
    pub(crate) version: Option<i64>,
}

/// Where the configuration comes from, and its history.
pub(crate) struct Documents {
    store: Option<Store>,
    file: Option<ConfigSource>,
    served: ArcSwap<Served>,
    /// One change at a time.
    changing: Mutex<()>,
}

/// A text that is to be served.
pub(crate) struct NewText {
    pub(crate) text: String,
    /// `api` or `undo`.
    pub(crate) origin: &'static str,
    pub(crate) principal: String,
    pub(crate) reason: String,
    /// The version that it is again.
    pub(crate) restored: Option<i64>,
    /// Only if this is what is served now.
    pub(crate) expected: Option<Vec<String>>,
    /// Also if the file holds something that is not served.
    pub(crate) overwrite: bool,
}

/// What became of it.
pub(crate) struct Put {
    pub(crate) served: Arc<Served>,
    pub(crate) generation: u64,
    pub(crate) warnings: Vec<Problem>,
}

/// SHA-256 in hexadecimal.
pub(crate) fn digest(text: &str) -> String {
    millgate_types::hex(&Sha256::digest(text.as_bytes()))
}

impl Documents {
    /// `text` is served; it is written down where it is not what the history ends with.
    pub(crate) async fn new(store: Option<Store>, file: Option<ConfigSource>, text: &str) -> Self {
        let served = Served { text: text.to_owned(), digest: digest(text), version: None };
        let documents = Self { store, file, served: ArcSwap::from_pointee(served), changing: Mutex::new(()) };
        documents.note(None).await;
        documents
    }

    /// The file that the gateway was started from.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(ConfigSource::path)
    }

    pub(crate) fn served(&self) -> Arc<Served> {
        self.served.load_full()
    }

    /// Where the history is. Fault: `not_implemented`.
    pub(crate) fn store(&self) -> Result<&Store, Fault> {
        let none = || Fault::client(code::NOT_IMPLEMENTED, "this gateway keeps no store, and so no history");
        self.store.as_ref().ok_or_else(none)
    }

    /// Notes the text that is served as a version, if it is not the last one.
    async fn note(&self, loaded: Option<&Loaded>) {
        let Some(store) = &self.store else { return };
        let served = self.served();
        let noted = async {
            let last = store.last_config().await?;
            if let Some(last) = last.as_ref().filter(|last| last.digest == served.digest) {
                return Ok(last.id);
            }
            let text = match loaded {
                Some(loaded) => kept(loaded, &served.text),
                None => {
                    millgate_config::load(&served.text).ok().and_then(|loaded| kept(&loaded, &served.text))
                }
            };
            let origin = if last.is_none() { "start" } else { "file" };
            let version = ConfigVersion {
                digest: served.digest.clone(),
                text,
                origin: origin.to_owned(),
                applied_ms: now_ms(),
                ..ConfigVersion::default()
            };
            store.add_config(&version).await
        };
        match noted.await {
            Ok(id) => {
                self.served.store(Arc::new(Served { version: Some(id), ..Served::clone(&served) }));
            }
            Err(error) => tracing::warn!(%error, "the configuration is not written down in the history"),
        }
    }

    /// The file was changed by hand. What it holds is served if it can be.
    pub(crate) async fn follow(&self, gateway: &Arc<Gateway>, text: &str) {
        let _one = self.changing.lock().await;
        // Whoever held the lock may have replaced it meanwhile: what it holds now comes with the next look.
        let stale = |file: &ConfigSource| file.read().is_ok_and(|now| now != text);
        if self.file.as_ref().is_some_and(stale) {
            return;
        }
        if digest(text) == self.served().digest {
            // We wrote it ourselves, or somebody went back to what is served.
            gateway.metrics.config_reload_failed.set(0);
            return;
        }
        let file = self.file().unwrap_or(Path::new("")).display().to_string();
        let loaded = match load(gateway, text).await {
            Ok(loaded) => Arc::new(loaded),
            Err(problems) => {
                gateway.metrics.config_reload_failed.set(1);
                for problem in &problems {
                    tracing::error!("{}", problem.in_file(&file));
                }
                tracing::error!(file, "the new configuration is not used; the old one keeps serving");
                return;
            }
        };
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.in_file(&file));
        }
        let applied = swap(gateway, &loaded, || Ok(())).await;
        gateway.metrics.config_reload_failed.set(i64::from(applied.is_err()));
        match applied {
            Ok(generation) => {
                let served = Served { text: text.to_owned(), digest: digest(text), version: None };
                self.served.store(Arc::new(served));
                self.note(Some(&loaded)).await;
                tracing::info!(file, generation, "serving the new configuration");
            }
            Err(error) => {
                let error = error.cause.map_or(error.public.into_owned(), |cause| cause.to_string());
                tracing::error!(file, error, "the new configuration is not used; the old one keeps serving");
            }
        }
    }

    /// Looks whether a value that the text refers to is another by now, and serves the text with that. What cannot be
    /// looked up now stays as it was. Gives whether something changed.
    pub(crate) async fn refresh(&self, gateway: &Arc<Gateway>) -> Result<bool, Fault> {
        if gateway.snapshot().config.fingerprint == 0 {
            return Ok(false);
        }
        let _one = self.changing.lock().await;
        let served = self.served();
        let loaded = Arc::new(load(gateway, &served.text).await.map_err(invalid)?);
        if loaded.config.fingerprint == gateway.snapshot().config.fingerprint {
            return Ok(false);
        }
        let generation = swap(gateway, &loaded, || Ok(())).await?;
        tracing::info!(generation, "a secret has another value: it is used from now on");
        Ok(true)
    }

    /// Serves another text, and writes it to the file. On a fault nothing has changed. Faults: `invalid_config`,
    /// `precondition_failed`, `config_conflict`, `config_not_writable`, `dependency_unavailable`.
    pub(crate) async fn put(&self, gateway: &Arc<Gateway>, new: NewText) -> Result<Put, Fault> {
        let _one = self.changing.lock().await;
        let served = self.served();
        if new.expected.as_ref().is_some_and(|tags| !tags.contains(&served.digest)) {
            return Err(Fault::client(code::PRECONDITION_FAILED, "another configuration is served by now"));
        }
        let Some(file) = &self.file else {
            let text = "the gateway was not started from a file: there is nowhere to write the configuration";
            return Err(Fault::client(code::CONFIG_NOT_WRITABLE, text));
        };
        let store = self.store()?.clone();
        let found = file.read().map_err(|error| not_writable(&error))?;
        if found != served.text && !new.overwrite {
            let text = "the file was changed by hand and its content is not served; `overwrite` replaces it all the same";
            return Err(Fault::client(code::CONFIG_CONFLICT, text));
        }
        let loaded = Arc::new(load(gateway, &new.text).await.map_err(invalid)?);
        if loaded.has_mask() {
            let text = "`***` stands where a secret was: write a reference, `env:NAME` or `file:PATH`";
            return Err(Fault::client(code::INVALID_CONFIG, text));
        }
        let version = ConfigVersion {
            digest: digest(&new.text),
            text: kept(&loaded, &new.text),
            origin: new.origin.to_owned(),
            principal: new.principal,
            reason: new.reason,
            restored: new.restored,
            applied_ms: now_ms(),
            ..ConfigVersion::default()
        };
        let (path, text) = (file.path().to_owned(), new.text.clone());
        let control = tokio::runtime::Handle::current();
        let (told, mut id) = tokio::sync::oneshot::channel();
        let commit = move || {
            let written = Written::beside(&path, &text).map_err(|error| not_writable(&error))?;
            let id = control.block_on(store.add_config(&version)).map_err(unavailable)?;
            if let Err(error) = written.put() {
                let _logged = control.block_on(store.remove_config(id));
                return Err(not_writable(&error));
            }
            let _received = told.send(id);
            Ok(())
        };
        let generation = swap(gateway, &loaded, commit).await?;
        gateway.metrics.config_reload_failed.set(0);
        let digest = digest(&new.text);
        let served = Arc::new(Served { text: new.text, digest, version: id.try_recv().ok() });
        self.served.store(Arc::clone(&served));
        let warnings = loaded.warnings.clone();
        Ok(Put { served, generation, warnings })
    }
}

/// What of a text goes into the history: no secret does.
fn kept(loaded: &Loaded, text: &str) -> Option<String> {
    (!loaded.has_clear_text()).then(|| text.to_owned())
}

/// Reads a document as this gateway would.
pub(crate) async fn load(gateway: &Gateway, text: &str) -> Result<Loaded, Vec<Problem>> {
    match &gateway.secrets {
        Some(secrets) => secrets.load(text).await,
        None => secrets::blocking(text, Values::default()).await,
    }
}

/// Builds and swaps in a snapshot; `commit` is called in between, and may still say no.
async fn swap(
    gateway: &Arc<Gateway>,
    loaded: &Arc<Loaded>,
    commit: impl FnOnce() -> Result<(), Fault> + Send + 'static,
) -> Result<u64, Fault> {
    let (gateway, loaded) = (Arc::clone(gateway), Arc::clone(loaded));
    let applied = tokio::task::spawn_blocking(move || gateway.apply_when(&loaded.config, commit)).await;
    applied.unwrap_or_else(|panic| {
        let text = "the configuration could not be put to use; the log knows the request id";
        Err(Fault::gateway(code::INTERNAL_ERROR, text).with_cause(panic))
    })
}

/// The fault of a document with problems.
pub(crate) fn invalid(problems: Vec<Problem>) -> Fault {
    let errors: Vec<_> = problems.into_iter().filter(|problem| problem.severity == Severity::Error).collect();
    let count = errors.len();
    let text = match &*errors {
        [one] => one.in_file("").trim_start_matches(':').to_owned(),
        _ => format!("the configuration has {count} problems"),
    };
    let field = |problem: Problem| FieldError {
        place: (problem.line > 0).then_some((problem.line, problem.column)),
        path: problem.path,
        detail: problem.reason,
        hint: problem.hint,
    };
    Fault::client(code::INVALID_CONFIG, text).with_errors(errors.into_iter().map(field).collect())
}

/// Says what kind of error it is, not where the file lies.
fn not_writable(error: &std::io::Error) -> Fault {
    let text = format!("the configuration's file cannot be replaced: {}", error.kind());
    Fault::client(code::CONFIG_NOT_WRITABLE, text)
}

/// A file's next content, on the disk beside it.
struct Written {
    fresh: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Written {
    fn beside(path: &Path, text: &str) -> std::io::Result<Self> {
        use std::io::Write as _;
        // A link stays a link: what it leads to is replaced.
        let path = path.canonicalize()?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut fresh = tempfile::Builder::new().prefix(".millgate-").suffix(".new").tempfile_in(folder)?;
        fresh.write_all(text.as_bytes())?;
        fresh.as_file().set_permissions(std::fs::metadata(&path)?.permissions())?;
        fresh.as_file().sync_all()?;
        Ok(Self { fresh, path })
    }

    fn put(self) -> std::io::Result<()> {
        self.fresh.persist(&self.path).map_err(|error| error.error)?;
        // The rename too must be on the disk.
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        std::fs::File::open(folder).and_then(|folder| folder.sync_all())
    }
}
