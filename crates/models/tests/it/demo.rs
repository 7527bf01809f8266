//! The demo store: native models from real MLflow files.

use std::time::Duration;

use millgate_models::{DeploymentState, Registry, RegistryConfig};
use millgate_types::code;

use crate::support::{Bench, PATIENCE, json, registry, spec, text, until};

const IRIS: &str = r#"{"dataframe_split":{"columns":["sepal_length","sepal_width","petal_length","petal_width"],
    "data":[[5.1,3.5,1.4,0.2],[6.7,3.0,5.2,2.3],[5.9,2.8,4.1,1.3]]}}"#;

#[tokio::test]
async fn every_selector_finds_the_demo_model_and_it_runs_natively() {
    let bench = Bench::new(|_| {});
    let registry = bench.demo_registry();
    for model in ["models:/iris@champion", "models:/iris/1", "models:/iris/production", "models:/iris/latest"]
    {
        let deployment = bench.deploy(registry.clone(), model);
        assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
        let answer = json(&deployment, IRIS).await.unwrap();
        assert_eq!(text(&answer), "{\"predictions\": [0, 2, 1]}");
        assert_eq!((answer.rows, &*answer.version, answer.runtime, answer.status), (3, "1", "native", 200));
    }
    let fault =
        json(&bench.deploy(registry, "models:/iris/1"), &IRIS.replace("5.1", "\"5.1\"")).await.unwrap_err();
    assert_eq!(fault.code, code::SCHEMA_MISMATCH);
    bench.models.shutdown().await;
}

#[tokio::test]
async fn an_unknown_model_version_or_alias_is_named_with_its_registry() {
    let bench = Bench::new(|_| {});
    let registry = bench.demo_registry();
    for (model, reason) in [
        ("models:/IrisClassifier/1", "registry `default` has no model `IrisClassifier`"),
        ("models:/iris/7", "registry `default` has no version 7 of model `iris`"),
        ("models:/iris@loser", "registry `default` has no alias `loser` on model `iris`"),
        ("models:/iris/Staging", "registry `default` has no version of model `iris` in stage `Staging`"),
        ("models:/m-unknown", "registry `default` has no logged model `m-unknown`"),
    ] {
        let deployment = bench.deploy(registry.clone(), model);
        until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
        let fault = json(&deployment, IRIS).await.unwrap_err();
        assert_eq!((fault.code, &*fault.public), (code::MODEL_UNAVAILABLE, reason));
        assert_eq!(fault.status(), 503);
    }
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_store_that_appears_later_is_picked_up_without_restart() {
    let bench = Bench::new(|_| {});
    let uri = format!("file://{}", bench.folder.path().join("mlruns").display());
    let deployment = bench.deploy(registry(&uri), "models:/iris@champion");
    until("the failure is known", || deployment.status().reason.is_some()).await;
    let fault = json(&deployment, IRIS).await.unwrap_err();
    assert_eq!(fault.code, code::REGISTRY_UNAVAILABLE);
    bench.demo_registry();
    assert!(deployment.wait_ready(PATIENCE).await);
    assert!(json(&deployment, IRIS).await.is_ok());
    bench.models.shutdown().await;
}

/// A promotion under load: no request fails, and every answer says which version gave it.
#[tokio::test]
async fn a_moved_alias_is_followed_and_no_request_is_lost() {
    let bench = Bench::new(|_| {});
    let registry = bench.demo_registry();
    let store = bench.folder.path().join("mlruns/models/iris");
    let deployment = bench.deploy(registry, "models:/iris@champion");
    assert!(deployment.wait_ready(PATIENCE).await);
    std::fs::create_dir(store.join("version-2")).unwrap();
    let meta = std::fs::read_to_string(store.join("version-1/meta.yaml")).unwrap();
    std::fs::write(store.join("version-2/meta.yaml"), meta.replace("\nversion: 1\n", "\nversion: 2\n"))
        .unwrap();
    let (mut first, mut second) = (0, 0);
    for round in 0.. {
        if round == 100 {
            std::fs::write(store.join("aliases/champion"), "2").unwrap();
        }
        match &*json(&deployment, IRIS).await.unwrap().version {
            "1" => first += 1,
            _ => second += 1,
        }
        if second == 100 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(first >= 100);
    bench.models.shutdown().await;
    assert_eq!(deployment.status().state, DeploymentState::Gone);
}

#[tokio::test]
async fn equal_specs_share_a_deployment_and_unused_ones_stop() {
    let bench = Bench::new(|_| {});
    let registry = bench.demo_registry();
    let one = bench.deploy(registry.clone(), "models:/iris/1");
    let again = Registry::new(registry.config().clone()).unwrap();
    let same = bench.models.deploy(spec(again, "models:/iris/1"));
    assert!(std::sync::Arc::ptr_eq(&one, &same));
    let other = bench.deploy(registry, "models:/diabetes@champion");
    assert!(other.wait_ready(PATIENCE).await);
    bench.models.retain(std::slice::from_ref(&other));
    until("the unused one is gone", || one.status().state == DeploymentState::Gone).await;
    assert!(other.is_ready());
    bench.models.shutdown().await;
}

#[tokio::test]
async fn an_http_registry_that_is_down_answers_registry_unavailable() {
    let bench = Bench::new(|_| {});
    // A port nobody listens on: bound, then given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = RegistryConfig::new("prod", format!("http://127.0.0.1:{port}"));
    config.poll_interval = Duration::from_millis(50);
    let deployment = bench.deploy(Registry::new(config).unwrap(), "models:/iris/1");
    until("the failure is known", || deployment.status().reason.is_some()).await;
    let fault = json(&deployment, IRIS).await.unwrap_err();
    assert_eq!(fault.code, code::REGISTRY_UNAVAILABLE);
    assert!(fault.public.starts_with("registry `prod` cannot be reached: no connection"), "{fault}");
    bench.models.shutdown().await;
}
