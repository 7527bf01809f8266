//! ONNX models: run in process by the library, with the bytes that MLflow's own scoring functions answer.

use millgate_models::{DeploymentState, RuntimeChoice};

use crate::converted::{ask, make};
use crate::observed;
use crate::support::{Bench, PATIENCE, real_python, registry, spec, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn onnx_models_answer_in_process_as_mlflow_does() {
    let Some(python) = real_python() else { return };
    let bench = Bench::new(|settings| settings.python = Some(python.clone()));
    let models = bench.folder.path().join("saved");
    make(&python, "make_onnx.py", &models);
    let registry = registry(&models.display().to_string());
    let place = |name: &str| format!("file://{}", models.join(name).display());
    let mut rows = Vec::new();
    for name in ["net-array", "net-words", "net-frame", "forest-frame", "integers"] {
        let mut wanted = spec(registry.clone(), &place(name));
        wanted.runtime = RuntimeChoice::Onnx;
        let deployment = bench.models.deploy(wanted);
        assert!(deployment.wait_ready(PATIENCE).await, "{name}: {:?}", deployment.status());
        assert_eq!(deployment.status().runtime, Some("onnx"));
        let cases: Vec<(String, String, String)> =
            serde_json::from_slice(&std::fs::read(models.join(name).join("cases.json")).unwrap()).unwrap();
        for (kind, body, expected) in cases {
            assert_eq!(ask(&deployment, &kind, body).await.as_ref(), Ok(&expected), "{name}");
        }
        rows.push(observed::seen(&deployment, &models.join(name), "the same bytes"));
    }
    observed::compare("onnx", rows);
    // What the library is not asked to do: read other files.
    let mut wanted = spec(registry.clone(), &place("outside"));
    wanted.runtime = RuntimeChoice::Onnx;
    let deployment = bench.models.deploy(wanted);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.contains("the model keeps data in other files"), "{reason}");
    let deployment = bench.models.deploy(spec(registry, &place("outside")));
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    assert_eq!(deployment.status().runtime, Some("worker"));
    bench.models.shutdown().await;
}

/// No library: the runtime is not offered, and what insists on it says what is missing.
#[tokio::test]
async fn without_a_library_the_runtime_is_not_offered() {
    let bench = Bench::new(|settings| settings.python = Some("/nonexistent/python".into()));
    let folder = bench.folder.path().join("model");
    crate::support::write(&folder.join("MLmodel"), "flavors:\n  onnx: {data: model.onnx}\nsignature: null\n");
    crate::support::write(&folder.join("model.onnx"), "no graph");
    let registry = registry(&bench.folder.path().display().to_string());
    let mut wanted = spec(registry, &format!("file://{}", folder.display()));
    wanted.runtime = RuntimeChoice::Onnx;
    let deployment = bench.models.deploy(wanted);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.contains("no ONNX Runtime library"), "{reason}");
}
