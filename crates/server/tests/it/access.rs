//! Keys.

use std::time::Duration;

use millgate_testkit::{FakeProvider, TestGateway};

use super::config;
use super::pass::chat;

const KEY: &str = "mg-caller-key-0123456789";

async fn guarded(fake: &FakeProvider) -> TestGateway {
    let access = format!("access: {{ keys: required, static: [ {{ name: alice, key: {KEY} }} ] }}\n");
    TestGateway::start(&config(fake, &["ok"], &access)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_taken_from_every_usual_header() {
    let fake = FakeProvider::start().unwrap();
    let gateway = guarded(&fake).await;
    let body = chat("openai-ok").to_string();
    let bearer = format!("Bearer {KEY}");
    for (name, value) in
        [("Authorization", &*bearer), ("x-api-key", KEY), ("api-key", KEY), ("x-goog-api-key", KEY)]
    {
        let answer = gateway.post_with("/v1/chat/completions", &[(name, value)], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert!(!format!("{:?}", fake.last()).contains(KEY), "{name} reached the provider");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_unknown_or_double_key_is_401_with_one_and_the_same_body() {
    let fake = FakeProvider::start().unwrap();
    let gateway = guarded(&fake).await;
    let body = chat("openai-ok").to_string();
    let right = format!("Bearer {KEY}");
    let cases: [&[(&str, &str)]; 6] = [
        &[],
        &[("Authorization", "Bearer wrong-key-000000000")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Basic YTpi")],
        &[("Authorization", &right), ("Authorization", &right)],
        &[("Cookie", "key=mg-caller-key-0123456789")],
    ];
    for headers in cases {
        for path in ["/v1/chat/completions", "/v1/messages", "/gateway/openai-ok/invocations"] {
            let answer = gateway.post_with(path, headers, body.as_bytes()).await;
            assert_eq!(answer.status, 401, "{headers:?}");
            assert_eq!(answer.header("x-millgate-error"), Some("invalid_api_key"));
            assert!(answer.header("www-authenticate").is_some());
        }
    }
    assert!(fake.requests().is_empty());
    for path in ["/v1/models", "/api/2.0/endpoints/"] {
        assert_eq!(gateway.get(path).await.status, 401, "{path}");
    }
    assert_eq!(gateway.get("/health").await.status, 200);
}

/// An unknown caller cannot make us read: the answer is there before the body is.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_answer_comes_before_the_body() {
    let fake = FakeProvider::start().unwrap();
    let gateway = guarded(&fake).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 1000000\r\n\r\n";
    let answer = tokio::time::timeout(Duration::from_secs(2), gateway.raw(head.as_bytes())).await;
    assert_eq!(answer.expect("at once").unwrap().0.status, 401);
}

/// Endpoints, their paths and paths that nobody has look alike to a caller without a key.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_nobody_learns_which_endpoints_there_are() {
    let fake = FakeProvider::start().unwrap();
    let gateway = guarded(&fake).await;
    for path in
        ["/gateway/openai-ok/invocations", "/gateway/nobody/invocations", "/predict/nothing", "/v1/models"]
    {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 401, "{path}: {}", answer.text());
        assert_eq!(answer.header("x-millgate-error"), Some("invalid_api_key"), "{path}");
    }
    for path in ["/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(gateway.get(path).await.status, 200, "{path}");
    }
}
