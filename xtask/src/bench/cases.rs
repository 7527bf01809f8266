//! What is measured.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::measure::{cpu_of, median, rss_kib};
use super::table::Table;
use super::{Bench, Load, Running};
use crate::shell::say;

type Case = fn(&Bench, &mut Table) -> Result<()>;

/// Every case, in the page's order.
pub(super) const CASES: &[(&str, Case)] = &[
    ("chat 1 KB", chat_small),
    ("company", super::company::all),
    ("company with Redis", super::company::shared),
    ("company latency", super::company::latency),
    ("company records", super::company::records),
    ("many keys", super::company::keys),
    ("chat 50 KB", chat_large),
    ("stream", stream),
    ("translate", translate),
    ("latency", latency),
    ("memory", memory),
    ("start", start),
    ("native model", native),
    ("python model", super::workers::rows),
    ("python worker", super::workers::processes),
    ("in process", super::workers::in_process),
    ("promotion", super::rollouts::promotion),
    ("many models", super::rollouts::many),
    ("environment", super::environment::warm),
];

/// CPU per unit of work of one run.
pub(super) struct Cost {
    pub(super) us: f64,
    pub(super) load: Load,
}

pub(super) fn cost(bench: &Bench, proxy: &Running, arguments: &[&str], chunks: bool) -> Result<Cost> {
    // Connections, caches and branch predictors are warm before it counts.
    bench.load(proxy.port, &[arguments, &["-n", "300"]].concat())?;
    let (load, cpu) = cpu_of(proxy.pid(), || bench.load(proxy.port, arguments))?;
    let units = if chunks { load.chunks } else { load.requests };
    ensure!(units > 0, "nothing was answered: {load:?}");
    if load.statuses.len() > 1 || load.requests > load.statuses.values().sum() {
        say(&format!("  note: not every answer is the same: {load:?}"));
    }
    Ok(Cost { us: cpu as f64 / units as f64, load })
}

/// A machine that others share is not as fast in one second as in the next, and where a process finds its memory makes a
/// difference for as long as it lives: what is compared is measured in short turns, and begun anew in each round.
const TURNS: usize = 4;

/// The gateway and nginx, both there and asked in turns. In each round they are started anew.
fn in_turns(
    bench: &Bench,
    start: &dyn Fn() -> Result<Running>,
    turn: &mut dyn FnMut(&Running, Option<&Running>) -> Result<()>,
) -> Result<()> {
    for _ in 0..bench.rounds {
        let gateway = start()?;
        let nginx = bench.nginx.then(|| bench.nginx()).transpose()?;
        for _ in 0..TURNS {
            turn(&gateway, nginx.as_ref())?;
        }
        gateway.stop();
        if let Some(nginx) = nginx {
            nginx.stop();
        }
    }
    Ok(())
}

/// What the gateway and nginx cost, turn by turn.
pub(super) fn beside_nginx(
    bench: &Bench,
    start: &dyn Fn() -> Result<Running>,
    [ours, others]: [&[&str]; 2],
    chunks: bool,
) -> Result<[Vec<Cost>; 2]> {
    let seconds = (bench.seconds / TURNS as f64).to_string();
    let look = |proxy: &Running, arguments: &[&str]| {
        cost(bench, proxy, &[arguments, &["-d", &seconds]].concat(), chunks)
    };
    let mut costs = [Vec::new(), Vec::new()];
    in_turns(bench, start, &mut |gateway, nginx| {
        costs[0].push(look(gateway, ours)?);
        if let Some(nginx) = nginx {
            costs[1].push(look(nginx, others)?);
        }
        Ok(())
    })?;
    Ok(costs)
}

/// A row of CPU time.
pub(super) fn cpu_row(table: &mut Table, name: &str, [ours, others]: &[Vec<Cost>; 2], digits: usize) {
    let us = |cost: &Cost| cost.us;
    table.row(
        name,
        format!("{:.digits$} us", of(ours, us)),
        format!("nginx {:.digits$} us", of(others, us)),
        ratio(ours, others, us),
    );
}

pub(super) fn of(costs: &[Cost], value: impl Fn(&Cost) -> f64) -> f64 {
    median(costs.iter().map(value).collect())
}

pub(super) fn ratio(ours: &[Cost], others: &[Cost], value: impl Fn(&Cost) -> f64) -> Option<f64> {
    let ratios: Vec<f64> = ours.iter().zip(others).map(|(our, other)| value(our) / value(other)).collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

fn chat(bench: &Bench, table: &mut Table, name: &str, arguments: &[&str]) -> Result<()> {
    let costs = beside_nginx(bench, &|| bench.gateway(), [arguments; 2], false)?;
    cpu_row(table, &format!("{name}: CPU per request"), &costs, 1);
    let rps = |cost: &Cost| cost.load.rps;
    let [ours, others] = &costs;
    table.row(
        &format!("{name}: requests per second on one core"),
        format!("{:.0}", of(ours, rps)),
        format!("nginx {:.0}", of(others, rps)),
        ratio(ours, others, rps),
    );
    Ok(())
}

fn chat_small(bench: &Bench, table: &mut Table) -> Result<()> {
    chat(bench, table, "1 KB chat, 32 connections", &["-c", "32", "--size", "1024"])
}

fn chat_large(bench: &Bench, table: &mut Table) -> Result<()> {
    chat(bench, table, "50 KB prompt, 32 connections", &["-c", "32", "--size", "51200"])
}

fn stream(bench: &Bench, table: &mut Table) -> Result<()> {
    // The gateway's endpoint and the provider's model: nginx passes the name on.
    let arguments = ["chunks", "chunks-100-0ms"].map(|model| ["-c", "32", "--stream", "--model", model]);
    let [ours, others] = &arguments;
    let costs = beside_nginx(bench, &|| bench.gateway(), [ours, others], true)?;
    cpu_row(table, "streams of 100 chunks, 32 connections: CPU per chunk", &costs, 2);
    Ok(())
}

/// A file with a request in Anthropic's dialect, about 1 KB.
pub(super) fn messages(bench: &Bench, model: &str, streams: bool) -> Result<String> {
    let mut body = format!(
        "{{\"model\":\"{model}\",\"max_tokens\":256,\"stream\":{streams},\"system\":\"Be brief.\",\
         \"temperature\":0.5,\"messages\":[{{\"role\":\"user\",\"content\":\""
    );
    body.push_str(&"The quick brown fox jumps over the lazy dog. ".repeat(19));
    body.push_str("\"}]}");
    let file = bench.folder.path().join(format!("messages-{model}.json"));
    std::fs::write(&file, body)?;
    Ok(file.display().to_string())
}

/// Anthropic's callers before an OpenAI provider, beside nginx that passes the provider's own chat on.
fn translate(bench: &Bench, table: &mut Table) -> Result<()> {
    for (name, model, plain, streams) in [
        ("Anthropic caller, OpenAI provider, 1 KB: CPU per request", "ok", "ok", false),
        ("the same streamed, 100 chunks: CPU per chunk", "chunks", "chunks-100-0ms", true),
    ] {
        let file = messages(bench, model, streams)?;
        let translated = ["-c", "32", "--path", "/v1/messages", "--body", file.as_str()];
        let passed: &[&str] =
            if streams { &["-c", "32", "--stream", "--model", plain] } else { &["-c", "32"] };
        let costs = beside_nginx(bench, &|| bench.gateway(), [&translated, passed], streams)?;
        cpu_row(table, name, &costs, if streams { 2 } else { 1 });
    }
    Ok(())
}

fn latency(bench: &Bench, table: &mut Table) -> Result<()> {
    added(bench, table, "500 requests per second", &|| bench.gateway())
}

/// An open loop at a fixed rate; what the way adds to asking the provider directly.
pub(super) fn added(
    bench: &Bench,
    table: &mut Table,
    name: &str,
    start: &dyn Fn() -> Result<Running>,
) -> Result<()> {
    let seconds = (bench.seconds / 2.0).to_string();
    let arguments = ["-c", "16", "--rate", "500", "--size", "1024", "-d", &seconds];
    let mut seen: [Vec<f64>; 4] = Default::default();
    in_turns(bench, start, &mut |gateway, nginx| {
        let direct = bench.load(bench.upstream, &arguments)?;
        let mut look = |proxy: &Running, at: usize| -> Result<()> {
            let load = bench.load(proxy.port, &arguments)?;
            seen[at].push(load.p50_us as f64 - direct.p50_us as f64);
            seen[at + 1].push(load.p99_us as f64 - direct.p99_us as f64);
            Ok(())
        };
        look(gateway, 0)?;
        nginx.map_or(Ok(()), |nginx| look(nginx, 2))
    })?;
    let [p50, p99, nginx50, nginx99] = seen.map(median);
    for (which, ours, other) in [("p50", p50, nginx50), ("p99", p99, nginx99)] {
        table.row(
            &format!("{name}: added {which}"),
            format!("{ours:.0} us"),
            format!("nginx {other:.0} us"),
            Some(ours / other).filter(|ratio| ratio.is_finite()),
        );
    }
    Ok(())
}

fn memory(bench: &Bench, table: &mut Table) -> Result<()> {
    const STREAMS: usize = 1000;
    let look = |proxy: &Running, model: &str| -> Result<(f64, f64)> {
        std::thread::sleep(Duration::from_millis(300));
        let idle = rss_kib(proxy.pid()) as f64 / 1024.0;
        let full = bench.hold(proxy.port, STREAMS, model, || rss_kib(proxy.pid()))? as f64 / 1024.0;
        Ok((idle, full - idle))
    };
    let gateway = bench.gateway()?;
    let (idle, streams) = look(&gateway, "open")?;
    gateway.stop();
    let (other_idle, other_streams) = if bench.nginx {
        let nginx = bench.nginx()?;
        let seen = look(&nginx, "chunks-60-1000ms")?;
        nginx.stop();
        seen
    } else {
        (f64::NAN, f64::NAN)
    };
    table.row(
        "memory at rest",
        format!("{idle:.1} MB"),
        format!("nginx {other_idle:.1} MB"),
        Some(idle / other_idle),
    );
    table.row(
        "memory of 1,000 open streams, above that at rest",
        format!("{streams:.1} MB"),
        format!("nginx {other_streams:.1} MB"),
        Some(streams / other_streams),
    );
    Ok(())
}

fn start(bench: &Bench, table: &mut Table) -> Result<()> {
    let time = |start: &dyn Fn() -> Result<Running>| -> Result<f64> {
        let mut seen = Vec::new();
        for _ in 0..5 {
            let began = Instant::now();
            let running = start()?;
            seen.push(began.elapsed().as_secs_f64() * 1000.0);
            running.stop();
        }
        Ok(median(seen))
    };
    let ours = time(&|| bench.gateway())?;
    let other = if bench.nginx { time(&|| bench.nginx())? } else { f64::NAN };
    table.row(
        "start to first answer",
        format!("{ours:.0} ms"),
        format!("nginx {other:.0} ms"),
        Some(ours / other).filter(|ratio| ratio.is_finite()),
    );
    Ok(())
}

pub(super) const IRIS: &str = r#"{"dataframe_split": {"columns": ["sepal_length", "sepal_width", "petal_length", "petal_width"], "data": [[5.1, 3.5, 1.4, 0.2]]}}"#;

/// The bundled model in our process, beside the same request stopped by its check.
fn native(bench: &Bench, table: &mut Table) -> Result<()> {
    let good = bench.folder.path().join("good.json");
    let bad = bench.folder.path().join("bad.json");
    std::fs::write(&good, IRIS)?;
    std::fs::write(&bad, IRIS.replace("0.2]", "\"x\"]"))?;
    let (mut predicted, mut refused) = (Vec::new(), Vec::new());
    let demo = bench.program(&["demo"], "/readyz")?;
    bench.until_answered(&demo, &["--path", "/predict/iris", "--body", &good.display().to_string()])?;
    for _ in 0..bench.rounds {
        for (body, seen) in [(&good, &mut predicted), (&bad, &mut refused)] {
            let body = body.display().to_string();
            let arguments = ["-c", "32", "--path", "/predict/iris", "--body", body.as_str()];
            let cost = cost(bench, &demo, &arguments, false)?;
            let expected = if body.ends_with("bad.json") { "400" } else { "200" };
            ensure!(cost.load.statuses.contains_key(expected), "not {expected}: {:?}", cost.load);
            seen.push(cost);
        }
    }
    demo.stop();
    let us = |cost: &Cost| cost.us;
    table.row(
        "one row through the native XGBoost model: CPU per request",
        format!("{:.1} us", of(&predicted, us)),
        format!("refused by the schema check {:.1} us", of(&refused, us)),
        ratio(&predicted, &refused, us),
    );
    Ok(())
}
