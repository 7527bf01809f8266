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

/// The gateway and nginx in turn; medians of each and of the rounds' ratios.
fn beside_nginx(bench: &Bench, arguments: &[&str], chunks: bool) -> Result<(Vec<Cost>, Vec<Cost>)> {
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let gateway = bench.gateway()?;
        ours.push(cost(bench, &gateway, arguments, chunks)?);
        gateway.stop();
        if bench.nginx {
            let nginx = bench.nginx()?;
            others.push(cost(bench, &nginx, arguments, chunks)?);
            nginx.stop();
        }
    }
    Ok((ours, others))
}

pub(super) fn of(costs: &[Cost], value: impl Fn(&Cost) -> f64) -> f64 {
    median(costs.iter().map(value).collect())
}

pub(super) fn ratio(ours: &[Cost], others: &[Cost], value: impl Fn(&Cost) -> f64) -> Option<f64> {
    let ratios: Vec<f64> = ours.iter().zip(others).map(|(our, other)| value(our) / value(other)).collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

fn chat(bench: &Bench, table: &mut Table, name: &str, arguments: &[&str]) -> Result<()> {
    let (ours, others) = beside_nginx(bench, arguments, false)?;
    let us = |cost: &Cost| cost.us;
    let rps = |cost: &Cost| cost.load.rps;
    table.row(
        &format!("{name}: CPU per request"),
        format!("{:.1} us", of(&ours, us)),
        format!("nginx {:.1} us", of(&others, us)),
        ratio(&ours, &others, us),
    );
    table.row(
        &format!("{name}: requests per second on one core"),
        format!("{:.0}", of(&ours, rps)),
        format!("nginx {:.0}", of(&others, rps)),
        ratio(&ours, &others, rps),
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
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let gateway = bench.gateway()?;
        ours.push(cost(bench, &gateway, &["-c", "32", "--stream", "--model", "chunks"], true)?);
        gateway.stop();
        if bench.nginx {
            let nginx = bench.nginx()?;
            others.push(cost(bench, &nginx, &["-c", "32", "--stream", "--model", "chunks-100-0ms"], true)?);
            nginx.stop();
        }
    }
    let us = |cost: &Cost| cost.us;
    table.row(
        "streams of 100 chunks, 32 connections: CPU per chunk",
        format!("{:.2} us", of(&ours, us)),
        format!("nginx {:.2} us", of(&others, us)),
        ratio(&ours, &others, us),
    );
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
    let us = |cost: &Cost| cost.us;
    for (name, model, plain, streams) in [
        ("Anthropic caller, OpenAI provider, 1 KB: CPU per request", "ok", "ok", false),
        ("the same streamed, 100 chunks: CPU per chunk", "chunks", "chunks-100-0ms", true),
    ] {
        let file = messages(bench, model, streams)?;
        let translated = ["-c", "32", "--path", "/v1/messages", "--body", file.as_str()];
        let passed: &[&str] =
            if streams { &["-c", "32", "--stream", "--model", plain] } else { &["-c", "32"] };
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            let gateway = bench.gateway()?;
            ours.push(cost(bench, &gateway, &translated, streams)?);
            gateway.stop();
            if bench.nginx {
                let nginx = bench.nginx()?;
                others.push(cost(bench, &nginx, passed, streams)?);
                nginx.stop();
            }
        }
        let digits = if streams { 2 } else { 1 };
        table.row(
            name,
            format!("{:.digits$} us", of(&ours, us)),
            format!("nginx {:.digits$} us", of(&others, us)),
            ratio(&ours, &others, us),
        );
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
    let arguments = ["-c", "16", "--rate", "500", "--size", "1024"];
    let mut seen: [Vec<f64>; 4] = Default::default();
    for _ in 0..bench.rounds {
        let direct = bench.load(bench.upstream, &arguments)?;
        let added = |load: &Load| {
            [load.p50_us as f64 - direct.p50_us as f64, load.p99_us as f64 - direct.p99_us as f64]
        };
        let gateway = start()?;
        let [p50, p99] = added(&bench.load(gateway.port, &arguments)?);
        gateway.stop();
        seen[0].push(p50);
        seen[1].push(p99);
        if bench.nginx {
            let nginx = bench.nginx()?;
            let [p50, p99] = added(&bench.load(nginx.port, &arguments)?);
            nginx.stop();
            seen[2].push(p50);
            seen[3].push(p99);
        }
    }
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
