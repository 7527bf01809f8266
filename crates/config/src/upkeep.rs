//! What is done when providers, or keys of them, fail: several keys, retries, pacing, the circuit breaker.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::limits::LimitConfig;
use crate::value::{Period, Secret};

/// One of several keys of a provider: a secret by reference, or an object with it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderKey {
    /// The key.
    pub key: Secret,
    /// What logs, metrics and the admin API call it. Default: its place in the list, `1` being the first.
    pub name: Option<String>,
    /// Its share of the calls, in proportion to the others'. Default: 1.
    pub weight: u32,
    /// What the provider allows with it.
    pub limits: Vec<LimitConfig>,
    /// It is written as a secret only.
    bare: bool,
}

/// A key as an object.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyObject {
    /// The key, by reference: `env:OPENAI_KEY_2`, `file:/run/secrets/key`.
    key: Secret,
    /// What logs, metrics and the admin API call it. Default: its place in the list, `1` being the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Its share of the calls, in proportion to the others'. Default: 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(min = 1))]
    weight: u32,
    /// What the provider allows with this key: a call beyond it goes out with another one. `by` is `all` unless it says
    /// otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    limits: Vec<LimitConfig>,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_one(weight: &u32) -> bool {
    *weight == 1
}

impl<'de> Deserialize<'de> for ProviderKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = ProviderKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret by reference (`env:NAME`, `file:PATH`), or an object with `key`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ProviderKey, E> {
                let key = Secret::deserialize(de::value::StrDeserializer::new(text))?;
                Ok(ProviderKey { key, name: None, weight: 1, limits: Vec::new(), bare: true })
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<ProviderKey, A::Error> {
                let KeyObject { key, name, weight, limits } =
                    KeyObject::deserialize(MapAccessDeserializer::new(access))?;
                Ok(ProviderKey { key, name, weight, limits, bare: false })
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

impl Serialize for ProviderKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.bare {
            return self.key.serialize(serializer);
        }
        let Self { key, name, weight, limits, .. } = self.clone();
        KeyObject { key, name, weight, limits }.serialize(serializer)
    }
}

impl JsonSchema for ProviderKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProviderKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (bare, object) = (generator.subschema_for::<Secret>(), generator.subschema_for::<KeyObject>());
        json_schema!({ "anyOf": [bare, object], "description": "A key: a secret by reference, or an object with it." })
    }
}

impl ProviderKey {
    /// What it is called, as the one at `place` of the list.
    #[must_use]
    pub fn called(&self, place: usize) -> String {
        self.name.clone().unwrap_or_else(|| (place + 1).to_string())
    }
}

/// What is made of the rate limits that a provider speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pacing {
    /// After 429 nothing is sent with that key to that model until the time that the provider names (at most a minute). What
    /// answers say is left is believed until the reset that they name (at most a minute too): calls that do not fit go out
    /// with another key, or to the next target of a fallback. A call without either is sent, and the provider decides.
    #[default]
    Learned,
    /// Every call is sent.
    Off,
}

/// Trying again at the same target.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetriesConfig {
    /// How often a call is tried again when the last target of its plan fails: where there is a next one, that is tried at
    /// once instead. What is tried again: connections that fail or break, 408, 429, 5xx, before anything has been
    /// answered. 0: never.
    #[schemars(range(max = 10))]
    pub attempts: u32,
    /// How many of a provider's calls may be tried again, in per cent, beside ten more.
    #[schemars(range(max = 100))]
    pub budget_percent: u32,
    /// The longest pause before one: a provider that wants a longer one (`Retry-After`) is not asked again, and the
    /// caller is told. At most `60s`.
    pub max_wait: Period,
}

impl Default for RetriesConfig {
    fn default() -> Self {
        Self { attempts: 2, budget_percent: 20, max_wait: Period::seconds(5) }
    }
}

/// When a provider is not called any more for a while.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Without it every call is sent, and keys that are refused are not set aside.
    pub enabled: bool,
    /// It opens after this many failures in a row: connections, time-outs, 5xx, answers that are none.
    #[schemars(range(min = 1))]
    pub failures: u32,
    /// The first pause. Then one call tries; each try that fails doubles the pause. Each is up to a fifth shorter or longer.
    pub pause: Period,
    /// The longest pause.
    pub max_pause: Period,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { enabled: true, failures: 5, pause: Period::seconds(1), max_pause: Period::seconds(30) }
    }
}
