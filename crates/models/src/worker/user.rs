//! Users of the workers' own. A gateway that runs as root gives each deployment a user and a group out of the range
//! that systemd uses for its dynamic users, and opens to them the folders on the way to their files, nothing else.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::thread::CapabilitySet;

/// All workers are in this group: it opens the way to their files. No user has its number.
pub(crate) const GROUP: u32 = 61_184;
/// The numbers of users, the last one included.
const USERS: std::ops::RangeInclusive<u32> = GROUP + 1..=65_519;

static LENT: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A user lent to one deployment. Nobody else in this process has the number while it is held.
#[derive(Debug)]
pub(crate) struct User {
    id: u32,
}

impl Drop for User {
    fn drop(&mut self) {
        LENT.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl User {
    /// A free number, the same for the same name where that is possible.
    pub(crate) fn lend(name: &str) -> Option<Arc<Self>> {
        let mut hash = DefaultHasher::new();
        name.hash(&mut hash);
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let known: BTreeSet<u32> =
            passwd.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect();
        let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        let count = USERS.end() - USERS.start() + 1;
        let first = (hash.finish() % u64::from(count)) as u32;
        let id = (0..count)
            .map(|step| USERS.start() + (first + step) % count)
            .find(|id| !known.contains(id) && !lent.contains(id))?;
        lent.insert(id);
        Some(Arc::new(Self { id }))
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Makes an empty folder of ours this user's, and nobody else's.
    pub(crate) fn give(&self, folder: &Path) -> io::Result<()> {
        chown(folder, Some(self.id), Some(self.id))?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o700))
    }
}

/// Why workers cannot have users of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Fit for callers.
    pub(crate) text: String,
    /// For the log and `doctor`: what to do.
    pub(crate) fix: String,
}

/// Whether this process is one that could give workers another user at all.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What is in the way: rights of this process, or a folder that other users cannot enter. `data` is opened by
/// [`open`], so only what lies above it counts.
pub(crate) fn gap(data: &Path, needed: &[PathBuf]) -> Option<Gap> {
    let all = CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::CHOWN
        | CapabilitySet::FOWNER
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::KILL;
    let held = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    if !held.contains(all) {
        return Some(Gap {
            text: "Millgate runs as root without the capabilities to change users".to_owned(),
            fix: "add SETUID, SETGID, CHOWN, FOWNER, DAC_OVERRIDE and KILL, or run Millgate as a user of its own"
                .to_owned(),
        });
    }
    if !["uid_map", "gid_map"].iter().all(|map| mapped(map)) {
        return Some(Gap {
            text: "the container has no users for workers".to_owned(),
            fix: format!("map {} users into the container", USERS.end() + 1),
        });
    }
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let above = data.parent().map(|parent| ("the data folder", parent.to_owned()));
    let rest =
        needed.iter().filter(|path| path.exists()).map(|path| ("the Python interpreter", path.clone()));
    above.into_iter().chain(rest).find_map(|(what, path)| {
        let shut = shut(&path, &data)?;
        Some(Gap {
            text: format!("{what} cannot be reached by another user"),
            fix: format!(
                "let other users pass through {} (`chmod o+x`), or use one that they can reach, for example below \
                 /usr, /opt or /var/lib",
                shut.display()
            ),
        })
    })
}

fn mapped(map: &str) -> bool {
    let text = std::fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
    text.lines().any(|line| {
        let mut fields = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
        match (fields.next(), fields.next(), fields.next()) {
            (Some(first), Some(_), Some(count)) => {
                first <= u64::from(GROUP) && u64::from(*USERS.end()) < first + count
            }
            _ => false,
        }
    })
}

/// The first folder on the way to `path`, as written and as it is, that other users cannot enter.
fn shut(path: &Path, ours: &Path) -> Option<PathBuf> {
    let real = path.canonicalize().ok();
    let ways = [Some(path.to_owned()), real];
    ways.into_iter().flatten().find_map(|way| {
        let mut folders: Vec<&Path> = way.ancestors().collect();
        folders.reverse();
        folders
            .into_iter()
            .filter(|folder| !folder.starts_with(ours))
            .find(|folder| {
                std::fs::metadata(folder).is_ok_and(|meta| {
                    meta.permissions().mode() & 0o001 == 0 && (meta.is_dir() || *folder == way)
                })
            })
            .map(Path::to_owned)
    })
}

/// Opens the way for workers: they may pass through the folders of `data`, where nothing can be listed, and read the
/// model's folder. `needed` may name environments of ours.
pub(crate) fn open(data: &Path, model: &Path, needed: &[PathBuf]) -> io::Result<()> {
    let environments = data.join("environments");
    let built = needed.iter().filter(|folder| folder.parent() == Some(&*environments)).map(PathBuf::as_path);
    let fixed = [data, &data.join("artifacts"), &environments, &data.join("run")];
    for folder in fixed.into_iter().chain(built) {
        match std::fs::symlink_metadata(folder) {
            Ok(meta) if meta.is_dir() => pass(folder)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            // A link set by the operator: the folder behind it is theirs to open.
            Ok(_) => {}
        }
    }
    share(model)
}

fn pass(folder: &Path) -> io::Result<()> {
    let meta = std::fs::metadata(folder)?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o001 != 0 || (meta.gid() == GROUP && mode & 0o010 != 0) {
        return Ok(());
    }
    let mode = if mode & 0o070 == 0 {
        chown(folder, None, Some(GROUP))?;
        mode | 0o010
    } else {
        // Another group has rights here, which stay.
        mode | 0o001
    };
    std::fs::set_permissions(folder, Permissions::from_mode(mode))
}

/// Lets the group read `folder` and everything in it. The top comes last: it says that the rest is done.
fn share(folder: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(folder)?;
    if meta.gid() == GROUP && meta.permissions().mode() & 0o050 == 0o050 {
        return Ok(());
    }
    let mut folders = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(inside) = folders.get(next).cloned() {
        for entry in std::fs::read_dir(&inside)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                lchown(entry.path(), None, Some(GROUP))?;
                std::fs::set_permissions(entry.path(), Permissions::from_mode(0o640))?;
            }
        }
        next += 1;
    }
    for folder in folders.iter().rev() {
        lchown(folder, None, Some(GROUP))?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o750))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_lent_once_and_comes_back() {
        let first = User::lend("a deployment of this test").unwrap();
        let second = User::lend("a deployment of this test").unwrap();
        assert_ne!(first.id(), second.id());
        assert!(USERS.contains(&first.id()) && USERS.contains(&second.id()));
        let id = first.id();
        drop(first);
        assert_eq!(User::lend("a deployment of this test").unwrap().id(), id);
    }

    #[test]
    fn the_folder_in_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("open/python");
        std::fs::create_dir(folder.path().join("open")).unwrap();
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(folder.path().join("open"), Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(shut(&file, Path::new("/nowhere")), Some(folder.path().to_owned()));
        assert_eq!(shut(&file, folder.path()), None);
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        assert_eq!(shut(&file, Path::new("/nowhere")), None);
    }
}
