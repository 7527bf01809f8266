//! Rules of providers' keys, retries and breakers.

use millgate_provider::ProviderKind;

use super::{Checker, Step, steps};
use crate::provider::ProviderConfig;
use crate::value::Period;

/// Keys of one provider.
const MAX_KEYS: usize = 64;
/// The longest pause before a retry.
const LONGEST_WAIT: Period = Period::seconds(60);

impl Checker<'_> {
    /// What is done when a provider fails.
    pub(super) fn upkeep(&mut self, name: &str, provider: &ProviderConfig, kind: &ProviderKind) {
        self.keys(name, provider, kind);
        let at = |field: &str, part: &str| steps!["providers", name, field, part].to_vec();
        if provider.retries.attempts > 10 {
            self.error(&at("retries", "attempts"), "more than 10 retries help nobody", "");
        }
        if provider.retries.budget_percent > 100 {
            let hint = "for example `budget_percent: 20`";
            self.error(&at("retries", "budget_percent"), "expected per cent from 0 to 100", hint);
        }
        if provider.retries.max_wait > LONGEST_WAIT {
            self.error(&at("retries", "max_wait"), "nobody waits for longer than `60s`", "");
        }
        let breaker = &provider.breaker;
        if breaker.failures == 0 {
            let hint = "`enabled: false` does without a breaker";
            self.error(&at("breaker", "failures"), "a breaker opens after one failure or more", hint);
        }
        self.above_zero(&at("breaker", "pause"), Some(breaker.pause));
        if breaker.max_pause < breaker.pause {
            self.error(&at("breaker", "max_pause"), "`max_pause` is shorter than `pause`", "");
        }
    }

    fn keys(&mut self, name: &str, provider: &ProviderConfig, kind: &ProviderKind) {
        let at = |rest: &[Step]| [steps!["providers", name, "api_keys"], rest].concat();
        let keys = &provider.api_keys;
        if keys.is_empty() {
            return;
        }
        for (field, given) in
            [("api_key", provider.api_key.is_some()), ("credential", provider.credential.is_some())]
        {
            if given {
                let reason = format!("`{field}` and `api_keys` exclude each other");
                self.error(&at(&[]), reason, "leave one of them out");
            }
        }
        if kind.auth_header("k").is_none() {
            self.error(&at(&[]), format!("{} takes no key", kind.title), "leave them out");
        }
        if keys.len() > MAX_KEYS {
            self.error(&at(&[]), format!("a provider has at most {MAX_KEYS} keys"), "");
        }
        for (number, key) in keys.iter().enumerate() {
            let called = key.called(number);
            if key.key.is_clear_text() {
                let hint = "use `env:NAME` or `file:PATH`";
                self.warning(&at(steps![number]), "the secret stands in clear text", hint);
            }
            if keys[..number].iter().any(|other| other.key.expose() == key.key.expose()) {
                self.error(&at(steps![number]), "the key stands here twice", "one `weight` says the same");
            }
            let before = keys[..number].iter().enumerate();
            if before.map(|(place, other)| other.called(place)).any(|other| other == called) {
                self.error(&at(steps![number, "name"]), format!("the name `{called}` is taken"), "");
            }
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if called.is_empty() || called.len() > 64 || !called.bytes().all(fits) {
                let hint = "1 to 64 letters, digits, `-`, `_` and `.`; it stands in logs and metrics";
                self.error(&at(steps![number, "name"]), "this is no name for a key", hint);
            }
            if key.weight == 0 {
                self.error(
                    &at(steps![number, "weight"]),
                    "a weight is at least 1",
                    "leave the key out instead",
                );
            }
            self.limits(&key.limits, &at(steps![number, "limits"]));
        }
    }
}
