//! Forked workers: that they are forked, apart from each other, and that nothing depends on their zygote's life.

use std::time::Duration;

use millgate_models::{Deployment, FindingLevel, Instances, doctor};
use serde_json::{Value, json};

use crate::failures::{members, say, start};
use crate::support::{PATIENCE, json as ask, until};

async fn value(deployment: &Deployment, word: &str) -> Value {
    let answer = ask(deployment, &say(word)).await.unwrap();
    let mut value: Value = serde_json::from_slice(&answer.body).unwrap();
    value["predictions"].take()
}

fn kill(pid: i64) {
    crate::support::run(std::process::Command::new("/bin/kill").args(["-KILL", &pid.to_string()]));
}

#[tokio::test]
async fn a_dead_zygote_is_replaced_and_takes_its_workers_with_it() {
    let (bench, deployment) = start("", |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let (zygote, worker) = (value(&deployment, "parent").await, value(&deployment, "pid").await);
    let zygote = zygote.as_i64().unwrap();
    assert_ne!(zygote, i64::from(std::process::id()), "the worker was not forked");
    assert!(ask(&deployment, &say("crash")).await.is_err());
    until("the worker is replaced", || deployment.status().worker_restarts > 0).await;
    let again = value(&deployment, "parent").await;
    assert_eq!(again.as_i64(), Some(zygote), "a new zygote for each worker");
    assert_ne!(value(&deployment, "pid").await, worker);
    kill(zygote);
    let deaths = deployment.status().worker_restarts;
    until("its worker ended too", || deployment.status().worker_restarts > deaths).await;
    let other = value(&deployment, "parent").await.as_i64().unwrap();
    assert!(other != zygote && other != i64::from(std::process::id()), "{other}");
    bench.models.shutdown().await;
    until("no zygote is left", || members(other) == 0).await;
}

#[tokio::test]
async fn what_a_dead_worker_leaves_behind_is_ended_too() {
    let (bench, deployment) = start("", |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let daemon = value(&deployment, "daemon").await.as_i64().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{daemon}/stat")).ok();
    assert!(state().is_some());
    assert!(ask(&deployment, &say("crash")).await.is_err());
    until("the daemon is gone", || state().is_none()).await;
    bench.models.shutdown().await;
}

#[tokio::test]
async fn workers_of_one_zygote_are_closed_to_each_other() {
    let (bench, deployment) = start("", |spec| {
        spec.instances = Instances { min: 2, max: 2, ..Instances::default() };
    });
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let attempt = async |acts: Value| {
        let answer = ask(&deployment, &json!({ "inputs": acts }).to_string()).await.unwrap();
        let mut value: Value = serde_json::from_slice(&answer.body).unwrap();
        value["predictions"].take()
    };
    // Two at once meet both.
    let mut seen = std::collections::BTreeMap::new();
    let mut numbers = std::collections::BTreeSet::new();
    until("both workers are ready", || deployment.status().workers_ready == 2).await;
    for _ in 0..200 {
        let who = || attempt(json!({ "pid": ["pid", ""], "home": ["home", ""], "random": ["random", ""] }));
        let (one, two) = tokio::join!(who(), who());
        for who in [one, two] {
            seen.insert(who["pid"].as_i64().unwrap(), who["home"].as_str().unwrap().to_owned());
            numbers.insert(who["random"].to_string());
        }
        if seen.len() == 2 {
            break;
        }
        numbers.clear();
    }
    assert_eq!(seen.len(), 2, "only one worker answers");
    assert!(numbers.len() > 1, "both draw the same random numbers");
    let findings = doctor(bench.models.settings(), &[]).await;
    let isolated = findings
        .iter()
        .any(|finding| finding.subject == "worker isolation" && finding.level == FindingLevel::Ok);
    if !isolated {
        eprintln!("not checked: this kernel cannot confine workers fully: {findings:?}");
        return;
    }
    for _ in 0..6 {
        let mut acts = serde_json::Map::new();
        acts.insert("me".to_owned(), json!(["pid", ""]));
        for (pid, home) in &seen {
            acts.insert(format!("list {pid}"), json!(["list", home]));
            acts.insert(format!("write {pid}"), json!(["write", format!("{home}/x")]));
            acts.insert(format!("signal {pid}"), json!(["signal", pid]));
            acts.insert(format!("memory {pid}"), json!(["read", format!("/proc/{pid}/mem")]));
        }
        let got = attempt(Value::Object(acts)).await;
        let me = got["me"].as_i64().unwrap();
        for (name, outcome) in got.as_object().unwrap() {
            let Some((what, pid)) = name.split_once(' ') else { continue };
            if what == "memory" && pid == me.to_string() {
                continue;
            }
            let wanted = if pid == me.to_string() { "done" } else { "refused" };
            assert_eq!(outcome, wanted, "{name} by {me}: {got}");
        }
    }
    bench.models.shutdown().await;
}

#[tokio::test]
async fn without_a_zygote_workers_are_spawned() {
    let place = tempfile::tempdir().unwrap();
    let python = crate::failures::stand_in(place.path());
    let bench = crate::support::Bench::at(place, |settings| {
        settings.python = Some(python);
        settings.zygote = false;
    });
    let model = crate::failures::obedient(bench.folder.path(), "");
    let deployment = crate::columns::deploy(&bench, &model, |_| {});
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    assert_eq!(value(&deployment, "parent").await.as_i64(), Some(i64::from(std::process::id())));
    bench.models.shutdown().await;
}

#[tokio::test]
async fn an_idle_model_lets_its_worker_go_and_a_request_brings_one_back() {
    let (bench, deployment) = start("", |spec| {
        spec.instances =
            Instances { min: 0, max: 2, idle_timeout: Duration::from_secs(2), schedule: Vec::new() };
    });
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let first = value(&deployment, "pid").await;
    until("the worker is gone", || {
        let status = deployment.status();
        status.workers_ready == 0 && status.workers_wanted == 0
    })
    .await;
    assert!(deployment.is_ready(), "an idle model can answer");
    let second = value(&deployment, "pid").await;
    assert_ne!(first, second);
    assert_eq!(deployment.status().worker_restarts, 0);
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_grew_is_replaced_between_two_calls() {
    let (bench, deployment) = start("", |spec| spec.max_rss_bytes = Some(200 << 20));
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let first = value(&deployment, "pid").await;
    assert_eq!(value(&deployment, "leak").await, "leak");
    // Its memory is looked at once a second, after a call.
    while deployment.status().workers_recycled == 0 {
        assert_eq!(value(&deployment, "hello").await, "hello");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(value(&deployment, "pid").await, first);
    assert_eq!(deployment.status().worker_restarts, 0);
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_burst_adds_instances() {
    let (bench, deployment) = start("", |spec| {
        spec.instances = Instances { min: 1, max: 3, ..Instances::default() };
        spec.timeout = Duration::from_secs(20);
    });
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let tasks: Vec<_> = (0..12)
        .map(|_| {
            let deployment = deployment.clone();
            tokio::spawn(async move { ask(&deployment, &say("doze")).await.map(|_| ()) })
        })
        .collect();
    until("more instances serve", || deployment.status().workers_ready == 3).await;
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    bench.models.shutdown().await;
}
