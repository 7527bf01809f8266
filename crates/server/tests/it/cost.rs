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

/// The number behind a series of `/metrics`.
pub(super) async fn metric(gateway: &millgate_testkit::TestGateway, series: &str) -> u64 {
    let text = gateway.get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {series} in {text}"));
    value.parse().expect("a whole number")
}

/// Waits until a series is there: a cancelled request's record leaves when its connection is seen to be gone.
pub(super) async fn until(gateway: &millgate_testkit::TestGateway, series: &str) {
    for _ in 0..500 {
        if gateway.get("/metrics").await.text().contains(series) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no {series} in {}", gateway.get("/metrics").await.text());
}

/// A provider that cannot be asked for usage in streams, and gives none.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_provider_does_not_count_are_counted() {
    let fake = FakeProvider::start().unwrap();
    let more = "  - { name: silent, type: llm/v1/chat, route: silent/gpt-4o-mini }\n";
    let yaml = super::config(&fake, &[], more).replace(
        "endpoints:",
        &format!("  silent: {{ kind: perplexity, base_url: '{}', api_key: k }}\nendpoints:", fake.base_url()),
    );
    let gateway = millgate_testkit::TestGateway::start(&yaml).await;
    for (path, streamed) in [("/v1/chat/completions", 1), ("/v1/messages", 2)] {
        let mut body = chat("silent");
        body["stream"] = json!(true);
        body["max_tokens"] = json!(50);
        let answer = gateway.post(path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let labels = r#"endpoint="silent",target="silent/gpt-4o-mini""#;
        assert_eq!(
            metric(&gateway, &format!("millgate_estimated_requests_total{{{labels}}}")).await,
            streamed
        );
        // "Hello from the fake provider." is six tokens, the prompt "Hello" one and its frame four.
        let count = |class: &str| format!("millgate_tokens_total{{{labels},class=\"{class}\"}}");
        assert_eq!(metric(&gateway, &count("output")).await, 6 * streamed);
        assert_eq!(metric(&gateway, &count("input")).await, 5 * streamed);
    }
}

/// A caller that leaves is billed for what was made until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_stream_is_counted_as_far_as_it_came() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["chunks-1000-20ms"]).await;
    for provider in ["openai", "anthropic"] {
        let endpoint = format!("{provider}-chunks-1000-20ms");
        let mut body = chat(&endpoint);
        body["stream"] = json!(true);
        let body = serde_json::to_vec(&body).unwrap();
        let mut connection = gateway.connect().await.unwrap();
        connection.request("POST", "/v1/chat/completions", &[], &body).await.unwrap();
        let mut opened = connection.answer_head().await.unwrap();
        for _ in 0..5 {
            opened.piece().await.unwrap();
        }
        drop(connection);
        let labels = format!(r#"endpoint="{endpoint}",target="{provider}/chunks-1000-20ms""#);
        until(&gateway, &format!("millgate_estimated_requests_total{{{labels}}} 1")).await;
        let output = metric(&gateway, &format!("millgate_tokens_total{{{labels},class=\"output\"}}")).await;
        assert!((1..200).contains(&output), "{output}");
    }
}
