//! Tracking servers that lie: listings that climb out, redirects, wrong statuses. And what we send them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millgate_models::{DeploymentState, FindingLevel, Registry, RegistryAuth, RegistryConfig, doctor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::{Bench, until};

type Heads = Arc<Mutex<Vec<String>>>;

/// Answers each request by its target; remembers the heads.
async fn server(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> (String, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let heads = Heads::default();
    let (seen, answer) = (heads.clone(), Arc::new(answer));
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (seen, answer) = (seen.clone(), answer.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8(head).unwrap();
                let (status, body) = answer(head.split(' ').nth(1).unwrap());
                seen.lock().unwrap().push(head);
                let reply = format!(
                    "HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(reply.as_bytes()).await;
            });
        }
    });
    (uri, heads)
}

fn version() -> String {
    r#"{"model_version":{"name":"m","version":"1","source":"models:/m-1","status":"READY"}}"#.to_owned()
}

async fn reason(uri: &str, change: impl FnOnce(&mut RegistryConfig)) -> (Bench, String) {
    let bench = Bench::new(|_| {});
    let mut config = RegistryConfig::new("prod", uri);
    config.poll_interval = Duration::from_millis(50);
    change(&mut config);
    let deployment = bench.deploy(Registry::new(config).unwrap(), "models:/m/1");
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    (bench, reason)
}

#[tokio::test]
async fn a_listing_that_climbs_out_is_refused_and_nothing_is_left() {
    for name in ["../../evil", "/etc/cron.d/evil"] {
        let (uri, _) = server(move |target| match target {
            target if target.contains("get-download-uri") => {
                (200, r#"{"artifact_uri":"mlflow-artifacts:/0/m"}"#.to_owned())
            }
            target if target.contains("mlflow-artifacts") => {
                (200, format!(r#"{{"files":[{{"path":"{name}","is_dir":false,"file_size":1}}]}}"#))
            }
            _ => (200, version()),
        })
        .await;
        let (bench, reason) = reason(&uri, |_| {}).await;
        assert!(reason.contains("a member's name leads out of the folder"), "{reason}");
        let left: Vec<_> = std::fs::read_dir(bench.folder.path().join("data/artifacts")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn files_of_this_machine_and_other_hosts_are_not_taken_on_a_servers_word() {
    for (address, said) in [
        ("file:///etc", "set `allow_local_artifacts`"),
        ("/etc", "set `allow_local_artifacts`"),
        ("http://169.254.169.254/latest", "not on the registry's own host"),
        ("s3://bucket/m", "scheme `s3`"),
        ("mlflow-artifacts:/../../etc", "scheme `mlflow-artifacts`"),
    ] {
        let (uri, _) = server(move |target| match target {
            target if target.contains("get-download-uri") => {
                (200, format!(r#"{{"artifact_uri":"{address}"}}"#))
            }
            target if target.contains("mlflow-artifacts") => (404, String::new()),
            _ => (200, version()),
        })
        .await;
        let (_bench, reason) = reason(&uri, |_| {}).await;
        assert!(reason.contains(said) || address.contains(".."), "{address}: {reason}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed_and_the_login_is_sent_to_the_registry_alone() {
    let (uri, heads) = server(|_| (302, String::new())).await;
    let auth = RegistryAuth::Basic { username: "ann".to_owned(), password: "canary-pw".to_owned() };
    let (_bench, reason) = reason(&uri, |config| config.auth = auth.clone()).await;
    assert_eq!(reason, "registry `prod`: status 302");
    assert!(heads.lock().unwrap()[0].contains("authorization: Basic YW5uOmNhbmFyeS1wdw=="));
    assert!(!format!("{auth:?}").contains("canary"));
    let mut config = RegistryConfig::new("prod", &uri);
    config.auth = RegistryAuth::Token("canary-token".to_owned());
    let registry = Registry::new(config).unwrap();
    assert!(!format!("{registry:?}").contains("canary"));
}

#[tokio::test]
async fn doctor_names_each_trouble_with_its_fix() {
    let (uri, _) = server(|_| (401, "Unauthorized".to_owned())).await;
    let bench = Bench::new(|settings| settings.python = Some("/nowhere/python".into()));
    let down = Registry::new(RegistryConfig::new("down", "http://127.0.0.1:1")).unwrap();
    let shut = Registry::new(RegistryConfig::new("shut", uri)).unwrap();
    let findings = doctor(bench.models.settings(), &[down, shut, bench.demo_registry()]).await;
    let of = |subject: &str| findings.iter().find(|finding| finding.subject == subject).unwrap();
    assert_eq!(of("data folder").level, FindingLevel::Ok);
    assert!(of("python").text.contains("does not exist") && of("python").fix.is_some());
    assert_eq!(of("registry `down`").level, FindingLevel::Error);
    assert!(of("registry `shut`").text.contains("the login was refused (401)"));
    assert_eq!(of("registry `default`").level, FindingLevel::Ok);
    for uri in ["http://user:pw@host", "ftp://x", "", "sqlite://"] {
        let error = Registry::new(RegistryConfig::new("bad", uri)).unwrap_err().to_string();
        assert!(!error.contains("pw"), "{error}");
    }
}
