//! What is known of providers' models: the configuration's word first, then the catalogue's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use indexmap::IndexMap;
use millgate_config::{Capability, CatalogueConfig, ModelConfig};
use millgate_provider::{Price, ProviderKind, catalogue_date};

/// Models remembered per provider that callers named.
const MAX_REMEMBERED: usize = 1024;

/// What is known of one model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// What its tokens cost; `None` when nobody knows, or what is known is too old.
    pub(crate) price: Option<Arc<Price>>,
    /// Tokens of prompt and answer together.
    pub(crate) context: Option<u64>,
    /// Tokens of one answer.
    pub(crate) max_output: Option<u64>,
    /// What it is for, in the catalogue's words.
    pub(crate) mode: Option<String>,
    /// What it can do and what not, by [`Capability`]; what is not there is not known.
    pub(crate) capabilities: Vec<(Capability, bool)>,
    /// The day on which its vendor shuts it down.
    pub(crate) deprecation: Option<String>,
}

impl Known {
    /// Whether the model surely lacks it.
    pub(crate) fn lacks(&self, capability: Capability) -> bool {
        self.capabilities.contains(&(capability, false))
    }

    /// Whether there is anything that a call could ask too much of.
    pub(crate) fn has_bounds(&self) -> bool {
        self.context.is_some() || self.capabilities.iter().any(|(_, can)| !can)
    }
}

/// The models of one provider, read when they are named.
#[derive(Debug)]
pub(crate) struct KnownModels {
    written: IndexMap<String, ModelConfig>,
    /// The catalogue's prices are older than the configuration allows.
    stale: bool,
    remembered: Mutex<HashMap<Box<str>, Arc<Known>>>,
}

impl KnownModels {
    pub(crate) fn new(written: IndexMap<String, ModelConfig>, catalogue: &CatalogueConfig) -> Self {
        let stale = age(catalogue_date()).is_some_and(|seconds| seconds > catalogue.max_age.0.as_secs());
        Self { written, stale, remembered: Mutex::default() }
    }

    /// What is known of a model of `kind`.
    pub(crate) fn of(&self, kind: &ProviderKind, model: &str) -> Arc<Known> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = remembered.get(model) {
            return Arc::clone(known);
        }
        let known = Arc::new(self.read(kind, model));
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(model.into(), Arc::clone(&known));
        }
        known
    }

    fn read(&self, kind: &ProviderKind, model: &str) -> Known {
        let listed = millgate_provider::model(kind, model).unwrap_or_default();
        let mut capabilities: Vec<(Capability, bool)> = Capability::ALL
            .into_iter()
            .filter(|capability| listed.capabilities.iter().any(|word| word == in_catalogue(*capability)))
            .map(|capability| (capability, true))
            .collect();
        let mut known = Known {
            price: listed.price.filter(|_| !self.stale).map(Arc::new),
            context: listed.context,
            max_output: listed.max_output,
            mode: listed.mode,
            capabilities: Vec::new(),
            deprecation: listed.deprecation,
        };
        if let Some(written) = self.written(model) {
            for (capability, can) in &written.capabilities {
                capabilities.retain(|(known, _)| known != capability);
                capabilities.push((*capability, *can));
            }
            known.context = written.context_tokens.or(known.context);
            known.max_output = written.max_output_tokens.or(known.max_output);
            known.price = written.price().map(Arc::new).or(known.price);
        }
        known.capabilities = capabilities;
        known
    }

    /// The entry of the configuration: by the whole name, else by the longest pattern.
    fn written(&self, model: &str) -> Option<&ModelConfig> {
        self.written.get(model).or_else(|| {
            let patterns =
                self.written.iter().filter_map(|(name, written)| Some((name.strip_suffix('*')?, written)));
            let fitting = patterns.filter(|(stem, _)| model.starts_with(stem));
            fitting.max_by_key(|(stem, _)| stem.len()).map(|(_, written)| written)
        })
    }
}

/// The catalogue's word for it.
fn in_catalogue(capability: Capability) -> &'static str {
    match capability {
        Capability::Tools => "tools",
        Capability::Images => "vision",
        Capability::Audio => "audio_in",
        Capability::Files => "pdf",
        Capability::JsonSchema => "json_schema",
        Capability::Reasoning => "reasoning",
    }
}

/// Seconds since the first day of a month written `2026-11`.
fn age(month: &str) -> Option<u64> {
    let (year, month) = month.split_once('-')?;
    let (year, month): (u64, u64) = (year.parse().ok()?, month.parse().ok()?);
    // Months of 30.44 days: a day more or less does not matter here.
    let then = (year.checked_sub(1970)? * 12 + month.checked_sub(1)?) * 2_629_746;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(now.saturating_sub(then))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(yaml: &str, kind: &str, model: &str) -> Arc<Known> {
        let text = format!("version: 1\nproviders:\n  p: {{ kind: openai, api_key: k, models: {yaml} }}\n");
        let loaded = millgate_config::load(&text).unwrap();
        let models = KnownModels::new(loaded.config.providers["p"].models.clone(), &loaded.config.catalogue);
        models.of(millgate_provider::kind(kind).unwrap(), model)
    }

    #[test]
    fn the_configuration_wins_over_the_catalogue() {
        let listed = known("{}", "openai", "gpt-4o-mini");
        assert_eq!(listed.context, Some(128_000));
        assert!(listed.price.is_some() && listed.capabilities.contains(&(Capability::Tools, true)));
        let written = known(
            "{ gpt-4o-*: { context_tokens: 9, capabilities: { tools: false, audio: true }, \
             usd_per_million_tokens: { input: 1, output: 2.5 } }, 'gpt-*': { context_tokens: 5 } }",
            "openai",
            "gpt-4o-mini",
        );
        assert_eq!((written.context, written.max_output), (Some(9), listed.max_output));
        assert!(written.lacks(Capability::Tools) && !written.lacks(Capability::Images));
        assert_eq!(written.price.as_ref().unwrap().per_million(), (1.0, 2.5));
        let unknown = known("{}", "openai", "nobody");
        assert!(unknown.price.is_none() && !unknown.has_bounds());
    }

    #[test]
    fn a_catalogue_that_is_too_old_has_no_prices() {
        let models = KnownModels::new(
            IndexMap::new(),
            &CatalogueConfig { max_age: millgate_config::Period::seconds(1) },
        );
        let known = models.of(millgate_provider::kind("openai").unwrap(), "gpt-4o-mini");
        assert!(known.price.is_none() && known.context.is_some());
        assert!(age("2026-11").is_some() && age("nonsense").is_none());
    }
}
