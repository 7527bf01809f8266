//! What `millgate doctor` says about models: each finding with its fix.

use std::sync::Arc;

use serde::Serialize;

use crate::environment;
use crate::native::onnx;
use crate::registry::{Registry, RegistryError};
use crate::settings::ModelSettings;
use crate::worker::{exec, user};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingLevel {
    /// As it should be.
    Ok,
    /// Works, with less than there could be.
    Warning,
    /// Something that is asked for will not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, for example ``registry `default` ``.
    pub subject: String,
    /// How bad it is.
    pub level: FindingLevel,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Finding {
    fn new(subject: impl Into<String>, level: FindingLevel, text: impl Into<String>, fix: &str) -> Self {
        let fix = (!fix.is_empty()).then(|| fix.to_owned());
        Self { subject: subject.into(), level, text: text.into(), fix }
    }
}

/// Looks at the data folder, Python, uv, worker isolation and every registry. Starts no worker and changes nothing
/// but the data folder, which it makes.
pub async fn doctor(settings: &ModelSettings, registries: &[Arc<Registry>]) -> Vec<Finding> {
    use FindingLevel::{Error, Ok, Warning};
    let mut out = Vec::new();
    let writable = crate::artifacts::private_dir(&settings.data_dir)
        .and_then(|()| tempfile::NamedTempFile::new_in(&settings.data_dir));
    out.push(match writable {
        Result::Ok(_) => Finding::new("data folder", Ok, "can be written", ""),
        Err(error) => Finding::new(
            "data folder",
            Error,
            format!("cannot be written ({})", error.kind()),
            "give --data-dir a folder that this user owns",
        ),
    });
    out.push(match environment::local(settings).await {
        Result::Ok((version, Some(mlflow))) => {
            Finding::new("python", Ok, format!("Python {version} with mlflow {mlflow}"), "")
        }
        Result::Ok((version, None)) => Finding::new(
            "python",
            Warning,
            format!("Python {version} has no mlflow: models with `env_manager: local` cannot be loaded"),
            "pip install mlflow there, or set `env_manager: uv`; XGBoost and LightGBM trees need no Python",
        ),
        Err(reason) => Finding::new(
            "python",
            Warning,
            reason,
            "install Python 3.10 or newer or set `python`; XGBoost and LightGBM trees need no Python",
        ),
    });
    let uv = settings.uv.clone().filter(|uv| uv.is_file()).or_else(|| environment::find("uv"));
    out.push(match uv {
        Some(_) => Finding::new("uv", Ok, "found", ""),
        None => Finding::new(
            "uv",
            Warning,
            "not found: environments are built with venv and pip, which takes longer",
            "install uv and put it on PATH",
        ),
    });
    let library = match &settings.onnx_library {
        Some(library) => Some(library.clone()),
        None => onnx::find(&environment::folders(settings).await.unwrap_or_default()),
    };
    out.push(match library {
        Some(library) if library.is_file() => {
            Finding::new("onnx", Ok, "an ONNX Runtime library was found", "")
        }
        Some(_) => Finding::new(
            "onnx",
            Error,
            "the configured ONNX Runtime library does not exist",
            "set `models.onnx_library` to a libonnxruntime.so of version 1.22 or newer",
        ),
        None => Finding::new("onnx", Ok, "no ONNX Runtime library: ONNX models run in workers", ""),
    });
    out.push(match exec::landlock_gap() {
        None => Finding::new("worker isolation", Ok, "Landlock and seccomp are available", ""),
        Some(gap) => Finding::new(
            "worker isolation",
            Warning,
            gap,
            "use Linux 6.12 or newer with Landlock in the `lsm=` list, or run Millgate in a container of its own",
        ),
    });
    if user::is_root() {
        let needed = environment::folders(settings).await.unwrap_or_default();
        out.push(match user::gap(&settings.data_dir, &needed) {
            None => Finding::new("user", Ok, "each model's workers run as a user of their own", ""),
            Some(gap) => {
                let text = format!("{}: workers keep the user root, without any capability", gap.text);
                Finding::new("user", Warning, text, &gap.fix)
            }
        });
    }
    for registry in registries {
        let subject = format!("registry `{}`", registry.name());
        out.push(match registry.probe().await {
            Result::Ok(()) => Finding::new(subject, Ok, "answers", ""),
            Err(error) => {
                let fix = match &error {
                    RegistryError::Unreachable { .. } => {
                        "check the address and that the server runs; models load by themselves when it is back"
                    }
                    _ => "check the address and the login",
                };
                Finding::new(subject, Error, error.to_string(), fix)
            }
        });
    }
    out
}
