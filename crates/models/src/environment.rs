//! The Python a worker runs on: the interpreter that is there, or an environment built from the model's
//! requirements and kept under the digest of what it was built from.

mod install;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use install::Installer;

use crate::artifacts::{private_dir, private_temp};
use crate::deployment::{DeploymentSpec, EnvManager};
use crate::model_file::ModelFile;
use crate::progress::Progress;
use crate::settings::ModelSettings;
use millgate_types::hex;

/// An interpreter, and the folders that belong to it.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) python: PathBuf,
    pub(crate) readable: Vec<PathBuf>,
    /// Installed packages that differ from the model's requirements, `name 1.0 (wants 2.0)`.
    pub(crate) differences: Vec<String>,
}

/// Whose environment is wanted.
pub(crate) struct Asked<'a> {
    pub(crate) settings: &'a ModelSettings,
    pub(crate) spec: &'a DeploymentSpec,
    pub(crate) model: &'a ModelFile,
    pub(crate) progress: &'a Progress,
}

impl Asked<'_> {
    /// Prepares the environment. The error is fit for callers.
    pub(crate) async fn prepare(&self) -> Result<Environment, String> {
        let Self { settings, spec, model, .. } = self;
        if let Some(folder) = &spec.environment {
            let python = folder.join("bin/python");
            if !python.is_file() {
                return Err("the prepared environment has no bin/python".to_owned());
            }
            return as_it_is(inspect(&python).await?, model, "the prepared environment");
        }
        let facts = inspect(&base(settings)?).await?;
        if spec.env_manager == EnvManager::Local {
            return as_it_is(facts, model, "the Python interpreter");
        }
        let facts = match model.python_version() {
            Some(wanted) if minor(&wanted) != minor(&facts.version) => {
                other_python(&wanted).await.ok_or_else(|| no_such_python(&wanted, &facts.version))?
            }
            _ => facts,
        };
        self.build(&facts).await
    }
}

/// An interpreter that somebody else looks after.
fn as_it_is(facts: Facts, model: &ModelFile, what: &str) -> Result<Environment, String> {
    let wanted = model.requirements().unwrap_or_default();
    let differences = differences(&facts, &wanted);
    if !differences.is_empty() {
        tracing::warn!(?differences, "installed packages differ from the model's requirements");
    }
    if !facts.has_mlflow() {
        return Err(format!(
            "{what} ({}) has no mlflow; install it there, or set `env_manager: uv`",
            facts.version
        ));
    }
    Ok(Environment { python: facts.executable, readable: facts.folders, differences })
}

/// An interpreter of another version on `PATH`, as `python3.12`. Shims that only complain do not count.
async fn other_python(wanted: &str) -> Option<Facts> {
    let facts = inspect(&find(&format!("python{}", minor(wanted)))?).await.ok()?;
    (minor(&facts.version) == minor(wanted)).then_some(facts)
}

fn no_such_python(wanted: &str, found: &str) -> String {
    let minor = minor(wanted);
    format!(
        "the model was saved with Python {wanted} and the interpreter is {found}: install Python {minor} so that \
         `python{minor}` is on PATH, or set `models.python` to one"
    )
}

/// For `doctor`: the version of the local interpreter and of its MLflow.
pub(crate) async fn local(settings: &ModelSettings) -> Result<(String, Option<String>), String> {
    let facts = inspect(&base(settings)?).await?;
    let mlflow = facts.packages.iter().find(|(name, _)| name == "mlflow" || name == "mlflow-skinny");
    Ok((facts.version.clone(), mlflow.map(|(_, version)| version.clone())))
}

/// The local interpreter, and the folders it reads.
pub(crate) async fn folders(settings: &ModelSettings) -> Result<Vec<PathBuf>, String> {
    let facts = inspect(&base(settings)?).await?;
    let mut folders = facts.folders;
    folders.push(facts.executable);
    Ok(folders)
}

fn base(settings: &ModelSettings) -> Result<PathBuf, String> {
    match &settings.python {
        Some(python) if python.is_file() => Ok(python.clone()),
        Some(_) => Err("the configured Python interpreter does not exist".to_owned()),
        None => find("python3").or_else(|| find("python")).ok_or_else(|| {
            "there is no python3 on PATH; install Python 3.10 or newer or set `python`".to_owned()
        }),
    }
}

/// What an interpreter says about itself.
struct Facts {
    /// The interpreter itself: what is on PATH may be a script that chooses one (pyenv's shims), which a
    /// confined process cannot run.
    executable: PathBuf,
    version: String,
    folders: Vec<PathBuf>,
    packages: Vec<(String, String)>,
}

impl Facts {
    fn has_mlflow(&self) -> bool {
        self.packages.iter().any(|(name, _)| name == "mlflow" || name == "mlflow-skinny")
    }
}

/// Standard library only, isolated: no code of a model runs here.
const INSPECT: &str = "import sys,json,os
from importlib import metadata
p=[[d.metadata['Name'] or '',d.version] for d in metadata.distributions()]
f={sys.prefix,sys.base_prefix,sys.exec_prefix,sys.base_exec_prefix,os.path.dirname(os.path.realpath(sys.executable))}
f|={q for q in sys.path if q and os.path.isdir(q)}
print(json.dumps({'executable':sys.executable or '','version':sys.version.split()[0],'folders':sorted(f),'packages':p}))";

async fn inspect(python: &Path) -> Result<Facts, String> {
    let output = Command::new(python)
        .args(["-I", "-c", INSPECT])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_mins(1), output)
        .await
        .map_err(|_| "the Python interpreter does not answer")?
        .map_err(|error| format!("the Python interpreter cannot be started ({})", error.kind()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|_| "the Python interpreter does not work")?;
    let texts = |name: &str| {
        let items = value.get(name).and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        items.into_iter()
    };
    let packages = texts("packages")
        .filter_map(|pair| Some((normal(pair.get(0)?.as_str()?), pair.get(1)?.as_str()?.to_owned())));
    let executable = value.get("executable").and_then(|path| path.as_str()).unwrap_or_default();
    Ok(Facts {
        executable: if executable.is_empty() { python.to_owned() } else { executable.into() },
        version: value.get("version").and_then(|v| v.as_str()).unwrap_or_default().to_owned(),
        folders: texts("folders").filter_map(|folder| folder.as_str().map(PathBuf::from)).collect(),
        packages: packages.collect(),
    })
}

/// A package's name as indexes compare it.
fn normal(name: &str) -> String {
    name.to_lowercase().replace(['_', '.'], "-")
}

fn differences(facts: &Facts, requirements: &str) -> Vec<String> {
    let pins = requirements.lines().filter_map(|line| {
        let line = line.split(['#', ';']).next()?.trim();
        let (name, version) = line.split_once("==")?;
        let name = name.split('[').next()?.trim();
        Some((normal(name), version.trim().to_owned()))
    });
    pins.filter_map(|(name, wanted)| {
        match facts.packages.iter().find(|(installed, _)| *installed == name) {
            Some((_, version)) if *version == wanted => None,
            Some((_, version)) => Some(format!("{name} {version} (wants {wanted})")),
            // The CPU build of XGBoost is the same package under another name; MLflow writes both.
            None if name == "xgboost" && facts.packages.iter().any(|(name, _)| name == "xgboost-cpu") => None,
            None => Some(format!("{name} is missing (wants {wanted})")),
        }
    })
    .collect()
}

fn minor(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// An executable on PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

impl Asked<'_> {
    async fn build(&self, facts: &Facts) -> Result<Environment, String> {
        let Self { settings, spec, model, progress } = self;
        let base = &facts.executable;
        let requirements = model.requirements().ok_or("the model has no requirements.txt")?;
        let requirements = tidy(&requirements)?;
        let uv = match spec.env_manager {
            EnvManager::Uv => settings.uv.clone().or_else(|| find("uv")),
            _ => None,
        };
        let key = format!("1\n{}\n{}\n{}", facts.version, std::env::consts::ARCH, requirements);
        let key = hex(&Sha256::digest(key));
        let disk = |error: std::io::Error| format!("the environment folder: {}", error.kind());
        let environments = settings.data_dir.join("environments");
        private_dir(&environments).map_err(disk)?;
        let folder = environments.join(&key);
        let python = folder.join("bin/python");
        let mut readable = facts.folders.clone();
        readable.push(folder.clone());
        let done = Environment { python: python.clone(), readable, differences: Vec::new() };
        if folder.join(".complete").is_file() {
            return Ok(done);
        }
        // A virtual environment cannot be moved, so it is built in place and the marker makes it whole.
        progress.step("waiting for another build of this environment");
        let _lock = lock(&environments.join(format!("{key}.lock"))).await?;
        if folder.join(".complete").is_file() {
            return Ok(done);
        }
        let _ = std::fs::remove_dir_all(&folder);
        private_dir(&folder).map_err(disk)?;
        let cache = environments.join("cache");
        private_dir(&cache).map_err(disk)?;
        let installer = Installer {
            settings,
            progress,
            private: private_temp("build-", &environments).map_err(disk)?,
            writable: vec![folder.clone(), cache],
            readable: facts.folders.clone(),
        };
        let built = match &uv {
            Some(uv) => {
                let pins = environments.join(format!("{key}.pins.txt"));
                installer.by_uv(uv, base, &python, &requirements, &pins).await
            }
            None => installer.by_pip(base, &folder, &python, &requirements).await,
        };
        if let Err(reason) = built {
            let _ = std::fs::remove_dir_all(&folder);
            return Err(reason);
        }
        progress.step("trying the environment");
        let smoke = inspect(&python).await?;
        if !smoke.has_mlflow() {
            return Err("the model's requirements do not name mlflow, which a worker needs".to_owned());
        }
        std::fs::write(folder.join(".complete"), "").map_err(disk)?;
        Ok(done)
    }
}

/// Requirements as they may be given to an installer: names and versions only. Options, addresses and paths would
/// let a model choose where its packages come from.
fn tidy(requirements: &str) -> Result<String, String> {
    let mut lines: Vec<&str> = Vec::new();
    for line in requirements.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let plain = line.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !line.contains("://")
            && !line.contains(" @ ")
            && !line.contains(['/', '\\']);
        if !plain {
            return Err(
                "requirements.txt holds an option, an address or a path; only names and versions are \
                        installed"
                    .to_owned(),
            );
        }
        lines.push(line);
    }
    // The CPU build and the full one are the same modules; both together overwrite each other.
    let names: Vec<String> = lines.iter().map(|line| package(line)).collect();
    if names.iter().any(|name| name == "xgboost-cpu") {
        lines.retain(|line| package(line) != "xgboost");
    }
    lines.sort_unstable();
    lines.dedup();
    Ok(lines.join("\n") + "\n")
}

fn package(line: &str) -> String {
    normal(line.split(['=', '<', '>', '!', '~', '[', ' ', ';']).next().unwrap_or_default())
}

/// Holds a lock file, so that two gateways on one data folder do not build the same environment.
async fn lock(path: &Path) -> Result<std::fs::File, String> {
    let path = path.to_owned();
    let taken = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::create(path)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    });
    let taken = taken.await.map_err(|_| "building was stopped".to_owned())?;
    taken.map_err(|error| format!("the environment folder: {}", error.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_with_options_or_addresses_are_refused() {
        for line in
            ["--index-url http://evil", "-r other.txt", "pkg @ https://x", "./wheel.whl", "git+https://x"]
        {
            assert!(tidy(line).is_err(), "{line}");
        }
        let tidied =
            tidy("mlflow==3.17.2\nxgboost-cpu==3.2.0\nxgboost==3.2.0\n# note\nscikit-learn==1.9.1 # x\n");
        assert_eq!(tidied.unwrap(), "mlflow==3.17.2\nscikit-learn==1.9.1\nxgboost-cpu==3.2.0\n");
    }

    #[test]
    fn differing_packages_are_named() {
        let facts = Facts {
            executable: PathBuf::from("/usr/bin/python3"),
            version: "3.11.7".to_owned(),
            folders: Vec::new(),
            packages: vec![("scikit-learn".to_owned(), "1.8.0".to_owned())],
        };
        let found = differences(&facts, "scikit_learn==1.9.1\npandas==3.1.1\nnumpy>2\n");
        assert_eq!(found, ["scikit-learn 1.8.0 (wants 1.9.1)", "pandas is missing (wants 3.1.1)"]);
    }
}
