//! `cargo xtask count`: how many instructions a request takes, and how often it waits for code or data that are not in the
//! first cache, by function. CPU time wanders by a tenth from minute to minute on a virtual machine; this is the same to a
//! few in a thousand, so that a change shows whose gain is less. What the kernel does is not counted, nor what it throws out
//! of the caches; valgrind hides the instructions that hash SHA-256.

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

/// How valgrind is called: each thread by itself, from when it is told to, with caches as most servers have them.
pub(super) const CALLGRIND: &[&str] = &[
    "--tool=callgrind",
    "--instr-atstart=no",
    "--separate-threads=yes",
    "--cache-sim=yes",
    "--I1=32768,8,64",
    "--D1=32768,8,64",
    "--LL=1048576,16,64",
];

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many functions are shown.
    #[arg(long, default_value_t = 40)]
    functions: usize,
    /// Count this program, not one that is built now.
    #[arg(long)]
    program: Option<PathBuf>,
}

pub(crate) fn count(arguments: &Arguments) -> Result<()> {
    ensure_apt("valgrind", "valgrind")?.context("nothing counts instructions")?;
    section("programs");
    let gateway: &[&str] = if arguments.program.is_none() { &["-p", "millgate"] } else { &[] };
    let built = ["build", "--profile", "profiling", "-p", "millgate-testkit", "--bins"];
    run(&mut cargo(&[&built, gateway].concat()))?;
    let programs = test::target().join("profiling");
    let program = arguments.program.clone().unwrap_or_else(|| programs.join("millgate"));
    section("a request with three limits, a budget, ledger and audit log");
    let mut bench = Bench::begin(&programs, &program, PATIENCE.as_secs_f64(), 1)?;
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
    let show = |cost: &Cost, what: &str| {
        let Cost { instructions, code, data } = *cost;
        let [instructions, code, data] = [instructions, code, data].map(per_request);
        say(&format!("{instructions:>13.0} {code:>9.1} {data:>9.1}  {what}"));
    };
    let mut threads = threads(&counts)?;
    threads.sort_by_key(|thread| std::cmp::Reverse(thread.total.instructions));
    say(" instructions     code  and data that were not in the first cache");
    for thread in threads.iter().filter(|thread| per_request(thread.total.instructions) > 10.0) {
        let first = thread.functions.first().map_or("", |(name, _)| name);
        show(&thread.total, &format!("thread {}, most of all in {first}", thread.number));
    }
    let data = threads.first().context("no thread was counted")?;
    section("the data thread, by function");
    for (name, cost) in data.functions.iter().take(arguments.functions) {
        show(cost, name);
    }
    Ok(())
}

/// What something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    instructions: u64,
    /// Pieces of code (64 bytes) that were not in the first cache.
    code: u64,
    /// The same of data, read or written.
    data: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.code += other.code;
        self.data += other.data;
    }
}

/// What one thread did.
struct Thread {
    number: String,
    total: Cost,
    /// By function, those that are called not among it; the largest first.
    functions: Vec<(String, Cost)>,
}

fn threads(folder: &Path) -> Result<Vec<Thread>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((_, number)) = name.split_once("counts-") {
            let functions = functions(&std::fs::read_to_string(&path)?);
            let mut total = Cost::default();
            for (_, cost) in &functions {
                total += *cost;
            }
            found.push(Thread { number: number.to_owned(), total, functions });
        }
    }
    Ok(found)
}

/// Reads callgrind's output (<https://valgrind.org/docs/manual/cl-format.html>): a function is named with its number once,
/// and by the number alone from then on; the line behind `calls=` is what was called, not the function itself. What each
/// number of a line counts is said by `events:`; zeros at the end are left out.
fn functions(text: &str) -> Vec<(String, Cost)> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut counted: HashMap<&str, Cost> = HashMap::new();
    let mut events: Vec<&str> = Vec::new();
    let (mut function, mut is_call) = ("", false);
    for line in text.lines() {
        if let Some(named) = line.strip_prefix("events:") {
            events = named.split_whitespace().collect();
        } else if let Some((_, name)) = line.split_once("fn=").filter(|(kind, _)| matches!(*kind, "" | "c")) {
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
            if !is_call {
                *counted.entry(function).or_default() += cost(line, &events);
            }
            is_call = false;
        }
    }
    let name = |number: &str| names.get(number).map_or_else(|| number.to_owned(), |name| (*name).to_owned());
    let mut functions: Vec<_> = counted.iter().map(|(number, cost)| (name(number), *cost)).collect();
    functions.sort_by(|one, other| {
        other.1.instructions.cmp(&one.1.instructions).then_with(|| one.0.cmp(&other.0))
    });
    functions
}

/// A line's numbers; the first one says where it stands in the source.
fn cost(line: &str, events: &[&str]) -> Cost {
    let mut cost = Cost::default();
    for (event, number) in events.iter().zip(line.split_whitespace().skip(1)) {
        let number = number.parse::<u64>().unwrap_or(0);
        match *event {
            "Ir" => cost.instructions += number,
            "I1mr" => cost.code += number,
            "D1mr" | "D1mw" => cost.data += number,
            _ => {}
        }
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_does_not_count_for_the_caller() {
        let text = "events: Ir Dr I1mr D1mr D1mw\nfl=(1) a.rs\nfn=(1) main\n16 400 7 3\ncfn=(2) work\ncalls=1 50\n16 500\n+1 20 9 0 4 5\nfn=(2)\n51 100\n* 400\n";
        let work = Cost { instructions: 500, code: 0, data: 0 };
        let main = Cost { instructions: 420, code: 3, data: 9 };
        assert_eq!(functions(text), [("work".to_owned(), work), ("main".to_owned(), main)]);
    }
}
