//! Calls that do not fit a limit: they wait for their turn, or for less. What expressions say about limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::json;

use super::limits::{asking, settled, with};
use super::pass::chat;

const PEOPLE: &str = "access:
  keys: required
  static:
    - { name: alice, key: key-alice-0123456789, roles: [invoke], owner: { app: shop } }
    - { name: bob, key: key-bob-0123456789, roles: [invoke], owner: { app: report } }
    - { name: carol, key: key-carol-0123456789, roles: [invoke], owner: { app: checkout } }
";

/// An endpoint whose calls take 50 ms, one at a time.
fn one_at_a_time(fake: &FakeProvider, queue: &str) -> String {
    let limits = format!("limits: [ {{ name: one, concurrent: 1, by: all, queue: {queue} }} ]");
    with(fake, PEOPLE, &limits, "  - { name: slow, type: llm/v1/chat, route: openai/slow-head-50ms }\n")
}

async fn call_as(
    gateway: &TestGateway,
    name: &str,
    headers: &[(&str, &str)],
) -> millgate_testkit::client::Answer {
    let (key, body) = (format!("Bearer key-{name}-0123456789"), chat("slow").to_string());
    let mut all = vec![("authorization", key.as_str()), ("content-type", "application/json")];
    all.extend_from_slice(headers);
    gateway.post_with("/v1/chat/completions", &all, body.as_bytes()).await
}

/// Sends calls one after the other, none waiting for another, and gives who was answered in which order.
async fn order(gateway: &Arc<TestGateway>, calls: &[(&'static str, &'static str)]) -> Vec<String> {
    let (done, mut answered) = tokio::sync::mpsc::unbounded_channel();
    for (name, priority) in calls.iter().copied() {
        let (gateway, done) = (Arc::clone(gateway), done.clone());
        tokio::spawn(async move {
            let answer = call_as(&gateway, name, &[("x-millgate-priority", priority)]).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            done.send(name.to_owned()).expect("somebody listens");
        });
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    drop(done);
    let mut order = Vec::new();
    while let Some(name) = answered.recv().await {
        order.push(name);
    }
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_for_their_turn_and_callers_take_turns() {
    let fake = FakeProvider::start().unwrap();
    let gateway = Arc::new(TestGateway::start(&one_at_a_time(&fake, "{ wait: 5s }")).await);
    let calls = [("alice", ""), ("alice", ""), ("alice", ""), ("alice", ""), ("bob", ""), ("bob", "")];
    let order = order(&gateway, &calls).await;
    assert_eq!(order, ["alice", "alice", "bob", "alice", "bob", "alice"]);
    let metrics = gateway.get("/metrics").await.text();
    assert!(
        metrics.contains(r#"millgate_limit_exceeded_total{limit="one",outcome="waited"} 5"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"millgate_limit_waiting{limit="one"} 0"#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_are_the_operators_and_callers_may_only_stand_back() {
    let fake = FakeProvider::start().unwrap();
    let queue = "{ wait: 5s, high: { apps: [checkout] }, low: { apps: [report] } }";
    let gateway = Arc::new(TestGateway::start(&one_at_a_time(&fake, queue)).await);
    let calls = [("alice", ""), ("alice", "low"), ("bob", "high"), ("alice", ""), ("carol", "")];
    let order = order(&gateway, &calls).await;
    // Bob is low whatever he says. Of the two that are low, Alice's came first.
    assert_eq!(order, ["alice", "carol", "alice", "alice", "bob"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_bounded_in_length_and_time() {
    let fake = FakeProvider::start().unwrap();
    let text = with(
        &fake,
        "",
        "limits: [ { concurrent: 1, by: all, endpoints: [slow], queue: { wait: 150ms, size: 2 } } ]",
        "  - { name: slow, type: llm/v1/chat, route: openai/slow-head-1000ms }\n",
    );
    let gateway = Arc::new(TestGateway::start(&text).await);
    let call = || {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            let began = Instant::now();
            let answer = gateway.post("/v1/chat/completions", &chat("slow")).await;
            (answer.status, began.elapsed())
        })
    };
    let first = call();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (second, third) = (call(), call());
    tokio::time::sleep(Duration::from_millis(50)).await;
    // There is no third place: it is told at once.
    let (status, took) = call().await.unwrap();
    assert!(status == 429 && took < Duration::from_millis(100), "{status} {took:?}");
    for waiting in [second, third] {
        let (status, took) = waiting.await.unwrap();
        assert!(status == 429 && took >= Duration::from_millis(150), "{status} {took:?}");
        assert!(took < Duration::from_millis(900), "{took:?}");
    }
    assert_eq!(first.await.unwrap().0, 200);
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_gives_the_place_back() {
    let fake = FakeProvider::start().unwrap();
    let gateway = Arc::new(TestGateway::start(&one_at_a_time(&fake, "{ wait: 5s }")).await);
    let busy = {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { call_as(&gateway, "alice", &[]).await.status })
    };
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut gone = gateway.connect().await.unwrap();
    let headers = [("authorization", "Bearer key-bob-0123456789")];
    gone.request("POST", "/v1/chat/completions", &headers, chat("slow").to_string().as_bytes())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(gone);
    assert_eq!(call_as(&gateway, "carol", &[]).await.status, 200);
    assert_eq!(busy.await.unwrap(), 200);
    assert_eq!(fake.requests().len(), 2);
}

/// A rolling window has no call whose end could be waited for: the time at which it fits is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_limit_becomes_a_pace() {
    let fake = FakeProvider::start().unwrap();
    let limits = "limits: [ { requests: 10, per: second, burst: 1, by: all, queue: { wait: 2s, size: 8 } } ]";
    let gateway = Arc::new(TestGateway::start(&with(&fake, "", limits, "")).await);
    let began = Instant::now();
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let gateway = Arc::clone(&gateway);
            tokio::spawn(async move { gateway.post("/v1/chat/completions", &chat("chat")).await.status })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    // What would have to wait longer than it may is told when it fits, and at once.
    let limits = "limits: [ { requests: 1, per: hour, by: all, queue: { wait: 2s } } ]";
    let gateway = TestGateway::start(&with(&fake, "", limits, "")).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("chat")).await.status, 200);
    let began = Instant::now();
    let answer = gateway.post("/v1/chat/completions", &chat("chat")).await;
    assert!(answer.status == 429 && began.elapsed() < Duration::from_secs(1));
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((3590..=3600).contains(&seconds), "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_choose_calls_and_tell_counts_apart() {
    let fake = FakeProvider::start().unwrap();
    let limits = "limits:
  - { name: tenants, requests: 2, per: hour, by: \"cel:request.headers['x-tenant']\" }
  - { name: streams, requests: 1, per: hour, by: all, when: \"request.stream && request.model == 'chat'\" }
  - { name: models, requests: 5, per: hour, by: [model, provider] }";
    let gateway = TestGateway::start(&with(&fake, "", limits, "")).await;
    let call = async |tenant: Option<&str>, stream: bool| {
        let mut body = chat("chat");
        body["stream"] = stream.into();
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(tenant.map(|tenant| ("x-tenant", tenant)));
        let answer = gateway.post_with("/v1/chat/completions", &headers, body.to_string().as_bytes()).await;
        (answer.status, answer.text())
    };
    assert_eq!(call(Some("a"), true).await.0, 200);
    let (status, text) = call(Some("a"), true).await;
    assert!(status == 429 && text.contains("`streams`"), "{text}");
    assert_eq!(call(Some("a"), false).await.0, 200);
    let (status, text) = call(Some("a"), false).await;
    assert!(status == 429 && text.contains("`tenants`") && text.contains("of `a`"), "{text}");
    // Who has no such header is one of those without.
    for _ in 0..2 {
        assert_eq!(call(None, false).await.0, 200);
    }
    let (status, text) = call(None, false).await;
    assert!(status == 429 && text.contains("of `-`"), "{text}");
    assert_eq!(call(Some("b"), false).await.0, 200);
    let (status, text) = call(Some("c"), false).await;
    assert!(status == 429 && text.contains("`models`") && text.contains("of `openai/ok/openai`"), "{text}");
    let limits = gateway.get("/admin/v1/limits").await.text();
    assert!(limits.contains("cel:request.headers['x-tenant']"), "{limits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_bounded_to_what_is_left() {
    let fake = FakeProvider::start().unwrap();
    let limits = "limits: [ { output_tokens: 100, per: day, window: calendar, by: all, cap_output: true, endpoints: [chat] } ]
budgets: [ { name: purse, usd: 0.0004, per: month, cap_output: true, endpoints: [purse] } ]";
    let more = "  - { name: purse, type: llm/v1/chat, route: openai/ok }\n";
    let gateway = TestGateway::start(&with(&fake, "", limits, more)).await;
    let answer = gateway.post("/v1/chat/completions", &asking("chat", 4000)).await;
    assert_eq!(
        (answer.status, answer.header("x-millgate-max-tokens")),
        (200, Some("100")),
        "{}",
        answer.text()
    );
    // By the name that this provider has for it.
    assert_eq!(fake.last().json()["max_completion_tokens"], 100);
    settled().await;
    // 7 tokens were used.
    let mut several = chat("chat");
    several["n"] = 3.into();
    let answer = gateway.post("/v1/chat/completions", &several).await;
    assert_eq!(
        (answer.status, answer.header("x-millgate-max-tokens")),
        (200, Some("31")),
        "{}",
        answer.text()
    );
    assert_eq!(fake.last().json()["max_completion_tokens"], 31);
    settled().await;
    // What fits is left alone, in every dialect.
    let answer = gateway.post("/v1/chat/completions", &asking("chat", 5)).await;
    assert_eq!((answer.status, answer.header("x-millgate-max-tokens")), (200, None));
    let message =
        json!({ "model": "chat", "max_tokens": 900, "messages": [{ "role": "user", "content": "hi" }] });
    let answer = gateway.post("/v1/messages", &message).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let bound: u64 = answer.header("x-millgate-max-tokens").unwrap().parse().unwrap();
    assert_eq!(fake.last().json()["max_completion_tokens"], bound);
    // 400 micro-USD pay for fewer than 40 tokens of an answer.
    let answer = gateway.post("/v1/chat/completions", &asking("purse", 4000)).await;
    let bound: u64 = answer.header("x-millgate-max-tokens").unwrap().parse().unwrap();
    assert!(answer.status == 200 && (30..40).contains(&bound), "{bound}");
    // Nothing is left for the shortest one.
    for _ in 0..10 {
        settled().await;
        let answer = gateway.post("/v1/chat/completions", &asking("purse", 4000)).await;
        if answer.status == 429 {
            assert_eq!(answer.header("x-millgate-error"), Some("budget_exceeded"));
            return;
        }
    }
    panic!("the budget never ends");
}
