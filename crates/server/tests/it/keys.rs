//! Keys that are issued at run time: who may, what they reach, how they end.

use std::time::{Duration, Instant};

use millgate_testkit::client::{self, Answer};
use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::config;
use super::pass::chat;

pub(super) const ADMIN: &str = "mg-admin-key-0123456789a";
pub(super) const MANAGER: &str = "mg-manager-key-012345678";

async fn start(fake: &FakeProvider) -> TestGateway {
    let access = format!(
        "  - name: mixed\n    type: llm/v1/chat\n    route: {{ fallback: [ openai/status-500, openai/ok ] }}\naccess:\n  \
         keys: required\n  static:\n    - {{ name: owner, key: {ADMIN}, roles: [admin] }}\n    \
         - {{ name: manager, key: {MANAGER}, roles: [manage, invoke], endpoints: [\"openai-*\"] }}\n"
    );
    TestGateway::start(&config(fake, &["ok", "json"], &access)).await
}

pub(super) async fn send(gateway: &TestGateway, key: &str, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    client::send(gateway.address(), method, path, &headers, body.to_string().as_bytes())
        .await
        .expect("a whole answer")
}

async fn issue(gateway: &TestGateway, by: &str, body: Value) -> Answer {
    send(gateway, by, "POST", "/admin/v1/keys", &body).await
}

/// The key and its id.
async fn issued(gateway: &TestGateway, body: Value) -> (String, String) {
    let answer = issue(gateway, ADMIN, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let body = answer.json();
    (
        body["key"].as_str().expect("a whole answer").to_owned(),
        body["issued"]["id"].as_str().expect("a whole answer").to_owned(),
    )
}

async fn call(gateway: &TestGateway, key: &str, endpoint: &str) -> Answer {
    send(gateway, key, "POST", "/v1/chat/completions", &chat(endpoint)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_from_its_issue_to_its_end() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let (key, id) = issued(&gateway, json!({ "name": "app", "tags": { "team": "x" } })).await;
    assert!(key.starts_with("mgk-") && key.len() > 40, "{key}");
    assert_eq!(call(&gateway, &key, "openai-ok").await.status, 200);
    let listed = send(&gateway, ADMIN, "GET", "/admin/v1/keys", &json!({})).await;
    assert!(!listed.text().contains(&key), "the key is shown once");
    let listed = listed.json();
    let names: Vec<_> = listed["keys"].as_array().unwrap().iter().map(|key| &key["name"]).collect();
    assert_eq!(names, ["owner", "manager", "app"]);
    let app = &listed["keys"][2];
    assert_eq!((&app["state"], &app["created_by"]), (&json!("active"), &json!("owner")));
    assert!(app["used_ms"].as_i64().unwrap() > 0 && key.starts_with(app["prefix"].as_str().unwrap()));

    // Rotation: both are good, then one.
    let path = format!("/admin/v1/keys/{id}/rotate");
    let rotated = send(&gateway, ADMIN, "POST", &path, &json!({ "grace": "2s" })).await.json();
    let new = rotated["key"].as_str().unwrap();
    assert_eq!(call(&gateway, &key, "openai-ok").await.status, 200);
    assert_eq!(call(&gateway, new, "openai-ok").await.status, 200);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(call(&gateway, &key, "openai-ok").await.status, 401);
    assert_eq!(call(&gateway, new, "openai-ok").await.status, 200);

    let revoked = send(&gateway, ADMIN, "DELETE", &format!("/admin/v1/keys/{id}"), &json!({})).await;
    assert_eq!(revoked.json()["state"], "revoked");
    let refused = call(&gateway, new, "openai-ok").await;
    let unknown = call(&gateway, "mgk-unknown", "openai-ok").await;
    assert_eq!((refused.status, unknown.status), (401, 401));
    let without_id = |answer: &Answer| {
        let mut body = answer.json();
        body["error"]["request_id"] = Value::Null;
        body
    };
    assert_eq!(without_id(&refused), without_id(&unknown), "nobody learns that it once was good");

    let (short, _) = issued(&gateway, json!({ "name": "short", "expires_in": "300ms" })).await;
    assert_eq!(call(&gateway, &short, "openai-ok").await.status, 200);
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(call(&gateway, &short, "openai-ok").await.status, 401);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_may_not_reach_is_not_there_for_it() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let (key, _) =
        issued(&gateway, json!({ "name": "narrow", "endpoints": ["openai-*"], "deny": ["openai-json"] }))
            .await;
    assert_eq!(call(&gateway, &key, "openai-ok").await.status, 200);
    for hidden in ["openai-json", "mixed"] {
        let answer = call(&gateway, &key, hidden).await;
        let nobody = call(&gateway, &key, "nobody").await;
        assert_eq!((answer.status, nobody.status), (404, 404), "{hidden}");
        assert_eq!(
            answer.text().replace(hidden, "nobody").len(),
            nobody.text().len(),
            "as good as not there"
        );
    }
    let path = "/gateway/openai-json/invocations";
    let body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    assert_eq!(send(&gateway, &key, "POST", path, &body).await.status, 404);
    let listed = send(&gateway, &key, "GET", "/v1/models", &json!({})).await.text();
    assert!(
        listed.contains("openai-ok") && !listed.contains("openai-json") && !listed.contains("mixed"),
        "{listed}"
    );
    let listed = send(&gateway, &key, "GET", "/api/2.0/endpoints/", &json!({})).await.text();
    assert!(listed.contains("openai-ok") && !listed.contains("openai-json"), "{listed}");
    assert_eq!(send(&gateway, &key, "GET", "/v1/models/openai-json", &json!({})).await.status, 404);
    assert_eq!(send(&gateway, &key, "GET", "/admin/v1/keys", &json!({})).await.status, 403);
    gateway.close().await;
}

/// A denied target is passed over, never served; where nothing is left, that is said without saying which.
#[tokio::test(flavor = "multi_thread")]
async fn the_final_target_is_authorised() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let (key, _) = issued(&gateway, json!({ "name": "second", "deny": ["openai/status-*"] })).await;
    let answer = call(&gateway, &key, "mixed").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-millgate-attempts"), Some("1"), "the first was passed over");
    let (key, _) = issued(&gateway, json!({ "name": "first", "targets": ["openai/status-*"] })).await;
    let answer = call(&gateway, &key, "mixed").await;
    let failed = answer.header("x-millgate-error");
    assert_eq!((answer.status, failed), (502, Some("upstream_error")), "the fallback may not be served");
    let before = fake.requests().len();
    let (key, _) = issued(&gateway, json!({ "name": "none", "targets": ["claude/*"] })).await;
    let answer = call(&gateway, &key, "mixed").await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (403, Some("permission_denied")));
    assert!(!answer.text().contains("openai/"), "{}", answer.text());
    assert_eq!(fake.requests().len(), before, "nobody was asked");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_issues_more_than_they_have() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake).await;
    let refused = async |body: Value| {
        let answer = issue(&gateway, MANAGER, body).await;
        (answer.status, answer.header("x-millgate-error").map(str::to_owned))
    };
    let denied = (403, Some("permission_denied".to_owned()));
    assert_eq!(refused(json!({ "name": "a", "roles": ["admin"] })).await, denied);
    assert_eq!(refused(json!({ "name": "a" })).await, denied, "it would reach every endpoint");
    assert_eq!(refused(json!({ "name": "a", "endpoints": ["*"] })).await, denied);
    assert_eq!(refused(json!({ "name": "a", "endpoints": ["openai-ok"] })).await.0, 201);
    // Nor by way of a key that has more.
    let (_, id) = issued(&gateway, json!({ "name": "deputy", "roles": ["admin"] })).await;
    for (method, path) in
        [("POST", format!("/admin/v1/keys/{id}/rotate")), ("DELETE", format!("/admin/v1/keys/{id}"))]
    {
        assert_eq!(send(&gateway, MANAGER, method, &path, &json!({})).await.status, 403, "{method}");
    }
    for (body, pointer) in [
        (json!({ "name": "a b" }), "#/name"),
        (json!({ "name": "owner" }), "#/name"),
        (json!({ "name": "deputy" }), "#/name"),
        (json!({ "name": "x", "roles": ["invoke", "root"] }), "#/roles/1"),
        (json!({ "name": "x", "roles": [] }), "#/roles"),
        (json!({ "name": "x", "expires_in": "0s" }), "#/expires_in"),
        (json!({ "name": "x", "expires_in": "soon" }), "#/expires_in"),
    ] {
        let answer = issue(&gateway, ADMIN, body.clone()).await;
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{}", answer.text());
    }
    assert_eq!(send(&gateway, ADMIN, "DELETE", "/admin/v1/keys/nobody", &json!({})).await.status, 404);
    gateway.close().await;
}

/// Two replicas on one PostgreSQL: a key issued at one is good at the other, and bad within a second of its end.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_agree_on_keys_within_a_second() {
    let Ok(uri) = std::env::var("MILLGATE_TEST_POSTGRES") else {
        assert!(std::env::var_os("CI").is_none(), "CI must set MILLGATE_TEST_POSTGRES");
        return eprintln!("skipped: MILLGATE_TEST_POSTGRES names none");
    };
    let fake = FakeProvider::start().unwrap();
    let store = format!("store: \"{uri}\"\n");
    let access = format!(
        "{store}access:\n  keys: required\n  key_pepper: 0123456789abcdef0123456789abcdef\n  static: [ {{ name: owner, \
         key: {ADMIN}, roles: [admin] }} ]\n"
    );
    let yaml = config(&fake, &["ok"], &access);
    let (one, other) = (TestGateway::start(&yaml).await, TestGateway::start(&yaml).await);
    let name = format!("shared-{}", std::process::id());
    let (key, id) = issued(&one, json!({ "name": name })).await;
    let becomes = async |status: u16| {
        let began = Instant::now();
        while call(&other, &key, "openai-ok").await.status != status {
            assert!(began.elapsed() < Duration::from_secs(5), "not {status} within five seconds");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        began.elapsed()
    };
    becomes(200).await;
    assert_eq!(send(&one, ADMIN, "DELETE", &format!("/admin/v1/keys/{id}"), &json!({})).await.status, 200);
    assert_eq!(call(&one, &key, "openai-ok").await.status, 401);
    let took = becomes(401).await;
    eprintln!("a revocation counts at the other replica after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    one.close().await;
    other.close().await;
}
