//! The artifact cache: a version's files, fetched once into a folder named by their own digest, and checked
//! against the digest recorded at the first load whenever they are used again.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use millgate_types::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::registry::{HttpRegistry, Place, Registry, RegistryError, Resolved};

/// Members a model may have.
const MAX_FILES: usize = 20_000;
/// Bytes of an MLmodel file that is fetched by itself.
const MAX_DESCRIPTION: u64 = 4 << 20;
/// Folders inside folders.
const MAX_DEPTH: usize = 32;

/// A version's files in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Artifact {
    pub(crate) folder: PathBuf,
    /// sha256 over all names and contents, hexadecimal.
    pub(crate) digest: String,
}

/// What was seen at the first load.
#[derive(Serialize, Deserialize)]
struct Record {
    digest: String,
    files: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the model's files are refused: {0}")]
    Refused(String),
    #[error("the artifact cache: {0}")]
    Cache(#[from] std::io::Error),
}

fn refused(reason: impl Into<String>) -> ArtifactError {
    ArtifactError::Refused(reason.into())
}

/// The cache below `data_dir`: `artifacts/<digest>/` and `sources/<hash of the version's identity>.json`.
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.to_owned() }
    }

    /// The files of `resolved`: from the cache when they are there whole and unchanged, else from the registry.
    pub(crate) async fn fetch(
        &self,
        registry: &Registry,
        resolved: &Resolved,
    ) -> Result<Artifact, ArtifactError> {
        let key = hex(&Sha256::digest(format!("{}\n{}", registry.config().uri, resolved.identity)));
        let record = self.root.join("sources").join(format!("{key}.json"));
        let known: Option<Record> =
            std::fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(known) = &known {
            let folder = self.root.join("artifacts").join(&known.digest);
            if folder.is_dir() {
                let copy = folder.clone();
                let seen = blocking(move || scan(&copy, u64::MAX)).await?;
                if digest(&seen) == known.digest {
                    return Ok(Artifact { folder, digest: known.digest.clone() });
                }
                tracing::warn!(
                    digest = known.digest,
                    "a cached model was changed on disk; it is fetched again"
                );
                std::fs::remove_dir_all(&folder)?;
            }
        }
        private_dir(&self.root)?;
        let artifacts = self.root.join("artifacts");
        private_dir(&artifacts)?;
        private_dir(&self.root.join("sources"))?;
        // Removed with everything in it when anything below fails.
        let fresh = private_temp(".partial-", &artifacts)?;
        self.copy(registry, resolved, fresh.path()).await?;
        let limit = registry.config().max_artifact_bytes;
        let inside = fresh.path().to_owned();
        let seen = blocking(move || scan(&inside, limit)).await?;
        if !seen.contains_key("MLmodel") {
            return Err(refused("there is no MLmodel file"));
        }
        let found = digest(&seen);
        if known.as_ref().is_some_and(|known| known.digest != found) {
            return Err(refused(
                "they differ from the checksums recorded when this version was first loaded",
            ));
        }
        let folder = artifacts.join(&found);
        if folder.is_dir() {
            drop(fresh);
        } else {
            let path = fresh.keep();
            if let Err(error) = std::fs::rename(&path, &folder) {
                let _ = std::fs::remove_dir_all(&path);
                if !folder.is_dir() {
                    return Err(error.into());
                }
            }
        }
        if known.is_none() {
            let mut file = tempfile::NamedTempFile::new_in(self.root.join("sources"))?;
            let body = serde_json::to_vec(&Record { digest: found.clone(), files: seen });
            file.write_all(&body.unwrap_or_default())?;
            file.persist(&record).map_err(|error| error.error)?;
        }
        Ok(Artifact { folder, digest: found })
    }

    async fn copy(&self, registry: &Registry, resolved: &Resolved, to: &Path) -> Result<(), ArtifactError> {
        let limit = registry.config().max_artifact_bytes;
        match address(registry, resolved).await? {
            Address::Folder(folder) => {
                let to = to.to_owned();
                blocking(move || copy_folder(&folder, &to, limit)).await
            }
            Address::Proxied(http, path) => download(http, &path, to, limit).await,
        }
    }
}

/// Where a version's files can be read.
enum Address<'a> {
    /// A folder of this machine.
    Folder(PathBuf),
    /// Behind the tracking server's artifact proxy.
    Proxied(&'a HttpRegistry, String),
}

async fn address<'a>(registry: &'a Registry, resolved: &Resolved) -> Result<Address<'a>, ArtifactError> {
    let uri = match &resolved.place {
        Place::Folder(folder) => return Ok(Address::Folder(folder.clone())),
        Place::Uri(uri) => uri.clone(),
        Place::Version { name, version } => match registry.http() {
            Some(http) => http.download_uri(name, version).await?,
            None => return Err(refused("the registry gave no address")),
        },
    };
    if let Some(http) = registry.http()
        && let Some(path) = http.proxied_path(&uri)
    {
        return Ok(Address::Proxied(http, path));
    }
    let local = uri.strip_prefix("file://").or_else(|| uri.starts_with('/').then_some(uri.as_str()));
    if let Some(path) = local {
        if !registry.config().allow_local_artifacts {
            return Err(refused(
                "the registry points to a file of this machine; set `allow_local_artifacts` if that is meant",
            ));
        }
        return Ok(Address::Folder(PathBuf::from(path)));
    }
    let scheme: String = uri.split(':').next().unwrap_or_default().chars().take(20).collect();
    Err(refused(format!(
        "artifact address of scheme `{scheme}` is not on the registry's own host; let the tracking server proxy \
         artifacts (`mlflow server --artifacts-destination`)"
    )))
}

/// Copies a version's `MLmodel` file into the folder `to`, and nothing else.
pub(crate) async fn fetch_description(
    registry: &Registry,
    resolved: &Resolved,
    to: &Path,
) -> Result<(), ArtifactError> {
    const NAME: &str = "MLmodel";
    let to = to.join(NAME);
    match address(registry, resolved).await? {
        Address::Folder(folder) => {
            blocking(move || {
                let from = folder.join(NAME);
                let plain = std::fs::symlink_metadata(&from).is_ok_and(|meta| meta.is_file());
                if !plain {
                    return Err(refused("there is no MLmodel file"));
                }
                Ok(std::fs::copy(from, to).map(drop)?)
            })
            .await
        }
        Address::Proxied(http, path) => {
            let limit = registry.config().max_artifact_bytes.min(MAX_DESCRIPTION);
            Ok(http.download(&format!("{path}/{NAME}"), &to, limit).await.map(drop)?)
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    crate::gate::blocking(work)
        .await
        .unwrap_or_else(|_| Err(ArtifactError::Cache(std::io::Error::other("the copy was stopped"))))
}

/// A listing's name as a path below the model's folder.
fn safe_name(name: &str) -> Result<&Path, ArtifactError> {
    let path = Path::new(name);
    let plain = !name.is_empty()
        && !name.contains(['\\', '\0'])
        && path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain { Ok(path) } else { Err(refused("a member's name leads out of the folder")) }
}

async fn download(http: &HttpRegistry, path: &str, to: &Path, limit: u64) -> Result<(), ArtifactError> {
    let mut folders = vec![String::new()];
    let mut files = 0_usize;
    let mut bytes = 0_u64;
    let mut seen_folders = 0_usize;
    while let Some(folder) = folders.pop() {
        let listed = if folder.is_empty() { path.to_owned() } else { format!("{path}/{folder}") };
        for entry in http.list(&listed).await? {
            let name = safe_name(&entry.path)?.to_string_lossy().into_owned();
            // Names are relative to the folder that was listed.
            let full = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if full.split('/').count() > MAX_DEPTH {
                return Err(refused("folders are nested too deeply"));
            }
            if entry.is_dir {
                seen_folders += 1;
                if seen_folders > MAX_FILES {
                    return Err(refused(format!("more than {MAX_FILES} members")));
                }
                create_private(&to.join(&full))?;
                folders.push(full);
                continue;
            }
            files += 1;
            if files > MAX_FILES {
                return Err(refused(format!("more than {MAX_FILES} members")));
            }
            if bytes.saturating_add(entry.size) > limit {
                return Err(refused("they are larger than `max_artifact_bytes`"));
            }
            bytes += http.download(&format!("{path}/{full}"), &to.join(&full), limit - bytes).await?;
        }
    }
    if files == 0 { Err(refused("the registry lists no files")) } else { Ok(()) }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a folder of ours, readable by us alone.
pub(crate) fn private_dir(path: &Path) -> std::io::Result<()> {
    create_private(path)
}

/// Makes a folder of ours with a fresh name, readable by us alone and removed with its handle.
pub(crate) fn private_temp(prefix: &str, inside: &Path) -> std::io::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix(prefix).permissions(mode).tempdir_in(inside)
}

/// Copies a model's folder. Links are followed only when they end inside it; devices, sockets and pipes, and files
/// with set-uid or set-gid bits, are refused.
pub(crate) fn copy_folder(from: &Path, to: &Path, limit: u64) -> Result<(), ArtifactError> {
    let root = from.canonicalize()?;
    let mut files = 0;
    let mut bytes = 0;
    copy_inner(&root, &root, to, 0, &mut files, &mut bytes, limit)
}

fn copy_inner(
    root: &Path,
    from: &Path,
    to: &Path,
    depth: usize,
    files: &mut usize,
    bytes: &mut u64,
    limit: u64,
) -> Result<(), ArtifactError> {
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
    if depth > MAX_DEPTH {
        return Err(refused("folders are nested too deeply"));
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let mut path = entry.path();
        if entry.file_type()?.is_symlink() {
            path = path.canonicalize().map_err(|_| refused("a link leads nowhere"))?;
            if !path.starts_with(root) {
                return Err(refused("a link leads out of the folder"));
            }
        }
        let target = to.join(entry.file_name());
        let meta = std::fs::metadata(&path)?;
        *files += 1;
        if *files > MAX_FILES {
            return Err(refused(format!("more than {MAX_FILES} members")));
        }
        if meta.is_dir() {
            create_private(&target)?;
            copy_inner(root, &path, &target, depth + 1, files, bytes, limit)?;
        } else if meta.is_file() {
            if meta.mode() & 0o6000 != 0 {
                return Err(refused("a file has a set-uid or set-gid bit"));
            }
            let left = limit.saturating_sub(*bytes);
            let mut source = std::fs::File::open(&path)?.take(left.saturating_add(1));
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
            let copied = std::io::copy(&mut source, &mut file)?;
            if copied > left {
                return Err(refused("they are larger than `max_artifact_bytes`"));
            }
            *bytes += copied;
        } else {
            return Err(refused("a member is neither a file nor a folder"));
        }
    }
    Ok(())
}

/// Name and sha256 of every file below `root`.
fn scan(root: &Path, limit: u64) -> Result<BTreeMap<String, String>, ArtifactError> {
    let mut seen = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    let mut bytes = 0_u64;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = entry.path();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(root).ok().and_then(Path::to_str);
                let name = name.ok_or_else(|| refused("a file's name is not UTF-8"))?.to_owned();
                let mut file = std::fs::File::open(&path)?;
                let mut hash = Sha256::new();
                let mut buffer = vec![0_u8; 1 << 16];
                loop {
                    let read = file.read(&mut buffer)?;
                    if read == 0 {
                        break;
                    }
                    bytes += read as u64;
                    hash.update(buffer.get(..read).unwrap_or_default());
                }
                if bytes > limit {
                    return Err(refused("they are larger than `max_artifact_bytes`"));
                }
                seen.insert(name, hex(&hash.finalize()));
            } else {
                return Err(refused("a member is neither a file nor a folder"));
            }
            if seen.len() > MAX_FILES {
                return Err(refused(format!("more than {MAX_FILES} members")));
            }
        }
    }
    Ok(seen)
}

fn digest(files: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    for (name, sum) in files {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(sum);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("MLmodel"), "flavors: {}\n").unwrap();
        folder
    }

    fn copied(from: &Path, limit: u64) -> Result<(), ArtifactError> {
        copy_folder(from, tempfile::tempdir().unwrap().path(), limit)
    }

    #[test]
    fn links_out_of_the_folder_are_refused_and_links_inside_are_copied() {
        let folder = model();
        std::os::unix::fs::symlink("MLmodel", folder.path().join("inside")).unwrap();
        let to = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), to.path(), 1000).unwrap();
        assert!(!to.path().join("inside").is_symlink());
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("outside")).unwrap();
        assert!(copied(folder.path(), 1000).unwrap_err().to_string().contains("a link leads out"));
    }

    #[test]
    fn a_link_that_makes_a_loop_ends() {
        let folder = model();
        std::os::unix::fs::symlink(".", folder.path().join("again")).unwrap();
        assert!(copied(folder.path(), 1000).is_err());
    }

    #[test]
    fn size_and_setuid_are_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = model();
        assert!(copied(folder.path(), 3).unwrap_err().to_string().contains("larger"));
        let file = folder.path().join("tool");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755)).unwrap();
        assert!(copied(folder.path(), 1000).unwrap_err().to_string().contains("set-uid"));
    }

    #[test]
    fn names_of_a_listing_stay_below_the_folder() {
        for name in ["../x", "/etc/passwd", "a/../../b", "", "a\\b", ".."] {
            assert!(safe_name(name).is_err(), "{name}");
        }
        assert!(safe_name("data/model.pkl").is_ok());
    }

    #[tokio::test]
    async fn a_version_whose_files_changed_in_the_registry_is_refused() {
        let folder = model();
        let data = tempfile::tempdir().unwrap();
        let registry =
            Registry::new(crate::RegistryConfig::new("default", folder.path().display().to_string()))
                .unwrap();
        let resolved = Resolved {
            version: "1".to_owned(),
            identity: "m/1".to_owned(),
            place: Place::Folder(folder.path().to_owned()),
        };
        let cache = Cache::new(data.path());
        let first = cache.fetch(&registry, &resolved).await.unwrap();
        // Changed in the cache: fetched again. Changed at the source as well: refused.
        std::fs::write(first.folder.join("MLmodel"), "changed").unwrap();
        let again = cache.fetch(&registry, &resolved).await.unwrap();
        assert_eq!(std::fs::read_to_string(again.folder.join("MLmodel")).unwrap(), "flavors: {}\n");
        std::fs::write(first.folder.join("MLmodel"), "changed").unwrap();
        std::fs::write(folder.path().join("MLmodel"), "other").unwrap();
        let error = cache.fetch(&registry, &resolved).await.unwrap_err();
        assert!(error.to_string().contains("checksums"), "{error}");
        let left: Vec<_> = std::fs::read_dir(data.path().join("artifacts")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
