//! Real MLflow: its server, models saved by it, its scoring functions in our worker.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millgate_models::{Deployment, DeploymentState, Registry, RegistryConfig, RuntimeChoice};
use millgate_types::code;

use crate::support::{Bench, PATIENCE, json, real_python, registry, spec, text, until};

const BODY: &str = r#"{"dataframe_split": {"columns": ["a", "b", "c", "d"], "data": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 2.8, 4.1, 1.3]]}}"#;

/// `mlflow server` with a SQLite store and proxied artifacts; killed with its group at the end.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(python: &Path, folder: &Path, port: u16) -> Self {
        use std::os::unix::process::CommandExt as _;
        let child = Command::new(python)
            .args([
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--workers",
                "1",
                "--port",
                &port.to_string(),
            ])
            .arg("--backend-store-uri")
            .arg(format!("sqlite:///{}", folder.join("mlflow.db").display()))
            .arg("--artifacts-destination")
            .arg(folder.join("mlartifacts"))
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("server.log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, port }
    }

    fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("/bin/kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn set_alias(python: &Path, uri: &str, version: &str, stage: &str) {
    let code = "import sys; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]); \
                c.set_registered_model_alias('pipeline', 'champion', sys.argv[2]); \
                c.transition_model_version_stage('pipeline', sys.argv[2], sys.argv[3], True)";
    crate::support::run(Command::new(python).args(["-c", code, uri, version, stage]));
}

fn bench(python: PathBuf) -> Bench {
    Bench::new(|settings| settings.python = Some(python))
}

fn in_worker(bench: &Bench, registry: &Arc<Registry>, model: &str) -> Arc<Deployment> {
    let mut wanted = spec(registry.clone(), model);
    wanted.runtime = RuntimeChoice::Worker;
    bench.models.deploy(wanted)
}

/// The whole life: registry down at start, then up; versions by alias, stage, number, logged id; worker answers equal
/// to MLflow's own; a promotion under load; the registry down again; the same store read without a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_tracking_server_is_followed_through_its_life() {
    let Some(python) = real_python() else { return };
    let bench = bench(python.clone());
    let place = bench.folder.path().to_owned();
    let port = free_port();
    let http = |name: &str| {
        let mut config = RegistryConfig::new(name, format!("http://127.0.0.1:{port}"));
        config.poll_interval = Duration::from_millis(200);
        millgate_models::Registry::new(config).unwrap()
    };
    let prod = http("prod");
    let alias = in_worker(&bench, &prod, "models:/pipeline@champion");
    until("the registry is found missing", || alias.status().reason.is_some()).await;
    assert_eq!(json(&alias, BODY).await.unwrap_err().code, code::REGISTRY_UNAVAILABLE);

    let mut server = Server::start(&python, &place, port);
    let uri = server.uri();
    until("the server answers", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() && {
            let ping = Command::new(&python)
                .args(["-c", "import sys,urllib.request as u; u.urlopen(sys.argv[1]+'/health')", &uri])
                .stderr(Stdio::null())
                .status();
            ping.is_ok_and(|status| status.success())
        }
    })
    .await;
    until("the model is found missing", || {
        alias.status().reason.as_deref() == Some("registry `prod` has no model `pipeline`")
    })
    .await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/make_real.py");
    let made = Command::new(&python).arg(script).args([&uri, BODY]).current_dir(&place).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout).unwrap();
    let known: Vec<(String, String, String)> =
        made.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(known.len(), 2, "{made}");

    let began = Instant::now();
    assert!(alias.wait_ready(PATIENCE).await, "{:?}", alias.status());
    eprintln!("first worker live after {:?}", began.elapsed());
    let status = alias.status();
    assert_eq!((status.runtime, status.version.as_deref()), (Some("worker"), Some("1")));
    assert_eq!(status.mlflow_version.as_deref(), Some("3.17.2"));
    let answer = json(&alias, BODY).await.unwrap();
    assert_eq!((text(&answer), answer.rows), (known[0].1.as_str(), 3));
    let began = Instant::now();
    for _ in 0..20 {
        json(&alias, BODY).await.unwrap();
    }
    eprintln!("one prediction of three rows: {:?}", began.elapsed() / 20);
    let fault = json(&alias, &BODY.replace("5.1", "\"x\"")).await.unwrap_err();
    assert_eq!(fault.code, code::SCHEMA_MISMATCH);

    // A promotion while requests run: every answer is whole and says its version.
    let task = {
        let (alias, known) = (alias.clone(), known.clone());
        tokio::spawn(async move {
            let (mut first, mut second) = (0, 0);
            while second < 20 {
                let answer = json(&alias, BODY).await.unwrap();
                if &*answer.version == "1" {
                    assert_eq!(text(&answer), known[0].1);
                    first += 1;
                } else {
                    assert_eq!(text(&answer), known[1].1);
                    second += 1;
                }
            }
            first
        })
    };
    let (promoter, uri_copy) = (python.clone(), uri.clone());
    let stage = in_worker(&bench, &prod, "models:/pipeline/Production");
    tokio::task::spawn_blocking(move || set_alias(&promoter, &uri_copy, "2", "Production")).await.unwrap();
    let served = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    assert!(served > 0);
    until("the stage moved too", || stage.status().version.as_deref() == Some("2")).await;
    assert_eq!(text(&json(&stage, BODY).await.unwrap()), known[1].1);
    bench.models.retain(std::slice::from_ref(&alias));

    let logged = in_worker(&bench, &prod, &format!("models:/{}", known[0].0));
    assert!(logged.wait_ready(PATIENCE).await, "{:?}", logged.status());
    assert_eq!(text(&json(&logged, BODY).await.unwrap()), known[0].1);
    let run = format!("runs:/{}/pipeline", known[1].2);
    for model in [run.as_str(), "models:/pipeline/latest"] {
        let deployment = in_worker(&bench, &prod, model);
        assert!(deployment.wait_ready(PATIENCE).await, "{model}: {:?}", deployment.status());
        assert_eq!(text(&json(&deployment, BODY).await.unwrap()), known[1].1, "{model}");
    }
    bench.models.retain(std::slice::from_ref(&alias));
    for (model, reason) in [
        ("models:/nobody/1", "registry `prod` has no model `nobody`"),
        ("models:/pipeline/9", "registry `prod` has no version 9 of model `pipeline`"),
        ("models:/pipeline@loser", "registry `prod` has no alias `loser` on model `pipeline`"),
    ] {
        let deployment = in_worker(&bench, &prod, model);
        until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
        assert_eq!(deployment.status().reason.as_deref(), Some(reason));
    }
    bench.models.retain(std::slice::from_ref(&alias));

    // The registry goes away: what is live stays live.
    let _ = server.child.kill();
    drop(server);
    until("the registry is gone", || alias.status().reason.is_some()).await;
    assert_eq!(alias.status().state, DeploymentState::Live);
    assert!(json(&alias, BODY).await.is_ok());

    // Its database, without it.
    let local = registry(&format!("sqlite:///{}", place.join("mlflow.db").display()));
    let mut wanted = spec(local, "models:/pipeline@champion");
    wanted.runtime = RuntimeChoice::Worker;
    let file = bench.models.deploy(wanted);
    assert!(file.wait_ready(PATIENCE).await, "{:?}", file.status());
    assert_eq!(text(&json(&file, BODY).await.unwrap()), known[1].1);
    let mut wanted = file.spec().clone();
    wanted.model = millgate_types::ModelRef::parse(&run).unwrap();
    let logged = bench.models.deploy(wanted);
    assert!(logged.wait_ready(PATIENCE).await, "{:?}", logged.status());
    assert_eq!(text(&json(&logged, BODY).await.unwrap()), known[1].1);
    bench.models.shutdown().await;
}

/// What `mlflow models serve` itself answers for iris, asked over HTTP, beside what our workers answer: CSV and JSON,
/// good and bad. Only its stack traces are missing here.
#[tokio::test]
async fn csv_and_errors_are_those_of_mlflow_models_serve() {
    let Some(python) = real_python() else { return };
    let bench = bench(python.clone());
    let folder = bench.folder.path().join("iris");
    let header = "sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)";
    let rows = "5.1,3.5,1.4,0.2\n6.7,3.0,5.2,2.3";
    let asked = [
        ("text/csv", format!("{header}\n{rows}\n"), true),
        ("text/csv; charset=utf-8", format!("{header}\r\n{}\r\n", rows.replace('\n', "\r\n")), true),
        ("text/csv", format!("\"extra\",{header}\nx,{}", rows.replace('\n', "\ny,")), true),
        ("text/csv", format!("{header}\n5.1,3.5,1.4,\n"), false),
        ("text/csv", format!("{rows}\n"), false),
        ("text/csv", format!("{header}\n5.1,3.5,1.4,x\n"), false),
        ("application/json", r#"{"inputs": 1}"#.to_owned(), false),
        ("application/json", r#"{"instances": [1, 2"#.to_owned(), false),
        ("application/json", "[1]".to_owned(), false),
    ];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/serve_iris.py");
    let list: Vec<_> = asked.iter().map(|(kind, body, _)| (kind, body)).collect();
    let output = Command::new(&python)
        .arg(script)
        .arg(free_port().to_string())
        .arg(&folder)
        .arg(serde_json::to_string(&list).unwrap())
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<(u16, String, String)> = serde_json::from_slice(&output.stdout).unwrap();
    let registry = registry(&bench.folder.path().display().to_string());
    let mut wanted = spec(registry, &format!("file://{}", folder.display()));
    wanted.runtime = RuntimeChoice::Worker;
    let strict = bench.models.deploy(wanted.clone());
    wanted.compat_mlflow = true;
    let compat = bench.models.deploy(wanted);
    assert!(strict.wait_ready(PATIENCE).await && compat.wait_ready(PATIENCE).await, "{:?}", strict.status());
    for ((kind, body, good), (status, answered_as, answer)) in asked.into_iter().zip(answers) {
        let request = || millgate_models::PredictRequest {
            content_type: Some(kind),
            body: body.clone().into(),
            deadline: Instant::now() + Duration::from_mins(1),
        };
        let ours = compat.predict(request()).await.unwrap();
        assert_eq!(ours.status, status, "{body}: {answer} and {}", text(&ours));
        assert!(!text(&ours).contains("stack_trace"), "{}", text(&ours));
        if status == 200 {
            assert_eq!((text(&ours), ours.content_type), (answer.as_str(), answered_as.as_str()), "{body}");
        } else {
            let mut theirs: serde_json::Value = serde_json::from_str(&answer).unwrap();
            theirs.as_object_mut().unwrap().remove("stack_trace");
            let ours: serde_json::Value = serde_json::from_slice(&ours.body).unwrap();
            // MLflow writes sets, whose order differs from process to process.
            let sorted = |value: &serde_json::Value| {
                let mut letters: Vec<char> = value.to_string().chars().collect();
                letters.sort_unstable();
                letters
            };
            assert_eq!(sorted(&ours), sorted(&theirs), "{body}: {ours} and {theirs}");
        }
        match strict.predict(request()).await {
            Ok(ours) => assert_eq!((status, text(&ours)), (200, answer.as_str()), "{body}"),
            Err(fault) => assert!(!good, "{body}: {fault}"),
        }
    }
    bench.models.shutdown().await;
}

/// The native runtime and the worker answer the same bytes for the demo model.
#[tokio::test]
async fn the_demo_model_answers_the_same_in_a_worker() {
    let Some(python) = real_python() else { return };
    let bench = bench(python);
    let demo = bench.demo_registry();
    let native = bench.deploy(demo.clone(), "models:/diabetes@champion");
    let mut wanted = spec(demo, "models:/diabetes@champion");
    wanted.runtime = RuntimeChoice::Worker;
    let worker = bench.models.deploy(wanted);
    let example = bench.folder.path().join("mlruns");
    let example = find(&example, "serving_input_example.json", "age").unwrap();
    assert!(native.wait_ready(PATIENCE).await && worker.wait_ready(PATIENCE).await, "{:?}", worker.status());
    let one = json(&native, &example).await.unwrap();
    let other = json(&worker, &example).await.unwrap();
    assert_eq!((one.runtime, other.runtime), ("native", "worker"));
    assert_eq!(text(&one), text(&other));
    let _: Arc<str> = other.version;
    bench.models.shutdown().await;
}

/// The first file of this name that holds `word`.
fn find(folder: &Path, name: &str, word: &str) -> Option<String> {
    std::fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return find(&path, name, word);
        }
        let text = (entry.file_name() == name).then(|| std::fs::read_to_string(path).ok()).flatten()?;
        text.contains(word).then_some(text)
    })
}
