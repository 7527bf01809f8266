//! The catalogue's file, `catalog.yaml`, and how its entries are read.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::{HeaderName, HeaderValue};
use millgate_dialect::Quirks;
use millgate_types::{Dialect, Operation};
use serde::Deserialize;

use crate::{AuthScheme, Family, ProviderKind};

/// Every provider, in the file's order.
pub(crate) fn entries() -> &'static [ProviderKind] {
    &CATALOG
}

static CATALOG: LazyLock<Vec<ProviderKind>> = LazyLock::new(|| {
    let entries: Vec<Entry> = serde_saphyr::from_str(include_str!("../catalog.yaml"))
        .expect("the catalogue is part of the binary and parsed by this crate's tests");
    entries.into_iter().map(Entry::resolve).collect()
});

/// What a provider takes in place of a fixed key. Access tokens are taken by all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proof {
    /// The service that AWS signatures are made for; `None`: they are not taken.
    pub aws_service: Option<String>,
    /// Google's tokens are looked for when nothing is configured.
    pub google: bool,
    /// Where OAuth clients get their tokens, on the base address's host.
    pub token_path: Option<String>,
    /// What those tokens are for.
    pub scope: Option<String>,
}

impl Proof {
    /// The machine may have a credential without any configuration.
    #[must_use]
    pub fn is_ambient(&self) -> bool {
        self.aws_service.is_some() || self.google
    }
}

/// A value that addresses and paths are completed with, where they say `{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The field of the configuration: `region`, `project`, `location`.
    pub name: String,
    /// Environment variables that may hold it; the first that is set counts.
    #[serde(default)]
    pub env: Vec<String>,
    /// What it is otherwise.
    #[serde(default)]
    pub default: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    also: Vec<String>,
    title: String,
    #[serde(default)]
    dialect: DialectName,
    #[serde(default)]
    base_url: Option<String>,
    #[serde(default)]
    global_base_url: Option<String>,
    #[serde(default)]
    settings: Vec<Setting>,
    #[serde(default)]
    auth: Auth,
    #[serde(default)]
    proof: Proof,
    #[serde(default)]
    key_env: Option<String>,
    #[serde(default)]
    prices: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    paths: Paths,
    #[serde(default)]
    stream_paths: Paths,
    #[serde(default)]
    versioned_paths: Paths,
    #[serde(default)]
    quirks: Quirks,
    #[serde(default)]
    families: Vec<FamilyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FamilyEntry {
    models: Vec<String>,
    #[serde(default)]
    dialect: DialectName,
    paths: Paths,
    #[serde(default)]
    stream_paths: Paths,
    #[serde(default)]
    quirks: Quirks,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DialectName {
    #[default]
    Openai,
    Anthropic,
    Gemini,
    Bedrock,
    Cohere,
    Ollama,
    Mlflow,
    Scoring,
    Inference,
}

impl DialectName {
    fn dialect(self) -> Dialect {
        match self {
            Self::Openai => Dialect::OpenAi,
            Self::Anthropic => Dialect::Anthropic,
            Self::Gemini => Dialect::Gemini,
            Self::Bedrock => Dialect::Bedrock,
            Self::Cohere => Dialect::Cohere,
            Self::Ollama => Dialect::Ollama,
            Self::Mlflow => Dialect::Mlflow,
            Self::Scoring => Dialect::Scoring,
            Self::Inference => Dialect::Inference,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Auth {
    #[default]
    Bearer,
    None,
    Header(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Paths {
    pub(crate) chat: Option<String>,
    pub(crate) completions: Option<String>,
    pub(crate) embeddings: Option<String>,
    /// In Cohere's shape, whatever the provider's dialect is.
    pub(crate) rerank: Option<String>,
    pub(crate) moderations: Option<String>,
    pub(crate) count_tokens: Option<String>,
    /// OpenAI's Responses API, which some providers have beside chat completions.
    pub(crate) responses: Option<String>,
    /// In the scoring protocol's shape, or in the Open Inference Protocol's where that is the provider's dialect.
    pub(crate) predict: Option<String>,
}

impl Paths {
    pub(crate) fn of(&self, operation: Operation) -> Option<&str> {
        match operation {
            Operation::Chat => self.chat.as_deref(),
            Operation::Completions => self.completions.as_deref(),
            Operation::Embeddings => self.embeddings.as_deref(),
            Operation::Rerank => self.rerank.as_deref(),
            Operation::Moderations => self.moderations.as_deref(),
            Operation::CountTokens => self.count_tokens.as_deref(),
            Operation::Predict => self.predict.as_deref(),
            Operation::Native => None,
        }
    }
}

impl Entry {
    fn resolve(self) -> ProviderKind {
        let header =
            |name: &str| HeaderName::from_bytes(name.as_bytes()).expect("a header's name in the catalogue");
        let mut kind = ProviderKind {
            name: self.name,
            also: self.also,
            title: self.title,
            dialect: self.dialect.dialect(),
            base_url: self.base_url,
            global_base_url: self.global_base_url,
            settings: self.settings,
            auth: match &self.auth {
                Auth::Bearer => AuthScheme::Bearer,
                Auth::None => AuthScheme::None,
                Auth::Header(name) => AuthScheme::Header(header(name)),
            },
            proof: self.proof,
            key_env: self.key_env,
            prices: self.prices,
            headers: self
                .headers
                .iter()
                .map(|(name, value)| {
                    (header(name), HeaderValue::from_str(value).expect("a header's value in the catalogue"))
                })
                .collect(),
            quirks: self.quirks,
            families: Vec::new(),
            paths: self.paths,
            stream_paths: self.stream_paths,
            versioned_paths: self.versioned_paths,
        };
        let families = self.families.into_iter().map(|family| Family {
            models: family.models,
            kind: ProviderKind {
                dialect: family.dialect.dialect(),
                quirks: family.quirks,
                paths: family.paths,
                stream_paths: family.stream_paths,
                ..kind.clone()
            },
        });
        kind.families = families.collect();
        kind
    }
}
