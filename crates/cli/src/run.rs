//! `millgate start`, and the running that `demo` and `models serve` share: wiring, signals, drain.

use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use millgate_config::{AccessLog, Config, Isolation, KeyMode, Values, load_environment, load_with};
use millgate_models::{ModelSettings, Models};
use millgate_observe::{LogSink, Metrics, Recorder};
use millgate_server::{ConfigSource, Gateway, Listener, ListenerLimits, Reloader, Tls, audit_sinks};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::args::{Data, Listen, Start};
use crate::check::report;
use crate::{store, wrong_usage};

/// What is looked for where no file is named.
const DEFAULT_FILES: [&str; 2] = ["millgate.yaml", "gateway_config.yaml"];

/// What is to be run.
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) address: SocketAddr,
    pub(crate) data_dir: PathBuf,
    /// The file to follow, and the text that `config` was read from.
    pub(crate) source: Option<(ConfigSource, String)>,
    /// What changes at run time is kept in a store.
    pub(crate) keeps: bool,
    /// Called once requests are answered.
    pub(crate) greeting: Greeting,
}

/// Says hello, with the gateway and the address it is at.
type Greeting = Box<dyn FnOnce(&Arc<Gateway>, SocketAddr) + Send>;

pub(crate) fn start(arguments: &Start) -> anyhow::Result<ExitCode> {
    init_log();
    let found = match find(arguments.config_path.as_deref()) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(wrong_usage());
        }
    };
    let (source, text, file) = match found {
        Some((source, text)) => {
            let file = source.path().display().to_string();
            (Some(source), text, file)
        }
        None => match load_environment() {
            Some(text) => (None, text, "environment".to_owned()),
            None => {
                eprintln!(
                    "error: nothing to serve: no --config-path, no ./millgate.yaml or ./gateway_config.yaml, and \
                     none of OPENAI_API_KEY, ANTHROPIC_API_KEY, MLFLOW_TRACKING_URI is set; try `millgate demo`"
                );
                return Ok(wrong_usage());
            }
        },
    };
    // What is kept elsewhere is looked up once the store is open.
    let loaded = match load_with(&text, &Values::placeholders()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            report(&file, &problems);
            return Ok(wrong_usage());
        }
    };
    report(&file, &loaded.warnings);
    if arguments.workers.is_some() {
        tracing::info!("--workers is accepted and not used: one process serves on all cores");
    }
    let address = address(&loaded.config, &arguments.listen)?;
    if let Some(reason) = refuses_network(&loaded.config, address) {
        eprintln!("error: {reason}");
        return Ok(wrong_usage());
    }
    run(Plan {
        config: loaded.config,
        address,
        data_dir: data_dir(&arguments.data)?,
        keeps: true,
        source: source.map(|source| (source, text)),
        greeting: Box::new(|_, _| {}),
    })
}

/// The configuration file: the one named, else one with a usual name in this folder.
pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<Option<(ConfigSource, String)>> {
    let read = |path: &Path| -> anyhow::Result<(ConfigSource, String)> {
        let source = ConfigSource::new(path);
        let text = source.read().with_context(|| format!("{} cannot be read", path.display()))?;
        Ok((source, text))
    };
    match named {
        Some(path) => read(path).map(Some),
        None => DEFAULT_FILES.iter().map(Path::new).find(|path| path.is_file()).map(read).transpose(),
    }
}

pub(crate) fn init_log() {
    let filter = EnvFilter::try_from_env("MILLGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if std::io::stderr().is_terminal() {
        log.with_ansi(colours).with_target(false).init();
    } else {
        log.json().flatten_event(true).with_current_span(false).init();
    }
}

fn address(config: &Config, listen: &Listen) -> anyhow::Result<SocketAddr> {
    let written = config.listen.as_ref().map(|listen| listen.as_str().parse::<SocketAddr>()).transpose()?;
    let written = written.unwrap_or_else(|| default_address(None, None));
    Ok(SocketAddr::new(listen.host.unwrap_or(written.ip()), listen.port.unwrap_or(written.port())))
}

pub(crate) fn default_address(host: Option<IpAddr>, port: Option<u16>) -> SocketAddr {
    SocketAddr::new(host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port.unwrap_or(5000))
}

/// Why this address may not be listened on: a gateway that spends money is not opened to a network by accident.
pub(crate) fn refuses_network(config: &Config, address: SocketAddr) -> Option<String> {
    let guarded = config.access.keys == KeyMode::Required || config.access.allow_open_on_network;
    (!address.ip().is_loopback() && !guarded).then(|| {
        format!(
            "{address} can be reached from the network and no key is required; set `access: {{ keys: required, \
             static: [...] }}`, or `access: {{ allow_open_on_network: true }}` if that is meant"
        )
    })
}

pub(crate) fn data_dir(data: &Data) -> anyhow::Result<PathBuf> {
    if let Some(folder) = &data.data_dir {
        // Workers have a folder of their own: a relative path would mean another one there.
        return std::path::absolute(folder).with_context(|| format!("{} is not a path", folder.display()));
    }
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    base.map(|base| base.join("millgate")).context("no home folder: name one with --data-dir")
}

/// One crypto provider for the whole process.
pub(crate) fn install_crypto() -> anyhow::Result<()> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another crypto provider is installed already");
    }
    Ok(())
}

/// Runs until a signal ends it.
pub(crate) fn run(plan: Plan) -> anyhow::Result<ExitCode> {
    install_crypto()?;
    // Requests have threads of their own; this runtime is for everything beside them.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        // A thread that waits for work keeps what the last model's load left in its part of the allocator: 40 MB together
        // after a thousand models. They go soon, and the memory with them.
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let outcome = runtime.block_on(serve(plan));
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

async fn serve(plan: Plan) -> anyhow::Result<ExitCode> {
    let mut config = plan.config;
    let mut signals = Signals::new()?;
    let models = Models::new(model_settings(&config, &plan.data_dir)?, tokio::runtime::Handle::current());
    let metrics = Arc::new(Metrics::new());
    let sink = match config.log.access {
        AccessLog::Stdout => LogSink::Stdout,
        AccessLog::Stderr => LogSink::Stderr,
        AccessLog::Off => LogSink::Off,
    };
    let recorder = Recorder::start(Arc::clone(&metrics), sink)?;
    // The demo and `models serve` keep nothing.
    let kept = if plan.keeps { Some(store::kept(&config, &plan.data_dir, &metrics).await?) } else { None };
    if let (Some(kept), Some((source, text))) = (&kept, &plan.source) {
        match kept.secrets.load(text).await {
            Ok(loaded) => config = loaded.config,
            Err(problems) => {
                report(&source.path().display().to_string(), &problems);
                return Ok(wrong_usage());
            }
        }
    }
    if let Some(kept) = &kept {
        // Their secrets may be kept in the store.
        kept.audit.send_to(audit_sinks(&config).map_err(|error| anyhow::anyhow!(error))?);
    }
    let gateway = Gateway::new(&config, models, metrics, recorder, kept)?;
    gateway.begin_budgets().await.context("what was spent cannot be read from the ledger")?;
    let limits = ListenerLimits {
        threads: config.server.threads.map_or_else(cores, |threads| threads as usize),
        connections: config.server.max_connections,
        connections_per_ip: config.server.max_connections_per_ip,
        header_timeout: config.server.header_timeout.0,
    };
    let tls = config.server.tls.as_ref().map(Tls::open).transpose().map_err(anyhow::Error::msg)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener = Listener::bind(Arc::clone(&gateway), plan.address, limits, tls)
        .await
        .with_context(|| format!("{} cannot be listened on", plan.address))?;
    let address = listener.address();
    tracing::info!(%address, endpoints = config.endpoints.len(), "serving at {scheme}://{address}");
    let reloader = match plan.source {
        Some((source, text)) => Some(Reloader::start(Arc::clone(&gateway), source, &text).await),
        None => None,
    };
    (plan.greeting)(&gateway, address);
    let ended_by = signals.wait(reloader.as_ref()).await;
    gateway.begin_drain();
    tracing::info!("shutting down: running requests finish");
    let server = config.server;
    let drain = async {
        if ended_by == End::Terminate {
            // Load balancers need a moment to see that readiness says no.
            tokio::time::sleep(server.drain_delay.0).await;
        }
        listener.close(server.drain_timeout.0).await;
        gateway.shutdown().await;
    };
    tokio::select! {
        () = drain => tracing::info!("done"),
        _ = signals.wait(None) => tracing::warn!("a second signal: stopping at once"),
    }
    Ok(ExitCode::SUCCESS)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn model_settings(config: &Config, data_dir: &Path) -> anyhow::Result<ModelSettings> {
    let launcher = std::env::current_exe().context("the path of this program is unknown")?;
    let mut settings = ModelSettings::new(data_dir, launcher);
    settings.python = config.models.python.as_ref().map(|python| PathBuf::from(python.as_str()));
    settings.wheelhouse = config.models.wheelhouse.as_ref().map(|folder| PathBuf::from(folder.as_str()));
    settings.onnx_library = config.models.onnx_library.as_ref().map(|path| PathBuf::from(path.as_str()));
    settings.isolation_required = config.models.isolation == Isolation::Required;
    Ok(settings)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// SIGTERM: by an orchestrator.
    Terminate,
    /// SIGINT: by a person who waits.
    Interrupt,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Until a signal says stop; SIGHUP reloads meanwhile.
    async fn wait(&mut self, reloader: Option<&Reloader>) -> End {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return End::Terminate,
                _ = self.interrupt.recv() => return End::Interrupt,
                _ = self.hangup.recv() => {
                    if let Some(reloader) = reloader {
                        reloader.ask();
                    }
                }
            }
        }
    }
}
