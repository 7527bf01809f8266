//! Providers as data: where they are, how they want to be spoken to, and what their errors mean. No IO.
//!
//! A provider that speaks a known dialect is one entry in `catalog.yaml`; nothing elsewhere may ask for a
//! provider by name.

mod catalogue;
mod classify;
mod counted;
mod entries;
mod hint;
mod price;
mod sigv4;

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use millgate_dialect::{Codec, Quirks, codec};
use millgate_types::{Dialect, Fault, Operation, code};

pub use catalogue::{ModelInfo, catalogue_date, model, models};
pub use classify::classify;
pub use counted::counted;
use entries::Paths;
pub use entries::{Proof, Setting};
pub use hint::{Remaining, remaining, retry_after};
pub use price::{Price, RatesPerMillion};
pub use sigv4::{AwsKeys, Scope, Signature, Unsigned, sign};

/// What is known of a provider.
#[derive(Clone, Debug)]
pub struct ProviderKind {
    /// The catalogue's spelling.
    pub name: String,
    /// Other spellings.
    pub also: Vec<String>,
    /// For messages to people.
    pub title: String,
    /// What it speaks.
    pub dialect: Dialect,
    /// Without a slash at the end; `None` when every user has their own. May hold settings, as `{region}`.
    pub base_url: Option<String>,
    /// The address at the location `global`, where that is another.
    pub global_base_url: Option<String>,
    /// What addresses and paths are completed with.
    pub settings: Vec<Setting>,
    /// What is taken in place of a fixed key.
    pub proof: Proof,
    /// How it wants the key.
    pub auth: AuthScheme,
    /// The environment variable that usually holds the key.
    pub key_env: Option<String>,
    /// Its name in the price book, where that is another.
    pub prices: Option<String>,
    /// Sent with every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How it differs from its dialect.
    pub quirks: Quirks,
    /// Models that are spoken to otherwise than the rest; the first that fits counts.
    pub families: Vec<Family>,
    paths: Paths,
    stream_paths: Paths,
    versioned_paths: Paths,
}

/// What addresses and paths are completed with, by name.
pub type Settings = BTreeMap<String, String>;

/// Models of a provider that have a dialect, paths and quirks of their own.
#[derive(Clone, Debug)]
pub struct Family {
    /// How their names begin; with `*` in front, what they hold somewhere.
    pub models: Vec<String>,
    /// The provider as these models know it.
    pub kind: ProviderKind,
}

impl Family {
    /// Whether the model belongs to it.
    #[must_use]
    pub fn has(&self, model: &str) -> bool {
        self.models.iter().any(|pattern| match pattern.strip_prefix('*') {
            Some(part) => model.contains(part),
            None => model.starts_with(pattern.as_str()),
        })
    }
}

/// Where an operation is found, and in which dialect it is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<'a> {
    /// The provider's own, or another one that it speaks at this path.
    pub dialect: Dialect,
    /// What it does.
    pub operation: Operation,
    /// Only for streams.
    pub stream: bool,
    /// Under the base address. `{model}` stands for the model's name, `{version}` for the API version.
    pub path: &'a str,
}

impl ProviderKind {
    /// What stands for registered models that chat: it takes OpenAI's chat and has no address. It is no entry of the
    /// catalogue, so that nobody can configure it.
    #[must_use]
    pub fn registered_model() -> Self {
        Self {
            name: "mlflow".to_owned(),
            also: Vec::new(),
            title: "registered".to_owned(),
            dialect: Dialect::OpenAi,
            base_url: None,
            global_base_url: None,
            settings: Vec::new(),
            proof: Proof::default(),
            auth: AuthScheme::None,
            key_env: None,
            prices: None,
            headers: Vec::new(),
            quirks: Quirks {
                // Its answers are read, and written anew for the caller.
                translate: vec![Operation::Chat.name().to_owned()],
                supports_stream_options: false,
                ..Quirks::default()
            },
            families: Vec::new(),
            paths: Paths::default(),
            stream_paths: Paths::default(),
            versioned_paths: Paths::default(),
        }
    }

    /// The codec of its dialect.
    #[must_use]
    pub fn codec(&self) -> &'static dyn Codec {
        codec(self.dialect)
    }

    /// The provider as one of its models knows it: its family's dialect and paths, else its own.
    #[must_use]
    pub fn for_model(&self, model: &str) -> &Self {
        self.families.iter().find(|family| family.has(model)).map_or(self, |family| &family.kind)
    }

    /// The base address for these settings, completed. `None` when every user has their own.
    #[must_use]
    pub fn base_url(&self, settings: &Settings) -> Option<String> {
        let is_global = settings.get("location").is_some_and(|location| location == "global");
        let template = self.global_base_url.as_ref().filter(|_| is_global).or(self.base_url.as_ref())?;
        Some(complete(template, settings))
    }

    /// Whether any of its models has the operation.
    #[must_use]
    pub fn serves(&self, operation: Operation) -> bool {
        self.path(operation).is_some() || self.families.iter().any(|family| family.kind.serves(operation))
    }

    /// The path of an operation under the base address; `None` when the provider has no such operation.
    #[must_use]
    pub fn path(&self, operation: Operation) -> Option<&str> {
        self.paths.of(operation)
    }

    /// Everything the provider serves. Where the configuration names an API version, the paths that hold one
    /// take the place of the plain ones.
    #[must_use]
    pub fn ways(&self, versioned: bool) -> Vec<Way<'_>> {
        let operations = [
            Operation::Chat,
            Operation::Completions,
            Operation::Embeddings,
            Operation::Moderations,
            Operation::CountTokens,
        ];
        let paths = if versioned { &self.versioned_paths } else { &self.paths };
        let mut found = Vec::with_capacity(4);
        for (paths, stream) in [(&self.stream_paths, true), (paths, false)] {
            found.extend(operations.into_iter().filter_map(|operation| {
                Some(Way { dialect: self.dialect, operation, stream, path: paths.of(operation)? })
            }));
        }
        // Whoever reranks does it in Cohere's shape.
        found.extend(self.paths.rerank.as_deref().map(|path| Way {
            dialect: Dialect::Cohere,
            operation: Operation::Rerank,
            stream: false,
            path,
        }));
        let is_inference = self.dialect == Dialect::Inference;
        found.extend(self.paths.predict.as_deref().map(|path| Way {
            dialect: if is_inference { Dialect::Inference } else { Dialect::Scoring },
            operation: Operation::Predict,
            stream: false,
            path,
        }));
        found.extend(paths.responses.as_deref().map(|path| Way {
            dialect: Dialect::Responses,
            operation: Operation::Chat,
            stream: false,
            path,
        }));
        found
    }

    /// Whether there are paths with an API version.
    #[must_use]
    pub fn takes_version(&self) -> bool {
        self.versioned_paths.chat.is_some()
    }

    /// The path, or the fault that tells the caller.
    pub fn require_path(&self, operation: Operation) -> Result<&str, Fault> {
        self.path(operation).ok_or_else(|| {
            Fault::client(
                code::NOT_IMPLEMENTED,
                format!("the {} route is not implemented for {} models", operation.name(), self.title),
            )
        })
    }

    /// Whether calls without a key are pointless.
    #[must_use]
    pub fn needs_key(&self) -> bool {
        self.auth != AuthScheme::None && self.key_env.is_some() && !self.proof.is_ambient()
    }

    /// The header that carries the key, marked as sensitive. `None` when the provider takes no key, or the
    /// key cannot stand in a header.
    #[must_use]
    pub fn auth_header(&self, key: &str) -> Option<(HeaderName, HeaderValue)> {
        let (name, mut value) = match &self.auth {
            AuthScheme::None => return None,
            AuthScheme::Bearer => {
                (http::header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).ok()?)
            }
            AuthScheme::Header(name) => (name.clone(), HeaderValue::from_str(key).ok()?),
        };
        value.set_sensitive(true);
        Some((name, value))
    }
}

/// Puts settings into a template: `{region}` becomes the region. What is no setting stays.
#[must_use]
pub fn complete(template: &str, settings: &Settings) -> String {
    settings
        .iter()
        .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// How a provider wants its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthScheme {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// The key alone in this header.
    Header(HeaderName),
    /// No key.
    None,
}

/// The path of an operation; see [`ProviderKind::path`].
#[must_use]
pub fn path(kind: &ProviderKind, operation: Operation) -> Option<&str> {
    kind.path(operation)
}

/// A provider by its name or one of its other spellings; case and `-` or `_` do not matter.
#[must_use]
pub fn kind(name: &str) -> Option<&'static ProviderKind> {
    let wanted = plain(name);
    kinds()
        .iter()
        .find(|kind| plain(&kind.name) == wanted || kind.also.iter().any(|also| plain(also) == wanted))
}

fn plain(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('-', "_")
}

/// Every provider, in the catalogue's order.
#[must_use]
pub fn kinds() -> &'static [ProviderKind] {
    entries::entries()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_sound() {
        let mut seen = std::collections::HashSet::new();
        for kind in kinds() {
            for name in kind.also.iter().chain([&kind.name]) {
                assert!(seen.insert(plain(name)), "{name} stands twice");
            }
            if let Some(url) = &kind.base_url {
                assert!(url.starts_with("http") && !url.ends_with('/'), "{url}");
            }
            let operations = [
                Operation::Chat,
                Operation::Completions,
                Operation::Embeddings,
                Operation::Rerank,
                Operation::Predict,
            ];
            for family in &kind.families {
                let path = operations.iter().find_map(|operation| family.kind.path(*operation));
                assert!(path.is_some_and(|path| path.starts_with('/')), "{} {:?}", kind.name, family.models);
            }
            let paths: Vec<&str> = operations.iter().filter_map(|operation| kind.path(*operation)).collect();
            assert!(!paths.is_empty() && paths.iter().all(|path| path.starts_with('/')), "{}", kind.name);
        }
    }

    #[test]
    fn names_are_found_however_they_are_spelled() {
        assert_eq!(kind("OpenAI").unwrap().name, "openai");
        assert_eq!(kind("openai_compatible").unwrap().name, "openai-compatible");
        assert_eq!(kind("databricks-model-serving").unwrap().name, "databricks");
        assert!(kind("nobody").is_none());
    }

    #[test]
    fn what_a_provider_lacks_is_said_with_its_title() {
        let fault = kind("anthropic").unwrap().require_path(Operation::Embeddings).unwrap_err();
        assert_eq!(fault.code, code::NOT_IMPLEMENTED);
        assert_eq!(fault.public, "the embeddings route is not implemented for Anthropic models");
    }

    #[test]
    fn keys_travel_as_the_provider_wants() {
        let (name, value) = kind("anthropic").unwrap().auth_header("k").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap(), value.is_sensitive()), ("x-api-key", "k", true));
        assert_eq!(kind("openai").unwrap().auth_header("k").unwrap().1, "Bearer k");
        assert!(kind("ollama").unwrap().auth_header("k").is_none());
        assert!(kind("openai").unwrap().auth_header("a\nb").is_none());
    }
}
