//! Providers and their models: how they are reached, what they can do and what they cost.

use indexmap::IndexMap;
use millgate_provider::{Price, ProviderKind, RatesPerMillion, Settings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::credential::CredentialConfig;
use crate::limits::{LimitConfig, is_default};
use crate::upkeep::{BreakerConfig, Pacing, ProviderKey, RetriesConfig};
use crate::value::{Expanded, Period, Secret};

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
