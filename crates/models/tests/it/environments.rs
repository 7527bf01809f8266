//! Environments built from a model's requirements, offline, from a folder of wheels.

use std::path::Path;
use std::process::Command;

use millgate_models::{DeploymentState, EnvManager, RuntimeChoice};

use crate::failures::{obedient, say, stand_in};
use crate::support::{Bench, PATIENCE, json, registry, run, spec, text, until, write};

/// A wheel that is enough of MLflow for a worker that echoes.
fn wheel(folder: &Path, note: &str) {
    let script = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + "/mlflow-9.9-py3-none-any.whl", "w") as z:
    z.writestr("mlflow/__init__.py", "__version__='9.9'\n" + sys.argv[2])
    z.writestr("mlflow/pyfunc/__init__.py", "import types\ndef load_model(folder): return types.SimpleNamespace(metadata=types.SimpleNamespace(get_input_schema=lambda: None))\n")
    z.writestr("mlflow/exceptions.py", "class MlflowException(Exception): pass\n")
    z.writestr("mlflow/pyfunc/scoring_server.py", "import os, types\ndef invocations(d,c,m,s): return types.SimpleNamespace(status=200,response='{\"predictions\": [%d]}' % (os.getuid() if b'uid' in d else 1))\n")
    z.writestr("mlflow-9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: mlflow\nVersion: 9.9\n")
    z.writestr("mlflow-9.9.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr("mlflow-9.9.dist-info/RECORD", "")
"#;
    std::fs::create_dir_all(folder).unwrap();
    run(Command::new("python3").args(["-c", script]).arg(folder).arg(note));
}

fn has_uv() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("uv").is_file())
}

fn deploy(bench: &Bench) -> std::sync::Arc<millgate_models::Deployment> {
    let model = bench.folder.path().join("model");
    write(&model.join("MLmodel"), "flavors:\n  python_function: {loader_module: x}\nsignature: null\n");
    write(&model.join("requirements.txt"), "mlflow==9.9\n");
    let registry = registry(&bench.folder.path().display().to_string());
    let mut wanted = spec(registry, &format!("file://{}", model.display()));
    wanted.runtime = RuntimeChoice::Worker;
    wanted.env_manager = EnvManager::Uv;
    bench.models.deploy(wanted)
}

/// The hashes of the first resolution hold for every later build: a wheel that changed under its name is refused.
#[tokio::test]
async fn what_was_resolved_once_is_installed_again_or_nothing_is() {
    if !has_uv() {
        eprintln!("skipped: there is no uv on PATH");
        return;
    }
    let wheels = tempfile::tempdir().unwrap();
    wheel(wheels.path(), "");
    let bench = Bench::new(|settings| settings.wheelhouse = Some(wheels.path().to_owned()));
    let deployment = deploy(&bench);
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    bench.models.retain(&[]);
    until("it is gone", || deployment.status().state == DeploymentState::Gone).await;
    let environments = bench.models.settings().data_dir.join("environments");
    let mut pins = String::new();
    for entry in std::fs::read_dir(&environments).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.starts_with("build-"), "the installer's private folder is left");
        if name.ends_with(".pins.txt") {
            pins = std::fs::read_to_string(&path).unwrap();
        } else if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        }
    }
    assert!(pins.starts_with("mlflow==9.9") && pins.contains("--hash=sha256:"), "{pins}");
    wheel(wheels.path(), "# changed");
    let deployment = deploy(&bench);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.to_lowercase().contains("hash"), "{reason}");
    bench.models.shutdown().await;
}

/// An environment that was built here serves a worker with a user of its own, too.
#[tokio::test]
async fn a_built_environment_is_reached_by_a_workers_own_user() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let python = Path::new("/usr/bin/python3");
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 || !python.is_file() || !has_uv() {
        eprintln!("skipped: needs root, /usr/bin/python3 and uv");
        return;
    }
    let wheels = tempfile::tempdir().unwrap();
    wheel(wheels.path(), "");
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let bench = Bench::at(place, |settings| {
        settings.wheelhouse = Some(wheels.path().to_owned());
        settings.python = Some(python.to_owned());
        settings.isolation_required = true;
    });
    let deployment = deploy(&bench);
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    let answer = json(&deployment, "{\"inputs\": \"uid\"}").await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(answer["predictions"][0].as_u64().unwrap() > 61_184, "{answer}");
    bench.models.shutdown().await;
}

/// A stand-in for `uv` that tries to get out.
#[tokio::test]
async fn an_installer_writes_nothing_outside_and_sees_no_secret() {
    let place = tempfile::tempdir().unwrap();
    let script = r#"#!/bin/sh
out="$TMPDIR/seen"
for try in /tmp/millgate-installer-escape "$(dirname "$UV_CACHE_DIR")/escape" "$(dirname "$UV_CACHE_DIR")/../escape"; do
  if (: > "$try") 2>/dev/null; then echo "error: wrote outside" >&2; exit 1; fi
done
if cat /etc/shadow >/dev/null 2>&1; then echo "error: read secrets" >&2; exit 1; fi
if env | grep -q CARGO; then echo "error: saw our environment" >&2; exit 1; fi
: > "$out" && : > "$UV_CACHE_DIR/x" || { echo "error: cannot write where it must" >&2; exit 1; }
echo "error: confined, and the index is https://ann:canary@index.example/simple" >&2
exit 1
"#;
    let uv = place.path().join("uv");
    write(&uv, script);
    std::fs::set_permissions(&uv, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bench = Bench::at(place, |settings| settings.uv = Some(uv));
    let isolated = millgate_models::doctor(bench.models.settings(), &[]).await.iter().any(|finding| {
        finding.subject == "worker isolation" && finding.level == millgate_models::FindingLevel::Ok
    });
    if !isolated {
        eprintln!("skipped: this kernel cannot confine");
        return;
    }
    let deployment = deploy(&bench);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.ends_with("error: confined, and the index is https://index.example/simple"), "{reason}");
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_worker_runs_in_an_environment_built_from_the_requirements_and_the_next_start_reuses_it() {
    let wheels = tempfile::tempdir().unwrap();
    wheel(wheels.path(), "");
    let bench = Bench::new(|settings| settings.wheelhouse = Some(wheels.path().to_owned()));
    let model = bench.folder.path().join("model");
    write(&model.join("MLmodel"), "flavors:\n  python_function: {loader_module: x}\nsignature: null\n");
    write(&model.join("requirements.txt"), "mlflow==9.9\n");
    let registry = registry(&bench.folder.path().display().to_string());
    let mut wanted = spec(registry, &format!("file://{}", model.display()));
    wanted.runtime = RuntimeChoice::Worker;
    wanted.env_manager = EnvManager::Uv;
    for round in 0..2 {
        let deployment = bench.models.deploy(wanted.clone());
        assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
        assert_eq!(text(&json(&deployment, "{\"inputs\": 1}").await.unwrap()), "{\"predictions\": [1]}");
        assert_eq!(deployment.status().mlflow_version.as_deref(), Some("9.9"));
        bench.models.retain(&[]);
        until("it is gone", || deployment.status().state == DeploymentState::Gone).await;
        if round == 0 {
            // Without the wheels only the finished environment can serve.
            std::fs::remove_dir_all(wheels.path()).unwrap();
        }
    }
    wheel(wheels.path(), "");
    write(&model.join("requirements.txt"), "mlflow==9.9\nnot-there==1.0\n");
    wanted.instances = millgate_models::Instances { min: 2, max: 2, ..Default::default() };
    let deployment = bench.models.deploy(wanted);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.contains("the environment cannot be built") && reason.contains("not-there"), "{reason}");
    assert!(!reason.contains('/'), "{reason}");
    let fault = json(&deployment, "{}").await.unwrap_err();
    assert!(fault.public.contains("not-there"), "{fault}");
    bench.models.shutdown().await;
}

/// Enough of `uv` for one wheel; each build is counted, and waits for a file to go away.
const SLOW_UV: &str = r#"#!/bin/sh
set -e
case "$1 $2" in
  "venv "*) echo built >> "$UV_CACHE_DIR/count"; "$5" -m venv --without-pip "$6" ;;
  "pip compile") while [ "$1" != -o ]; do shift; done; echo "mlflow==9.9 --hash=sha256:0" > "$2" ;;
  "pip sync")
    while [ -e "$UV_CACHE_DIR/wait" ]; do sleep 0.05; done
    while [ "$1" != --python ]; do shift; done
    "$2" -c 'import sys, zipfile, sysconfig
zipfile.ZipFile(sys.argv[1]).extractall(sysconfig.get_path("purelib"))' WHEELS/mlflow-9.9-py3-none-any.whl ;;
esac
"#;

/// Two models with the same requirements wait for one build, and callers are told how far it is.
#[tokio::test]
async fn two_models_share_one_build_and_its_progress_is_told() {
    let place = tempfile::tempdir().unwrap();
    let wheels = place.path().join("wheels");
    wheel(&wheels, "");
    let uv = place.path().join("uv");
    write(&uv, &SLOW_UV.replace("WHEELS", &wheels.display().to_string()));
    std::fs::set_permissions(&uv, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bench = Bench::at(place, |settings| {
        settings.uv = Some(uv);
        settings.wheelhouse = Some(wheels);
    });
    let cache = bench.models.settings().data_dir.join("environments/cache");
    write(&cache.join("wait"), "");
    let first = deploy(&bench);
    let mut wanted = first.spec().clone();
    wanted.endpoint = "second".into();
    let second = bench.models.deploy(wanted);
    until("both are told", || {
        let seen = [&first, &second].map(|one| one.status().progress.unwrap_or_default());
        let (mut building, mut waiting) = (false, false);
        for step in &seen {
            building |= step.starts_with("installing 0 of 1 packages, ");
            waiting |= step.starts_with("waiting for another build of this environment, ");
        }
        building && waiting
    })
    .await;
    for deployment in [&first, &second] {
        assert_eq!(deployment.status().next.map(|next| next.1), Some(DeploymentState::Env));
    }
    let faults = [json(&first, "{}").await.unwrap_err(), json(&second, "{}").await.unwrap_err()];
    assert!(faults.iter().any(|fault| fault.public.contains("is being loaded: installing 0 of 1 packages")));
    std::fs::remove_file(cache.join("wait")).unwrap();
    for deployment in [&first, &second] {
        assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
        assert_eq!(text(&json(deployment, "{\"inputs\": 1}").await.unwrap()), "{\"predictions\": [1]}");
        assert_eq!(deployment.status().progress, None);
    }
    assert_eq!(std::fs::read_to_string(cache.join("count")).unwrap(), "built\n");
    bench.models.shutdown().await;
}

/// A prepared environment is used as it is, whatever other Pythons there are.
#[tokio::test]
async fn a_prepared_environment_serves_and_one_without_mlflow_says_so() {
    let bench = Bench::new(|settings| settings.python = Some("/nonexistent/python".into()));
    let place = bench.folder.path();
    stand_in(place);
    run(Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(place.join("empty")));
    let model = obedient(place, "");
    let registry = registry(&place.display().to_string());
    let mut wanted = spec(registry, &format!("file://{}", model.display()));
    wanted.runtime = RuntimeChoice::Worker;
    wanted.environment = Some(place.join("venv"));
    let deployment = bench.models.deploy(wanted.clone());
    assert!(deployment.wait_ready(PATIENCE).await, "{:?}", deployment.status());
    assert_eq!(text(&json(&deployment, &say("hello")).await.unwrap()), "{\"predictions\": \"hello\"}");
    for (folder, reason) in [("empty", "the prepared environment (3."), ("gone", "has no bin/python")] {
        wanted.environment = Some(place.join(folder));
        let deployment = bench.models.deploy(wanted.clone());
        until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
        let said = deployment.status().reason.unwrap();
        assert!(said.contains(reason), "{said}");
    }
    bench.models.shutdown().await;
}

#[tokio::test]
async fn a_python_that_is_not_there_is_named_with_what_to_do() {
    let bench = Bench::new(|_| {});
    let deployment = deploy(&bench);
    let model = bench.folder.path().join("model/MLmodel");
    write(
        &model,
        "flavors:\n  python_function: {loader_module: x, python_version: 3.99.1}\nsignature: null\n",
    );
    let mut wanted = deployment.spec().clone();
    wanted.endpoint = "older".into();
    bench.models.retain(&[]);
    let deployment = bench.models.deploy(wanted);
    until("the failure is known", || deployment.status().state == DeploymentState::Failed).await;
    let reason = deployment.status().reason.unwrap();
    assert!(reason.contains("saved with Python 3.99.1 and the interpreter is 3."), "{reason}");
    assert!(
        reason.contains("install Python 3.99 so that `python3.99` is on PATH, or set `models.python`"),
        "{reason}"
    );
    bench.models.shutdown().await;
}
