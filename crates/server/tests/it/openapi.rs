//! The document of what is served: it speaks of the live versions, and what its schemas say is what the gateway does.

use serde_json::{Value, json};

use super::graphs::{COLUMNS, endpoint, fixture, over};

/// What a schema of the document says of a body.
fn says(document: &Value, name: &str, body: &Value) -> bool {
    let mut schema = document.clone();
    schema["$ref"] = format!("#/components/schemas/{name}").into();
    jsonschema::validator_for(&schema).expect("a schema").is_valid(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_a_model_says_what_the_gateway_does() {
    let lines = [
        endpoint("ints", &json!(fixture("xgb-ints"))),
        endpoint("tensor", &json!(fixture("xgb-booster-tensor"))),
        endpoint("chain", &json!({ "chain": [fixture("xgb-ints")] })),
        "{ name: chat, type: llm/v1/chat, route: mock/echo, path: /llm/chat }".to_owned(),
    ];
    let gateway = over(&[], None, &lines).await;
    let answer = gateway.get("/openapi.json").await;
    assert_eq!(answer.status, 200);
    let document = answer.json();
    let paths = document["paths"].as_object().expect("paths");
    for path in [
        "/endpoints/ints/invocations",
        "/gateway/ints/invocations",
        "/v2/models/ints/infer",
        "/endpoints/chain/invocations",
        "/v1/chat/completions",
        "/v1/messages",
        "/llm/chat",
        "/gateway/chat/invocations",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    assert_eq!(gateway.get("/openapi.json").await.body, answer.body);
    let row = json!([0.5, 3, true, 1.5, -2.0]);
    let named = |cells: &Value| -> Value {
        let cells = cells.as_array().expect("cells").iter().cloned();
        COLUMNS.iter().map(|name| (*name).to_owned()).zip(cells).collect::<serde_json::Map<_, _>>().into()
    };
    let split = |row: &Value| json!({ "dataframe_split": { "columns": COLUMNS, "data": [row] } });
    let with = |at: usize, cell: Value| {
        let mut row = row.clone();
        row[at] = cell;
        row
    };
    let mut short = named(&row);
    short.as_object_mut().expect("an object").remove("e");
    let bodies = [
        (true, split(&row)),
        (true, json!({ "dataframe_records": [named(&row)] })),
        (true, json!({ "instances": [named(&row)] })),
        (true, json!({ "inputs": [named(&row)] })),
        (
            true,
            json!({ "inputs": { "a": [0.5], "b": [1], "c": [false], "d": [1], "e": [2], "more": ["x"] } }),
        ),
        (true, json!({ "dataframe_records": [named(&with(1, json!(2.0)))] })),
        (true, json!({ "dataframe_records": [named(&with(0, Value::Null))] })),
        (false, json!({ "dataframe_records": [named(&with(1, json!(2.5)))] })),
        (false, json!({ "dataframe_records": [named(&with(1, Value::Null))] })),
        (false, json!({ "dataframe_records": [named(&with(1, json!("3")))] })),
        (false, json!({ "dataframe_records": [named(&with(2, json!(1)))] })),
        (false, json!({ "dataframe_records": [named(&with(3, json!(1e39)))] })),
        (false, json!({ "dataframe_records": [named(&with(0, json!("x")))] })),
        (false, json!({ "dataframe_records": [short] })),
        (false, json!({ "dataframe_records": [row] })),
        (false, json!({ "instances": [row] })),
        (false, json!({ "dataframe_split": { "columns": ["a", "b"], "data": [[1, 2]] } })),
        (false, json!({ "dataframe_split": { "columns": COLUMNS } })),
        (false, json!({ "dataframe_split": { "columns": COLUMNS, "data": [], "extra": 1 } })),
        (false, json!({ "instances": [], "inputs": [] })),
        (false, json!([])),
        (false, json!({})),
    ];
    for (fits, body) in bodies {
        for name in ["ints", "chain"] {
            assert_eq!(says(&document, &format!("{name}.Request"), &body), fits, "{name}: {body}");
            let answer = gateway.post(&format!("/endpoints/{name}/invocations"), &body).await;
            assert_eq!(answer.status == 200, fits, "{name}: {body}: {}", answer.text());
            if fits {
                assert!(says(&document, &format!("{name}.Answer"), &answer.json()), "{}", answer.text());
            } else {
                assert!(says(&document, "ScoringError", &answer.json()), "{}", answer.text());
            }
        }
    }
    for (fits, body) in [
        (true, json!({ "inputs": [[1, 2, 3, 4, 5.5]] })),
        (true, json!({ "instances": [[1, 2, 3, 4, null], [1, 2, 3, 4, 5]] })),
        (false, json!({ "inputs": [[1, 2, 3, 4]] })),
        (false, json!({ "inputs": [["1", 2, 3, 4, 5]] })),
        (false, json!({ "inputs": [1, 2, 3, 4, 5] })),
        (false, json!({ "inputs": 1 })),
    ] {
        assert_eq!(says(&document, "tensor.Request", &body), fits, "{body}");
        let answer = gateway.post("/endpoints/tensor/invocations", &body).await;
        assert_eq!(answer.status == 200, fits, "{body}: {}", answer.text());
    }
    for (fits, body) in [
        (true, json!({ "model": "chat", "messages": [{ "role": "user", "content": "hi" }] })),
        (false, json!({ "model": "chat", "messages": [] })),
        (
            false,
            json!({ "model": "chat", "messages": [{ "role": "user", "content": "hi" }], "temperature": 3 }),
        ),
        (false, json!({ "model": "chat", "messages": [{ "role": "user", "content": "hi" }], "n": 0 })),
        (false, json!({ "model": "chat" })),
    ] {
        assert_eq!(says(&document, "OpenAiChat", &body), fits, "{body}");
        let answer = gateway.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status == 200, fits, "{body}: {}", answer.text());
        let schema = if fits { "OpenAiChatAnswer" } else { "OpenAiError" };
        assert!(says(&document, schema, &answer.json()), "{}", answer.text());
    }
    let metadata = gateway.get("/v2/models/ints").await.json();
    assert_eq!(
        metadata["parameters"]["scoring_request_schema"],
        document["components"]["schemas"]["ints.Request"]
    );
    assert!(says(&document, "InferenceMetadata", &metadata));
    gateway.close().await;
}
