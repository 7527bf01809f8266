//! Budgets that keys, users and teams are given at run time.

use std::sync::Arc;

use millgate_testkit::client::Answer;
use millgate_testkit::{FakeProvider, Redis, TestGateway};
use serde_json::{Value, json};

use super::keys::{ADMIN, MANAGER, send};
use super::pass::chat;

/// What a call with `max_tokens: 7` costs: the fake answers 9 prompt and 7 completion tokens.
const COST: u64 = 9_000 + 70_000;

fn yaml(fake: &FakeProvider, more: &str) -> String {
    format!(
        "providers:
  openai:
    kind: openai
    api_key: sk-test-0123456789
    base_url: '{}'
    models: {{ '*': {{ usd_per_million_tokens: {{ input: 1, output: 10 }} }} }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: openai/ok }}
access:
  keys: required
  static:
    - {{ name: owner, key: {ADMIN}, roles: [admin] }}
    - {{ name: manager, key: {MANAGER}, roles: [manage, invoke], owner: {{ user: mia, team: core }} }}
{more}",
        fake.base_url()
    )
}

async fn admin(gateway: &TestGateway, method: &str, path: &str, body: Value) -> Value {
    let answer = send(gateway, ADMIN, method, &format!("/admin/v1{path}"), &body).await;
    assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
    answer.json()
}

/// The key and its id.
async fn issued(gateway: &TestGateway, body: Value) -> (String, String) {
    let body = admin(gateway, "POST", "/keys", body).await;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&body["key"]), text(&body["issued"]["id"]))
}

async fn call(gateway: &TestGateway, key: &str) -> Answer {
    let mut body = chat("chat");
    body["max_tokens"] = 7.into();
    send(gateway, key, "POST", "/v1/chat/completions", &body).await
}

/// Calls until one is refused, also when all before are settled; gives how many were not.
async fn exhaust(gateway: &TestGateway, key: &str) -> usize {
    let (mut admitted, mut refused) = (0, 0);
    while refused < 2 {
        let answer = call(gateway, key).await;
        if answer.status == 200 {
            (admitted, refused) = (admitted + 1, 0);
            assert!(admitted < 100, "nothing is refused");
            continue;
        }
        assert_eq!((answer.status, answer.header("x-millgate-error")), (429, Some("budget_exceeded")));
        assert!(answer.header("retry-after").is_some(), "{}", answer.text());
        refused += 1;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    admitted
}

/// `(who, budget, spent)` of one of the granted budgets.
async fn spent(gateway: &TestGateway, name: &str) -> Vec<(String, String, String)> {
    let budgets = admin(gateway, "GET", "/budgets", json!({})).await;
    let budgets = budgets["budgets"].as_array().expect("a list").clone();
    let Some(budget) = budgets.iter().find(|budget| budget["name"] == name) else { return Vec::new() };
    assert_eq!((&budget["origin"], &budget["usd"]), (&json!("granted"), &Value::Null));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let of = |spent: &Value| (text(&spent["who"]), text(&spent["usd"]), text(&spent["spent_usd"]));
    budget["spent"].as_array().expect("a list").iter().map(of).collect()
}

fn usd(nanos: u64) -> String {
    format!("0.{nanos:09}").trim_end_matches('0').to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_spends_what_it_was_issued_with_and_no_more_across_restarts() {
    let fake = FakeProvider::start().unwrap();
    let text = yaml(&fake, "");
    let gateway = TestGateway::start(&text).await;
    let budget = json!({ "usd": "0.0004", "per": "month" });
    let (key, id) = issued(&gateway, json!({ "name": "app", "budget": budget })).await;
    let (free, _) = issued(&gateway, json!({ "name": "free" })).await;
    let shown = admin(&gateway, "GET", &format!("/keys/{id}"), json!({})).await;
    assert_eq!(shown["budget"], json!({ "usd": "0.0004", "per": "month", "zone": "UTC" }));
    let admitted = exhaust(&gateway, &key).await;
    assert!((4..=5).contains(&admitted) && admitted as u64 * COST <= 400_000, "{admitted}");
    assert_eq!(call(&gateway, &free).await.status, 200, "it is that key's alone");
    let used = usd(admitted as u64 * COST);
    let expected = [("app".to_owned(), "0.0004".to_owned(), used)];
    assert_eq!(spent(&gateway, "key per month").await, expected);

    let folder = gateway.close().await;
    let gateway = TestGateway::start_in(&text, folder).await;
    assert_eq!(exhaust(&gateway, &key).await, 0, "what was spent before counts");
    assert_eq!(spent(&gateway, "key per month").await, expected);

    // More is granted, then it is taken away, then it begins with what was spent meanwhile.
    let path = format!("/keys/{id}");
    let changed =
        admin(&gateway, "PATCH", &path, json!({ "budget": { "usd": 0.0006, "per": "month" } })).await;
    assert_eq!(changed["budget"]["usd"], "0.0006");
    assert_eq!(exhaust(&gateway, &key).await, 2);
    let changed = admin(&gateway, "PATCH", &path, json!({ "budget": null })).await;
    assert_eq!((&changed["budget"], &changed["name"]), (&Value::Null, &json!("app")));
    for _ in 0..3 {
        assert_eq!(call(&gateway, &key).await.status, 200);
    }
    assert_eq!(spent(&gateway, "key per month").await, []);
    admin(&gateway, "PATCH", &path, json!({ "budget": { "usd": 0.0009, "per": "month" } })).await;
    let expected = ("app".to_owned(), "0.0009".to_owned(), usd((admitted as u64 + 5) * COST));
    assert_eq!(spent(&gateway, "key per month").await, [expected]);
    assert_eq!(exhaust(&gateway, &key).await, 1);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_calls_at_once_stay_within_a_keys_budget() {
    let fake = FakeProvider::start().unwrap();
    let more = "server: { max_connections_per_ip: 5000 }\n";
    let gateway = Arc::new(TestGateway::start(&yaml(&fake, more)).await);
    let budget = json!({ "usd": usd(10 * COST), "per": "day", "zone": "Europe/Berlin" });
    let (key, _) = issued(&gateway, json!({ "name": "app", "budget": budget })).await;
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let (gateway, key) = (Arc::clone(&gateway), key.clone());
            tokio::spawn(async move { call(&gateway, &key).await.status })
        })
        .collect();
    let mut admitted = 0;
    for call in calls {
        match call.await.unwrap() {
            200 => admitted += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    eprintln!("1,000 first calls against a key's budget for 10: {admitted} admitted");
    // What is reserved for one while it is under way is more than what it costs.
    assert!((1..=10).contains(&admitted) && fake.requests().len() == admitted, "{admitted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_teams_have_budgets_over_all_their_keys() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&yaml(&fake, "")).await;
    let budget = |calls: u64| json!({ "usd": usd(calls * COST + 20_000), "per": "week" });
    admin(&gateway, "POST", "/teams", json!({ "name": "search", "budget": budget(6) })).await;
    let alice = json!({ "name": "alice", "team": "search", "budget": budget(2) });
    admin(&gateway, "POST", "/users", alice).await;
    let (one, _) = issued(&gateway, json!({ "name": "one", "user": "alice" })).await;
    let (two, _) = issued(&gateway, json!({ "name": "two", "user": "alice" })).await;
    let (three, _) = issued(&gateway, json!({ "name": "three", "team": "search" })).await;
    assert_eq!(call(&gateway, &one).await.status, 200);
    assert_eq!(call(&gateway, &two).await.status, 200);
    assert_eq!(exhaust(&gateway, &one).await, 0, "both keys are hers");
    assert_eq!(exhaust(&gateway, &two).await, 0);
    assert_eq!(exhaust(&gateway, &three).await, 4, "two of the team's six were hers");
    let team = ("search".to_owned(), usd(6 * COST + 20_000), usd(6 * COST));
    assert_eq!(spent(&gateway, "team per week").await, [team]);
    admin(&gateway, "PATCH", "/teams/search", json!({ "budget": null })).await;
    assert_eq!(call(&gateway, &three).await.status, 200);
    assert_eq!(exhaust(&gateway, &one).await, 0, "hers stays");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_by_more_money_than_they_were_given() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&yaml(&fake, "")).await;
    let budget = json!({ "usd": 1, "per": "day" });
    let body = json!({ "name": "bound", "roles": ["manage", "invoke"], "team": "core", "budget": budget });
    let (bound, id) = issued(&gateway, body).await;
    let refused = |answer: &Answer, param: &str| {
        let told = answer.json();
        assert_eq!((answer.status, &told["errors"][0]["pointer"]), (403, &json!(param)), "{told}");
    };
    let tried = send(&gateway, &bound, "POST", "/admin/v1/keys", &json!({ "name": "more" })).await;
    refused(&tried, "#/budget");
    let path = format!("/admin/v1/keys/{id}");
    for body in [json!({ "budget": null }), json!({ "budget": { "usd": 9, "per": "day" } })] {
        refused(&send(&gateway, &bound, "PATCH", &path, &body).await, "#/budget");
    }
    // Her own budget bounds what keys that she issues may spend: they are hers.
    admin(&gateway, "POST", "/teams", json!({ "name": "core", "roles": ["manage", "invoke"] })).await;
    let mia = json!({ "name": "mia", "team": "core", "roles": ["manage", "invoke"], "budget": budget });
    admin(&gateway, "POST", "/users", mia).await;
    let other = json!({ "name": "other", "user": "bob" });
    refused(&send(&gateway, MANAGER, "POST", "/admin/v1/keys", &other).await, "#/user");
    let own = send(&gateway, MANAGER, "POST", "/admin/v1/keys", &json!({ "name": "own" })).await;
    assert_eq!((own.status, &own.json()["issued"]["owner"]["user"]), (201, &json!("mia")));
    // Field by field.
    for (budget, pointer) in [
        (json!({ "usd": 0, "per": "day" }), "#/budget/usd"),
        (json!({ "usd": -1, "per": "day" }), "#/budget/usd"),
        (json!({ "usd": 1, "per": "fortnight" }), "#/budget/per"),
        (json!({ "usd": 1, "per": "day", "zone": "Mars/Olympus" }), "#/budget/zone"),
        (json!({ "per": "day" }), "#/budget"),
    ] {
        let body = json!({ "name": "wrong", "budget": budget });
        let answer = send(&gateway, ADMIN, "POST", "/admin/v1/keys", &body).await;
        let told = answer.json();
        assert_eq!((answer.status, &told["errors"][0]["pointer"]), (400, &json!(pointer)), "{told}");
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_what_a_key_was_granted() {
    let (Some(redis), Ok(postgres)) = (Redis::start(), std::env::var("MILLGATE_TEST_POSTGRES")) else {
        assert!(std::env::var_os("CI").is_none(), "CI has both");
        return;
    };
    let fake = FakeProvider::start().unwrap();
    let more = format!(
        "  key_pepper: a pepper of 32 bytes and of the tests\nstore: '{postgres}'\nshared: {{ redis: '{}', replicas: 2 }}\n",
        redis.uri()
    );
    let text = yaml(&fake, &more);
    let [one, other] = [TestGateway::start(&text).await, TestGateway::start(&text).await];
    let name = format!("app-{}", std::process::id());
    let (key, id) = issued(&one, json!({ "name": name })).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    // Spent at both, before there is a budget.
    for gateway in [&one, &other, &one] {
        assert_eq!(call(gateway, &key).await.status, 200);
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let budget = json!({ "usd": usd(6 * COST + 20_000), "per": "month" });
    admin(&one, "PATCH", &format!("/keys/{id}"), json!({ "budget": budget })).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let mut admitted = 0;
    for gateway in [&one, &other].into_iter().cycle().take(10) {
        admitted += usize::from(call(gateway, &key).await.status == 200);
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    assert_eq!(admitted, 3, "six in all, at both together");
    // Taken away and granted again: what was spent between counts.
    let path = format!("/keys/{id}");
    admin(&one, "PATCH", &path, json!({ "budget": null })).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for gateway in [&one, &other] {
        assert_eq!(call(gateway, &key).await.status, 200);
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let budget = json!({ "usd": usd(9 * COST + 20_000), "per": "month" });
    admin(&one, "PATCH", &path, json!({ "budget": budget })).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let mut admitted = 0;
    for gateway in [&one, &other].into_iter().cycle().take(4) {
        admitted += usize::from(call(gateway, &key).await.status == 200);
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    assert_eq!(admitted, 1, "nine in all");
    one.close().await;
    other.close().await;
}
