//! Names of models: aliases, patterns, what the lists say, and calls that a model cannot answer.

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::pass::chat;

async fn gateway(fake: &FakeProvider) -> TestGateway {
    let base = fake.base_url();
    TestGateway::start(&format!(
        "version: 1
providers:
  openai:
    kind: openai
    base_url: '{base}'
    api_key: k
    models:
      blind: {{ context_tokens: 1000, capabilities: {{ images: false, tools: false, json_schema: false, reasoning: false }} }}
      priced: {{ usd_per_million_tokens: {{ input: 1, output: 10 }} }}
  claude: {{ kind: anthropic, base_url: '{base}', api_key: k }}
endpoints:
  - {{ name: chat, aliases: [gpt-latest, 'team/chat:v1'], type: llm/v1/chat, route: openai/ok }}
  - {{ name: 'gpt-*', type: llm/v1/chat, route: 'openai/gpt-*' }}
  - {{ name: 'gpt-4o-*', type: llm/v1/chat, route: 'claude/claude-*-x' }}
  - {{ name: blind, type: llm/v1/chat, route: openai/blind }}
  - {{ name: seeing, type: llm/v1/chat, route: {{ fallback: [openai/blind, claude/ok] }} }}
  - {{ name: priced, type: llm/v1/chat, route: openai/priced }}
  - {{ name: vectors, type: llm/v1/chat, route: openai/text-embedding-3-small }}
"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_and_patterns_find_their_endpoint() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    for (asked, endpoint, model) in [
        ("chat", "chat", "ok"),
        ("gpt-latest", "chat", "ok"),
        ("team/chat:v1", "chat", "ok"),
        ("gpt-5-mini", "gpt-*", "gpt-5-mini"),
        ("gpt-4o-mini", "gpt-4o-*", "claude-mini-x"),
    ] {
        let answer = gateway.post("/v1/chat/completions", &chat(asked)).await;
        assert_eq!((answer.status, answer.header("x-millgate-endpoint")), (200, Some(endpoint)), "{asked}");
        assert_eq!(fake.last().json()["model"], model, "{asked}");
    }
    // At its own address the name is still the one that fits.
    let answer = gateway.post("/v1/chat/completions", &chat("gp-5")).await;
    assert_eq!(answer.json()["error"]["code"], "model_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_every_name_and_what_it_can_do() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let list = gateway.get("/v1/models").await.json();
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str()).collect();
    for name in ["chat", "gpt-latest", "team/chat:v1", "blind", "gpt-5-mini"] {
        assert!(ids.contains(&name), "{name} in {ids:?}");
    }
    assert!(!ids.iter().any(|id| id.contains('*') || id.starts_with("text-embedding")), "{ids:?}");
    let one = gateway.get("/v1/models/gpt-5-mini").await.json();
    let target = &one["millgate"]["targets"][0];
    assert_eq!((one["id"].as_str(), target["model"].as_str()), (Some("gpt-5-mini"), Some("gpt-5-mini")));
    assert_eq!(target["capabilities"]["tools"], true);
    assert!(target["context_tokens"].as_u64().unwrap() > 100_000 && target["price"].is_object());
    assert_eq!(one["millgate"]["catalogue_date"].as_str().unwrap().len(), 7);
    let blind = gateway.get("/v1/models/blind").await.json();
    assert_eq!(blind["millgate"]["targets"][0]["capabilities"]["images"], false);
    let google = gateway.get("/v1beta/models/gpt-5-mini").await.json();
    assert_eq!(google["inputTokenLimit"], target["context_tokens"]);
}

fn needing(model: &str) -> Vec<(&'static str, Value)> {
    let mut image = chat(model);
    image["messages"][0]["content"] =
        json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]);
    let mut tools = chat(model);
    tools["tools"] =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let mut schema = chat(model);
    schema["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}});
    let mut thinking = chat(model);
    thinking["reasoning_effort"] = "high".into();
    let mut long = chat(model);
    long["messages"][0]["content"] = "word ".repeat(5000).into();
    vec![
        ("model_lacks_capability", image),
        ("model_lacks_capability", tools),
        ("model_lacks_capability", schema),
        ("model_lacks_capability", thinking),
        ("context_length_exceeded", long),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_cannot_do_is_refused_before_it_is_sent() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    for (code, body) in needing("blind") {
        let answer = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (400, Some(code)),
            "{}",
            answer.text()
        );
    }
    assert!(fake.requests().is_empty());
    // Words about pictures are no pictures, and plain calls pass.
    let mut plain = chat("blind");
    plain["messages"][0]["content"] = "what is an image_url?".into();
    assert_eq!(gateway.post("/v1/chat/completions", &plain).await.status, 200);
    let answer = gateway.post("/v1/chat/completions", &chat("vectors")).await;
    assert_eq!(answer.json()["error"]["message"], "`text-embedding-3-small` is a model for embedding");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_model_cannot_do_goes_to_the_next() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    for (_, body) in needing("seeing") {
        let answer = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!(
            (answer.status, answer.header("x-millgate-target")),
            (200, Some("claude/ok")),
            "{}",
            answer.text()
        );
    }
    assert!(fake.requests().iter().all(|request| request.path.ends_with("/messages")));
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_of_the_configuration_are_used_and_unknown_ones_are_said() {
    let fake = FakeProvider::start().unwrap();
    let gateway = gateway(&fake).await;
    let answer = gateway.post("/v1/chat/completions", &chat("priced")).await;
    // 9 prompt and 7 completion tokens.
    assert_eq!(answer.header("x-millgate-cost-usd"), Some("0.000079000"));
    assert_eq!(answer.header("x-millgate-unpriced"), None);
    let answer = gateway.post("/v1/chat/completions", &chat("chat")).await;
    assert_eq!(
        (answer.header("x-millgate-cost-usd"), answer.header("x-millgate-unpriced")),
        (None, Some("true"))
    );
}
