//! The configuration over the admin API: checked, applied, written down, undone; and objects that are changed only in
//! the state that the caller saw.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use millgate_testkit::client::{self, Answer};
use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::config;
use super::pass::chat;

const ADMIN: &str = "mg-admin-key-0123456789a";
const MANAGER: &str = "mg-manager-key-012345678";
const NARROW: &str = "mg-narrow-key-0123456789";

/// The text, with keys in files: a text with a key in it is not kept.
fn text(fake: &FakeProvider, folder: &std::path::Path, models: &[&str]) -> String {
    let file = |name: &str, key: &str| {
        let path = folder.join(name);
        std::fs::write(&path, key).expect("a key is written");
        format!("file:{}", path.display())
    };
    let (admin, manager) = (file("admin", ADMIN), file("manager", MANAGER));
    let (narrow, provider) = (file("narrow", NARROW), file("provider", super::PROVIDER_KEY));
    let access = format!(
        "access:\n  keys: required\n  static:\n    - {{ name: owner, key: '{admin}', roles: [admin] }}\n    \
         - {{ name: manager, key: '{manager}', roles: [manage] }}\n    \
         - {{ name: narrow, key: '{narrow}', roles: [admin], endpoints: [openai-ok] }}\n"
    );
    config(fake, models, &access).replace(super::PROVIDER_KEY, &format!("'{provider}'"))
}

struct Started {
    fake: FakeProvider,
    gateway: TestGateway,
    file: PathBuf,
    folder: tempfile::TempDir,
}

async fn start() -> Started {
    let fake = FakeProvider::start().expect("a provider");
    let folder = tempfile::tempdir().expect("a folder");
    let (gateway, file) = TestGateway::start_from_file(&text(&fake, folder.path(), &["ok"])).await;
    Started { fake, gateway, file, folder }
}

impl Started {
    fn text(&self, models: &[&str]) -> String {
        text(&self.fake, self.folder.path(), models)
    }

    async fn send(&self, key: &str, method: &str, path: &str, body: &Value, more: &[(&str, &str)]) -> Answer {
        let bearer = format!("Bearer {key}");
        let headers = [&[("Authorization", &*bearer)], more].concat();
        let path = format!("/admin/v1{path}");
        let body = body.to_string();
        let sent = client::send(self.gateway.address(), method, &path, &headers, body.as_bytes()).await;
        sent.expect("an answer")
    }

    async fn apply(&self, text: &str, more: &[(&str, &str)]) -> Answer {
        let body = json!({ "text": text, "reason": "a test" });
        self.send(ADMIN, "POST", "/config/apply", &body, more).await
    }

    async fn history(&self) -> Vec<Value> {
        let listed = self.send(ADMIN, "GET", "/config/history", &json!({}), &[]).await;
        assert_eq!(listed.status, 200, "{}", listed.text());
        listed.json()["versions"].as_array().expect("a list").clone()
    }

    async fn calls(&self, endpoint: &str) -> u16 {
        let bearer = format!("Bearer {ADMIN}");
        let body = chat(endpoint).to_string();
        let headers = [("Authorization", &*bearer)];
        self.gateway.post_with("/v1/chat/completions", &headers, body.as_bytes()).await.status
    }

    async fn calls_until(&self, endpoint: &str, status: u16) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.calls(endpoint).await != status {
            assert!(Instant::now() < until, "{endpoint} never answers {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn tag(answer: &Answer) -> String {
    answer.header("etag").expect("an ETag").to_owned()
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_applied_written_down_and_undone() {
    let gateway = start().await;
    let first = gateway.text(&["ok"]);
    let second = gateway.text(&["ok", "json"]);
    assert_eq!(gateway.calls("openai-json").await, 404);
    let applied = gateway.apply(&second, &[]).await;
    assert_eq!(applied.status, 200, "{}", applied.text());
    assert_eq!(applied.json()["version"], 2);
    assert_eq!(std::fs::read_to_string(&gateway.file).unwrap(), second);
    assert_eq!(gateway.calls("openai-json").await, 200);

    let third = gateway.text(&["ok", "json", "tool"]);
    assert_eq!(gateway.apply(&third, &[]).await.status, 200);
    let undo = async |body: Value| gateway.send(ADMIN, "POST", "/config/undo", &body, &[]).await;
    let undone = undo(json!({ "reason": "too much" })).await;
    assert_eq!(undone.status, 200, "{}", undone.text());
    assert_eq!(std::fs::read_to_string(&gateway.file).unwrap(), second);
    assert_eq!(undo(json!({})).await.status, 200, "back goes on going back");
    assert_eq!(std::fs::read_to_string(&gateway.file).unwrap(), first);
    assert_eq!(code(&undo(json!({})).await), (400, "invalid_value".to_owned()), "there is nothing before");
    assert_eq!(undo(json!({ "to": 3 })).await.status, 200);
    assert_eq!(gateway.calls("openai-tool").await, 200);

    let history = gateway.history().await;
    let shown: Vec<_> = history
        .iter()
        .map(|one| {
            (one["id"].clone(), one["origin"].clone(), one["restored"].clone(), one["principal"].clone())
        })
        .collect();
    let row =
        |id: i64, origin: &str, restored: Value, by: &str| (json!(id), json!(origin), restored, json!(by));
    assert_eq!(
        shown,
        [
            row(6, "undo", json!(3), "owner"),
            row(5, "undo", json!(1), "owner"),
            row(4, "undo", json!(2), "owner"),
            row(3, "api", Value::Null, "owner"),
            row(2, "api", Value::Null, "owner"),
            row(1, "start", Value::Null, ""),
        ]
    );
    assert_eq!((&history[0]["served"], &history[1]["served"]), (&json!(true), &json!(false)));
    assert_eq!(history[2]["reason"], "too much");
    let one = gateway.send(ADMIN, "GET", "/config/history/2", &json!({}), &[]).await.json();
    assert_eq!(one["text"], second);
    // Pages of two.
    let mut ids = Vec::new();
    let mut path = "/config/history?limit=2".to_owned();
    loop {
        let page = gateway.send(ADMIN, "GET", &path, &json!({}), &[]).await.json();
        ids.extend(page["versions"].as_array().unwrap().iter().map(|one| one["id"].as_i64().unwrap()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/config/history?limit=2&cursor={cursor}");
    }
    assert_eq!(ids, [6, 5, 4, 3, 2, 1]);
    gateway.gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_problems_changes_nothing_and_names_all_of_them() {
    let gateway = start().await;
    let before = std::fs::read_to_string(&gateway.file).unwrap();
    let wrong = gateway.text(&["ok"]).replace("route: openai/ok", "route: opneai/ok");
    let wrong = wrong.replace("version: 1", "version: 2");
    let refused = gateway.apply(&wrong, &[]).await;
    assert_eq!(code(&refused), (400, "invalid_config".to_owned()), "{}", refused.text());
    let errors = refused.json()["errors"].as_array().unwrap().clone();
    let route = errors.iter().find(|error| error["pointer"] == "#/endpoints/0/route");
    let route = route.unwrap_or_else(|| panic!("{}", refused.text()));
    assert_eq!((&route["line"], &route["hint"]), (&json!(7), &json!("did you mean `openai`?")), "{route}");
    assert!(route["column"].as_u64().unwrap() > 10 && errors.len() == 2, "{errors:?}");

    let body = json!({ "text": wrong });
    let validated = gateway.send(ADMIN, "POST", "/config/validate", &body, &[]).await.json();
    assert_eq!(validated["valid"], false);
    assert_eq!(validated["problems"].as_array().unwrap().len(), 2);
    let body = json!({ "text": gateway.text(&["ok", "tool"]) });
    assert_eq!(gateway.send(ADMIN, "POST", "/config/validate", &body, &[]).await.json()["valid"], true);
    // As plain YAML too.
    let yaml = [("Content-Type", "application/yaml"), ("Authorization", &*format!("Bearer {ADMIN}"))];
    let path = "/admin/v1/config/validate";
    let raw = client::send(gateway.gateway.address(), "POST", path, &yaml, b"endpoints: 3").await.unwrap();
    assert_eq!(raw.json()["problems"][0]["pointer"], "#/endpoints", "{}", raw.text());

    // Who may: admins without limits. A text names files and addresses, so checking one is no small thing either.
    assert_eq!(gateway.send(MANAGER, "POST", "/config/validate", &body, &[]).await.status, 403);
    assert_eq!(gateway.send(NARROW, "POST", "/config/validate", &body, &[]).await.status, 403);
    assert_eq!(gateway.send(MANAGER, "POST", "/config/apply", &body, &[]).await.status, 403);
    assert_eq!(gateway.send(NARROW, "POST", "/config/apply", &body, &[]).await.status, 403);
    assert_eq!(gateway.send(NARROW, "POST", "/config/undo", &json!({ "to": 1 }), &[]).await.status, 403);
    assert_eq!(gateway.send(MANAGER, "GET", "/config/history/1", &json!({}), &[]).await.status, 403);
    assert_eq!(std::fs::read_to_string(&gateway.file).unwrap(), before);
    assert_eq!(gateway.history().await.len(), 1);
    gateway.gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_change_is_refused_and_one_by_hand_is_not_lost() {
    let gateway = start().await;
    let seen = tag(&gateway.send(ADMIN, "GET", "/config", &json!({}), &[]).await);
    let applied = gateway.apply(&gateway.text(&["ok", "json"]), &[("If-Match", &seen)]).await;
    assert_eq!(applied.status, 200, "{}", applied.text());
    let third = gateway.text(&["ok", "tool"]);
    let stale = gateway.apply(&third, &[("If-Match", &seen)]).await;
    assert_eq!(code(&stale), (412, "precondition_failed".to_owned()));
    assert_eq!(gateway.apply(&third, &[("If-Match", &tag(&applied))]).await.status, 200);

    // By hand: served and written down.
    std::fs::write(&gateway.file, gateway.text(&["ok", "json", "tool"])).unwrap();
    gateway.calls_until("openai-json", 200).await;
    let until = Instant::now() + Duration::from_secs(10);
    while gateway.history().await[0]["origin"] != "file" {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // By hand and broken: not served, and not replaced unless that is meant.
    std::fs::write(&gateway.file, "endpoints: 3").unwrap();
    let text = gateway.text(&["ok"]);
    assert_eq!(code(&gateway.apply(&text, &[]).await), (409, "config_conflict".to_owned()));
    assert_eq!(std::fs::read_to_string(&gateway.file).unwrap(), "endpoints: 3");
    let body = json!({ "text": text, "overwrite": true });
    assert_eq!(gateway.send(ADMIN, "POST", "/config/apply", &body, &[]).await.status, 200);
    assert_eq!(std::fs::read_to_string(&gateway.file).unwrap(), text);
    gateway.gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_text_is_never_shown_or_kept() {
    let gateway = start().await;
    let canary = "sk-canary-in-the-text-01";
    let provider = gateway.folder.path().join("provider");
    let text = gateway.text(&["ok"]).replacen(&format!("'file:{}'", provider.display()), canary, 1);
    assert!(text.contains(canary));
    let applied = gateway.apply(&text, &[]).await;
    assert_eq!(applied.status, 200, "{}", applied.text());
    assert!(applied.text().contains("clear text"), "it is warned about: {}", applied.text());
    let shown = gateway.send(ADMIN, "GET", "/config", &json!({}), &[]).await;
    assert!(shown.json()["text"].as_str().unwrap().contains("api_key: ***"), "{}", shown.text());
    let kept = gateway.send(ADMIN, "GET", "/config/history/2", &json!({}), &[]).await;
    assert_eq!(kept.json()["text"], Value::Null);
    for answer in [&applied, &shown, &kept] {
        assert!(!answer.text().contains(canary));
    }
    // What was shown and comes back is no secret.
    let masked = text.replace(canary, "***");
    assert_eq!(code(&gateway.apply(&masked, &[]).await), (400, "invalid_config".to_owned()));
    assert_eq!(gateway.apply(&gateway.text(&["ok", "tool"]), &[]).await.status, 200);
    let back = gateway.send(ADMIN, "POST", "/config/undo", &json!({}), &[]).await;
    assert!(back.status == 400 && back.text().contains("clear text"), "{}", back.text());
    let folder = gateway.gateway.folder();
    let mut log = String::new();
    millgate_audit::verify(&folder.join("data/audit"), millgate_testkit::AUDIT_KEY, |_, record| {
        log.push_str(record);
    })
    .unwrap();
    assert!(log.contains("/admin/v1/config/apply") && !log.contains(canary), "{log}");
    let store = std::fs::read(folder.join("data/millgate.db")).unwrap();
    assert!(!store.windows(canary.len()).any(|window| window == canary.as_bytes()));
    gateway.gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_replaced_and_no_file_are_said() {
    let gateway = start().await;
    std::fs::remove_file(&gateway.file).unwrap();
    let refused = gateway.apply(&gateway.text(&["ok", "json"]), &[]).await;
    assert_eq!(code(&refused), (409, "config_not_writable".to_owned()));
    assert_eq!(gateway.calls("openai-json").await, 404);
    assert_eq!(gateway.history().await.len(), 1);
    gateway.gateway.close().await;

    let fake = FakeProvider::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plain = TestGateway::start(&text(&fake, folder.path(), &["ok"])).await;
    let bearer = format!("Bearer {ADMIN}");
    let body = json!({ "text": text(&fake, folder.path(), &["json"]) }).to_string();
    let refused =
        plain.post_with("/admin/v1/config/apply", &[("Authorization", &bearer)], body.as_bytes()).await;
    assert_eq!(code(&refused), (409, "config_not_writable".to_owned()));
    plain.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_only_in_the_state_that_the_caller_saw() {
    let gateway = start().await;
    let made = gateway.send(ADMIN, "POST", "/keys", &json!({ "name": "app" }), &[]).await;
    let id = made.json()["issued"]["id"].as_str().unwrap().to_owned();
    let path = format!("/keys/{id}");
    let seen = tag(&gateway.send(ADMIN, "GET", &path, &json!({}), &[]).await);
    assert_eq!(seen, tag(&made));
    // That it is used is no change.
    let key = made.json()["key"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {key}");
    gateway.gateway.get_with("/v1/models", &[("Authorization", &bearer)]).await;
    assert_eq!(seen, tag(&gateway.send(ADMIN, "GET", &path, &json!({}), &[]).await));

    let rotate = format!("{path}/rotate");
    let stale = gateway.send(ADMIN, "POST", &rotate, &json!({}), &[("If-Match", "\"other\"")]).await;
    assert_eq!(code(&stale), (412, "precondition_failed".to_owned()));
    let rotated = gateway.send(ADMIN, "POST", &rotate, &json!({}), &[("If-Match", &seen)]).await;
    assert!(rotated.status == 200 && tag(&rotated) != seen);
    let stale = gateway.send(ADMIN, "DELETE", &path, &json!({}), &[("If-Match", &seen)]).await;
    assert_eq!(stale.status, 412);
    let seen = tag(&rotated);
    assert_eq!(gateway.send(ADMIN, "DELETE", &path, &json!({}), &[("If-Match", &seen)]).await.status, 200);

    // Two that saw the same: one wins.
    let made = gateway.send(ADMIN, "POST", "/keys", &json!({ "name": "raced" }), &[]).await;
    let rotate = format!("/keys/{}/rotate", made.json()["issued"]["id"].as_str().unwrap());
    let seen = tag(&made);
    let (body, both) = (json!({}), [("If-Match", &*seen)]);
    let (a, b) = tokio::join!(
        gateway.send(ADMIN, "POST", &rotate, &body, &both),
        gateway.send(ADMIN, "POST", &rotate, &body, &both)
    );
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);

    // Pages of keys, those of the file first.
    let mut names = Vec::new();
    let mut path = "/keys?state=all&limit=2".to_owned();
    loop {
        let page = gateway.send(ADMIN, "GET", &path, &json!({}), &[]).await.json();
        assert!(page["keys"].as_array().unwrap().len() <= 2);
        names.extend(
            page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/keys?state=all&limit=2&cursor={cursor}");
    }
    names[3..].sort();
    assert_eq!(names, ["owner", "manager", "narrow", "app", "raced"]);
    let wrong = gateway.send(ADMIN, "GET", "/keys?cursor=!", &json!({}), &[]).await;
    assert_eq!(wrong.json()["errors"][0]["pointer"], "#/cursor");
    gateway.gateway.close().await;
}
