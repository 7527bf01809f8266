//! The audit log: every change, requests where that is asked for, no secret, and no change that is not recorded.

use millgate_testkit::client;
use millgate_testkit::{AUDIT_KEY, FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::config;
use super::pass::chat;

const ADMIN: &str = "mg-admin-key-0123456789a";

async fn start(fake: &FakeProvider, calls: bool) -> TestGateway {
    let more = format!(
        "audit: {{ calls: {calls} }}\naccess: {{ keys: required, static: [ {{ name: owner, key: {ADMIN}, roles: [admin] }} ] }}\n"
    );
    TestGateway::start(&config(fake, &["ok"], &more)).await
}

async fn send(gateway: &TestGateway, method: &str, path: &str, body: &Value) -> client::Answer {
    let bearer = format!("Bearer {ADMIN}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let sent = client::send(gateway.address(), method, path, &headers, body.to_string().as_bytes()).await;
    sent.expect("an answer")
}

fn records(gateway: &TestGateway) -> (String, Vec<Value>) {
    let (mut text, mut records) = (String::new(), Vec::new());
    let folder = gateway.folder().join("data/audit");
    let report = millgate_audit::verify(&folder, AUDIT_KEY, |_, record| {
        text.push_str(record);
        records.push(serde_json::from_str(record).expect("a record is JSON"));
    });
    assert_eq!(report.expect("the log is whole").records, records.len() as u64);
    (text, records)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_recorded_before_and_after_it_is_done_without_its_secret() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake, false).await;
    let made = send(&gateway, "POST", "/admin/v1/keys", &json!({ "name": "app" })).await;
    let key = made.json()["key"].as_str().unwrap().to_owned();
    let id = made.json()["issued"]["id"].as_str().unwrap().to_owned();
    // The answer was there: so is the record.
    let (text, found) = records(&gateway);
    assert!(!text.contains(&key) && !text.contains(ADMIN), "{text}");
    let shown = |at: usize, fields: [&str; 4]| fields.map(|field| found[at][field].clone());
    let fields = ["kind", "phase", "principal", "path"];
    assert_eq!(shown(0, fields), [json!("change"), json!("asked"), json!("owner"), json!("/admin/v1/keys")]);
    assert_eq!(found[0]["change"]["name"], "app");
    assert_eq!(
        shown(1, ["phase", "status", "before", "method"]),
        [json!("done"), json!(201), Value::Null, json!("POST")]
    );
    assert_eq!(found[1]["after"]["state"], "active");
    assert_eq!(found[0]["request_id"], found[1]["request_id"]);

    send(&gateway, "DELETE", &format!("/admin/v1/keys/{id}"), &json!({})).await;
    let refused = send(&gateway, "POST", "/admin/v1/keys", &json!({ "name": "a b" })).await;
    assert_eq!(refused.status, 400);
    send(&gateway, "GET", "/admin/v1/keys", &json!({})).await;
    let (_, found) = records(&gateway);
    assert_eq!(found.len(), 6, "looking is no change");
    assert_eq!(
        (&found[3]["before"]["state"], &found[3]["after"]["state"]),
        (&json!("active"), &json!("revoked"))
    );
    assert_eq!((&found[5]["status"], &found[5]["code"]), (&json!(400), &json!("invalid_value")));
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_recorded_is_not_done_and_requests_go_on() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake, true).await;
    assert_eq!(send(&gateway, "POST", "/admin/v1/keys", &json!({ "name": "one" })).await.status, 201);
    let (log, aside) = (gateway.folder().join("data/audit"), gateway.folder().join("aside"));
    std::fs::rename(&log, &aside).unwrap();
    let refused = send(&gateway, "POST", "/admin/v1/keys", &json!({ "name": "two" })).await;
    assert_eq!((refused.status, refused.header("x-millgate-error")), (503, Some("dependency_unavailable")));
    assert!(refused.header("retry-after").is_some());
    let names = send(&gateway, "GET", "/admin/v1/keys", &json!({})).await.text();
    assert!(names.contains("\"one\"") && !names.contains("\"two\""), "{names}");
    assert_eq!(send(&gateway, "POST", "/v1/chat/completions", &chat("openai-ok")).await.status, 200);
    assert!(gateway.get("/metrics").await.text().contains("millgate_audit_healthy 0"));
    std::fs::rename(&aside, &log).unwrap();
    for _ in 0..100 {
        if send(&gateway, "POST", "/admin/v1/keys", &json!({ "name": "three" })).await.status == 201 {
            gateway.close().await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it does not recover");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_recorded_where_that_is_asked_for() {
    for calls in [false, true] {
        let fake = FakeProvider::start().unwrap();
        let gateway = start(&fake, calls).await;
        let answer = send(&gateway, "POST", "/v1/chat/completions", &chat("openai-ok")).await;
        let id = answer.header("x-request-id").unwrap().to_owned();
        let mut found = Vec::new();
        for _ in 0..100 {
            gateway.get("/metrics").await;
            found = records(&gateway).1;
            if !calls || found.iter().any(|record| record["request_id"] == *id) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let call = found.iter().find(|record| record["request_id"] == *id);
        assert_eq!(call.is_some(), calls);
        if let Some(call) = call {
            let facts = ["kind", "principal", "endpoint", "target", "outcome"].map(|field| &call[field]);
            let facts: Vec<_> = facts.iter().map(|fact| fact.as_str().unwrap_or_default()).collect();
            assert_eq!(facts, ["call", "owner", "openai-ok", "openai/ok", "completed"]);
            assert!(call["input_tokens"].as_u64() > Some(0), "{call}");
        }
        gateway.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_looked_through_by_who_what_and_when() {
    let fake = FakeProvider::start().unwrap();
    let gateway = start(&fake, true).await;
    for name in ["one", "two", "three"] {
        send(&gateway, "POST", "/admin/v1/keys", &json!({ "name": name })).await;
    }
    send(&gateway, "POST", "/v1/chat/completions", &chat("openai-ok")).await;
    let find = async |query: &str| {
        let answer = send(&gateway, "GET", &format!("/admin/v1/audit?{query}"), &Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let changes = find("kind=change&path=/admin/v1/keys").await;
    let found = changes["records"].as_array().unwrap();
    let shown: Vec<_> = found.iter().map(|record| record["phase"].as_str().unwrap()).collect();
    assert_eq!(shown, ["asked", "done"].repeat(3));
    assert_eq!(changes["next_cursor"], Value::Null);
    let (first, last) = (&found[0], &found[5]);
    assert!(first["seq"].as_u64().unwrap() < last["seq"].as_u64().unwrap());
    let since = last["time_ms"].as_i64().unwrap() + 1;
    assert_eq!(find(&format!("kind=change&since={since}")).await["records"], json!([]));
    assert_eq!(find("kind=change&until=2020-01-01T00:00:00Z").await["records"], json!([]));
    assert_eq!(find("principal=nobody").await["records"], json!([]));
    // Pages.
    let (mut seen, mut path) = (Vec::new(), "kind=change&principal=owner&limit=4".to_owned());
    loop {
        let page = find(&path).await;
        seen.extend(page["records"].as_array().unwrap().iter().map(|record| record["seq"].as_u64().unwrap()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("kind=change&principal=owner&limit=4&cursor={cursor}");
    }
    assert_eq!(seen.len(), 6);
    // The call is written a moment behind its answer, with a time of its own form.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while find("kind=call&path=/v1/chat&since=2020-01-01T00:00:00Z").await["records"] == json!([]) {
        assert!(std::time::Instant::now() < until);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for wrong in ["since=yesterday", "kind=x", "limit=0", "after=x", "cursor=%21"] {
        let answer = send(&gateway, "GET", &format!("/admin/v1/audit?{wrong}"), &Value::Null).await;
        let name = wrong.split('=').next().unwrap();
        assert_eq!(answer.json()["errors"][0]["pointer"], format!("#/{name}"), "{wrong}");
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_recorded_as_each_endpoint_says() {
    let fake = FakeProvider::start().unwrap();
    let endpoint = |name: &str, content: &str| {
        format!("  - {{ name: {name}, type: llm/v1/chat, route: openai/ok{content} }}\n")
    };
    let endpoints = [
        endpoint("quiet", ", audit: { content: none }"),
        endpoint("clean", ""),
        endpoint("hashed", ", audit: { content: hashed }"),
        endpoint("full", ", audit: { content: full }"),
    ];
    let more = format!(
        "{}audit: {{ calls: true, content: redacted }}\naccess: {{ keys: required, static: [ {{ name: owner, key: {ADMIN}, \
         roles: [admin, invoke] }} ] }}\n",
        endpoints.concat()
    );
    let gateway = TestGateway::start(&config(&fake, &["ok"], &more)).await;
    let body = |endpoint: &str| {
        let text = "I am anna.canary@example.com, card 4111 1111 1111 1111";
        json!({ "model": endpoint, "messages": [{ "role": "user", "content": text }] })
    };
    for endpoint in ["quiet", "clean", "hashed", "full"] {
        let answer = send(&gateway, "POST", "/v1/chat/completions", &body(endpoint)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // A stream is put together before it is looked at.
    let mut streamed = body("clean");
    streamed["stream"] = true.into();
    let answer = send(&gateway, "POST", "/v1/chat/completions", &streamed).await;
    assert!(answer.text().contains("[DONE]"));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let calls = loop {
        let calls: Vec<_> =
            records(&gateway).1.into_iter().filter(|record| record["kind"] == "call").collect();
        if calls.len() == 5 {
            break calls;
        }
        assert!(std::time::Instant::now() < until, "{calls:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let [quiet, clean, hashed, full, stream] = [0, 1, 2, 3, 4].map(|at| &calls[at]["content"]);
    assert_eq!(*quiet, Value::Null);
    assert_eq!(clean["request"]["json"]["messages"][0]["content"], "I am [e-mail], card [card]");
    assert!(clean["answer"]["json"]["choices"][0]["message"]["content"].is_string(), "{clean}");
    let length = body("hashed").to_string().len();
    assert_eq!(
        (&hashed["request"]["bytes"], hashed["request"]["hmac"].as_str().unwrap().len()),
        (&json!(length), 64)
    );
    assert!(full["request"]["text"].as_str().unwrap().contains("anna.canary@example.com"));
    assert!(!stream["answer"]["texts"].as_array().unwrap().is_empty(), "{stream}");
    for call in [&calls[0], &calls[1], &calls[2], &calls[4]] {
        assert!(!call.to_string().contains("canary") && !call.to_string().contains("4111"), "{call}");
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_calls_are_refused_where_that_is_wanted() {
    let fake = FakeProvider::start().unwrap();
    let more = format!(
        "audit: {{ calls: true, on_error: deny }}\naccess: {{ keys: required, static: [ {{ name: owner, key: {ADMIN}, \
         roles: [admin, invoke] }} ] }}\n"
    );
    let gateway = TestGateway::start(&config(&fake, &["ok"], &more)).await;
    let call = async || send(&gateway, "POST", "/v1/chat/completions", &chat("openai-ok")).await;
    assert_eq!(call().await.status, 200);
    let (folder, aside) = (gateway.folder().join("data/audit"), gateway.folder().join("data/aside"));
    std::fs::rename(&folder, &aside).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let refused = loop {
        let answer = call().await;
        if answer.status != 200 {
            break answer;
        }
        assert!(std::time::Instant::now() < until, "never refused");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("x-millgate-error"), Some("dependency_unavailable"));
    std::fs::rename(&aside, &folder).unwrap();
    while call().await.status != 200 {
        assert!(std::time::Instant::now() < until, "never served again");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    gateway.close().await;
}
