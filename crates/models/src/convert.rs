//! Conversion of scikit-learn models: a one-off job in the model's own environment, and what it wrote, kept so that the next
//! start needs no Python.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::artifacts::private_dir;
use crate::deployment::DeploymentSpec;
use crate::model_file::ModelFile;
use crate::worker::job::SOURCE;
use millgate_types::hex;

/// Packages whose version an answer may depend on, as their `.dist-info` folders begin.
const PACKAGES: &[&str] = &[
    "scikit_learn-",
    "numpy-",
    "scipy-",
    "pandas-",
    "mlflow-",
    "mlflow_skinny-",
    "lightgbm-",
    "xgboost",
    "skl2onnx-",
    "onnx-",
];
/// The largest description that is read, in bytes.
const LIMIT: u64 = 256 << 20;

/// Whether conversion may help: scikit-learn's flavour, or LightGBM's scikit-learn wrapper.
pub(crate) fn is_candidate(model: &ModelFile) -> bool {
    let wrapper = |flavor: &Value| {
        flavor
            .get("model_class")
            .and_then(Value::as_str)
            .is_some_and(|class| class.starts_with("lightgbm.sklearn."))
    };
    model.flavor("sklearn").is_some() || model.flavor("lightgbm").is_some_and(wrapper)
}

/// Where a model's description is kept: by the digest of its files, the job's source and the kind of environment.
pub(crate) fn place(data: &Path, digest: &str, spec: &DeploymentSpec) -> PathBuf {
    let prepared = spec.environment.as_ref().map_or(String::new(), |folder| format!(" {}", folder.display()));
    let key = format!("{digest}\n{:?}{prepared}\n{SOURCE}", spec.env_manager);
    data.join("conversions").join(format!("{}.json", hex(&Sha256::digest(key))))
}

/// The packages of an environment, as folders that another version would not have.
pub(crate) fn stamp(readable: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = readable
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.filter_map(Result::ok))
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.ends_with(".dist-info") && PACKAGES.iter().any(|package| name.starts_with(package))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// A kept description whose environment still has the same packages: the first line names them.
pub(crate) fn kept(place: &Path) -> Option<Vec<u8>> {
    if std::fs::metadata(place).ok()?.len() > LIMIT + (1 << 16) {
        return None;
    }
    let mut bytes = std::fs::read(place).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let packages: Vec<PathBuf> = serde_json::from_slice(&bytes[..end]).ok()?;
    packages.iter().all(|package| package.is_dir()).then(|| bytes.split_off(end + 1))
}

/// Keeps a description. That it cannot is no reason not to serve.
pub(crate) fn keep(place: &Path, packages: &[PathBuf], written: &[u8]) -> std::io::Result<()> {
    let folder = place.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    private_dir(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut file, packages)?;
    file.write_all(b"\n")?;
    file.write_all(written)?;
    file.persist(place).map_err(|error| error.error)?;
    Ok(())
}
