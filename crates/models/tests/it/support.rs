//! What the tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millgate_models::{
    Deployment, DeploymentSpec, ModelSettings, Models, PredictRequest, Prediction, Registry, RegistryConfig,
    unpack_demo_store,
};
use millgate_types::{Fault, ModelRef};

pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A folder for everything, models on it, and a registry to point them to.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) models: Arc<Models>,
}

impl Bench {
    pub(crate) fn new(change: impl FnOnce(&mut ModelSettings)) -> Self {
        Self::at(tempfile::tempdir().unwrap(), change)
    }

    pub(crate) fn at(folder: tempfile::TempDir, change: impl FnOnce(&mut ModelSettings)) -> Self {
        let mut settings =
            ModelSettings::new(folder.path().join("data"), env!("CARGO_BIN_EXE_millgate-worker-exec"));
        change(&mut settings);
        Self { models: Models::new(settings, tokio::runtime::Handle::current()), folder }
    }

    pub(crate) fn demo_registry(&self) -> Arc<Registry> {
        registry(&unpack_demo_store(self.folder.path()).unwrap())
    }

    pub(crate) fn deploy(&self, registry: Arc<Registry>, model: &str) -> Arc<Deployment> {
        self.models.deploy(spec(registry, model))
    }
}

pub(crate) fn registry(uri: &str) -> Arc<Registry> {
    let mut config = RegistryConfig::new("default", uri);
    config.poll_interval = Duration::from_millis(100);
    Registry::new(config).unwrap()
}

pub(crate) fn spec(registry: Arc<Registry>, model: &str) -> DeploymentSpec {
    DeploymentSpec::new("test", registry, ModelRef::parse(model).unwrap())
}

pub(crate) async fn json(deployment: &Deployment, body: &str) -> Result<Prediction, Fault> {
    within(deployment, body, Duration::from_mins(1)).await
}

pub(crate) async fn within(
    deployment: &Deployment,
    body: &str,
    patience: Duration,
) -> Result<Prediction, Fault> {
    let request = PredictRequest {
        content_type: Some("application/json"),
        body: Bytes::copy_from_slice(body.as_bytes()),
        deadline: Instant::now() + patience,
    };
    deployment.predict(request).await
}

pub(crate) fn text(prediction: &Prediction) -> &str {
    std::str::from_utf8(&prediction.body).unwrap()
}

/// Polls until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An interpreter with MLflow, or `None` with the reason printed. CI must have one.
pub(crate) fn real_python() -> Option<PathBuf> {
    let found = std::env::var_os("MILLGATE_TEST_PYTHON").map(PathBuf::from);
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must set MILLGATE_TEST_PYTHON to an interpreter that has mlflow"
        );
        eprintln!("skipped: MILLGATE_TEST_PYTHON names no interpreter that has mlflow");
    }
    found
}

pub(crate) fn run(command: &mut std::process::Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
