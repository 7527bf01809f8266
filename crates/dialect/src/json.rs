//! JSON in and out: a strict reader that refuses what two parsers could read differently, paths for error
//! messages, tolerant look-ups for what upstreams send, and writers that keep a fixed key order.

use std::fmt;

use millgate_types::{Fault, code};
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use crate::scan;

/// Parses a caller's body: one JSON value, no trailing data, no member named twice.
pub(crate) fn parse(body: &[u8]) -> Result<Value, Fault> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Strict.deserialize(&mut reader).map_err(|error| refuse(body, &error))?;
    reader.end().map_err(|error| refuse(body, &error))?;
    Ok(value)
}

/// Parses a caller's body that must be an object.
pub(crate) fn parse_object(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    match parse(body)? {
        Value::Object(map) => Ok(map),
        other => Err(Fault::client(
            code::INVALID_VALUE,
            format!("the body must be a JSON object, not {}", type_name(&other)),
        )),
    }
}

const DUPLICATE: &str = "duplicate member ";

fn refuse(body: &[u8], error: &serde_json::Error) -> Fault {
    let text = error.to_string();
    let offset = byte_offset(body, error.line(), error.column());
    let reason = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    if let Some(name) = reason.strip_prefix(DUPLICATE) {
        return Fault::client(
            code::DUPLICATE_MEMBER,
            format!("the member {name} stands twice (byte {offset})"),
        )
        .with_param(name.trim_matches('`').to_owned());
    }
    Fault::client(code::INVALID_JSON, format!("the body is not valid JSON at byte {offset}: {reason}"))
}

fn byte_offset(body: &[u8], line: usize, column: usize) -> usize {
    let start = match line {
        0 | 1 => 0,
        _ => memchr::memchr_iter(b'\n', body).nth(line - 2).map_or(0, |newline| newline + 1),
    };
    (start + column.saturating_sub(1)).min(body.len())
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            match map.entry(key) {
                Entry::Vacant(place) => {
                    place.insert(members.next_value_seed(Strict)?);
                }
                Entry::Occupied(place) => {
                    let shown: String = place.key().chars().take(64).collect();
                    return Err(A::Error::custom(format_args!("{DUPLICATE}`{shown}`")));
                }
            }
        }
        Ok(Value::Object(map))
    }
}

/// Where in the body a value stands; written out only when something is wrong with it.
#[derive(Clone, Copy)]
pub(crate) enum At<'a> {
    Root,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl<'a> At<'a> {
    pub(crate) fn key(&'a self, key: &'a str) -> At<'a> {
        At::Key(self, key)
    }
    pub(crate) fn index(&'a self, index: usize) -> At<'a> {
        At::Index(self, index)
    }
    /// A fault that names this place.
    pub(crate) fn invalid(&self, public: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
        Fault::invalid_value(self.to_string(), public)
    }
    /// A required member is not there.
    pub(crate) fn missing(&self, key: &str) -> Fault {
        let at = self.key(key);
        at.invalid(format!("`{at}` is required"))
    }
    fn expected(&self, what: &str, found: &Value) -> Fault {
        self.invalid(format!("`{self}` must be {what}, not {}", type_name(found)))
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Root => Ok(()),
            At::Key(At::Root, key) => f.write_str(key),
            At::Key(parent, key) => write!(f, "{parent}.{key}"),
            At::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

pub(crate) fn string(value: Value, at: &At<'_>) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(at.expected("a string", &other)),
    }
}

pub(crate) fn boolean(value: &Value, at: &At<'_>) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| at.expected("a boolean", value))
}

pub(crate) fn array(value: Value, at: &At<'_>) -> Result<Vec<Value>, Fault> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(at.expected("an array", &other)),
    }
}

pub(crate) fn object(value: Value, at: &At<'_>) -> Result<Map<String, Value>, Fault> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(at.expected("an object", &other)),
    }
}

pub(crate) fn unsigned(value: &Value, at: &At<'_>, least: u64, most: u64) -> Result<u64, Fault> {
    let range = || {
        if most == u64::MAX { format!("at least {least}") } else { format!("between {least} and {most}") }
    };
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(found) if (least..=most).contains(&found) => Ok(found),
            _ => Err(at.invalid(format!("`{at}` must be an integer of {}", range()))),
        },
        other => Err(at.expected("an integer", other)),
    }
}

pub(crate) fn signed(value: &Value, at: &At<'_>) -> Result<i64, Fault> {
    match value {
        Value::Number(number) => {
            number.as_i64().ok_or_else(|| at.invalid(format!("`{at}` must be a 64-bit integer")))
        }
        other => Err(at.expected("an integer", other)),
    }
}

pub(crate) fn number(value: &Value, at: &At<'_>, least: f64, most: f64) -> Result<f64, Fault> {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(found) if (least..=most).contains(&found) => Ok(found),
            _ => Err(at.invalid(format!("`{at}` must be between {least} and {most}"))),
        },
        other => Err(at.expected("a number", other)),
    }
}

pub(crate) fn strings(value: Value, at: &At<'_>) -> Result<Vec<String>, Fault> {
    array(value, at)?.into_iter().enumerate().map(|(index, item)| string(item, &at.index(index))).collect()
}

/// Takes a string out of an upstream's object; anything but a string counts as absent.
pub(crate) fn take_string(map: &mut Map<String, Value>, key: &str) -> Option<String> {
    match map.shift_remove(key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Takes a non-null value out of an upstream's object.
pub(crate) fn take(map: &mut Map<String, Value>, key: &str) -> Option<Value> {
    map.shift_remove(key).filter(|value| !value.is_null())
}

/// A non-negative integer, also when written as `5.0`; over 10^9 it is not believed.
pub(crate) fn count(value: Option<&Value>) -> Option<u64> {
    const MOST: u64 = 1_000_000_000;
    let number = value?;
    let found = number.as_u64().or_else(|| {
        number
            .as_f64()
            .filter(|float| *float >= 0.0 && float.fract() == 0.0 && *float <= MOST as f64)
            .map(|float| float as u64)
    })?;
    (found <= MOST).then_some(found)
}

/// Writes any value. Serialising into memory cannot fail for the types used here.
pub(crate) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// Writes a string, as [`write`] does and faster: plain text is copied a block at a time.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(scan::plain_length(rest));
        out.extend_from_slice(plain);
        let Some((byte, behind)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            b'\n' => out.extend(b"\\n"),
            b'\t' => out.extend(b"\\t"),
            b'\r' => out.extend(b"\\r"),
            0x08 => out.extend(b"\\b"),
            0x0C => out.extend(b"\\f"),
            _ => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
                out.extend([b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(*byte)]);
            }
        }
        rest = behind;
    }
    out.push(b'"');
}

/// Writes an object member by member.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }
    /// Writes the key; the caller writes the value.
    pub(crate) fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        write_string(self.out, key);
        self.out.push(b':');
        self.out
    }
    pub(crate) fn string(&mut self, key: &str, value: &str) {
        write_string(self.key(key), value);
    }
    pub(crate) fn field<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        write(self.key(key), value);
    }
    pub(crate) fn some<T: Serialize>(&mut self, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.field(key, value);
        }
    }
    pub(crate) fn object(&mut self, key: &str) -> Object<'_> {
        Object::new(self.key(key))
    }
    pub(crate) fn array(&mut self, key: &str) -> Array<'_> {
        Array::new(self.key(key))
    }
    pub(crate) fn end(self) {
        self.out.push(b'}');
    }
}

/// Writes an array item by item.
pub(crate) struct Array<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Array<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'[');
        Self { out, empty: true }
    }
    /// Starts an item; the caller writes it.
    pub(crate) fn item(&mut self) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out
    }
    pub(crate) fn object(&mut self) -> Object<'_> {
        Object::new(self.item())
    }
    pub(crate) fn push<T: Serialize + ?Sized>(&mut self, value: &T) {
        write(self.item(), value);
    }
    pub(crate) fn end(self) {
        self.out.push(b']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> Fault {
        parse(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn bad_json_names_the_byte() {
        for (body, offset) in [("", 0), ("{", 0), ("{\"a\": NaN}", 6), ("{}x", 2), ("{\n\"a\": 1,\n}", 10)] {
            let fault = refused(body);
            assert_eq!(fault.code, code::INVALID_JSON, "{body}");
            assert!(fault.public.contains(&format!("at byte {offset}")), "{body}: {}", fault.public);
        }
        assert_eq!(refused("[\"\\ud800\"]").code, code::INVALID_JSON);
        assert_eq!(refused(&"[".repeat(200)).code, code::INVALID_JSON);
        assert_eq!(parse(b"\"\xff\"").unwrap_err().code, code::INVALID_JSON);
    }

    #[test]
    fn a_member_that_stands_twice_is_refused() {
        let fault = refused(r#"{"a":1,"b":{"c":1,"c":2}}"#);
        assert_eq!(fault.code, code::DUPLICATE_MEMBER);
        assert_eq!(fault.param.as_deref(), Some("c"));
    }

    proptest::proptest! {
        #[test]
        fn strings_are_written_as_serde_writes_them(
            text in "(\\PC|[\\x00-\\x7f]|[a-z ]{30,70}){0,9}",
        ) {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            write_string(&mut ours, &text);
            write(&mut theirs, &text);
            proptest::prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn paths_read_like_code() {
        let (messages, content);
        let root = At::Root;
        messages = root.key("messages");
        let first = messages.index(2);
        content = first.key("content");
        assert_eq!(content.to_string(), "messages[2].content");
    }
}
