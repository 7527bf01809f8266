//! Tokens and what they cost, on both lanes.

use millgate_testkit::FakeProvider;
use serde_json::json;

use super::{over, pass::chat};

/// The fake answers 9 prompt and 7 completion tokens: 9 x 0.15 + 7 x 0.60 micro-USD for gpt-4o-mini,
/// 9 x 1 + 7 x 5 for claude-haiku-4-5.
#[tokio::test(flavor = "multi_thread")]
async fn a_priced_model_tells_what_the_call_cost() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["gpt-4o-mini", "claude-haiku-4-5"]).await;
    let answer = gateway.post("/v1/chat/completions", &chat("openai-gpt-4o-mini")).await;
    assert_eq!(answer.header("x-millgate-cost-usd"), Some("0.000005550"), "{}", answer.text());
    let usage = &gateway.post("/v1/chat/completions", &chat("anthropic-claude-haiku-4-5")).await;
    let tokens = &usage.json()["usage"];
    let cost = tokens["prompt_tokens"].as_u64().unwrap() * 1000
        + tokens["completion_tokens"].as_u64().unwrap() * 5000;
    assert_eq!(usage.header("x-millgate-cost-usd"), Some(&*format!("0.{cost:09}")), "{}", usage.text());
    let metrics = gateway.get("/metrics").await.text();
    assert!(
        metrics.contains(
            r#"millgate_cost_nano_usd_total{endpoint="openai-gpt-4o-mini",target="openai/gpt-4o-mini"} 5550"#
        ),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_price_costs_nothing_known_rather_than_zero() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let answer = gateway.post("/v1/chat/completions", &chat("openai-ok")).await;
    assert_eq!(answer.header("x-millgate-cost-usd"), None);
    let metrics = gateway.get("/metrics").await.text();
    assert!(
        metrics.contains(r#"millgate_unpriced_requests_total{endpoint="openai-ok",target="openai/ok"} 1"#),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_priced_too() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["gpt-4o-mini"]).await;
    let mut body = chat("openai-gpt-4o-mini");
    body["stream"] = json!(true);
    let answer = gateway.post("/v1/chat/completions", &body).await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    let metrics = gateway.get("/metrics").await.text();
    assert!(metrics.contains("millgate_cost_nano_usd_total{endpoint=\"openai-gpt-4o-mini\""), "{metrics}");
}
