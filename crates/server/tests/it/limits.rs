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

/// The fake answers 9 prompt and 7 completion tokens.
pub(super) fn asking(endpoint: &str, max_tokens: u64) -> serde_json::Value {
    let mut body = chat(endpoint);
    body["max_tokens"] = max_tokens.into();
    body
}

/// 1 USD per million prompt tokens and 10 per million of the answer: with 9 and 7 tokens a call costs 79 micro-USD.
const PRICED: &str = "models: { '*': { usd_per_million_tokens: { input: 1, output: 10 } } }";

pub(super) fn with(fake: &FakeProvider, access: &str, limits: &str, more: &str) -> String {
    format!(
        "{access}
providers:
  openai: {{ kind: openai, api_key: sk-test-0123456789, base_url: '{}', {PRICED} }}
{limits}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: openai/ok }}
{more}",
        fake.base_url()
    )
}

async fn post_as(gateway: &TestGateway, key: &str) -> (u16, String) {
    let (key, body) = (format!("Bearer {key}"), chat("chat").to_string());
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let answer = gateway.post_with("/v1/chat/completions", &headers, body.as_bytes()).await;
    (answer.status, answer.text())
}

/// Waits until the record of the last call is settled: a moment after its answer.
pub(super) async fn settled() {
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_reserved_by_bound_and_settled_by_use() {
    let fake = FakeProvider::start().unwrap();
    let limits = "limits: [ { tokens: 100, per: day, window: calendar, by: all } ]";
    let gateway = TestGateway::start(&with(&fake, "", limits, "")).await;
    // Never: 90 and a prompt of some tokens is more than 100 at once.
    let answer = gateway.post("/v1/chat/completions", &asking("chat", 99)).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("100"));
    assert!(answer.text().contains("100 tokens"), "{}", answer.text());
    // 16 tokens each, whatever was reserved.
    let mut answered = 0;
    loop {
        let answer = gateway.post("/v1/chat/completions", &asking("chat", 20)).await;
        if answer.status != 200 {
            assert_eq!(answer.status, 429);
            let left: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=86_400).contains(&left), "{left}");
            break;
        }
        answered += 1;
        settled().await;
    }
    // 20 and the prompt must still fit: at 80 they do not.
    assert_eq!((answered, fake.requests().len()), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_never_spend_more_than_the_budget() {
    let fake = FakeProvider::start().unwrap();
    // 10 calls of at most 7 tokens (70 micro-USD) and a prompt that is counted.
    let limits = "budgets: [ { name: company, usd: 0.000900, per: month } ]";
    let gateway = std::sync::Arc::new(TestGateway::start(&with(&fake, "", limits, "")).await);
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let gateway = std::sync::Arc::clone(&gateway);
            tokio::spawn(async move { gateway.post("/v1/chat/completions", &asking("chat", 7)).await })
        })
        .collect();
    let mut spent = 0;
    let mut admitted = 0;
    for call in calls {
        let answer = call.await.unwrap();
        match answer.status {
            200 => {
                admitted += 1;
                spent += 79_000;
            }
            429 => assert_eq!(answer.header("x-millgate-error"), Some("budget_exceeded")),
            other => panic!("{other}: {}", answer.text()),
        }
    }
    eprintln!(
        "1,000 concurrent calls against a budget of 900,000 nano-USD: {admitted} admitted, {spent} spent"
    );
    assert!(spent <= 900_000 && admitted >= 8, "{admitted}");
    assert_eq!(fake.requests().len() as u64, admitted);
    settled().await;
    let metrics =
        super::cost::metric(&gateway, "millgate_cost_nano_usd_total{endpoint=\"chat\",target=\"openai/ok\"}")
            .await;
    assert_eq!(metrics, spent);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_told_apart_has_a_count_of_their_own() {
    let fake = FakeProvider::start().unwrap();
    let access = "access:
  keys: required
  static:
    - { name: a1, key: key-a1-0123456789, owner: { team: a } }
    - { name: a2, key: key-a2-0123456789, owner: { team: a, user: anna } }
    - { name: b1, key: key-b1-0123456789, owner: { team: b } }
";
    let limits = "limits:
  - { name: of-teams, requests: 3, per: hour, by: team, only: { teams: ['a', 'b'] } }
  - { name: of-anna, requests: 1, per: hour, by: [user, endpoint], only: { users: [anna] } }
  - { name: elsewhere, requests: 1, per: hour, endpoints: ['other-*'] }
  - { name: shadow, requests: 1, per: hour, by: all, shadow: true }
";
    let gateway = TestGateway::start(&with(&fake, access, limits, "")).await;
    let ask = async |key: &str| post_as(&gateway, key).await;
    assert_eq!(ask("key-a2-0123456789").await.0, 200);
    let (status, text) = ask("key-a2-0123456789").await;
    assert!(status == 429 && text.contains("of-anna"), "{text}");
    // A call that did not fit one limit took nothing of the other.
    assert_eq!(ask("key-a1-0123456789").await.0, 200);
    assert_eq!(ask("key-a1-0123456789").await.0, 200);
    let (status, text) = ask("key-a1-0123456789").await;
    assert!(status == 429 && text.contains("of-teams"), "{text}");
    assert_eq!(ask("key-b1-0123456789").await.0, 200);
    // What only counts is counted, and not shown to callers.
    let headers = [("authorization", "Bearer key-b1-0123456789"), ("content-type", "application/json")];
    let body = chat("chat").to_string();
    let answer = gateway.post_with("/v1/chat/completions", &headers, body.as_bytes()).await;
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("3"));
    let exceeded = "millgate_limit_exceeded_total{limit=\"shadow\",outcome=\"counted\"}";
    assert_eq!(super::cost::metric(&gateway, exceeded).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_would_refuse_is_not_asked_and_the_next_target_is() {
    let fake = FakeProvider::start().unwrap();
    let text = format!(
        "providers:
  small: {{ kind: openai, api_key: sk-test-0123456789, base_url: '{0}', limits: [ {{ requests: 2, per: hour }} ] }}
  large: {{ kind: openai, api_key: sk-test-0123456789, base_url: '{0}' }}
endpoints:
  - {{ name: spill, type: llm/v1/chat, route: {{ fallback: [ small/ok, large/ok ] }} }}
  - {{ name: alone, type: llm/v1/chat, route: small/ok }}
",
        fake.base_url()
    );
    let gateway = TestGateway::start(&text).await;
    let mut targets = Vec::new();
    for _ in 0..4 {
        let answer = gateway.post("/v1/chat/completions", &chat("spill")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        targets.push(answer.header("x-millgate-target").unwrap().to_owned());
    }
    assert_eq!(targets, ["small/ok", "small/ok", "large/ok", "large/ok"]);
    let answer = gateway.post("/v1/chat/completions", &chat("alone")).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_time_are_counted_until_they_end() {
    let fake = FakeProvider::start().unwrap();
    let limits = "limits: [ { concurrent: 2, by: all } ]";
    let more = "  - { name: slow, type: llm/v1/chat, route: openai/slow-head-300ms }\n";
    let gateway = std::sync::Arc::new(TestGateway::start(&with(&fake, "", limits, more)).await);
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let gateway = std::sync::Arc::clone(&gateway);
            tokio::spawn(async move { gateway.post("/v1/chat/completions", &chat("slow")).await.status })
        })
        .collect();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 429, 429, 429, 429]);
    assert_eq!(gateway.post("/v1/chat/completions", &chat("chat")).await.status, 200);
}

/// Nobody says how long the answer may be: it is cut where the limit is, give or take what one read brings, and the caller is told by an error in the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_bound_is_cut_at_the_limit() {
    let fake = FakeProvider::start().unwrap();
    let limits = "limits: [ { output_tokens: 1400, per: hour, by: all, endpoints: ['long-*'] } ]";
    let text = format!(
        "{}  - {{ name: long-pass, type: llm/v1/chat, route: openai/chunks-3000-0ms }}\n",
        with(&fake, "", limits, "")
    );
    let gateway = TestGateway::start(&text).await;
    let mut body = chat("long-pass");
    body["stream"] = true.into();
    let answer = gateway.post("/v1/chat/completions", &body).await.text();
    let frames = answer.matches("chat.completion.chunk").count();
    assert!((1024..2000).contains(&frames), "{frames}");
    assert!(
        answer.contains("rate_limit_exceeded") && !answer.contains("[DONE]"),
        "{}",
        &answer[answer.len() - 400..]
    );
}

const COMPANY: &str = "access:
  keys: required
  static:
    - { name: boss, key: key-boss-0123456789, roles: [invoke, admin], owner: { team: fraud, tags: { project: x } } }
";

async fn get_as_boss(gateway: &TestGateway, path: &str) -> String {
    gateway.get_with(path, &[("authorization", "Bearer key-boss-0123456789")]).await.text()
}

async fn ask_as_boss(gateway: &TestGateway) -> u16 {
    let headers = [("authorization", "Bearer key-boss-0123456789"), ("content-type", "application/json")];
    let body = asking("chat", 7).to_string();
    gateway.post_with("/v1/chat/completions", &headers, body.as_bytes()).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spent_outlives_a_restart_and_can_be_told_apart() {
    let fake = FakeProvider::start().unwrap();
    let budgets = "budgets:
  - { name: teams, usd: 0.000500, per: month, by: team, except: { rich: 10 } }
  - { name: company, usd: 1, per: year, kind: soft }
";
    let text = with(&fake, COMPANY, budgets, "");
    let gateway = TestGateway::start(&text).await;
    for _ in 0..3 {
        assert_eq!(ask_as_boss(&gateway).await, 200);
    }
    settled().await;
    let budgets: serde_json::Value =
        serde_json::from_str(&get_as_boss(&gateway, "/admin/v1/budgets").await).unwrap();
    let of = |budgets: &serde_json::Value, at: usize| budgets["budgets"][at]["spent"][0].clone();
    assert_eq!(of(&budgets, 0)["who"], "fraud", "{budgets}");
    assert_eq!(of(&budgets, 0)["spent_usd"], "0.000237");
    assert_eq!(of(&budgets, 0)["reserved_usd"], "0");
    assert_eq!(of(&budgets, 1)["spent_usd"], "0.000237");
    let folder = gateway.close().await;

    let gateway = TestGateway::start_in(&text, folder).await;
    let budgets: serde_json::Value =
        serde_json::from_str(&get_as_boss(&gateway, "/admin/v1/budgets").await).unwrap();
    assert_eq!(of(&budgets, 0)["spent_usd"], "0.000237", "{budgets}");
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(ask_as_boss(&gateway).await);
        settled().await;
    }
    // 5 calls are 395 micro-USD; a sixth might need more than the 105 that are left.
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{statuses:?}");
    assert_eq!(statuses[5], 429);

    let usage = get_as_boss(&gateway, "/admin/v1/usage?by=team,tag:project,model").await;
    let usage: serde_json::Value = serde_json::from_str(&usage).unwrap();
    assert_eq!(usage["rows"].as_array().unwrap().len(), 1, "{usage}");
    assert_eq!(
        usage["rows"][0]["group"],
        serde_json::json!({ "team": "fraud", "tag:project": "x", "model": "ok" })
    );
    assert_eq!(usage["rows"][0]["requests"], 6);
    assert_eq!(usage["total"]["cost_nano_usd"], 6 * 79_000);
    assert_eq!(usage["total"]["input_tokens"], 6 * 9);
    let csv = get_as_boss(&gateway, "/admin/v1/usage?by=team&format=csv").await;
    assert!(csv.lines().nth(1).unwrap().starts_with("fraud,6,0,54,42,0,0.000474000,0,0"), "{csv}");
    let focus = get_as_boss(&gateway, "/admin/v1/usage?format=focus").await;
    let columns = focus.lines().next().unwrap().split(',').count();
    assert_eq!(columns, 29, "{focus}");
    assert!(focus.lines().nth(1).unwrap().starts_with("0.000474000,default,USD,"), "{focus}");
    let wrong = get_as_boss(&gateway, "/admin/v1/usage?by=colour").await;
    assert!(wrong.contains("usage is grouped by"), "{wrong}");
    gateway.close().await;
}
