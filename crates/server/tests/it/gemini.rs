//! Google's dialect: as a provider's, as a caller's, and both at once.

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::pass::{chat, text_of};
use super::{PROVIDER_KEY, config, over};

const TEXT: &str = "Hello from the fake provider.";

fn contents() -> Value {
    json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hi" }] }] })
}

fn said(chunks: &[Value]) -> String {
    let parts = chunks.iter().filter_map(|chunk| chunk["candidates"][0]["content"]["parts"].as_array());
    parts.flatten().filter_map(|part| part["text"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_openai_caller_reaches_a_gemini_model() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "tool"]).await;
    let mut call = chat("gemini-ok");
    let answer = gateway.post("/v1/chat/completions", &call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = fake.last();
    assert_eq!(sent.path, "/v1/models/ok:generateContent");
    assert_eq!(sent.header("x-goog-api-key"), Some(PROVIDER_KEY));
    assert_eq!(sent.json()["contents"][0]["role"], "user");
    assert_eq!(sent.json()["model"], Value::Null);
    let got = answer.json();
    assert_eq!(got["choices"][0]["message"]["content"], TEXT);
    assert_eq!(got["model"], "gemini-ok");
    assert_eq!(got["usage"]["prompt_tokens"], 9);
    assert_eq!(got["usage"]["completion_tokens"], 10);
    assert_eq!(got["usage"]["completion_tokens_details"]["reasoning_tokens"], 3);
    assert_eq!(got["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
    call["stream"] = true.into();
    let events = gateway.post("/v1/chat/completions", &call).await.events();
    assert_eq!(fake.last().path, "/v1/models/ok:streamGenerateContent?alt=sse");
    assert_eq!(text_of(&events), TEXT);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_comes_back_to_the_call_it_was_on() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["tool"]).await;
    let mut call = chat("gemini-tool");
    call["tools"] = json!([{ "type": "function", "function": { "name": "get_weather",
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } } } } }]);
    let answer = gateway.post("/v1/chat/completions", &call).await.json();
    let message = answer["choices"][0]["message"].clone();
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    let id = message["tool_calls"][0]["id"].clone();
    let mut more = call.clone();
    if let Some(messages) = more["messages"].as_array_mut() {
        messages.push(message);
        messages.push(json!({ "role": "tool", "tool_call_id": id, "content": "18 degrees" }));
    }
    assert_eq!(gateway.post("/v1/chat/completions", &more).await.status, 200);
    let sent = fake.last().json();
    assert_eq!(
        sent["contents"][1]["parts"],
        json!([{ "functionCall": { "name": "get_weather", "args": { "city": "Paris" } },
            "thoughtSignature": "c2lnbmF0dXJl" }])
    );
    assert_eq!(
        sent["contents"][2]["parts"],
        json!([{ "functionResponse": { "name": "get_weather", "response": { "result": "18 degrees" } } }])
    );
    // The same by way of Anthropic's dialect.
    let mut call = chat("gemini-tool");
    call["tools"] = json!([{ "name": "get_weather", "input_schema": { "type": "object" } }]);
    let answer = gateway.post("/v1/messages", &call).await.json();
    assert_eq!(answer["stop_reason"], "tool_use");
    let result = json!({ "type": "tool_result", "tool_use_id": answer["content"][1]["id"], "content": "18" });
    if let Some(messages) = call["messages"].as_array_mut() {
        messages.push(json!({ "role": "assistant", "content": answer["content"] }));
        messages.push(json!({ "role": "user", "content": [result] }));
    }
    assert_eq!(gateway.post("/v1/messages", &call).await.status, 200);
    assert_eq!(fake.last().json()["contents"][1]["parts"][0]["thoughtSignature"], "c2lnbmF0dXJl");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gemini_callers_bytes_pass_unchanged() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let body = br#" {"contents" : [{"parts":[{"text":"h\u00e9"}]}], "xNew": 1.50 } "#;
    let answer = gateway.post_with("/v1beta/models/gemini-ok:generateContent", &[], body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.last().body.as_bytes(), body);
    assert_eq!(answer.json()["candidates"][0]["xUnknown"]["kept"], true);
    let path = "/v1beta/models/gemini-ok:streamGenerateContent";
    let events = gateway.post_with(&format!("{path}?alt=sse"), &[], body).await;
    assert!(events.text().ends_with("\r\n\r\n"));
    let chunks: Vec<Value> =
        events.events().iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(said(&chunks), TEXT);
    let list = gateway.post_with(path, &[], body).await;
    assert_eq!(list.header("content-type"), Some("application/json"));
    let chunks: Vec<Value> = serde_json::from_slice(&list.body).unwrap();
    assert_eq!(said(&chunks), TEXT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gemini_caller_reaches_other_models() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "tool"]).await;
    for provider in ["openai", "anthropic"] {
        let path = format!("/v1beta/models/{provider}-ok");
        let answer = gateway.post(&format!("{path}:generateContent"), &contents()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let got = answer.json();
        assert_eq!(said(std::slice::from_ref(&got)), TEXT);
        assert_eq!(got["candidates"][0]["finishReason"], "STOP");
        assert_eq!(got["usageMetadata"]["totalTokenCount"], 16);
        assert_eq!(got["modelVersion"], format!("{provider}-ok"));
        let events =
            gateway.post(&format!("{path}:streamGenerateContent?alt=sse"), &contents()).await.events();
        let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        assert_eq!(said(&chunks), TEXT);
        assert_eq!(chunks.last().unwrap()["candidates"][0]["finishReason"], "STOP");
        let mut call = contents();
        call["tools"] = json!([{ "functionDeclarations": [{ "name": "get_weather" }] }]);
        let path = format!("/v1beta/models/{provider}-tool:streamGenerateContent");
        let chunks: Vec<Value> = serde_json::from_slice(&gateway.post(&path, &call).await.body).unwrap();
        let called = chunks.iter().find_map(|chunk| {
            let parts = chunk["candidates"][0]["content"]["parts"].as_array()?;
            parts.iter().find_map(|part| part.get("functionCall").cloned())
        });
        assert_eq!(called.unwrap()["args"], json!({ "city": "Paris" }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_googles_shape() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "status-429-retry-3", "error-in-stream"]).await;
    let answer = gateway.post("/v1beta/models/nobody:generateContent", &contents()).await;
    assert_eq!((answer.status, answer.json()["error"]["status"].as_str()), (404, Some("NOT_FOUND")));
    let answer = gateway.post("/v1beta/models/gemini-ok:generateContent", &json!({})).await;
    assert_eq!((answer.status, answer.json()["error"]["status"].as_str()), (400, Some("INVALID_ARGUMENT")));
    let answer = gateway.post("/v1beta/models/gemini-status-429-retry-3:generateContent", &contents()).await;
    assert_eq!((answer.status, answer.json()["error"]["status"].as_str()), (429, Some("RESOURCE_EXHAUSTED")));
    assert_eq!(answer.json()["error"]["details"][1]["retryDelay"], "3s");
    let path = "/v1beta/models/gemini-error-in-stream:streamGenerateContent";
    let chunks: Vec<Value> = serde_json::from_slice(&gateway.post(path, &contents()).await.body).unwrap();
    assert!(chunks.last().unwrap()["error"]["code"].is_u64(), "{chunks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_by_who_can_and_estimated_elsewhere() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let answer = gateway.post("/v1beta/models/gemini-ok:countTokens", &contents()).await;
    assert_eq!(fake.last().path, "/v1/models/ok:countTokens");
    assert_eq!(answer.json()["totalTokens"], 42);
    let mut call = chat("anthropic-ok");
    call["max_tokens"] = Value::Null;
    let answer = gateway.post("/v1/messages/count_tokens", &call).await;
    assert_eq!(fake.last().path, "/v1/messages/count_tokens");
    assert_eq!(answer.json()["input_tokens"], 42);
    call["model"] = "openai-ok".into();
    call["messages"] = json!([{ "role": "user", "content": "123456789" }]);
    let answer = gateway.post("/v1/messages/count_tokens", &call).await;
    assert_eq!(answer.json(), json!({ "input_tokens": 3 }));
    assert_eq!(answer.header("x-millgate-estimated"), Some("true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded_and_models_listed() {
    let fake = FakeProvider::start().unwrap();
    let more = "  - { name: vectors, type: llm/v1/embeddings, route: gemini/embedder }
  - { name: others, type: llm/v1/embeddings, route: openai/embedder }
";
    let gateway = TestGateway::start(&config(&fake, &["ok"], more)).await;
    let call =
        json!({ "model": "vectors", "input": ["a", "b"], "encoding_format": "float", "dimensions": 4 });
    let answer = gateway.post("/v1/embeddings", &call).await;
    assert_eq!(answer.json()["data"][1]["embedding"], json!([0.25, -0.5, 0.125, 1.0]), "{}", answer.text());
    assert_eq!(fake.last().path, "/v1/models/embedder:batchEmbedContents");
    assert_eq!(fake.last().json()["requests"][1]["outputDimensionality"], 4);
    let one = json!({ "content": { "parts": [{ "text": "a" }] } });
    for name in ["vectors", "others"] {
        let answer = gateway.post(&format!("/v1beta/models/{name}:embedContent"), &one).await;
        assert_eq!(answer.json()["embedding"]["values"][3], 1.0, "{}", answer.text());
        let many = json!({ "requests": [one, one] });
        let answer = gateway.post(&format!("/v1beta/models/{name}:batchEmbedContents"), &many).await;
        assert_eq!(answer.json()["embeddings"].as_array().map(Vec::len), Some(2));
    }
    let listed = gateway.get("/v1beta/models").await.json();
    assert!(listed["models"].as_array().unwrap().iter().any(|model| model["name"] == "models/vectors"));
    assert_eq!(gateway.get("/v1beta/models/gemini-ok").await.json()["name"], "models/gemini-ok");
    assert_eq!(gateway.get("/v1beta/models/nobody").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_deployments_are_called_both_ways() {
    let fake = FakeProvider::start().unwrap();
    let base = fake.base_url().trim_end_matches("/v1").to_owned();
    let gateway = TestGateway::start(&format!(
        "version: 1
providers:
  new: {{ kind: azure, base_url: '{base}', api_key: {PROVIDER_KEY} }}
  old: {{ kind: azure, base_url: '{base}', api_key: {PROVIDER_KEY}, api_version: 2024-10-21 }}
endpoints:
  - {{ name: new, type: llm/v1/chat, route: new/ok }}
  - {{ name: old, type: llm/v1/chat, route: old/my dep }}
"
    ))
    .await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("new")).await.status, 200);
    assert_eq!(fake.last().path, "/openai/v1/chat/completions");
    assert_eq!(fake.last().header("api-key"), Some(PROVIDER_KEY));
    assert_eq!(gateway.post("/v1/chat/completions", &chat("old")).await.status, 200);
    assert_eq!(fake.last().path, "/openai/deployments/my%20dep/chat/completions?api-version=2024-10-21");
    let call = json!({ "model": "new", "input": "Hi" });
    assert_eq!(gateway.post("/v1/responses", &call).await.status, 200);
    assert_eq!(fake.last().path, "/openai/v1/responses");
    // The classic paths have no Responses API: translated.
    let call = json!({ "model": "old", "input": "Hi" });
    let answer = gateway.post("/v1/responses", &call).await;
    assert_eq!(answer.json()["object"], "response", "{}", answer.text());
    assert!(fake.last().path.starts_with("/openai/deployments/"));
}
