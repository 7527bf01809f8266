use serde_json::{Value, json};

use super::{Scorer, endpoint, fixture, over, predictions, split};

/// A cheap model that is sure of some rows, by what it says: [a, b] with a probability each.
fn cheap(body: &Value) -> (u16, Value) {
    let rows = body["instances"].as_array().expect("rows");
    (
        200,
        json!({ "predictions": rows.iter().map(|row| json!([row[0], 1.0 - row[0].as_f64().expect("a number")])).collect::<Vec<_>>() }),
    )
}

fn dear(body: &Value) -> (u16, Value) {
    let rows = body["instances"].as_array().expect("rows");
    (200, json!({ "predictions": rows.iter().map(|row| json!([row[0], 7])).collect::<Vec<_>>() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_rows_that_a_case_holds_for_are_asked_again() {
    let (cheap, dear) = (Scorer::start(cheap).await, Scorer::start(dear).await);
    let broken = Scorer::start(|_| (500, json!({ "error": "down" }))).await;
    let labels = Scorer::start(|body| {
        let rows = body["instances"].as_array().expect("rows").len();
        (200, json!({ "predictions": vec!["label"; rows] }))
    })
    .await;
    let cascade = |when: &str, to: &str| json!({ "switch": { "of": "cheap/m", "cases": [{ "when": when, "to": to }] } });
    let lines = [
        endpoint("cascade", &cascade("max(result) < 0.8", "dear/m")),
        endpoint("by-request", &cascade("request[0] > 0.5 && rows == 4", "dear/m")),
        endpoint("failing", &cascade("max(result) < 0.8", "broken/m")),
        endpoint("safe", &json!({ "fallback": [cascade("max(result) < 0.8", "broken/m"), "dear/m"] })),
        endpoint("odd", &cascade("max(result) < 0.8", "labels/m")),
        endpoint("unfit", &cascade("result.score < 0.8", "dear/m")),
        endpoint(
            "nested",
            &json!({ "ensemble": { "of": [cascade("max(result) < 0.8", "dear/m"), "dear/m"], "by": "max" } }),
        ),
        endpoint(
            "whole",
            &json!({ "switch": {
            "of": "cheap/m", "per": "call",
            "cases": [{ "when": "result.exists(row, max(row) < 0.8)", "to": "dear/m" }],
        } }),
        ),
        endpoint(
            "otherwise",
            &json!({ "switch": {
            "of": "cheap/m", "cases": [{ "when": "false", "to": "labels/m" }], "else": "dear/m",
        } }),
        ),
    ];
    let providers = [("cheap", &cheap), ("dear", &dear), ("broken", &broken), ("labels", &labels)];
    let gateway = over(&providers, None, &lines).await;
    let body = json!({ "instances": [[0.9], [0.5], [0.05], [0.6]], "params": { "k": 1 } });
    let kept = json!([[0.9, 0.099_999_999_999_999_98], [0.5, 7], [0.05, 0.95], [0.6, 7]]);
    assert_eq!(predictions(&gateway, "cascade", &body).await, kept);
    // The dear model saw the unsure rows only, with the caller's params.
    assert_eq!(dear.last(), json!({ "instances": [[0.5], [0.6]], "params": { "k": 1 } }));
    assert_eq!(cheap.last(), body);
    let answer = predictions(&gateway, "by-request", &body).await;
    assert_eq!(answer, json!([[0.9, 7], [0.5, 0.5], [0.05, 0.95], [0.6, 7]]));
    let asked = dear.count();
    let sure = json!({ "instances": [[0.9], [1]] });
    assert_eq!(predictions(&gateway, "cascade", &sure).await[1], json!([1, 0.0]));
    assert_eq!(predictions(&gateway, "whole", &sure).await[1], json!([1, 0.0]));
    assert_eq!(dear.count(), asked, "the dear model is not asked when the cheap one is sure");
    assert_eq!(predictions(&gateway, "whole", &body).await, json!([[0.9, 7], [0.5, 7], [0.05, 7], [0.6, 7]]));
    assert_eq!(predictions(&gateway, "otherwise", &sure).await, json!([[0.9, 7], [1, 7]]));
    assert_eq!(predictions(&gateway, "safe", &sure).await[0][0], json!(0.9));
    assert_eq!(predictions(&gateway, "safe", &body).await[0], json!([0.9, 7]));
    assert_eq!(predictions(&gateway, "nested", &body).await[0], json!([0.9, 7]));
    let fault = async |name: &str, body: &Value| {
        let answer = gateway.post(&format!("/endpoints/{name}/invocations"), body).await;
        (answer.status, answer.header("x-millgate-error").unwrap_or_default().to_owned(), answer.text())
    };
    let (status, _, text) = fault("failing", &body).await;
    assert_eq!(status, 502, "{text}");
    let (status, code, text) = fault("odd", &body).await;
    assert_eq!((status, &*code), (502, "graph_failed"), "{text}");
    assert!(text.contains("row 1: the first answer is a list, the second a string"), "{text}");
    let (status, code, text) = fault("unfit", &body).await;
    assert_eq!((status, &*code), (502, "graph_failed"), "{text}");
    assert!(text.contains("the condition of case 1 cannot be evaluated"), "{text}");
    let (status, code, text) = fault("cascade", &json!({ "inputs": 3 })).await;
    assert_eq!((status, &*code), (400, "schema_mismatch"), "{text}");
    let csv = gateway
        .post_with("/endpoints/cascade/invocations", &[("content-type", "text/csv")], b"a\n0.5\n")
        .await;
    assert_eq!(csv.status, 415, "{}", csv.text());
    gateway.close().await;
}

/// A native model first, another native one for the rows it is unsure of; every form gives the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_of_models_in_process_takes_every_form() {
    let lines = [
        endpoint("cheap", &json!(fixture("xgb-booster-logistic"))),
        endpoint("dear", &json!(fixture("lgb-binary"))),
        endpoint(
            "cascade",
            &json!({ "switch": {
            "of": "cheap", "cases": [{ "when": "result > 0.3 && result < 0.7", "to": "dear" }],
        } }),
        ),
    ];
    let gateway = over(&[], None, &lines).await;
    let rows: Vec<[f64; 5]> = (0..200)
        .map(|row| std::array::from_fn(|column| f64::from((row * 7 + column as i32 * 13) % 41) / 10.0 - 2.0))
        .collect();
    let body = split(&rows);
    let floats = |value: Value| serde_json::from_value::<Vec<f64>>(value).unwrap();
    let cheap = floats(predictions(&gateway, "cheap", &body).await);
    let dear = floats(predictions(&gateway, "dear", &body).await);
    let unsure = |p: &f64| *p > 0.3 && *p < 0.7;
    let expected: Vec<f64> = cheap.iter().zip(&dear).map(|(c, d)| if unsure(c) { *d } else { *c }).collect();
    let count = cheap.iter().filter(|p| unsure(p)).count();
    assert!((20..180).contains(&count), "{count} rows are unsure: nothing is tested");
    assert_eq!(floats(predictions(&gateway, "cascade", &body).await), expected);
    let records: Vec<Value> = rows
        .iter()
        .map(|row| {
            super::COLUMNS
                .iter()
                .zip(row)
                .map(|(name, cell)| ((*name).to_owned(), json!(cell)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        })
        .collect();
    assert_eq!(
        floats(predictions(&gateway, "cascade", &json!({ "dataframe_records": records })).await),
        expected
    );
    let columns: serde_json::Map<_, _> = super::COLUMNS
        .iter()
        .enumerate()
        .map(|(at, name)| ((*name).to_owned(), rows.iter().map(|row| row[at]).collect::<Vec<_>>().into()))
        .collect();
    assert_eq!(floats(predictions(&gateway, "cascade", &json!({ "inputs": columns })).await), expected);
    gateway.close().await;
}
