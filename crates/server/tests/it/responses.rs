//! OpenAI's Responses API: passed on where the provider has it, translated elsewhere.

use millgate_testkit::FakeProvider;
use serde_json::{Value, json};

use super::over;

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
