//! The gateway with everything on that a company turns on.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::cases::{added, beside_nginx, cpu_row};
use super::measure::{cpu_of, median, rss_kib};
use super::table::Table;
use super::{Bench, Load, Running, redis};
use crate::shell::{command, ensure_apt, output, say};

/// Keys that are issued beside the one that calls.
const KEYS: usize = 100_000;

const ARGUMENTS: &[&str] = &["-c", "32", "--size", "1024", "--rate", "5000"];

pub(super) fn all(bench: &Bench, table: &mut Table) -> Result<()> {
    let name =
        "three limits, a budget, ledger and audit log, 1 KB at 5,000 requests per second: CPU per request";
    let costs = beside_nginx(bench, &|| bench.company(""), [ARGUMENTS; 2], false)?;
    cpu_row(table, name, &costs, 1);
    Ok(())
}

/// Limits and budgets are counted in Redis.
pub(super) fn shared(bench: &Bench, table: &mut Table) -> Result<()> {
    if ensure_apt("redis-server", "redis-server")?.is_none() {
        say("no redis-server: left out");
        return Ok(());
    }
    let (mut server, more) = redis()?;
    let name = "the same with its limits and budget in Redis: CPU per request";
    let measured = beside_nginx(bench, &|| bench.company(&more), [ARGUMENTS; 2], false);
    server.stop();
    cpu_row(table, name, &measured?, 1);
    Ok(())
}

pub(super) fn latency(bench: &Bench, table: &mut Table) -> Result<()> {
    added(bench, table, "the same at 500 requests per second", &|| bench.company(""))
}

/// Very many requests: whether each has its row in the ledger and its record in the audit log, and what they wait for that.
pub(super) fn records(bench: &Bench, table: &mut Table) -> Result<()> {
    const RATE: &str = "20000";
    let arguments = ["-c", "64", "--size", "1024", "--rate", RATE];
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let before = written(bench).unwrap_or_default();
        let gateway = bench.company("")?;
        let load = bench.load(gateway.port, &arguments)?;
        gateway.stop();
        let after = written(bench)?;
        let [rows, records] = [after[0] - before[0], after[1] - before[1]];
        let answered = load.statuses.get("200").copied().unwrap_or(0);
        // The load generator stops in the middle of some.
        ensure!(
            rows >= answered && records >= answered,
            "{answered} answers, {rows} rows, {records} records"
        );
        ours.push(load);
        let gateway = bench.gateway()?;
        plain.push(bench.load(gateway.port, &arguments)?);
        gateway.stop();
    }
    let of = |loads: &[Load], see: fn(&Load) -> f64| median(loads.iter().map(see).collect());
    table.row(
        &format!("{RATE} requests per second with ledger and audit log, each written: answered per second"),
        format!("{:.0}", of(&ours, |load| load.rps)),
        format!("without the two {:.0}", of(&plain, |load| load.rps)),
        Some(of(&ours, |load| load.rps) / of(&plain, |load| load.rps)),
    );
    for (which, see) in
        [("p50", (|load| load.p50_us as f64) as fn(&Load) -> f64), ("p99", |load| load.p99_us as f64)]
    {
        let (ours, plain) = (of(&ours, see), of(&plain, see));
        table.row(
            &format!("the same: {which}"),
            format!("{ours:.0} us"),
            format!("without the two {plain:.0} us"),
            Some(ours / plain),
        );
    }
    Ok(())
}

/// Rows of the ledger, and records of calls in the audit log.
fn written(bench: &Bench) -> Result<[u64; 2]> {
    let count = "import sqlite3,sys,glob
rows=sqlite3.connect(sys.argv[1]+'/millgate.db').execute('SELECT COUNT(*) FROM ledger').fetchone()[0]
print(rows, sum(b'\"kind\":\"call\"' in l for f in glob.glob(sys.argv[1]+'/audit/*.jsonl') for l in open(f,'rb')))";
    let data = bench.folder.path().join("data").display().to_string();
    let text = output(&mut command("python3", &["-c", count, &data]))?;
    let mut counts = text.split_whitespace().map(str::parse);
    let mut next = || counts.next().context("two numbers")?.context("a number");
    Ok([next()?, next()?])
}

/// A hundred thousand issued keys: what they weigh, and what looking one up among them costs.
pub(super) fn keys(bench: &Bench, table: &mut Table) -> Result<()> {
    let gateway = bench.company("")?;
    let url = format!("http://127.0.0.1:{}", gateway.port);
    let made = Command::new(&bench.millgate)
        .args(["keys", "create", "caller"])
        .env("MILLGATE_URL", &url)
        .env("MILLGATE_ADMIN_KEY", "mg-bench-0123456789")
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let arguments = ["-c", "32", "--size", "1024", "--rate", "4000"];
    let look = |gateway: &Running| -> Result<(f64, f64)> {
        bench.load_as(gateway.port, &key, &["-c", "32", "-n", "300"])?;
        let mut costs = Vec::new();
        for _ in 0..bench.rounds {
            let (load, cpu) = cpu_of(gateway.pid(), || bench.load_as(gateway.port, &key, &arguments))?;
            ensure!(load.statuses.contains_key("200"), "nothing was answered: {load:?}");
            costs.push(cpu as f64 / load.requests as f64);
        }
        Ok((rss_kib(gateway.pid()) as f64 / 1024.0, median(costs)))
    };
    let (few, one) = look(&gateway)?;
    gateway.stop();
    // As the gateway writes them; nobody has what they stand for.
    let fill = format!(
        "import sqlite3,secrets,sys,time,json
db=sqlite3.connect(sys.argv[1]); now=int(time.time()*1000)
keys=[(secrets.token_urlsafe(9),n) for n in range({KEYS})]
db.executemany('INSERT INTO keys (id,name,prefix,roles,scope,tags,created_by,created_ms,updated_ms,owner) VALUES (?,?,?,?,?,?,?,?,?,?)',
  [(i,f'app-{{n}}','mgk-'+i[:6],'[\"invoke\"]','{{\"endpoints\":[],\"targets\":[],\"deny\":[]}}','{{}}','bench',now,now,json.dumps({{'user':f'user-{{n}}','team':f'team-{{n%100}}'}})) for i,n in keys])
db.executemany('INSERT INTO key_secrets (hash,key_id) VALUES (?,?)', [(secrets.token_hex(32),i) for i,_ in keys])
db.commit()"
    );
    let data = bench.folder.path().join("data/millgate.db");
    let filled = Command::new("python3").args(["-c", &fill]).arg(&data).status()?;
    ensure!(filled.success(), "the keys could not be written");
    let gateway = bench.company("")?;
    let (many, other) = look(&gateway)?;
    gateway.stop();
    // What comes next begins as a new user does.
    std::fs::remove_dir_all(bench.folder.path().join("data"))?;
    table.row(
        "100,000 issued keys: memory above that with one",
        format!("{:.1} MB", many - few),
        format!("with one {few:.1} MB"),
        Some(many / few),
    );
    table.row(
        "the same: CPU per request with one of them",
        format!("{other:.1} us"),
        format!("with one {one:.1} us"),
        Some(other / one),
    );
    Ok(())
}
