//! Rows and predictions in other forms than lines: Arrow streams, Parquet files, gzip, parameters beside them.

use std::io::Write as _;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use millgate_testkit::TestGateway;
use millgate_testkit::client::Answer;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::bulk::{lists, rows, upload};
use super::graphs::{COLUMNS, Scorer, endpoint, fixture, over, split};

const LINES: &str = "application/x-ndjson";
const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";

fn batch(rows: &[[f64; 5]]) -> RecordBatch {
    let column =
        |at: usize| -> ArrayRef { Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row[at]))) };
    RecordBatch::try_from_iter(COLUMNS.iter().enumerate().map(|(at, name)| (*name, column(at))))
        .expect("columns of one length")
}

fn stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).expect("a writer");
    writer.write(batch).expect("it is written");
    writer.into_inner().expect("it is written")
}

fn file(batch: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
    writer.write(batch).expect("it is written");
    writer.into_inner().expect("it is written")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

async fn ask(gateway: &TestGateway, path: &str, kind: &str, accept: &str, body: &[u8]) -> Answer {
    let path = format!("/endpoints/{path}");
    gateway.post_with(&path, &[("content-type", kind), ("accept", accept)], body).await
}

fn read(answer: &Answer) -> Vec<RecordBatch> {
    let reader = StreamReader::try_new(answer.body.as_slice(), None).expect("a stream");
    reader.collect::<Result<_, _>>().expect("record batches")
}

const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

#[tokio::test(flavor = "multi_thread")]
async fn predictions_come_as_an_arrow_stream_where_it_is_asked_for() {
    let lines = [
        endpoint("three", &json!(fixture("xgb-booster-softprob"))),
        json!({ "name": "one", "type": "predict", "route": fixture("lgb-binary"), "serving": { "bulk": { "max_rows": 100 } } }).to_string(),
    ];
    let gateway = over(&[], None, &lines).await;
    let rows = rows(2500);
    for name in ["three", "one"] {
        let whole = gateway.post(&format!("/endpoints/{name}/invocations"), &split(&rows)).await;
        let expected: Vec<Vec<f64>> = whole.json()["predictions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                row.as_array().map_or_else(
                    || vec![row.as_f64().unwrap()],
                    |cells| cells.iter().map(|cell| cell.as_f64().unwrap()).collect(),
                )
            })
            .collect();
        for (kind, body) in [(LINES, lists(&rows).into_bytes()), (ARROW, stream(&batch(&rows)))] {
            let answer = ask(&gateway, &format!("{name}/invocations"), kind, ARROW, &body).await;
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some(ARROW)),
                "{}",
                answer.text()
            );
            assert!(answer.complete && answer.body.ends_with(&END));
            let found: Vec<Vec<f64>> = read(&answer)
                .iter()
                .flat_map(|batch| {
                    let cells = batch["prediction"].clone();
                    (0..batch.num_rows()).map(move |row| {
                        let cells = match cells.as_list_opt::<i32>() {
                            Some(lists) => lists.value(row),
                            None => cells.slice(row, 1),
                        };
                        cells.as_primitive::<Float64Type>().values().to_vec()
                    })
                })
                .collect();
            assert_eq!(found, expected, "{name} {kind}");
        }
    }
    // Without rows there is a stream without rows.
    let answer = ask(&gateway, "one/invocations", LINES, ARROW, b"").await;
    assert!(answer.status == 200 && read(&answer).is_empty() && answer.body.ends_with(&END));
    // Before the first prediction an error is a status.
    let answer = ask(&gateway, "one/invocations", LINES, ARROW, b"[1,2,3,4,\"x\"]\n").await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (400, Some("schema_mismatch")));
    gateway.close().await;
}

/// Behind the first megabyte of predictions an error is the last message's metadata; the mark of the end is missing and the
/// connection breaks.
#[tokio::test(flavor = "multi_thread")]
async fn an_arrow_stream_that_breaks_does_not_look_whole() {
    let gateway = over(&[], None, &[endpoint("wide", &json!(fixture("xgb-booster-softprob")))]).await;
    let mut pieces: Vec<String> = rows(60_000).chunks(500).map(lists).collect();
    pieces.push("[1,2,3,4,\"x\"]\n".to_owned());
    pieces.push(lists(&rows(500)));
    let answered = upload(gateway.address(), "/endpoints/wide/invocations", ARROW, pieces).await;
    assert_eq!((answered.status, answered.complete), (200, false), "{}", answered.head);
    let body = answered.body;
    assert!(!body.ends_with(&END));
    let mut reader = StreamReader::try_new(body.as_slice(), None).unwrap();
    let found: usize = reader.by_ref().map(|batch| batch.expect("a whole message").num_rows()).sum();
    assert!((40_000..=60_000).contains(&found), "{found}");
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("millgate:error"), "the metadata's key");
    assert!(text.contains("column `e`, row 60000: expected double, found string"));
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_are_scored_row_group_by_row_group() {
    let lines = [
        endpoint("model", &json!(fixture("xgb-booster-softprob"))),
        json!({ "name": "small", "type": "predict", "route": fixture("xgb-booster-softprob"), "serving": { "bulk": { "max_rows": 70, "max_file": "4KiB" } } }).to_string(),
    ];
    let gateway = over(&[], None, &lines).await;
    let rows = rows(2500);
    let whole =
        gateway.post("/endpoints/model/invocations", &split(&rows)).await.json()["predictions"].clone();
    let groups = |compression| {
        WriterProperties::builder().set_max_row_group_row_count(Some(900)).set_compression(compression)
    };
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(parquet::basic::GzipLevel::default()),
    ] {
        let body = file(&batch(&rows), groups(compression).build());
        let answer = ask(&gateway, "model/invocations", PARQUET, LINES, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let found: Vec<Value> =
            answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(answer.complete && Value::Array(found) == whole, "{compression}");
        // As one of the protocol's own bodies it is answered in the protocol's own form, by every runtime.
        let answer =
            gateway.post_with("/endpoints/model/invocations", &[("content-type", PARQUET)], &body).await;
        assert_eq!(
            (answer.status, answer.header("x-millgate-runtime")),
            (200, Some("native")),
            "{}",
            answer.text()
        );
        assert!(answer.json()["predictions"] == whole, "{compression}");
    }
    let body = file(&batch(&rows), groups(Compression::SNAPPY).build());
    let answer = ask(&gateway, "model/invocations", PARQUET, ARROW, &body).await;
    assert_eq!(read(&answer).iter().map(RecordBatch::num_rows).sum::<usize>(), 2500);
    // Files leave nothing behind, and have a limit.
    let answer = ask(&gateway, "small/invocations", PARQUET, LINES, &body).await;
    assert_eq!(
        (answer.status, answer.header("x-millgate-error")),
        (413, Some("body_too_large")),
        "{}",
        answer.text()
    );
    let tmp = gateway.folder().join("data/tmp");
    assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
    let answer = ask(
        &gateway,
        "small/invocations",
        PARQUET,
        LINES,
        &file(&batch(&rows[..50]), groups(Compression::SNAPPY).build()),
    )
    .await;
    assert_eq!((answer.status, answer.text().lines().count()), (200, 50), "{}", answer.text());
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_that_lie_or_are_damaged_are_refused() {
    let gateway = over(&[], None, &[endpoint("model", &json!(fixture("xgb-booster-softprob")))]).await;
    let good =
        file(&batch(&rows(300)), WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    let texts =
        |count: usize| -> Vec<String> { (0..count).map(|n| format!("a common beginning {n}")).collect() };
    let words: ArrayRef = Arc::new(StringArray::from(texts(500)));
    let words = RecordBatch::try_from_iter([("a", words)]).unwrap();
    let delta =
        WriterProperties::builder().set_dictionary_enabled(false).set_encoding(Encoding::DELTA_BYTE_ARRAY);
    let nested: ArrayRef =
        Arc::new(arrow_array::ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)])]));
    let nested = RecordBatch::try_from_iter([("a", nested)]).unwrap();
    // 4 million rows of one value in a few hundred bytes.
    let many: ArrayRef = Arc::new(Int32Array::from(vec![7; 4 << 20]));
    let many = RecordBatch::try_from_iter([("a", many)]).unwrap();
    let mut cut = good.clone();
    cut.truncate(good.len() - 300);
    let mut huge = good.clone();
    let end = huge.len();
    huge[end - 8..end - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let plain = || WriterProperties::builder().build();
    for (body, code, text) in [
        (b"PAR1".to_vec(), "bad_encoding", "no Parquet file"),
        (b"a,b\n1,2\n".to_vec(), "bad_encoding", "no Parquet file"),
        (cut, "bad_encoding", "no Parquet file"),
        (huge, "body_too_large", "description"),
        (file(&words, delta.build()), "unsupported_encoding", "DELTA_BYTE_ARRAY"),
        (file(&nested, plain()), "schema_mismatch", "column `a`: lists and objects"),
        (file(&many, plain()), "body_too_large", "rows a byte"),
    ] {
        let answer = ask(&gateway, "model/invocations", PARQUET, LINES, &body).await;
        assert_eq!(answer.header("x-millgate-error"), Some(code), "{}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
    }
    // Whatever byte is wrong, the answer is one and the gateway stays.
    for at in (0..good.len()).step_by(29) {
        let mut body = good.clone();
        body[at] ^= 0xff;
        let answer = ask(&gateway, "model/invocations", PARQUET, LINES, &body).await;
        assert!(
            [200, 400, 413, 415].contains(&answer.status),
            "byte {at}: {} {}",
            answer.status,
            answer.text()
        );
        let answer =
            gateway.post_with("/endpoints/model/invocations", &[("content-type", PARQUET)], &body).await;
        assert!(
            [200, 400, 413, 415].contains(&answer.status),
            "byte {at}: {} {}",
            answer.status,
            answer.text()
        );
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_be_gzip_and_bombs_are_refused() {
    let gateway = over(&[], None, &[endpoint("model", &json!(fixture("xgb-booster-softprob")))]).await;
    let rows = rows(2500);
    let post = async |kind: &str, encoding: &str, body: &[u8]| {
        let headers = [("content-type", kind), ("accept", LINES), ("content-encoding", encoding)];
        gateway.post_with("/endpoints/model/invocations", &headers, body).await
    };
    let expected = ask(&gateway, "model/invocations", LINES, LINES, lists(&rows).as_bytes()).await.body;
    let parquet = file(&batch(&rows), WriterProperties::builder().build());
    for (kind, body) in
        [(LINES, lists(&rows).into_bytes()), (ARROW, stream(&batch(&rows))), (PARQUET, parquet)]
    {
        let answer = post(kind, "gzip", &gzip(&body)).await;
        assert!(
            answer.status == 200 && answer.complete && answer.body == expected,
            "{kind}: {}",
            answer.status
        );
    }
    let bomb = gzip(" \n".repeat(32 << 20).as_bytes());
    let cut = gzip(lists(&rows[..100]).as_bytes());
    for (encoding, body, status, code) in [
        ("gzip", bomb.as_slice(), 413, "body_too_large"),
        ("gzip", b"[1,2,3,4,5]\n", 400, "bad_encoding"),
        ("gzip", &cut[..cut.len() - 4], 400, "bad_encoding"),
        ("br", b"x", 415, "unsupported_encoding"),
        ("gzip, gzip", b"x", 415, "unsupported_encoding"),
    ] {
        let answer = post(LINES, encoding, body).await;
        assert_eq!(
            (answer.status, answer.header("x-millgate-error")),
            (status, Some(code)),
            "{}",
            answer.text()
        );
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn params_hold_for_all_rows() {
    fn answer(body: &Value) -> (u16, Value) {
        let rows = body["inputs"].as_array().expect("rows");
        (
            200,
            json!({ "predictions": rows.iter().map(|_| body["params"]["size"].clone()).collect::<Vec<_>>() }),
        )
    }
    let scorer = Scorer::start(answer).await;
    let small = json!({ "name": "far", "type": "predict", "route": "scorer/m", "serving": { "bulk": { "max_rows": 2 } } });
    let gateway = over(&[("scorer", &scorer)], None, &[small.to_string()]).await;
    // {"size": "a+b c"}
    let query = "far/invocations?params=%7B%22size%22%3A+%22a%2Bb%20c%22%7D";
    let answer = ask(&gateway, query, LINES, LINES, b"1\n2\n3\n4\n5\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "\"a+b c\"\n".repeat(5).as_str()));
    assert_eq!(scorer.seen.lock().unwrap().len(), 3);
    for (params, code) in [
        ("%7B", "invalid_json"),
        ("[1]", "schema_mismatch"),
        ("%7B%22a%22:1,%22a%22:2%7D", "duplicate_member"),
    ] {
        let answer = ask(&gateway, &format!("far/invocations?params={params}"), LINES, LINES, b"1\n").await;
        assert_eq!(
            (answer.status, answer.header("x-millgate-error")),
            (400, Some(code)),
            "{}",
            answer.text()
        );
    }
    gateway.close().await;
}

/// Types that only Arrow and Parquet have reach the check as what they mean.
#[tokio::test(flavor = "multi_thread")]
async fn typed_columns_are_checked_like_every_row() {
    let gateway = over(&[], None, &[endpoint("ints", &json!(fixture("xgb-ints")))]).await;
    let columns = |b: ArrayRef| {
        let float = |value: f64| -> ArrayRef { Arc::new(Float64Array::from(vec![value, value])) };
        let c: ArrayRef = Arc::new(arrow_array::BooleanArray::from(vec![true, false]));
        RecordBatch::try_from_iter([
            ("a", float(0.5)),
            ("b", b),
            ("c", c),
            ("d", float(1.5)),
            ("e", float(-2.0)),
        ])
        .unwrap()
    };
    let good = columns(Arc::new(Int64Array::from(vec![3, 4])));
    let bad = columns(Arc::new(StringArray::from(vec!["3", "secret"])));
    let properties = || WriterProperties::builder().build();
    for (kind, good, bad) in
        [(ARROW, stream(&good), stream(&bad)), (PARQUET, file(&good, properties()), file(&bad, properties()))]
    {
        let answer = ask(&gateway, "ints/invocations", kind, LINES, &good).await;
        assert_eq!((answer.status, answer.text().lines().count()), (200, 2), "{}", answer.text());
        let answer = ask(&gateway, "ints/invocations", kind, LINES, &bad).await;
        assert_eq!(answer.status, 400);
        assert!(
            answer.text().contains("column `b`, row 0: expected long, found string"),
            "{}",
            answer.text()
        );
    }
    let answer = gateway
        .post_with("/endpoints/ints/invocations", &[("content-type", PARQUET)], &file(&bad, properties()))
        .await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (400, Some("schema_mismatch")));
    gateway.close().await;
}
