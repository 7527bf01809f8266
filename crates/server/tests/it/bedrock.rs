//! Bedrock behind the gateway: requests signed with AWS keys, Converse in the callers' words, event streams.

use std::time::{SystemTime, UNIX_EPOCH};

use millgate_provider::{AwsKeys, Scope, Unsigned, sign};
use millgate_testkit::{FakeProvider, Recorded, TestGateway};
use serde_json::{Value, json};

use super::SENT;
use super::pass::{chat, text_of};

const KEY_ID: &str = "AKIDCANARY0123456789";
const SECRET: &str = "canary/secret+key0123456789";
const TOKEN: &str = "canary-session-token==";
const TEXT: &str = "Hello from the fake provider.";

fn config(fake: &FakeProvider, credential: &str, models: &[&str]) -> String {
    let endpoints: Vec<String> = models
        .iter()
        .map(|model| format!("  - {{ name: '{}', type: llm/v1/chat, route: 'aws/{model}' }}\n", name(model)))
        .collect();
    format!(
        "version: 1
providers:
  aws: {{ kind: bedrock, region: eu-central-1, base_url: 'http://{}', timeout: 2s, {SENT}, {credential} }}
endpoints:
  - {{ name: vectors, type: llm/v1/embeddings, route: aws/amazon.titan-embed-text-v2:0 }}
{}",
        fake.address(),
        endpoints.concat()
    )
}

fn name(model: &str) -> String {
    model.replace([':', '/'], "-")
}

fn keys() -> String {
    format!(
        "credential: {{ aws: {{ access_key_id: {KEY_ID}, secret_access_key: '{SECRET}', session_token: '{TOKEN}' }} }}"
    )
}

/// What the provider got, signed once more, and the header that came with it.
fn signatures(sent: &Recorded) -> Option<(String, String)> {
    let date = sent.header("x-amz-date")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (path, query) = sent.path.split_once('?').unwrap_or((&sent.path, ""));
    let headers = [("host", sent.header("host")?), ("content-type", sent.header("content-type")?)];
    let request = Unsigned {
        method: &sent.method,
        path,
        query,
        headers: &headers,
        body: sent.body.as_bytes(),
        normalize: true,
    };
    let keys = AwsKeys { access_key_id: KEY_ID, secret_access_key: SECRET, session_token: Some(TOKEN) };
    let scope = Scope { region: "eu-central-1", service: "bedrock" };
    let mut tried = (now - 60..=now).map(|seconds| sign(&request, &keys, &scope, seconds));
    let again = tried.find(|signature| signature.date == date)?;
    Some((again.authorization, sent.header("authorization")?.to_owned()))
}

fn assert_signed(sent: &Recorded) {
    let signatures = signatures(sent);
    assert!(signatures.as_ref().is_some_and(|(again, sent)| again == sent), "{signatures:?}");
    assert_eq!(sent.header("x-amz-security-token"), Some(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_signed_and_translated() {
    let fake = FakeProvider::start().unwrap();
    let profile = "arn:aws:bedrock:eu-central-1:000000000000:application-inference-profile/abc";
    let models = ["eu.anthropic.claude-sonnet-4-5-20250929-v1:0", profile, "tool"];
    let gateway = TestGateway::start(&config(&fake, &keys(), &models)).await;
    let answer = gateway.post("/v1/chat/completions", &chat(&name(models[0]))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = fake.last();
    assert_eq!(sent.path, "/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse");
    assert_signed(&sent);
    assert_eq!(sent.json()["messages"][0]["role"], "user");
    let got = answer.json();
    assert_eq!(got["choices"][0]["message"]["content"], TEXT);
    assert_eq!((&got["usage"]["prompt_tokens"], &got["usage"]["completion_tokens"]), (&json!(9), &json!(7)));
    assert_eq!(got["usage"]["prompt_tokens_details"]["cached_tokens"], 4);

    assert_eq!(gateway.post("/v1/chat/completions", &chat(&name(profile))).await.status, 200);
    let sent = fake.last();
    assert_eq!(
        sent.path,
        "/model/arn%3Aaws%3Abedrock%3Aeu-central-1%3A000000000000%3Aapplication-inference-profile%2Fabc/converse"
    );
    assert_signed(&sent);

    let call = json!({ "model": "tool", "max_tokens": 9, "messages": chat("x")["messages"] });
    let answer = gateway.post("/v1/messages", &call).await.json();
    assert_eq!(answer["stop_reason"], "tool_use");
    assert_eq!(answer["content"][0]["input"], json!({ "city": "Paris" }));
    assert_eq!(answer["usage"]["cache_read_input_tokens"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_come_out_of_their_frames() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&config(&fake, &keys(), &["ok", "reasoning", "chunks-40-2ms"])).await;
    let words = (0..40).flat_map(|number| ["w".to_owned(), number.to_string(), " ".to_owned()]).collect();
    for (model, text) in [("ok", TEXT.to_owned()), ("chunks-40-2ms", words)] {
        let mut call = chat(model);
        call["stream"] = true.into();
        call["stream_options"] = json!({ "include_usage": true });
        let answer = gateway.post("/v1/chat/completions", &call).await;
        let events = answer.events();
        assert_eq!(fake.last().path, format!("/model/{model}/converse-stream"));
        assert_signed(&fake.last());
        assert_eq!(text_of(&events), text);
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
        assert_eq!(usage["usage"]["prompt_tokens"], 9, "{usage}");
    }
    let call =
        json!({ "model": "reasoning", "max_tokens": 9, "stream": true, "messages": chat("x")["messages"] });
    let answer = gateway.post("/v1/messages", &call).await;
    let text = answer.text();
    assert!(text.contains("\"signature_delta\"") && text.contains("message_stop"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_before_the_content_is_a_status_and_after_it_an_event() {
    let fake = FakeProvider::start().unwrap();
    let models =
        ["error-first", "error-in-stream", "cut-stream", "empty-stream", "status-403", "status-429-retry-7"];
    let gateway = TestGateway::start(&config(&fake, &keys(), &models)).await;
    let streamed = async |model: &str| {
        let mut call = chat(model);
        call["stream"] = true.into();
        gateway.post("/v1/chat/completions", &call).await
    };
    let answer = streamed("error-first").await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (429, Some("upstream_rate_limited")));
    let answer = streamed("empty-stream").await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (502, Some("upstream_error")));
    for (model, code) in [("error-in-stream", "upstream_rate_limited"), ("cut-stream", "stream_interrupted")]
    {
        let answer = streamed(model).await;
        assert_eq!(answer.status, 200);
        let events = answer.events();
        assert_eq!(text_of(&events), "Hello from ");
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], code, "{last}");
    }
    let answer = streamed("status-429-retry-7").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    let answer = gateway.post("/v1/chat/completions", &chat("status-403")).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (502, Some("upstream_auth")));
    for secret in [KEY_ID, SECRET, TOKEN, "127.0.0.1"] {
        assert!(!answer.text().contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lying_upstreams_are_upstream_errors() {
    let fake = FakeProvider::start().unwrap();
    let cases = [
        ("html-200", "upstream_error"),
        ("error-200", "upstream_error"),
        ("bad-json", "upstream_error"),
        ("huge", "upstream_error"),
        ("redirect", "upstream_error"),
        ("reset", "upstream_error"),
        ("hang", "upstream_timeout"),
        ("status-503", "upstream_overloaded"),
    ];
    let gateway = TestGateway::start(&config(&fake, &keys(), &cases.map(|(model, _)| model))).await;
    for stream in [false, true] {
        for (model, code) in cases {
            let mut call = chat(model);
            call["stream"] = stream.into();
            let answer = gateway.post("/v1/chat/completions", &call).await;
            assert_eq!(answer.header("x-millgate-error"), Some(code), "{model} {stream} {}", answer.text());
            assert!(answer.status >= 500 && !answer.text().contains("127.0.0.1"), "{model} {stream}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bedrock_key_goes_as_a_bearer_and_profiles_are_read_from_the_shared_file() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&config(&fake, "api_key: bedrock-api-key-canary", &["ok"])).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("ok")).await.status, 200);
    assert_eq!(fake.last().header("authorization"), Some("Bearer bedrock-api-key-canary"));
    assert_eq!(fake.last().header("x-amz-date"), None);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    let text = format!(
        "[default]\naws_access_key_id = NOT-THIS\naws_secret_access_key = x\n[work]\n\
         aws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\naws_session_token = {TOKEN}\n"
    );
    std::fs::write(&file, text).unwrap();
    let credential =
        format!("credential: {{ aws: {{ profile: work, credentials_file: '{}' }} }}", file.display());
    let gateway = TestGateway::start(&config(&fake, &credential, &["ok"])).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("ok")).await.status, 200);
    assert_signed(&fake.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded_and_counted_from_the_headers() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&config(&fake, &keys(), &[])).await;
    let call = json!({ "model": "vectors", "input": "a", "encoding_format": "float", "dimensions": 256 });
    let answer = gateway.post("/v1/embeddings", &call).await;
    assert_eq!(answer.json()["data"][0]["embedding"], json!([0.25, -0.5, 0.125, 1.0]), "{}", answer.text());
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 3);
    let sent = fake.last();
    assert_eq!(sent.path, "/model/amazon.titan-embed-text-v2%3A0/invoke");
    assert_eq!(sent.json(), json!({ "inputText": "a", "dimensions": 256 }));
    assert_signed(&sent);
    let answer = gateway.post("/v1/embeddings", &json!({ "model": "vectors", "input": ["a", "b"] })).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (400, Some("unsupported_parameter")));
}

#[tokio::test(flavor = "multi_thread")]
async fn mantle_is_spoken_to_in_openais_words_with_its_own_service() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&format!(
        "version: 1
providers:
  mantle: {{ kind: bedrock-mantle, region: us-east-1, base_url: 'http://{}', {} }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: mantle/ok }}
",
        fake.address(),
        keys()
    ))
    .await;
    assert_eq!(gateway.post("/v1/responses", &json!({ "model": "chat", "input": "Hi" })).await.status, 200);
    let sent = fake.last();
    assert_eq!(sent.path, "/v1/responses");
    let scope = "/us-east-1/bedrock-mantle/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token";
    assert!(sent.header("authorization").is_some_and(|value| value.contains(scope)), "{sent:?}");
}

/// Bedrock's own API: every request is signed over what is sent, body and query included.
#[tokio::test(flavor = "multi_thread")]
async fn its_own_api_is_signed_too() {
    let fake = FakeProvider::start().unwrap();
    let native = "native: { bedrock: { provider: aws } }\nserver: { max_body: 64KiB }\n";
    let gateway = TestGateway::start(&(config(&fake, &keys(), &[]) + native)).await;
    let body = json!({ "messages": [{ "role": "user", "content": [{ "text": "Hi \u{e9}" }] }] }).to_string();
    let caller = [("Authorization", "Bearer sk-caller-0123456789"), ("x-amz-date", "20200101T000000Z")];
    let path = "/bedrock/model/eu.amazon.nova-lite-v1%3A0/converse";
    let answer = gateway.post_with(path, &caller, body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = fake.last();
    assert_eq!((sent.path.as_str(), &sent.body), ("/model/eu.amazon.nova-lite-v1%3A0/converse", &body));
    assert_signed(&sent);
    assert_eq!(answer.json()["output"]["message"]["content"][0]["text"], TEXT);
    // Its streams are no server-sent events; they pass as they are.
    let path = "/bedrock/model/eu.amazon.nova-lite-v1%3A0/converse-stream?x=1&a=b";
    let answer = gateway.post_with(path, &[], body.as_bytes()).await;
    assert_eq!(answer.header("content-type"), Some("application/vnd.amazon.eventstream"));
    assert!(answer.complete && answer.text().contains("messageStop"), "{}", answer.text());
    assert_signed(&fake.last());
    // What is signed is held, so it may not be larger than other bodies.
    let answer = gateway.post_with(path, &[], &vec![b' '; 70_000]).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (413, Some("body_too_large")));
}
