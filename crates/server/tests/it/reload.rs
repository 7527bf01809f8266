//! Configurations change while requests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millgate_testkit::{FakeProvider, TestGateway};

use super::config;
use super::pass::chat;

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_configurations_change() {
    let fake = FakeProvider::start().unwrap();
    let gateway = Arc::new(TestGateway::start(&config(&fake, &["ok"], "")).await);
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (gateway, stop) = (Arc::clone(&gateway), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut connection = gateway.connect().await.unwrap();
                let body = chat("openai-ok").to_string();
                let (mut count, mut last) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    connection.request("POST", "/v1/chat/completions", &[], body.as_bytes()).await.unwrap();
                    let answer = connection.answer().await.unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let generation: u64 = answer.header("x-millgate-config").unwrap().parse().unwrap();
                    assert!(generation >= last, "{generation} after {last}");
                    last = generation;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut generation = 0;
    for round in 0..30 {
        let models: &[&str] = if round % 2 == 0 { &["ok", "tool"] } else { &["ok"] };
        generation = gateway.apply(&config(&fake, models, ""));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        assert!(worker.await.unwrap() > 10);
    }
    assert_eq!(generation, 31);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_under_way_ends_on_what_it_began_with() {
    let fake = FakeProvider::start().unwrap();
    let gateway = TestGateway::start(&config(&fake, &["chunks-20-20ms"], "")).await;
    let mut call = chat("openai-chunks-20-20ms");
    call["stream"] = true.into();
    let mut connection = gateway.connect().await.unwrap();
    connection.request("POST", "/v1/chat/completions", &[], call.to_string().as_bytes()).await.unwrap();
    let mut opened = connection.answer_head().await.unwrap();
    let mut text = opened.piece().await.unwrap().unwrap();
    gateway.apply(&config(&fake, &["ok"], ""));
    while let Some(piece) = opened.piece().await.unwrap() {
        text.extend_from_slice(&piece);
    }
    assert!(String::from_utf8(text).unwrap().contains("[DONE]"));
    assert_eq!(gateway.post("/v1/chat/completions", &call).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_survive_a_reload() {
    let fake = FakeProvider::start().unwrap();
    let limited =
        "  - { name: few, type: llm/v1/chat, route: openai/ok, limits: [ { requests: 2, per: hour } ] }\n";
    let gateway = TestGateway::start(&config(&fake, &["ok"], limited)).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(gateway.post("/v1/chat/completions", &chat("few")).await.status);
        gateway.apply(&config(&fake, &["ok", "tool"], limited));
    }
    assert_eq!(statuses, [200, 200, 429]);
}
