//! What workers cannot reach: each other, the gateway, the model's files. As root, where they get users of their own,
//! and in the fall-back, where they keep ours.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use millgate_models::{Deployment, DeploymentState, FindingLevel, ModelSettings, RuntimeChoice, doctor};
use serde_json::{Value, json};

use crate::failures::{obedient, stand_in};
use crate::support::{Bench, PATIENCE, json as ask, registry, spec, until};

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A bench that other users can reach, where this machine has an interpreter that they can reach, and we are root.
fn reachable() -> Option<Bench> {
    if !is_root() || !Path::new("/usr/bin/python3").is_file() {
        eprintln!("skipped: needs root and /usr/bin/python3");
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let python = stand_in(place.path());
    Some(Bench::at(place, |settings| settings.python = Some(python)))
}

/// A bench in a folder that is closed to others, so that root falls back.
fn unreachable(change: impl FnOnce(&mut ModelSettings)) -> Bench {
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let python = stand_in(place.path());
    Bench::at(place, |settings| {
        settings.python = Some(python);
        change(settings);
    })
}

fn deploy(bench: &Bench, name: &str) -> std::sync::Arc<Deployment> {
    let model = obedient(bench.folder.path(), "");
    let registry = registry(&bench.folder.path().display().to_string());
    let mut spec = spec(registry, &format!("file://{}", model.display()));
    spec.endpoint = name.into();
    spec.runtime = RuntimeChoice::Worker;
    bench.models.deploy(spec)
}

async fn attempt(deployment: &Deployment, acts: Value) -> Value {
    let answer = ask(deployment, &json!({ "inputs": acts }).to_string()).await.unwrap();
    let mut value: Value = serde_json::from_slice(&answer.body).unwrap();
    value["predictions"].take()
}

/// An address of ours that can be read: the first mapping of this process.
fn own_address() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    u64::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap()
}

/// What no worker may see of the gateway, whoever it runs as.
async fn gateway_is_closed(deployment: &Deployment) {
    let pid = std::process::id();
    let of = |name: &str| format!("/proc/{pid}/{name}");
    let secret = std::fs::File::open("/proc/self/environ").unwrap();
    let acts = json!({
        "environ": ["read", of("environ")],
        "mem": ["read", of("mem"), own_address()],
        "maps": ["read", of("maps")],
        "an open file": ["read", of(&format!("fd/{}", secret.as_raw_fd()))],
        "root": ["list", of("root/")],
    });
    let seen = attempt(deployment, acts).await;
    for (name, outcome) in seen.as_object().unwrap() {
        assert_eq!(outcome, "refused", "{name} of the gateway: {seen}");
    }
}

fn limit(limits: &str, name: &str) -> String {
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    line[name.len()..].split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn each_deployment_has_a_user_of_its_own_that_reaches_nothing_of_the_others() {
    let Some(bench) = reachable() else { return };
    let (one, two) = (deploy(&bench, "one"), deploy(&bench, "two"));
    for deployment in [&one, &two] {
        assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    }
    let ids = json!({ "ids": ["ids", ""] });
    let (first, second) = (attempt(&one, ids.clone()).await, attempt(&two, ids).await);
    let (first, second) = (&first["ids"], &second["ids"]);
    for ids in [first, second] {
        assert!(ids[0].as_u64().unwrap() > 61_184 && ids[0] == ids[1], "{ids}");
        assert_eq!(ids[2], json!([61_184]));
    }
    assert_ne!(first[0], second[0], "two deployments share a user");

    let data = bench.models.settings().data_dir.clone();
    let digest = one.status().digest.unwrap();
    let model = data.join("artifacts").join(digest);
    let theirs = PathBuf::from(second[3].as_str().unwrap());
    let acts = json!({
        "model": ["read", model.join("MLmodel")],
        "own": ["write", PathBuf::from(first[3].as_str().unwrap()).join("x")],
        "their folder": ["list", &theirs],
        "their file": ["read", theirs.join("worker.py")],
        "write the model": ["write", model.join("MLmodel")],
        "add to the model": ["write", model.join("new")],
        "remove from the model": ["remove", model.join("MLmodel")],
        "the cache": ["list", data.join("artifacts")],
        "the records": ["list", data.join("sources")],
        "the workers": ["list", data.join("run")],
        "the data folder": ["list", &data],
    });
    let seen = attempt(&one, acts).await;
    for (name, outcome) in seen.as_object().unwrap() {
        let wanted = if name == "model" || name == "own" { "done" } else { "refused" };
        assert_eq!(outcome, wanted, "{name}: {seen}");
    }
    // Without Landlock the modes and owners alone must hold.
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&theirs), mode(&model), mode(&model.join("MLmodel"))), (0o700, 0o750, 0o640));
    for folder in [data.clone(), data.join("artifacts"), data.join("run")] {
        assert_eq!(mode(&folder) & 0o057, 0o010, "{}", folder.display());
    }
    assert_eq!(mode(&data.join("sources")), 0o700);
    let shell = format!("ls {0} || cat {0}/MLmodel", model.display());
    let stranger = {
        use std::os::unix::process::CommandExt as _;
        std::process::Command::new("/bin/sh").args(["-c", &shell]).uid(61_183).gid(61_183).output().unwrap()
    };
    assert!(!stranger.status.success(), "any user of the machine can read the model");

    gateway_is_closed(&one).await;
    let limits = attempt(&one, json!({ "limits": ["text", "/proc/self/limits"] })).await;
    let limits = limits["limits"].as_str().unwrap();
    assert_eq!(limit(limits, "Max core file size"), "0");
    assert_eq!(limit(limits, "Max open files"), "256");
    assert_eq!(limit(limits, "Max processes"), "576");
    let parent = attempt(&one, json!({ "signal": ["parent", ""] })).await;
    assert_eq!(parent["signal"], 9, "the worker would outlive a killed gateway");
    let forked = attempt(&one, json!({ "fork": ["fork", "", 2000] })).await;
    assert!(forked["fork"].as_u64().unwrap() < 576, "{forked}");

    let findings = doctor(bench.models.settings(), &[]).await;
    let user = findings.iter().find(|finding| finding.subject == "user").unwrap();
    assert_eq!(user.level, FindingLevel::Ok, "{user:?}");
    bench.models.shutdown().await;
    assert!(!theirs.exists(), "the private folder is left");
}

#[tokio::test]
async fn a_worker_with_our_user_sees_nothing_of_the_gateway_either() {
    let bench = unreachable(|_| {});
    let deployment = deploy(&bench, "test");
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let seen = attempt(&deployment, json!({ "ids": ["ids", ""] })).await;
    assert_eq!(seen["ids"][0], std::fs::metadata("/proc/self").unwrap().uid());
    gateway_is_closed(&deployment).await;
    let limits = attempt(&deployment, json!({ "limits": ["text", "/proc/self/limits"] })).await;
    let limits = limits["limits"].as_str().unwrap();
    assert_eq!(limit(limits, "Max core file size"), "0");
    assert_eq!(limit(limits, "Max open files"), "256");
    if is_root() {
        let findings = doctor(bench.models.settings(), &[]).await;
        let user = findings.iter().find(|finding| finding.subject == "user").unwrap();
        assert_eq!(user.level, FindingLevel::Warning);
        assert!(user.text.contains("cannot be reached by another user"), "{user:?}");
        let place = bench.folder.path().canonicalize().unwrap();
        assert!(user.fix.as_ref().unwrap().contains(&*place.to_string_lossy()), "{user:?}");
    }
    bench.models.shutdown().await;
}

#[tokio::test]
async fn required_isolation_refuses_what_cannot_have_its_own_user() {
    if !is_root() {
        return;
    }
    let bench = unreachable(|settings| settings.isolation_required = true);
    let deployment = deploy(&bench, "test");
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.contains("isolation is required") && reason.contains("by another user"), "{reason}");
    assert!(!reason.contains('/'), "{reason}");
    bench.models.shutdown().await;
}
