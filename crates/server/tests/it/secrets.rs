//! Secrets by reference: those of the store, of Vault, of mounted folders; and requests that come twice.

use std::path::Path;
use std::time::{Duration, Instant};

use millgate_testkit::client::{self, Answer};
use millgate_testkit::{FakeProvider, FakeVault, TestGateway, VAULT_ACCOUNT, VAULT_TOKEN};
use serde_json::{Value, json};

use super::pass::chat;

const ADMIN: &str = "mg-admin-key-0123456789a";
const READER: &str = "mg-reader-key-0123456789";

/// One endpoint whose provider's key is `reference`.
fn text(fake: &FakeProvider, reference: &str, more: &str) -> String {
    format!(
        "version: 1
providers:
  openai: {{ kind: openai, base_url: '{}', api_key: '{reference}' }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: openai/ok }}
access:
  keys: required
  static:
    - {{ name: owner, key: {ADMIN}, roles: [admin, invoke] }}
    - {{ name: reader, key: {READER}, roles: [read] }}
{more}",
        fake.base_url()
    )
}

async fn send(
    gateway: &TestGateway,
    key: &str,
    method: &str,
    path: &str,
    body: &Value,
    more: &[(&str, &str)],
) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [&[("Authorization", &*bearer)], more].concat();
    let sent = client::send(gateway.address(), method, path, &headers, body.to_string().as_bytes()).await;
    sent.expect("an answer")
}

async fn set(gateway: &TestGateway, name: &str, value: &str) -> Answer {
    let path = format!("/admin/v1/secrets/{name}");
    send(gateway, ADMIN, "PUT", &path, &json!({ "value": value }), &[]).await
}

/// What the provider is sent as a key.
async fn key_sent(gateway: &TestGateway, fake: &FakeProvider) -> String {
    let answer = send(gateway, ADMIN, "POST", "/v1/chat/completions", &chat("chat"), &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    fake.last().header("authorization").expect("a key").trim_start_matches("Bearer ").to_owned()
}

async fn key_sent_until(gateway: &TestGateway, fake: &FakeProvider, wanted: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while key_sent(gateway, fake).await != wanted {
        assert!(Instant::now() < until, "never sent: {wanted}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn apply_body(text: &str) -> Value {
    json!({ "text": text })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_secret_is_used_at_once_and_never_shown() {
    let fake = FakeProvider::start().unwrap();
    let (gateway, _file) = TestGateway::start_from_file(&text(&fake, "sk-first-0123456789", "")).await;
    let referring = text(&fake, "secret:openai", "");
    let apply = "/admin/v1/config/apply";
    let missing = send(&gateway, ADMIN, "POST", apply, &apply_body(&referring), &[]).await;
    assert_eq!(missing.status, 400);
    let error = &missing.json()["errors"][0];
    assert_eq!(error["pointer"], "#/providers/openai/api_key");
    assert!(error["detail"].as_str().unwrap().contains("millgate secrets set openai"), "{error}");

    let made = set(&gateway, "openai", "sk-canary-one-01234567").await;
    assert_eq!((made.status, made.json()["version"].clone()), (201, json!(1)), "{}", made.text());
    assert_eq!(send(&gateway, ADMIN, "POST", apply, &apply_body(&referring), &[]).await.status, 200);
    assert_eq!(key_sent(&gateway, &fake).await, "sk-canary-one-01234567");
    // From the answer on, without a restart or a reload.
    let renewed = set(&gateway, "openai", "sk-canary-two-01234567").await;
    assert_eq!((renewed.status, renewed.json()["version"].clone()), (200, json!(2)));
    assert_eq!(key_sent(&gateway, &fake).await, "sk-canary-two-01234567");

    let listed = send(&gateway, READER, "GET", "/admin/v1/secrets", &json!({}), &[]).await;
    let entry = &listed.json()["secrets"][0];
    assert_eq!(
        (&entry["name"], &entry["used"], &entry["updated_by"]),
        (&json!("openai"), &json!(true), &json!("owner"))
    );
    let one = "/admin/v1/secrets/openai";
    let shown = send(&gateway, READER, "GET", one, &json!({}), &[]).await;
    assert_eq!(send(&gateway, READER, "PUT", one, &json!({ "value": "x" }), &[]).await.status, 403);
    let in_use = send(&gateway, ADMIN, "DELETE", one, &json!({}), &[]).await;
    assert_eq!((in_use.status, in_use.json()["code"].clone()), (409, json!("in_use")));
    let stale = [("If-Match", made.header("etag").unwrap())];
    assert_eq!(send(&gateway, ADMIN, "PUT", one, &json!({ "value": "x" }), &stale).await.status, 412);
    let config = send(&gateway, ADMIN, "GET", "/admin/v1/config", &json!({}), &[]).await;
    assert!(config.text().contains("secret:openai"));
    for answer in [&made, &renewed, &listed, &shown, &config] {
        assert!(!answer.text().contains("sk-canary"), "{}", answer.text());
    }
    for (name, value, pointer) in [("a%20b", "x", "#/name"), ("a", "", "#/value"), ("a", "x\ny", "#/value")] {
        let refused = set(&gateway, name, value).await;
        assert_eq!((refused.status, refused.json()["errors"][0]["pointer"].clone()), (400, json!(pointer)));
    }
    set(&gateway, "spare", "sk-canary-spare").await;
    assert_eq!(send(&gateway, ADMIN, "DELETE", "/admin/v1/secrets/spare", &json!({}), &[]).await.status, 200);
    assert_eq!(send(&gateway, ADMIN, "GET", "/admin/v1/secrets/spare", &json!({}), &[]).await.status, 404);

    let data = gateway.folder().join("data");
    nowhere(&data, b"sk-canary");
    gateway.close().await;
}

/// No file of the folder holds the bytes.
fn nowhere(folder: &Path, bytes: &[u8]) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            nowhere(&path, bytes);
        } else {
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(!found.windows(bytes.len()).any(|window| window == bytes), "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_folder_that_is_swapped_is_read_again() {
    let fake = FakeProvider::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path();
    // As Kubernetes does it: the file is a link through `..data`, which is swapped.
    for (version, key) in [("..v1", "sk-mounted-one-0123"), ("..v2", "sk-mounted-two-0123")] {
        std::fs::create_dir(mount.join(version)).unwrap();
        std::fs::write(mount.join(version).join("key"), format!("{key}\n")).unwrap();
    }
    std::os::unix::fs::symlink("..v1", mount.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/key", mount.join("key")).unwrap();
    let reference = format!("file:{}", mount.join("key").display());
    let (gateway, _file) = TestGateway::start_from_file(&text(&fake, &reference, "")).await;
    assert_eq!(key_sent(&gateway, &fake).await, "sk-mounted-one-0123");
    std::os::unix::fs::symlink("..v2", mount.join("..data_tmp")).unwrap();
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    key_sent_until(&gateway, &fake, "sk-mounted-two-0123").await;
    // Gone for a while: the last one is used.
    std::fs::remove_file(mount.join("..data")).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(key_sent(&gateway, &fake).await, "sk-mounted-two-0123");
    std::os::unix::fs::symlink("..v1", mount.join("..data")).unwrap();
    key_sent_until(&gateway, &fake, "sk-mounted-one-0123").await;
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vaults_secrets_are_read_again_and_outlive_its_absence() {
    let fake = FakeProvider::start().unwrap();
    let vault = FakeVault::start().await.unwrap();
    vault.set("team/openai", json!({ "api_key": "sk-vault-one-01234567" }));
    let account = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(account.path(), VAULT_ACCOUNT).unwrap();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), VAULT_TOKEN).unwrap();
    let by_token = format!(
        "secrets: {{ vault: {{ address: '{}', token: 'file:{}', refresh: 200ms }} }}\n",
        vault.url(),
        token.path().display()
    );
    let reference = "vault:secret/team/openai#api_key";
    let (gateway, _file) = TestGateway::start_from_file(&text(&fake, "sk-first-0123456789", "")).await;
    let apply = async |text: String| {
        send(&gateway, ADMIN, "POST", "/admin/v1/config/apply", &apply_body(&text), &[]).await
    };
    let applied = apply(text(&fake, reference, &by_token)).await;
    assert_eq!(applied.status, 200, "{}", applied.text());
    assert_eq!(key_sent(&gateway, &fake).await, "sk-vault-one-01234567");
    vault.set("team/openai", json!({ "api_key": "sk-vault-two-01234567" }));
    key_sent_until(&gateway, &fake, "sk-vault-two-01234567").await;
    vault.answer_with(Some(503));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(key_sent(&gateway, &fake).await, "sk-vault-two-01234567");
    vault.set("team/openai", json!({ "api_key": "sk-vault-three-012345" }));
    vault.answer_with(None);
    key_sent_until(&gateway, &fake, "sk-vault-three-012345").await;

    for (reference, reason) in [
        ("vault:secret/team/openai#other", "has no field `other`"),
        ("vault:secret/team/nothing#x", "holds no secret `secret/team/nothing`"),
    ] {
        let refused = apply(text(&fake, reference, &by_token)).await;
        assert!(refused.status == 400 && refused.text().contains(reason), "{}", refused.text());
    }
    // By the pod's service account; a token that was revoked is got anew.
    let account = account.path().display();
    let by_account = format!(
        "secrets: {{ vault: {{ address: '{}', kubernetes: {{ role: millgate, token_file: '{account}' }}, refresh: 200ms }} }}\n",
        vault.url()
    );
    let applied = apply(text(&fake, reference, &by_account)).await;
    assert_eq!(applied.status, 200, "{}", applied.text());
    let (logins, _) = vault.counts();
    assert_eq!(logins, 1);
    vault.revoke();
    vault.set("team/openai", json!({ "api_key": "sk-vault-four-0123456" }));
    key_sent_until(&gateway, &fake, "sk-vault-four-0123456").await;
    assert_eq!(vault.counts().0, 2);
    let wrong = by_account.replace("role: millgate", "role: other");
    let refused = apply(text(&fake, reference, &wrong)).await;
    assert!(refused.text().contains("the role `other` is not given"), "{}", refused.text());
    let shown = send(&gateway, ADMIN, "GET", "/admin/v1/config", &json!({}), &[]).await.text();
    assert!(shown.contains(reference) && !shown.contains("sk-vault"), "{shown}");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_twice_is_done_once_and_answered_alike() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&text(&fake, "sk-first-0123456789", "")).await;
    let issue = async |name: &str, key: &str| {
        let body = json!({ "name": name });
        send(&gateway, ADMIN, "POST", "/admin/v1/keys", &body, &[("Idempotency-Key", key)]).await
    };
    let first = issue("app", "one").await;
    let again = issue("app", "one").await;
    assert_eq!((first.status, again.status), (201, 201), "{}", again.text());
    assert_eq!((first.text(), first.header("etag")), (again.text(), again.header("etag")));
    assert_eq!(
        (first.header("idempotency-replayed"), again.header("idempotency-replayed")),
        (None, Some("true"))
    );
    let key = first.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(issue("other", "one").await.json()["code"], "idempotency_conflict");
    assert_eq!(issue("other", "one").await.status, 422);
    // In quotes it is the same key; another one is another request.
    assert_eq!(issue("app", "\"one\"").await.text(), first.text());
    assert_eq!(issue("app", "two").await.status, 400, "the name is taken");
    let refused = issue("app", "two").await;
    assert_eq!((refused.status, refused.json()["errors"][0]["pointer"].clone()), (400, json!("#/name")));
    assert_eq!(
        refused.header("idempotency-replayed"),
        None,
        "faults are given anew, with a request id of their own"
    );
    for wrong in ["", "a b", &"x".repeat(256)] {
        let malformed = issue("app", wrong).await;
        assert_eq!((malformed.status, malformed.json()["code"].clone()), (400, json!("bad_idempotency_key")));
    }
    // Many at once: one key is made, and nobody is told of another one.
    let (a, b, c) = tokio::join!(issue("raced", "race"), issue("raced", "race"), issue("raced", "race"));
    let mut statuses = [a.status, b.status, c.status];
    statuses.sort_unstable();
    assert!(statuses.iter().all(|status| [201, 409].contains(status)) && statuses[0] == 201, "{statuses:?}");
    for answer in [&a, &b, &c].into_iter().filter(|answer| answer.status == 409) {
        assert_eq!(answer.json()["code"], "idempotency_in_progress");
    }
    let listed = send(&gateway, ADMIN, "GET", "/admin/v1/keys", &json!({}), &[]).await.json();
    let names: Vec<_> = listed["keys"].as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
    let raced = names.iter().filter(|name| **name == "raced").count();
    assert_eq!((names.len(), raced), (4, 1), "{names:?}");
    nowhere(&gateway.folder().join("data"), key.as_bytes());
    gateway.close().await;
}
