use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ROWS, Scorer, endpoint, fixture, over, predictions, soon, split};

type Combine = fn(f64, f64) -> f64;

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_of_models_answers_row_by_row() {
    let models = ["xgb-booster-logistic", "lgb-binary", "xgb-binary"];
    let mut lines: Vec<String> = models.iter().map(|name| endpoint(name, &json!(fixture(name)))).collect();
    let of = json!(["xgb-booster-logistic", "lgb-binary"]);
    for by in ["mean", "max", "min", "median"] {
        lines.push(endpoint(by, &json!({ "ensemble": { "of": of, "by": by } })));
    }
    lines.push(endpoint("weighted", &json!({ "ensemble": { "of": of, "by": "mean", "weights": [3, 1] } })));
    let votes = json!({ "of": ["xgb-binary", "xgb-binary", "lgb-binary"], "by": "vote" });
    lines.push(endpoint("vote", &json!({ "ensemble": votes })));
    let gateway = over(&[], None, &lines).await;
    let body = split(&ROWS);
    let one = predictions(&gateway, "xgb-booster-logistic", &body).await;
    let other = predictions(&gateway, "lgb-binary", &body).await;
    let (one, other): (Vec<f64>, Vec<f64>) =
        (serde_json::from_value(one).unwrap(), serde_json::from_value(other).unwrap());
    let combined: [(&str, Combine); 5] = [
        ("mean", f64::midpoint),
        ("median", f64::midpoint),
        ("max", f64::max),
        ("min", f64::min),
        ("weighted", |a, b| (a * 3.0 + b) / 4.0),
    ];
    for (name, combine) in combined {
        let found: Vec<f64> = serde_json::from_value(predictions(&gateway, name, &body).await).unwrap();
        let expected: Vec<f64> = one.iter().zip(&other).map(|(a, b)| combine(*a, *b)).collect();
        assert_eq!(found.len(), 3);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-15, "{name}: {found} {expected}");
        }
    }
    let labels = predictions(&gateway, "xgb-binary", &body).await;
    assert_eq!(predictions(&gateway, "vote", &body).await, labels);
    // Other forms and protocols of the caller reach every member.
    let csv = format!("a,b,c,d,e\n{}\n", ROWS[0].map(|cell| cell.to_string()).join(","));
    let answer = gateway
        .post_with("/endpoints/max/invocations", &[("content-type", "text/csv")], csv.as_bytes())
        .await;
    assert_eq!(answer.json()["predictions"][0], json!(one[0].max(other[0])), "{}", answer.text());
    let infer = json!({ "inputs": [{ "name": "rows", "shape": [3, 5], "datatype": "FP64", "data": ROWS }] });
    let answer = gateway.post("/v2/models/max/infer", &infer).await;
    assert_eq!(answer.json()["outputs"][0]["data"][0], json!(one[0].max(other[0])), "{}", answer.text());
    assert_eq!(gateway.post("/v2/models/max/versions/1/infer", &infer).await.status, 404);
    let metadata = gateway.get("/v2/models/max").await.json();
    assert_eq!(
        (&metadata["versions"], &metadata["inputs"][4]["name"]),
        (&json!([]), &json!("e")),
        "{metadata}"
    );
    assert_eq!(gateway.get("/v2/models/max/ready").await.status, 200);
    // What the caller sends wrong is the caller's fault.
    let answer = gateway.post("/endpoints/mean/invocations", &json!({ "instances": [{ "a": 1 }] })).await;
    assert_eq!((answer.status, answer.header("x-millgate-error")), (400, Some("schema_mismatch")));
    let answer = gateway.post("/endpoints/mean/invocations", &body).await;
    assert_eq!(answer.header("x-millgate-target"), Some("ensemble(xgb-booster-logistic, lgb-binary)"));
    assert_eq!(answer.header("x-millgate-runtime"), Some("graph"));
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_asks_all_at_once_and_says_what_fails() {
    let pause = Duration::from_millis(300);
    let half = Scorer::slow(pause, |_| (200, json!({ "predictions": [0.5, 0.25] }))).await;
    let one = Scorer::slow(pause, |_| (200, json!({ "predictions": [1.0, 0.75] }))).await;
    let down = Scorer::start(|_| (503, json!({ "error": "down" }))).await;
    let short = Scorer::start(|_| (200, json!({ "predictions": [1.0] }))).await;
    let never = Scorer::slow(Duration::from_secs(60), |_| (200, json!({}))).await;
    let ensemble = |of: Value, more: Value| {
        let mut ensemble = json!({ "of": of, "by": "mean" });
        ensemble.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "ensemble": ensemble })
    };
    let lines = [
        endpoint("both", &ensemble(json!(["half/m", "one/m"]), json!({}))),
        endpoint("strict", &ensemble(json!(["half/m", "down/m", "one/m"]), json!({}))),
        endpoint("quorum", &ensemble(json!(["half/m", "down/m", "one/m"]), json!({ "at_least": 2 }))),
        endpoint("few", &ensemble(json!(["down/m", "down/m", "one/m"]), json!({ "at_least": 2 }))),
        endpoint("odd", &ensemble(json!(["half/m", "short/m"]), json!({}))),
        endpoint("last", &json!({ "fallback": [ensemble(json!(["half/m", "short/m"]), json!({})), "one/m"] })),
        endpoint("wait", &ensemble(json!(["half/m", "never/m"]), json!({}))),
        r"{ name: limited, type: predict, serving: { timeout: 700ms }, route: { ensemble: { of: [half/m, never/m], by: mean } } }".to_owned(),
    ];
    let providers = [("half", &half), ("one", &one), ("down", &down), ("short", &short), ("never", &never)];
    let gateway = over(&providers, None, &lines).await;
    let body = json!({ "instances": [[1], [2]] });
    let began = Instant::now();
    assert_eq!(predictions(&gateway, "both", &body).await, json!([0.75, 0.5]));
    assert!(began.elapsed() < pause * 2, "{:?}", began.elapsed());
    assert_eq!(half.last(), body);
    assert_eq!(predictions(&gateway, "quorum", &body).await, json!([0.75, 0.5]));
    let fault = async |name: &str| {
        let answer = gateway.post(&format!("/endpoints/{name}/invocations"), &body).await;
        let code = answer.header("x-millgate-error").unwrap_or_default().to_owned();
        (answer.status, code, answer.text())
    };
    // Nobody waits for the others when one fails.
    let began = Instant::now();
    let (status, _, text) = fault("strict").await;
    assert_eq!(status, 503, "{text}");
    assert!(began.elapsed() < pause, "{:?}", began.elapsed());
    let (status, _, text) = fault("few").await;
    assert!(status == 503 && text.contains("2 of 3 members failed, 2 must answer"), "{text}");
    let (status, code, text) = fault("odd").await;
    assert_eq!((status, &*code), (502, "graph_failed"), "{text}");
    assert!(text.contains("member 2: expected 2 rows, as member 1 has them, found 1"), "{text}");
    assert_eq!(predictions(&gateway, "last", &body).await, json!([1.0, 0.75]));
    let (status, code, text) = fault("limited").await;
    assert_eq!((status, &*code), (504, "worker_timeout"), "{text}");
    assert!(text.contains("within 0.7 s"), "{text}");
    // A caller who leaves takes its requests along.
    let before = never.left.load(Ordering::Relaxed);
    let seen = never.count();
    let mut connection = gateway.connect().await.unwrap();
    connection
        .request("POST", "/endpoints/wait/invocations", &[], body.to_string().as_bytes())
        .await
        .unwrap();
    soon(|| never.count() > seen).await;
    drop(connection);
    soon(|| never.left.load(Ordering::Relaxed) > before).await;
    let metrics = gateway.get("/metrics").await.text();
    assert!(
        metrics.contains("millgate_hops_total{endpoint=\"strict\",target=\"down/m\",code=\"upstream"),
        "{metrics}"
    );
    gateway.close().await;
}
