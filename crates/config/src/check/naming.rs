//! Rules over names: of endpoints, their aliases and patterns, and of models in a provider's list.

use super::{Checker, is_name, steps};
use crate::document::EndpointConfig;
use crate::node::Step;
use crate::provider::ProviderConfig;

impl Checker<'_> {
    /// An endpoint's name and aliases: well-formed, and nobody else's.
    pub(super) fn names(&mut self, index: usize, endpoint: &EndpointConfig) {
        let at = |more: &[Step]| [steps!["endpoints", index], more].concat();
        let well_formed =
            if endpoint.name.contains('*') { is_pattern(&endpoint.name) } else { is_name(&endpoint.name) };
        if !well_formed {
            let hint = "use letters, digits, `_`, `-` and `.`; one `*` stands for any text";
            self.error(&at(steps!["name"]), format!("`{}` is not a name", endpoint.name), hint);
        }
        if endpoint.name.contains('*') && !endpoint.aliases.is_empty() {
            self.error(&at(steps!["aliases"]), "a pattern has no aliases", "declare another endpoint");
        }
        let earlier = &self.config.endpoints[..index];
        let taken = |name: &String, own: &[String]| {
            earlier.iter().any(|other| other.name == *name || other.aliases.contains(name))
                || own.contains(name)
        };
        if taken(&endpoint.name, &[]) {
            let hint = "names are unique over endpoints and routes";
            self.error(&at(steps!["name"]), format!("the name `{}` is taken", endpoint.name), hint);
        }
        for (number, alias) in endpoint.aliases.iter().enumerate() {
            let place = at(steps!["aliases", number]);
            if !is_model_name(alias) {
                let hint = "use letters, digits and `._:/@-`, at most 256 of them";
                self.error(&place, format!("`{alias}` is not a name that clients may send"), hint);
            }
            if taken(alias, &endpoint.aliases[..number]) || *alias == endpoint.name {
                self.error(&place, format!("the name `{alias}` is taken"), "");
            }
        }
    }

    /// What the configuration says of a provider's models.
    pub(super) fn models(&mut self, provider: &str, written: &ProviderConfig) {
        for (name, model) in &written.models {
            let at = |field: &str| steps!["providers", provider, "models", name.as_str(), field].to_vec();
            let stem = name.strip_suffix('*').unwrap_or(name);
            if name.is_empty() || stem.contains('*') {
                let hint = "a `*` stands at the end";
                self.error(&at("")[..4], format!("`{name}` is not the name of a model"), hint);
            }
            for (field, tokens) in
                [("context_tokens", model.context_tokens), ("max_output_tokens", model.max_output_tokens)]
            {
                if tokens == Some(0) {
                    self.error(&at(field), "expected at least one token", "");
                }
            }
            if model.sets_price() && model.price().is_none() {
                let tokens = model.usd_per_million_tokens.is_some();
                let field = if tokens { "usd_per_million_tokens" } else { "usd_per_search" };
                self.error(&at(field), "a price is not below zero", "");
            }
        }
    }
}

/// A name with one `*`. Slashes may stand in it: `openai/*`.
fn is_pattern(name: &str) -> bool {
    name.len() <= 128
        && name.matches('*').count() == 1
        && name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '*')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./:@*".contains(&byte))
}

/// What `model` may be in a request.
fn is_model_name(name: &str) -> bool {
    name.len() <= 256
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte))
}
