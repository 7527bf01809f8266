//! The canonical document: what the user wrote, typed. Parts of it stand in modules of their own (`provider`, `serving`, `keys`,
//! `limits`, ...). The doc comments are the reference manual; the JSON Schema is made from these types.

use indexmap::IndexMap;
use millgate_types::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::TlsConfig;
use crate::audit::{AuditConfig, EndpointAudit};
use crate::keys::AccessConfig;
use crate::limits::{BudgetConfig, LedgerConfig, LimitConfig, SharedConfig};
use crate::provider::{CatalogueConfig, ProviderConfig};
use crate::route::RouteConfig;
use crate::secrets::SecretsConfig;
use crate::serving::ServingConfig;
use crate::value::{ByteSize, Expanded, Period, Secret};

/// The whole configuration of a gateway.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The version of this format. Always 1.
    pub version: u32,
    /// Address and port to listen on. Default `127.0.0.1:5000`. `--host` and `--port` win over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Expanded>,
    /// The providers that routes call, by a name of your choice.
    pub providers: IndexMap<String, ProviderConfig>,
    /// The embedded catalogue of models.
    pub catalogue: CatalogueConfig,
    /// The model registries that `models:/` routes read from, by name. Routes use `default` unless the
    /// endpoint names another.
    pub registries: IndexMap<String, RegistryConfig>,
    /// What clients call.
    pub endpoints: Vec<EndpointConfig>,
    /// Providers' own APIs, passed through: `openai: { provider: openai }` serves `/openai/...`. Nothing is served so
    /// unless it stands here.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub native: IndexMap<String, NativeConfig>,
    /// Limits for all endpoints together, or for some of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitConfig>,
    /// How much money may be spent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetConfig>,
    /// Who may call.
    pub access: AccessConfig,
    /// Limits and time-outs of the listener.
    pub server: ServerConfig,
    /// Where models, environments and their caches live.
    pub models: ModelsConfig,
    /// Where what changes at run time is kept, issued keys for example: `postgres://user:password@host/database` for
    /// several replicas, by reference (`env:DATABASE_URL`). Default: a SQLite file in the data folder. Read at start
    /// only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Secret>,
    /// How what was spent is written down.
    pub ledger: LedgerConfig,
    /// Where secrets are kept that are no variables and no files.
    pub secrets: SecretsConfig,
    /// Where limits and budgets are counted that hold across replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedConfig>,
    /// The audit log.
    pub audit: AuditConfig,
    /// Logs.
    pub log: LogConfig,
    /// Another one when the value of a reference that may change is another one; 0 without such references. Not written in
    /// files.
    #[serde(skip)]
    pub fingerprint: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            listen: None,
            providers: IndexMap::new(),
            catalogue: CatalogueConfig::default(),
            registries: IndexMap::new(),
            endpoints: Vec::new(),
            native: IndexMap::new(),
            limits: Vec::new(),
            budgets: Vec::new(),
            access: AccessConfig::default(),
            server: ServerConfig::default(),
            models: ModelsConfig::default(),
            store: None,
            ledger: LedgerConfig::default(),
            secrets: SecretsConfig::default(),
            shared: None,
            audit: AuditConfig::default(),
            log: LogConfig::default(),
            fingerprint: 0,
        }
    }
}

/// A model registry.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// `http://mlflow:5000`, `sqlite:///mlflow.db`, `./mlruns` or `file:///srv/mlruns`.
    pub uri: Expanded,
    /// Bearer token of the tracking server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// User name for basic authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<Expanded>,
    /// Password for basic authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The secret of MLflow's webhooks. With it `POST /webhooks/mlflow/NAME` takes their signed deliveries, and models
    /// are looked up at once when one comes. Polling goes on: MLflow tells nothing of stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_secret: Option<Secret>,
    /// How often stages and aliases are looked up. Default `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_interval: Option<Period>,
    /// Time for one call of the registry. Default `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// Let artifact locations of a remote registry name files of this machine. Default `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_local_artifacts: bool,
}

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum EndpointType {
    /// A registered model's predictions.
    #[serde(rename = "predict")]
    Predict,
    /// Chat.
    #[serde(rename = "llm/v1/chat")]
    Chat,
    /// Completions.
    #[serde(rename = "llm/v1/completions")]
    Completions,
    /// Embeddings.
    #[serde(rename = "llm/v1/embeddings")]
    Embeddings,
    /// Documents in the order of their relevance to a query, in Cohere's shape.
    #[serde(rename = "llm/v1/rerank")]
    Rerank,
    /// Judgements over content, in OpenAI's shape.
    #[serde(rename = "llm/v1/moderations")]
    Moderations,
}

impl EndpointType {
    /// The types that providers serve.
    pub const LLM: [Self; 5] =
        [Self::Chat, Self::Completions, Self::Embeddings, Self::Rerank, Self::Moderations];

    /// The word as config and MLflow write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Chat => "llm/v1/chat",
            Self::Completions => "llm/v1/completions",
            Self::Embeddings => "llm/v1/embeddings",
            Self::Rerank => "llm/v1/rerank",
            Self::Moderations => "llm/v1/moderations",
        }
    }

    /// The operation that callers perform at it.
    #[must_use]
    pub fn operation(self) -> Operation {
        match self {
            Self::Predict => Operation::Predict,
            Self::Chat => Operation::Chat,
            Self::Completions => Operation::Completions,
            Self::Embeddings => Operation::Embeddings,
            Self::Rerank => Operation::Rerank,
            Self::Moderations => Operation::Moderations,
        }
    }
}

/// A named thing that clients call.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Its name: letters, digits, `_`, `-`, `.`. It is the `model` of OpenAI and Anthropic clients. One `*` stands
    /// for any text: `gpt-*` serves every model that begins so, and a `*` in its targets stands for the same
    /// text. Whole names win over patterns, longer patterns over shorter ones.
    #[schemars(regex(pattern = r"^[A-Za-z0-9*][A-Za-z0-9._*/-]{0,127}$"))]
    pub name: String,
    /// Further names that clients may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What it does.
    #[serde(rename = "type")]
    pub kind: EndpointType,
    /// A path of its own, for example `/predict/iris`; the endpoint's natural dialect is spoken there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^/"))]
    pub path: Option<String>,
    /// Where requests go.
    pub route: RouteConfig,
    /// The registry of `models:/` targets. Default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Limits; all of them hold, and those of all endpoints (`limits`) too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitConfig>,
    /// How a registered model is served. Only for `predict`.
    #[serde(default)]
    pub serving: ServingConfig,
    /// What the audit log records of it, where that is another than elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<EndpointAudit>,
}

/// A provider's own API under a path of its own. Every caller may do there what the provider's credential may.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NativeConfig {
    /// The provider that serves it, by its name under `providers`.
    pub provider: String,
    /// Limits; all of them hold, and those of all endpoints (`limits`) too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitConfig>,
    /// Largest request body. Bodies are passed on piece by piece, so this is no question of memory.
    #[serde(default = "default_max_upload")]
    pub max_body: ByteSize,
}

fn default_max_upload() -> ByteSize {
    ByteSize(512 << 20)
}

/// Limits and time-outs of the listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Threads that serve requests. Default: one per core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// TLS. Default: none. Read at start only, its files whenever they change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Largest request body.
    pub max_body: ByteSize,
    /// Largest answer that is held whole.
    pub max_answer: ByteSize,
    /// Open connections.
    pub max_connections: u32,
    /// Open connections of one address.
    pub max_connections_per_ip: u32,
    /// Time for the headers of a request.
    pub header_timeout: Period,
    /// Longest pause inside a request's body.
    pub body_idle_timeout: Period,
    /// Time for a whole request body.
    pub body_timeout: Period,
    /// Longest pause inside a stream from a provider.
    pub stream_idle_timeout: Period,
    /// After this long without anything in a stream, the caller gets a sign of life.
    pub stream_heartbeat: Period,
    /// Time for a whole answer of a provider, a stream or not, from sending the request on.
    pub answer_timeout: Period,
    /// After SIGTERM: how long new connections are still taken while readiness already says no.
    pub drain_delay: Period,
    /// After that: how long running requests may take.
    pub drain_timeout: Period,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            threads: None,
            tls: None,
            max_body: ByteSize(10 << 20),
            max_answer: ByteSize(4 << 20),
            max_connections: 10_000,
            max_connections_per_ip: 1_000,
            header_timeout: Period::seconds(10),
            body_idle_timeout: Period::seconds(30),
            body_timeout: Period::seconds(120),
            stream_idle_timeout: Period::seconds(120),
            stream_heartbeat: Period::seconds(15),
            answer_timeout: Period::seconds(3600),
            drain_delay: Period::seconds(5),
            drain_timeout: Period::seconds(30),
        }
    }
}

/// Where models, environments and their caches live.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// The Python of `env_manager: local`, and the one that environments are made with. Default: `python3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<Expanded>,
    /// A folder of wheels to install from instead of the package index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wheelhouse: Option<Expanded>,
    /// The ONNX Runtime library (`libonnxruntime.so`) for models of the onnx flavour. Default: the one in the package
    /// `onnxruntime` of `python`, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onnx_library: Option<Expanded>,
    /// Whether a worker may run where part of its isolation cannot be applied (old kernels, some containers).
    pub isolation: Isolation,
    /// Kinds of workers that endpoints name in `serving.instance_class`: `large: { cpus: 4, memory_limit: 8GiB }`.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub instance_classes: IndexMap<String, InstanceClass>,
}

/// What a worker of this class has. The fields are those of `serving`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InstanceClass {
    /// See `serving.device`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(cpu|cuda(:\d+)?)$"))]
    pub device: Option<String>,
    /// See `serving.cpus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cpus: Option<u32>,
    /// See `serving.threads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub threads: Option<u32>,
    /// See `serving.memory_limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// See `serving.max_rss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss: Option<ByteSize>,
}

/// How strictly workers are isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// As far as the kernel allows; what is missing is logged and shown by `doctor`.
    #[default]
    BestEffort,
    /// Whole, or the model is not served.
    Required,
}

/// Logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Where the access log goes: one JSON object per request.
    pub access: AccessLog,
}

/// Where the access log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// Nowhere.
    Off,
}
