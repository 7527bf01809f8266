//! Chat models on a stand-in for MLflow: whole answers, streams, and what may happen in the middle of one.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millgate_models::{ChatForm, ChatReply, ChatStream, Deployment, DeploymentSpec, DeploymentState};
use millgate_types::{Fault, code};

use crate::failures::start;
use crate::support::{Bench, PATIENCE, until, write};

/// A model that says it chats, for an endpoint of chats.
async fn chatty(change: impl FnOnce(&mut DeploymentSpec)) -> (Bench, Arc<Deployment>) {
    let (bench, first) = start("", |_| {});
    bench.models.retain(&[]);
    write(
        &bench.folder.path().join("model/MLmodel"),
        "flavors:\n  python_function: {loader_module: x}\nmetadata: {task: llm/v1/chat}\n",
    );
    let mut wanted = first.spec().clone();
    wanted.endpoint = "chat".into();
    wanted.chat = true;
    change(&mut wanted);
    let deployment = bench.models.deploy(wanted);
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    (bench, deployment)
}

async fn ask(deployment: &Deployment, text: &str, stream: bool) -> Result<ChatReply, Fault> {
    let body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}");
    let model = deployment.chat_model()?;
    assert_eq!(model.form(), ChatForm::Completion);
    model.ask(Bytes::from(body), stream, Duration::from_mins(1)).await
}

async fn open(deployment: &Deployment, text: &str) -> ChatStream {
    match ask(deployment, text, true).await.unwrap() {
        ChatReply::Stream(stream) => stream,
        ChatReply::Whole(body) => panic!("{body:?}"),
    }
}

async fn next(stream: &mut ChatStream) -> Option<Result<String, Fault>> {
    let part = poll_fn(|context| stream.poll_part(context)).await?;
    Some(part.map(|part| String::from_utf8(part.to_vec()).unwrap()))
}

/// All parts, and the fault at the end, if there is one.
async fn rest(stream: &mut ChatStream) -> (String, Option<Fault>) {
    let mut text = String::new();
    while let Some(part) = next(stream).await {
        match part {
            Ok(part) => text.push_str(&part),
            Err(fault) => return (text, Some(fault)),
        }
    }
    (text, None)
}

#[tokio::test]
async fn a_chat_model_answers_whole_and_in_parts() {
    let (bench, deployment) = chatty(|_| {}).await;
    let ChatReply::Whole(body) = ask(&deployment, "one two", false).await.unwrap() else { panic!() };
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "one two");
    let (text, fault) = rest(&mut open(&deployment, "one two").await).await;
    assert!(fault.is_none() && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(text.matches("data: ").count(), 4, "{text}");
    assert_eq!(deployment.status().input.as_deref(), Some("chat, answered piece by piece"));
    bench.models.shutdown().await;
}

#[tokio::test]
async fn before_the_first_part_a_failure_is_a_fault_and_after_it_the_streams_end() {
    let (bench, deployment) = chatty(|spec| spec.timeout = Duration::from_secs(2)).await;
    for (word, expected) in [
        ("fail", code::MODEL_FAILED),
        ("nonsense", code::MODEL_FAILED),
        ("crash", code::WORKER_CRASHED),
        ("doze", code::WORKER_TIMEOUT),
    ] {
        let fault = ask(&deployment, word, true).await.unwrap_err();
        assert_eq!(fault.code, expected, "{word}: {fault}");
        until("the worker is back", || deployment.status().workers_ready == 1).await;
        let mut stream = open(&deployment, &format!("first {word}")).await;
        let (text, fault) = rest(&mut stream).await;
        let fault = fault.unwrap();
        assert!(text.contains("first") && !text.contains("[DONE]"), "{word}: {text}");
        assert_eq!(fault.code, expected, "{word}: {fault}");
        assert!(!fault.public.contains("value-of-the-model"), "{fault}");
        until("the worker is back", || deployment.status().workers_ready == 1).await;
    }
    bench.models.shutdown().await;
}

#[tokio::test]
async fn who_leaves_stops_the_model_and_who_does_not_read_makes_it_wait() {
    let (bench, deployment) = chatty(|spec| spec.timeout = Duration::from_secs(20)).await;
    let many = vec!["word".repeat(250); 5000].join(" ");
    let mut stream = open(&deployment, &many).await;
    assert!(next(&mut stream).await.unwrap().is_ok());
    // Nothing more is taken: some parts fit into the socket and the channel, five megabytes do not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(stream);
    let (text, fault) = rest(&mut open(&deployment, "given").await).await;
    assert!(fault.is_none(), "{fault:?}");
    let given: usize =
        text.split("\"content\": \"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    assert!((1..2500).contains(&given), "{given}");
    assert_eq!(deployment.status().worker_restarts, 0);
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_model_that_does_not_chat_is_not_loaded_for_chats() {
    let (bench, first) = start("", |_| {});
    let mut wanted = first.spec().clone();
    wanted.endpoint = "chat".into();
    wanted.chat = true;
    let deployment = bench.models.deploy(wanted);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.contains("it is no chat model: its MLmodel names no task"), "{reason}");
    assert_eq!(deployment.chat_model().unwrap_err().code, code::MODEL_UNAVAILABLE);
    bench.models.shutdown().await;
}
