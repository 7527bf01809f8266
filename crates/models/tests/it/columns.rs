//! Rows handed over as columns, and requests that share calls: models of every flavour at hand, answered as MLflow's own
//! scoring functions answer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use millgate_models::{Batching, Deployment, DeploymentSpec, RuntimeChoice};
use millgate_types::code;

use crate::observed;
use crate::support::{Bench, PATIENCE, json, real_python, registry, spec, text, within};

/// A model of the bench's folder in a worker.
pub(crate) fn deploy(
    bench: &Bench,
    folder: &Path,
    change: impl FnOnce(&mut DeploymentSpec),
) -> Arc<Deployment> {
    let registry = registry(&bench.folder.path().display().to_string());
    let mut spec = spec(registry, &format!("file://{}", folder.display()));
    spec.runtime = RuntimeChoice::Worker;
    change(&mut spec);
    bench.models.deploy(spec)
}

/// Asks all at once; the answers in order.
async fn at_once(
    deployment: &Arc<Deployment>,
    bodies: &[String],
) -> Vec<Result<String, millgate_types::Fault>> {
    let tasks: Vec<_> = bodies
        .iter()
        .map(|body| {
            let (deployment, body) = (deployment.clone(), body.clone());
            tokio::spawn(async move { json(&deployment, &body).await.map(|answer| text(&answer).to_owned()) })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flavour_answers_as_mlflow_does_singly_and_together() {
    let Some(python) = real_python() else { return };
    let bench = Bench::new(|settings| settings.python = Some(python.clone()));
    let folder = bench.folder.path().join("models");
    std::fs::create_dir(&folder).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/make_models.py");
    let made = Command::new(&python).arg(script).arg(&folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout).unwrap();
    let known: Vec<(String, Vec<(String, String)>)> =
        made.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(known.len() >= 14, "{made}");
    let mut rows = Vec::new();
    for (name, answers) in known {
        let deployment = deploy(&bench, &folder.join(&name), |_| {});
        assert!(deployment.wait_ready(PATIENCE).await, "{name}: {:?}", deployment.status());
        let status = deployment.status();
        assert_eq!(status.input.as_deref(), Some("columns"), "{name}");
        assert_eq!(status.batching.as_deref(), Some("on: up to 256 rows"), "{name}");
        for (body, wanted) in &answers {
            let answer = json(&deployment, body).await.unwrap();
            assert_eq!(text(&answer), wanted, "{name}: {body}");
        }
        // Many at once share calls; each gets the rows that it asked for.
        let bodies: Vec<String> = (0..40).map(|n| answers[n % answers.len()].0.clone()).collect();
        for (n, answer) in at_once(&deployment, &bodies).await.into_iter().enumerate() {
            same_up_to_rounding(&name, &answer.unwrap(), &answers[n % answers.len()].1);
        }
        assert_eq!(deployment.status().worker_restarts, 0, "{name}");
        rows.push(observed::seen(&deployment, &folder.join(&name), "the same bytes"));
        bench.models.retain(&[]);
    }
    observed::compare("workers", rows);
    bench.models.shutdown().await;
}

/// Sums over several rows may be made in another order than over one.
fn same_up_to_rounding(name: &str, one: &str, other: &str) {
    fn numbers(text: &str) -> (Vec<f64>, String) {
        let mut rest = String::new();
        let numbers = text
            .split([' ', ',', '[', ']', '{', '}', ':'])
            .filter_map(|word| match word.parse() {
                Ok(number) => Some(number),
                Err(_) => {
                    rest.push_str(word);
                    None
                }
            })
            .collect();
        (numbers, rest)
    }
    let ((one_numbers, one_rest), (other_numbers, other_rest)) = (numbers(one), numbers(other));
    assert_eq!((one_numbers.len(), one_rest), (other_numbers.len(), other_rest), "{name}: {one} and {other}");
    for (a, b) in one_numbers.iter().zip(&other_numbers) {
        assert!((a - b).abs() <= 1e-12 * a.abs().max(1.0), "{name}: {one} and {other}");
    }
}

/// Custom code that obeys its rows: what it was called with stands in the answer.
const OBEDIENT: &str = r#"
import mlflow, os, time, sys, numpy, pandas
class Obedient(mlflow.pyfunc.PythonModel):
    calls = 0
    def predict(self, context, model_input, params=None):
        x = list(model_input["x"])
        Obedient.calls += len(x)
        if -1 in x: raise ValueError("minus one")
        if -2 in x: os.abort()
        if -3 in x: return numpy.zeros(len(x) + 1)
        if -4 in x: time.sleep(1000)
        if -5 in x: x = [float("nan") if v == -5 else v for v in x]
        if -6 in x: sys.exit(4)
        if -10 in x and Obedient.calls >= 10: os.abort()
        if -7 in x: time.sleep(0.3)
        if params and params.get("words"): return [f"{v}/{len(x)}" for v in x]
        return numpy.array([[v, len(x)] for v in x], dtype=float)
mlflow.models.set_model(Obedient())
"#;
const SAVE: &str = r#"
import sys, mlflow, pandas
from mlflow.models import infer_signature
folder, code = sys.argv[1:]
data = pandas.DataFrame({"x": [1.0]})
signature = infer_signature(data, [[1.0, 1.0]], params={"words": False})
mlflow.pyfunc.save_model(folder, python_model=code, signature=signature)
"#;

/// The model, saved.
pub(crate) fn obedient(bench: &Bench, python: &Path) -> PathBuf {
    let (code, folder) = (bench.folder.path().join("code.py"), bench.folder.path().join("obedient"));
    std::fs::write(&code, OBEDIENT).unwrap();
    crate::support::run(Command::new(python).args(["-c", SAVE]).args([&folder, &code]));
    folder
}

pub(crate) fn row(x: f64) -> String {
    format!("{{\"inputs\": {{\"x\": [{x}]}}}}")
}

fn batching() -> Batching {
    Batching { wanted: Some(true), ..Batching::default() }
}

/// How many rows each answer's call had.
fn sizes(answers: &[Result<String, millgate_types::Fault>]) -> Vec<f64> {
    let size = |text: &String| {
        let answer: serde_json::Value = serde_json::from_str(text).unwrap();
        answer["predictions"][0][1].as_f64().unwrap()
    };
    answers.iter().map(|answer| size(answer.as_ref().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_shares_a_call_and_a_bad_row_harms_only_itself() {
    let Some(python) = real_python() else { return };
    let bench = Bench::new(|settings| {
        settings.python = Some(python.clone());
        settings.kill_after = Duration::from_millis(100);
    });
    let folder = obedient(&bench, &python);
    let deployment = deploy(&bench, &folder, |spec| spec.batching = batching());
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let status = deployment.status();
    assert_eq!(status.batching.as_deref(), Some("on: up to 256 rows"));
    assert_eq!(status.input.as_deref(), Some("columns, through MLflow's own check"));
    assert_eq!(text(&json(&deployment, &row(5.0)).await.unwrap()), "{\"predictions\": [[5.0, 1.0]]}");

    // The first is slow; the others wait meanwhile and go together.
    let asked = |list: &[f64]| list.iter().map(|x| row(*x)).collect::<Vec<_>>();
    let (slow, rest) = (deployment.clone(), asked(&[1.0, 2.0, 3.0, 4.0]));
    let slow = tokio::spawn(async move { json(&slow, &row(-7.0)).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answers = at_once(&deployment, &rest).await;
    slow.await.unwrap().unwrap();
    assert_eq!(sizes(&answers), [4.0; 4]);
    assert_eq!(answers[2].as_ref().unwrap(), "{\"predictions\": [[3.0, 4.0]]}");

    // Other params never share a call, and a row that fails fails alone.
    let words = "{\"inputs\": {\"x\": [9]}, \"params\": {\"words\": true}}".to_owned();
    for (bad, wanted) in [(-1.0, code::MODEL_REJECTED_INPUT), (-5.0, code::MODEL_FAILED)] {
        let slow = deployment.clone();
        let slow = tokio::spawn(async move { json(&slow, &row(-7.0)).await.map(|_| ()) });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut asked = asked(&[1.0, bad, 3.0]);
        asked.push(words.clone());
        let answers = at_once(&deployment, &asked).await;
        slow.await.unwrap().unwrap();
        assert_eq!(answers[1].as_ref().unwrap_err().code, wanted);
        assert!(answers[0].as_ref().unwrap().starts_with("{\"predictions\": [[1.0, "), "{answers:?}");
        assert!(answers[2].as_ref().unwrap().starts_with("{\"predictions\": [[3.0, "), "{answers:?}");
        assert_eq!(answers[3].as_ref().unwrap(), "{\"predictions\": [\"9.0/1\"]}");
    }
    assert_eq!(deployment.status().worker_restarts, 0);

    // A caller who is refused before the model never takes part.
    let fault = json(&deployment, "{\"inputs\": {\"x\": [\"one\"]}}").await.unwrap_err();
    assert_eq!(fault.code, code::SCHEMA_MISMATCH);

    // An answer of another length: everybody is answered alone, and nothing shares calls from then on.
    let slow = deployment.clone();
    let slow = tokio::spawn(async move { json(&slow, &row(-7.0)).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answers = at_once(&deployment, &asked(&[1.0, -3.0, 3.0])).await;
    slow.await.unwrap().unwrap();
    assert_eq!(answers[0].as_ref().unwrap(), "{\"predictions\": [[1.0, 1.0]]}");
    assert_eq!(answers[1].as_ref().unwrap(), "{\"predictions\": [0.0, 0.0]}");
    assert_eq!(answers[2].as_ref().unwrap(), "{\"predictions\": [[3.0, 1.0]]}");
    let batching = deployment.status().batching.unwrap();
    assert_eq!(batching, "off: an answer's length was not the sum of the rows");
    bench.models.shutdown().await;
}

/// Waits until so many workers died and the next one is ready.
async fn back(deployment: &Deployment, deaths: u64) {
    crate::support::until("the worker is back", || {
        let status = deployment.status();
        (status.worker_restarts, status.workers_ready) == (deaths, 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_code_shares_no_calls_unless_told_and_is_not_asked_twice_unless_idempotent() {
    let Some(python) = real_python() else { return };
    let bench = Bench::new(|settings| {
        settings.python = Some(python.clone());
        settings.kill_after = Duration::from_millis(100);
    });
    let folder = obedient(&bench, &python);
    let deployment = deploy(&bench, &folder, |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let reason = "its rows may depend on each other, or on more than their columns";
    assert_eq!(deployment.status().batching.unwrap(), format!("off: {reason}"));
    assert_eq!(deployment.status().input.unwrap(), format!("JSON: {reason}"));
    // It reached the model's code once, and is not tried again.
    let fault = json(&deployment, &row(-2.0)).await.unwrap_err();
    assert_eq!(fault.code, code::WORKER_CRASHED);
    back(&deployment, 1).await;
    // The second death is remembered: the third time it reaches no worker.
    assert_eq!(json(&deployment, &row(-2.0)).await.unwrap_err().code, code::WORKER_CRASHED);
    back(&deployment, 2).await;
    let fault = json(&deployment, &row(-2.0)).await.unwrap_err();
    assert!(fault.public.contains("killed the model's workers before"), "{fault}");
    assert_eq!(deployment.status().worker_restarts, 2);
    assert!(json(&deployment, &row(1.0)).await.is_ok());

    // Together with others, said to be idempotent: the others are answered.
    bench.models.retain(&[]);
    let deployment = deploy(&bench, &folder, |spec| {
        spec.batching = batching();
        spec.idempotent = Some(true);
    });
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let slow = deployment.clone();
    let slow = tokio::spawn(async move { json(&slow, &row(-7.0)).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answers = at_once(&deployment, &[row(1.0), row(-6.0), row(3.0)]).await;
    slow.await.unwrap().unwrap();
    assert_eq!(answers[0].as_ref().unwrap(), "{\"predictions\": [[1.0, 1.0]]}");
    assert_eq!(answers[1].as_ref().unwrap_err().code, code::WORKER_CRASHED);
    assert_eq!(answers[2].as_ref().unwrap(), "{\"predictions\": [[3.0, 1.0]]}");
    back(&deployment, 3).await;
    // A hang is a time-out for all that share the call, and for nobody else.
    let fault = within(&deployment, &row(-4.0), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(fault.code, code::WORKER_TIMEOUT);
    assert!(json(&deployment, &row(1.0)).await.is_ok());
    bench.models.shutdown().await;
}
