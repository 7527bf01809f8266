//! Where an endpoint's requests go: the nodes of a route as they are written, and their schema.

use std::fmt;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Where requests go: a target (`provider/model`, a `models:/` URI, another endpoint's name), or a node with
/// more of them. Nodes nest.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteConfig {
    /// A target or an endpoint's name.
    Target(String),
    /// A share of the traffic for each.
    Split(Split),
    /// The next one when one fails.
    Fallback(Vec<RouteConfig>),
}

/// Targets with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Split(pub Vec<(String, u32)>);

impl<'de> Deserialize<'de> for RouteConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RouteVisitor;
        impl<'de> Visitor<'de> for RouteVisitor {
            type Value = RouteConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a target (text), `split` or `fallback`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RouteConfig, E> {
                Ok(RouteConfig::Target(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RouteConfig, A::Error> {
                #[derive(Deserialize)]
                #[serde(rename_all = "snake_case")]
                enum NodeName {
                    Split,
                    Fallback,
                }
                let Some(name) = access.next_key::<NodeName>()? else {
                    return Err(de::Error::custom("a route node is `split` or `fallback`"));
                };
                let node = match name {
                    NodeName::Split => RouteConfig::Split(access.next_value()?),
                    NodeName::Fallback => RouteConfig::Fallback(access.next_value()?),
                };
                if access.next_key::<NodeName>()?.is_some() {
                    return Err(de::Error::custom(
                        "a route node has one kind only; nest the other inside it",
                    ));
                }
                Ok(node)
            }
        }
        deserializer.deserialize_any(RouteVisitor)
    }
}

impl Serialize for RouteConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Target(target) => serializer.serialize_str(target),
            Self::Split(split) => {
                let weights: IndexMap<&str, u32> =
                    split.0.iter().map(|(target, weight)| (target.as_str(), *weight)).collect();
                serializer.collect_map([("split", weights)])
            }
            Self::Fallback(nodes) => serializer.collect_map([("fallback", nodes)]),
        }
    }
}

impl<'de> Deserialize<'de> for Split {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let weights = IndexMap::<String, u32>::deserialize(deserializer)?;
        Ok(Self(weights.into_iter().collect()))
    }
}

impl JsonSchema for RouteConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Route".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let node = generator.subschema_for::<Self>();
        json_schema!({
            "description": "Where requests go: a target (`provider/model`, a `models:/` URI, an endpoint's name) or a node. Nodes nest.",
            "oneOf": [
                { "type": "string", "minLength": 1 },
                { "type": "object", "additionalProperties": false, "required": ["split"], "properties": {
                    "split": {
                        "description": "Targets with weights; a target gets its share of the traffic.",
                        "type": "object", "minProperties": 1,
                        "additionalProperties": { "type": "integer", "minimum": 0 } } } },
                { "type": "object", "additionalProperties": false, "required": ["fallback"], "properties": {
                    "fallback": {
                        "description": "Tried in order until one answers.",
                        "type": "array", "minItems": 1, "items": node } } },
            ]
        })
    }
}
