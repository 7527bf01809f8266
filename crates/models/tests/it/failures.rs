//! Workers that crash, hang, print garbage or eat memory, on a stand-in for MLflow that does so when told.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millgate_models::{Deployment, DeploymentSpec, DeploymentState, FindingLevel, RuntimeChoice, doctor};
use millgate_types::code;

use crate::support::{Bench, PATIENCE, json, run, text, until, within, write};

/// What the tests need of MLflow: a model that obeys its input.
const MLFLOW: &str = r#"
import json, os, sys, time, signal, socket, subprocess
__version__ = "0.0"
class Meta:
    def get_input_schema(self): return None
def words(body):
    for word in body["messages"][-1]["content"].split():
        if word == "crash": os.abort()
        if word == "fail": raise ValueError("value-of-the-model")
        if word == "doze": time.sleep(1000)
        if word == "garbage": os.write(3, b"x" * 64); time.sleep(1000)
        if word == "nonsense": yield 7
        yield word
class Chatty:
    def predict_stream(self, body): pass
class Model:
    metadata = Meta()
    given = 0
    _predict_stream_fn = True
    def get_raw_model(self): return Chatty()
    def predict(self, body):
        return " ".join(words(body))
    def predict_stream(self, body):
        if body["messages"][-1]["content"] == "given":
            yield str(Model.given)
            return
        Model.given = 0
        for word in words(body):
            yield word
            Model.given += 1
class pyfunc:
    @staticmethod
    def load_model(folder):
        text = open(os.path.join(folder, "behaviour")).read()
        if text == "fail": raise ValueError("cannot load " + folder)
        if text == "die": os.abort()
        if text == "leave": sys.exit(5)
        return Model()
"#;
const EXCEPTIONS: &str = "class MlflowException(Exception):\n    def get_http_status_code(self): return 400\n    \
    def serialize_as_json(self): return '{\"error_code\": \"BAD_REQUEST\", \"message\": \"no\", \"stack_trace\": \"secret\"}'\n";
const SERVER: &str = r#"
import json, os, sys, time, socket, types, subprocess
from mlflow.exceptions import MlflowException
def attempt(act):
    verb, path = act[0], act[1]
    try:
        if verb == "home": return os.environ["HOME"]
        if verb == "pid": return os.getpid()
        if verb == "random":
            import random
            return random.random()
        if verb == "read":
            with open(path, "rb") as f: f.seek(act[2] if len(act) > 2 else 0); return "done" if f.read(1) else "empty"
        if verb == "text": return open(path).read()
        if verb == "write": open(path, "a").close(); return "done"
        if verb == "list": os.listdir(path); return "done"
        if verb == "remove": os.remove(path); return "done"
        if verb == "ids": return [os.getuid(), os.getgid(), os.getgroups(), os.environ["HOME"]]
        if verb == "signal": os.kill(path, 0); return "done"
        if verb == "parent":
            import ctypes
            signal = ctypes.c_int(0)
            ctypes.CDLL(None).prctl(2, ctypes.byref(signal))
            return signal.value
        if verb == "fork":
            children = 0
            try:
                for _ in range(act[2]):
                    child = os.fork()
                    if child == 0: time.sleep(30); os._exit(0)
                    children += 1
            except OSError: pass
            return children
    except OSError as e: return "refused"
asked = 0
def reply(value): return types.SimpleNamespace(status=200, response=json.dumps({"predictions": value}))
def invocations(data, content_type, model, schema):
    word = json.loads(data)["inputs"]
    if word == "crash": os.abort()
    if word == "exit": sys.exit(3)
    if word == "hang":
        subprocess.Popen(["/bin/sleep", "1000"])
        time.sleep(1000)
    if word == "garbage":
        for fd in range(3, 20):
            try: os.write(fd, b"hello, here I am, printing into your socket")
            except OSError: pass
        time.sleep(1000)
    if word == "memory":
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20) * 16)); time.sleep(0.02)
    if isinstance(word, str) and word.startswith("answer "):
        return types.SimpleNamespace(status=200, response='{"predictions": ' + word[7:] + '}')
    if word == "refuse": raise MlflowException("value-of-the-caller")
    if word == "print":
        sys.stdout.write("x" * 2_000_000); sys.stderr.write("y\n" * 100_000); sys.stdout.flush()
    if word == "environ": return reply(sorted(os.environ))
    if word == "pid": return reply(os.getpid())
    if word == "parent": return reply(os.getppid())
    if word == "tenth":
        global asked
        asked += 1
        if asked == 10: os.abort()
    if word == "doze": time.sleep(1)
    if word == "leak":
        global leaked
        leaked = bytearray(os.urandom(1 << 20) * 300)
    if word == "daemon":
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(writer, str(os.getpid()).encode())
                for fd in range(3): os.close(fd)
                time.sleep(1000)
            os._exit(0)
        return reply(int(os.read(reader, 20)))
    if isinstance(word, dict): return reply({name: attempt(act) for name, act in word.items()})
    if word == "escape":
        got = {}
        for name, act in {
            "write": lambda: open("/tmp/millgate-escape", "w"),
            "read": lambda: open("/etc/shadow").read(),
            "list": lambda: os.listdir("/root") or os.listdir("/home"),
            "inet": lambda: socket.socket(socket.AF_INET),
            "kill": lambda: os.kill(os.getppid(), 0),
            "own": lambda: open(os.path.join(os.environ["HOME"], "x"), "w"),
        }.items():
            try: act(); got[name] = "done"
            except OSError as e: got[name] = "refused"
        return reply(got)
    return reply(word)
"#;

/// An interpreter with the stand-in installed.
pub(crate) fn stand_in(place: &Path) -> PathBuf {
    let folder = place.join("venv");
    // The system's own interpreter where there is one: other users can reach it.
    let python = Path::new("/usr/bin/python3");
    let python = if python.is_file() { python } else { Path::new("python3") };
    run(std::process::Command::new(python).args(["-m", "venv", "--without-pip"]).arg(&folder));
    let lib = std::fs::read_dir(folder.join("lib")).unwrap().next().unwrap().unwrap().path();
    let site = lib.join("site-packages");
    write(&site.join("mlflow/__init__.py"), MLFLOW);
    write(&site.join("mlflow/exceptions.py"), EXCEPTIONS);
    write(
        &site.join("mlflow/pyfunc/__init__.py"),
        "import mlflow\nfrom mlflow import pyfunc as _p\nload_model = _p.load_model\n",
    );
    write(&site.join("mlflow/pyfunc/scoring_server/__init__.py"), SERVER);
    write(&site.join("mlflow-0.0.dist-info/METADATA"), "Metadata-Version: 2.1\nName: mlflow\nVersion: 0.0\n");
    folder.join("bin/python")
}

pub(crate) fn obedient(place: &Path, behaviour: &str) -> PathBuf {
    let folder = place.join("model");
    write(&folder.join("MLmodel"), "flavors:\n  python_function: {loader_module: x}\nsignature: null\n");
    write(&folder.join("behaviour"), behaviour);
    folder
}

/// A bench whose interpreter is the stand-in, and one deployed model.
pub(crate) fn start(
    behaviour: &str,
    change: impl FnOnce(&mut DeploymentSpec),
) -> (Bench, std::sync::Arc<Deployment>) {
    let place = tempfile::tempdir().unwrap();
    let python = stand_in(place.path());
    let bench = Bench::at(place, |settings| {
        settings.python = Some(python);
        settings.kill_after = Duration::from_millis(100);
    });
    let model = obedient(bench.folder.path(), behaviour);
    let registry = crate::support::registry(&bench.folder.path().display().to_string());
    let mut spec = crate::support::spec(registry, &format!("file://{}", model.display()));
    spec.runtime = RuntimeChoice::Worker;
    change(&mut spec);
    let deployment = bench.models.deploy(spec);
    (bench, deployment)
}

pub(crate) fn say(word: &str) -> String {
    format!("{{\"inputs\": \"{word}\"}}")
}

#[tokio::test]
async fn a_worker_answers_and_sees_nothing_of_our_environment() {
    let (bench, deployment) = start("", |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let answer = json(&deployment, &say("hello")).await.unwrap();
    assert_eq!((text(&answer), answer.runtime), ("{\"predictions\": \"hello\"}", "worker"));
    let seen: serde_json::Value =
        serde_json::from_slice(&json(&deployment, &say("environ")).await.unwrap().body).unwrap();
    let mut allowed = vec![
        "HOME",
        "LANG",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PATH",
        "TMPDIR",
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION",
        "_MLFLOW_IS_IN_SERVING_ENVIRONMENT",
        "LC_CTYPE",
        "NUMEXPR_NUM_THREADS",
        "JE_ARROW_MALLOC_CONF",
        "MLFLOW_DISABLE_TELEMETRY",
        "CUDA_VISIBLE_DEVICES",
        // Where the tests' own environment has it.
        "OPENBLAS_CORETYPE",
    ];
    allowed.sort_unstable();
    for name in seen["predictions"].as_array().unwrap() {
        assert!(allowed.contains(&name.as_str().unwrap()), "{name} is in the worker's environment");
    }
    let escaped: serde_json::Value =
        serde_json::from_slice(&json(&deployment, &say("escape")).await.unwrap().body).unwrap();
    let escaped = &escaped["predictions"];
    assert_eq!(escaped["own"], "done", "the private folder must be writable");
    let findings = doctor(bench.models.settings(), &[]).await;
    let isolated = findings
        .iter()
        .any(|finding| finding.subject == "worker isolation" && finding.level == FindingLevel::Ok);
    if isolated {
        for name in ["write", "read", "list", "inet", "kill"] {
            assert_eq!(escaped[name], "refused", "{name}");
        }
    } else {
        eprintln!("not checked: this kernel cannot confine workers fully: {findings:?}");
    }
    let answer = json(&deployment, &say("print")).await.unwrap();
    assert_eq!(text(&answer), "{\"predictions\": \"print\"}");
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_crash_is_retried_once_then_answered_and_the_pool_recovers() {
    let (bench, deployment) = start("", |spec| spec.idempotent = Some(true));
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    for word in ["crash", "exit"] {
        let before = deployment.status().worker_restarts;
        let fault = json(&deployment, &say(word)).await.unwrap_err();
        assert_eq!(fault.code, code::WORKER_CRASHED, "{fault}");
        until("both workers were counted", || deployment.status().worker_restarts == before + 2).await;
        assert!(json(&deployment, &say("hello")).await.is_ok());
    }
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_hang_is_a_timeout_and_its_whole_group_is_killed() {
    let (bench, deployment) = start("", |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let pid = json(&deployment, &say("pid")).await.unwrap();
    let pid: serde_json::Value = serde_json::from_slice(&pid.body).unwrap();
    let group = pid["predictions"].as_i64().unwrap();
    let began = Instant::now();
    let fault = within(&deployment, &say("hang"), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(fault.code, code::WORKER_TIMEOUT, "{fault}");
    assert!(began.elapsed() < Duration::from_secs(5));
    until("no process of the group is left", || members(group) == 0).await;
    assert!(json(&deployment, &say("hello")).await.is_ok());
    bench.models.shutdown().await;
}

/// Living processes whose group is `group`.
pub(crate) fn members(group: i64) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| {
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields.first() != Some(&"Z") && fields.get(2).and_then(|f| f.parse().ok()) == Some(group)
        })
        .count()
}

#[tokio::test]
async fn a_crash_on_the_tenth_row_is_that_rows_alone() {
    let (bench, deployment) = start("", |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    for _ in 0..9 {
        assert!(json(&deployment, &say("tenth")).await.is_ok());
    }
    let fault = json(&deployment, &say("tenth")).await.unwrap_err();
    assert_eq!(fault.code, code::WORKER_CRASHED, "{fault}");
    assert!(json(&deployment, &say("tenth")).await.is_ok());
    assert_eq!(deployment.status().worker_restarts, 1);
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_model_that_hangs_crashes_or_floods_is_not_noticed_by_another() {
    let (bench, bad) = start("", |spec| spec.timeout = Duration::from_millis(500));
    let good = {
        let mut spec = bad.spec().clone();
        spec.endpoint = "good".into();
        bench.models.deploy(spec)
    };
    for deployment in [&bad, &good] {
        assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    }
    for word in ["hang", "crash", "print", "garbage", "exit"] {
        let trouble = bad.clone();
        let trouble = tokio::spawn(async move { json(&trouble, &say(word)).await });
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(text(&json(&good, &say("hello")).await.unwrap()), "{\"predictions\": \"hello\"}");
            slowest = slowest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(slowest < Duration::from_millis(400), "{word}: {slowest:?}");
        assert_eq!(trouble.await.unwrap().is_ok(), word == "print", "{word}");
        until("the bad one is back", || bad.status().workers_ready == 1).await;
    }
    assert_eq!(good.status().worker_restarts, 0);
    bench.models.shutdown().await;
}

#[tokio::test]
async fn garbage_on_the_socket_is_worker_protocol() {
    let (bench, deployment) = start("", |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let fault = json(&deployment, &say("garbage")).await.unwrap_err();
    assert_eq!(fault.code, code::WORKER_PROTOCOL, "{fault}");
    assert!(json(&deployment, &say("hello")).await.is_ok());
    bench.models.shutdown().await;
}

#[tokio::test]
async fn memory_over_the_limit_ends_the_worker_and_the_pool_recovers() {
    let (bench, deployment) = start("", |spec| spec.memory_limit_bytes = Some(200 << 20));
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let fault = json(&deployment, &say("memory")).await.unwrap_err();
    assert!(fault.code == code::WORKER_CRASHED || fault.code == code::MODEL_FAILED, "{fault}");
    assert!(json(&deployment, &say("hello")).await.is_ok());
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_model_that_refuses_the_input_is_told_without_its_words() {
    let (bench, deployment) = start("", |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let fault = json(&deployment, &say("refuse")).await.unwrap_err();
    assert_eq!(fault.code, code::MODEL_REJECTED_INPUT);
    assert!(!fault.public.contains("value-of-the-caller") && !fault.public.contains("secret"), "{fault}");
    bench.models.shutdown().await;
}

#[tokio::test]
async fn compat_lets_mlflows_own_answer_stand_without_its_stack_trace() {
    let (bench, deployment) = start("", |spec| spec.compat_mlflow = true);
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let answer = json(&deployment, &say("refuse")).await.unwrap();
    assert_eq!(
        (answer.status, text(&answer)),
        (400, "{\"error_code\": \"BAD_REQUEST\", \"message\": \"no\"}")
    );
    bench.models.shutdown().await;
}

#[tokio::test]
async fn an_answer_that_json_cannot_hold_is_refused_with_its_place_or_passed_as_mlflow_does() {
    let (bench, deployment) = start("", |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    for (answer, place) in [
        ("[1.5, NaN]", "row 1"),
        ("[[1, 2], [3, -Infinity]]", "row 1, column 1"),
        ("[{'p': 1, 'q': Infinity}]", "row 0, column `q`"),
        ("{'p': [1, 2, NaN]}", "row 2, column `p`"),
        ("NaN", "its only value"),
    ] {
        let asked = serde_json::json!({ "inputs": format!("answer {}", answer.replace('\'', "\"")) });
        let fault = json(&deployment, &asked.to_string()).await.unwrap_err();
        assert_eq!(fault.code, code::MODEL_FAILED, "{fault}");
        assert!(fault.public.ends_with(&format!(": {place}")), "{answer}: {fault}");
    }
    let answer = json(&deployment, &say("answer [\\\"NaN\\\", null]")).await.unwrap();
    assert_eq!(text(&answer), "{\"predictions\": [\"NaN\", null]}");
    assert_eq!(deployment.status().worker_restarts, 0);
    bench.models.shutdown().await;

    let (bench, deployment) = start("", |spec| spec.compat_mlflow = true);
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let answer = json(&deployment, &say("answer [1.5, NaN]")).await.unwrap();
    assert_eq!((answer.status, text(&answer)), (200, "{\"predictions\": [1.5, NaN]}"));
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_says_why_without_our_paths() {
    for (behaviour, said) in
        [("fail", "raised ValueError: cannot load <model>"), ("die", "signal 6"), ("leave", "exit status 72")]
    {
        let (bench, deployment) = start(behaviour, |_| {});
        until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
        let fault = json(&deployment, &say("hello")).await.unwrap_err();
        assert_eq!(fault.code, code::MODEL_UNAVAILABLE);
        assert!(fault.public.contains(said), "{fault}");
        let place = bench.folder.path().display().to_string();
        assert!(!fault.public.contains(&place), "{fault}");
        assert_eq!(deployment.status().next_try_seconds, Some(10));
        bench.models.shutdown().await;
    }
}

#[tokio::test]
async fn a_stopped_pool_leaves_no_process_and_finishes_what_it_had() {
    let (bench, deployment) = start("", |spec| {
        spec.instances = millgate_models::Instances { min: 2, max: 2, ..Default::default() }
    });
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    assert_eq!(deployment.status().workers_ready, 2);
    let mut groups = Vec::new();
    for _ in 0..8 {
        let answer = json(&deployment, &say("pid")).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        groups.push(answer["predictions"].as_i64().unwrap());
    }
    bench.models.shutdown().await;
    for group in groups {
        until("the worker is gone", || members(group) == 0).await;
    }
}
