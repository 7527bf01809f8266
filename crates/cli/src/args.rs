//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use crate::config::ConfigCommand;
pub(crate) use crate::secrets::SecretsCommand;
pub(crate) use crate::sessions::SessionsCommand;

/// One secured and observable HTTP endpoint for registry models and LLM providers.
#[derive(Debug, Parser)]
#[command(name = "millgate", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the gateway.
    Start(Start),
    /// Start with embedded defaults: a bundled model and a mock LLM, no key, no server, no Python.
    Demo(Demo),
    /// Serve one model as `mlflow models serve` does, or look through the registries of a running gateway.
    #[command(subcommand)]
    Models(Models),
    /// Verify or print the audit log in the data folder.
    #[command(subcommand)]
    Audit(AuditLog),
    /// Show, check, change and undo the configuration of a running gateway.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Issue, list, rotate and revoke virtual keys of a running gateway.
    #[command(subcommand)]
    Keys(Keys),
    /// Teams of a running gateway: what bounds the keys and tokens of their members.
    #[command(subcommand)]
    Teams(Principals),
    /// Users of a running gateway: what bounds their keys and tokens.
    #[command(subcommand)]
    Users(Principals),
    /// Set, list and delete the secrets that a running gateway keeps.
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// Browsers that are signed on: list, sign off.
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// What was used and what it cost, on a running gateway.
    Usage(Usage),
    /// Limits of a running gateway, and what is used of them now.
    Limits(Reach),
    /// Budgets of a running gateway, and what was spent.
    Budgets(Reach),
    /// Go back to the version before, on a running gateway.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Check a configuration file and report every problem.
    Check(Check),
    /// Look at everything the gateway depends on and say how to mend what is wrong.
    Doctor(Doctor),
    /// List the kinds of providers.
    Providers(Output),
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Start a model worker in isolation; the gateway calls this itself.
    #[command(hide = true)]
    WorkerExec {
        /// What to start.
        json: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The configuration file. Default: ./millgate.yaml, ./gateway_config.yaml, else what the environment
    /// gives (OPENAI_API_KEY, ANTHROPIC_API_KEY, MLFLOW_TRACKING_URI).
    #[arg(long, short = 'c', env = "MLFLOW_GATEWAY_CONFIG", value_name = "FILE")]
    pub(crate) config_path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// Accepted for `mlflow gateway start`; threads are `server.threads` in the configuration.
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u32>,
    #[command(flatten)]
    pub(crate) data: Data,
}

#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Address to listen on. Default: the configuration's, else 127.0.0.1.
    #[arg(long)]
    pub(crate) host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one. Default: the configuration's, else 5000.
    #[arg(long, short)]
    pub(crate) port: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct Data {
    /// Where model files and environments are kept. Default: $XDG_DATA_HOME/millgate.
    #[arg(long, env = "MILLGATE_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) listen: Listen,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// Serve one model at /invocations.
    #[command(disable_help_flag = true)]
    Serve(Serve),
    /// Search a registry of a running gateway.
    List(ListModels),
    /// Show a registered model: its versions, and where they are served.
    Show(ShowModel),
}

/// How a running gateway is reached.
#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// The gateway's address.
    #[arg(long, env = "MILLGATE_URL", default_value = "http://127.0.0.1:5000", value_name = "URL")]
    pub(crate) url: String,
    // Read from the environment alone: a key on the command line is seen by everybody on the machine.
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ListModels {
    /// The registry. Default: `default`, or the only one.
    #[arg(long)]
    pub(crate) registry: Option<String>,
    /// A part of the name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A tag of the model: `key`, or `key=value`.
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// An alias that one of its versions has.
    #[arg(long)]
    pub(crate) alias: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct ShowModel {
    /// The registered model's name.
    pub(crate) name: String,
    /// The registry.
    #[arg(long, default_value = "default")]
    pub(crate) registry: String,
    /// Show what this version says of itself: flavours, signature, parameters.
    #[arg(long)]
    pub(crate) version: Option<u64>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditLog {
    /// Check that every record is there and as it was written.
    Verify(VerifyAudit),
    /// Print the records, one JSON object a line, while checking them.
    Export(ExportAudit),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyAudit {
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ExportAudit {
    /// Only records of this kind: `change` or `call`.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Only records behind this number.
    #[arg(long, default_value_t = 0)]
    pub(crate) after: u64,
    /// Only records of this time or later: 2026-11-26T09:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<jiff::Timestamp>,
    /// Only records before this time.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<jiff::Timestamp>,
    /// Only what this caller did.
    #[arg(long, value_name = "NAME")]
    pub(crate) principal: Option<String>,
    /// Only this path, or what begins with it.
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Ask a running gateway instead of reading the data folder; its answers are not verified.
    #[arg(long, conflicts_with = "data_dir")]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) data: Data,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Issue a key; it is printed this once.
    Create(Box<CreateKey>),
    /// List keys, without what would let anybody call.
    List(ListKeys),
    /// Change what is said and leave the rest.
    Change(Box<ChangeKey>),
    /// Give a key a new secret.
    Rotate(RotateKey),
    /// Take a key back at once.
    Revoke(OneKey),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Principals {
    /// Make one.
    Create {
        #[command(flatten)]
        one: OnePrincipal,
        /// A user's team; a team's organisation.
        #[arg(long = "in", value_name = "NAME")]
        parent: Option<String>,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        budget: Budget,
    },
    /// List them.
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Change what is said and leave the rest.
    Change {
        #[command(flatten)]
        one: OnePrincipal,
        /// Another team or organisation; an empty text: none.
        #[arg(long = "in", value_name = "NAME")]
        parent: Option<String>,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        budget: Budget,
        /// It has no budget of its own any more.
        #[arg(long, conflicts_with = "budget")]
        no_budget: bool,
        /// Nobody may call for it until `--enable`.
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// It may be called for again.
        #[arg(long)]
        enable: bool,
    },
    /// Remove it: what belongs to it is not known any more, and its name is not given again.
    Remove {
        #[command(flatten)]
        one: OnePrincipal,
    },
}

#[derive(Debug, Args)]
pub(crate) struct OnePrincipal {
    /// Its name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// The most that keys and tokens may do and reach.
#[derive(Debug, Args)]
pub(crate) struct Bounds {
    /// The most they may do: invoke, read, manage, admin. May be given several times. Default: invoke.
    #[arg(long)]
    pub(crate) role: Vec<String>,
    /// An endpoint they may call, or a pattern with `*`. Default: all.
    #[arg(long)]
    pub(crate) endpoint: Vec<String>,
    /// A target at which their requests may end: `openai/*`, `models:/iris@champion`. Default: all.
    #[arg(long)]
    pub(crate) target: Vec<String>,
    /// An endpoint or target that they may not reach.
    #[arg(long)]
    pub(crate) deny: Vec<String>,
    /// NAME=VALUE, of your choice; keys and tokens carry them.
    #[arg(long)]
    pub(crate) tag: Vec<String>,
}

/// What may be spent.
#[derive(Debug, Args)]
pub(crate) struct Budget {
    /// USD that may be spent in each day, week, month or year.
    #[arg(id = "budget", long, value_name = "USD", requires = "per")]
    pub(crate) usd: Option<String>,
    /// day, week, month or year.
    #[arg(long, requires = "budget")]
    pub(crate) per: Option<String>,
    /// The time zone in which days begin: Europe/Berlin. Default: UTC.
    #[arg(long, requires = "budget")]
    pub(crate) zone: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeKey {
    /// The key's name or id.
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// How long it is good from now on: 90d, 12h.
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_in: Option<String>,
    /// It is good until it is revoked.
    #[arg(long, conflicts_with = "expires_in")]
    pub(crate) no_expiry: bool,
    #[command(flatten)]
    pub(crate) budget: Budget,
    /// It has no budget of its own any more.
    #[arg(long, conflicts_with = "budget")]
    pub(crate) no_budget: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// Shown in logs and metrics.
    pub(crate) name: String,
    /// What it may do: invoke, read, manage, admin. May be given several times.
    #[arg(long, default_value = "invoke")]
    pub(crate) role: Vec<String>,
    /// An endpoint it may call, or a pattern with `*`. Default: all.
    #[arg(long)]
    pub(crate) endpoint: Vec<String>,
    /// A target at which its requests may end: `openai/*`, `models:/iris@champion`. Default: all.
    #[arg(long)]
    pub(crate) target: Vec<String>,
    /// An endpoint or target that it may not reach.
    #[arg(long)]
    pub(crate) deny: Vec<String>,
    /// How long it is good: 90d, 12h. Default: until it is revoked.
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_in: Option<String>,
    /// NAME=VALUE, of your choice.
    #[arg(long)]
    pub(crate) tag: Vec<String>,
    /// The person that it is for.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// The team that it is for.
    #[arg(long)]
    pub(crate) team: Option<String>,
    /// The application that it is for.
    #[arg(long)]
    pub(crate) app: Option<String>,
    /// The organisation above the team.
    #[arg(long)]
    pub(crate) organization: Option<String>,
    #[command(flatten)]
    pub(crate) budget: Budget,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Usage {
    /// What to group by: key, user, team, app, organization, endpoint, target, provider, model, model_version, operation, day,
    /// month, tag:NAME.
    #[arg(long, value_delimiter = ',')]
    pub(crate) by: Vec<String>,
    /// The first day or moment: 2026-01-01. Default: this month's first day.
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// The day or moment before which it ends. Default: now.
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// The time zone of days and months. Default: UTC.
    #[arg(long)]
    pub(crate) zone: Option<String>,
    /// As a file: `csv` groups as `--by` says; `focus` has the FinOps Foundation's FOCUS columns.
    #[arg(long)]
    pub(crate) format: Option<UsageFormat>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum UsageFormat {
    Csv,
    Focus,
}

#[derive(Debug, Args)]
pub(crate) struct ListKeys {
    /// Expired and revoked keys too.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct RotateKey {
    /// The key's name or id.
    pub(crate) key: String,
    /// How long the secret before stays good: 1h. Default: not at all.
    #[arg(long, value_name = "TIME")]
    pub(crate) grace: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct OneKey {
    /// The key's name or id.
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// What serves, what is kept to go back to, and what is held back.
    Status(RolloutStatus),
    /// Serve the version before, or another one; the registry is followed again when it names yet another.
    Back(RolloutBack),
    /// Follow the registry again after `back`.
    Resume(RolloutResume),
}

#[derive(Debug, Args)]
pub(crate) struct RolloutStatus {
    /// One endpoint. Default: all that serve registered models.
    pub(crate) endpoint: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct RolloutBack {
    /// The endpoint.
    pub(crate) endpoint: String,
    /// The version to serve. Default: the one before.
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct RolloutResume {
    /// The endpoint.
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Which model, where the endpoint has several: `models:/name@alias`.
    #[arg(long, value_name = "URI")]
    pub(crate) model: Option<String>,
    /// Do not wait until the version serves.
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The model: `models:/name/3`, `models:/name@alias`, `models:/m-<id>`, `runs:/<run>/<path>`, or a folder.
    #[arg(long, short)]
    pub(crate) model_uri: String,
    /// Address to listen on.
    #[arg(long, short = 'h', default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, short, default_value_t = 5000)]
    pub(crate) port: u16,
    /// Worker processes.
    #[arg(long, short, default_value_t = 1)]
    pub(crate) workers: u32,
    /// Seconds for one prediction.
    #[arg(long, short, env = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", default_value_t = 60)]
    pub(crate) timeout: u64,
    /// Where the worker's Python packages come from.
    #[arg(long, default_value = "local")]
    pub(crate) env_manager: EnvManager,
    /// As `--env-manager local`.
    #[arg(long)]
    pub(crate) no_conda: bool,
    /// Accepted for `mlflow models serve`; the environment's own MLflow is used.
    #[arg(long)]
    pub(crate) install_mlflow: bool,
    /// Refuse input that does not fit the signature, or coerce it as MLflow does.
    #[arg(long, default_value = "mlflow")]
    pub(crate) compat: Compat,
    /// What runs the model; `auto` is a worker unless `--compat strict`.
    #[arg(long, default_value = "auto")]
    pub(crate) runtime: Runtime,
    /// How far numbers of a converted model may lie from Python's.
    #[arg(long)]
    pub(crate) tolerance: Option<f64>,
    #[command(flatten)]
    pub(crate) data: Data,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    pub(crate) help: Option<bool>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum EnvManager {
    Local,
    Uv,
    Virtualenv,
    /// Taken as `virtualenv`.
    Conda,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Compat {
    Strict,
    Mlflow,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Runtime {
    Auto,
    Native,
    Onnx,
    Worker,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The configuration file.
    pub(crate) file: PathBuf,
    /// Print the canonical form; secrets stay references.
    #[arg(long)]
    pub(crate) print: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The configuration file; looked for as `start` does.
    #[arg(long, short = 'c', env = "MLFLOW_GATEWAY_CONFIG", value_name = "FILE")]
    pub(crate) config_path: Option<PathBuf>,
    /// Do not load the registered models to see whether they start.
    #[arg(long)]
    pub(crate) skip_models: bool,
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How to print.
    #[arg(long, default_value = "text")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}
