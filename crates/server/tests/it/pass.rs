//! The pass lane: same dialect on both sides, bytes go through.

use millgate_testkit::FakeProvider;
use serde_json::{Value, json};

use super::{PROVIDER_KEY, over};

/// Everything but the model's name is the caller's own bytes: spaces, number forms, escapes, unknown fields.
#[tokio::test(flavor = "multi_thread")]
async fn the_body_reaches_the_provider_byte_for_byte_except_the_model() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let body = "{ \"messages\" : [ {\"role\":\"user\",\"content\":\"h\\u00e9 \u{1F600}\"} ],\n\
         \"temperature\": 0.50, \"model\":\"openai-ok\", \"x_unknown\": {\"deep\":[1.0,1e3,null]},\t\"seed\":7 }";
    let answer = gateway.post_with("/v1/chat/completions", &[], body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.last().body, body.replace("\"openai-ok\"", "\"ok\""));
    assert_eq!(fake.last().path, "/v1/chat/completions");
}

/// What a provider refuses is cut out of the bytes, what it names otherwise renamed; the rest stays as it came.
#[tokio::test(flavor = "multi_thread")]
async fn fields_that_the_provider_takes_otherwise_are_cut_or_renamed_in_place() {
    let fake = FakeProvider::start().unwrap();
    let base = fake.base_url();
    let gateway = millgate_testkit::TestGateway::start(&format!(
        "version: 1
providers:
  groq: {{ kind: groq, base_url: '{base}', api_key: k }}
  openai: {{ kind: openai, base_url: '{base}', api_key: k }}
  plain: {{ kind: openai-compatible, base_url: '{base}' }}
access: {{ allow_provider_models: true }}
"
    ))
    .await;
    let fields = r#""max_tokens" : 9, "logprobs": true,"top_logprobs":2 , "x": [1.0], "top_k": 4"#;
    for (provider, sent, dropped) in [
        ("groq", r#""max_tokens" : 9 , "x": [1.0]"#, Some("logprobs, top_logprobs, top_k")),
        (
            "openai",
            r#""max_completion_tokens" : 9, "logprobs": true,"top_logprobs":2 , "x": [1.0]"#,
            Some("top_k"),
        ),
        ("plain", fields, None),
    ] {
        let body = |model: &str, fields: &str| {
            format!(r#"{{"model":"{model}", "messages":[{{"role":"user","content":"x"}}], {fields}}}"#)
        };
        let call = body(&format!("{provider}/ok"), fields);
        let answer = gateway.post_with("/v1/chat/completions", &[], call.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(fake.last().body, body("ok", sent), "{provider}");
        assert_eq!(answer.header("x-millgate-dropped"), dropped, "{provider}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_of_the_answer_survive() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let answer = gateway.post("/v1/chat/completions", &chat("openai-ok")).await;
    assert_eq!(answer.json()["x_unknown"], json!({ "kept": true }));
    assert_eq!(answer.json()["system_fingerprint"], "fp_fake");
    assert_eq!(answer.header("x-millgate-endpoint"), Some("openai-ok"));
    assert_eq!(answer.header("x-millgate-target"), Some("openai/ok"));
    assert_eq!(answer.header("x-request-id").map(str::len), Some(32));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_sees_its_key_and_nothing_of_the_callers() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let body = |model: &str| {
        format!(r#"{{"model":"{model}","max_tokens":9,"messages":[{{"role":"user","content":"x"}}]}}"#)
    };
    let secrets = [
        ("Authorization", "Bearer sk-caller-secret-000000"),
        ("x-api-key", "sk-caller-secret-111111"),
        ("Cookie", "session=caller-secret"),
        ("X-Forwarded-For", "10.1.2.3"),
        ("OpenAI-Organization", "caller-org"),
    ];
    for (path, model) in [("/v1/chat/completions", "openai-ok"), ("/v1/messages", "anthropic-ok")] {
        let answer = gateway.post_with(path, &secrets, body(model).as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let requests = fake.requests();
    for request in &requests {
        assert!(!format!("{:?}", request.headers).contains("caller"), "{:?}", request.headers);
        assert_eq!(request.header("x-forwarded-for"), None);
    }
    assert_eq!(requests[0].header("authorization"), Some(&*format!("Bearer {PROVIDER_KEY}")));
    assert_eq!(requests[0].header("x-api-key"), None);
    assert_eq!(requests[1].header("x-api-key"), Some(PROVIDER_KEY));
    assert_eq!(requests[1].header("authorization"), None);
    assert_eq!(requests[1].header("anthropic-version"), Some("2023-06-01"));
}

/// `stream_options` is ours: usage is asked for to be counted, and hidden from a caller who did not ask.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_and_usage_is_asked_for_but_shown_only_to_who_asked() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let mut call = chat("openai-ok");
    call["stream"] = true.into();
    let plain = gateway.post("/v1/chat/completions", &call).await;
    assert_eq!(plain.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(fake.last().json()["stream_options"]["include_usage"], true);
    let events = plain.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(text_of(&events), "Hello from the fake provider.");
    assert!(events.iter().all(|event| !event.contains("prompt_tokens")), "{events:?}");
    call["stream_options"] = json!({ "include_usage": true });
    let asked = gateway.post("/v1/chat/completions", &call).await.events();
    assert!(asked.iter().any(|event| event.contains("prompt_tokens")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anthropic_stream_passes_with_its_event_names() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let mut call = chat("anthropic-ok");
    call["stream"] = true.into();
    let answer = gateway.post("/v1/messages", &call).await;
    let text = answer.text();
    for name in ["message_start", "content_block_delta", "message_delta", "message_stop"] {
        assert!(text.contains(&format!("event: {name}\n")), "{name} is missing: {text}");
    }
    assert!(answer.complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_passed_on_when_it_comes_not_when_the_stream_ends() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["chunks-20-50ms"]).await;
    let mut call = chat("openai-chunks-20-50ms");
    call["stream"] = true.into();
    let mut connection = gateway.connect().await.unwrap();
    let began = std::time::Instant::now();
    connection.request("POST", "/v1/chat/completions", &[], call.to_string().as_bytes()).await.unwrap();
    let mut opened = connection.answer_head().await.unwrap();
    assert!(opened.piece().await.unwrap().is_some());
    assert!(began.elapsed().as_millis() < 500, "{:?}", began.elapsed());
    let mut pieces = 1;
    while opened.piece().await.unwrap().is_some() {
        pieces += 1;
    }
    assert!(began.elapsed().as_millis() >= 900 && pieces > 15, "{pieces} pieces in {:?}", began.elapsed());
}

/// Several calls on one connection, and the same upstream connection behind them.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_on_both_sides() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok", "status-429-retry-7"]).await;
    let mut connection = gateway.connect().await.unwrap();
    for (model, status) in [("ok", 200), ("status-429-retry-7", 429), ("ok", 200)] {
        let body = chat(&format!("openai-{model}")).to_string();
        connection.request("POST", "/v1/chat/completions", &[], body.as_bytes()).await.unwrap();
        assert_eq!(connection.answer().await.unwrap().status, status);
    }
}

pub(super) fn chat(model: &str) -> Value {
    json!({ "model": model, "max_tokens": 64, "messages": [{ "role": "user", "content": "Hello" }] })
}

pub(super) fn text_of(events: &[String]) -> String {
    events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}
