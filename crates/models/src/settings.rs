//! What the server decides once for all models.

use std::path::PathBuf;
use std::time::Duration;

/// Folders, interpreters and limits shared by all deployments.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// The artifact cache, environments and the workers' private folders live below it (mode 0700; 0710 where workers
    /// have users of their own).
    pub data_dir: PathBuf,
    /// The interpreter of `env_manager: local`. `None`: `python3`, then `python`, on `PATH`.
    pub python: Option<PathBuf>,
    /// The millgate binary: workers are started as `<launcher> worker-exec <json>`.
    pub launcher: PathBuf,
    /// A folder of wheels for building environments without a network.
    pub wheelhouse: Option<PathBuf>,
    /// The `uv` to build environments with. `None`: `uv` on `PATH`, else the interpreter's own `venv`.
    pub uv: Option<PathBuf>,
    /// The ONNX Runtime library. `None`: that of `python`'s package `onnxruntime`, where there is one.
    pub onnx_library: Option<PathBuf>,
    /// How long a worker may take from its start to a loaded model.
    pub load_timeout: Duration,
    /// How long building an environment may take.
    pub environment_timeout: Duration,
    /// The pause between a missed deadline and the end of the worker's process group.
    pub kill_after: Duration,
    /// Fork workers from a process that has imported their packages, where that can be done.
    pub zygote: bool,
    /// Refuse to serve when part of the worker isolation cannot be applied.
    pub isolation_required: bool,
}

impl ModelSettings {
    /// Defaults: interpreters from `PATH`, 180 s to load, 15 min to build an environment, 1 s to kill.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, launcher: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            python: None,
            launcher: launcher.into(),
            wheelhouse: None,
            uv: None,
            onnx_library: None,
            load_timeout: Duration::from_mins(3),
            environment_timeout: Duration::from_mins(15),
            kill_after: Duration::from_secs(1),
            zygote: true,
            isolation_required: false,
        }
    }
}
