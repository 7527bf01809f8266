//! Callers without a key of ours: tokens of an identity provider, opaque ones, and the word of a proxy.

use std::time::{Duration, Instant};

use millgate_testkit::client::{self, Answer};
use millgate_testkit::{AUDIENCE, CLIENT, CLIENT_SECRET, FakeIssuer, FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::config;
use super::pass::chat;

const OWNER: &str = "mg-owner-key-0123456789ab";

fn issuer(issuer: &FakeIssuer, more: &str) -> String {
    format!(
        "access:
  keys: required
  static:
    - {{ name: owner, key: {OWNER}, roles: [admin] }}
  issuers:
    - name: corp
      issuer: '{}'
      audience: [{AUDIENCE}]
      team: claims.team
      roles:
        - {{ when: \"'admins' in claims.groups\", roles: [admin] }}
        - {{ when: \"'narrow' in claims.groups\", roles: [invoke], endpoints: [openai-ok], deny: [openai-json] }}
        - {{ when: \"claims.sub != 'mallory'\", roles: [invoke] }}
{more}",
        issuer.url()
    )
}

async fn start(fake: &FakeProvider, more: &str) -> TestGateway {
    TestGateway::start(&config(fake, &["ok", "json"], more)).await
}

async fn send(gateway: &TestGateway, headers: &[(&str, &str)], method: &str, path: &str, body: &Value) -> Answer {
    client::send(gateway.address(), method, path, headers, body.to_string().as_bytes()).await.unwrap()
}

async fn call(gateway: &TestGateway, token: &str, endpoint: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    send(gateway, &[("Authorization", &bearer)], "POST", "/v1/chat/completions", &chat(endpoint)).await
}

/// The body without what differs in every answer.
fn plain(answer: &Answer) -> Value {
    let mut body = answer.json();
    body["error"]["request_id"] = Value::Null;
    body
}

/// Calls until the answer has this status: keys are fetched while the gateway starts.
async fn until(gateway: &TestGateway, token: &str, status: u16) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = call(gateway, token, "openai-ok").await;
        if answer.status == status {
            return;
        }
        assert!(Instant::now() < end, "{}: {}", answer.status, answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_as_good_as_a_key() {
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    let gateway = start(&fake, &issuer(&idp, "")).await;
    let alice = idp.token("good", &json!({ "team": "search" }));
    for _ in 0..3 {
        let answer = call(&gateway, &alice, "openai-ok").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let sent = send(&gateway, &[("x-api-key", &alice)], "POST", "/v1/chat/completions", &chat("openai-ok")).await;
    assert_eq!(sent.status, 200, "in every place where a key may stand");
    // What they may do and reach.
    let narrow = idp.token("good", &json!({ "groups": ["narrow"] }));
    assert_eq!(call(&gateway, &narrow, "openai-ok").await.status, 200);
    assert_eq!(call(&gateway, &narrow, "openai-json").await.status, 404);
    let listed = |token: String| {
        let gateway = &gateway;
        async move {
            let bearer = format!("Bearer {token}");
            send(gateway, &[("Authorization", &bearer)], "GET", "/admin/v1/keys", &json!({})).await
        }
    };
    assert_eq!(listed(alice).await.status, 403);
    assert_eq!(listed(idp.token("good", &json!({ "groups": ["admins"] }))).await.status, 200);
    let mallory = idp.token("good", &json!({ "sub": "mallory" }));
    let answer = call(&gateway, &mallory, "openai-ok").await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (403, Some("permission_denied")));
    // A key is a key still.
    assert_eq!(call(&gateway, OWNER, "openai-ok").await.status, 200);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_gets_the_same_answer() {
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    let gateway = start(&fake, &issuer(&idp, "")).await;
    until(&gateway, &idp.token("good", &json!({})), 200).await;
    let before = fake.requests().len();
    let unknown = call(&gateway, "mgk-unknown", "openai-ok").await;
    assert_eq!(unknown.status, 401);
    let mut bad: Vec<String> =
        ["none", "hs", "foreign", "unknown-key", "expired", "not-yet", "no-exp", "audience", "issuer"]
            .map(|kind| idp.token(kind, &json!({})))
            .to_vec();
    bad.push(idp.token("good", &json!({ "sub": 7 })));
    bad.push(idp.token("good", &json!({ "sub": "" })));
    bad.push(format!("{}x", idp.token("good", &json!({}))));
    bad.push("eyJhbGciOiJub25lIn0.e30.".to_owned());
    for token in bad {
        let answer = call(&gateway, &token, "openai-ok").await;
        assert_eq!((answer.status, plain(&answer)), (401, plain(&unknown)), "{token}");
        assert!(answer.header("www-authenticate").is_some());
    }
    assert_eq!(fake.requests().len(), before, "nothing reached the provider");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_keys_are_fetched_once_for_all_who_wait() {
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    let gateway = start(&fake, &issuer(&idp, "")).await;
    until(&gateway, &idp.token("good", &json!({})), 200).await;
    let before = idp.hits("/jwks");
    idp.rotate();
    let calls = (0..20).map(|n| {
        let token = idp.token("good", &json!({ "sub": format!("user-{n}") }));
        let gateway = &gateway;
        async move { call(gateway, &token, "openai-ok").await.status }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert_eq!(statuses, vec![200; 20]);
    assert_eq!(idp.hits("/jwks"), before + 1);
    // Nobody makes us ask again and again.
    for n in 0..5 {
        let token = idp.token("unknown-key", &json!({ "n": n }));
        assert_eq!(call(&gateway, &token, "openai-ok").await.status, 401);
    }
    assert_eq!(idp.hits("/jwks"), before + 1);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_does_not_take_its_known_keys_along() {
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    let gateway = start(&fake, &issuer(&idp, "")).await;
    until(&gateway, &idp.token("good", &json!({})), 200).await;
    idp.fault("down");
    let fresh = idp.token("good", &json!({ "sub": "fresh" }));
    assert_eq!(call(&gateway, &fresh, "openai-ok").await.status, 200);
    assert_eq!(call(&gateway, &idp.token("unknown-key", &json!({})), "openai-ok").await.status, 401);
    assert_eq!(call(&gateway, OWNER, "openai-ok").await.status, 200);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_too_large_or_foreign_are_refused_until_they_are_good() {
    for fault in ["huge", "other-issuer", "down"] {
        let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
        idp.fault(fault);
        let gateway = start(&fake, &issuer(&idp, "")).await;
        let token = idp.token("good", &json!({}));
        assert_eq!(call(&gateway, &token, "openai-ok").await.status, 401, "{fault}");
        idp.fault("");
        let back = Instant::now();
        until(&gateway, &token, 200).await;
        assert!(back.elapsed() < Duration::from_secs(5), "{fault}: within 5 s of the issuer's return");
        gateway.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_keys_hold_up_nobody_but_those_who_need_them() {
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    idp.fault("slow");
    let gateway = start(&fake, &issuer(&idp, "")).await;
    let token = idp.token("good", &json!({}));
    let (waits, beside) = tokio::join!(call(&gateway, &token, "openai-ok"), async {
        let began = Instant::now();
        let answer = call(&gateway, OWNER, "openai-ok").await;
        (answer.status, began.elapsed() < Duration::from_secs(1))
    });
    assert_eq!((waits.status, beside), (200, (200, true)));
    gateway.close().await;
}

fn introspection(idp: &FakeIssuer) -> String {
    format!(
        "access:
  keys: required
  static: [ {{ name: owner, key: {OWNER}, roles: [admin] }} ]
  introspection:
    url: '{}/introspect'
    client_id: {CLIENT}
    client_secret: {CLIENT_SECRET}
    cache: 400ms
    roles: [ {{ when: \"'call' in split(claims.scope, ' ')\", roles: [invoke] }} ]
",
        idp.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_tokens_are_asked_about_once_in_a_while() {
    let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
    let gateway = start(&fake, &introspection(&idp)).await;
    idp.opaque("opaque-1", json!({ "active": true, "sub": "alice", "scope": "openid call" }));
    idp.opaque("opaque-2", json!({ "active": true, "sub": "bob", "scope": "openid" }));
    idp.opaque("opaque-3", json!({ "active": true, "sub": "carol", "scope": "call", "exp": 1000 }));
    let calls = (0..10).map(|_| call(&gateway, "opaque-1", "openai-ok"));
    let statuses: Vec<_> =
        futures_util::future::join_all(calls).await.iter().map(|answer| answer.status).collect();
    assert_eq!((statuses, idp.hits("/introspect")), (vec![200; 10], 1));
    assert_eq!(call(&gateway, "opaque-2", "openai-ok").await.status, 403);
    assert_eq!(call(&gateway, "opaque-3", "openai-ok").await.status, 401);
    let before = idp.hits("/introspect");
    let unknown = call(&gateway, "mgk-unknown", "openai-ok").await;
    assert_eq!((unknown.status, idp.hits("/introspect")), (401, before), "our keys are nobody else's business");
    for _ in 0..3 {
        let answer = call(&gateway, "opaque-0", "openai-ok").await;
        assert_eq!((answer.status, plain(&answer)), (401, plain(&unknown)));
    }
    assert_eq!(idp.hits("/introspect"), before + 1, "a no is remembered too");
    // Revoked there, it is so here when the answer is old.
    idp.opaque("opaque-1", json!({ "active": false }));
    until(&gateway, "opaque-1", 401).await;
    idp.fault("down");
    assert_eq!(call(&gateway, "opaque-9", "openai-ok").await.status, 401);
    assert_eq!(call(&gateway, OWNER, "openai-ok").await.status, 200);
    gateway.close().await;
}

fn proxies(from: &str) -> String {
    format!(
        "access:
  keys: required
  static: [ {{ name: owner, key: {OWNER}, roles: [admin] }} ]
  trusted_proxies:
    from: ['{from}']
    user: headers['x-forwarded-user']
    team: headers['x-forwarded-team']
    roles: [ {{ when: \"'callers' in split(headers['x-forwarded-groups'], ',')\", roles: [invoke] }} ]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_word_counts_from_its_own_address_only() {
    let fake = FakeProvider::start().unwrap();
    let said = [("X-Forwarded-User", "alice"), ("X-Forwarded-Groups", "x, callers")];
    let gateway = start(&fake, &proxies("127.0.0.0/8")).await;
    let path = "/v1/chat/completions";
    assert_eq!(send(&gateway, &said, "POST", path, &chat("openai-ok")).await.status, 200);
    assert_eq!(send(&gateway, &said[..1], "POST", path, &chat("openai-ok")).await.status, 403);
    assert_eq!(send(&gateway, &said[1..], "POST", path, &chat("openai-ok")).await.status, 401);
    // A key in the same request counts before it, also a bad one.
    let with = |key: &'static str| [said[0], said[1], ("x-api-key", key)];
    let admin = send(&gateway, &with(OWNER), "GET", "/admin/v1/keys", &json!({})).await;
    let bad = send(&gateway, &with("no-such-key"), "POST", path, &chat("openai-ok")).await;
    assert_eq!((admin.status, bad.status), (200, 401));
    // One that a client slipped in beside the proxy's is nobody's.
    let twice = [said[0], said[1], ("X-Forwarded-Groups", "y")];
    assert_eq!(send(&gateway, &twice, "POST", path, &chat("openai-ok")).await.status, 200);
    gateway.close().await;
    let gateway = start(&fake, &proxies("10.0.0.0/8")).await;
    assert_eq!(send(&gateway, &said, "POST", path, &chat("openai-ok")).await.status, 401);
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_by_address_count_the_client_behind_the_proxy() {
    let fake = FakeProvider::start().unwrap();
    let more = "  - name: limited
    type: llm/v1/chat
    route: openai/ok
    limits: [ { by: ip, requests: 1, per: 1h } ]
access: { trusted_proxies: { from: [127.0.0.1] } }
";
    let gateway = TestGateway::start(&config(&fake, &["ok"], more)).await;
    let from = |address: &'static str| {
        let gateway = &gateway;
        async move {
            let headers = [("X-Forwarded-For", address)];
            send(gateway, &headers, "POST", "/v1/chat/completions", &chat("limited")).await.status
        }
    };
    assert_eq!(from("192.0.2.1").await, 200);
    assert_eq!(from("6.6.6.6, 192.0.2.1").await, 429, "what stands left of it anybody may have written");
    assert_eq!(from("192.0.2.2").await, 200);
    // Nor is a client trusted with what this machine is.
    let headers = [("X-Forwarded-For", "192.0.2.9")];
    assert_eq!(send(&gateway, &headers, "GET", "/admin/v1/endpoints", &json!({})).await.status, 403);
    gateway.close().await;
}
