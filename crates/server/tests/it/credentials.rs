//! Access tokens: fetched behind the scenes, one fetch however many wait, renewed in time, never shown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::pass::chat;

const SECRET: &str = "canary-client-secret-0123456789";

/// An Azure provider whose tokens come from `tenant` of the fake Entra ID.
fn entra(fake: &FakeProvider, tenant: &str, more: &str) -> String {
    let base = fake.base_url().trim_end_matches("/v1").to_owned();
    format!(
        "version: 1
providers:
  azure:
    kind: azure
    base_url: '{base}'
    credential:
      entra: {{ tenant_id: {tenant}, client_id: app, client_secret: {SECRET}, authority: '{base}' }}
  other: {{ kind: openai, base_url: '{base}/v1', api_key: sk-canary-other }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: azure/ok }}
  - {{ name: safe, type: llm/v1/chat, route: {{ fallback: [ azure/ok, other/ok ] }} }}
{more}"
    )
}

fn tokens(fake: &FakeProvider) -> usize {
    fake.requests().iter().filter(|request| request.path.ends_with("/token")).count()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(10), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_however_many_wait_and_kept_over_a_reload() {
    let fake = FakeProvider::start().unwrap();
    let config = entra(&fake, "slow-150ms", "");
    let gateway = Arc::new(TestGateway::start(&config).await);
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let gateway = Arc::clone(&gateway);
            tokio::spawn(async move { gateway.post("/v1/chat/completions", &chat("chat")).await.status })
        })
        .collect();
    for one in waiting {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(tokens(&fake), 1);
    let sent = fake.last();
    assert_eq!(sent.header("authorization"), Some("Bearer token-1"));
    assert_eq!(sent.header("api-key"), None);
    let asked = fake.requests().into_iter().find(|request| request.path.ends_with("/token")).unwrap();
    assert_eq!(asked.path, "/slow-150ms/oauth2/v2.0/token");
    assert_eq!(
        asked.body,
        format!(
            "grant_type=client_credentials&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default\
             &client_id=app&client_secret={SECRET}"
        )
    );
    gateway.apply(&config.replace("name: safe", "name: safer"));
    assert_eq!(gateway.post("/v1/chat/completions", &chat("safer")).await.status, 200);
    assert_eq!(tokens(&fake), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_expires() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&entra(&fake, "lives-1", "")).await;
    until("a second token", async || {
        let answer = gateway.post("/v1/chat/completions", &chat("chat")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        fake.last().header("authorization") == Some("Bearer token-2")
    })
    .await;
    assert_eq!(tokens(&fake), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_fails_is_a_typed_error_and_the_next_target_is_asked() {
    for (tenant, code) in
        [("status-401", "upstream_auth"), ("status-500", "upstream_error"), ("html", "upstream_error")]
    {
        let fake = FakeProvider::start().unwrap();
        let gateway = TestGateway::start(&entra(&fake, tenant, "")).await;
        for (path, call) in [
            ("/v1/chat/completions", chat("chat")),
            ("/v1/messages", json!({ "model": "chat", "max_tokens": 9, "messages": chat("x")["messages"] })),
        ] {
            let answer = gateway.post(path, &call).await;
            assert_eq!((answer.status, answer.header("x-millgate-error")), (502, Some(code)), "{tenant}");
            let text = answer.text();
            for leak in [SECRET, "invalid_client", "127.0.0.1", tenant] {
                assert!(!text.contains(leak), "{text}");
            }
        }
        let answer = gateway.post("/v1/chat/completions", &chat("safe")).await;
        assert_eq!((answer.status, answer.header("x-millgate-target")), (200, Some("other/ok")));
        // Callers do not hammer it: one fetch at the start, at most one a second after.
        for _ in 0..50 {
            gateway.post("/v1/chat/completions", &chat("chat")).await;
        }
        assert!(tokens(&fake) <= 4, "{}", tokens(&fake));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_comes_back_is_used_without_a_reload() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&entra(&fake, "fails-2", "")).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("chat")).await.status, 502);
    until("a token", async || gateway.post("/v1/chat/completions", &chat("chat")).await.status == 200).await;
    assert_eq!(tokens(&fake), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_credential_is_used_after_the_reload() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&entra(&fake, "status-503", "")).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("chat")).await.status, 502);
    gateway.apply(&entra(&fake, "ok", ""));
    assert_eq!(gateway.post("/v1/chat/completions", &chat("chat")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn databricks_clients_log_in_at_their_workspace() {
    let fake = FakeProvider::start().unwrap();
    let base = fake.base_url().replace("/v1", "/serving-endpoints");
    let gateway = TestGateway::start(&format!(
        "version: 1
providers:
  bricks:
    kind: databricks
    base_url: '{base}'
    credential: {{ oauth: {{ client_id: me, client_secret: {SECRET} }} }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: bricks/ok }}
"
    ))
    .await;
    let answer = gateway.post("/v1/chat/completions", &chat("chat")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let requests = fake.requests();
    assert_eq!(requests[0].path, "/oidc/v1/token");
    assert_eq!(requests[0].body, "grant_type=client_credentials&scope=all-apis");
    let login = format!("Basic {}", STANDARD.encode(format!("me:{SECRET}")));
    assert_eq!(requests[0].header("authorization"), Some(login.as_str()));
    assert_eq!(requests[1].path, "/serving-endpoints/chat/completions");
    assert_eq!(requests[1].header("authorization"), Some("Bearer token-1"));
}

/// A provider with Google's tokens.
async fn with_google(fake: &FakeProvider, credential: &str) -> TestGateway {
    TestGateway::start(&format!(
        "version: 1
providers:
  g: {{ kind: openai-compatible, base_url: '{}', credential: {{ google: {credential} }} }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: g/ok }}
",
        fake.base_url()
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn google_is_asked_as_a_service_account_as_a_user_and_on_its_machines() {
    let fake = FakeProvider::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.json");
    let der: Pkcs8V1Der<'_> = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    let pem = STANDARD.encode(der.as_ref());
    let token_uri = format!("http://{}/token", fake.address());
    let key = json!({ "type": "service_account", "client_email": "robot@p.iam", "private_key_id": "k",
        "private_key": format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
        "token_uri": token_uri });
    std::fs::write(&file, key.to_string()).unwrap();
    let from_file = format!("{{ credentials_file: '{}' }}", file.display());
    let gateway = with_google(&fake, &from_file).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("chat")).await.status, 200);
    assert_eq!(fake.last().header("authorization"), Some("Bearer token-1"));
    let form = fake.requests()[0].body.clone();
    let assertion = form
        .strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")
        .unwrap_or_else(|| panic!("{form}"));
    let claims = assertion.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(
        (claims["iss"].as_str(), claims["aud"].as_str()),
        (Some("robot@p.iam"), Some(token_uri.as_str()))
    );

    fake.forget();
    let login = json!({ "type": "authorized_user", "client_id": "c", "client_secret": SECRET,
        "refresh_token": "r", "token_uri": token_uri });
    std::fs::write(&file, login.to_string()).unwrap();
    let gateway = with_google(&fake, &from_file).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("chat")).await.status, 200);
    let expected = format!("grant_type=refresh_token&client_id=c&client_secret={SECRET}&refresh_token=r");
    assert_eq!(fake.requests()[0].body, expected);

    fake.forget();
    let gateway = with_google(&fake, &format!("{{ metadata_host: '{}' }}", fake.address())).await;
    assert_eq!(gateway.post("/v1/chat/completions", &chat("chat")).await.status, 200);
    let asked = &fake.requests()[0];
    assert_eq!((asked.method.as_str(), asked.header("metadata-flavor")), ("GET", Some("Google")));
    assert_eq!(asked.path, "/computeMetadata/v1/instance/service-accounts/default/token");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_learns_whether_there_is_a_credential() {
    let fake = FakeProvider::start().unwrap();
    let tested = async |tenant: &str| {
        let config = millgate_config::load(&entra(&fake, tenant, "")).unwrap().config;
        millgate_server::Gateway::test_credentials(&config).await
    };
    assert_eq!(tested("ok").await, [("azure".to_owned(), Ok(()))]);
    let found = tested("status-401").await;
    let reason = found[0].1.clone().unwrap_err();
    assert!(reason.contains("status 401, invalid_client") && !reason.contains(SECRET), "{reason}");
}
