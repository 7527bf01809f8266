//! Rerank and moderations: one shape for callers, each provider's own behind it.

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::{PROVIDER_KEY, SENT};

async fn gateway(fake: &FakeProvider) -> TestGateway {
    let root = format!("http://{}", fake.address());
    TestGateway::start(&format!(
        "version: 1
providers:
  cohere: {{ kind: cohere, base_url: '{root}', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
  voyage: {{ kind: voyage, base_url: '{root}/voyage', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
  local: {{ kind: openai-compatible, base_url: '{root}/v1', timeout: 2s, {SENT} }}
  openai: {{ kind: openai, base_url: '{root}/v1', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
  mistral: {{ kind: mistral, base_url: '{root}/mistral/v1', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
  anthropic: {{ kind: anthropic, base_url: '{root}/v1', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
endpoints:
  - {{ name: cohere-rank, type: llm/v1/rerank, route: cohere/rerank-v3.5 }}
  - {{ name: voyage-rank, type: llm/v1/rerank, path: /rank, route: voyage/rerank-2 }}
  - {{ name: local-rank, type: llm/v1/rerank, route: local/bge }}
  - {{ name: stray-rank, type: llm/v1/rerank, route: {{ fallback: [local/stray, cohere/rerank-v3.5] }} }}
  - {{ name: lost-rank, type: llm/v1/rerank, route: local/stray }}
  - {{ name: no-rank, type: llm/v1/rerank, route: anthropic/ok }}
  - {{ name: chat, type: llm/v1/chat, route: openai/ok }}
  - {{ name: judge, type: llm/v1/moderations, route: openai/omni-moderation-latest }}
access: {{ allow_provider_models: true }}
"
    ))
    .await
}

fn call(model: &str) -> Value {
    json!({ "model": model, "query": "q", "documents": ["a long text", "a", { "text": "a text" }], "top_n": 2 })
}

fn order(answer: &Value) -> Vec<u64> {
    let results = answer["results"].as_array().into_iter().flatten();
    results.map(|result| result["index"].as_u64().unwrap_or(u64::MAX)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reranker_answers_in_one_shape_best_first() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    for (path, model, sent_to, most) in [
        ("/v2/rerank", "cohere-rank", "/v2/rerank", "top_n"),
        ("/v1/rerank", "voyage-rank", "/voyage/rerank", "top_k"),
        ("/rerank", "local-rank", "/v1/rerank", "top_n"),
        ("/v1/rerank", "cohere/rerank-v3.5", "/v2/rerank", "top_n"),
    ] {
        let answer = gateway.post(path, &call(model)).await;
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        let sent = fake.last();
        assert_eq!((sent.path.as_str(), &sent.json()[most]), (sent_to, &json!(2)), "{model}");
        assert_eq!(sent.json()["documents"], json!(["a long text", "a", "a text"]), "{model}");
        let got = answer.json();
        assert_eq!(order(&got), [1, 2], "{model}: {got}");
        assert!(
            got["results"][0]["relevance_score"].as_f64() > got["results"][1]["relevance_score"].as_f64()
        );
        assert_eq!((&got["model"], &got["results"][0]["document"]), (&json!(model), &Value::Null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_and_tokens_are_metered_and_priced() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let answer = gateway.post("/v2/rerank", &call("cohere-rank")).await;
    assert_eq!(answer.header("x-millgate-cost-usd"), Some("0.002000000"), "{}", answer.text());
    assert_eq!(answer.json()["meta"]["billed_units"], json!({ "search_units": 1 }));
    assert_eq!(answer.json()["usage"], Value::Null);
    let answer = gateway.post("/v2/rerank", &call("voyage-rank")).await;
    // 12 tokens at 0.05 USD per million.
    assert_eq!(answer.header("x-millgate-cost-usd"), Some("0.000000600"), "{}", answer.text());
    assert_eq!(answer.json()["usage"]["total_tokens"], 12);
    let metrics = gateway.get("/metrics").await.text();
    assert!(
        metrics.contains(
            r#"millgate_cost_nano_usd_total{endpoint="cohere-rank",target="cohere/rerank-v3.5"} 2000000"#
        ),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_come_back_when_asked_for_though_the_provider_sends_none() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let mut call = call("cohere-rank");
    call["return_documents"] = true.into();
    let got = gateway.post("/v1/rerank", &call).await.json();
    assert_eq!(got["results"][0]["document"], json!({ "text": "a" }));
    assert_eq!(got["results"][1]["document"], json!({ "text": "a text" }));
    assert_eq!(fake.last().json()["return_documents"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoints_own_paths_speak_the_same_shape() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let mut body = call("x");
    body.as_object_mut().unwrap().shift_remove("model");
    for path in ["/rank", "/gateway/voyage-rank/invocations"] {
        let answer = gateway.post(path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(order(&answer.json()), [1, 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_in_coheres_form() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let rows = [
        (json!({ "model": "cohere-rank", "documents": ["a"] }), 400, "invalid_value"),
        (json!({ "model": "cohere-rank", "query": "q" }), 400, "invalid_value"),
        (json!({ "model": "cohere-rank", "query": "q", "documents": [] }), 400, "invalid_value"),
        (json!({ "model": "chat", "query": "q", "documents": ["a"] }), 400, "invalid_value"),
        (json!({ "model": "nobody", "query": "q", "documents": ["a"] }), 404, "model_not_found"),
        (json!({ "query": "q", "documents": ["a"] }), 400, "invalid_value"),
        (
            json!({ "model": "cohere/status-429", "query": "q", "documents": ["a"] }),
            429,
            "upstream_rate_limited",
        ),
        (json!({ "model": "cohere/status-401", "query": "q", "documents": ["a"] }), 502, "upstream_auth"),
        (json!({ "model": "cohere/html-200", "query": "q", "documents": ["a"] }), 502, "upstream_error"),
        (json!({ "model": "cohere/bad-json", "query": "q", "documents": ["a"] }), 502, "upstream_error"),
        (json!({ "model": "lost-rank", "query": "q", "documents": ["a"] }), 502, "upstream_error"),
        (json!({ "model": "no-rank", "query": "q", "documents": ["a"] }), 501, "not_implemented"),
    ];
    for (body, status, code) in rows {
        let answer = gateway.post("/v2/rerank", &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert_eq!(answer.json()["code"], code, "{body}: {}", answer.text());
        assert!(answer.json()["message"].is_string() && answer.json()["id"].is_string(), "{}", answer.text());
        assert!(!answer.text().contains(PROVIDER_KEY));
    }
    // A provider that ranks what it was not sent is passed over.
    let answer = gateway.post("/v2/rerank", &call("stray-rank")).await;
    assert_eq!((answer.status, answer.header("x-millgate-attempts")), (200, Some("2")), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn moderations_pass_to_openai_and_are_translated_from_mistral() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let body = json!({ "model": "judge", "input": ["good", "bad"], "x_unknown": 1.50 });
    let answer = gateway.post("/v1/moderations", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fake.last().body, body.to_string().replace("\"judge\"", "\"omni-moderation-latest\""));
    assert_eq!(answer.json()["results"][1]["flagged"], true);
    assert_eq!(answer.json()["results"][1]["category_applied_input_types"]["hate"], json!(["text"]));
    let body = json!({ "model": "mistral/mistral-moderation-latest", "input": ["good", "bad"] });
    let got = gateway.post("/v1/moderations", &body).await.json();
    assert_eq!(fake.last().path, "/mistral/v1/moderations");
    assert_eq!(got["model"], "mistral/mistral-moderation-latest");
    assert_eq!((&got["results"][0]["flagged"], &got["results"][1]["flagged"]), (&json!(false), &json!(true)));
    assert_eq!(got["results"][1]["categories"]["hate"], true);
    assert_eq!(got["results"][1]["categories"]["hate_and_discrimination"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moderation_without_a_model_goes_to_the_only_endpoint() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let answer = gateway.post("/v1/moderations", &json!({ "input": "bad" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-millgate-endpoint"), Some("judge"));
    assert_eq!(fake.last().json()["model"], "omni-moderation-latest");
    for (body, status, code) in [
        (json!({ "model": "judge" }), 400, "invalid_value"),
        (json!({ "model": "cohere/ok", "input": "x" }), 501, "not_implemented"),
        (json!({ "model": "openai/status-500", "input": "x" }), 502, "upstream_error"),
    ] {
        let answer = gateway.post("/v1/moderations", &body).await;
        assert_eq!(
            (answer.status, answer.header("x-millgate-error")),
            (status, Some(code)),
            "{}",
            answer.text()
        );
    }
}

/// Mistral's lists are its own: callers get OpenAI's shape, and what Mistral refuses is left out.
#[tokio::test(flavor = "multi_thread")]
async fn mistrals_lists_become_text_and_thinking() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let body = json!({ "model": "mistral/reasoning", "seed": 7, "user": "u", "max_completion_tokens": 9,
        "safe_prompt": true, "messages": [{ "role": "user", "content": "Hi" },
            { "role": "assistant", "content": "Yes.", "reasoning_content": "Hm." }, { "role": "user", "content": "And?" }] });
    let answer = gateway.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = fake.last().json();
    assert_eq!(
        (&sent["random_seed"], &sent["max_tokens"], &sent["safe_prompt"]),
        (&json!(7), &json!(9), &json!(true))
    );
    assert_eq!((&sent["user"], &sent["seed"]), (&Value::Null, &Value::Null));
    assert_eq!(sent["messages"][1]["content"][0]["type"], "thinking", "{sent}");
    assert_eq!(answer.header("x-millgate-dropped"), Some("user"));
    let message = &answer.json()["choices"][0]["message"];
    assert_eq!(message["content"], "Hello from the fake provider.");
    assert_eq!(message["reasoning_content"], "Let me think.");
    let body = json!({ "model": "mistral/mistral-embed", "input": "x", "dimensions": 8 });
    assert_eq!(gateway.post("/v1/embeddings", &body).await.status, 200);
    assert_eq!(
        (&fake.last().json()["output_dimension"], &fake.last().json()["dimensions"]),
        (&json!(8), &Value::Null)
    );
}
