//! Environments built from a model's requirements, offline, from a folder of wheels.

use std::path::Path;
use std::process::Command;

use millgate_models::{DeploymentState, EnvManager, RuntimeChoice};

use crate::support::{Bench, PATIENCE, json, registry, run, spec, text, until, write};

/// A wheel that is enough of MLflow for a worker that echoes.
fn wheel(folder: &Path) {
    let script = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + "/mlflow-9.9-py3-none-any.whl", "w") as z:
    z.writestr("mlflow/__init__.py", "__version__='9.9'\n")
    z.writestr("mlflow/pyfunc/__init__.py", "import types\ndef load_model(folder): return types.SimpleNamespace(metadata=types.SimpleNamespace(get_input_schema=lambda: None))\n")
    z.writestr("mlflow/exceptions.py", "class MlflowException(Exception): pass\n")
    z.writestr("mlflow/pyfunc/scoring_server.py", "import types\ndef invocations(d,c,m,s): return types.SimpleNamespace(status=200,response='{\"predictions\": [1]}')\n")
    z.writestr("mlflow-9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: mlflow\nVersion: 9.9\n")
    z.writestr("mlflow-9.9.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr("mlflow-9.9.dist-info/RECORD", "")
"#;
    std::fs::create_dir_all(folder).unwrap();
    run(Command::new("python3").args(["-c", script]).arg(folder));
}

#[tokio::test]
async fn a_worker_runs_in_an_environment_built_from_the_requirements_and_the_next_start_reuses_it() {
    let wheels = tempfile::tempdir().unwrap();
    wheel(wheels.path());
    let bench = Bench::new(|settings| settings.wheelhouse = Some(wheels.path().to_owned()));
    let model = bench.folder.path().join("model");
    write(&model.join("MLmodel"), "flavors:\n  python_function: {loader_module: x}\nsignature: null\n");
    write(&model.join("requirements.txt"), "mlflow==9.9\n");
    let registry = registry(&bench.folder.path().display().to_string());
    let mut wanted = spec(registry, &format!("file://{}", model.display()));
    wanted.runtime = RuntimeChoice::Worker;
    wanted.env_manager = EnvManager::Uv;
    for round in 0..2 {
        let deployment = bench.models.deploy(wanted.clone());
        assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
        assert_eq!(text(&json(&deployment, "{\"inputs\": 1}").await.unwrap()), "{\"predictions\": [1]}");
        assert_eq!(deployment.status().mlflow_version.as_deref(), Some("9.9"));
        bench.models.retain(&[]);
        until("it is gone", || deployment.status().state == DeploymentState::Gone).await;
        if round == 0 {
            // Without the wheels only the finished environment can serve.
            std::fs::remove_dir_all(wheels.path()).unwrap();
        }
    }
    write(&model.join("requirements.txt"), "mlflow==9.9\nnot-there==1.0\n");
    wanted.workers = 2;
    let deployment = bench.models.deploy(wanted);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.contains("the environment cannot be built"), "{reason}");
    bench.models.shutdown().await;
}
