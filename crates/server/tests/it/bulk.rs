//! Rows that are scored while they come.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use millgate_testkit::TestGateway;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::graphs::{COLUMNS, Scorer, endpoint, fixture, over, split};

const LINES: (&str, &str) = ("content-type", "application/x-ndjson");

pub(crate) fn rows(count: usize) -> Vec<[f64; 5]> {
    let cell = |row: usize, column: usize| ((row * 31 + column * 17) % 97) as f64 / 24.0 - 2.0;
    (0..count).map(|row| std::array::from_fn(|column| cell(row, column))).collect()
}

pub(crate) fn lists(rows: &[[f64; 5]]) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        let _infallible = writeln!(text, "{}", json!(row));
        text
    })
}

fn objects(rows: &[[f64; 5]]) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        let record: serde_json::Map<_, _> =
            COLUMNS.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), json!(cell))).collect();
        let _infallible = writeln!(text, "{}", Value::Object(record));
        text
    })
}

/// What came back of an upload in pieces.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The body came to its proper end.
    pub(crate) complete: bool,
}

impl Answered {
    fn lines(&self) -> Vec<Value> {
        let lines = String::from_utf8_lossy(&self.body);
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Sends pieces as chunks while it reads.
pub(crate) async fn upload(address: SocketAddr, path: &str, accept: &str, pieces: Vec<String>) -> Answered {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let (mut reader, mut writer) = stream.into_split();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\naccept: {accept}\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let sending = tokio::spawn(async move {
        writer.write_all(head.as_bytes()).await?;
        for piece in pieces {
            writer.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await?;
        }
        writer.write_all(b"0\r\n\r\n").await?;
        Ok::<_, std::io::Error>(writer)
    });
    let mut bytes = Vec::new();
    let _broken = reader.read_to_end(&mut bytes).await;
    let _sent = sending.await;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let mut rest = &bytes[end + 4..];
    let (mut body, mut complete) = (Vec::new(), !head.contains("chunked"));
    if complete {
        body.extend_from_slice(rest);
    }
    while !complete {
        let Some(line) = rest.windows(2).position(|window| window == b"\r\n") else { break };
        let length =
            usize::from_str_radix(std::str::from_utf8(&rest[..line]).expect("text"), 16).expect("a length");
        if length == 0 {
            complete = true;
            break;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + length]);
        rest = &rest[line + 4 + length..];
    }
    Answered { status, head, body, complete }
}

async fn bulk(gateway: &TestGateway, name: &str, body: &str) -> millgate_testkit::client::Answer {
    gateway.post_with(&format!("/endpoints/{name}/invocations"), &[LINES], body.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_answered_in_order_whatever_the_batches() {
    let lines = [
        endpoint("model", &json!(fixture("xgb-booster-softprob"))),
        json!({ "name": "small", "type": "predict", "route": fixture("xgb-booster-softprob"), "serving": { "bulk": { "max_rows": 7, "in_flight": 3 } } }).to_string(),
        endpoint("mean", &json!({ "ensemble": { "of": [fixture("xgb-booster-logistic"), fixture("lgb-binary")], "by": "mean" } })),
        endpoint("tensor", &json!(fixture("xgb-booster-tensor"))),
    ];
    let gateway = over(&[], None, &lines).await;
    let rows = rows(2500);
    for name in ["model", "small", "mean"] {
        let whole = gateway.post(&format!("/endpoints/{name}/invocations"), &split(&rows)).await;
        let expected = whole.json()["predictions"].clone();
        let shapes = if name == "mean" { vec![objects(&rows)] } else { vec![objects(&rows), lists(&rows)] };
        for body in shapes {
            let answer = bulk(&gateway, name, &body).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
            let found: Vec<Value> =
                answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert!(answer.complete && Value::Array(found) == expected, "{name}");
        }
    }
    let answer = bulk(&gateway, "model", &lists(&rows[..3])).await;
    assert_eq!(answer.header("x-millgate-model-version"), Some("local"));
    let answer = bulk(&gateway, "tensor", &lists(&rows[..3])).await;
    assert_eq!((answer.status, answer.text().lines().count()), (200, 3), "{}", answer.text());
    assert_eq!(bulk(&gateway, "model", "").await.body, b"");
    let metrics = gateway.get("/metrics").await.text();
    let series = r#"millgate_hops_total{endpoint="small","#;
    let line = metrics.lines().find(|line| line.starts_with(series)).expect(series);
    assert!(line.ends_with(" 2"), "batches of one kind are one hop: {line}");
    let rows_of =
        metrics.lines().find(|line| line.starts_with(r#"millgate_rows_total{endpoint="small""#)).unwrap();
    assert!(rows_of.ends_with(" 7500"), "{rows_of}");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_row_is_told_by_its_number() {
    let lines = [
        endpoint("model", &json!(fixture("xgb-ints"))),
        endpoint("wide", &json!(fixture("xgb-booster-softprob"))),
    ];
    let gateway = over(&[], None, &lines).await;
    let good = "{\"a\":1,\"b\":2,\"c\":true,\"d\":0.5,\"e\":1}\n";
    // While nothing has left, an error is a status.
    for (bad, code, text) in [
        (
            "{\"a\":1,\"b\":\"secret\",\"c\":true,\"d\":0.5,\"e\":1}\n",
            "schema_mismatch",
            "column `b`, row 1500: expected long, found string",
        ),
        ("{\"a\":1,\n", "invalid_json", "row 1500: "),
        ("{\"a\":1,\"a\":2}\n", "duplicate_member", "duplicate member `a`"),
    ] {
        let body = good.repeat(1500) + bad + &good.repeat(10);
        let answer = bulk(&gateway, "model", &body).await;
        assert_eq!(
            (answer.status, answer.header("x-millgate-error")),
            (400, Some(code)),
            "{}",
            answer.text()
        );
        assert!(answer.text().contains(text) && !answer.text().contains("secret"), "{}", answer.text());
    }
    let long = format!("[{}]\n", "1,".repeat(600_000));
    let answer = bulk(&gateway, "model", &long).await;
    assert_eq!(
        (answer.status, answer.header("x-millgate-error")),
        (413, Some("body_too_large")),
        "{}",
        answer.text()
    );
    // Behind the first predictions it is the last line, and the body breaks off.
    let rows = rows(30_000);
    let mut pieces: Vec<String> = rows.chunks(500).map(lists).collect();
    pieces.push("[1,2,3,4,\"x\"]\n".to_owned());
    pieces.push(lists(&rows[..500]));
    let answered = upload(gateway.address(), "/endpoints/wide/invocations", "*/*", pieces).await;
    assert_eq!((answered.status, answered.complete), (200, false), "{}", answered.head);
    let lines = answered.lines();
    let (last, before) = lines.split_last().expect("lines");
    assert_eq!(last["error"]["code"], "schema_mismatch", "{last}");
    let message = last["error"]["message"].as_str().unwrap();
    assert!(message.contains("column `e`, row 30000: expected double, found string"), "{message}");
    assert!(before.len() <= 30_000 && before.len() >= 20_000 && before.iter().all(Value::is_array));
    let metrics = gateway.get("/metrics").await.text();
    assert!(metrics.contains(r#"status="200",code="schema_mismatch",outcome="failed""#), "{metrics}");
    gateway.close().await;
}

/// Rows are scored before the last one has come, and answered once enough is there; who leaves takes everything along.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_scored_while_others_come() {
    fn answer(body: &Value) -> (u16, Value) {
        let rows = body["inputs"].as_array().expect("rows");
        (200, json!({ "predictions": rows.iter().map(|_| "x".repeat(2000)).collect::<Vec<_>>() }))
    }
    let scorer = Scorer::start(answer).await;
    let gateway = over(&[("scorer", &scorer)], None, &[endpoint("far", &json!("scorer/m"))]).await;
    let mut connection = gateway.connect().await.unwrap();
    let head = "POST /endpoints/far/invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.write(head.as_bytes()).await.unwrap();
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    connection.write(chunk("1\n2\n").as_bytes()).await.unwrap();
    // A batch that is not full is scored when nothing else is to be done.
    while scorer.seen.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..30 {
        connection.write(chunk(&"7\n".repeat(50)).as_bytes()).await.unwrap();
    }
    // 1.5 MB of answers are enough for the head to come, though the input goes on.
    let mut opened = connection.answer_head().await.unwrap();
    assert_eq!(opened.status, 200);
    assert!(opened.piece().await.unwrap().is_some_and(|piece| piece.len() > 100_000));
    opened.write(b"no length\r\n").await.unwrap();
    // What came before is answered, then the error, and then the connection breaks.
    let mut rest = Vec::new();
    while let Ok(Some(piece)) = opened.piece().await {
        rest.extend(piece);
    }
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.lines().last().unwrap().contains("bad_framing"), "{}", &rest[rest.len() - 300..]);
    super::cost::until(&gateway, r#"code="bad_framing",outcome="failed"} 1"#).await;
    gateway.close().await;
}
