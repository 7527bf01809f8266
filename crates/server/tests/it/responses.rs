//! OpenAI's Responses API: passed on where the provider has it, translated elsewhere.

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::{SENT, over};

const TEXT: &str = "Hello from the fake provider.";

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_has_it_gets_the_callers_bytes() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let call = json!({ "model": "openai-ok", "previous_response_id": "resp_1", "tools": [{ "type": "web_search" }],
        "input": "Hi" });
    let answer = gateway.post("/v1/responses", &call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.last().path, "/v1/responses");
    let mut expected = call.clone();
    expected["model"] = "ok".into();
    assert_eq!(fake.last().json(), expected);
    assert_eq!(answer.json()["x_unknown"]["kept"], true);
    let mut call = call;
    call["stream"] = true.into();
    let text = gateway.post("/v1/responses", &call).await.text();
    assert!(text.contains("event: response.completed"), "{text}");
    // Both calls were counted, each with its cached tokens.
    let records = gateway.get("/metrics").await.text();
    let cached = records.lines().find(|line| line.contains("tokens_total") && line.contains("cache_read"));
    assert!(cached.is_some_and(|line| line.ends_with(" 8")), "{records}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_models_answer_in_its_shape() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "tool", "reasoning"]).await;
    for provider in ["anthropic", "gemini"] {
        let mut call = json!({ "model": format!("{provider}-ok"), "input": "Hi", "instructions": "Be brief.",
            "max_output_tokens": 99, "store": true });
        let got = gateway.post("/v1/responses", &call).await.json();
        assert_eq!(got["object"], "response", "{got}");
        assert_eq!(got["status"], "completed");
        assert_eq!(got["output"][0]["content"][0]["text"], TEXT);
        assert!(got["usage"]["total_tokens"].as_u64() >= Some(16));
        call["model"] = format!("{provider}-tool").into();
        call["tools"] =
            json!([{ "type": "function", "name": "get_weather", "parameters": { "type": "object" } }]);
        let got = gateway.post("/v1/responses", &call).await.json();
        let called = got["output"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&called["type"], &called["name"]), (&json!("function_call"), &json!("get_weather")));
        // The items go back as they came, with the result.
        let mut items = vec![json!({ "role": "user", "content": "Hi" })];
        items.extend(got["output"].as_array().unwrap().clone());
        items.push(json!({ "type": "function_call_output", "call_id": called["call_id"], "output": "18" }));
        call["input"] = items.into();
        assert_eq!(gateway.post("/v1/responses", &call).await.status, 200);
        let sent = fake.last().body;
        assert!(sent.contains("18") && sent.contains("Paris"), "{sent}");
        if provider == "gemini" {
            assert!(sent.contains("c2lnbmF0dXJl"), "{sent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_order_and_are_numbered() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "tool", "reasoning"]).await;
    let kinds = |events: &[Value]| -> Vec<String> {
        let mut kinds: Vec<String> =
            events.iter().map(|event| event["type"].as_str().unwrap().replace("response.", "")).collect();
        kinds.dedup();
        kinds
    };
    let ask = |model: &str| json!({ "model": model, "input": "Hi", "stream": true });
    for (model, expected) in [
        (
            "anthropic-ok",
            vec![
                "output_item.added",
                "content_part.added",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
                "output_item.done",
            ],
        ),
        (
            "anthropic-tool",
            vec![
                "output_item.added",
                "function_call_arguments.delta",
                "function_call_arguments.done",
                "output_item.done",
            ],
        ),
        (
            "anthropic-reasoning",
            vec![
                "output_item.added",
                "reasoning_summary_part.added",
                "reasoning_summary_text.delta",
                "reasoning_summary_text.done",
                "reasoning_summary_part.done",
                "output_item.done",
                "output_item.added",
                "content_part.added",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
                "output_item.done",
            ],
        ),
    ] {
        let answer = gateway.post("/v1/responses", &ask(model)).await;
        let events: Vec<Value> =
            answer.events().iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let mut whole = vec!["created", "in_progress"];
        whole.extend(expected);
        whole.push("completed");
        assert_eq!(kinds(&events), whole, "{model}");
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        let last = &events.last().unwrap()["response"];
        assert_eq!(last["status"], "completed");
        assert_eq!(last["usage"]["input_tokens"], 9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_cannot_do_is_refused() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    for (field, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("conv_1")),
        ("background", json!(true)),
        ("tools", json!([{ "type": "web_search" }])),
    ] {
        let mut call = json!({ "model": "anthropic-ok", "input": "Hi" });
        call[field] = value;
        let answer = gateway.post("/v1/responses", &call).await;
        assert_eq!(answer.status, 400, "{field}");
        assert_eq!(answer.json()["error"]["code"], "unsupported_parameter");
        assert!(answer.json()["error"]["param"].as_str().unwrap().starts_with(field));
    }
}

/// `api: responses`: callers of every dialect are served through the provider's `/responses`.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_may_be_called_by_responses_for_everybody() {
    let fake = FakeProvider::start().unwrap();
    let base = fake.base_url();
    let gateway = TestGateway::start(&format!(
        "version: 1
providers:
  openai: {{ kind: openai, api: responses, base_url: '{base}', api_key: sk-0123456789, timeout: 2s, {SENT} }}
  local: {{ kind: vllm, api: responses, base_url: '{base}', timeout: 2s }}
access: {{ allow_provider_models: true }}
"
    ))
    .await;
    let mut call = json!({ "model": "openai/gpt-5-mini", "max_tokens": 64,
        "messages": [{ "role": "user", "content": "Hi" }] });
    for path in ["/v1/chat/completions", "/v1/messages", "/v1/responses"] {
        if path == "/v1/responses" {
            call = json!({ "model": "local/ok", "input": "Hi" });
        }
        let answer = gateway.post(path, &call).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(fake.last().path, "/v1/responses");
        assert!(answer.text().contains(TEXT), "{path}: {}", answer.text());
    }
    let mut call = json!({ "model": "openai/tool", "max_tokens": 64, "stream": true,
        "messages": [{ "role": "user", "content": "Hi" }] });
    let text = gateway
        .post(
            "/v1/messages",
            &json!({ "model": "openai/ok", "max_tokens": 64, "stream": true,
        "messages": [{ "role": "user", "content": "Hi" }] }),
        )
        .await
        .text();
    assert!(text.contains("\"text\":\"Hello \"") && text.contains("event: message_stop"), "{text}");
    let sent = fake.last().json();
    assert_eq!(
        (&sent["stream"], &sent["store"], &sent["max_output_tokens"]),
        (&json!(true), &json!(false), &json!(64))
    );
    let contents = json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hi" }] }] });
    let got = gateway.post("/v1beta/models/openai/ok:generateContent", &contents).await;
    assert_eq!(got.json()["candidates"][0]["content"]["parts"][0]["text"], TEXT, "{}", got.text());
    call["stream"] = false.into();
    let got = gateway.post("/v1/chat/completions", &call).await.json();
    let choice = &got["choices"][0];
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "get_weather", "{got}");
    assert_eq!(
        (&choice["finish_reason"], &got["usage"]["prompt_tokens_details"]["cached_tokens"]),
        (&json!("tool_calls"), &json!(4))
    );
    for (model, stream, status, code) in [
        ("status-400", false, 400, "upstream_invalid_request"),
        ("status-503", true, 503, "upstream_overloaded"),
        ("error-first", true, 502, "upstream_error"),
        ("empty-stream", true, 502, "upstream_error"),
    ] {
        call["model"] = format!("openai/{model}").into();
        call["stream"] = stream.into();
        let answer = gateway.post("/v1/chat/completions", &call).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)), "{model}");
    }
}

/// Events that passed through are numbered; the error that we put behind them continues their count.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_behind_passed_events_has_the_next_number() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["error-in-stream-250ms", "cut-stream"]).await;
    for model in ["error-in-stream-250ms", "cut-stream"] {
        let call = json!({ "model": format!("openai-{model}"), "input": "Hi", "stream": true });
        let answer = gateway.post("/v1/responses", &call).await;
        let numbers: Vec<Value> = answer
            .events()
            .iter()
            .map(|event| serde_json::from_str::<Value>(event).unwrap()["sequence_number"].clone())
            .collect();
        assert!(answer.text().contains("event: error"), "{}", answer.text());
        assert_eq!(numbers, (0..numbers.len()).map(Value::from).collect::<Vec<_>>(), "{model}");
    }
}

/// What another provider thought has no place in OpenAI's items, and that is told.
#[tokio::test(flavor = "multi_thread")]
async fn thinking_of_others_is_left_out_by_name() {
    let fake = FakeProvider::start().unwrap();
    let base = fake.base_url();
    let gateway = TestGateway::start(&format!(
        "version: 1
providers: {{ openai: {{ kind: openai, api: responses, base_url: '{base}', api_key: sk-0123456789, timeout: 2s, {SENT} }} }}
access: {{ allow_provider_models: true }}
"
    ))
    .await;
    let thought = json!({ "type": "thinking", "thinking": "Hm.", "signature": "c2ln" });
    let call = json!({ "model": "openai/gpt-5-mini", "max_tokens": 64, "messages": [
        { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": [thought, { "type": "text", "text": "Yes." }] },
        { "role": "user", "content": "And?" }] });
    let answer = gateway.post("/v1/messages", &call).await;
    assert_eq!(answer.header("x-millgate-dropped"), Some("messages[1].content[0]"), "{}", answer.text());
    assert!(!fake.last().body.contains("c2ln"), "{}", fake.last().body);
}
