//! The work by which the program is optimised: what most gateways do most of the time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cases::{IRIS, messages};
use super::{Bench, Running, redis};
use crate::shell::{has, say};

/// How long a program that writes down what it counted may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Puts a program to work; what it counts goes to `profiles`. Without that it is a rehearsal, of a tenth of the length.
pub(crate) fn train(programs: &Path, millgate: &Path, profiles: Option<&Path>) -> Result<()> {
    let seconds = if profiles.is_some() { 4.0 } else { 0.4 };
    let mut bench = Bench::begin(programs, millgate, seconds, 1)?;
    bench.profiles = profiles.map(Path::to_owned);
    let gateway = bench.company("")?;
    work(&bench, &gateway, &["-c", "32", "--size", "1024", "--rate", "3000"])?;
    work(&bench, &gateway, &["-c", "32", "--size", "1024"])?;
    gateway.end(PATIENCE);
    if has("redis-server") {
        let (server, shared) = redis()?;
        let gateway = bench.company(&shared)?;
        work(&bench, &gateway, &["-c", "32", "--size", "1024", "--rate", "2000"])?;
        gateway.end(PATIENCE);
        drop(server);
    }
    let gateway = bench.gateway()?;
    work(&bench, &gateway, &["-c", "32", "--size", "51200"])?;
    work(&bench, &gateway, &["-c", "32", "--stream", "--model", "chunks"])?;
    for (model, streams) in [("ok", false), ("chunks", true)] {
        let body = messages(&bench, model, streams)?;
        work(&bench, &gateway, &["-c", "32", "--path", "/v1/messages", "--body", &body])?;
    }
    gateway.end(PATIENCE);
    let body = bench.folder.path().join("iris.json");
    std::fs::write(&body, IRIS)?;
    let body = body.display().to_string();
    let demo = bench.program(&["demo"], "/readyz")?;
    let row = ["--path", "/predict/iris", "--body", body.as_str()];
    bench.until_answered(&demo, &row)?;
    work(&bench, &demo, &[&["-c", "16"], &row[..]].concat())?;
    demo.end(PATIENCE);
    Ok(())
}

fn work(bench: &Bench, gateway: &Running, arguments: &[&str]) -> Result<()> {
    let load = bench.load(gateway.port, arguments).with_context(|| format!("{arguments:?}"))?;
    let fine = load.requests > 0 && load.statuses.keys().all(|status| status == "200");
    ensure!(fine, "{arguments:?}: not every answer is 200: {load:?}");
    say(&format!("  {} answers: {}", load.requests, arguments.join(" ")));
    Ok(())
}
