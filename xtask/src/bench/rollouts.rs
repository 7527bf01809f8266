//! What changes cost while requests are served: promotions, and models that come and go by the hundred.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::cases::IRIS;
use super::measure::{median, rss_kib};
use super::table::Table;
use super::{Bench, Running};
use crate::shell::{command, root, run, say};

/// Models that come and go.
const MANY: usize = 1000;

/// A copy of the demo store with a second version of `iris`.
fn store(bench: &Bench) -> Result<PathBuf> {
    let folder = bench.folder.path().join("mlruns");
    if !folder.is_dir() {
        let from = root().join("crates/models/demo/store").display().to_string();
        run(&mut command("cp", &["-r", &from, &folder.display().to_string()]))?;
        let iris = folder.join("models/iris");
        std::fs::create_dir(iris.join("version-2"))?;
        let meta = std::fs::read_to_string(iris.join("version-1/meta.yaml"))?;
        std::fs::write(iris.join("version-2/meta.yaml"), meta.replace("\nversion: 1\n", "\nversion: 2\n"))?;
    }
    Ok(folder)
}

/// A configuration with `count` endpoints of the same model.
fn config(store: &Path, count: usize) -> String {
    let mut text = format!(
        "version: 1\nregistries: {{ default: {{ uri: \"{}\", poll_interval: 100ms }} }}\nserver: {{ threads: 1 }}\n\
         endpoints:\n  - {{ name: iris, type: predict, path: /invocations, route: \"models:/iris@champion\" }}\n",
        store.display()
    );
    for number in 1..count {
        text.push_str(&format!(
            "  - {{ name: iris-{number}, type: predict, route: \"models:/iris/1\", serving: {{ keep_previous: 0s }} }}\n"
        ));
    }
    text
}

fn gateway(bench: &Bench, text: &str) -> Result<(Running, PathBuf)> {
    let file = bench.folder.path().join("rollouts.yaml");
    std::fs::write(&file, text)?;
    let name = file.display().to_string();
    Ok((bench.program(&["start", "--config-path", &name], "/livez")?, file))
}

fn ask(bench: &Bench, gateway: &Running, more: &[&str]) -> Result<super::Load> {
    let body = bench.folder.path().join("iris.json");
    std::fs::write(&body, IRIS)?;
    let body = body.display().to_string();
    bench.load(gateway.port, &[&["--path", "/invocations", "--body", body.as_str()], more].concat())
}

fn ready(bench: &Bench, gateway: &Running) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while ask(bench, gateway, &["-c", "1", "-n", "1"])?.statuses.keys().any(|status| status != "200") {
        ensure!(Instant::now() < deadline, "the model does not load");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// p99 in the second of a switch beside that of the second before it, at a fixed rate.
pub(super) fn promotion(bench: &Bench, table: &mut Table) -> Result<()> {
    let store = store(bench)?;
    let alias = store.join("models/iris/aliases/champion");
    std::fs::write(&alias, "1")?;
    let (gateway, _) = gateway(bench, &config(&store, 1))?;
    ready(bench, &gateway)?;
    let second = ["-c", "16", "--rate", "1000", "-n", "1000"];
    ask(bench, &gateway, &second)?;
    let (mut before, mut during, mut failed) = (Vec::new(), Vec::new(), 0);
    for round in 0..bench.rounds.max(1) * 10 {
        before.push(ask(bench, &gateway, &second)?.p99_us as f64);
        // The poll comes within 100 ms, in the middle of the second.
        let alias = alias.clone();
        let version = if round % 2 == 0 { "2" } else { "1" };
        let mover = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(400));
            std::fs::write(alias, version)
        });
        let load = ask(bench, &gateway, &second)?;
        during.push(load.p99_us as f64);
        failed +=
            load.errors + load.statuses.iter().filter(|(s, _)| *s != "200").map(|(_, n)| n).sum::<u64>();
        let _moved = mover.join();
    }
    gateway.stop();
    let ratio = median(before.iter().zip(&during).map(|(before, during)| during / before).collect());
    let count = during.len();
    table.row(
        &format!("promotion at 1,000 requests/s, {count} times, {failed} failed: p99 in its second"),
        format!("{:.0} us", median(during)),
        format!("the second before {:.0} us", median(before)),
        Some(ratio),
    );
    Ok(())
}

/// Memory before and after a thousand models were served and taken away again.
pub(super) fn many(bench: &Bench, table: &mut Table) -> Result<()> {
    let store = store(bench)?;
    std::fs::write(store.join("models/iris/aliases/champion"), "1")?;
    let (gateway, file) = gateway(bench, &config(&store, 1))?;
    ready(bench, &gateway)?;
    let memory = || rss_kib(gateway.pid()) as f64 / 1024.0;
    let live = |count: usize| -> Result<()> {
        let deadline = Instant::now() + Duration::from_mins(5);
        loop {
            let text = super::measure::get(gateway.port, "/readyz").unwrap_or_default();
            if text.matches("\"state\":\"LIVE\"").count() == count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{count} models are not live");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let (mut few, mut full) = (Vec::new(), Vec::new());
    for round in 0..5 {
        for (count, seen) in [(MANY, &mut full), (1, &mut few)] {
            std::fs::write(&file, config(&store, count))?;
            live(count)?;
            // The allocator gives pages back after a while, and only while there is something to do.
            let mut least = f64::INFINITY;
            for _ in 0..4 {
                std::thread::sleep(Duration::from_secs(1));
                ask(bench, &gateway, &["-c", "16", "-n", "1000"])?;
                least = memory().min(least);
            }
            seen.push(least);
            say(&format!("  round {round}: {count} models, {least:.1} MB"));
        }
    }
    gateway.stop();
    // The first round pays for what stays: thread stacks, the allocator's own tables.
    let (first, later) = (few[0], median(few.split_off(1)));
    table.row(
        "memory after 1,000 native models came and went, second to fifth time",
        format!("{later:.1} MB"),
        format!("the first time {first:.1} MB; with them {:.1} MB", median(full)),
        Some(later / first),
    );
    Ok(())
}
