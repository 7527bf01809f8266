//! The admin API: who may what, the registry's view, going back to the version before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millgate_models::unpack_demo_store;
use millgate_testkit::TestGateway;
use millgate_testkit::client::Answer;
use serde_json::{Value, json};

const INVOKE: &str = "mg-invoke-key-0123456789";
const READ: &str = "mg-read-key-0123456789ab";
const MANAGE: &str = "mg-manage-key-0123456789";
const ADMIN: &str = "mg-admin-key-0123456789a";

/// A store with two versions of `iris`, whose alias `champion` names the first.
fn store(folder: &Path) -> (String, PathBuf) {
    let uri = unpack_demo_store(folder).expect("the demo store");
    let iris = folder.join("mlruns/models/iris");
    std::fs::create_dir(iris.join("version-2")).expect("the demo store");
    let meta = std::fs::read_to_string(iris.join("version-1/meta.yaml")).expect("the demo store");
    std::fs::write(iris.join("version-2/meta.yaml"), meta.replace("\nversion: 1\n", "\nversion: 2\n"))
        .expect("the demo store");
    (uri, iris)
}

fn yaml(uri: &str, keys: bool) -> String {
    let access = if keys {
        format!(
            "access:\n  keys: required\n  static:\n    - {{ name: caller, key: {INVOKE} }}\n    \
             - {{ name: reader, key: {READ}, roles: [read] }}\n    \
             - {{ name: manager, key: {MANAGE}, roles: [manage] }}\n    \
             - {{ name: owner, key: {ADMIN}, roles: [admin] }}\n"
        )
    } else {
        String::new()
    };
    format!(
        "version: 1\nregistries: {{ default: {{ uri: \"{uri}\", poll_interval: 100ms }} }}\nendpoints:\n  \
         - {{ name: iris, type: predict, path: /predict/iris, route: \"models:/iris@champion\" }}\n{access}"
    )
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

async fn wait_for(gateway: &TestGateway, version: &str) -> Value {
    for _ in 0..600 {
        let status = gateway.get("/admin/v1/deployments/iris").await.json();
        if status["version"] == *version {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("version {version} does not come");
}

fn problem(answer: &Answer, status: u16, code: &str) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("x-millgate-error"), Some(code));
    let body = answer.json();
    assert_eq!((&body["status"], &body["code"]), (&json!(status), &json!(code)));
    assert_eq!(body["type"], format!("urn:millgate:error:{code}"));
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_taken_back_and_followed_again() {
    let folder = tempfile::tempdir().unwrap();
    let (uri, iris) = store(folder.path());
    let gateway = TestGateway::start(&yaml(&uri, false)).await;
    wait_for(&gateway, "1").await;
    std::fs::write(iris.join("aliases/champion"), "2").unwrap();
    assert_eq!(gateway.post("/admin/v1/deployments/iris/refresh", &json!({})).await.status, 202);
    let status = wait_for(&gateway, "2").await;
    assert_eq!(status["kept"]["version"], "1");

    let back = gateway.post("/admin/v1/deployments/iris/rollback", &json!({})).await;
    assert_eq!(back.status, 200, "{}", back.text());
    assert_eq!(back.json(), json!({ "endpoint": "iris", "from": "2", "to": "1", "live": true }));
    let status = wait_for(&gateway, "1").await;
    assert_eq!(status["held"], json!({ "rejected": "2", "version": "1", "by": "operator" }));
    let again = gateway.post("/admin/v1/deployments/iris/rollback", &json!({})).await;
    problem(&again, 400, "invalid_value");
    let resumed = gateway.post("/admin/v1/deployments/iris/resume", &json!({})).await;
    assert_eq!(resumed.status, 202, "{}", resumed.text());
    wait_for(&gateway, "2").await;

    let endpoints = gateway.get("/admin/v1/endpoints").await.json();
    let target = &endpoints["endpoints"][0]["targets"][0];
    assert_eq!((&target["version"], &target["runtime"]), (&json!("2"), &json!("native")));
    assert_eq!(gateway.get("/admin/v1/endpoints/iris").await.json()["type"], "predict");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_searched_and_says_what_is_served_where() {
    let folder = tempfile::tempdir().unwrap();
    let (uri, _) = store(folder.path());
    let gateway = TestGateway::start(&yaml(&uri, false)).await;
    wait_for(&gateway, "1").await;
    let found = gateway.get("/admin/v1/models?name=IRIS&alias=champion").await.json();
    assert_eq!(found["models"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found["models"][0]["model"]["latest_version"], "2");
    let served = &found["models"][0]["served"][0];
    assert_eq!((&served["endpoint"], &served["version"]), (&json!("iris"), &json!("1")));
    assert_eq!(served["why"], "trees are read and walked in process");
    let nothing = gateway.get("/admin/v1/models?tag=team=nobody").await.json();
    assert_eq!(nothing["models"], json!([]));

    let model = gateway.get("/admin/v1/models/default/iris").await.json();
    let versions: Vec<_> = model["versions"].as_array().unwrap().iter().map(|v| &v["version"]).collect();
    assert_eq!(versions, ["2", "1"]);
    let facts = gateway.get("/admin/v1/models/default/iris/versions/1").await.json();
    assert_eq!(facts["inputs"][0]["name"], "sepal_length");

    problem(&gateway.get("/admin/v1/models/default/nothing").await, 404, "not_found");
    problem(&gateway.get("/admin/v1/models/default/iris/versions/x").await, 400, "invalid_value");
    let wrong = problem(&gateway.get("/admin/v1/models?limit=0").await, 400, "invalid_value");
    assert_eq!(wrong["errors"][0]["pointer"], "#/limit");
    let wrong = problem(&gateway.get("/admin/v1/models?registry=nowhere").await, 400, "invalid_value");
    assert_eq!(wrong["detail"], "`registry` must be one of: default");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_told_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let (uri, _) = store(folder.path());
    let gateway = TestGateway::start(&yaml(&uri, false)).await;
    wait_for(&gateway, "1").await;
    problem(&gateway.get("/admin/v1/nothing").await, 404, "not_found");
    problem(&gateway.get("/admin").await, 404, "not_found");
    let wrong = gateway.get("/admin/v1/deployments/iris/rollback").await;
    problem(&wrong, 405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("POST"));
    let path = "/admin/v1/deployments/iris/rollback";
    problem(&gateway.post_with(path, &[], b"{").await, 400, "invalid_json");
    problem(&gateway.post_with(path, &[], b"{} {}").await, 400, "invalid_json");
    let wrong = problem(&gateway.post(path, &json!({ "to": 2 })).await, 400, "invalid_value");
    assert_eq!(wrong["errors"][0]["pointer"], "#/to");
    let wrong = problem(&gateway.post(path, &json!({ "version": "2" })).await, 400, "invalid_value");
    assert!(wrong["detail"].as_str().unwrap().contains("unknown field `version`"), "{wrong}");
    let path = "/admin/v1/deployments/nobody/rollback";
    problem(&gateway.post(path, &json!({})).await, 404, "not_found");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_what_it_says_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (uri, _) = store(folder.path());
    let gateway = TestGateway::start(&yaml(&uri, true)).await;
    let body = br#"{"dataframe_split":{"columns":["a"],"data":[[1]]}}"#;
    // Refused by the key or not: what comes after the key does not matter here.
    let mut found = Vec::new();
    for key in [INVOKE, READ, MANAGE, ADMIN] {
        let authorization = bearer(key);
        let headers = [("Authorization", &*authorization), ("Content-Type", "application/json")];
        let answers = [
            gateway.post_with("/predict/iris", &headers, body).await,
            gateway.get_with("/v1/models", &headers).await,
            gateway.get_with("/admin/v1/deployments", &headers).await,
            gateway.get_with("/admin/v1/models", &headers).await,
            gateway.post_with("/admin/v1/deployments/iris/refresh", &headers, b"").await,
        ];
        found.push(answers.map(|answer| answer.header("x-millgate-error") != Some("permission_denied")));
    }
    assert_eq!(
        found,
        [
            [true, true, false, false, false],
            [false, false, true, true, false],
            [false, false, true, true, true],
            [true, true, true, true, true],
        ]
    );
    problem(&gateway.get("/admin/v1/deployments").await, 401, "invalid_api_key");
    problem(&gateway.get("/admin/v1/nothing").await, 401, "invalid_api_key");
    gateway.close().await;
}

/// Keys may name versions, which are checked by the one that answers, whatever alias leads to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_does_not_widen_what_a_key_reaches() {
    let folder = tempfile::tempdir().unwrap();
    let (uri, iris) = store(folder.path());
    let (first, others, elsewhere) =
        ("mg-first-key-0123456789", "mg-others-key-0123456789", "mg-elsewhere-key-012345");
    let keys = format!(
        "{}    - {{ name: first, key: {first}, targets: ['models:/iris/1'] }}
    - {{ name: others, key: {others}, roles: [invoke, manage], deny: ['models:/iris/2'] }}
    - {{ name: elsewhere, key: {elsewhere}, roles: [manage], endpoints: ['chat-*'] }}\n",
        yaml(&uri, true)
    );
    let gateway = TestGateway::start(&keys).await;
    let rows = r#"{"dataframe_split": {"columns": ["sepal_length", "sepal_width", "petal_length", "petal_width"],
        "data": [[5.1, 3.5, 1.4, 0.2]]}}"#;
    let v2 =
        r#"{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}"#;
    let predict = async |key: &str| {
        let headers = [("authorization", &*bearer(key)), ("content-type", "application/json")];
        let answer = gateway.post_with("/predict/iris", &headers, rows.as_bytes()).await;
        let other = gateway.post_with("/v2/models/iris/infer", &headers, v2.as_bytes()).await;
        let bulk = [("authorization", &*bearer(key)), ("content-type", "application/x-ndjson")];
        let bulk = gateway.post_with("/predict/iris", &bulk, b"[5.1, 3.5, 1.4, 0.2]\n").await;
        (answer.status, other.status, bulk.status)
    };
    let mut tries = 0;
    while predict(first).await != (200, 200, 200) {
        tries += 1;
        assert!(tries < 200, "{:?}", predict(first).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(predict(others).await, (200, 200, 200));
    std::fs::write(iris.join("aliases/champion"), "2").unwrap();
    let owner = [("authorization", &*bearer(ADMIN))];
    for _ in 0..200 {
        let status = gateway.get_with("/admin/v1/deployments/iris", &owner).await.json();
        if status["version"] == "2" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(predict(INVOKE).await, (200, 200, 200));
    assert_eq!(predict(first).await, (403, 403, 403));
    assert_eq!(predict(others).await, (403, 403, 403));
    // Administration has the same reach: what is beyond it is as good as not there.
    let elsewhere = [("authorization", &*bearer(elsewhere)), ("content-type", "application/json")];
    for path in ["/admin/v1/endpoints/iris", "/admin/v1/deployments/iris"] {
        assert_eq!(gateway.get_with(path, &elsewhere).await.status, 404, "{path}");
        assert_eq!(gateway.get_with(path, &owner).await.status, 200, "{path}");
    }
    let back = gateway.post_with("/admin/v1/deployments/iris/rollback", &elsewhere, b"{}").await;
    problem(&back, 404, "not_found");
    let listed = gateway.get_with("/admin/v1/endpoints", &elsewhere).await.json();
    assert_eq!(listed["endpoints"], json!([]));
    let back = gateway.post_with("/admin/v1/deployments/iris/rollback", &owner, b"{}").await;
    assert_eq!(back.status, 200, "{}", back.text());
    assert_eq!(predict(first).await, (200, 200, 200));
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_keys_is_not_administered_from_a_page_of_another_site() {
    let folder = tempfile::tempdir().unwrap();
    let (uri, _) = store(folder.path());
    let gateway = TestGateway::start(&yaml(&uri, false)).await;
    wait_for(&gateway, "1").await;
    let path = "/admin/v1/deployments/iris/refresh";
    let evil = [("Origin", "http://evil.example")];
    problem(&gateway.post_with(path, &evil, b"").await, 403, "permission_denied");
    problem(&gateway.get_with("/admin/v1/config", &evil).await, 403, "permission_denied");
    let head = b"GET /admin/v1/config HTTP/1.1\r\nHost: rebound.example\r\n\r\n";
    problem(&gateway.raw(head).await.unwrap().0, 403, "permission_denied");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_shown_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let (uri, _) = store(folder.path());
    let gateway = TestGateway::start(&yaml(&uri, true)).await;
    let authorization = bearer(ADMIN);
    let shown = gateway.get_with("/admin/v1/config", &[("Authorization", &authorization)]).await;
    assert_eq!(shown.status, 200);
    for key in [INVOKE, READ, MANAGE, ADMIN] {
        assert!(!shown.text().contains(key), "{}", shown.text());
    }
    assert_eq!(shown.json()["config"]["endpoints"][0]["name"], "iris");
    gateway.close().await;
}

/// The document names every path, and its references lead somewhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (uri, _) = store(folder.path());
    let gateway = TestGateway::start(&yaml(&uri, false)).await;
    let document = gateway.get("/admin/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let rollback = &document["paths"]["/admin/v1/deployments/{endpoint}/rollback"]["post"];
    assert_eq!(
        rollback["requestBody"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/RollBack"
    );
    let text = document.to_string();
    let references = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next());
    let mut count = 0;
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
        count += 1;
    }
    assert!(count > 10, "{count}");
    gateway.close().await;
}
