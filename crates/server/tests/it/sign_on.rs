//! Callers without a key of ours: tokens of an identity provider, opaque ones, and the word of a proxy.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

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

async fn send(
    gateway: &TestGateway,
    headers: &[(&str, &str)],
    method: &str,
    path: &str,
    body: &Value,
) -> Answer {
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
    let sent =
        send(&gateway, &[("x-api-key", &alice)], "POST", "/v1/chat/completions", &chat("openai-ok")).await;
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
    cache: 2s
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
    assert_eq!(
        (unknown.status, idp.hits("/introspect")),
        (401, before),
        "our keys are nobody else's business"
    );
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

mod browser {
    use super::*;

    fn with_browser(idp: &FakeIssuer) -> String {
        issuer(
            idp,
            &format!(
                "  sign_on: {{ issuer: corp, client_id: {CLIENT}, client_secret: {CLIENT_SECRET}, \
                 public_url: 'http://127.0.0.1:9' }}\n"
            ),
        )
    }

    /// The cookies that an answer sets, and their attributes.
    fn cookies(answer: &Answer) -> Vec<(String, String)> {
        let set = answer.headers.iter().filter(|(name, _)| name == "set-cookie");
        let split = |(_, value): &(String, String)| {
            let (pair, more) = value.split_once("; ").unwrap();
            (pair.to_owned(), more.to_owned())
        };
        set.map(split).collect()
    }

    async fn get(gateway: &TestGateway, path: &str, headers: &[(&str, &str)]) -> Answer {
        gateway.get_with(path, headers).await
    }

    /// Follows the provider's address; gives the path to come back to, and the login's cookie.
    async fn at_provider(
        gateway: &TestGateway,
        idp: &FakeIssuer,
        user: &str,
        return_to: &str,
    ) -> (String, String) {
        let end = Instant::now() + Duration::from_secs(10);
        let login = loop {
            let login = get(gateway, &format!("/auth/login?return_to={return_to}"), &[]).await;
            if login.status == 302 || Instant::now() > end {
                break login;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(login.status, 302, "{}", login.text());
        let place = login.header("location").unwrap();
        let path = place.strip_prefix(&idp.url()).unwrap();
        assert!(path.contains("code_challenge_method=S256") && path.contains("nonce="), "{path}");
        let address = idp.url().strip_prefix("http://").unwrap().parse().unwrap();
        let back =
            client::send(address, "GET", &format!("{path}&login_hint={user}"), &[], b"").await.unwrap();
        let back = back.header("location").unwrap().strip_prefix("http://127.0.0.1:9").unwrap().to_owned();
        (back, cookies(&login)[0].0.clone())
    }

    async fn sign_on(gateway: &TestGateway, idp: &FakeIssuer, user: &str) -> String {
        let (back, login) = at_provider(gateway, idp, user, "/admin/v1/keys").await;
        let done = get(gateway, &back, &[("Cookie", &login)]).await;
        assert_eq!((done.status, done.header("location")), (303, Some("/admin/v1/keys")), "{}", done.text());
        let (session, attributes) = cookies(&done).remove(0);
        assert!(session.starts_with("millgate-session="), "{session}");
        assert_eq!(attributes, "Path=/; Max-Age=28800; HttpOnly; SameSite=Lax");
        session
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn people_sign_on_use_the_admin_api_and_sign_off() {
        let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
        let gateway = start(&fake, &with_browser(&idp)).await;
        idp.claims(json!({ "groups": ["admins"] }));
        let session = sign_on(&gateway, &idp, "alice").await;
        let cookie = ("Cookie", &*session);
        assert_eq!(get(&gateway, "/admin/v1/keys", &[cookie]).await.status, 200);
        // Nowhere else: a browser says who it is without being asked.
        let call = send(&gateway, &[cookie], "POST", "/v1/chat/completions", &chat("openai-ok")).await;
        assert_eq!(call.status, 401);
        assert_eq!(get(&gateway, "/v1/models", &[cookie]).await.status, 401);
        // Changes come from our own pages.
        let own = format!("http://{}", gateway.address());
        let new = json!({ "name": "made-by-alice" });
        for (origin, status) in [(None, 403), (Some("https://evil.example"), 403), (Some(&*own), 201)] {
            let mut headers = vec![cookie];
            headers.extend(origin.map(|origin| ("Origin", origin)));
            let answer = send(&gateway, &headers, "POST", "/admin/v1/keys", &new).await;
            assert_eq!(answer.status, status, "{origin:?}: {}", answer.text());
        }
        let listed = get(&gateway, "/admin/v1/keys", &[cookie]).await.json();
        assert_eq!(listed["keys"][1]["created_by"], "corp:alice");
        // Signed off, on the server too.
        let foreign = [cookie, ("Origin", "https://evil.example")];
        assert_eq!(send(&gateway, &foreign, "POST", "/auth/logout", &json!({})).await.status, 403);
        assert_eq!(get(&gateway, "/auth/logout", &[cookie]).await.status, 405);
        let off = send(&gateway, &[cookie], "POST", "/auth/logout", &json!({})).await;
        assert_eq!((off.status, cookies(&off)[0].0.as_str()), (303, "millgate-session="));
        assert_eq!(get(&gateway, "/admin/v1/keys", &[cookie]).await.status, 401);
        gateway.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sessions_are_listed_and_ended_by_administrators() {
        let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
        let gateway = start(&fake, &with_browser(&idp)).await;
        idp.claims(json!({ "groups": ["admins"] }));
        let mut sessions = Vec::new();
        for user in ["alice", "bob", "alice"] {
            sessions.push(sign_on(&gateway, &idp, user).await);
        }
        let owner = [("Authorization", "Bearer mg-owner-key-0123456789ab")];
        let (mut listed, mut path) = (Vec::new(), "/admin/v1/sessions?limit=2".to_owned());
        loop {
            let page = get(&gateway, &path, &owner).await.json();
            listed.extend(page["sessions"].as_array().unwrap().iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            path = format!("/admin/v1/sessions?limit=2&cursor={cursor}");
        }
        assert_eq!(listed.len(), 3);
        let text = serde_json::to_string(&listed).unwrap();
        assert!(!sessions.iter().any(|session| text.contains(session.rsplit('=').next().unwrap())), "{text}");
        let of_bob = get(&gateway, "/admin/v1/sessions?principal=corp:bob", &owner).await.json();
        let bob = of_bob["sessions"][0]["id"].as_str().unwrap();
        assert_eq!(of_bob["sessions"].as_array().unwrap().len(), 1);
        for (id, status) in
            [("0123456789abcdef01234567", 404), ("", 404), (&bob[..8], 404), (bob, 200), (bob, 404)]
        {
            let answer =
                send(&gateway, &owner, "DELETE", &format!("/admin/v1/sessions/{id}"), &json!({})).await;
            assert_eq!(answer.status, status, "{id}: {}", answer.text());
        }
        let mut statuses = Vec::new();
        for session in &sessions {
            statuses.push(get(&gateway, "/admin/v1/keys", &[("Cookie", session)]).await.status);
        }
        assert_eq!(statuses, [200, 401, 200]);
        gateway.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_is_bounded_by_roles_and_the_directory() {
        let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
        let gateway = start(&fake, &with_browser(&idp)).await;
        let session = sign_on(&gateway, &idp, "bob").await;
        assert_eq!(get(&gateway, "/admin/v1/keys", &[("Cookie", &session)]).await.status, 403);
        let owner = [("Authorization", "Bearer mg-owner-key-0123456789ab")];
        let bob = json!({ "name": "bob", "roles": ["read"] });
        assert_eq!(send(&gateway, &owner, "POST", "/admin/v1/users", &bob).await.status, 201);
        assert_eq!(
            get(&gateway, "/admin/v1/keys", &[("Cookie", &session)]).await.status,
            403,
            "roles are the token's"
        );
        let off = send(&gateway, &owner, "PATCH", "/admin/v1/users/bob", &json!({ "disabled": true })).await;
        assert_eq!(off.status, 200);
        assert_eq!(get(&gateway, "/admin/v1/keys", &[("Cookie", &session)]).await.status, 401);
        gateway.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_login_that_is_not_whole_lets_nobody_in() {
        let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
        let gateway = start(&fake, &with_browser(&idp)).await;
        let (back, login) = at_provider(&gateway, &idp, "alice", "/").await;
        let (other_back, _) = at_provider(&gateway, &idp, "mallory", "/").await;
        let state = back.split_once("&state=").unwrap().1.to_owned();
        for (what, path, cookie) in [
            ("without the cookie", back.clone(), ""),
            ("another's state: the login of somebody else", other_back, &*login),
            ("no state", back.split_once("&state=").unwrap().0.to_owned(), &*login),
            ("an unknown code", format!("/auth/callback?code=x&state={state}"), &*login),
            ("an error", format!("/auth/callback?error=access_denied&state={state}"), &*login),
            ("another issuer", format!("{back}&iss=https://evil.example"), &*login),
            ("a cookie of one's own making", back.clone(), "millgate-login=AAAA"),
            ("two cookies", back.clone(), "millgate-login=AAAA; millgate-login=BBBB"),
        ] {
            let answer = get(&gateway, &path, &[("Cookie", cookie)]).await;
            assert_eq!((answer.status, cookies(&answer).len()), (401, 0), "{what}: {}", answer.text());
        }
        let done = get(&gateway, &back, &[("Cookie", &login)]).await;
        assert_eq!(done.status, 303);
        assert_eq!(get(&gateway, &back, &[("Cookie", &login)]).await.status, 401, "a code is good once");
        idp.fault("wrong-nonce");
        let (back, login) = at_provider(&gateway, &idp, "alice", "/").await;
        assert_eq!(get(&gateway, &back, &[("Cookie", &login)]).await.status, 401);
        for place in ["//evil.example", "https://evil.example", "/%5Cevil.example", "/%0d%0aSet-Cookie:x"] {
            let answer = get(&gateway, &format!("/auth/login?return_to={place}"), &[]).await;
            assert_eq!(answer.status, 400, "{place}");
        }
        gateway.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_sign_on_there_is_nothing_at_its_paths() {
        let (fake, idp) = (FakeProvider::start().unwrap(), FakeIssuer::start().unwrap());
        let gateway = start(&fake, &issuer(&idp, "")).await;
        for path in ["/auth/login", "/auth/callback"] {
            assert_eq!(get(&gateway, path, &[]).await.status, 404, "{path}");
        }
        gateway.close().await;
    }
}
