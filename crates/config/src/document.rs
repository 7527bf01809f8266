//! The canonical document: what the user wrote, typed. The doc comments are the reference manual; the JSON
//! Schema is made from these types.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use millgate_provider::{Price, ProviderKind, RatesPerMillion, Settings};
use millgate_types::{Operation, Owner, Permission};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::{
    CertificatesConfig, IntrospectionConfig, IssuerConfig, SignOnConfig, TlsConfig, TrustedProxiesConfig,
};
use crate::audit::{AuditConfig, EndpointAudit};
use crate::credential::CredentialConfig;
use crate::limits::{BudgetConfig, LedgerConfig, LimitConfig, PredictionPrice, SharedConfig, is_default};
use crate::route::RouteConfig;
use crate::secrets::SecretsConfig;
use crate::serving::{BatchingConfig, BulkConfig, InstancesConfig};
use crate::upkeep::{BreakerConfig, Pacing, ProviderKey, RetriesConfig};
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

/// A provider of LLMs.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// What it is: `openai`, `anthropic`, `openai-compatible`, `mock`, or another name of the catalogue
    /// (`millgate providers` lists them).
    pub kind: String,
    /// The credential, by reference: `env:OPENAI_API_KEY`, `file:/run/secrets/key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// Several of them instead of `api_key`: secrets by reference, or objects with `key`, `name`, `weight`, `limits`. Each
    /// call takes the next one that is not set aside. They should be of one account where calls build on each other
    /// (files, stored responses).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_keys: Vec<ProviderKey>,
    /// What proves who calls, where one fixed key does not do: AWS keys, or tokens of Google, Entra ID or another
    /// OAuth server. Bedrock and Vertex AI find theirs by themselves when neither this nor `api_key` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialConfig>,
    /// The AWS region (Bedrock), for example `eu-central-1`. Default: `AWS_REGION`, else `AWS_DEFAULT_REGION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Expanded>,
    /// The Google Cloud project (Vertex AI). Default: `GOOGLE_CLOUD_PROJECT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Expanded>,
    /// The Google Cloud location (Vertex AI), for example `europe-west1`. Default: `GOOGLE_CLOUD_LOCATION`, else
    /// `global`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Expanded>,
    /// Where its API lives, for example `http://10.0.0.7:8000/v1`. Default: the catalogue's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<Expanded>,
    /// The API version of providers that want one in the path's query, for example Azure's `2024-10-21`. With
    /// it, Azure deployments are called at their classic paths; without, at the newer `/openai/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// The API that chats go by, where the provider has two: `chat`, the default, or `responses` (OpenAI's Responses).
    /// Callers of the Responses API reach it in either case where the provider has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ChatApi>,
    /// What vectors are for, where the provider asks (Cohere): `search_document` (the default), `search_query`,
    /// `classification`, `clustering`. A caller's own `input_type` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_type: Option<String>,
    /// Headers added to every request, for example `OpenAI-Organization`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, Secret>,
    /// What is known of its models, by their names, beside or instead of what the catalogue says. A `*` at the
    /// end of a name stands for any text.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub models: IndexMap<String, ModelConfig>,
    /// How a model server with an API of its own is spoken to (kind `http-scorer`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorer: Option<ScorerConfig>,
    /// What the provider allows, so that it never has to refuse: a call beyond it goes to the next target of a fallback, or
    /// is refused here. `by` is `all` unless it says otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitConfig>,
    /// What is made of the rate limits that the provider itself speaks of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pacing: Pacing,
    /// Trying again at the same target.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retries: RetriesConfig,
    /// When nothing is sent to it for a while.
    #[serde(default, skip_serializing_if = "is_default")]
    pub breaker: BreakerConfig,
    /// Time for name look-up, TCP and TLS. Default `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Period>,
    /// Time from sending a request to the first byte of the answer. Default `300s`, or
    /// `MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// Time from sending a request to the first content of a stream. Default: `timeout` to its beginning, then
    /// `server.stream_idle_timeout` between two pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_content_timeout: Option<Period>,
}

impl ProviderConfig {
    /// The settings that the kind's addresses and paths are completed with, by name: as written, else from the
    /// environment, else the catalogue's default. The error names those that are missing.
    pub fn settings(&self, kind: &ProviderKind) -> Result<Settings, Vec<String>> {
        let written = |name: &str| match name {
            "region" => self.region.as_ref(),
            "project" => self.project.as_ref(),
            "location" => self.location.as_ref(),
            _ => None,
        };
        let in_environment = |name: &String| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (mut found, mut missing) = (Settings::new(), Vec::new());
        for setting in &kind.settings {
            let value = written(&setting.name)
                .map(|value| value.as_str().to_owned())
                .or_else(|| setting.env.iter().find_map(in_environment))
                .or_else(|| setting.default.clone());
            match value {
                Some(value) => drop(found.insert(setting.name.clone(), value)),
                None => missing.push(setting.name.clone()),
            }
        }
        if missing.is_empty() { Ok(found) } else { Err(missing) }
    }
}

/// How a model server with an API of its own is spoken to.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScorerConfig {
    /// Where requests go, below `base_url`, for example `/score`. `{model}` stands for the target's model.
    pub path: String,
    /// The request's body. A text that is exactly `$rows` (lists of values), `$records` (objects by column), `$columns`
    /// (their names), `$params` or `$body` (all that came) stands for that.
    pub request: serde_json::Value,
    /// Where the predictions stand in the answer, as a JSON pointer: `/result/values`. Default: the whole answer.
    #[serde(default)]
    pub response: String,
}

/// The API that chats go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatApi {
    /// Chat completions.
    Chat,
    /// OpenAI's Responses API.
    Responses,
}

/// The embedded catalogue of models: prices, context windows, capabilities. What `providers.X.models` says wins
/// over it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogueConfig {
    /// The catalogue's prices are used until they are this old; then models without a price in the configuration
    /// have none.
    pub max_age: Period,
}

impl Default for CatalogueConfig {
    fn default() -> Self {
        Self { max_age: Period::seconds(365 * 86_400) }
    }
}

/// What is known of a model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Tokens of prompt and answer together. Calls that are surely longer are not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// Tokens of one answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// What it can do, and what not. A call that needs what is `false` here is not sent: the next target of a
    /// fallback gets it, or the caller an error. What is not said is left to the provider.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub capabilities: IndexMap<Capability, bool>,
    /// What its tokens cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_million_tokens: Option<TokenPrices>,
    /// What a search costs, for rerank models that are billed so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_search: Option<f64>,
}

impl ModelConfig {
    /// Whether a price is set here.
    #[must_use]
    pub fn sets_price(&self) -> bool {
        self.usd_per_million_tokens.is_some() || self.usd_per_search.is_some()
    }

    /// The price that is set here, if one is and it makes sense.
    #[must_use]
    pub fn price(&self) -> Option<Price> {
        if !self.sets_price() {
            return None;
        }
        let tokens = self.usd_per_million_tokens.as_ref();
        Price::configured(RatesPerMillion {
            input: tokens.map_or(0.0, |rates| rates.input),
            output: tokens.map_or(0.0, |rates| rates.output),
            cache_read: tokens.and_then(|rates| rates.cache_read),
            cache_write: tokens.and_then(|rates| rates.cache_write),
            reasoning: tokens.and_then(|rates| rates.reasoning),
            search: self.usd_per_search,
        })
    }
}

/// What a model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Calls of tools.
    Tools,
    /// Pictures in the prompt.
    Images,
    /// Sound in the prompt.
    Audio,
    /// Documents in the prompt.
    Files,
    /// Answers by a JSON schema.
    JsonSchema,
    /// Thinking that can be asked for.
    Reasoning,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Tools, Self::Images, Self::Audio, Self::Files, Self::JsonSchema, Self::Reasoning];

    /// The word in files and lists.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Images => "images",
            Self::Audio => "audio",
            Self::Files => "files",
            Self::JsonSchema => "json_schema",
            Self::Reasoning => "reasoning",
        }
    }
}

/// USD per million tokens. What is not said costs what the plain token of its side costs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenPrices {
    /// Prompt tokens.
    pub input: f64,
    /// Completion tokens.
    #[serde(default)]
    pub output: f64,
    /// Prompt tokens read from the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<f64>,
    /// Prompt tokens written to the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Reasoning tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<f64>,
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

/// How a registered model is served.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServingConfig {
    /// What runs the model. `auto`: natively where the answers are the same, else a Python worker.
    pub runtime: RuntimeChoice,
    /// Worker processes per model version: short for `instances` with the same `min` and `max`. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub workers: Option<u32>,
    /// How many worker processes a model version has under little and much load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<InstancesConfig>,
    /// With `instances: { min: 0 }`: the time without a request after which the last worker stops. The next request
    /// starts one and waits for it.
    pub idle_timeout: Period,
    /// Which requests may share one call of a worker. Default: those of flavours whose rows are independent, after a
    /// check at load. `true` insists, `false` forbids it, an object sets bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchingConfig>,
    /// Whether a request may be tried again on another worker after one died on it. Default: for flavours that only
    /// compute (scikit-learn, XGBoost, LightGBM, ONNX, PyTorch), not for custom code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// A class of `models.instance_classes`: what it says holds where nothing is said here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_class: Option<String>,
    /// What the model computes on: `cpu`, `cuda`, or `cuda:0` for one of several. Workers see no other GPU. Default:
    /// `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(cpu|cuda(:\d+)?)$"))]
    pub device: Option<String>,
    /// Cores that all workers of the model together may use. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cpus: Option<u32>,
    /// Threads of a worker's numeric libraries (OpenMP, BLAS). Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub threads: Option<u32>,
    /// A worker that grew over this is replaced between two calls. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss: Option<ByteSize>,
    /// Where a worker's Python packages come from.
    pub env_manager: EnvManager,
    /// A prepared environment: the folder of a virtual environment with the model's packages and `mlflow` in it. It is
    /// used as it is, in place of what `env_manager` would make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Expanded>,
    /// Time for one prediction.
    pub timeout: Period,
    /// Memory of one worker. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// Whether a worker may open network connections.
    pub network: Network,
    /// `strict`: input that does not fit the signature is refused. `mlflow`: the input is coerced as
    /// MLflow's scoring server does.
    pub compat: Compat,
    /// How far numbers of a converted scikit-learn model may lie from Python's, where they come out of weighted sums or
    /// exponential functions. Trees and labels are always the same. Default: not at all, so that such models run in a
    /// worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub tolerance: Option<f64>,
    /// How large inputs are scored that come and go piece by piece.
    pub bulk: BulkConfig,
    /// How long the version before stays loaded after a promotion, so that `millgate rollout back` is instant. `0s`: not
    /// at all. It is let go earlier when the machine's memory runs short.
    pub keep_previous: Period,
    /// What predictions cost, for budgets and for telling who used how much. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<PredictionPrice>,
    /// What the tokens of a model that chats cost. Default: nothing is known, so that its answers cost nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_million_tokens: Option<TokenPrices>,
}

impl Default for ServingConfig {
    fn default() -> Self {
        Self {
            runtime: RuntimeChoice::Auto,
            workers: None,
            instances: None,
            idle_timeout: Period::seconds(300),
            batching: None,
            idempotent: None,
            instance_class: None,
            device: None,
            cpus: None,
            threads: None,
            max_rss: None,
            env_manager: EnvManager::Local,
            environment: None,
            timeout: Period::seconds(60),
            memory_limit: None,
            network: Network::Deny,
            compat: Compat::Strict,
            tolerance: None,
            bulk: BulkConfig::default(),
            keep_previous: Period::seconds(600),
            price: None,
            usd_per_million_tokens: None,
        }
    }
}

impl ServingConfig {
    /// The price of tokens that is set here, if it makes sense.
    #[must_use]
    pub fn token_price(&self) -> Option<Price> {
        let usd_per_million_tokens = self.usd_per_million_tokens.clone();
        ModelConfig { usd_per_million_tokens, ..ModelConfig::default() }.price()
    }

    /// Whichever of `instances` and `workers` is written.
    #[must_use]
    pub fn instances(&self) -> InstancesConfig {
        let fixed = self.workers.unwrap_or(1);
        let fixed = InstancesConfig { min: fixed, max: fixed, schedule: Vec::new() };
        self.instances.clone().unwrap_or(fixed)
    }

    /// The same with what its class says where nothing is said here.
    #[must_use]
    pub fn with_class(&self, classes: &IndexMap<String, InstanceClass>) -> Self {
        let mut whole = self.clone();
        if let Some(class) = self.instance_class.as_ref().and_then(|name| classes.get(name)) {
            whole.device = whole.device.or_else(|| class.device.clone());
            whole.cpus = whole.cpus.or(class.cpus);
            whole.threads = whole.threads.or(class.threads);
            whole.memory_limit = whole.memory_limit.or(class.memory_limit);
            whole.max_rss = whole.max_rss.or(class.max_rss);
        }
        whole
    }
}

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeChoice {
    /// The best that gives the same answers.
    Auto,
    /// In the gateway's process, as data; refused at load when the model cannot.
    Native,
    /// In the gateway's process, by the ONNX Runtime library; refused at load when the model or the machine cannot.
    Onnx,
    /// A Python process.
    Worker,
}

/// Where a worker's Python packages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnvManager {
    /// The Python of `models.python`, as it is.
    Local,
    /// An environment built with `uv` from the model's requirements; `venv` and `pip` where `uv` is missing.
    Uv,
    /// An environment built with `venv` and `pip` from the model's requirements.
    Virtualenv,
}

/// Whether a worker may open network connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// No.
    Deny,
    /// Yes.
    Allow,
}

/// How input is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// Nothing is silently changed.
    Strict,
    /// As MLflow's scoring server does.
    Mlflow,
}

/// Who may call.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Whether callers need a key.
    pub keys: KeyMode,
    /// Keys declared here; others are issued by the admin API and `millgate keys`.
    #[serde(rename = "static")]
    pub declared: Vec<KeyConfig>,
    /// What issued keys are hashed with, the same for all replicas: 32 characters or more, by reference. Default: a
    /// random one in the data folder. Another one makes all issued keys unknown. Read at start only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_pepper: Option<Secret>,
    /// For how long issued keys are good while the store (PostgreSQL) cannot be reached, and how old what was last known of it
    /// may be for a start without it. Read at start only.
    pub last_known_max_age: Period,
    /// Issuers whose signed tokens (JWT) are good in place of a key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerConfig>,
    /// Where other tokens are asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection: Option<IntrospectionConfig>,
    /// Clients whose certificates say who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesConfig>,
    /// How people sign on with a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_on: Option<SignOnConfig>,
    /// Proxies that say where requests come from, and whose they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<TrustedProxiesConfig>,
    /// Serve without keys on an address other than loopback. Without it such a start is refused.
    pub allow_open_on_network: bool,
    /// Callers may name `provider/model` as the model, beside the endpoints. Default `false`.
    pub allow_provider_models: bool,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            keys: KeyMode::default(),
            declared: Vec::new(),
            key_pepper: None,
            last_known_max_age: Period::seconds(86_400),
            issuers: Vec::new(),
            introspection: None,
            certificates: None,
            sign_on: None,
            trusted_proxies: None,
            allow_open_on_network: false,
            allow_provider_models: false,
        }
    }
}

/// Whether callers need a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyMode {
    /// Anybody who reaches the listener may call.
    #[default]
    Open,
    /// Only callers with a key.
    Required,
}

/// A virtual key.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Shown in logs and metrics.
    pub name: String,
    /// The key, by reference. At least 16 characters, and none that everybody would try (`changeme`, `sk-1234`, ...).
    pub key: Secret,
    /// What it may do. Default: `[invoke]`.
    #[serde(default = "invoke", skip_serializing_if = "only_invoke")]
    pub roles: Vec<Role>,
    /// Endpoints that it may call: names, or patterns with `*`. Default: all. Others are as good as not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Targets at which its requests may end (`openai/gpt-5-*`, `models:/iris@champion`). Default: all. A route passes
    /// over others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Endpoints and targets that it may not reach, whatever is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// For whom it calls.
    #[serde(default, skip_serializing_if = "OwnerConfig::is_nobody")]
    pub owner: OwnerConfig,
}

/// For whom a key calls. Limits and budgets can be by these, and what was spent is told apart by them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OwnerConfig {
    /// A person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// An application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The organisation above the team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Words of your choice.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

impl OwnerConfig {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        *self == Self::default()
    }

    /// The same as requests carry it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        let name = |name: &Option<String>| name.as_deref().map(Into::into);
        Owner {
            user: name(&self.user),
            team: name(&self.team),
            app: name(&self.app),
            organization: name(&self.organization),
            tags: self.tags.clone(),
        }
    }
}

fn invoke() -> Vec<Role> {
    vec![Role::Invoke]
}

fn only_invoke(roles: &[Role]) -> bool {
    roles == [Role::Invoke]
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Call endpoints, and list them.
    Invoke,
    /// See by the admin API what runs.
    Read,
    /// Change what runs, for example roll a model back. Implies `read`.
    Manage,
    /// Everything.
    Admin,
}

impl From<Role> for Permission {
    fn from(role: Role) -> Self {
        match role {
            Role::Invoke => Self::Invoke,
            Role::Read => Self::Read,
            Role::Manage => Self::Manage,
            Role::Admin => Self::Admin,
        }
    }
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
