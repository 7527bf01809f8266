//! The life of a stream: signs of life in a silence, time-outs, and a caller who goes away.

use std::time::{Duration, Instant};

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::cost::until;
use super::pass::{chat, text_of};
use super::{PROVIDER_KEY, config};

/// A stream in every dialect that callers stream in: path, body, and what a sign of life looks like.
fn streams(provider: &str, model: &str) -> Vec<(String, Value, &'static str)> {
    let name = format!("{provider}-{model}");
    let mut call = chat(&name);
    call["stream"] = true.into();
    let responses = json!({ "model": name, "input": "Hello", "stream": true });
    let gemini = json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hello" }] }] });
    let mut mlflow = call.clone();
    mlflow.as_object_mut().expect("an object").remove("model");
    let action = format!("/v1beta/models/{name}:streamGenerateContent");
    vec![
        ("/v1/chat/completions".to_owned(), call.clone(), ": keep-alive\n\n"),
        ("/v1/messages".to_owned(), call, "event: ping\ndata: {\"type\": \"ping\"}\n\n"),
        ("/v1/responses".to_owned(), responses, ": keep-alive\n\n"),
        (format!("{action}?alt=sse"), gemini.clone(), ": keep-alive\n\n"),
        (action, gemini, " "),
        (format!("/gateway/{name}/invocations"), mlflow, "\n"),
    ]
}

/// The pieces of an answer, as they came.
async fn pieces(gateway: &TestGateway, path: &str, body: &Value) -> Vec<String> {
    let mut connection = gateway.connect().await.expect("a connection");
    connection.request("POST", path, &[], body.to_string().as_bytes()).await.expect("a request that leaves");
    let mut opened = connection.answer_head().await.expect("an answer");
    assert_eq!(opened.status, 200);
    let mut pieces = Vec::new();
    while let Some(piece) = opened.piece().await.expect("a body") {
        pieces.push(String::from_utf8(piece).expect("text"));
    }
    pieces
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_gives_signs_of_life_and_says_the_same() {
    let fake = FakeProvider::start().unwrap();
    let models = ["chunks-2-700ms", "chunks-2-0ms", "chunks-30-20ms"];
    let beating = TestGateway::start(&config(&fake, &models, "server: { stream_heartbeat: 200ms }\n")).await;
    let mut runs = Vec::new();
    for provider in ["openai", "anthropic", "gemini"] {
        for ((path, body, beat), (same, quick, _)) in
            streams(provider, models[0]).into_iter().zip(streams(provider, models[1]))
        {
            let beating = &beating;
            runs.push(async move {
                let name = format!("{path} to {provider}");
                let (slow, quick) =
                    tokio::join!(pieces(beating, &path, &body), pieces(beating, &same, &quick));
                let beats = slow.iter().filter(|piece| *piece == beat).count();
                assert!((1..=4).contains(&beats), "{name}: {beats} in {slow:#?}");
                // Everything else is what it is without a silence.
                let rest: String = slow.into_iter().filter(|piece| piece != beat).collect();
                assert_eq!(plain(&rest), plain(&quick.concat()), "{name}");
            });
        }
    }
    futures_util::future::join_all(runs).await;
    // A stream that flows has none, however long it takes.
    for (path, body, beat) in streams("openai", models[2]) {
        let pieces = pieces(&beating, &path, &body).await;
        assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece != beat), "{path}: {pieces:#?}");
    }
}

/// Without what differs between two streams: ids, times, the model's name.
fn plain(stream: &str) -> String {
    let mut out = String::new();
    for line in stream.lines() {
        let mut value =
            line.trim_start_matches("data: ").trim_start_matches('[').trim_end_matches([',', ']']).to_owned();
        if let Ok(mut json) = serde_json::from_str::<Value>(&value) {
            fn strip(value: &mut Value) {
                match value {
                    Value::Object(map) => {
                        map.retain(|key, _| {
                            !["id", "item_id", "created", "created_at", "model", "modelVersion", "responseId"]
                                .contains(&&**key)
                        });
                        map.values_mut().for_each(strip);
                    }
                    Value::Array(items) => items.iter_mut().for_each(strip),
                    _ => {}
                }
            }
            strip(&mut json);
            value = json.to_string();
        }
        out += &value;
        out.push('\n');
    }
    out
}

/// The guard holds from the sending of the request to the first content; in time the next target may be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_does_not_begin_is_given_up_for_the_next_target() {
    let fake = FakeProvider::start().unwrap();
    // The head and the opening frames come at once, the content does not.
    let slow = "chunks-2-3000ms";
    let more = format!(
        "  - {{ name: steady, type: llm/v1/chat, route: {{ fallback: [openai/{slow}, anthropic/ok] }} }}\n"
    );
    let yaml = config(&fake, &[slow, "chunks-30-20ms", "slow-head-900ms"], &more)
        .replace("timeout: 2s,", "timeout: 20s, first_content_timeout: 400ms,");
    let gateway = TestGateway::start(&yaml).await;
    for provider in ["openai", "anthropic"] {
        for path in ["/v1/chat/completions", "/v1/messages"] {
            let mut call = chat(&format!("{provider}-{slow}"));
            call["stream"] = true.into();
            let began = Instant::now();
            let answer = gateway.post(path, &call).await;
            let got = (answer.status, answer.header("x-millgate-error"));
            assert_eq!(got, (504, Some("upstream_timeout")), "{provider} {path}: {}", answer.text());
            assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
            // Once begun, a stream may take longer.
            call["model"] = format!("{provider}-chunks-30-20ms").into();
            let answer = gateway.post(path, &call).await;
            assert!(answer.status == 200 && answer.text().contains("w29"), "{}", answer.text());
        }
    }
    let mut call = chat("steady");
    call["stream"] = true.into();
    let answer = gateway.post("/v1/chat/completions", &call).await;
    assert_eq!(answer.header("x-millgate-target"), Some("anthropic/ok"), "{}", answer.text());
    assert_eq!(answer.header("x-millgate-attempts"), Some("2"));
    assert_eq!(text_of(&answer.events()), "Hello from the fake provider.");
    // Whole answers are no streams: for them it does not hold.
    assert_eq!(gateway.post("/v1/chat/completions", &chat("openai-slow-head-900ms")).await.status, 200);
}

/// Where a caller is when it leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    /// The provider has the request and says nothing.
    BeforeTheHead,
    /// The stream is open and holds no content.
    BeforeTheContent,
    InTheMiddle,
    /// Of a whole answer.
    InTheBody,
}

/// From the caller's leaving until the provider saw its connection closed: what is promised, which most must keep.
const PROMISED: Duration = Duration::from_millis(100);
/// The most for any one on a busy machine. A gateway that does not pass it on would need many seconds.
const AT_ONCE: Duration = Duration::from_millis(700);

async fn leave(
    gateway: &TestGateway,
    fake: &FakeProvider,
    path: &str,
    name: &str,
    leaves: Leaves,
    count: usize,
) -> Duration {
    let model = match leaves {
        Leaves::BeforeTheHead => "hang",
        Leaves::BeforeTheContent => "chunks-2-9000ms",
        Leaves::InTheMiddle => "chunks-1000-20ms",
        Leaves::InTheBody => "lie-endless",
    };
    let mut call = chat(&format!("{name}{model}"));
    call["stream"] = (leaves != Leaves::InTheBody).into();
    let mut connection = gateway.connect().await.expect("a connection");
    connection.request("POST", path, &[], call.to_string().as_bytes()).await.expect("a request that leaves");
    assert!(fake.wait_for(count).await, "{path} {model}");
    if leaves == Leaves::InTheMiddle {
        assert!(connection.answer_head().await.expect("an answer").piece().await.expect("a body").is_some());
    } else {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left = Instant::now();
    drop(connection);
    let gone = fake.wait_for_gone(count).await;
    let gone = gone.unwrap_or_else(|| panic!("{path} {name} {leaves:?}: the provider still works"));
    let took = gone.saturating_duration_since(left);
    assert!(took < AT_ONCE, "{path} {name} {leaves:?}: {took:?}");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_ends_the_work_at_the_provider_at_once() {
    let fake = FakeProvider::start().unwrap();
    let models = ["hang", "chunks-2-9000ms", "chunks-1000-20ms", "lie-endless"];
    let natives = "native: { openai: { provider: openai }, claude: { provider: anthropic } }\n";
    let yaml = config(&fake, &models, natives).replace("timeout: 2s", "timeout: 60s");
    let gateway = TestGateway::start(&yaml).await;
    let (mut count, mut delays) = (0, Vec::new());
    for (path, name) in [
        ("/v1/chat/completions", "openai-"),
        ("/v1/chat/completions", "anthropic-"),
        ("/v1/messages", "anthropic-"),
        ("/v1/messages", "openai-"),
        ("/openai/v1/chat/completions", ""),
        ("/claude/v1/messages", ""),
    ] {
        for leaves in
            [Leaves::BeforeTheHead, Leaves::BeforeTheContent, Leaves::InTheMiddle, Leaves::InTheBody]
        {
            count += 1;
            delays.push(leave(&gateway, &fake, path, name, leaves, count).await);
        }
    }
    delays.sort_unstable();
    let (median, most) = (delays[count / 2], delays[count - 1]);
    eprintln!("the provider saw {count} callers leave after {median:?} (median), {most:?} at most");
    assert!(median < PROMISED, "{delays:?}");
    until(&gateway, "millgate_requests_in_flight 1").await;
    let metrics = gateway.get("/metrics").await.text();
    let cancelled = metrics.lines().filter(|line| line.contains("cancelled")).count();
    assert!(cancelled > 0, "{metrics}");
    // What was made until then is counted.
    let labels = r#"endpoint="anthropic-chunks-1000-20ms",target="anthropic/chunks-1000-20ms""#;
    until(&gateway, &format!("millgate_estimated_requests_total{{{labels}}} 2")).await;
}

/// A first byte in the caller's hands and the connection open: nobody has gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_reads_slowly_has_not_left() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&config(&fake, &["chunks-20-20ms"], "")).await;
    let mut call = chat("openai-chunks-20-20ms");
    call["stream"] = true.into();
    let mut connection = gateway.connect().await.unwrap();
    connection.request("POST", "/v1/chat/completions", &[], call.to_string().as_bytes()).await.unwrap();
    let mut opened = connection.answer_head().await.unwrap();
    opened.piece().await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut text = String::new();
    while let Some(piece) = opened.piece().await.unwrap() {
        text += &String::from_utf8_lossy(&piece);
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(fake.last().header("authorization"), Some(&*format!("Bearer {PROVIDER_KEY}")));
}
