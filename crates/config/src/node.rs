//! The YAML document as a tree whose every node knows where it stands, and a serde deserializer over it that
//! says which node is at fault.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_saphyr::Spanned;

/// A place in the file; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
    /// Where the node stood in the file as written, for example `routes[1].model.name`. Forms that rewrite
    /// the tree keep it, so that problems are reported in the words of the file.
    pub(crate) path: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) place: Place,
}

impl Node {
    /// Parses one YAML document. The error is the place and the reason.
    pub(crate) fn parse(text: &str) -> Result<Self, (Place, String)> {
        // YAML 1.2: `off` and `no` are words.
        let options = serde_saphyr::options! { strict_booleans: true };
        let spanned: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let place = error
                .location()
                .map(|location| Place { line: location.line(), column: location.column() })
                .unwrap_or_default();
            (place, first_line(&error))
        })?;
        let mut node = spanned.into_node();
        node.annotate(String::new());
        Ok(node)
    }

    fn annotate(&mut self, path: String) {
        match &mut self.value {
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.annotate(format!("{path}[{index}]"));
                }
            }
            Value::Map(members) => {
                for (key, item) in members {
                    item.annotate(join(&path, &key.name));
                }
            }
            _ => {}
        }
        self.path = path;
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(members) => members.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn members(&self) -> &[(Key, Self)] {
        match &self.value {
            Value::Map(members) => members,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A node that stands where `self` stands.
    pub(crate) fn with(&self, value: Value) -> Self {
        Self { value, place: self.place, path: self.path.clone() }
    }

    pub(crate) fn with_text(&self, text: impl Into<String>) -> Self {
        self.with(Value::Text(text.into()))
    }

    pub(crate) fn with_map(&self, members: Vec<(&str, Self)>) -> Self {
        let members = members
            .into_iter()
            .map(|(name, node)| (Key { name: name.to_owned(), place: node.place }, node))
            .collect();
        self.with(Value::Map(members))
    }

    /// The node that `steps` lead to.
    pub(crate) fn at(&self, steps: &[Step]) -> Option<&Self> {
        steps.iter().try_fold(self, |node, step| match step {
            Step::Member(name) => node.get(name),
            Step::Item(index) => node.items().get(*index),
        })
    }

    /// Takes the node that `steps` lead to out of the tree; false when there is none.
    pub(crate) fn remove(&mut self, steps: &[Step]) -> bool {
        let Some((last, outer)) = steps.split_last() else { return false };
        let mut node = self;
        for step in outer {
            let inner = match (step, &mut node.value) {
                (Step::Member(name), Value::Map(members)) => {
                    members.iter_mut().find(|(key, _)| key.name == *name).map(|(_, node)| node)
                }
                (Step::Item(index), Value::List(items)) => items.get_mut(*index),
                _ => None,
            };
            match inner {
                Some(inner) => node = inner,
                None => return false,
            }
        }
        match (last, &mut node.value) {
            (Step::Member(name), Value::Map(members)) => {
                let before = members.len();
                members.retain(|(key, _)| key.name != *name);
                members.len() < before
            }
            (Step::Item(index), Value::List(items)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The reason alone: the crate's messages repeat the place and may show an excerpt.
fn first_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default().to_owned();
    let cut =
        [" at line ", ", set Duplicate", "; use from_str"].iter().filter_map(|part| line.find(part)).min();
    line[..cut.unwrap_or(line.len())].to_owned()
}

/// One step from a node to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Member(String),
    Item(usize),
}

// ---- parsing: YAML events -> Node -------------------------------------------------------------------

enum Raw {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

trait IntoNode {
    fn into_node(self) -> Node;
}

fn place_of<T>(spanned: &Spanned<T>) -> Place {
    Place { line: spanned.referenced.line(), column: spanned.referenced.column() }
}

impl IntoNode for Spanned<Raw> {
    fn into_node(self) -> Node {
        let place = place_of(&self);
        let value = match self.value {
            Raw::Null => Value::Null,
            Raw::Bool(value) => Value::Bool(value),
            Raw::Signed(value) => Value::Signed(value),
            Raw::Unsigned(value) => Value::Unsigned(value),
            Raw::Float(value) => Value::Float(value),
            Raw::Text(value) => Value::Text(value),
            Raw::List(items) => Value::List(items.into_iter().map(IntoNode::into_node).collect()),
            Raw::Map(members) => Value::Map(
                members
                    .into_iter()
                    .map(|(key, node)| {
                        let place = place_of(&key);
                        (Key { name: key.value, place }, node.into_node())
                    })
                    .collect(),
            ),
        };
        Node { value, place, path: String::new() }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;
        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
                Raw::deserialize(deserializer)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
                Ok(u64::try_from(value).map_or(Raw::Signed(value), Raw::Unsigned))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
                Ok(Raw::Unsigned(value))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = access.next_entry()? {
                    members.push(member);
                }
                Ok(Raw::Map(members))
            }
        }
        deserializer.deserialize_any(RawVisitor)
    }
}

// ---- reading: Node -> typed config -------------------------------------------------------------------

/// Why a tree does not fit a type, and the steps to the node at fault.
#[derive(Debug)]
pub(crate) struct NodeError {
    pub(crate) kind: ErrorKind,
    /// From the root; filled in while the error travels outwards.
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) enum ErrorKind {
    UnknownField { expected: &'static [&'static str] },
    UnknownVariant { found: String, expected: &'static [&'static str] },
    MissingField(&'static str),
    Other(String),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for NodeError {}

impl NodeError {
    fn new(kind: ErrorKind) -> Self {
        Self { kind, steps: Vec::new() }
    }

    fn inside(mut self, step: Step) -> Self {
        self.steps.insert(0, step);
        self
    }
}

impl de::Error for NodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(ErrorKind::Other(message.to_string()))
    }

    fn unknown_field(_field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(ErrorKind::UnknownField { expected })
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(ErrorKind::UnknownVariant { found: variant.to_owned(), expected })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(ErrorKind::MissingField(field))
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match unexpected {
            de::Unexpected::Str(_) => "text",
            de::Unexpected::Bool(_) => "a boolean",
            de::Unexpected::Signed(_) | de::Unexpected::Unsigned(_) => "an integer",
            de::Unexpected::Float(_) => "a number",
            de::Unexpected::Unit | de::Unexpected::Option => "nothing",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a mapping",
            _ => "something else",
        };
        let expected = expected.to_string();
        let expected = match expected.as_str() {
            "a string" | "a borrowed string" => "text",
            "a sequence" => "a list",
            "a map" => "a mapping",
            other if other.starts_with("struct ") => "a mapping",
            "u16" | "u32" | "u64" | "usize" => "a non-negative integer",
            other => other,
        };
        Self::new(ErrorKind::Other(format!("expected {expected}, found {found}")))
    }
}

impl<'de> Deserializer<'de> for &Node {
    type Error = NodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate() }),
            Value::Map(members) => visitor.visit_map(Members { members: members.iter(), current: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        match &self.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            // A variant with content: a map whose one key is its name.
            Value::Map(members) if members.len() == 1 => {
                let members = Members { members: members.iter(), current: None };
                visitor.visit_enum(MapAccessDeserializer::new(members))
            }
            _ => Err(NodeError::new(ErrorKind::Other(format!("expected one of {}", variants.join(", "))))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = NodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NodeError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        seed.deserialize(node).map(Some).map_err(|error| error.inside(Step::Item(index)))
    }
}

struct Members<'a> {
    members: std::slice::Iter<'a, (Key, Node)>,
    current: Option<&'a (Key, Node)>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = NodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NodeError> {
        self.current = self.members.next();
        let Some((key, _)) = self.current else { return Ok(None) };
        seed.deserialize(key.name.as_str().into_deserializer())
            .map(Some)
            .map_err(|error: NodeError| error.inside(Step::Member(key.name.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NodeError> {
        let (key, node) =
            self.current.ok_or_else(|| NodeError::new(ErrorKind::Other("value without a key".to_owned())))?;
        seed.deserialize(node).map_err(|error| error.inside(Step::Member(key.name.clone())))
    }
}
