//! scikit-learn models, converted: each is saved by MLflow itself and answered natively with the bytes that MLflow's own
//! scoring functions answer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millgate_models::{Deployment, PredictRequest};

use crate::support::{Bench, PATIENCE, real_python, registry, spec, text};

/// Makes the models, or takes those of `MILLGATE_TEST_MODELS`.
fn models(python: &Path, folder: &Path) -> PathBuf {
    if let Some(made) = std::env::var_os("MILLGATE_TEST_MODELS") {
        return made.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/make_sklearn.py");
    let target = folder.join("models");
    std::fs::create_dir(&target).unwrap();
    let made = Command::new(python).arg(script).arg(&target).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    target
}

async fn answers(deployment: &Deployment, folder: &Path) -> Vec<(String, Result<String, String>)> {
    let cases: Vec<(String, String, String)> =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let mut out = Vec::new();
    for (kind, body, expected) in cases {
        let request = PredictRequest {
            content_type: Some(&kind),
            body: Bytes::from(body),
            deadline: Instant::now() + Duration::from_mins(1),
        };
        let answer = deployment.predict(request).await;
        out.push((expected, answer.map(|answer| text(&answer).to_owned()).map_err(|fault| fault.to_string())));
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe() {
    let Some(python) = real_python() else { return };
    let bench = Bench::new(|settings| settings.python = Some(python.clone()));
    let models = models(&python, bench.folder.path());
    let registry = registry(&models.display().to_string());
    let mut names: Vec<_> = std::fs::read_dir(&models).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let only = std::env::var("ONLY").unwrap_or_default();
    for folder in names.iter().filter(|folder| folder.display().to_string().contains(&only)) {
        let deployment = bench.models.deploy(spec(registry.clone(), &format!("file://{}", folder.display())));
        assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
        let status = deployment.status();
        let same = answers(&deployment, folder).await;
        let equal = same.iter().filter(|(expected, answer)| answer.as_ref() == Ok(expected)).count();
        eprintln!("{:24} {:8} {equal}/{} {}", folder.file_name().unwrap().to_string_lossy(), status.runtime.unwrap(), same.len(), status.runtime_reason.unwrap());
        bench.models.retain(&[]);
    }
}
