//! What it costs to build an environment that was built before: from the stored lock and a warm cache, beside pip.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::measure::{get, with_children_us};
use super::table::Table;
use super::{Bench, Running};
use crate::shell::{command, root, run, say};

/// What the model asks for; versions are those of the tests' own list.
const PACKAGES: [&str; 3] = ["mlflow", "scikit-learn", "pandas"];

pub(super) fn warm(bench: &Bench, table: &mut Table) -> Result<()> {
    let Some(python) = &bench.python else {
        say("  no Python environment: left out");
        return Ok(());
    };
    let list = std::fs::read_to_string(root().join("tests/requirements.txt"))?;
    let pins = list.lines().filter(|line| PACKAGES.iter().any(|name| line.starts_with(&format!("{name}=="))));
    let pins = pins.collect::<Vec<_>>().join("\n");
    let model = bench.folder.path().join("environment");
    std::fs::create_dir_all(&model)?;
    // It is never loaded: what is measured ends before.
    std::fs::write(model.join("MLmodel"), "flavors:\n  python_function: {loader_module: nothing}\n")?;
    let requirements = model.join("requirements.txt");
    std::fs::write(&requirements, pins)?;
    let environments = bench.folder.path().join("data/environments");
    // Resolves, stores the lock and fills the cache.
    build(bench, &model)?;
    forget(&environments)?;
    let ours = build(bench, &model)?;
    let folder = bench.folder.path().join("pip");
    pip(python, &folder, &requirements)?;
    std::fs::remove_dir_all(&folder)?;
    let before = with_children_us(std::process::id());
    pip(python, &folder, &requirements)?;
    let pip = with_children_us(std::process::id()).saturating_sub(before);
    std::fs::remove_dir_all(&folder)?;
    table.row(
        "an environment with mlflow and scikit-learn, from a warm cache: CPU",
        format!("{:.2} s", ours as f64 / 1e6),
        format!("`python -m venv` and `pip install`, from a warm cache {:.1} s", pip as f64 / 1e6),
        Some(ours as f64 / pip as f64),
    );
    Ok(())
}

/// Starts the gateway and lets it build; the CPU that it and its children took until the environment was there.
fn build(bench: &Bench, model: &Path) -> Result<u64> {
    let config = bench.folder.path().join("environment.yaml");
    let route = format!("file://{}", model.display());
    std::fs::write(
        &config,
        format!(
            "version: 1\nendpoints:\n  - {{ name: model, type: predict, route: '{route}', serving: {{ runtime: worker, \
             env_manager: uv }} }}\n"
        ),
    )?;
    let config = config.display().to_string();
    let gateway = bench.program(&["start", "--config-path", &config], "/livez")?;
    let built = wait(&gateway);
    let used = with_children_us(gateway.pid());
    gateway.stop();
    built.map(|()| used)
}

fn wait(gateway: &Running) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(10);
    loop {
        let status: serde_json::Value =
            serde_json::from_str(&get(gateway.port, "/readyz").context("the gateway does not answer")?)?;
        let model = &status["models"][0];
        let state = model["next"][1].as_str().or(model["state"].as_str()).unwrap_or_default();
        match state {
            "RESOLVING" | "RESOLVED" | "FETCHED" | "ENV" => {}
            "FAILED" if model["reason"].as_str().is_some_and(|reason| reason.contains("environment")) => {
                anyhow::bail!("{}", model["reason"]);
            }
            _ => return Ok(()),
        }
        ensure!(Instant::now() < deadline, "the environment is not built: {model}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes the environments and leaves locks and cache.
fn forget(environments: &Path) -> Result<()> {
    for entry in std::fs::read_dir(environments)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "cache") {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

fn pip(python: &Path, folder: &Path, requirements: &Path) -> Result<()> {
    let (path, list) = (folder.display().to_string(), requirements.display().to_string());
    run(&mut command(python, &["-m", "venv", &path]))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", &list];
    run(&mut command(folder.join("bin/python"), &install))
}
