//! `cargo xtask bench`: what it costs to stand in the way. Everything is measured beside nginx as a plain
//! reverse proxy, on the same machine, seconds apart; only the ratios travel. Nothing is asserted.

mod cases;
mod company;
mod count;
mod environment;
mod measure;
mod rollouts;
mod table;
mod train;
mod workers;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::shell::{Process, command, ensure_apt, has, output, root, say, section};
use crate::{dist, python, test};

pub(crate) use count::{Arguments as Count, count};
pub(crate) use train::train;

#[derive(Args)]
pub(crate) struct Arguments {
    /// One short round, without the Python models; nothing is written.
    #[arg(long)]
    quick: bool,
    /// Seconds of one measurement.
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds; the median counts.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only the cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Use the programs that are there, whatever they were built from.
    #[arg(long)]
    no_build: bool,
}

/// Where everything is and how long it is looked at.
pub(super) struct Bench {
    /// Programs that are not measured.
    programs: PathBuf,
    /// The one that is.
    millgate: PathBuf,
    /// Where it writes down what it counts, if it does.
    profiles: Option<PathBuf>,
    /// Where its instructions are counted, if they are.
    counts: Option<PathBuf>,
    folder: tempfile::TempDir,
    seconds: f64,
    rounds: usize,
    upstream: u16,
    /// The provider behind that port.
    _provider: Process,
    nginx: bool,
    python: Option<PathBuf>,
}

/// What the load generator reports.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Load {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) rps: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) chunks: u64,
    /// Answers by their status.
    pub(super) statuses: std::collections::BTreeMap<String, u64>,
}

pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    section("programs");
    let programs = if arguments.no_build { test::target().join("dist") } else { dist::dist()? };
    // The build is over: what runs now is somebody else's.
    let busy = measure::busy();
    let nginx = ensure_apt("nginx", "nginx-light")?.is_some();
    let python = if arguments.quick { None } else { python::interpreter().ok() };
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 1.0 } else { 4.0 });
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 3 });
    let bench =
        Bench { nginx, python, ..Bench::begin(&programs, &programs.join("millgate"), seconds, rounds)? };
    let mut table = table::Table::default();
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(only));
    for (name, case) in cases::CASES {
        if wanted(name) {
            section(name);
            case(&bench, &mut table)?;
        }
    }
    let text = table.page(&machine(), bench.rounds, bench.seconds, busy);
    say(&text);
    if !arguments.quick && arguments.only.is_none() {
        let path = root().join("docs/benchmarks.md");
        std::fs::create_dir_all(root().join("docs"))?;
        std::fs::write(path, text)?;
        say("written: docs/benchmarks.md");
    }
    Ok(())
}

/// A program that runs on one core only; where there is no `taskset`, anywhere.
fn pinned(core: usize, program: impl Into<PathBuf>, arguments: &[&str]) -> Command {
    let program = program.into().display().to_string();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut words = vec!["-c", "ulimit -n 65536 2>/dev/null || true; exec \"$@\"", "sh"];
    let core = core.to_string();
    if has("taskset") && cores > 1 {
        words.extend(["taskset", "-c", core.as_str()]);
    }
    words.push(&program);
    words.extend(arguments);
    command("sh", &words)
}

fn first_line(process: &mut Process) -> Result<String> {
    use std::io::BufRead as _;
    let out = process.0.stdout.take().context("no output to read")?;
    let mut line = String::new();
    std::io::BufReader::new(out).read_line(&mut line)?;
    Ok(line)
}

/// A proxy under measurement.
pub(super) struct Running {
    process: Process,
    pub(super) port: u16,
}

impl Running {
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn stop(mut self) {
        self.process.stop();
    }

    /// The same, where it may take longer.
    pub(super) fn end(mut self, patience: Duration) {
        self.process.end(patience);
    }
}

impl Bench {
    /// Starts the provider; the other core does everything that is not measured.
    fn begin(programs: &Path, millgate: &Path, seconds: f64, rounds: usize) -> Result<Self> {
        let mut provider = pinned(1, programs.join("fake-provider"), &["--no-record"]);
        let mut provider = Process::start(provider.stdout(Stdio::piped()))?;
        let port: serde_json::Value = serde_json::from_str(&first_line(&mut provider)?)?;
        Ok(Self {
            programs: programs.to_owned(),
            millgate: millgate.to_owned(),
            profiles: None,
            counts: None,
            folder: tempfile::tempdir()?,
            seconds,
            rounds,
            upstream: port["port"].as_u64().context("the provider's port")? as u16,
            _provider: provider,
            nginx: false,
            python: None,
        })
    }

    /// Waits until a request is answered as it should be: a model may be on its way.
    pub(super) fn until_answered(&self, running: &Running, arguments: &[&str]) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.load(running.port, &[arguments, &["-n", "1"]].concat())?.errors > 0 {
            ensure!(Instant::now() < deadline, "{arguments:?} is not answered");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The gateway on core 0, with everything on that it does for every request: metrics and access log.
    pub(super) fn gateway(&self) -> Result<Running> {
        let config = self.folder.path().join("gateway.yaml");
        std::fs::write(
            &config,
            format!(
                "version: 1\nproviders:\n  fake: {{ kind: openai-compatible, base_url: 'http://127.0.0.1:{}/v1', \
                 api_key: sk-bench-0123456789 }}\nendpoints:\n\
                 \x20 - {{ name: ok, type: llm/v1/chat, route: fake/ok, limits: [ {{ requests: 1000000000, per: minute }} ] }}\n\
                 \x20 - {{ name: chunks, type: llm/v1/chat, route: fake/chunks-100-0ms }}\n\
                 \x20 - {{ name: open, type: llm/v1/chat, route: fake/chunks-60-1000ms }}\n\
                 access: {{ keys: required, static: [ {{ name: bench, key: mg-bench-0123456789 }} ] }}\n\
                 server: {{ threads: 1, max_connections_per_ip: 5000, drain_delay: 1ms, drain_timeout: 1s }}\n",
                self.upstream
            ),
        )?;
        let config = config.display().to_string();
        self.program(&["start", "--config-path", &config], "/health")
    }

    /// The gateway with all that a company turns on: three limits, a budget, the ledger with a row per request, the audit log
    /// with a record per request. `more` stands behind it in the file.
    pub(super) fn company(&self, more: &str) -> Result<Running> {
        let config = self.folder.path().join("company.yaml");
        std::fs::write(
            &config,
            format!(
                "version: 1\nproviders:\n  fake: {{ kind: openai-compatible, base_url: 'http://127.0.0.1:{}/v1', \
                 api_key: sk-bench-0123456789, models: {{ '*': {{ usd_per_million_tokens: {{ input: 1, output: 2 }} }} }} }}\n\
                 endpoints:\n\
                 \x20 - {{ name: ok, type: llm/v1/chat, route: fake/ok }}\n\
                 limits:\n\
                 \x20 - {{ requests: 1000000000, per: minute, by: key }}\n\
                 \x20 - {{ tokens: 1000000000000, per: day, window: calendar, by: team }}\n\
                 \x20 - {{ concurrent: 10000, by: all }}\n\
                 budgets: [ {{ name: company, usd: 1000000, per: month }} ]\n\
                 audit: {{ calls: true, max_segment: 1GiB }}\n\
                 access: {{ keys: required, static: [ {{ name: bench, key: mg-bench-0123456789, roles: [admin], owner: {{ team: core }} }} ] }}\n\
                 server: {{ threads: 1, max_connections_per_ip: 5000, drain_delay: 1ms, drain_timeout: 1s }}\n{more}",
                self.upstream
            ),
        )?;
        let config = config.display().to_string();
        self.program(&["start", "--config-path", &config], "/health")
    }

    /// Our program on a free port, on core 0.
    pub(super) fn program(&self, arguments: &[&str], ready: &str) -> Result<Running> {
        let port = free_port()?;
        let text = port.to_string();
        let data = self.folder.path().join("data").display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--port", &text]);
        if arguments.first() != Some(&"demo") {
            all.extend(["--data-dir", &data]);
        }
        let counts = self.counts.as_ref().map(|counts| format!("--callgrind-out-file={}", counts.display()));
        let mut command = match &counts {
            None => pinned(0, &self.millgate, &all),
            Some(counts) => {
                let millgate = self.millgate.display().to_string();
                pinned(0, "valgrind", &[count::CALLGRIND, &[counts, &millgate], &all[..]].concat())
            }
        };
        if let Some(profiles) = &self.profiles {
            command.env("LLVM_PROFILE_FILE", profiles.join("%p.profraw"));
        }
        if let Some(python) = &self.python {
            let folder = python.parent().context("an interpreter has a folder")?.display().to_string();
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{folder}:{path}"));
        }
        self.start(command, port, ready)
    }

    /// nginx as a plain reverse proxy: one worker, keep-alive upstream, access log on.
    pub(super) fn nginx(&self) -> Result<Running> {
        let port = free_port()?;
        let folder = self.folder.path().join("nginx");
        std::fs::create_dir_all(folder.join("logs"))?;
        let config = folder.join("nginx.conf");
        std::fs::write(
            &config,
            format!(
                "daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid nginx.pid; error_log logs/error.log;\n\
                 events {{ worker_connections 16384; }}\n\
                 http {{ access_log logs/access.log; keepalive_requests 1000000000; client_max_body_size 20m;\n\
                 client_body_buffer_size 1m; client_body_temp_path body; proxy_temp_path proxy;\n\
                 fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
                 upstream fake {{ server 127.0.0.1:{}; keepalive 256; keepalive_requests 1000000000; }}\n\
                 server {{ listen 127.0.0.1:{port} backlog=4096;\n\
                 location = /health {{ return 200; }}\n\
                 location / {{ proxy_pass http://fake; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
                 proxy_buffering off; }} }} }}\n",
                self.upstream
            ),
        )?;
        let (folder, config) = (folder.display().to_string(), config.display().to_string());
        self.start(pinned(0, "nginx", &["-p", &folder, "-c", &config]), port, "/health")
    }

    fn start(&self, mut command: Command, port: u16, ready: &str) -> Result<Running> {
        let logs = self.folder.path().join("logs");
        std::fs::create_dir_all(&logs)?;
        let log = std::fs::File::create(logs.join(format!("{port}.out")))?;
        let err = std::fs::File::create(logs.join(format!("{port}.err")))?;
        let mut running = Running { process: Process::start(command.stdout(log).stderr(err))?, port };
        let deadline = Instant::now() + Duration::from_mins(3);
        while !measure::answers(port, ready) {
            if let Ok(Some(status)) = running.process.0.try_wait() {
                let log = std::fs::read_to_string(logs.join(format!("{port}.err")))?;
                bail!("{command:?} ended: {status}\n{log}");
            }
            if Instant::now() > deadline {
                bail!("{command:?} did not answer in time");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(running)
    }

    /// Runs the load generator on the other core.
    pub(super) fn load(&self, port: u16, arguments: &[&str]) -> Result<Load> {
        self.load_as(port, "mg-bench-0123456789", arguments)
    }

    /// The same with another key.
    pub(super) fn load_as(&self, port: u16, key: &str, arguments: &[&str]) -> Result<Load> {
        let key = format!("Authorization: Bearer {key}");
        let address = format!("127.0.0.1:{port}");
        let seconds = self.seconds.to_string();
        let mut all = vec![address.as_str(), "-H", key.as_str()];
        if !arguments.contains(&"-n") && !arguments.contains(&"-d") {
            all.extend(["-d", seconds.as_str()]);
        }
        all.extend(arguments);
        let text = output(&mut pinned(1, self.programs.join("load"), &all))?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Holds `count` streams open while `look` looks.
    pub(super) fn hold<T>(
        &self,
        port: u16,
        count: usize,
        model: &str,
        look: impl FnOnce() -> T,
    ) -> Result<T> {
        let (address, count) = (format!("127.0.0.1:{port}"), count.to_string());
        let mut command = pinned(
            1,
            self.programs.join("load"),
            &[
                &address,
                "-c",
                &count,
                "--hold",
                "30",
                "--stream",
                "--model",
                model,
                "-H",
                "Authorization: Bearer mg-bench-0123456789",
            ],
        );
        let mut holder = Process::start(command.stdout(Stdio::piped()))?;
        let line = first_line(&mut holder)?;
        if !line.contains("open") {
            bail!("the streams could not be opened");
        }
        std::thread::sleep(Duration::from_secs(1));
        let seen = look();
        holder.stop();
        Ok(seen)
    }
}

/// A Redis beside the gateway, and how its configuration says so.
fn redis() -> Result<(Process, String)> {
    let port = free_port()?;
    let text = port.to_string();
    let arguments = ["--port", &text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let redis = Process::start(pinned(1, "redis-server", &arguments).stdout(Stdio::null()))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(Instant::now() < deadline, "redis-server does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((redis, format!("shared: {{ redis: 'redis://127.0.0.1:{port}', replicas: 2 }}\n")))
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The machine, as far as it matters and nobody can tell whose it is.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let nginx = Command::new("nginx").arg("-v").output().map(|out| out.stderr).unwrap_or_default();
    let nginx = String::from_utf8_lossy(&nginx).trim().rsplit('/').next().unwrap_or_default().to_owned();
    format!("{cores}-core Linux VM, nginx {nginx}")
}
