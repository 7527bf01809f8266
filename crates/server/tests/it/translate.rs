//! The translate lane: the caller speaks one dialect, the provider another.

use millgate_testkit::FakeProvider;
use serde_json::{Value, json};

use super::over;
use super::pass::{chat, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_openai_caller_reaches_an_anthropic_model() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let mut call = chat("anthropic-ok");
    call["messages"] =
        json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hi" }]);
    let answer = gateway.post("/v1/chat/completions", &call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = fake.last();
    assert_eq!(sent.path, "/v1/messages");
    assert_eq!(sent.json()["model"], "ok");
    assert_eq!(sent.json()["max_tokens"], 64);
    assert!(sent.json()["system"].to_string().contains("Be brief."), "{}", sent.body);
    let got = answer.json();
    assert_eq!(got["object"], "chat.completion");
    assert_eq!(got["model"], "anthropic-ok");
    assert_eq!(got["choices"][0]["message"]["content"], "Hello from the fake provider.");
    assert_eq!(got["choices"][0]["finish_reason"], "stop");
    assert_eq!(got["usage"]["prompt_tokens"], 9);
    assert_eq!(got["usage"]["total_tokens"], 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_openai_caller_streams_from_an_anthropic_model() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "tool"]).await;
    let mut call = chat("anthropic-ok");
    call["stream"] = true.into();
    let events = gateway.post("/v1/chat/completions", &call).await.events();
    assert_eq!(text_of(&events), "Hello from the fake provider.");
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    call["model"] = "anthropic-tool".into();
    let events = gateway.post("/v1/chat/completions", &call).await.events();
    let arguments: String = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter_map(|event| {
            let call = &event["choices"][0]["delta"]["tool_calls"][0];
            call["function"]["arguments"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({ "city": "Paris" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anthropic_caller_reaches_an_openai_model() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "tool"]).await;
    let answer = gateway.post("/v1/messages", &chat("openai-ok")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.last().path, "/v1/chat/completions");
    assert_eq!(answer.json()["type"], "message");
    assert_eq!(answer.json()["content"][0]["text"], "Hello from the fake provider.");
    let mut call = chat("openai-tool");
    call["tools"] = json!([{ "name": "get_weather", "input_schema": { "type": "object" } }]);
    let answer = gateway.post("/v1/messages", &call).await;
    assert_eq!(fake.last().json()["tools"][0]["function"]["name"], "get_weather");
    assert_eq!(answer.json()["stop_reason"], "tool_use");
    assert_eq!(answer.json()["content"][0]["input"], json!({ "city": "Paris" }));
    call["stream"] = true.into();
    let text = gateway.post("/v1/messages", &call).await.text();
    assert!(text.contains("input_json_delta") && text.contains("event: message_stop"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mlflow_caller_gets_mlflows_shape() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let call = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    for model in ["openai-ok", "anthropic-ok"] {
        let answer = gateway.post(&format!("/gateway/{model}/invocations"), &call).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["model"], "ok");
        assert_eq!(answer.json()["provider"], model.trim_end_matches("-ok"));
    }
}
