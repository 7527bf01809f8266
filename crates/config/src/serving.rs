//! How registered models are served: what runs them, how many workers, and what may share their calls.

use std::fmt;

use indexmap::IndexMap;
use millgate_provider::Price;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::document::InstanceClass;
use crate::limits::PredictionPrice;
use crate::provider::{ModelConfig, TokenPrices};
use crate::schedule::ScheduleConfig;
use crate::value::{ByteSize, Expanded, Period};

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

/// How large inputs are scored that come and go piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BulkConfig {
    /// The most rows that are scored together.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_rows: u32,
    /// The most bytes of input that are scored together, and of one row.
    pub max_bytes: ByteSize,
    /// How many such batches of one request are under way at a time.
    #[schemars(range(min = 1, max = 64))]
    pub in_flight: u32,
    /// The most bytes of a Parquet file, which is kept in the data folder while it is scored.
    pub max_file: ByteSize,
}

impl Default for BulkConfig {
    fn default() -> Self {
        Self { max_rows: 1000, max_bytes: ByteSize(1 << 20), in_flight: 4, max_file: ByteSize(1 << 30) }
    }
}

/// How many worker processes a model version has.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstancesConfig {
    /// Always. 0: none after `idle_timeout` without a request.
    #[schemars(range(max = 64))]
    pub min: u32,
    /// Under load.
    #[schemars(range(min = 1, max = 64))]
    pub max: u32,
    /// Times of the week with another `min`: workers are there before the load comes. Where several hold, the largest
    /// counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<ScheduleConfig>,
}

/// Which requests may share one call of a worker: `true`, `false`, or an object with bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BatchingConfig {
    /// `true`: also for custom code, without the check at load. `None`: by flavour, after the check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The most rows of one call.
    pub max_rows: u32,
    /// The most bytes of input of one call.
    pub max_bytes: ByteSize,
    /// How long a free worker waits for more requests. `0s`: not at all, so that a lone caller never waits.
    pub max_wait: Period,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        Self { enabled: None, max_rows: 256, max_bytes: ByteSize(4 << 20), max_wait: Period::seconds(0) }
    }
}

/// The object's form.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Bounds {
    /// `true`: also for custom code, without the check at load. Default: by flavour, after the check.
    enabled: Option<bool>,
    /// The most rows of one call.
    #[schemars(range(min = 1))]
    max_rows: u32,
    /// The most bytes of input of one call.
    max_bytes: ByteSize,
    /// How long a free worker waits for more requests. `0s`: not at all, so that a lone caller never waits.
    max_wait: Period,
}

impl Default for Bounds {
    fn default() -> Self {
        let BatchingConfig { enabled, max_rows, max_bytes, max_wait } = BatchingConfig::default();
        Self { enabled, max_rows, max_bytes, max_wait }
    }
}

impl<'de> Deserialize<'de> for BatchingConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = BatchingConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `false`, or an object with bounds")
            }

            fn visit_bool<E: de::Error>(self, enabled: bool) -> Result<BatchingConfig, E> {
                Ok(BatchingConfig { enabled: Some(enabled), ..BatchingConfig::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<BatchingConfig, A::Error> {
                let bounds = Bounds::deserialize(de::value::MapAccessDeserializer::new(access))?;
                let Bounds { enabled, max_rows, max_bytes, max_wait } = bounds;
                Ok(BatchingConfig { enabled, max_rows, max_bytes, max_wait })
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for BatchingConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BatchingConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let bounds = Bounds::json_schema(generator);
        json_schema!({
            "description": "Which requests may share one call of a worker.",
            "oneOf": [ { "type": "boolean" }, bounds ]
        })
    }
}
