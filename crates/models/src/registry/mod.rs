//! Where models come from: a tracking server over HTTP, an MLflow database file, or an `mlruns` folder. All three
//! answer the same two questions: which version does a reference mean now, and where do its files lie.

pub(crate) mod browse;
mod file;
mod http;
mod sqlite;
mod yaml;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millgate_types::ModelRef;

pub(crate) use http::HttpRegistry;
pub(crate) use yaml::{read_yaml, text_of};

/// How we log in to a tracking server. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryAuth {
    /// No login.
    None,
    /// `Authorization: Bearer`, as `MLFLOW_TRACKING_TOKEN` gives.
    Token(String),
    /// `Authorization: Basic`, as `MLFLOW_TRACKING_USERNAME` and `_PASSWORD` give.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token(***)",
            Self::Basic { .. } => "Basic(***)",
        })
    }
}

/// What the configuration says about one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// The name that endpoints and error messages use.
    pub name: String,
    /// `http(s)://host[:port][/prefix]`, `sqlite:///relative.db`, `sqlite:////absolute.db`, `file:///folder` or a
    /// path to an `mlruns` folder.
    pub uri: String,
    /// The login; HTTP only.
    pub auth: RegistryAuth,
    /// Pause between two looks at a followed stage or alias. At most 5 s are used while the registry is down.
    pub poll_interval: Duration,
    /// The limit for one call to the registry, and for the pauses inside a download.
    pub timeout: Duration,
    /// Whether an HTTP registry may point to files of this machine (`file://` sources).
    pub allow_local_artifacts: bool,
    /// The most bytes that one model's files may have together.
    pub max_artifact_bytes: u64,
}

impl RegistryConfig {
    /// Defaults: no login, poll every 5 s, 30 s a call, no local files for HTTP registries, 10 GiB a model.
    #[must_use]
    pub fn new(name: impl Into<String>, uri: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            uri: uri.into(),
            auth: RegistryAuth::None,
            poll_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            allow_local_artifacts: false,
            max_artifact_bytes: 10 << 30,
        }
    }
}

/// Why the registry has no answer. The texts are fit for callers.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    /// The URI in the configuration cannot be used.
    #[error("registry `{registry}`: {reason}")]
    BadUri {
        /// The registry's name.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// No answer, or one that says "later". Tried again every poll interval, at most 5 s apart.
    #[error("registry `{registry}` cannot be reached: {reason}")]
    Unreachable {
        /// The registry's name.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// The registry answered: no such model, version, stage or alias.
    #[error("registry `{registry}` has no {what}")]
    NotFound {
        /// The registry's name.
        registry: String,
        /// For example ``model `IrisClassifier` ``.
        what: String,
    },
    /// The registry refused, or what it answered cannot be used.
    #[error("registry `{registry}`: {reason}")]
    Refused {
        /// The registry's name.
        registry: String,
        /// What is wrong.
        reason: String,
    },
}

/// One version, as a registry resolved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The version number, or the logged model's id, or `local`.
    pub(crate) version: String,
    /// Differs whenever the version is another one: name, number, creation time, source.
    pub(crate) identity: String,
    /// What must be asked for next to find the files.
    pub(crate) place: Place,
}

/// Where a version's files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder here.
    Folder(PathBuf),
    /// A tracking server must be asked for the address of this model version.
    Version { name: String, version: String },
    /// An artifact address as the tracking server gave it.
    Uri(String),
}

enum Backend {
    Http(HttpRegistry),
    File(file::FileStore),
    Sqlite(sqlite::SqliteStore),
}

/// One configured registry.
pub struct Registry {
    config: RegistryConfig,
    backend: Backend,
    /// When it last answered; until it does, when it was first asked.
    heard: Mutex<Option<Instant>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("config", &self.config).finish_non_exhaustive()
    }
}

impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config
    }
}

impl Registry {
    /// Reads the URI; opens nothing and calls nobody.
    pub fn new(config: RegistryConfig) -> Result<Arc<Self>, RegistryError> {
        let bad = |reason: String| RegistryError::BadUri { registry: config.name.clone(), reason };
        let uri = config.uri.trim();
        let backend = if uri.starts_with("http://") || uri.starts_with("https://") {
            Backend::Http(HttpRegistry::new(&config).map_err(bad)?)
        } else if let Some(path) = uri.strip_prefix("sqlite://") {
            let path = path.strip_prefix('/').unwrap_or(path);
            if path.is_empty() {
                return Err(bad("the database's path is missing: `sqlite:///mlflow.db`".to_owned()));
            }
            Backend::Sqlite(sqlite::SqliteStore::new(config.name.clone(), PathBuf::from(path)))
        } else if let Some(path) = uri.strip_prefix("file://") {
            Backend::File(file::FileStore::new(config.name.clone(), PathBuf::from(path)))
        } else if uri.is_empty() || uri.contains("://") {
            return Err(bad("expected http(s)://, sqlite:///, file:// or a path".to_owned()));
        } else {
            Backend::File(file::FileStore::new(config.name.clone(), PathBuf::from(uri)))
        };
        Ok(Arc::new(Self { config, backend, heard: Mutex::default() }))
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it was made from.
    pub fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// Asks the registry something cheap: for `doctor` and readiness pages.
    pub async fn probe(&self) -> Result<(), RegistryError> {
        match &self.backend {
            Backend::Http(http) => http.probe().await,
            Backend::File(store) => store.probe(),
            Backend::Sqlite(store) => store.probe().await,
        }
    }

    /// Which version `model` means at this moment.
    pub(crate) async fn resolve(&self, model: &ModelRef) -> Result<Resolved, RegistryError> {
        if let ModelRef::Path(path) = model {
            return local_folder(&self.config.name, Path::new(path));
        }
        self.heard().get_or_insert_with(Instant::now);
        let resolved = match &self.backend {
            Backend::Http(http) => http.resolve(model).await,
            Backend::File(store) => {
                let (store, model) = (store.clone(), model.clone());
                self.off_thread(move || store.resolve(&model)).await
            }
            Backend::Sqlite(store) => store.resolve(model).await,
        };
        if !matches!(resolved, Err(RegistryError::Unreachable { .. })) {
            *self.heard() = Some(Instant::now());
        }
        resolved
    }

    /// How old what is known of its models is: the time since it last answered, or has not answered since it was first
    /// asked. `None`: it was never asked.
    pub fn age(&self) -> Option<Duration> {
        self.heard().map(|heard| heard.elapsed())
    }

    fn heard(&self) -> MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads files where waiting for a disk stops nobody.
    async fn off_thread<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let stopped = |_| {
            let reason = "the reader stopped".to_owned();
            Err(RegistryError::Unreachable { registry: self.config.name.clone(), reason })
        };
        crate::gate::blocking(read).await.unwrap_or_else(stopped)
    }

    pub(crate) fn http(&self) -> Option<&HttpRegistry> {
        match &self.backend {
            Backend::Http(http) => Some(http),
            _ => None,
        }
    }
}

/// A model folder given by path. Its version is `local`; it is another one when the size or time of a file directly in
/// it changes (saving a model writes all of them).
fn local_folder(registry: &str, path: &Path) -> Result<Resolved, RegistryError> {
    use std::fmt::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    let missing = |error: std::io::Error| RegistryError::NotFound {
        registry: registry.to_owned(),
        what: format!("model folder of this path ({})", error.kind()),
    };
    std::fs::metadata(path.join("MLmodel")).map_err(missing)?;
    let mut entries =
        std::fs::read_dir(path).map_err(missing)?.collect::<Result<Vec<_>, _>>().map_err(missing)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut identity = path.display().to_string();
    for entry in entries.iter().take(1000) {
        if let Ok(meta) = entry.metadata() {
            let (name, size) = (entry.file_name(), meta.size());
            let _ = write!(identity, "\n{}:{size}:{}:{}", name.display(), meta.mtime(), meta.mtime_nsec());
        }
    }
    Ok(Resolved { version: "local".to_owned(), identity, place: Place::Folder(path.to_owned()) })
}

/// The words for what a reference names, for "has no ..." messages.
pub(crate) fn what(model: &ModelRef) -> String {
    use millgate_types::VersionSelector as V;
    match model {
        ModelRef::Registered { name, selector } => match selector {
            V::Version(version) => format!("version {version} of model `{name}`"),
            V::Stage(stage) => format!("version of model `{name}` in stage `{stage}`"),
            V::Alias(alias) => format!("alias `{alias}` on model `{name}`"),
            V::Latest => format!("version of model `{name}`"),
        },
        ModelRef::Logged(id) => format!("logged model `{id}`"),
        ModelRef::Run { run_id, .. } => format!("run `{run_id}`"),
        ModelRef::Path(_) => "model folder of this path".to_owned(),
    }
}

/// `base/rest`, or `base` alone.
fn join(base: &str, rest: &str) -> String {
    if rest.is_empty() { base.to_owned() } else { format!("{base}/{rest}") }
}

/// Finds a stored artifact address inside a local store. MLflow writes absolute paths; when a store was moved or
/// packed, the longest tail of the path that exists below the store's folder is taken.
pub(crate) fn locate(root: &Path, uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    if path.contains("://") || path.starts_with("mlflow-artifacts:") {
        return None;
    }
    let plain = |path: &Path| path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    let path = Path::new(path);
    if !plain(path) {
        return None;
    }
    let direct = if path.is_absolute() { path.to_owned() } else { root.join(path) };
    if direct.is_dir() {
        return Some(direct);
    }
    let parts: Vec<_> = path.components().collect();
    (1..parts.len())
        .map(|skip| root.join(parts[skip..].iter().collect::<PathBuf>()))
        .find(|candidate| candidate.is_dir())
}
