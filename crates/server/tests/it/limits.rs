//! Rate limits.

use millgate_testkit::{FakeProvider, TestGateway};

use super::config;
use super::pass::chat;

/// The article's form: `rate_limit: {calls, period}`.
#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_limit_are_429_and_say_when() {
    let fake = FakeProvider::start().unwrap();
    let text = format!(
        "routes:
  - name: openai-chat-route
    route_type: llm/v1/chat
    model:
      provider: openai
      name: ok
      openai_config: {{ openai_api_key: sk-test-0123456789, openai_api_base: '{}' }}
    endpoint: /llm/openai/chat
    rate_limit: {{ calls: 10, period: 60s }}
",
        fake.base_url()
    );
    let gateway = TestGateway::start(&text).await;
    for call in 0..10 {
        let answer = gateway.post("/llm/openai/chat", &chat("openai-chat-route")).await;
        assert_eq!(answer.status, 200, "{call}: {}", answer.text());
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("10"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(&*(9 - call).to_string()));
    }
    // The same counter, whichever way the endpoint is called.
    for path in ["/llm/openai/chat", "/v1/chat/completions", "/v1/messages"] {
        let answer = gateway.post(path, &chat("openai-chat-route")).await;
        assert_eq!(answer.status, 429, "{path}");
        assert_eq!(answer.header("x-millgate-error"), Some("rate_limit_exceeded"));
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
    assert_eq!(fake.requests().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_calls_never_pass_the_limit() {
    let fake = FakeProvider::start().unwrap();
    let more = "  - { name: few, type: llm/v1/chat, route: openai/ok, limits: [ { requests: 20, per: hour, by: endpoint } ] }\n";
    let gateway = std::sync::Arc::new(TestGateway::start(&config(&fake, &["ok"], more)).await);
    let calls: Vec<_> = (0..60)
        .map(|_| {
            let gateway = std::sync::Arc::clone(&gateway);
            tokio::spawn(async move { gateway.post("/v1/chat/completions", &chat("few")).await.status })
        })
        .collect();
    let mut admitted = 0;
    for call in calls {
        let status = call.await.unwrap();
        assert!([200, 429].contains(&status), "{status}");
        admitted += usize::from(status == 200);
    }
    assert_eq!((admitted, fake.requests().len()), (20, 20));
}
