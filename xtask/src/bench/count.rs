//! `cargo xtask count`: how many instructions a request takes, by function. CPU time wanders by a tenth from minute to
//! minute on a virtual machine; this is the same to a few in a thousand, so that a change shows whose gain is less.
//! What the kernel does is not counted, and neither are caches; valgrind hides the instructions that hash SHA-256.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::Bench;
use crate::shell::{cargo, command, ensure_apt, output, run, say, section};
use crate::test;

/// Requests before the counting begins, and while it goes on.
const WARM_UP: &str = "500";
const COUNTED: u32 = 3_000;
/// Longer than the slowest of them takes.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many functions are shown.
    #[arg(long, default_value_t = 40)]
    functions: usize,
}

pub(crate) fn count(arguments: &Arguments) -> Result<()> {
    ensure_apt("valgrind", "valgrind")?.context("nothing counts instructions")?;
    section("programs");
    let built = ["-p", "millgate", "-p", "millgate-testkit", "--bins"];
    run(&mut cargo(&[&["build", "--profile", "profiling"], &built[..]].concat()))?;
    let programs = test::target().join("profiling");
    section("a request with three limits, a budget, ledger and audit log");
    let mut bench = Bench::begin(&programs, &programs.join("millgate"), PATIENCE.as_secs_f64(), 1)?;
    bench.counts = Some(bench.folder.path().join("counts"));
    let counts = bench.folder.path().to_owned();
    let gateway = bench.company("")?;
    let load = |requests: &str| {
        let arguments = ["-c", "16", "--size", "1024", "-n", requests, "-d", "60"];
        bench.load(gateway.port, &arguments)
    };
    load(WARM_UP)?;
    let pid = gateway.pid().to_string();
    let switch = |to: &str| output(&mut command("callgrind_control", &["-i", to, &pid])).map(drop);
    switch("on")?;
    let answered = load(&COUNTED.to_string())?;
    // What the other threads write comes in groups.
    std::thread::sleep(Duration::from_secs(1));
    switch("off")?;
    gateway.end(PATIENCE);
    ensure!(answered.statuses.keys().all(|status| status == "200"), "not every answer is 200: {answered:?}");
    let per_request = |counted: u64| counted as f64 / answered.requests as f64;
    let mut threads = threads(&counts)?;
    threads.sort_by_key(|thread| std::cmp::Reverse(thread.total));
    for thread in threads.iter().filter(|thread| per_request(thread.total) > 10.0) {
        let first = thread.functions.first().map_or("", |(name, _)| name);
        say(&format!(
            "{:>10.0}  thread {}, most of all in {first}",
            per_request(thread.total),
            thread.number
        ));
    }
    let data = threads.first().context("no thread was counted")?;
    section("the data thread, by function");
    for (name, counted) in data.functions.iter().take(arguments.functions) {
        say(&format!("{:>10.0}  {name}", per_request(*counted)));
    }
    Ok(())
}

/// What one thread did.
struct Thread {
    number: String,
    total: u64,
    /// By function, those that are called not among it; the largest first.
    functions: Vec<(String, u64)>,
}

fn threads(folder: &Path) -> Result<Vec<Thread>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((_, number)) = name.split_once("counts-") {
            let functions = functions(&std::fs::read_to_string(&path)?);
            let total = functions.iter().map(|(_, counted)| counted).sum();
            found.push(Thread { number: number.to_owned(), total, functions });
        }
    }
    Ok(found)
}

/// Reads callgrind's output (<https://valgrind.org/docs/manual/cl-format.html>): a function is named with its number once,
/// and by the number alone from then on; the line behind `calls=` is what was called, not the function itself.
fn functions(text: &str) -> Vec<(String, u64)> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut counted: HashMap<&str, u64> = HashMap::new();
    let (mut function, mut is_call) = ("", false);
    for line in text.lines() {
        if let Some((_, name)) = line.split_once("fn=").filter(|(kind, _)| matches!(*kind, "" | "c")) {
            let (number, name) = name.split_once(' ').unwrap_or((name, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            if line.starts_with('f') {
                function = number;
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            if let (Some(cost), false) = (cost, is_call) {
                *counted.entry(function).or_default() += cost;
            }
            is_call = false;
        }
    }
    let name = |number: &str| names.get(number).map_or_else(|| number.to_owned(), |name| (*name).to_owned());
    let mut functions: Vec<_> = counted.iter().map(|(number, cost)| (name(number), *cost)).collect();
    functions.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_does_not_count_for_the_caller() {
        let text = "events: Ir\nfl=(1) a.rs\nfn=(1) main\n16 400\ncfn=(2) work\ncalls=1 50\n16 500\n+1 20\nfn=(2)\n51 100\n* 400\n";
        assert_eq!(functions(text), [("work".to_owned(), 500), ("main".to_owned(), 420)]);
    }
}
