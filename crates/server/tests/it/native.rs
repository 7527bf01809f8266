//! Providers' own APIs, passed through: our key out, the provider's in, bytes as they are.

use millgate_testkit::client::{self, Answer};
use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::pass::chat;
use super::{PROVIDER_KEY, SENT};

const KEY: &str = "sk-caller-0123456789abcdef";

fn config(fake: &FakeProvider, more: &str) -> String {
    let base = fake.base_url();
    format!(
        "version: 1
providers:
  openai: {{ kind: openai, base_url: '{base}', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
  claude: {{ kind: anthropic, base_url: '{base}', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
  gemini: {{ kind: gemini, base_url: 'http://{}/v1beta', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
native:
  openai: {{ provider: openai }}
  anthropic: {{ provider: claude, limits: [ {{ requests: 2, per: minute }} ] }}
  gemini: {{ provider: gemini, max_body: 1KiB }}
access: {{ keys: required, static: [ {{ name: caller, key: {KEY} }} ] }}
{more}",
        fake.address()
    )
}

async fn gateway(fake: &FakeProvider) -> TestGateway {
    TestGateway::start(&config(fake, "server: { body_idle_timeout: 200ms }")).await
}

async fn call(
    gateway: &TestGateway,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let bearer = format!("Bearer {KEY}");
    let headers = [headers, &[("Authorization", bearer.as_str())]].concat();
    client::send(gateway.address(), method, path, &headers, body).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_goes_through_with_the_providers_credential_only() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let caller = [
        ("Cookie", "caller=1"),
        ("X-Forwarded-For", "10.1.2.3"),
        ("OpenAI-Organization", "caller-org"),
        ("Connection", "keep-alive, X-Caller"),
        ("X-Caller", "caller"),
        ("OpenAI-Beta", "assistants=v2"),
        ("Idempotency-Key", "once"),
    ];
    for (method, path, target) in [
        ("POST", "/openai/v1/files?purpose=batch&key=caller", "/v1/files?purpose=batch"),
        ("POST", "/openai/files", "/v1/files"),
        ("POST", "/v1/files", "/v1/files"),
        ("DELETE", "/v1/files/file-1", "/v1/files/file-1"),
        ("PATCH", "/openai/v1/files/file-1", "/v1/files/file-1"),
        ("GET", "/openai/v1/files/7/content", "/v1/files/7/content"),
        ("PUT", "/gemini/v1beta/files/x", "/v1beta/files/x"),
    ] {
        let answer = call(&gateway, method, path, &caller, b"").await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
        let sent = fake.last();
        assert_eq!((sent.method.as_str(), sent.path.as_str()), (method, target));
        let fields = format!("{:?}", sent.headers);
        assert!(!fields.contains("caller") && !fields.contains("10.1.2.3"), "{path}: {fields}");
        assert!(fields.contains(PROVIDER_KEY), "{path}: {fields}");
        assert_eq!(sent.header("openai-beta"), Some("assistants=v2"));
        assert_eq!(sent.header("idempotency-key"), Some("once"));
        assert!(answer.header("x-request-id").is_some() && answer.header("set-cookie").is_none());
        assert!(answer.header("x-millgate-endpoint").is_some_and(|name| name.starts_with("native/")));
    }
    assert_eq!(fake.last().header("x-goog-api-key"), Some(PROVIDER_KEY));
    let mut connection = gateway.connect().await.unwrap();
    let bearer = format!("Bearer {KEY}");
    connection.request("HEAD", "/v1/files/7/content", &[("Authorization", &bearer)], b"").await.unwrap();
    let head = connection.answer_head().await.unwrap();
    let length =
        head.headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.as_str());
    assert_eq!((head.status, length), (200, Some("7")));
    let unchanged = call(&gateway, "GET", "/v1/files/7/content", &[("If-None-Match", "\"1\"")], b"").await;
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some("\"1\"")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_key_and_no_path_with_two_readings_gets_through() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    for path in ["/openai/v1/files", "/v1/images/generations", "/nobody/v1/files"] {
        let answer = client::send(gateway.address(), "POST", path, &[], b"{}").await.unwrap();
        assert_eq!(
            (answer.status, answer.header("x-millgate-error")),
            (401, Some("invalid_api_key")),
            "{path}"
        );
    }
    for (path, status, code) in [
        ("/openai/../admin", 400, "bad_path"),
        ("/openai/%2e%2e/admin", 400, "bad_path"),
        ("/openai/v1%2ffiles", 400, "bad_path"),
        ("/openai//evil.example/x", 400, "bad_path"),
        ("/openai", 404, "not_found"),
        ("/openai/", 404, "not_found"),
        ("/nobody/v1/files", 404, "not_found"),
        ("/v1/fine_tuning/jobs", 404, "not_found"),
    ] {
        let answer = call(&gateway, "POST", path, &[], b"{}").await;
        assert_eq!((answer.status, answer.header("x-millgate-error")), (status, Some(code)), "{path}");
    }
    assert!(fake.requests().is_empty(), "{:?}", fake.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_passes_byte_for_byte_and_the_limit_is_kept() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    // Twice what a body that is held whole may have.
    let body = vec![b'u'; 20 << 20];
    let kind = [("Content-Type", "multipart/form-data; boundary=x")];
    let answer = call(&gateway, "POST", "/v1/files", &kind, &body).await;
    assert_eq!((answer.status, &answer.json()["bytes"]), (201, &json!(20 << 20)), "{}", answer.text());
    assert_eq!(fake.last().header("content-type"), Some(kind[0].1));
    assert_eq!(fake.last().header("content-length"), Some("20971520"));
    let answer = call(&gateway, "POST", "/gemini/v1beta/files", &kind, &body[..2000]).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (413, Some("body_too_large")));
    // Chunked: without a length, counted on the way.
    let send = |path: &'static str, chunk: usize| {
        let gateway = &gateway;
        async move {
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n");
            let body = format!("{chunk:x}\r\n{}\r\n0\r\n\r\n", "c".repeat(chunk));
            let whole = format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}");
            gateway.raw(whole.as_bytes()).await.unwrap().0
        }
    };
    let answer = send("/v1/files", 5000).await;
    assert_eq!(answer.json()["bytes"], 5000, "{}", answer.text());
    assert_eq!(fake.last().header("transfer-encoding"), Some("chunked"));
    let answer = send("/gemini/v1beta/files", 5000).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (413, Some("body_too_large")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_stops_sending_is_told() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let head = format!("POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n");
    let (answer, _) = gateway.raw(format!("{head}Content-Length: 100\r\n\r\nhalf").as_bytes()).await.unwrap();
    assert_eq!(
        (answer.status, answer.header("x-millgate-error")),
        (408, Some("body_timeout")),
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_pass_and_half_of_one_never_looks_whole() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    // More than is ever held whole.
    let answer = call(&gateway, "GET", "/v1/files/9000000/content", &[], b"").await;
    assert_eq!((answer.status, answer.body.len(), answer.complete), (200, 9_000_000, true));
    assert_eq!(answer.header("content-length"), Some("9000000"));
    assert_eq!(answer.header("content-disposition"), Some("attachment"));
    let answer = call(&gateway, "GET", "/v1/files/100000/chunked", &[], b"").await;
    assert_eq!((answer.status, answer.body.len()), (200, 100_000));
    let answer = call(&gateway, "GET", "/v1/files/100000/cut", &[], b"").await;
    assert!(!answer.complete && answer.body.len() < 100_000, "{}", answer.body.len());
    // Without a length too, and what breaks off does not look whole.
    let answer = call(&gateway, "GET", "/v1/files/9000000/chunked", &[], b"").await;
    assert_eq!((answer.status, answer.body.len(), answer.complete), (200, 9_000_000, true));
    let answer = call(&gateway, "GET", "/v1/files/100000/cut-chunked", &[], b"").await;
    assert_eq!((answer.status, answer.body.len(), answer.complete), (200, 50_000, false));
    let answer = call(&gateway, "POST", "/v1/audio/speech", &[], b"{}").await;
    assert_eq!((answer.text().as_str(), answer.header("content-type")), ("ID3sound", Some("audio/mpeg")));
}

/// A caller who does not read keeps the provider from sending: nothing is gathered here.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_length_is_not_read_faster_than_its_caller_takes_it() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let mut connection = gateway.connect().await.unwrap();
    let bearer = format!("Bearer {KEY}");
    connection
        .request("GET", "/v1/files/200000000/chunked", &[("Authorization", &bearer)], b"")
        .await
        .unwrap();
    assert!(fake.wait_for(1).await);
    assert_eq!(connection.answer_head().await.unwrap().status, 200);
    // All of it would have left by now if it were taken.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    drop(connection);
    assert!(fake.wait_for_gone(1).await.is_some(), "the provider could send all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_cost_are_read_from_answers_and_streams() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let body = chat("gpt-4o-mini").to_string();
    let answer = call(&gateway, "POST", "/openai/v1/chat/completions", &[], body.as_bytes()).await;
    assert_eq!(fake.last().body, body);
    assert_eq!(answer.json()["x_unknown"], json!({ "kept": true }));
    assert_eq!(answer.header("x-millgate-cost-usd"), Some("0.000005550"), "{}", answer.text());
    let mut streamed: Value = chat("gpt-4o-mini");
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({ "include_usage": true });
    let answer =
        call(&gateway, "POST", "/openai/v1/chat/completions", &[], streamed.to_string().as_bytes()).await;
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let body =
        json!({ "model": "claude-haiku-4-5", "max_tokens": 9, "stream": true, "messages": [] }).to_string();
    let answer =
        call(&gateway, "POST", "/anthropic/v1/messages", &[("anthropic-beta", "x")], body.as_bytes()).await;
    assert!(answer.text().contains("event: message_stop"), "{}", answer.text());
    assert_eq!(fake.last().header("anthropic-beta"), Some("x"));
    assert_eq!(fake.last().header("anthropic-version"), Some("2023-06-01"));
    let path = "/gemini/v1beta/models/gemini-2.5-flash:generateContent?key=caller";
    let answer = call(&gateway, "POST", path, &[], b"{\"contents\":[]}").await;
    assert_eq!(fake.last().path, "/v1beta/models/gemini-2.5-flash:generateContent");
    assert!(answer.header("x-millgate-cost-usd").is_some(), "{}", answer.text());
    let answer = call(&gateway, "POST", "/v1/images/generations", &[], b"{\"prompt\":\"x\"}").await;
    assert_eq!(answer.json()["usage"]["total_tokens"], 30);
    let answer = call(&gateway, "POST", "/v1/audio/transcriptions", &[], b"x").await;
    assert!(answer.text().ends_with("\"text\":\"Hello\"}\n\n"), "{}", answer.text());
    let metrics = gateway.get("/metrics").await.text();
    for line in [
        // Two chats of 9 prompt tokens and an image of 10.
        r#"millgate_tokens_total{endpoint="native/openai",target="openai/*",class="input"} 28"#,
        r#"millgate_tokens_total{endpoint="native/openai",target="openai/*",class="output"} 32"#,
        r#"millgate_tokens_total{endpoint="native/anthropic",target="claude/*",class="input"} 9"#,
        // The stream of an Anthropic model is priced: 9 x 1 + 5 x 5 micro-USD.
        r#"millgate_cost_nano_usd_total{endpoint="native/anthropic",target="claude/*"} 34000"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_told_as_everywhere() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let model =
        |model: &str, stream: bool| json!({ "model": model, "stream": stream, "messages": [] }).to_string();
    for (path, body, status, code, said) in [
        ("/v1/files/missing", String::new(), 404, "upstream_not_found", "No such File object: missing"),
        ("/v1/files/conflict", String::new(), 400, "upstream_invalid_request", "the upload is complete"),
        ("/v1/files/moved", String::new(), 502, "upstream_error", "redirect"),
        ("/openai/v1/chat/completions", model("status-401", false), 502, "upstream_auth", "credential"),
        (
            "/openai/v1/chat/completions",
            model("status-429-retry-7", false),
            429,
            "upstream_rate_limited",
            "rate limit",
        ),
        ("/openai/v1/chat/completions", model("reset", false), 502, "upstream_error", ""),
        ("/openai/v1/chat/completions", model("error-first", true), 502, "upstream_error", ""),
        ("/openai/v1/chat/completions", model("empty-stream", true), 502, "upstream_error", ""),
    ] {
        let answer = call(&gateway, "POST", path, &[], body.as_bytes()).await;
        let text = answer.text();
        assert_eq!(
            (answer.status, answer.header("x-millgate-error")),
            (status, Some(code)),
            "{path} {body}: {text}"
        );
        assert!(
            text.contains(said) && text.contains(&format!("\"code\":\"{code}\"")),
            "{path} {body}: {text}"
        );
        assert!(!text.contains("sk-fake") && !text.contains("169.254"), "{text}");
    }
    let text =
        call(&gateway, "POST", "/openai/v1/chat/completions", &[], model("cut-stream", true).as_bytes())
            .await
            .text();
    assert!(text.contains("stream_interrupted") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_an_entry_hold_and_say_so() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let body = json!({ "model": "ok", "max_tokens": 9, "messages": [] }).to_string();
    for remaining in ["1", "0"] {
        let answer = call(&gateway, "POST", "/anthropic/v1/messages", &[], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(remaining));
    }
    let answer = call(&gateway, "POST", "/anthropic/v1/messages", &[], body.as_bytes()).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (429, Some("rate_limit_exceeded")));
    assert_eq!(
        (answer.json()["type"].as_str(), answer.header("retry-after").is_some()),
        (Some("error"), true)
    );
    assert_eq!(fake.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_passed_through_unless_asked_for() {
    let fake = FakeProvider::start().unwrap();
    let yaml = config(&fake, "");
    let (front, back) = yaml.split_once("native:").unwrap();
    let gateway = TestGateway::start(&format!(
        "{front}{}",
        back.split_once("access:").map_or("", |(_, rest)| rest).replacen(" {", "access: {", 1)
    ))
    .await;
    for path in ["/openai/v1/files", "/v1/files", "/v1/images/generations", "/anthropic/v1/messages"] {
        let answer = call(&gateway, "POST", path, &[], b"{}").await;
        assert_eq!((answer.status, answer.header("x-millgate-error")), (404, Some("not_found")), "{path}");
    }
    assert!(fake.requests().is_empty());
}
