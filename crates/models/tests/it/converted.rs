//! scikit-learn models, converted: each is saved by MLflow itself and answered in process as MLflow's own scoring functions
//! answer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millgate_models::{Deployment, DeploymentState, PredictRequest, RuntimeChoice};
use serde_json::Value;

use crate::observed;
use crate::support::{Bench, PATIENCE, json, real_python, registry, spec, text, until};

/// Models whose numbers come out of BLAS sums or numpy's `exp`: close, not the same.
const CLOSE: &[&str] = &[
    "elastic-net",
    "lasso",
    "linear-regression",
    "logistic-three-proba",
    "logistic-two-proba",
    "ridge",
    "text-proba",
];
const TOLERANCE: f64 = 1e-9;

pub(crate) fn make(python: &Path, script: &str, target: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(script);
    std::fs::create_dir(target).unwrap();
    let made = Command::new(python).arg(script).arg(target).current_dir(target).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

pub(crate) async fn ask(deployment: &Deployment, kind: &str, body: String) -> Result<String, String> {
    let request = PredictRequest {
        content_type: Some(kind),
        body: Bytes::from(body),
        deadline: Instant::now() + Duration::from_mins(1),
    };
    let answer = deployment.predict(request).await.map_err(|fault| fault.to_string())?;
    Ok(text(&answer).to_owned())
}

fn is_close(our: &Value, their: &Value) -> bool {
    is_near(&our["predictions"], &their["predictions"], TOLERANCE)
}

fn is_near(our: &Value, their: &Value, tolerance: f64) -> bool {
    match (our, their) {
        (Value::Array(our), Value::Array(their)) => {
            our.len() == their.len()
                && our.iter().zip(their).all(|(our, their)| is_near(our, their, tolerance))
        }
        (Value::Number(our), Value::Number(their)) => {
            (our.as_f64().unwrap() - their.as_f64().unwrap()).abs() <= tolerance
        }
        _ => our == their,
    }
}

/// One model: deployed natively, asked, and asked again after a start without Python.
async fn check(bench: &Bench, second: &Bench, folder: PathBuf) -> Value {
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let close = CLOSE.contains(&name.as_str());
    let registry = registry(&folder.parent().unwrap().display().to_string());
    let mut wanted = spec(registry, &format!("file://{}", folder.display()));
    wanted.runtime = RuntimeChoice::Native;
    wanted.tolerance = close.then_some(TOLERANCE);
    let first = bench.models.deploy(wanted.clone());
    assert!(first.wait_ready(PATIENCE).await, "{name}: {:?}", first.status());
    let again = second.models.deploy(wanted);
    assert!(again.wait_ready(PATIENCE).await, "{name}: {:?}", again.status());
    let cases: Vec<(String, String, String)> =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() >= 2, "{name}");
    for (kind, body, expected) in cases {
        let ours = ask(&first, &kind, body.clone()).await.unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(Ok(&ours), ask(&again, &kind, body).await.as_ref(), "{name}");
        if close {
            let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert!(is_close(&parse(&ours), &parse(&expected)), "{name}: {ours}\n{expected}");
        } else {
            assert_eq!(ours, expected, "{name}");
        }
    }
    let reason = first.status().runtime_reason.unwrap();
    assert_eq!(reason.contains("the same bits"), !close, "{name}: {reason}");
    observed::seen(&first, &folder, if close { "within 1e-9" } else { "the same bytes" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn converted_models_answer_as_mlflow_does_and_start_again_without_python() {
    let Some(python) = real_python() else { return };
    let bench = Bench::new(|settings| settings.python = Some(python.clone()));
    let models = bench.folder.path().join("saved");
    make(&python, "make_sklearn.py", &models);
    let data = bench.models.settings().data_dir.clone();
    let second = Bench::new(|settings| {
        settings.python = Some("/nonexistent/python".into());
        settings.data_dir = data;
    });
    let mut folders: Vec<_> =
        std::fs::read_dir(&models).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 45, "only {} models", folders.len());
    let mut rows = Vec::new();
    for pair in folders.chunks(2) {
        let checks = pair.iter().map(|folder| check(&bench, &second, folder.clone()));
        rows.extend(futures_util::future::join_all(checks).await);
        bench.models.retain(&[]);
        second.models.retain(&[]);
    }
    observed::compare("converted", rows);
}

/// Without a tolerance a model whose sums differ in the last bits stays in Python, and so does what is not supported, what
/// is broken, what hangs and what lies. The status says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_converted_runs_in_a_worker_and_says_why() {
    let Some(python) = real_python() else { return };
    let bench = Bench::new(|settings| {
        settings.python = Some(python.clone());
        settings.load_timeout = Duration::from_secs(40);
    });
    let models = bench.folder.path().join("saved");
    make(&python, "make_odd.py", &models);
    let registry = registry(&models.display().to_string());
    for (name, reason) in [
        ("linear", "differs in its last bits; `tolerance` would allow that"),
        ("neighbours", "not converted: the estimator sklearn.KNeighborsClassifier"),
        ("crashes", "the conversion failed: not today"),
        ("talks", "the conversion job wrote something that is no description"),
        ("lies", "verification row 0 is answered differently"),
        ("forges", "the description is refused: a tree that is cut off"),
        ("hangs", "the conversion took more than 40 s"),
    ] {
        let folder = models.join(name);
        let deployment = bench.models.deploy(spec(registry.clone(), &format!("file://{}", folder.display())));
        assert!(deployment.wait_ready(PATIENCE).await, "{name}: {:?}", deployment.status());
        let status = deployment.status();
        let said = status.runtime_reason.unwrap();
        // Some processors' BLAS adds up three products in our order: then there is no difference to be found.
        let same = name == "linear" && status.runtime == Some("native") && said.contains("the same bits");
        assert!(same || status.runtime == Some("worker") && said.contains(reason), "{name}: {said}");
        let body = r#"{"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.5, -1.0, 2.0]]}}"#;
        assert!(json(&deployment, body).await.is_ok(), "{name}");
        bench.models.retain(&[]);
    }
    let mut insisting = spec(registry, &format!("file://{}", models.join("neighbours").display()));
    insisting.runtime = RuntimeChoice::Native;
    let deployment = bench.models.deploy(insisting);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.contains("`runtime: native` is configured, but: not converted"), "{reason}");
    bench.models.shutdown().await;
}

/// Estimators that only skl2onnx converts run in process where the endpoint has a tolerance, and only when every answer lies
/// within it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_onnx_computes_is_converted_within_a_tolerance() {
    const FAR: f64 = 1e-4;
    let Some(python) = real_python() else { return };
    let bench = Bench::new(|settings| settings.python = Some(python.clone()));
    let models = bench.folder.path().join("saved");
    make(&python, "make_graphs.py", &models);
    let registry = registry(&models.display().to_string());
    let model = |name: &str, tolerance| {
        let mut wanted = spec(registry.clone(), &format!("file://{}", models.join(name).display()));
        wanted.tolerance = tolerance;
        wanted
    };
    for name in ["neighbours", "neighbours-proba", "vectors", "net"] {
        let deployment = bench.models.deploy(model(name, Some(FAR)));
        assert!(deployment.wait_ready(PATIENCE).await, "{name}: {:?}", deployment.status());
        let status = deployment.status();
        let reason = status.runtime_reason.unwrap();
        assert!(
            status.runtime == Some("native") && reason.contains("its estimator to ONNX"),
            "{name}: {reason}"
        );
        let cases: Vec<(String, String, String)> =
            serde_json::from_slice(&std::fs::read(models.join(name).join("cases.json")).unwrap()).unwrap();
        for (kind, body, expected) in cases {
            let ours = ask(&deployment, &kind, body).await.unwrap_or_else(|why| panic!("{name}: {why}"));
            let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap()["predictions"].clone();
            assert!(is_near(&parse(&ours), &parse(&expected), FAR), "{name}: {ours}\n{expected}");
        }
        let missing =
            r#"{"dataframe_split": {"columns": ["a", "b", "c", "d"], "data": [[0.5, null, 2.0, 1.0]]}}"#;
        let refused = json(&deployment, missing).await.unwrap_err();
        assert_eq!(refused.code.status, 400, "{name}: {refused}");
    }
    for (name, tolerance, reason) in [
        ("neighbours", None, "the estimator sklearn.KNeighborsClassifier; as ONNX it computes in 32 bits"),
        ("net", Some(1e-12), "is answered differently"),
        ("unknown", Some(FAR), "is refused, where Python answers"),
    ] {
        let deployment = bench.models.deploy(model(name, tolerance));
        assert!(deployment.wait_ready(PATIENCE).await, "{name}: {:?}", deployment.status());
        let status = deployment.status();
        let said = status.runtime_reason.unwrap();
        assert!(status.runtime == Some("worker") && said.contains(reason), "{name}: {said}");
    }
    bench.models.shutdown().await;
}
