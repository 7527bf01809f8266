//! A JSON value that keeps what checking needs: integers apart from floats, members in order, and a refusal of
//! members that stand twice.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use millgate_types::{Fault, code};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// A parsed value, borrowing text from the body where it has no escapes.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// An integer that an `i64` holds.
    Int(i64),
    /// An integer above that.
    Big(u64),
    /// A number with a fraction or exponent, or an integer above `u64`.
    Float(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// A list.
    Array(Vec<Json<'a>>),
    /// An object, members in the order written.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

const DUPLICATE: &str = "duplicate member ";
/// Objects up to this size are searched for doubles pairwise; larger ones through a hash set.
const PAIRWISE: usize = 16;

impl<'a> Json<'a> {
    /// Parses a whole body. Invalid JSON answers `invalid_json` with the byte's offset, a doubled member
    /// `duplicate_member`.
    pub fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        serde_json::from_slice(body).map_err(|error| {
            let offset = offset(body, error.line(), error.column());
            let text = error.to_string();
            let text = text.split(" at line ").next().unwrap_or_default();
            if text.starts_with(DUPLICATE) {
                Fault::client(code::DUPLICATE_MEMBER, format!("{text} at byte {offset}"))
            } else {
                Fault::client(code::INVALID_JSON, format!("{text} at byte {offset}"))
            }
        })
    }

    /// The member of an object.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Json<'a>> {
        match self {
            Self::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The word for the value's type in error messages. Never the value.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) | Self::Big(_) => "integer",
            Self::Float(_) => "number with a fraction or exponent",
            Self::Text(_) => "string",
            Self::Array(_) => "list",
            Self::Object(_) => "object",
        }
    }
}

impl Json<'_> {
    /// The value as JSON text. Equal texts are equal values.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Big(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(members) => serializer.collect_map(members.iter().map(|(key, value)| (key, value))),
        }
    }
}

fn offset(body: &[u8], line: usize, column: usize) -> usize {
    let start = match line {
        0 | 1 => 0,
        _ => body
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(line - 2)
            .map_or(0, |(index, _)| index + 1),
    };
    (start + column.saturating_sub(1)).min(body.len())
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::Big(value), Json::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Json<'de>)> = Vec::new();
        let mut seen: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let double = if members.len() < PAIRWISE {
                members.iter().any(|(known, _)| *known == key)
            } else {
                if seen.is_empty() {
                    seen.extend(members.iter().map(|(known, _)| known.clone()));
                }
                !seen.insert(key.clone())
            };
            if double {
                let shown: String = key.chars().take(64).filter(|c| !c.is_control()).collect();
                return Err(A::Error::custom(format!("{DUPLICATE}`{shown}`")));
            }
            members.push((key, map.next_value()?));
        }
        Ok(Json::Object(members))
    }
}

struct KeySeed;

impl<'de> serde::de::DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(value.to_owned()))
            }
        }
        deserializer.deserialize_str(Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_json_names_the_byte() {
        let fault = Json::parse(b"{\"inputs\":\n [1, NaN]}").unwrap_err();
        assert_eq!(fault.code, code::INVALID_JSON);
        assert!(fault.public.ends_with("at byte 16"), "{fault}");
        assert_eq!(Json::parse(b"").unwrap_err().code, code::INVALID_JSON);
        assert_eq!(Json::parse(b"[1] 2").unwrap_err().code, code::INVALID_JSON);
    }

    #[test]
    fn a_member_that_stands_twice_is_refused_at_every_level() {
        for body in [r#"{"a":1,"a":2}"#, r#"{"x":[{"b":1,"\u0062":2}]}"#] {
            assert_eq!(Json::parse(body.as_bytes()).unwrap_err().code, code::DUPLICATE_MEMBER);
        }
        let wide = (0..100).map(|n| format!("\"k{n}\":0")).collect::<Vec<_>>().join(",");
        assert!(Json::parse(format!("{{{wide}}}").as_bytes()).is_ok());
        let fault = Json::parse(format!("{{{wide},\"k57\":1}}").as_bytes()).unwrap_err();
        assert_eq!(fault.code, code::DUPLICATE_MEMBER);
    }

    #[test]
    fn integers_and_floats_stay_apart() {
        let value = Json::parse(b"[1, 1.0, 18446744073709551615, 1e3, -2]").unwrap();
        assert_eq!(
            value,
            Json::Array(vec![
                Json::Int(1),
                Json::Float(1.0),
                Json::Big(u64::MAX),
                Json::Float(1000.0),
                Json::Int(-2)
            ])
        );
    }
}
