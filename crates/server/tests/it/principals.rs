//! Teams and users: what they bound, who may change them, how soon that counts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::time::{Duration, Instant};

use millgate_testkit::client::{self, Answer};
use millgate_testkit::{AUDIENCE, FakeIssuer, FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::config;
use super::pass::chat;

const OWNER: &str = "mg-owner-key-0123456789ab";
const MANAGER: &str = "mg-manager-key-0123456789";

async fn start(fake: &FakeProvider, idp: &FakeIssuer, more: &str) -> TestGateway {
    let access = format!(
        "access:
  keys: required
  key_pepper: 'a pepper of the tests, 32 characters'
  static:
    - {{ name: owner, key: {OWNER}, roles: [admin] }}
    - {{ name: manager, key: {MANAGER}, roles: [manage, invoke], endpoints: ['openai-*'], owner: {{ team: search }} }}
  issuers:
    - {{ name: corp, issuer: '{}', audience: [{AUDIENCE}] }}
{more}",
        idp.url()
    );
    TestGateway::start(&config(fake, &["ok", "json"], &access)).await
}

async fn send(gateway: &TestGateway, key: &str, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    client::send(gateway.address(), method, path, &headers, body.to_string().as_bytes()).await.unwrap()
}

async fn call(gateway: &TestGateway, key: &str, endpoint: &str) -> u16 {
    send(gateway, key, "POST", "/v1/chat/completions", &chat(endpoint)).await.status
}

async fn admin(gateway: &TestGateway, method: &str, path: &str, body: Value) -> Answer {
    let answer = send(gateway, OWNER, method, &format!("/admin/v1{path}"), &body).await;
    assert!(answer.status < 300, "{}", answer.text());
    answer
}

async fn key(gateway: &TestGateway, body: Value) -> String {
    admin(gateway, "POST", "/keys", body).await.json()["key"].as_str().unwrap().to_owned()
}

async fn until(gateway: &TestGateway, key: &str, status: u16) -> Duration {
    let began = Instant::now();
    while call(gateway, key, "openai-ok").await != status {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_bounds_its_keys_and_its_members_tokens_at_once() {
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    let gateway = start(&fake, &idp, "").await;
    let token = idp.token("good", &json!({ "sub": "alice@corp" }));
    let of_team =
        key(&gateway, json!({ "name": "app", "team": "search", "roles": ["invoke", "read"] })).await;
    assert_eq!(call(&gateway, &of_team, "gemini-ok").await, 200, "a team that is only a word bounds nothing");
    until(&gateway, &token, 403).await;

    let made = json!({ "name": "search", "endpoints": ["openai-*"], "tags": { "cost": "17" } });
    admin(&gateway, "POST", "/teams", made).await;
    let user = json!({ "name": "alice@corp", "team": "search", "deny": ["openai-json"] });
    admin(&gateway, "POST", "/users", user).await;
    assert_eq!(call(&gateway, &of_team, "gemini-ok").await, 404);
    assert_eq!(call(&gateway, &of_team, "openai-json").await, 200);
    assert_eq!(send(&gateway, &of_team, "GET", "/admin/v1/keys", &json!({})).await.status, 403, "roles too");
    // Who brings no roles has those of the entry.
    assert_eq!(call(&gateway, &token, "openai-ok").await, 200);
    assert_eq!(call(&gateway, &token, "openai-json").await, 404, "their own bound");
    assert_eq!(call(&gateway, &token, "gemini-ok").await, 404, "the team's bound");
    let team = admin(&gateway, "GET", "/teams/search", json!({})).await.json();
    assert_eq!((&team["members"], &team["state"]), (&json!(["alice@corp"]), &json!("active")));

    admin(&gateway, "PATCH", "/teams/search", json!({ "disabled": true })).await;
    assert_eq!(
        (call(&gateway, &of_team, "openai-ok").await, call(&gateway, &token, "openai-ok").await),
        (401, 401)
    );
    let listed = admin(&gateway, "GET", "/keys", json!({})).await.json();
    assert!(
        listed["keys"]
            .as_array()
            .unwrap()
            .iter()
            .any(|key| key["name"] == "app" && key["state"] == "suspended")
    );
    admin(&gateway, "PATCH", "/teams/search", json!({ "disabled": false, "endpoints": ["gemini-*"] })).await;
    assert_eq!(call(&gateway, &of_team, "gemini-ok").await, 200);
    assert_eq!(call(&gateway, &of_team, "openai-ok").await, 404);
    admin(&gateway, "DELETE", "/users/alice@corp", json!({})).await;
    assert_eq!(call(&gateway, &token, "gemini-ok").await, 401);
    assert_eq!(call(&gateway, &of_team, "gemini-ok").await, 200);
    admin(&gateway, "DELETE", "/teams/search", json!({})).await;
    assert_eq!(call(&gateway, &of_team, "gemini-ok").await, 401);
    let again = send(&gateway, OWNER, "POST", "/admin/v1/teams", &json!({ "name": "search" })).await;
    assert_eq!(again.status, 400, "the name is not given again");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_what_they_have_not_or_changes_their_own_entry() {
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    let gateway = start(&fake, &idp, "").await;
    admin(&gateway, "POST", "/teams", json!({ "name": "search", "roles": ["manage", "invoke"] })).await;
    admin(&gateway, "POST", "/teams", json!({ "name": "other" })).await;
    admin(&gateway, "POST", "/users", json!({ "name": "bob", "team": "other" })).await;
    let by = |path: &'static str, method: &'static str, body: Value| {
        let gateway = &gateway;
        async move { send(gateway, MANAGER, method, &format!("/admin/v1{path}"), &body).await.status }
    };
    let narrow = |more: Value| {
        let mut body = json!({ "name": "carol", "endpoints": ["openai-ok"] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (what, body) in [
        ("another's team", narrow(json!({ "team": "other" }))),
        ("roles", narrow(json!({ "roles": ["admin"] }))),
        ("reach", narrow(json!({ "endpoints": [] }))),
    ] {
        assert_eq!(by("/users", "POST", body).await, 403, "{what}");
    }
    assert_eq!(by("/users", "POST", narrow(json!({}))).await, 201);
    let carol = admin(&gateway, "GET", "/users/carol", json!({})).await.json();
    assert_eq!(carol["team"], "search", "a manager's users are of the manager's team");
    assert_eq!(by("/users/carol", "PATCH", json!({ "endpoints": ["*"] })).await, 403);
    assert_eq!(by("/users/carol", "PATCH", json!({ "team": "other" })).await, 403);
    assert_eq!(by("/users/bob", "DELETE", json!({})).await, 403, "of another team");
    assert_eq!(by("/teams/search", "PATCH", json!({ "endpoints": [] })).await, 403);
    assert_eq!(by("/teams", "POST", json!({ "name": "mine" })).await, 403);
    assert_eq!(by("/users/carol", "DELETE", json!({})).await, 200);
    // A user who manages does not lift their own bounds.
    let user = json!({ "name": "alice", "team": "search", "roles": ["manage"], "endpoints": ["openai-ok"] });
    admin(&gateway, "POST", "/users", user).await;
    let alice = idp.token("good", &json!({}));
    let change = json!({ "endpoints": [], "roles": ["manage"] });
    let own = send(&gateway, &alice, "PATCH", "/admin/v1/users/alice", &change).await;
    assert_eq!(own.status, 403, "{}", own.text());
    let wide =
        send(&gateway, &alice, "POST", "/admin/v1/keys", &json!({ "name": "wide", "roles": ["read"] })).await;
    assert_eq!(wide.status, 403, "nor does a key that they issue reach more");
    let fine = json!({ "name": "fine", "roles": ["read"], "endpoints": ["openai-ok"] });
    assert_eq!(send(&gateway, &alice, "POST", "/admin/v1/keys", &fine).await.status, 201);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_changes_counts_at_the_other_within_a_second() {
    let Ok(uri) = std::env::var("MILLGATE_TEST_POSTGRES") else {
        assert!(std::env::var_os("CI").is_none(), "CI must set MILLGATE_TEST_POSTGRES");
        return eprintln!("skipped: MILLGATE_TEST_POSTGRES names no database");
    };
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    let store = format!("store: '{uri}'\n");
    let (one, other) = (start(&fake, &idp, &store).await, start(&fake, &idp, &store).await);
    let name = format!("team-{}", std::process::id());
    admin(&one, "POST", "/teams", json!({ "name": name })).await;
    let of_team = key(&one, json!({ "name": name, "team": name })).await;
    until(&other, &of_team, 200).await;
    admin(&one, "PATCH", &format!("/teams/{name}"), json!({ "disabled": true })).await;
    assert!(until(&other, &of_team, 401).await < Duration::from_secs(1));
    admin(&other, "PATCH", &format!("/teams/{name}"), json!({ "disabled": false })).await;
    assert!(until(&one, &of_team, 200).await < Duration::from_secs(1));
    one.close().await;
    other.close().await;
}
