//! Where an endpoint's requests go: the nodes of a route as they are written, and their schema.

use std::fmt;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::node::Step;

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
    /// Each answer is the next step's input.
    Chain(Vec<StepConfig>),
    /// All are asked, and their answers become one.
    Ensemble(EnsembleConfig),
    /// The answer of one decides whether another is asked.
    Switch(Box<SwitchConfig>),
}

/// Targets with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Split(pub Vec<(String, u32)>);

/// A step of a chain: a route, or an object with the route and the body that it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct StepConfig {
    /// Where the step goes. A step may also go to a model of an LLM provider, or to an endpoint of the type `llm/v1/chat`.
    pub to: RouteConfig,
    /// The body that it is sent, as a template over `result` (what the step before answered), `request` (what the caller
    /// sent) and `rows`. Default: the result in the form that the step's model takes; for an LLM one message with it.
    pub body: Option<serde_json::Value>,
}

/// How the members' answers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CombineBy {
    /// The mean of each number, weighted.
    Mean,
    /// The answer that most members give for a row, by weight; of several the one whose member stands first.
    Vote,
    /// The largest of each number.
    Max,
    /// The smallest of each number.
    Min,
    /// The middle one of each number; of an even count the mean of the two in the middle.
    Median,
}

/// Several models that answer the same input.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnsembleConfig {
    /// The members; all are asked at the same time.
    #[schemars(length(min = 2))]
    pub of: Vec<RouteConfig>,
    /// How their answers become one, row by row.
    pub by: CombineBy,
    /// The weight of each member, for `mean` and `vote`. Default: the same for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<f64>>,
    /// How many members must answer. Default: all of them; the first that fails is the ensemble's failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub at_least: Option<u32>,
}

/// What a switch decides on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SwitchPer {
    /// Each row for itself: only the rows for which a case holds are asked again, and their answers take the places of
    /// the first ones.
    #[default]
    Row,
    /// The answer as a whole.
    Call,
}

/// A model whose answer decides whether another one is asked.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchConfig {
    /// Who is asked first.
    pub of: RouteConfig,
    /// The first case that holds counts.
    #[schemars(length(min = 1))]
    pub cases: Vec<CaseConfig>,
    /// Where rows go for which no case holds: `keep` (their answer stays) or a route.
    #[serde(rename = "else", default, skip_serializing_if = "Else::is_keep")]
    pub otherwise: Else,
    /// Whether each row is decided on, or the answer as a whole.
    #[serde(default)]
    pub per: SwitchPer,
}

/// A case of a switch.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseConfig {
    /// A condition in CEL over `result` (the row's prediction; with `per: call` all predictions), `request` (the row's
    /// input; with `per: call` the caller's body) and `rows`. Beside CEL's own there are `max`, `min`, `sum` and
    /// `index_of_max` over lists of numbers.
    #[schemars(length(max = 4096))]
    pub when: String,
    /// Who is asked instead.
    pub to: RouteConfig,
}

/// What happens when no case holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Else {
    /// The first answer stays.
    #[default]
    Keep,
    /// Another one is asked.
    To(RouteConfig),
}

impl Else {
    fn is_keep(&self) -> bool {
        *self == Self::Keep
    }
}

impl RouteConfig {
    /// The node's parts, and the steps that lead to them in the file.
    #[must_use]
    pub(crate) fn parts(&self) -> Vec<(Vec<Step>, &Self)> {
        let item = |node: &str, number: usize| vec![Step::from(node), Step::from(number)];
        match self {
            Self::Target(_) | Self::Split(_) => Vec::new(),
            Self::Fallback(nodes) => {
                nodes.iter().enumerate().map(|(number, node)| (item("fallback", number), node)).collect()
            }
            Self::Chain(steps) => steps
                .iter()
                .enumerate()
                .map(|(number, step)| {
                    let mut at = item("chain", number);
                    at.extend(step.body.is_some().then(|| Step::from("to")));
                    (at, &step.to)
                })
                .collect(),
            Self::Ensemble(ensemble) => {
                let member = |(number, node)| {
                    (vec![Step::from("ensemble"), Step::from("of"), Step::from(number)], node)
                };
                ensemble.of.iter().enumerate().map(member).collect()
            }
            Self::Switch(switch) => {
                let at = |field: &str| vec![Step::from("switch"), Step::from(field)];
                let mut parts = vec![(at("of"), &switch.of)];
                for (number, case) in switch.cases.iter().enumerate() {
                    parts
                        .push(([at("cases"), vec![Step::from(number), Step::from("to")]].concat(), &case.to));
                }
                if let Else::To(node) = &switch.otherwise {
                    parts.push((at("else"), node));
                }
                parts
            }
        }
    }

    /// Every target that the route names.
    #[must_use]
    pub fn targets(&self) -> Vec<&str> {
        match self {
            Self::Target(target) => vec![target],
            Self::Split(split) => split.0.iter().map(|(target, _)| target.as_str()).collect(),
            node => node.parts().into_iter().flat_map(|(_, part)| part.targets()).collect(),
        }
    }
}

// ---- the forms in the file --------------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NodeName {
    Split,
    Fallback,
    Chain,
    Ensemble,
    Switch,
}

impl NodeName {
    fn read<'de, A: MapAccess<'de>>(self, access: &mut A) -> Result<RouteConfig, A::Error> {
        Ok(match self {
            Self::Split => RouteConfig::Split(access.next_value()?),
            Self::Fallback => RouteConfig::Fallback(access.next_value()?),
            Self::Chain => RouteConfig::Chain(access.next_value()?),
            Self::Ensemble => RouteConfig::Ensemble(access.next_value()?),
            Self::Switch => RouteConfig::Switch(access.next_value()?),
        })
    }
}

const ONE_KIND: &str = "a route node has one kind only; nest the other inside it";

impl<'de> Deserialize<'de> for RouteConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RouteVisitor;
        impl<'de> Visitor<'de> for RouteVisitor {
            type Value = RouteConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a target (text), `split`, `fallback`, `chain`, `ensemble` or `switch`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RouteConfig, E> {
                Ok(RouteConfig::Target(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RouteConfig, A::Error> {
                let Some(name) = access.next_key::<NodeName>()? else {
                    return Err(de::Error::custom(
                        "a route node is `split`, `fallback`, `chain`, `ensemble` or `switch`",
                    ));
                };
                let node = name.read(&mut access)?;
                if access.next_key::<NodeName>()?.is_some() {
                    return Err(de::Error::custom(ONE_KIND));
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
            Self::Chain(steps) => serializer.collect_map([("chain", steps)]),
            Self::Ensemble(ensemble) => serializer.collect_map([("ensemble", ensemble)]),
            Self::Switch(switch) => serializer.collect_map([("switch", switch)]),
        }
    }
}

impl<'de> Deserialize<'de> for StepConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Name {
            To,
            Body,
            Split,
            Fallback,
            Chain,
            Ensemble,
            Switch,
        }
        struct StepVisitor;
        impl<'de> Visitor<'de> for StepVisitor {
            type Value = StepConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a target (text), a route node, or an object with `to` and `body`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StepConfig, E> {
                Ok(StepConfig { to: RouteConfig::Target(text.to_owned()), body: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<StepConfig, A::Error> {
                let (mut to, mut body) = (None, None);
                while let Some(name) = access.next_key::<Name>()? {
                    let node = match name {
                        Name::To => access.next_value()?,
                        Name::Body => {
                            body = Some(access.next_value()?);
                            continue;
                        }
                        Name::Split => NodeName::Split.read(&mut access)?,
                        Name::Fallback => NodeName::Fallback.read(&mut access)?,
                        Name::Chain => NodeName::Chain.read(&mut access)?,
                        Name::Ensemble => NodeName::Ensemble.read(&mut access)?,
                        Name::Switch => NodeName::Switch.read(&mut access)?,
                    };
                    if to.replace(node).is_some() {
                        return Err(de::Error::custom(ONE_KIND));
                    }
                }
                let to = to.ok_or_else(|| de::Error::missing_field("to"))?;
                Ok(StepConfig { to, body })
            }
        }
        deserializer.deserialize_any(StepVisitor)
    }
}

impl Serialize for StepConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.body {
            None => self.to.serialize(serializer),
            Some(body) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("to", &self.to)?;
                map.serialize_entry("body", body)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Else {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match RouteConfig::deserialize(deserializer)? {
            RouteConfig::Target(word) if word == "keep" => Self::Keep,
            route => Self::To(route),
        })
    }
}

impl Serialize for Else {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Keep => serializer.serialize_str("keep"),
            Self::To(route) => route.serialize(serializer),
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
        let step = generator.subschema_for::<StepConfig>();
        let ensemble = generator.subschema_for::<EnsembleConfig>();
        let switch = generator.subschema_for::<SwitchConfig>();
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
                { "type": "object", "additionalProperties": false, "required": ["chain"], "properties": {
                    "chain": {
                        "description": "Steps in order; each answer is the next step's input.",
                        "type": "array", "minItems": 1, "items": step } } },
                { "type": "object", "additionalProperties": false, "required": ["ensemble"], "properties": {
                    "ensemble": ensemble } },
                { "type": "object", "additionalProperties": false, "required": ["switch"], "properties": {
                    "switch": switch } },
            ]
        })
    }
}

impl JsonSchema for StepConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Step".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let route = generator.subschema_for::<RouteConfig>();
        json_schema!({
            "description": "A step of a chain: a route, or an object with the route and the body that it is sent.",
            "oneOf": [
                route.clone(),
                { "type": "object", "additionalProperties": false, "required": ["to"], "properties": {
                    "to": route,
                    "body": { "description": "The body that the step is sent, as a template over `result` (what the step before answered), `request` (what the caller sent) and `rows`. A text that is exactly `$result`, `$request` or `$rows` stands for that value; other texts are Jinja templates. Default: the result in the form that the step's model takes; for an LLM one message with it." } } },
            ]
        })
    }
}

impl JsonSchema for Else {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Else".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<RouteConfig>()
    }
}
