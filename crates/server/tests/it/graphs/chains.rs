use millgate_testkit::FakeProvider;
use serde_json::{Value, json};

use super::super::pass::{chat, text_of};
use super::{COLUMNS, ROWS, Scorer, changed, endpoint, fixture, over, predictions, split};

/// Doubles every number of every row.
fn doubled(body: &Value) -> (u16, Value) {
    // Without a signature the next model gets what the one before answered as `inputs`.
    let rows = body["instances"].as_array().or(body["inputs"].as_array()).expect("rows");
    let twice = |row: &Value| {
        row.as_array()
            .expect("a row")
            .iter()
            .map(|cell| json!(cell.as_f64().expect("a number") * 2.0))
            .collect::<Value>()
    };
    (200, json!({ "predictions": rows.iter().map(twice).collect::<Vec<_>>() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_is_the_next_steps_input() {
    let doubling = Scorer::start(doubled).await;
    let lines = [
        endpoint("model", &json!(fixture("lgb-binary"))),
        endpoint("chain", &json!({ "chain": ["doubling/m", "model"] })),
        endpoint(
            "longer",
            &json!({ "chain": ["doubling/m", { "fallback": ["doubling/m"] }, { "to": fixture("lgb-binary") }] }),
        ),
        endpoint(
            "templated",
            &json!({ "chain": [
            { "to": "doubling/m", "body": { "instances": "$request" } },
            { "to": "model", "body": { "dataframe_split": { "columns": COLUMNS, "data": "$result" } } },
        ] }),
        ),
        endpoint(
            "bad",
            &json!({ "chain": ["doubling/m", { "to": "model", "body": { "inputs": "{{ result | length }}" } }] }),
        ),
        endpoint(
            "unfit",
            &json!({ "chain": ["doubling/m", { "to": "model", "body": { "inputs": "{{ result.x.y }}" } }] }),
        ),
    ];
    let gateway = over(&[("doubling", &doubling)], None, &lines).await;
    let twice = |times: f64| ROWS.map(|row| row.map(|cell| cell * times));
    let body = json!({ "instances": ROWS });
    let expected = predictions(&gateway, "model", &split(&twice(2.0))).await;
    assert_eq!(predictions(&gateway, "chain", &body).await, expected);
    assert_eq!(doubling.last(), body);
    assert_eq!(
        predictions(&gateway, "longer", &body).await,
        predictions(&gateway, "model", &split(&twice(4.0))).await
    );
    let answer = gateway.post("/endpoints/chain/invocations", &body).await;
    assert_eq!(answer.header("x-millgate-target"), Some("chain(doubling/m -> model)"));
    // A body of the third kind: the template makes the scoring protocol of it.
    let answer = gateway.post("/endpoints/templated/invocations", &json!(ROWS)).await;
    assert_eq!((answer.status, &answer.json()["predictions"]), (200, &expected), "{}", answer.text());
    for (name, reason) in [
        ("bad", "step 2 does not take what it is sent"),
        ("unfit", "step 2: the template: it asks for what is not there"),
    ] {
        let answer = gateway.post(&format!("/endpoints/{name}/invocations"), &body).await;
        assert_eq!(
            (answer.status, answer.header("x-millgate-error")),
            (502, Some("graph_failed")),
            "{}",
            answer.text()
        );
        assert!(answer.text().contains(reason), "{}", answer.text());
    }
    gateway.close().await;
}

/// Signatures say before any row is asked about that two steps do not go together; when another version comes that does,
/// the chain answers.
#[tokio::test(flavor = "multi_thread")]
async fn steps_that_do_not_go_together_are_told_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let outputs = |columns: &str| {
        let columns = columns.to_owned();
        changed(folder.path(), "xgb-booster-softprob", move |text| {
            let start = text.find("  outputs:").unwrap();
            let end = text.find("  params:").unwrap();
            format!("{}  outputs: '{columns}'\n{}", &text[..start], &text[end..])
        })
    };
    let lacking = outputs(r#"[{"type":"double","name":"a"},{"type":"double","name":"b"}]"#);
    let wide = outputs(r#"[{"type":"tensor","tensor-spec":{"dtype":"float32","shape":[-1,3]}}]"#);
    let text = outputs(r#"[{"type":"string"}]"#);
    let number = outputs(r#"[{"type":"double"}]"#);
    let lines = [
        endpoint("lacking", &json!({ "chain": [lacking, fixture("lgb-binary")] })),
        endpoint("wide", &json!({ "chain": [wide, fixture("lgb-binary")] })),
        endpoint(
            "either",
            &json!({ "chain": [{ "fallback": [wide, fixture("xgb-multi")] }, fixture("xgb-booster-tensor")] }),
        ),
        endpoint("mixed", &json!({ "ensemble": { "of": [text, number], "by": "mean" } })),
        endpoint(
            "safe",
            &json!({ "fallback": [{ "chain": [lacking, fixture("lgb-binary")] }, fixture("lgb-binary")] }),
        ),
    ];
    let gateway = over(&[], None, &lines).await;
    let body = split(&ROWS);
    for (name, reason) in [
        ("lacking", "the column `c` is not among the answers"),
        ("wide", "3 values a row are answered, the model takes 5 columns"),
    ] {
        let answer = gateway.post(&format!("/endpoints/{name}/invocations"), &body).await;
        let got = (answer.status, answer.header("x-millgate-error"));
        assert_eq!(got, (503, Some("model_unavailable")), "{}", answer.text());
        assert!(answer.text().contains(reason) && answer.text().contains("step 2 ("), "{}", answer.text());
        assert_eq!(gateway.get(&format!("/v2/models/{name}/ready")).await.status, 503);
    }
    assert_eq!(predictions(&gateway, "safe", &body).await.as_array().map(Vec::len), Some(3));
    let readiness = gateway.get("/readyz").await.json();
    let told: Vec<_> = readiness["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["endpoint"].as_str().unwrap())
        .collect();
    assert_eq!(told, ["lacking", "wide", "either", "mixed", "safe"], "{readiness}");
    assert!(readiness["routes"][3]["reason"].as_str().unwrap().contains("what is no number"), "{readiness}");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_llm_explains_what_a_model_answered_and_the_record_adds_up() {
    let fake = FakeProvider::start().unwrap();
    let explain = json!({ "to": { "fallback": ["openai/status-500", "claude/ok"] }, "body": {
        "max_tokens": 32,
        "messages": [{ "role": "user", "content": "Explain {{ result | tojson }} for {{ rows }} rows of {{ request.dataframe_split.columns | join('+') }}" }],
    } });
    let lines = [
        endpoint("model", &json!(fixture("xgb-binary"))),
        endpoint("explained", &json!({ "chain": ["model", explain] })),
        endpoint("plain", &json!({ "chain": ["model", "openai/ok"] })),
        endpoint(
            "twice",
            &json!({ "chain": ["model", "openai/ok", { "to": "claude/ok", "body": { "max_tokens": 9, "messages": [{ "role": "user", "content": "Shorten: {{ result }}" }] } }] }),
        ),
        endpoint("tool", &json!({ "chain": ["model", "openai/tool"] })),
    ];
    let gateway = over(&[], Some(&fake), &lines).await;
    let body = split(&ROWS);
    let labels = predictions(&gateway, "model", &body).await;
    let answer = gateway.post("/endpoints/explained/invocations", &body).await;
    assert_eq!(
        answer.json(),
        json!({ "predictions": ["Hello from the fake provider."] }),
        "{}",
        answer.text()
    );
    let sent = fake.last().json();
    let shown = labels.to_string().replace(',', ", ");
    let content = format!("Explain {shown} for 3 rows of a+b+c+d+e");
    let said = sent["messages"][0]["content"].to_string();
    assert!(said.contains(&content), "{said} / {content}");
    assert!(
        answer.header("x-millgate-cost-usd").is_some_and(|cost| cost > "0.000000000"),
        "{:?}",
        answer.headers
    );
    let alone = predictions(&gateway, "plain", &body).await;
    assert_eq!(alone, json!(["Hello from the fake provider."]));
    assert_eq!(fake.last().json()["messages"][0]["content"], labels.to_string());
    let single = gateway.post("/endpoints/plain/invocations", &body).await;
    let double = gateway.post("/endpoints/twice/invocations", &body).await;
    let cost = |answer: &millgate_testkit::client::Answer| {
        answer.header("x-millgate-cost-usd").unwrap().parse::<f64>().unwrap()
    };
    assert!(cost(&double) > cost(&single), "{} {}", cost(&double), cost(&single));
    assert!(fake.last().json()["messages"][0].to_string().contains("Shorten: Hello from the fake provider."));
    let answer = gateway.post("/endpoints/tool/invocations", &body).await;
    assert_eq!(
        (answer.status, answer.header("x-millgate-error")),
        (502, Some("graph_failed")),
        "{}",
        answer.text()
    );
    let metrics = gateway.get("/metrics").await.text();
    for series in [
        r#"millgate_hops_total{endpoint="explained",target="openai/status-500",code="upstream_error",outcome="failed"} 1"#,
        r#"millgate_hops_total{endpoint="explained",target="claude/ok",code="",outcome="completed"} 1"#,
        r#"millgate_tokens_total{endpoint="explained",target="claude/ok",class="output"}"#,
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_behind_models_speaks_every_dialect_and_streams() {
    let fake = FakeProvider::start().unwrap();
    let judge =
        Scorer::start(|body| (200, json!({ "predictions": [format!("seen:{}", body["inputs"][0])] }))).await;
    let route = json!({ "chain": [
        { "to": "judge/m", "body": { "inputs": ["{{ request.messages[-1].content }}"] } },
        { "to": "openai/ok", "body": { "max_tokens": 16, "messages": [{ "role": "user", "content": "Mind {{ result[0] }}" }] } },
    ] });
    let lines = [
        json!({ "name": "minded", "type": "llm/v1/chat", "route": route }).to_string(),
        json!({ "name": "relay", "type": "llm/v1/chat", "route": { "chain": ["openai/ok", { "fallback": ["openai/status-500", "claude/ok"] }] } }).to_string(),
        json!({ "name": "alone", "type": "llm/v1/chat", "route": { "chain": ["openai/ok"] } }).to_string(),
        json!({ "name": "cut", "type": "llm/v1/chat", "route": { "chain": ["openai/ok", "openai/cut-stream"] } }).to_string(),
    ];
    let gateway = over(&[("judge", &judge)], Some(&fake), &lines).await;
    for name in ["minded", "relay", "alone"] {
        let call = chat(name);
        let answer = gateway.post("/v1/chat/completions", &call).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let said = answer.json()["choices"][0]["message"]["content"].clone();
        assert_eq!(said, "Hello from the fake provider.", "{name}");
        let mut streamed = call.clone();
        streamed["stream"] = true.into();
        let answer = gateway.post("/v1/chat/completions", &streamed).await;
        assert_eq!(text_of(&answer.events()), "Hello from the fake provider.", "{name}: {}", answer.text());
        assert!(answer.text().contains("[DONE]"));
        let answer = gateway.post("/v1/messages", &call).await;
        assert_eq!(
            answer.json()["content"][0]["text"],
            "Hello from the fake provider.",
            "{name}: {}",
            answer.text()
        );
        let answer = gateway.post("/v1/messages", &streamed).await;
        assert!(answer.text().contains("message_stop"), "{name}: {}", answer.text());
        let gemini = json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hello" }] }] });
        let answer = gateway.post(&format!("/v1beta/models/{name}:generateContent"), &gemini).await;
        assert_eq!(
            answer.json()["candidates"][0]["content"]["parts"][0]["text"],
            "Hello from the fake provider.",
            "{name}: {}",
            answer.text()
        );
        let answer = gateway.post("/v1/responses", &json!({ "model": name, "input": "Hello" })).await;
        assert!(answer.text().contains("Hello from the fake provider."), "{name}: {}", answer.text());
        let mut mlflow = call.clone();
        mlflow.as_object_mut().unwrap().remove("model");
        let answer = gateway.post(&format!("/gateway/{name}/invocations"), &mlflow).await;
        assert!(answer.text().contains("Hello from the fake provider."), "{name}: {}", answer.text());
    }
    assert_eq!(judge.last(), json!({ "inputs": ["Hello"] }));
    let sent = gateway.post("/v1/chat/completions", &chat("minded")).await;
    assert_eq!(sent.header("x-millgate-target"), Some("chain(judge/m -> openai/ok)"));
    assert_eq!(fake.last().json()["messages"][0]["content"], r#"Mind seen:"Hello""#);
    let mut call = chat("cut");
    call["stream"] = true.into();
    let answer = gateway.post("/v1/chat/completions", &call).await;
    assert!(
        answer.text().contains("stream_interrupted") && !answer.text().contains("[DONE]"),
        "{}",
        answer.text()
    );
    let count = gateway.post("/v1/messages/count_tokens", &chat("minded")).await;
    assert_eq!(count.status, 501, "{}", count.text());
    let metrics = gateway.get("/metrics").await.text();
    let series = r#"millgate_hops_total{endpoint="cut",target="openai/cut-stream",code="stream_interrupted",outcome="failed"} 1"#;
    assert!(metrics.contains(series), "{metrics}");
    assert!(
        metrics.contains(r#"millgate_tokens_total{endpoint="minded",target="openai/ok",class="output"}"#)
    );
    gateway.close().await;
}
