//! Every way a provider fails, and the exact answer to it.

use millgate_testkit::FakeProvider;
use millgate_testkit::client::Answer;

use super::pass::chat;
use super::{PROVIDER_KEY, over};

/// The model, whether it streams, and the status and code of the answer.
const WHOLE: &[(&str, u16, &str)] = &[
    ("status-400", 400, "upstream_invalid_request"),
    ("status-401", 502, "upstream_auth"),
    ("status-403", 502, "upstream_auth"),
    ("status-404", 404, "upstream_not_found"),
    ("status-413", 413, "upstream_too_large"),
    ("status-429-retry-7", 429, "upstream_rate_limited"),
    ("status-500", 502, "upstream_error"),
    ("status-503", 503, "upstream_overloaded"),
    ("status-529", 503, "upstream_overloaded"),
    ("status-504", 504, "upstream_timeout"),
    ("html-500", 502, "upstream_error"),
    ("html-200", 502, "upstream_error"),
    ("error-200", 502, "upstream_error"),
    ("reset", 502, "upstream_error"),
    ("hang", 504, "upstream_timeout"),
    ("cut-stream", 502, "upstream_error"),
    ("bad-json", 502, "upstream_error"),
    ("redirect", 502, "upstream_error"),
    ("huge", 502, "upstream_error"),
];

/// Before the first content a failing stream is still a status.
const STREAMED: &[(&str, u16, &str)] = &[
    ("status-429-retry-7", 429, "upstream_rate_limited"),
    ("status-500", 502, "upstream_error"),
    ("html-200", 502, "upstream_error"),
    ("reset", 502, "upstream_error"),
    ("hang", 504, "upstream_timeout"),
    ("empty-stream", 502, "upstream_error"),
    ("bad-json", 502, "upstream_error"),
    ("redirect", 502, "upstream_error"),
    ("huge", 502, "upstream_error"),
];

/// The surfaces: pass and translate lane in both directions.
const WAYS: [(&str, &str); 4] = [
    ("/v1/chat/completions", "openai"),
    ("/v1/chat/completions", "anthropic"),
    ("/v1/messages", "anthropic"),
    ("/v1/messages", "openai"),
];

fn check(name: &str, answer: &Answer, status: u16, code: &str, problems: &mut Vec<String>) {
    let text = answer.text();
    let said = answer.header("x-millgate-error").unwrap_or_default();
    let in_body = text.contains(&format!("\"{code}\""));
    if answer.status != status || said != code || !in_body {
        problems.push(format!("{name}: want {status} {code}, got {} {said}: {text:.200}", answer.status));
    }
    for secret in [PROVIDER_KEY, "sk-fake1234567890abcdef", "127.0.0.1", "/src/"] {
        if text.contains(secret) {
            problems.push(format!("{name}: the answer says {secret}: {text:.200}"));
        }
    }
}

async fn check_all(rows: &[(&str, u16, &str)], stream: bool) {
    let fake = FakeProvider::start().expect("a free port");
    let models: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let gateway = over(&fake, &models).await;
    let mut problems = Vec::new();
    for (path, provider) in WAYS {
        for (model, status, code) in rows {
            let mut call = chat(&format!("{provider}-{model}"));
            call["stream"] = stream.into();
            let answer = gateway.post(path, &call).await;
            let name = format!("{path} to {provider}, {model}, stream {stream}");
            check(&name, &answer, *status, code, &mut problems);
            if model.contains("retry") && answer.header("retry-after") != Some("7") {
                problems.push(format!("{name}: Retry-After {:?}", answer.header("retry-after")));
            }
        }
    }
    assert!(
        fake.requests().iter().all(|request| !request.path.contains("stolen")),
        "a redirect was followed"
    );
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_answers_that_fail() {
    check_all(WHOLE, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_fail_before_their_first_content() {
    check_all(STREAMED, true).await;
}

/// After the first content there is an error event, and nothing that looks like a proper end.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_fail_in_the_middle() {
    let fake = FakeProvider::start().unwrap();
    let models = ["cut-stream", "error-in-stream", "no-done"];
    let gateway = over(&fake, &models).await;
    let mut problems = Vec::new();
    for (path, provider) in WAYS {
        for model in models {
            let mut call = chat(&format!("{provider}-{model}"));
            call["stream"] = true.into();
            let answer = gateway.post(path, &call).await;
            let text = answer.text();
            let ended = text.contains("[DONE]") || text.contains("event: message_stop");
            let told = text.contains("\"error\"");
            if answer.status != 200 || !text.contains("Hello") || ended || !told {
                problems.push(format!("{path} to {provider}, {model}: {} {text}", answer.status));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n\n"));
}

/// A provider that ignores `stream` and one that cannot be reached.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_502() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    drop(fake);
    let answer = gateway.post("/v1/chat/completions", &chat("openai-ok")).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (502, Some("upstream_error")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_answers_when_its_first_target_fails() {
    let fake = FakeProvider::start().unwrap();
    let failing = ["status-500", "status-429-retry-7", "reset", "bad-json", "html-200", "status-401"];
    let endpoints: Vec<String> = failing
        .iter()
        .map(|model| {
            format!("  - {{ name: f-{model}, type: llm/v1/chat, route: {{ fallback: [openai/{model}, anthropic/ok] }} }}\n")
        })
        .collect();
    let gateway =
        millgate_testkit::TestGateway::start(&super::config(&fake, &["ok"], &endpoints.concat())).await;
    for model in failing {
        for stream in [false, true] {
            let mut call = chat(&format!("f-{model}"));
            call["stream"] = stream.into();
            let answer = gateway.post("/v1/chat/completions", &call).await;
            assert_eq!(answer.status, 200, "{model} {stream}: {}", answer.text());
            assert_eq!(answer.header("x-millgate-target"), Some("anthropic/ok"), "{model}");
            assert_eq!(answer.header("x-millgate-attempts"), Some("2"), "{model}");
        }
    }
    // What is the caller's own mistake is not tried elsewhere.
    let more =
        "  - { name: mistake, type: llm/v1/chat, route: { fallback: [openai/status-400, anthropic/ok] } }\n";
    gateway.apply(&super::config(&fake, &["ok"], more));
    assert_eq!(gateway.post("/v1/chat/completions", &chat("mistake")).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_ends_the_call_upstream() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["chunks-1000-20ms"]).await;
    let mut call = chat("openai-chunks-1000-20ms");
    call["stream"] = true.into();
    let mut connection = gateway.connect().await.unwrap();
    connection.request("POST", "/v1/chat/completions", &[], call.to_string().as_bytes()).await.unwrap();
    assert!(connection.answer_head().await.unwrap().piece().await.unwrap().is_some());
    drop(connection);
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if gateway.get("/metrics").await.text().contains("cancelled") {
            return;
        }
    }
    panic!("the call was never recorded as cancelled:\n{}", gateway.get("/metrics").await.text());
}
