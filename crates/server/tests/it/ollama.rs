//! Ollama's own API as provider.

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::json;

use super::SENT;
use super::pass::{chat, text_of};

async fn gateway(fake: &FakeProvider) -> TestGateway {
    TestGateway::start(&format!(
        "version: 1
providers:
  ollama: {{ kind: ollama-native, base_url: 'http://{}', timeout: 2s, {SENT} }}
access: {{ allow_provider_models: true }}
",
        fake.address()
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_reach_ollama_in_its_own_words() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let mut call = chat("ollama/reasoning");
    call["keep_alive"] = "5m".into();
    call["options"] = json!({ "num_ctx": 8192 });
    let answer = gateway.post("/v1/chat/completions", &call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = fake.last();
    assert_eq!((sent.path.as_str(), sent.header("authorization")), ("/api/chat", None));
    assert_eq!(sent.json()["options"], json!({ "num_ctx": 8192, "num_predict": 64 }));
    assert_eq!((&sent.json()["stream"], &sent.json()["keep_alive"]), (&json!(false), &json!("5m")));
    let message = &answer.json()["choices"][0]["message"];
    assert_eq!(message["content"], "Hello from the fake provider.");
    assert_eq!(message["reasoning_content"], "Let me think.");
    let got = gateway.post("/v1/messages", &chat("ollama/tool")).await.json();
    assert_eq!(got["content"][0]["input"], json!({ "city": "Paris" }), "{got}");
    assert_eq!(got["usage"]["input_tokens"], 9);
    let body = json!({ "model": "ollama/minilm", "input": ["a", "b"] });
    let got = gateway.post("/v1/embeddings", &body).await.json();
    assert_eq!((fake.last().path.as_str(), got["data"].as_array().map(Vec::len)), ("/api/embed", Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_lines_become_the_callers_events() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let mut call = chat("ollama/ok");
    call["stream"] = true.into();
    let events = gateway.post("/v1/chat/completions", &call).await.events();
    assert_eq!(text_of(&events), "Hello from the fake provider.");
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    call["model"] = "ollama/tool".into();
    let text = gateway.post("/v1/chat/completions", &call).await.text();
    assert!(text.contains("get_weather") && text.contains("\"finish_reason\":\"tool_calls\""), "{text}");
    for (model, stream, status, code) in [
        ("status-404", false, 404, "upstream_not_found"),
        ("status-503", true, 503, "upstream_overloaded"),
        ("error-first", true, 502, "upstream_error"),
        ("error-200", false, 502, "upstream_error"),
        ("empty-stream", true, 502, "upstream_error"),
        ("bad-json", true, 502, "upstream_error"),
        ("huge", true, 502, "upstream_error"),
    ] {
        call["model"] = format!("ollama/{model}").into();
        call["stream"] = stream.into();
        let answer = gateway.post("/v1/chat/completions", &call).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)), "{model}");
    }
    call["stream"] = true.into();
    for model in ["cut-stream", "error-in-stream"] {
        call["model"] = format!("ollama/{model}").into();
        let text = gateway.post("/v1/chat/completions", &call).await.text();
        assert!(text.contains("Hello ") && text.contains("\"error\":"), "{model}: {text}");
        assert!(!text.contains("[DONE]"), "{model}: {text}");
    }
}
