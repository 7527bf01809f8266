//! Hostile and broken requests, byte by byte over raw sockets.

use millgate_testkit::{FakeProvider, TestGateway};

use super::over;

const GOOD: &str = r#"{"model":"openai-ok","messages":[{"role":"user","content":"x"}]}"#;

/// A request with these fields beside `Host`, and this body.
fn post(path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

const JSON: &str = "Content-Type: application/json\r\n";

struct Row {
    name: &'static str,
    request: Vec<u8>,
    statuses: &'static [u16],
    code: &'static str,
    closes: bool,
}

fn row(name: &'static str, request: Vec<u8>, statuses: &'static [u16], code: &'static str) -> Row {
    Row { name, request, statuses, code, closes: false }
}

async fn check(gateway: &TestGateway, rows: Vec<Row>) {
    let mut problems = Vec::new();
    for Row { name, request, statuses, code, closes } in rows {
        match gateway.raw(&request).await {
            Err(error) => problems.push(format!("{name}: no answer: {error}")),
            Ok((answer, mut connection)) => {
                let said = answer.header("x-millgate-error").unwrap_or_default().to_owned();
                if !statuses.contains(&answer.status) || said != code {
                    let text = answer.text();
                    problems.push(format!(
                        "{name}: want {statuses:?} {code}, got {} {said}: {text:.200}",
                        answer.status
                    ));
                } else if closes && !connection.is_closed().await {
                    problems.push(format!("{name}: the connection stays open"));
                }
            }
        }
    }
    // The gateway is none the worse.
    let fine = gateway.post_with("/v1/chat/completions", &[], GOOD.as_bytes()).await;
    assert_eq!(fine.status, 200);
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

fn raw(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_could_be_read_in_two_ways_is_refused_and_the_connection_closed() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let head = "POST /v1/chat/completions HTTP/1.1\nHost: localhost\nContent-Type: application/json\n";
    let with = |fields: &str, body: &str| raw(&format!("{head}{fields}\n{body}"));
    let rows = [
        ("two lengths", with("Content-Length: 5\nContent-Length: 6\n", "hello")),
        ("signed length", with("Content-Length: +5\n", "hello")),
        ("hex length", with("Content-Length: 0x5\n", "hello")),
        ("length list", with("Content-Length: 5, 6\n", "hello")),
        ("unknown transfer coding", with("Transfer-Encoding: gzip\n", "hello")),
        ("space before the colon", with("X-A : b\nContent-Length: 0\n", "")),
        ("no colon", with("nonsense\nContent-Length: 0\n", "")),
        ("folded line", with("X-A: b\n c\nContent-Length: 0\n", "")),
        ("NUL in a field", with("X-A: b\0c\nContent-Length: 0\n", "")),
        ("length and coding", with("Content-Length: 5\nTransfer-Encoding: chunked\n", "0\n\n")),
        ("coding and length", with("Transfer-Encoding: chunked\nContent-Length: 5\n", "0\n\n")),
        ("two codings", with("Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n", "0\n\n")),
        ("coding twice", with("Transfer-Encoding: chunked, chunked\n", "0\n\n")),
        ("old coding", raw("POST /v1/models HTTP/1.0\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n")),
        ("another version", raw("POST /v1/models HTTP/3.0\nHost: a\n\n")),
        ("no request", raw("SSH-2.0-OpenSSH_9.2\n\n")),
        ("bad chunk", with("Transfer-Encoding: chunked\n", "zz\nhello\n0\n\n")),
    ];
    let rows = rows.map(|(name, request)| Row {
        name,
        request,
        statuses: &[400],
        code: "bad_framing",
        closes: true,
    });
    check(&gateway, rows.into()).await;
    assert_eq!(fake.requests().len(), 1, "only the good one went on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_answered_and_counted_like_every_fault() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let (answer, _) = gateway.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/json")));
    assert!(answer.header("x-request-id").is_some_and(|id| answer.text().contains(id)), "{}", answer.text());
    // As far as it can be read, it is answered in its own words.
    let head = raw("POST /v1/messages HTTP/1.1\nHost: a\nContent-Length: 1\nContent-Length: 2\n\n");
    let (answer, _) = gateway.raw(&head).await.unwrap();
    assert!(answer.text().starts_with(r#"{"type":"error","error":"#), "{}", answer.text());
    let metrics = gateway.get("/metrics").await.text();
    let counted = metrics.lines().find(|line| line.contains(r#"code="bad_framing""#)).unwrap_or(&metrics);
    assert!(counted.starts_with("millgate_requests_total{") && counted.ends_with(" 2"), "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_targets_have_one_reading() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let get = |line: &str, host: &str| raw(&format!("{line} HTTP/1.1\n{host}\n"));
    let close = |row: Row| Row { closes: true, ..row };
    let long = format!("/{}", "a".repeat(20_000));
    let fields = (0..120).map(|index| format!("X-{index}: y\n")).collect::<Vec<_>>().concat();
    let rows = vec![
        close(row("no host", get("GET /health", ""), &[400], "bad_host")),
        close(row("two hosts", get("GET /health", "Host: a\nHost: b\n"), &[400], "bad_host")),
        close(row("malformed host", get("GET /health", "Host: a b\n"), &[400], "bad_host")),
        close(row("user in host", get("GET /health", "Host: user@a\n"), &[400], "bad_host")),
        row(
            "another host",
            get("GET http://evil.example/health", "Host: localhost\n"),
            &[421],
            "misdirected",
        ),
        row("unknown path", get("GET /nothing", "Host: a\n"), &[404], "not_found"),
        row("other method", get("GET /v1/chat/completions", "Host: a\n"), &[405], "method_not_allowed"),
        row("trace", get("TRACE /v1/models", "Host: a\n"), &[405], "method_not_allowed"),
        row(
            "connect",
            get("CONNECT evil.example:443", "Host: evil.example:443\n"),
            &[400, 405, 421],
            "method_not_allowed",
        ),
        row("dots", get("GET /v1/../admin", "Host: a\n"), &[400], "bad_path"),
        row("encoded dots", get("GET /v1/%2e%2e/admin", "Host: a\n"), &[400], "bad_path"),
        row("encoded slash", get("GET /v1%2fmodels", "Host: a\n"), &[400], "bad_path"),
        row("encoded NUL", get("GET /v1/models%00", "Host: a\n"), &[400], "bad_path"),
        row("twice encoded", get("GET /v1/%252e%252e", "Host: a\n"), &[400], "bad_path"),
        close(row("long target", get(&format!("GET {long}"), "Host: a\n"), &[414], "uri_too_long")),
        close(row(
            "many fields",
            get("GET /health", &format!("Host: a\n{fields}")),
            &[431],
            "headers_too_large",
        )),
        close(row(
            "long field",
            get("GET /health", &format!("Host: a\nX-A: {}\n", "a".repeat(20_000))),
            &[431],
            "headers_too_large",
        )),
        close(row(
            "large head",
            get("GET /health", &format!("Host: a\nX-A: {}\n", "a".repeat(70_000))),
            &[431],
            "headers_too_large",
        )),
        row(
            "unknown expectation",
            post("/v1/chat/completions", &format!("{JSON}Expect: a-pony\r\n"), GOOD.as_bytes()),
            &[417, 400],
            "bad_expectation",
        ),
    ];
    check(&gateway, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_refused_with_the_reason() {
    let fake = FakeProvider::start().unwrap();
    let gateway = over(&fake, &["ok"]).await;
    let chat = |body: &[u8]| post("/v1/chat/completions", JSON, body);
    let deep = format!(r#"{{"model":"openai-ok","messages":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let with = |more: &str| {
        chat(
            format!(r#"{{"model":"openai-ok","messages":[{{"role":"user","content":"x"}}],{more}}}"#)
                .as_bytes(),
        )
    };
    let large = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{JSON}Content-Length: {}\r\n\r\n",
        20 << 20
    );
    let rows = vec![
        row("empty", chat(b""), &[400], "invalid_json"),
        row("truncated", chat(br#"{"model":"#), &[400], "invalid_json"),
        row("trailing data", chat(format!("{GOOD} x").as_bytes()), &[400], "invalid_json"),
        row("two objects", chat(format!("{GOOD}{GOOD}").as_bytes()), &[400], "invalid_json"),
        row("not a number", with(r#""temperature":NaN"#), &[400], "invalid_json"),
        row("too deep", chat(deep.as_bytes()), &[400], "invalid_json"),
        row("not UTF-8", chat(b"{\"model\":\"openai-ok\",\"messages\":[\"\xff\"]}"), &[400], "invalid_json"),
        row("lone surrogate", with(r#""x":"\ud800""#), &[400], "invalid_json"),
        row("array", chat(b"[]"), &[400], "invalid_value"),
        row("model twice", with(r#""model":"openai-ok""#), &[400], "duplicate_member"),
        row("wrong n", with(r#""n":0"#), &[400], "invalid_value"),
        row("wrong max_tokens", with(r#""max_tokens":"many""#), &[400], "invalid_value"),
        row("wrong temperature", with(r#""temperature":3"#), &[400], "invalid_value"),
        row("wrong stream", with(r#""stream":1"#), &[400], "invalid_value"),
        row("no messages", chat(br#"{"model":"openai-ok"}"#), &[400], "invalid_value"),
        row("empty messages", chat(br#"{"model":"openai-ok","messages":[]}"#), &[400], "invalid_value"),
        row("no model", chat(br#"{"messages":[{"role":"user","content":"x"}]}"#), &[400], "invalid_value"),
        row("strange model", chat(br#"{"model":"../x","messages":[1]}"#), &[400], "invalid_model"),
        row("unknown model", chat(br#"{"model":"nobody","messages":[1]}"#), &[404], "model_not_found"),
        row("api_base", with(r#""api_base":"http://evil""#), &[400], "unsupported_parameter"),
        row("base_url", with(r#""base_url":"http://evil""#), &[400], "unsupported_parameter"),
        row("api_key", with(r#""api_key":"sk-evil""#), &[400], "unsupported_parameter"),
        row("extra_headers", with(r#""extra_headers":{}"#), &[400], "unsupported_parameter"),
        row(
            "media type",
            post("/v1/chat/completions", "Content-Type: text/plain\r\n", GOOD.as_bytes()),
            &[415],
            "unsupported_media_type",
        ),
        row(
            "no media type",
            post("/v1/chat/completions", "", GOOD.as_bytes()),
            &[415],
            "unsupported_media_type",
        ),
        row(
            "br",
            post("/v1/chat/completions", &format!("{JSON}Content-Encoding: br\r\n"), GOOD.as_bytes()),
            &[415],
            "unsupported_encoding",
        ),
        row(
            "stacked",
            post("/v1/chat/completions", &format!("{JSON}Content-Encoding: gzip, gzip\r\n"), GOOD.as_bytes()),
            &[415],
            "unsupported_encoding",
        ),
        row(
            "broken gzip",
            post("/v1/chat/completions", &format!("{JSON}Content-Encoding: gzip\r\n"), b"\x1f\x8bnonsense"),
            &[400],
            "bad_encoding",
        ),
        Row { closes: true, ..row("declared too large", large.into_bytes(), &[413], "body_too_large") },
    ];
    check(&gateway, rows).await;
    assert_eq!(fake.requests().len(), 1, "only the good one went on");
}
