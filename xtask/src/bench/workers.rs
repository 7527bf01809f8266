//! Registered models, in Python workers and in process, beside MLflow's own scoring server.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::cases::{Cost, IRIS, cost, of, ratio};
use super::measure::{own_cpu_us, private_kib, tree};
use super::table::Table;
use super::{Bench, Running};
use crate::shell::{command, root, run, say};

/// Saves the models; the interpreter's folder of programs. `None` without a Python environment.
fn models(bench: &Bench) -> Result<Option<String>> {
    let Some(python) = &bench.python else {
        say("  no Python environment: left out");
        return Ok(None);
    };
    let folder = bench.folder.path().join("models");
    if !folder.is_dir() {
        let script = root().join("tests/bench_model.py").display().to_string();
        run(&mut command(python, &[&script, &folder.display().to_string()]))?;
    }
    Ok(Some(folder.display().to_string()))
}

/// The gateway with one model, checked strictly, ready to answer the file `body`.
fn gateway(bench: &Bench, model: &str, serving: &str, body: &str) -> Result<Running> {
    let config = bench.folder.path().join("model.yaml");
    std::fs::write(
        &config,
        format!(
            "version: 1\nendpoints:\n  - {{ name: model, type: predict, path: /invocations, \
             route: 'file://{model}', serving: {{ {serving} }} }}\n"
        ),
    )?;
    let config = config.display().to_string();
    let gateway = bench.program(&["start", "--config-path", &config], "/livez")?;
    wait(bench, &gateway, body, "the model does not load")?;
    Ok(gateway)
}

/// Until the file `body` is answered.
fn wait(bench: &Bench, server: &Running, body: &str, complaint: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(2);
    let ask = ["-c", "1", "-n", "1", "--path", "/invocations", "--body", body];
    loop {
        let load = bench.load(server.port, &ask)?;
        if load.errors == 0 && load.statuses.contains_key("200") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{complaint}: {load:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn mlflow(bench: &Bench, model: &str) -> Result<Running> {
    let python = bench.python.as_deref().and_then(Path::parent).context("an interpreter has a folder")?;
    let port = super::free_port()?;
    let text = port.to_string();
    let arguments =
        ["models", "serve", "-m", model, "-p", &text, "-h", "127.0.0.1", "--env-manager", "local"];
    let mut command = super::pinned(0, python.join("mlflow"), &arguments);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", python.display()));
    command.env("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "true");
    bench.start(command, port, "/ping")
}

/// The gateway and MLflow in turn, asked the same.
fn beside_mlflow(
    bench: &Bench,
    model: &str,
    serving: &str,
    body: &str,
    arguments: &[&str],
) -> Result<(Vec<Cost>, Vec<Cost>)> {
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let running = gateway(bench, model, serving, body)?;
        ours.push(cost(bench, &running, arguments, false)?);
        running.stop();
        let running = mlflow(bench, model)?;
        wait(bench, &running, body, "MLflow does not answer")?;
        others.push(cost(bench, &running, arguments, false)?);
        running.stop();
    }
    Ok((ours, others))
}

/// Rows per request and callers, of a linear model and of a network.
pub(super) fn rows(bench: &Bench, table: &mut Table) -> Result<()> {
    let Some(models) = models(bench)? else { return Ok(()) };
    let row = IRIS.split("[[").nth(1).and_then(|rest| rest.split("]]").next()).context("a row")?;
    for (name, model, count, callers) in [
        ("one row through a Python worker, one caller", "worker", 1, 1),
        ("one row, 64 callers", "worker", 1, 64),
        ("1,000 rows, one caller", "worker", 1000, 1),
        ("one row through a network of three layers, 64 callers", "mlp", 1, 64),
    ] {
        let body = bench.folder.path().join("rows.json");
        std::fs::write(&body, IRIS.replace(row, &vec![row; count].join("], [")))?;
        let (body, callers) = (body.display().to_string(), callers.to_string());
        let arguments = ["-c", callers.as_str(), "--path", "/invocations", "--body", body.as_str()];
        let model = format!("{models}/{model}");
        let (ours, others) = beside_mlflow(bench, &model, "runtime: worker", &body, &arguments)?;
        let us = |cost: &Cost| cost.us;
        let p50 = |cost: &Cost| cost.load.p50_us as f64;
        for (what, value) in [("CPU per request", &us as &dyn Fn(&Cost) -> f64), ("p50", &p50)] {
            table.row(
                &format!("{name}: {what}"),
                format!("{:.0} us", of(&ours, value)),
                format!("`mlflow models serve` {:.0} us", of(&others, value)),
                ratio(&ours, &others, value),
            );
        }
    }
    Ok(())
}

/// Models that run in process.
pub(super) fn in_process(bench: &Bench, table: &mut Table) -> Result<()> {
    let Some(models) = models(bench)? else { return Ok(()) };
    for (name, what, runtime, callers) in [
        ("forest", "one row through a random forest of 100 trees", "native", "1"),
        ("forest", "the same, 16 callers", "native", "16"),
        ("forest-rows", "1,000 rows through the same forest", "native", "1"),
        ("linear", "one row through a scaler and a logistic regression", "native", "1"),
        ("linear", "the same, 16 callers", "native", "16"),
        ("text", "one text of 60 words through TF-IDF and a logistic regression", "native", "1"),
        ("text", "the same, 16 callers", "native", "16"),
        ("onnx", "one row through an ONNX network of 64 x 64", "onnx", "1"),
    ] {
        let (model, body) = (format!("{models}/{name}"), format!("{models}/{name}.json"));
        let arguments = ["-c", callers, "--path", "/invocations", "--body", body.as_str()];
        let (ours, others) = beside_mlflow(bench, &model, &format!("runtime: {runtime}"), &body, &arguments)?;
        let us = |cost: &Cost| cost.us;
        table.row(
            &format!("{what}: CPU per request"),
            format!("{:.1} us", of(&ours, us)),
            format!("`mlflow models serve` {:.0} us", of(&others, us)),
            ratio(&ours, &others, us),
        );
    }
    Ok(())
}

/// What one more worker costs: CPU from its start to its first answer, and memory that is its own.
pub(super) fn processes(bench: &Bench, table: &mut Table) -> Result<()> {
    let Some(models) = models(bench)? else { return Ok(()) };
    let (model, body) = (format!("{models}/worker"), format!("{models}/worker.json"));
    let mut seen = Vec::new();
    // Workers with several threads are spawned, all others forked from a zygote.
    for serving in ["runtime: worker", "runtime: worker, threads: 2"] {
        let running = gateway(bench, &model, serving, &body)?;
        let last = || tree(running.pid()).last().copied().context("a worker");
        let before = last()?;
        run(&mut command("kill", &["-KILL", &before.to_string()]))?;
        let deadline = Instant::now() + Duration::from_mins(1);
        while last().is_ok_and(|pid| pid == before || pid == running.pid()) {
            ensure!(Instant::now() < deadline, "the worker is not replaced");
            std::thread::sleep(Duration::from_millis(50));
        }
        wait(bench, &running, &body, "the new worker does not answer")?;
        let worker = last()?;
        seen.push((own_cpu_us(worker) as f64 / 1000.0, private_kib(worker) as f64 / 1024.0));
        running.stop();
    }
    let [(forked, forked_memory), (spawned, spawned_memory)] = seen[..] else { return Ok(()) };
    table.row(
        "one more worker, start to first answer: CPU",
        format!("{forked:.0} ms"),
        format!("without a zygote {spawned:.0} ms"),
        Some(forked / spawned),
    );
    table.row(
        "the same: memory of its own",
        format!("{forked_memory:.0} MB"),
        format!("without a zygote {spawned_memory:.0} MB"),
        Some(forked_memory / spawned_memory),
    );
    Ok(())
}
