//! Vertex AI: one provider, whose models' names tell how they are spoken to.

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::pass::{chat, text_of};

const TEXT: &str = "Hello from the fake provider.";
const GOOGLE: &str = "/v1/projects/p-1/locations/europe-west1/publishers/google/models";
const ANTHROPIC: &str = "/v1/projects/p-1/locations/europe-west1/publishers/anthropic/models";

async fn start(fake: &FakeProvider) -> TestGateway {
    TestGateway::start(&format!(
        "version: 1
providers:
  vertex:
    kind: vertex
    project: p-1
    location: europe-west1
    base_url: '{}'
    credential: {{ google: {{ metadata_host: '{}' }} }}
endpoints:
  - {{ name: gemini, type: llm/v1/chat, route: vertex/gemini-2.5-flash }}
  - {{ name: claude, type: llm/v1/chat, route: vertex/claude-sonnet-4-5@20250929 }}
  - {{ name: llama, type: llm/v1/chat, route: vertex/meta/llama-3.3-70b-instruct-maas }}
  - {{ name: old-vectors, type: llm/v1/embeddings, route: vertex/text-embedding-005 }}
  - {{ name: new-vectors, type: llm/v1/embeddings, route: vertex/gemini-embedding-2 }}
access: {{ allow_provider_models: true }}
native: {{ vertex: {{ provider: vertex }} }}
",
        fake.base_url(),
        fake.address()
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn geminis_models_are_spoken_to_in_googles_words() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let answer = gateway.post("/v1/chat/completions", &chat("gemini")).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], TEXT, "{}", answer.text());
    let sent = fake.last();
    assert_eq!(sent.path, format!("{GOOGLE}/gemini-2.5-flash:generateContent"));
    assert_eq!(sent.header("authorization"), Some("Bearer token-1"));
    assert_eq!(sent.json()["contents"][0]["role"], "user");
    let contents = json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hi" }] }] });
    let answer = gateway.post("/v1beta/models/gemini:streamGenerateContent?alt=sse", &contents).await;
    assert!(answer.text().contains("finishReason"), "{}", answer.text());
    let sent = fake.last();
    assert_eq!(sent.path, format!("{GOOGLE}/gemini-2.5-flash:streamGenerateContent?alt=sse"));
    assert_eq!(sent.json(), contents);
}

#[tokio::test(flavor = "multi_thread")]
async fn claudes_models_are_spoken_to_in_anthropics_words_without_the_model() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let mut call = json!({ "model": "claude", "max_tokens": 9, "messages": [{ "role": "user", "content": "Hi" }],
        "metadata": { "user_id": "u" }, "future_field": { "kept": [1, 2.5] } });
    for path in ["/v1/messages", "/v1/messages?beta=true"] {
        let headers = [("anthropic-beta", "context-1m-2025-08-07"), ("x-api-key", "callers-own")];
        let answer = gateway.post_with(path, &headers, call.to_string().as_bytes()).await;
        assert_eq!(answer.json()["content"][0]["text"], TEXT, "{}", answer.text());
        assert_eq!(answer.json()["model"], "claude");
        let sent = fake.last();
        assert_eq!(sent.path, format!("{ANTHROPIC}/claude-sonnet-4-5@20250929:rawPredict"));
        assert_eq!(sent.header("anthropic-beta"), Some("context-1m-2025-08-07"));
        assert_eq!(sent.header("x-api-key"), None);
        assert_eq!(sent.header("authorization"), Some("Bearer token-1"));
        let mut expected = call.clone();
        expected["anthropic_version"] = "vertex-2023-10-16".into();
        expected.as_object_mut().map(|body| body.shift_remove("model"));
        assert_eq!(sent.json(), expected);
    }
    call["stream"] = true.into();
    let answer = gateway.post("/v1/messages", &call).await;
    assert!(answer.text().contains("message_stop"), "{}", answer.text());
    assert_eq!(fake.last().path, format!("{ANTHROPIC}/claude-sonnet-4-5@20250929:streamRawPredict"));
    assert_eq!(fake.last().json()["stream"], true);
    let mut call = chat("claude");
    call["stream"] = true.into();
    let events = gateway.post("/v1/chat/completions", &call).await.events();
    assert_eq!(text_of(&events), TEXT);
    let call = json!({ "model": "claude", "messages": [{ "role": "user", "content": "123456789" }] });
    let answer = gateway.post("/v1/messages/count_tokens", &call).await;
    assert_eq!(answer.json(), json!({ "input_tokens": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_makers_models_are_spoken_to_in_openais_words_also_when_callers_name_them() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let path = "/v1/projects/p-1/locations/europe-west1/endpoints/openapi/chat/completions";
    for name in ["llama", "vertex/meta/llama-3.3-70b-instruct-maas"] {
        let answer = gateway.post("/v1/chat/completions", &chat(name)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(fake.last().path, path);
        assert_eq!(fake.last().json()["model"], "meta/llama-3.3-70b-instruct-maas");
    }
    let answer = gateway.post("/v1/chat/completions", &chat("vertex/claude-opus-4-7")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.last().path, format!("{ANTHROPIC}/claude-opus-4-7:rawPredict"));
    let answer = gateway.post("/v1/chat/completions", &chat("vertex/gemini-3-pro")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.last().path, format!("{GOOGLE}/gemini-3-pro:generateContent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded_in_the_shape_that_the_model_takes() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let call = |name: &str, input: Value| json!({ "model": name, "input": input, "encoding_format": "float", "dimensions": 4 });
    let answer = gateway.post("/v1/embeddings", &call("old-vectors", json!(["a", "b"]))).await.json();
    assert_eq!(answer["data"][1]["embedding"], json!([0.25, -0.5, 0.125, 1.0]), "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], 6);
    assert_eq!(fake.last().path, format!("{GOOGLE}/text-embedding-005:predict"));
    assert_eq!(
        fake.last().json(),
        json!({ "instances": [{ "content": "a" }, { "content": "b" }], "parameters": { "outputDimensionality": 4 } })
    );
    let answer = gateway.post("/v1/embeddings", &call("new-vectors", json!("a"))).await.json();
    assert_eq!(answer["data"][0]["embedding"][3], 1.0, "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(fake.last().path, format!("{GOOGLE}/gemini-embedding-2:embedContent"));
    let answer = gateway.post("/v1/embeddings", &call("new-vectors", json!(["a", "b"]))).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (400, Some("unsupported_parameter")));
    let with_task = json!({ "content": { "parts": [{ "text": "a" }] }, "taskType": "RETRIEVAL_QUERY" });
    let answer = gateway.post("/v1beta/models/old-vectors:embedContent", &with_task).await;
    assert_eq!(answer.json()["embedding"]["values"][3], 1.0, "{}", answer.text());
    assert_eq!(fake.last().json()["instances"], json!([{ "content": "a", "task_type": "RETRIEVAL_QUERY" }]));
}

/// Google's own API on Vertex AI: with our token, and its streams as lists as they come.
#[tokio::test(flavor = "multi_thread")]
async fn its_own_api_is_called_with_our_token() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let body = json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hi" }] }] });
    for (action, stream) in [("generateContent", false), ("streamGenerateContent?alt=sse", true)] {
        let path = format!("/vertex{GOOGLE}/gemini-2.5-flash:{action}");
        let answer = gateway.post(&path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("candidates"), "{}", answer.text());
        assert_eq!(
            answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")),
            stream
        );
        let sent = fake.last();
        assert_eq!(sent.path, path.trim_start_matches("/vertex"));
        assert_eq!(sent.header("authorization"), Some("Bearer token-1"));
    }
}
