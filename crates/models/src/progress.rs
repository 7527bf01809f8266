//! How far the building of an environment is, for the status, for callers who wait and for the log.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::deployment::{Deployment, DeploymentStatus};

/// Pause between two lines of the log.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is being done, and since when.
#[derive(Clone)]
struct Step {
    what: &'static str,
    since: Instant,
    /// Where packages appear one by one, and how many there will be.
    packages: Option<(PathBuf, usize)>,
}

/// The step that an environment's building is at.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Option<Step>>>);

impl Progress {
    /// A step begins.
    pub(crate) fn step(&self, what: &'static str) {
        self.set(what, None);
    }

    /// Packages are installed into an environment's folder.
    pub(crate) fn installing(&self, folder: PathBuf, packages: usize) {
        self.set("installing packages", Some((folder, packages)));
    }

    fn set(&self, what: &'static str, packages: Option<(PathBuf, usize)>) {
        let mut step = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *step = Some(Step { what, since: Instant::now(), packages });
    }

    /// In words; `None` before the first step.
    fn words(&self) -> Option<String> {
        let step = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let seconds = step.since.elapsed().as_secs();
        Some(match step.packages {
            Some((folder, wanted)) => {
                let there = installed(&folder).min(wanted);
                format!("installing {there} of {wanted} packages, {seconds} s")
            }
            None => format!("{}, {seconds} s", step.what),
        })
    }

    /// Runs `work`, and tells the deployment's status and the log meanwhile how far it is.
    pub(crate) async fn told<T>(&self, deployment: &Deployment, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut logged = Instant::now();
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let Some(words) = self.words() else { continue };
            if logged.elapsed() >= LOG_EVERY {
                logged = Instant::now();
                tracing::info!(endpoint = %deployment.spec.endpoint, step = words, "the environment is being built");
            }
            deployment.progress(Some(&words));
        };
        deployment.progress(None);
        done
    }
}

impl Deployment {
    fn progress(&self, words: Option<&String>) {
        self.status.rcu(|status| {
            let mut status = DeploymentStatus::clone(status);
            status.progress = words.cloned();
            status
        });
    }
}

/// Packages that an environment's folder has by now.
fn installed(folder: &std::path::Path) -> usize {
    let lib = std::fs::read_dir(folder.join("lib")).into_iter().flatten().filter_map(Result::ok);
    let packages = lib.filter_map(|version| std::fs::read_dir(version.path().join("site-packages")).ok());
    let names = packages.flatten().filter_map(Result::ok).map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".dist-info")).count()
}

/// Packages that a list of pins names: the lines that are neither hashes nor comments.
pub(crate) fn pinned(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric())).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted_as_they_appear() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress::default();
        assert_eq!(progress.words(), None);
        progress.step("resolving");
        assert_eq!(progress.words().unwrap(), "resolving, 0 s");
        progress.installing(folder.path().to_owned(), 3);
        assert_eq!(progress.words().unwrap(), "installing 0 of 3 packages, 0 s");
        let site = folder.path().join("lib/python3.11/site-packages");
        std::fs::create_dir_all(site.join("numpy-2.4.6.dist-info")).unwrap();
        std::fs::create_dir_all(site.join("numpy")).unwrap();
        assert_eq!(progress.words().unwrap(), "installing 1 of 3 packages, 0 s");
        assert_eq!(pinned("a==1 \\\n    --hash=sha256:0\n# note\nb==2\n"), 2);
    }
}
