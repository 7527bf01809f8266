//! Chains, ensembles and switches over models in process, model servers elsewhere, and LLMs.

mod chains;
mod ensembles;
mod switches;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A scoring server of the test's own: what it is sent goes to a function.
pub(crate) struct Scorer {
    address: SocketAddr,
    /// Every body that came.
    pub(crate) seen: Arc<Mutex<Vec<Value>>>,
    /// Requests whose connection broke before they were answered.
    left: Arc<AtomicUsize>,
}

impl Scorer {
    pub(crate) async fn start(answer: fn(&Value) -> (u16, Value)) -> Self {
        Self::slow(Duration::ZERO, answer).await
    }

    async fn slow(pause: Duration, answer: fn(&Value) -> (u16, Value)) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (seen, left) = (Arc::<Mutex<Vec<Value>>>::default(), Arc::<AtomicUsize>::default());
        let (noted, gone) = (Arc::clone(&seen), Arc::clone(&left));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (noted, gone) = (Arc::clone(&noted), Arc::clone(&gone));
                tokio::spawn(async move { serve(stream, pause, answer, &noted, &gone).await });
            }
        });
        Self { address, seen, left }
    }

    fn count(&self) -> usize {
        self.seen.lock().expect("a lock").len()
    }

    fn last(&self) -> Value {
        self.seen.lock().expect("a lock").last().cloned().expect("a request")
    }
}

async fn serve(
    mut stream: TcpStream,
    pause: Duration,
    answer: fn(&Value) -> (u16, Value),
    seen: &Mutex<Vec<Value>>,
    left: &AtomicUsize,
) {
    let mut bytes = Vec::new();
    loop {
        let (head, length) = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                break (end + 4, length.unwrap_or(0));
            }
            if stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                continue;
            }
            return;
        };
        while bytes.len() < head + length {
            if !stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                return;
            }
        }
        let body: Value = serde_json::from_slice(&bytes[head..head + length]).expect("JSON");
        bytes.drain(..head + length);
        seen.lock().expect("a lock").push(body.clone());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            read = stream.read_buf(&mut bytes) => {
                if read.is_ok_and(|read| read == 0) {
                    left.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        let (status, body) = answer(&body);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The URI of a model that the tests of `millgate-models` hold against MLflow's own answers.
pub(crate) fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/native").join(name);
    format!("file://{}", folder.canonicalize().expect("a fixture").display())
}

/// The same model with other words in its MLmodel.
fn changed(folder: &Path, name: &str, change: impl Fn(String) -> String) -> String {
    let from = fixture(name).trim_start_matches("file://").to_owned();
    let to = folder.join(format!("changed-{}", fastrand::u64(..)));
    std::fs::create_dir_all(&to).expect("a folder");
    for entry in std::fs::read_dir(&from).expect("a folder").flatten() {
        let text = std::fs::read(entry.path()).expect("a file");
        let text = if entry.file_name() == "MLmodel" {
            change(String::from_utf8(text).expect("text")).into_bytes()
        } else {
            text
        };
        std::fs::write(to.join(entry.file_name()), text).expect("a file");
    }
    format!("file://{}", to.display())
}

pub(crate) const COLUMNS: [&str; 5] = ["a", "b", "c", "d", "e"];
const ROWS: [[f64; 5]; 3] = [
    [-0.365_635, 0.341_811, -0.165_342, -0.889_232, 0.787_681],
    [-1.617_655, -0.071_173, 0.717_725, -0.377_108, 0.239_79],
    [1.5, 1.25, -2.0, 0.5, -0.75],
];

pub(crate) fn split(rows: &[[f64; 5]]) -> Value {
    json!({ "dataframe_split": { "columns": COLUMNS, "data": rows } })
}

/// A gateway whose models are loaded. `lines` are its endpoints.
pub(crate) async fn over(
    providers: &[(&str, &Scorer)],
    fake: Option<&FakeProvider>,
    lines: &[String],
) -> TestGateway {
    let mut text = String::from("version: 1\nproviders:\n  mock: { kind: mock }\n");
    for (name, scorer) in providers {
        text += &format!("  {name}: {{ kind: mlflow-scoring, base_url: 'http://{}' }}\n", scorer.address);
    }
    if let Some(fake) = fake {
        let base = fake.base_url();
        let price = "models: { '*': { usd_per_million_tokens: { input: 1, output: 2 } } }";
        text += &format!(
            "  openai: {{ kind: openai, base_url: '{base}', api_key: sk-fake-0123456789, {price} }}\n"
        );
        text += &format!(
            "  claude: {{ kind: anthropic, base_url: '{base}', api_key: sk-fake-0123456789, {price} }}\n"
        );
    }
    text += "endpoints:\n";
    for line in lines {
        text += &format!("  - {line}\n");
    }
    let gateway = TestGateway::start(&text).await;
    for deployment in gateway.gateway.deployments() {
        assert!(deployment.wait_ready(Duration::from_secs(20)).await, "{:?}", deployment.status());
    }
    gateway
}

pub(crate) fn endpoint(name: &str, route: &Value) -> String {
    json!({ "name": name, "type": "predict", "route": route }).to_string()
}

async fn predictions(gateway: &TestGateway, name: &str, body: &Value) -> Value {
    let answer = gateway.post(&format!("/endpoints/{name}/invocations"), body).await;
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    answer.json()["predictions"].clone()
}

/// Waits for something that happens elsewhere.
async fn soon(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not happen");
}
