//! Cohere as provider, for callers of every dialect.

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::pass::{chat, text_of};
use super::{PROVIDER_KEY, SENT};

async fn gateway(fake: &FakeProvider) -> TestGateway {
    let root = format!("http://{}", fake.address());
    TestGateway::start(&format!(
        "version: 1
providers:
  cohere: {{ kind: cohere, base_url: '{root}', api_key: {PROVIDER_KEY}, timeout: 2s, input_type: clustering, {SENT} }}
endpoints:
  - {{ name: vectors, type: llm/v1/embeddings, route: cohere/embed-v4.0 }}
  - {{ name: complete, type: llm/v1/completions, route: cohere/ok }}
access: {{ allow_provider_models: true }}
"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_every_dialect_reach_cohere() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let answer = gateway.post("/v1/chat/completions", &chat("cohere/command-a-03-2025")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.last().path, "/v2/chat");
    assert_eq!(fake.last().header("authorization"), Some(&*format!("Bearer {PROVIDER_KEY}")));
    assert_eq!(fake.last().json()["max_tokens"], 64);
    let got = answer.json();
    assert_eq!(got["choices"][0]["message"]["content"], "Hello from the fake provider.");
    assert_eq!(got["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        (&got["model"], &got["usage"]["prompt_tokens"]),
        (&json!("cohere/command-a-03-2025"), &json!(70))
    );
    // 4 x 2.5 + 7 x 10 micro-USD: what is billed, not what the model saw.
    assert_eq!(answer.header("x-millgate-cost-usd"), Some("0.000080000"));
    let got = gateway.post("/v1/messages", &chat("cohere/reasoning")).await.json();
    assert_eq!(got["content"][0]["thinking"], "Let me think.", "{got}");
    assert_eq!(got["stop_reason"], "end_turn");
    let got = gateway.post("/v1/responses", &json!({ "model": "cohere/ok", "input": "Hi" })).await.json();
    assert_eq!(got["output"][0]["content"][0]["text"], "Hello from the fake provider.", "{got}");
    let got = gateway.post("/v1/completions", &json!({ "model": "complete", "prompt": "Hi" })).await.json();
    assert_eq!(got["choices"][0]["text"], "Hello from the fake provider.", "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_tools_are_translated_both_ways() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let mut call = chat("cohere/ok");
    call["stream"] = true.into();
    call["stream_options"] = json!({ "include_usage": true });
    let events = gateway.post("/v1/chat/completions", &call).await.events();
    assert_eq!(text_of(&events), "Hello from the fake provider.");
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(events[events.len() - 2].contains("\"prompt_tokens\":70"), "{events:?}");
    call["model"] = "cohere/tool".into();
    call["tools"] = json!([{ "type": "function", "function": { "name": "get_weather" } }]);
    call["tool_choice"] = "required".into();
    let events = gateway.post("/v1/chat/completions", &call).await.events();
    assert_eq!(fake.last().json()["tool_choice"], "REQUIRED");
    assert_eq!(text_of(&events), "I will look.");
    let joined = events.concat();
    assert!(
        joined.contains("\"id\":\"get_weather_fake1\"")
            && joined.contains("\"finish_reason\":\"tool_calls\"")
    );
    let text = gateway.post("/v1/messages", &chat("cohere/tool")).await.json();
    assert_eq!(text["content"][1]["input"], json!({ "city": "Paris" }), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_texts_are_embedded_in_batches_and_come_back_as_one() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let texts: Vec<String> = (0..200).map(|index| "x".repeat(index % 7 + 1)).collect();
    let answer = gateway.post("/v1/embeddings", &json!({ "model": "vectors", "input": texts })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent: Vec<usize> = fake
        .requests()
        .iter()
        .map(|request| request.json()["texts"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(sent, [96, 96, 8]);
    assert!(fake.requests().iter().all(|request| request.json()["input_type"] == "clustering"));
    let got = answer.json();
    let data = got["data"].as_array().unwrap();
    assert_eq!((data.len(), &got["usage"]["prompt_tokens"]), (200, &json!(200)));
    for (index, item) in data.iter().enumerate() {
        let batch = if index < 192 { 96.0 } else { 8.0 };
        assert_eq!(
            (&item["index"], &item["embedding"]),
            (&json!(index), &json!([(index % 7 + 1) as f64, batch]))
        );
    }
    // 200 tokens at 0.12 USD per million.
    assert_eq!(answer.header("x-millgate-cost-usd"), Some("0.000024000"));
    fake.forget();
    let body = json!({ "model": "vectors", "input": "a", "input_type": "search_query", "encoding_format": "base64" });
    let got = gateway.post("/v1/embeddings", &body).await.json();
    assert!(got["data"][0]["embedding"].is_string(), "{got}");
    assert_eq!(fake.last().json()["input_type"], "search_query");
}

#[tokio::test(flavor = "multi_thread")]
async fn coheres_errors_are_told_in_the_callers_form() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    for (model, stream, status, code) in [
        ("status-400", false, 400, "upstream_invalid_request"),
        ("status-401", false, 502, "upstream_auth"),
        ("status-404", true, 404, "upstream_not_found"),
        ("status-429-retry-7", true, 429, "upstream_rate_limited"),
        ("status-498", false, 400, "upstream_invalid_request"),
        ("status-499", false, 502, "upstream_error"),
        ("status-503", false, 503, "upstream_overloaded"),
        ("error-200", false, 502, "upstream_error"),
        ("html-200", true, 502, "upstream_error"),
        ("bad-json", true, 502, "upstream_error"),
        ("empty-stream", true, 502, "upstream_error"),
        ("cut-stream", false, 502, "upstream_error"),
    ] {
        let mut call = chat(&format!("cohere/{model}"));
        call["stream"] = stream.into();
        let answer = gateway.post("/v1/chat/completions", &call).await;
        let body: Value = answer.json();
        assert_eq!((answer.status, &body["error"]["code"]), (status, &json!(code)), "{model}: {body}");
        assert!(!answer.text().contains("sk-fake"), "{model}");
    }
    let mut call = chat("cohere/cut-stream");
    call["stream"] = true.into();
    let text = gateway.post("/v1/chat/completions", &call).await.text();
    assert!(text.contains("stream_interrupted") && !text.contains("[DONE]"), "{text}");
}
