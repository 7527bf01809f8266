//! Limits and budgets of several replicas with one Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millgate_testkit::{FakeProvider, Redis, TestGateway};

use super::pass::chat;

fn config(fake: &FakeProvider, redis: &Redis, rules: &str) -> String {
    format!(
        "providers:
  openai:
    kind: openai
    api_key: sk-test-0123456789
    base_url: '{}'
    models: {{ '*': {{ usd_per_million_tokens: {{ input: 1, output: 10 }} }} }}
shared: {{ redis: '{}', replicas: 2 }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: openai/ok }}
{rules}
",
        fake.base_url(),
        redis.uri()
    )
}

async fn two(text: &str) -> [Arc<TestGateway>; 2] {
    [Arc::new(TestGateway::start(text).await), Arc::new(TestGateway::start(text).await)]
}

async fn ask(gateway: &TestGateway) -> u16 {
    let mut body = chat("chat");
    body["max_tokens"] = 7.into();
    gateway.post("/v1/chat/completions", &body).await.status
}

/// So many calls at once, at both in turn; how many were admitted, how many refused, and of how many nobody could tell: on a
/// machine that is busy enough Redis answers later than a call waits for it.
async fn flood(gateways: &[Arc<TestGateway>; 2], calls: usize) -> (usize, usize, usize) {
    let calls: Vec<_> = (0..calls)
        .map(|number| {
            let gateway = Arc::clone(&gateways[number % 2]);
            tokio::spawn(async move { ask(&gateway).await })
        })
        .collect();
    let mut counts = (0, 0, 0);
    for call in calls {
        match call.await.expect("the call ends") {
            200 => counts.0 += 1,
            429 => counts.1 += 1,
            503 => counts.2 += 1,
            other => panic!("{other}"),
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_together_admit_what_one_limit_admits() {
    let Some(redis) = Redis::start() else { return };
    let fake = FakeProvider::start().unwrap();
    let rules = "limits:
  - { requests: 40, per: hour, by: all }
  - { tokens: 100000, per: day, window: calendar, by: all }
  - { concurrent: 500, by: all }";
    let gateways = two(&config(&fake, &redis, rules)).await;
    let (admitted, refused, unknown) = flood(&gateways, 200).await;
    assert!(admitted <= 40 && fake.requests().len() == admitted, "{admitted} {refused} {unknown}");
    if unknown == 0 {
        assert_eq!((admitted, refused), (40, 160));
    }
    let answer = gateways[0].post("/v1/chat/completions", &chat("chat")).await;
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=90).contains(&seconds), "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_two_replicas_never_spend_more_than_the_budget() {
    let Some(redis) = Redis::start() else { return };
    let fake = FakeProvider::start().unwrap();
    let gateways =
        two(&config(&fake, &redis, "budgets: [ { name: company, usd: 0.0009, per: month } ]")).await;
    let (admitted, _, unknown) = flood(&gateways, 1000).await;
    eprintln!(
        "1,000 calls at two replicas against 900,000 nano-USD: {admitted} admitted, {} spent",
        admitted * 79_000
    );
    assert!(admitted <= 11 && (admitted >= 8 || unknown > 0), "{admitted}");
    // What was reserved and not used comes back, at all replicas: there is room for calls that are smaller.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut more = 0;
    while more < 5 && ask(&gateways[more % 2]).await == 200 {
        more += 1;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!((admitted + more) * 79_000 <= 900_000, "{admitted} and {more}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_limits_are_parts_and_budgets_are_closed() {
    let Some(mut redis) = Redis::start() else { return };
    let fake = FakeProvider::start().unwrap();
    let rules = "  - { name: paid, type: llm/v1/chat, route: openai/ok }
limits: [ { requests: 20, per: hour, by: all, endpoints: [chat] } ]
budgets: [ { name: company, usd: 100, per: month, endpoints: [paid] } ]";
    let gateways = two(&config(&fake, &redis, rules)).await;
    assert_eq!(gateways[0].post("/v1/chat/completions", &chat("paid")).await.status, 200);
    redis.stop();
    let answer = gateways[0].post("/v1/chat/completions", &chat("paid")).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (503, Some("dependency_unavailable")));
    assert!(answer.header("retry-after").is_some());
    // Half of the limit each, and no call waits for the server that is not there.
    let begun = Instant::now();
    let (admitted, refused, _) = flood(&gateways, 100).await;
    assert_eq!((admitted, refused), (20, 80));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    redis.again().unwrap();
    let begun = Instant::now();
    while gateways[0].post("/v1/chat/completions", &chat("paid")).await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is not noticed that Redis is back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!(
        "Redis was back {} ms before the first call under a budget passed",
        begun.elapsed().as_millis()
    );
}
