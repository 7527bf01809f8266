//! References to secrets that are kept elsewhere: `secret:NAME` in the gateway's own store, `vault:path#field` in
//! HashiCorp Vault. This crate asks nobody: who loads a document hands their values in, and learns which references it
//! holds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

/// Stands in for values that nobody looked up: long enough for every rule.
const PLACEHOLDER: &str = "placeholder-of-a-secret-that-was-not-looked-up";

/// Values of references, or why there are none.
#[derive(Clone, Default)]
pub struct Values {
    known: HashMap<String, Result<String, String>>,
    placeholders: bool,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Values {
    /// Takes every well-formed reference as good, for documents that are checked and not served.
    #[must_use]
    pub fn placeholders() -> Self {
        Self { known: HashMap::new(), placeholders: true }
    }

    /// Says what a reference stands for: its value, or a reason for people.
    pub fn insert(&mut self, reference: impl Into<String>, value: Result<String, String>) {
        self.known.insert(reference.into(), value);
    }

    fn value(&self, reference: &str) -> Result<String, String> {
        match self.known.get(reference) {
            Some(value) => value.clone(),
            None if self.placeholders => Ok(PLACEHOLDER.to_owned()),
            None => Err("only a gateway with a store knows `secret:` and `vault:` references".to_owned()),
        }
    }
}

/// What a reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept<'a> {
    /// In the gateway's store, by name.
    Stored(&'a str),
    /// A field of a secret of Vault, by its path: the mount, then the secret's own.
    Vault {
        /// `secret/openai`.
        path: &'a str,
        /// `api_key`.
        field: &'a str,
    },
}

impl<'a> Kept<'a> {
    /// Reads `secret:NAME` and `vault:path#field`; `None` for anything else. `Err`: it begins like one.
    pub fn parse(text: &'a str) -> Option<Result<Self, String>> {
        if let Some(name) = text.strip_prefix("secret:") {
            return Some(if is_secret_name(name) {
                Ok(Self::Stored(name))
            } else {
                Err("a secret's name has 1 to 64 letters, digits, `-`, `_`, `.`".to_owned())
            });
        }
        let (path, field) = match text.strip_prefix("vault:")?.split_once('#') {
            Some((path, field)) => (path.trim_matches('/'), field),
            None => return Some(Err("the field is missing: `vault:secret/openai#api_key`".to_owned())),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let steps = path.split('/').all(|step| !matches!(step, "" | "." | ".."));
        let well_formed = steps && path.contains('/') && path.chars().all(plain) && !field.is_empty();
        Some(if well_formed {
            Ok(Self::Vault { path, field })
        } else {
            Err("expected a mount, a path and a field: `vault:secret/openai#api_key`".to_owned())
        })
    }
}

/// Whether a secret of the store may have this name.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(plain)
}

#[derive(Default)]
struct Loading {
    values: Option<Values>,
    seen: Vec<(String, String)>,
}

thread_local! {
    // serde's traits carry nothing through: this is what the scalars of the document being read see.
    static LOADING: RefCell<Loading> = RefCell::default();
}

/// Calls `work` with `values` for its references. Gives what it gave, and every reference that it read with its value.
pub(crate) fn reading<T>(values: &Values, work: impl FnOnce() -> T) -> (T, Vec<(String, String)>) {
    LOADING.with_borrow_mut(|loading| *loading = Loading { values: Some(values.clone()), seen: Vec::new() });
    let done = work();
    let mut seen = LOADING.with_borrow_mut(std::mem::take).seen;
    seen.sort();
    seen.dedup();
    (done, seen)
}

/// The value of a reference that is kept elsewhere.
pub(crate) fn look_up(reference: &str) -> Result<String, String> {
    LOADING.with_borrow(|loading| loading.values.clone().unwrap_or_default().value(reference))
}

/// Notes what a reference stood for.
pub(crate) fn note(reference: &str, value: &str) {
    LOADING.with_borrow_mut(|loading| loading.seen.push((reference.to_owned(), value.to_owned())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{load, load_with};

    #[test]
    fn references_are_read_and_malformed_ones_are_told() {
        assert_eq!(Kept::parse("env:X"), None);
        assert_eq!(Kept::parse("secret:openai-1"), Some(Ok(Kept::Stored("openai-1"))));
        let found = Kept::parse("vault:secret/a/b#key");
        assert_eq!(found, Some(Ok(Kept::Vault { path: "secret/a/b", field: "key" })));
        for wrong in
            ["secret:", "secret:a b", "vault:secret/a", "vault:a#b", "vault:a/../b#c", "vault:a/b?x#c"]
        {
            assert!(Kept::parse(wrong).unwrap().is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_handed_in_and_what_was_read_is_told() {
        let text = "version: 1\nendpoints: [ { name: chat, type: llm/v1/chat, route: p/m } ]\n\
                    providers: { p: { kind: openai, api_key: secret:openai } }\n";
        let refused = load(text).unwrap_err();
        assert!(refused[0].reason.contains("only a gateway with a store"), "{refused:?}");
        assert!(load_with(text, &Values::placeholders()).is_ok());
        let mut values = Values::default();
        values.insert("secret:openai", Ok("sk-1".to_owned()));
        let loaded = load_with(text, &values).unwrap();
        assert_eq!(loaded.config.providers["p"].api_key.as_ref().unwrap().expose(), "sk-1");
        assert_eq!(loaded.references().collect::<Vec<_>>(), ["secret:openai"]);
        let before = loaded.config.fingerprint;
        values.insert("secret:openai", Ok("sk-2".to_owned()));
        assert_ne!(load_with(text, &values).unwrap().config.fingerprint, before);
        values.insert("secret:openai", Err("no secret `openai` is stored".to_owned()));
        let missing = load_with(text, &values).unwrap_err();
        assert_eq!((missing[0].line, missing[0].path.as_str()), (3, "providers.p.api_key"));
        assert_eq!(missing[0].reason, "no secret `openai` is stored");
    }
}
