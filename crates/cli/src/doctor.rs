//! `millgate doctor`: looks at everything the gateway depends on; every finding with its fix.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use millgate_config::Config;
use millgate_models::{DeploymentState, FindingLevel, Models};
use millgate_observe::{LogSink, Metrics, Recorder};
use millgate_server::Gateway;
use millgate_store::Shared;
use serde::Serialize;

use crate::args::Doctor;
use crate::check::print;
use crate::run::{data_dir, find, install_crypto, model_settings};
use crate::{is_json, pretty};

/// How long a model may take to load before that is a finding.
const LOAD: Duration = Duration::from_secs(180);

#[derive(Debug, Serialize)]
struct Finding {
    /// `ok`, `warning` or `error`.
    level: &'static str,
    what: String,
    /// What to do; empty when nothing is wrong.
    fix: String,
}

impl Finding {
    fn new(level: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level, what: what.into(), fix: fix.into() }
    }
}

pub(crate) fn doctor(arguments: &Doctor) -> anyhow::Result<ExitCode> {
    install_crypto()?;
    let folder = data_dir(&arguments.data)?;
    let mut findings = vec![descriptors()];
    let config = configuration(arguments.config_path.as_deref(), &mut findings);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(credentials(&config, &mut findings));
    runtime.block_on(store(&config, &folder, &mut findings));
    if let Some(written) = &config.shared {
        findings.push(runtime.block_on(shared(written.redis.expose())));
    }
    runtime.block_on(models(&config, &folder, arguments.skip_models, &mut findings))?;
    if is_json(arguments.output.output) {
        print(&(pretty(&serde_json::to_value(&findings)?) + "\n"))?;
    } else {
        for finding in &findings {
            let fix = if finding.fix.is_empty() {
                String::new()
            } else {
                format!("\n         fix: {}", finding.fix)
            };
            print(&format!("{:<8} {}{fix}\n", finding.level, finding.what))?;
        }
    }
    let broken = findings.iter().any(|finding| finding.level == "error");
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The document, or an empty one when there is none that can be used.
fn configuration(named: Option<&Path>, findings: &mut Vec<Finding>) -> Config {
    let (source, text) = match find(named) {
        Ok(Some(found)) => found,
        Ok(None) => {
            findings.push(Finding::new("warning", "no configuration file", "name one with --config-path"));
            return Config::default();
        }
        Err(error) => {
            findings.push(Finding::new("error", format!("{error:#}"), "check the path and its permissions"));
            return Config::default();
        }
    };
    let file = source.path().display().to_string();
    match millgate_config::load_with(&text, &millgate_config::Values::placeholders()) {
        Ok(loaded) => {
            let count = loaded.config.endpoints.len();
            findings.push(Finding::new("ok", format!("{file}: {count} endpoints"), ""));
            for warning in &loaded.warnings {
                findings.push(Finding::new("warning", warning.in_file(&file), warning.hint.clone()));
            }
            loaded.config
        }
        Err(problems) => {
            for problem in &problems {
                findings.push(Finding::new("error", problem.in_file(&file), problem.hint.clone()));
            }
            Config::default()
        }
    }
}

/// Two descriptors per proxied request, one per idle connection.
fn descriptors() -> Finding {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    match soft {
        Some(soft) if soft < 20_000 => Finding::new(
            "warning",
            format!("the limit of open files is {soft}; 10000 connections need about 20000"),
            "raise it: `ulimit -n 65536`, or LimitNOFILE= in the unit file",
        ),
        Some(soft) => Finding::new("ok", format!("the limit of open files is {soft}"), ""),
        None => Finding::new("warning", "the limit of open files is unknown", "see `ulimit -n`"),
    }
}

/// Keys that requests are signed with, tokens that they carry.
async fn credentials(config: &Config, findings: &mut Vec<Finding>) {
    for (name, outcome) in Gateway::test_credentials(config).await {
        findings.push(match outcome {
            Ok(()) => Finding::new("ok", format!("provider `{name}`: there is a credential"), ""),
            Err(reason) => {
                let what = format!("provider `{name}`: no credential: {reason}");
                Finding::new("error", what, "check `credential` of the provider, and what it reads")
            }
        });
    }
}

/// The server of shared counts.
async fn shared(uri: &str) -> Finding {
    let answers = match Shared::open(uri, "doctor") {
        Ok(shared) => shared.beat().await,
        Err(error) => Err(error),
    };
    match answers {
        Ok(()) => Finding::new("ok", "shared counts: Redis answers".to_owned(), ""),
        Err(error) => {
            let fix = "see that `shared.redis` names a server that this machine reaches, with its password";
            Finding::new("error", format!("shared counts: {error}"), fix)
        }
    }
}

/// The store, as far as there is one: it is opened, which brings its schema up to date.
async fn store(config: &Config, folder: &Path, findings: &mut Vec<Finding>) {
    if config.store.is_none() && !folder.join("millgate.db").exists() {
        return;
    }
    findings.push(match crate::store::open(config, folder).await {
        Ok(store) => {
            let found = Finding::new("ok", format!("store: {} answers", store.kind()), "");
            store.close().await;
            found
        }
        Err(error) => {
            let fix = "see that `store` names a database that this machine reaches and may write";
            Finding::new("error", error.to_string(), fix)
        }
    });
}

/// Python, isolation, registries; then every model is loaded, because only that tells whether it starts.
async fn models(
    config: &Config,
    folder: &Path,
    skip_models: bool,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let settings = model_settings(config, folder)?;
    let registries = Gateway::registries(config)?;
    for found in millgate_models::doctor(&settings, &registries).await {
        let level = match found.level {
            FindingLevel::Ok => "ok",
            FindingLevel::Warning => "warning",
            FindingLevel::Error => "error",
        };
        let what = format!("{}: {}", found.subject, found.text);
        findings.push(Finding::new(level, what, found.fix.unwrap_or_default()));
    }
    if skip_models || config.registries.is_empty() {
        return Ok(());
    }
    let models = Models::new(settings, tokio::runtime::Handle::current());
    let metrics = Arc::new(Metrics::new());
    let recorder = Recorder::start(Arc::clone(&metrics), LogSink::Off)?;
    let gateway = Gateway::new(config, models, metrics, recorder, None)?;
    for deployment in gateway.deployments() {
        let settled = async {
            loop {
                let status = deployment.status();
                if matches!(status.state, DeploymentState::Live | DeploymentState::Failed) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let status = tokio::time::timeout(LOAD, settled).await.unwrap_or_else(|_| deployment.status());
        let name = format!("endpoint `{}`, model `{}`", status.endpoint, status.model);
        findings.push(match (status.state, status.version, status.runtime) {
            (DeploymentState::Live, Some(version), Some(runtime)) => {
                let why = status.runtime_reason.unwrap_or_default();
                Finding::new("ok", format!("{name}: version {version}, {runtime} runtime ({why})"), "")
            }
            (state, ..) => {
                let reason = status.reason.unwrap_or_else(|| format!("still {state:?} after {LOAD:?}"));
                let fix = "mend what the reason names; the gateway tries again by itself";
                Finding::new("error", format!("{name}: {reason}"), fix)
            }
        });
    }
    for problem in gateway.route_problems() {
        let what = format!("endpoint `{}`: {}", problem.endpoint, problem.reason);
        let fix = "change the models' signatures, or put a step with a `body` between them";
        findings.push(Finding::new("error", what, fix));
    }
    gateway.shutdown().await;
    Ok(())
}
