//! The translate lane: the caller speaks one dialect, the provider another.

use millgate_testkit::{FakeProvider, TestGateway};
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

/// A conversation that Gemini began goes on at Claude: caller and provider speak the same dialect, yet Google's seal may
/// not reach Anthropic, which refuses what it did not seal.
#[tokio::test(flavor = "multi_thread")]
async fn another_makers_seals_do_not_pass_through() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "reasoning"]).await;
    let mut call = chat("gemini-reasoning");
    let first = gateway.post("/v1/messages", &call).await.json();
    assert!(first["content"].to_string().contains("gemini/x/c2lnbmF0dXJl"), "{first}");
    call["model"] = "anthropic-ok".into();
    call["messages"] = json!([{ "role": "user", "content": "Hi" },
        { "role": "assistant", "content": first["content"] }, { "role": "user", "content": "And?" }]);
    let answer = gateway.post("/v1/messages", &call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!fake.last().body.contains("c2lnbmF0dXJl"), "{}", fake.last().body);
    assert!(
        answer.header("x-millgate-dropped").is_some_and(|dropped| dropped.contains("messages[1].content["))
    );
    // Its own seals go back byte for byte.
    let first = gateway.post("/v1/messages", &chat("anthropic-reasoning")).await.json();
    call["messages"][1]["content"] = first["content"].clone();
    let answer = gateway.post("/v1/messages", &call).await;
    assert_eq!(answer.header("x-millgate-dropped"), None);
    assert_eq!(fake.last().json()["messages"], call["messages"]);
}

/// DeepSeek takes no schemas: also callers who speak its dialect get theirs told in words, not refused by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_the_provider_lacks_is_told_in_words() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&format!(
        "version: 1
providers: {{ deepseek: {{ kind: deepseek, base_url: '{}', api_key: sk-0123456789, timeout: 2s }} }}
access: {{ allow_provider_models: true }}
",
        fake.base_url()
    ))
    .await;
    let mut call = chat("deepseek/ok");
    call["response_format"] = json!({ "type": "json_schema", "json_schema": { "name": "a", "schema": {
        "type": "object", "properties": { "answer_in_metres": { "type": "integer" } } } } });
    assert_eq!(gateway.post("/v1/chat/completions", &call).await.status, 200);
    let sent = fake.last();
    assert_eq!(sent.json()["response_format"]["type"], "json_object", "{}", sent.body);
    assert!(sent.json()["messages"].to_string().contains("answer_in_metres"), "{}", sent.body);
    call["response_format"] = json!({ "type": "json_object" });
    call["x_unknown"] = 1.into();
    assert_eq!(gateway.post("/v1/chat/completions", &call).await.status, 200);
    call["model"] = "ok".into();
    assert_eq!(fake.last().json(), call);
}
