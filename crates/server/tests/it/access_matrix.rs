//! The access matrix: every role and reach against every path of the admin API and of the data plane. The page
//! `docs/reference/access.md` is what this test finds: `UPDATE=1 cargo test -p millgate-server access_matrix` rewrites it.
//! Paths of the admin API are read from its own document, so that a new one has a row; `surface.rs` holds the other
//! paths against the page.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::fmt::Write as _;
use std::path::Path;

use millgate_testkit::client;
use millgate_testkit::{FakeProvider, TestGateway};
use serde_json::{Value, json};

use super::PROVIDER_KEY;

const PAGE: &str = "../../docs/reference/access.md";
const INTRO: &str = "<!-- Written by `UPDATE=1 cargo test -p millgate-server access_matrix`; the test fails when it is not what it finds. -->
# Access matrix

Who gets past the checks of access, and what the others are told. `yes` means that the request went on: what it asks for may still be wrong or
missing.

";

/// A caller: a column's title, their key, and the key's configuration.
type Caller = (&'static str, &'static str, &'static str);

const ADMIN_CALLERS: [Caller; 5] = [
    ("no key", "", ""),
    ("`invoke`", "matrix-key-invoke-0123", "roles: [invoke]"),
    ("`read`", "matrix-key-read-012345", "roles: [read]"),
    ("`manage`", "matrix-key-manage-0123", "roles: [manage]"),
    ("`admin`", "matrix-key-admin-01234", "roles: [admin]"),
];

const CALLERS: [Caller; 8] = [
    ("no key", "", ""),
    ("`manage` only", "matrix-key-manage-0123", "roles: [manage]"),
    ("`invoke`", "matrix-key-invoke-0123", "roles: [invoke]"),
    ("`admin`", "matrix-key-admin-01234", "roles: [admin]"),
    ("other endpoints", "matrix-key-elsewhere-0", "endpoints: [elsewhere]"),
    ("endpoint denied", "matrix-key-denied-0123", "deny: ['e-*', elsewhere, native/openai]"),
    ("other targets", "matrix-key-targets-012", "targets: [elsewhere/x]"),
    ("target denied", "matrix-key-no-target-0", "deny: ['openai/*', 'cohere/*', 'models:/*']"),
];

/// A path of the data plane as the page names it, as it is asked for, and the body.
struct Row(&'static str, &'static str, &'static str, Value);

fn rows() -> Vec<Row> {
    let said = json!([{ "role": "user", "content": "x" }]);
    let contents = json!([{ "role": "user", "parts": [{ "text": "x" }] }]);
    let chat = json!({ "model": "e-chat", "messages": said });
    let embed = json!({ "model": "e-embed", "input": "x" });
    let rerank = json!({ "model": "e-rerank", "query": "x", "documents": ["a", "b"] });
    let anthropic = json!({ "model": "e-chat", "messages": said, "max_tokens": 9 });
    let infer = json!({ "inputs": [{ "name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1.0] }] });
    let gemini = json!({ "contents": contents });
    let none = Value::Null;
    vec![
        Row("/v1/chat/completions", "POST", "/v1/chat/completions", chat.clone()),
        Row("/v1/completions", "POST", "/v1/completions", json!({ "model": "e-complete", "prompt": "x" })),
        Row("/v1/embeddings", "POST", "/v1/embeddings", embed),
        Row("/v1/moderations", "POST", "/v1/moderations", json!({ "model": "e-judge", "input": "x" })),
        Row("/v1/rerank", "POST", "/v1/rerank", rerank.clone()),
        Row("/v2/rerank", "POST", "/v2/rerank", rerank.clone()),
        Row("/rerank", "POST", "/rerank", rerank),
        Row("/v1/responses", "POST", "/v1/responses", json!({ "model": "e-chat", "input": "x" })),
        Row("/v1/messages", "POST", "/v1/messages", anthropic.clone()),
        Row("/v1/messages/count_tokens", "POST", "/v1/messages/count_tokens", anthropic),
        Row(
            "/v1beta/models/{model}:{action}",
            "POST",
            "/v1beta/models/e-chat:generateContent",
            gemini.clone(),
        ),
        Row(
            "/v1beta/models/{model}:{action}",
            "POST",
            "/v1beta/models/e-chat:streamGenerateContent",
            gemini.clone(),
        ),
        Row("/v1beta/models/{model}:{action}", "POST", "/v1beta/models/e-chat:countTokens", gemini),
        Row(
            "/gateway/{endpoint}/invocations",
            "POST",
            "/gateway/e-chat/invocations",
            json!({ "messages": said }),
        ),
        Row(
            "/endpoints/{endpoint}/invocations",
            "POST",
            "/endpoints/e-chat/invocations",
            json!({ "messages": said }),
        ),
        Row("/{path of an endpoint}", "POST", "/predict/own", json!({ "inputs": [[1.0]] })),
        Row("/v2/models/{model}/infer", "POST", "/v2/models/e-predict/infer", infer),
        Row("/{native API}/{path}", "POST", "/openai/v1/chat/completions", chat),
        Row("/v1/models", "GET", "/v1/models", none.clone()),
        Row("/v1/models/{model}", "GET", "/v1/models/e-chat", none.clone()),
        Row("/v1beta/models", "GET", "/v1beta/models", none.clone()),
        Row("/v1beta/models/{model}", "GET", "/v1beta/models/e-chat", none.clone()),
        Row("/api/2.0/endpoints/", "GET", "/api/2.0/endpoints/", none.clone()),
        Row("/api/2.0/endpoints/{endpoint}", "GET", "/api/2.0/endpoints/e-chat", none.clone()),
        Row("/api/2.0/gateway/routes/", "GET", "/api/2.0/gateway/routes/", none.clone()),
        Row("/api/3.0/gateway/route/{route}", "GET", "/api/3.0/gateway/route/e-chat", none.clone()),
        Row("/api/2.0/endpoints/limits", "GET", "/api/2.0/endpoints/limits/e-chat", none.clone()),
        Row("/v2", "GET", "/v2", none.clone()),
        Row("/v2/models/{model}", "GET", "/v2/models/e-predict", none.clone()),
        Row("/openapi.json", "GET", "/openapi.json", none.clone()),
        Row("/health", "GET", "/health", none.clone()),
        Row("/livez", "GET", "/livez", none.clone()),
        Row("/readyz", "GET", "/readyz", none.clone()),
        Row("/metrics", "GET", "/metrics", none.clone()),
        Row("/ping", "GET", "/ping", none.clone()),
        Row("/version", "GET", "/version", none.clone()),
        Row("/", "GET", "/", none.clone()),
        Row("/webhooks/mlflow/{registry}", "POST", "/webhooks/mlflow/default", json!({})),
        Row("/auth/login", "GET", "/auth/login", none.clone()),
        Row("/auth/callback", "GET", "/auth/callback", none.clone()),
        Row("/auth/logout", "POST", "/auth/logout", none),
    ]
}

async fn start(fake: &FakeProvider, callers: &[Caller]) -> TestGateway {
    let mut keys = String::new();
    for (index, (_, key, more)) in callers.iter().enumerate().filter(|(_, (_, key, _))| !key.is_empty()) {
        writeln!(keys, "    - {{ name: caller-{index}, key: {key}, {more} }}").unwrap();
    }
    let base = fake.base_url();
    TestGateway::start(&format!(
        "version: 1
providers:
  openai: {{ kind: openai, base_url: '{base}', api_key: {PROVIDER_KEY}, timeout: 2s }}
  cohere: {{ kind: cohere, base_url: 'http://{}', api_key: {PROVIDER_KEY}, timeout: 2s }}
registries: {{ default: {{ uri: '/nonexistent/mlruns' }} }}
native: {{ openai: {{ provider: openai }} }}
endpoints:
  - {{ name: e-chat, type: llm/v1/chat, route: openai/ok }}
  - {{ name: e-complete, type: llm/v1/completions, route: openai/ok }}
  - {{ name: e-embed, type: llm/v1/embeddings, route: openai/ok }}
  - {{ name: e-judge, type: llm/v1/moderations, route: openai/ok }}
  - {{ name: e-rerank, type: llm/v1/rerank, route: cohere/ok }}
  - {{ name: e-predict, type: predict, route: 'models:/iris@champion', path: /predict/own }}
access:
  keys: required
  static:
{keys}",
        fake.address()
    ))
    .await
}

/// One cell.
async fn ask(gateway: &TestGateway, key: &str, method: &str, path: &str, body: &Value) -> String {
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let headers = if key.is_empty() { &headers[1..] } else { &headers[..] };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client::send(gateway.address(), method, path, headers, body.as_bytes()).await.unwrap();
    match (answer.status, answer.header("x-millgate-error")) {
        (401 | 403, Some(code)) => format!("{} `{code}`", answer.status),
        (404, Some(code @ ("model_not_found" | "not_found"))) => format!("404 `{code}`"),
        _ => "yes".to_owned(),
    }
}

fn head(out: &mut String, callers: &[Caller]) {
    let titles: Vec<_> = callers.iter().map(|(title, ..)| *title).collect();
    writeln!(out, "| | path | {} |\n|---|---|{}", titles.join(" | "), "---|".repeat(titles.len())).unwrap();
}

async fn admin_table(out: &mut String, fake: &FakeProvider) {
    let gateway = start(fake, &ADMIN_CALLERS).await;
    let admin = ADMIN_CALLERS[4].1;
    let bearer = format!("Bearer {admin}");
    let document = gateway.get_with("/admin/v1/openapi.json", &[("Authorization", &bearer)]).await.json();
    out.push_str("## Admin API\n\nNothing of the names in a path exists: 404 `not_found` is `yes` here.\n\n");
    head(out, &ADMIN_CALLERS);
    let mut count = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/admin/v1").unwrap_or(path);
        for method in methods.as_object().unwrap().keys().filter(|method| *method != "parameters") {
            let asked: String = path
                .split('/')
                .map(|part| if part.starts_with('{') { "nobody" } else { part })
                .collect::<Vec<_>>()
                .join("/");
            let method = method.to_uppercase();
            write!(out, "| {method} | `{path}` |").unwrap();
            for (_, key, _) in ADMIN_CALLERS {
                let cell = ask(&gateway, key, &method, &format!("/admin/v1{asked}"), &json!({})).await;
                let cell = if cell.starts_with("404") { "yes" } else { &cell };
                write!(out, " {cell} |").unwrap();
            }
            out.push('\n');
            count += 1;
        }
    }
    assert!(count >= 20, "only {count} rows: is the document whole?");
    gateway.close().await;
}

async fn data_table(out: &mut String, fake: &FakeProvider) {
    let gateway = start(fake, &CALLERS).await;
    out.push_str(
        "\n## Data plane\n\nThe columns from `other endpoints` on are keys with the role `invoke` that reach less: other `endpoints`, `deny` of the \
         endpoint, other `targets`, `deny` of the target. Lists leave out what is not reached.\n\n",
    );
    head(out, &CALLERS);
    for Row(shown, method, path, body) in rows() {
        let action = path.rsplit_once(':').map_or(String::new(), |(_, action)| format!(" ({action})"));
        write!(out, "| {method} | `{shown}`{action} |").unwrap();
        for (_, key, _) in CALLERS {
            write!(out, " {} |", ask(&gateway, key, method, path, &body).await).unwrap();
        }
        out.push('\n');
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_matrix_is_what_the_page_says() {
    let fake = FakeProvider::start().unwrap();
    let mut page = INTRO.to_owned();
    admin_table(&mut page, &fake).await;
    data_table(&mut page, &fake).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == page,
        "docs/reference/access.md is out of date; look at the difference with UPDATE=1 and git diff"
    );
}
