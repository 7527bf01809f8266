//! Scalars with a meaning: durations, sizes, expanded text, secrets.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Serialize, Serializer};

use crate::reference::{self, Kept};

/// A length of time, written with its unit: `500ms`, `60s`, `5m`, `1h`, `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// Whole seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Reads `500ms`, `60s`, `5m`, `1h`, `1d`; the words `second`, `minute`, `hour`, `day` with an optional
    /// count in front, as MLflow writes renewal periods.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, unit) = text.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let count: u64 = match count {
            "" if unit.len() > 2 => 1,
            "" => {
                return Err("a duration is a number and a unit: `500ms`, `60s`, `5m`, `1h`, `1d`".to_owned());
            }
            digits => digits.parse().map_err(|_| "the number is too large".to_owned())?,
        };
        let millis: u64 = match unit.trim_end_matches('s') {
            "m" if unit == "ms" => 1,
            "" if unit == "s" => 1000,
            "" => return Err("the unit is missing: write `500ms`, `60s`, `5m`, `1h` or `1d`".to_owned()),
            "second" | "sec" => 1000,
            "m" | "min" | "minute" => 60_000,
            "h" | "hour" => 3_600_000,
            "d" | "day" => 86_400_000,
            "w" | "week" => 7 * 86_400_000,
            "month" => 30 * 86_400_000,
            "year" => 365 * 86_400_000,
            _ => return Err(format!("`{unit}` is not a unit of time; use `ms`, `s`, `m`, `h` or `d`")),
        };
        let millis = count.checked_mul(millis).ok_or("the duration is too long")?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) { write!(f, "{}s", millis / 1000) } else { write!(f, "{millis}ms") }
    }
}

/// A number of bytes, written as a number or with a unit: `512KiB`, `10MiB`, `2GiB`, `10MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Reads a size.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, unit) = text.split_at(digits);
        let count: u64 =
            count.parse().map_err(|_| "a size is a number and a unit: `10MiB`, `2GiB`".to_owned())?;
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            other => return Err(format!("`{other}` is not a unit of size; use `KiB`, `MiB` or `GiB`")),
        };
        count.checked_mul(factor).map(Self).ok_or_else(|| "the size is too large".to_owned())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes != 0 && bytes % (1 << 30) == 0 => write!(f, "{}GiB", bytes >> 30),
            bytes if bytes != 0 && bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes != 0 && bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

/// Text in which `${env:NAME}`, `${file:PATH}` and `{{ NAME }}` are replaced when the file is read. The
/// replacement happens inside one scalar, after parsing: a value can never add YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    raw: String,
    value: String,
}

impl Expanded {
    /// Text as it is.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Self { raw: text.to_owned(), value: text.to_owned() }
    }

    /// The text after replacement.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.value
    }

    fn parse(raw: &str) -> Result<Self, String> {
        let mut value = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some((start, open, close)) = next_reference(rest) {
            value.push_str(&rest[..start]);
            let inner = &rest[start + open.len()..];
            let end = inner.find(close).ok_or_else(|| format!("`{open}` is not closed by `{close}`"))?;
            let reference = inner[..end].trim();
            value.push_str(&match (open, reference.split_once(':')) {
                ("{{", _) => template_variable(reference)?,
                (_, Some(("env", name))) => variable(name)?,
                (_, Some(("file", path))) => noted(&format!("file:{}", path.trim()), secret_file(path)?),
                _ => {
                    return Err(format!(
                        "`${{{reference}}}` is not a reference; use `${{env:NAME}}` or `${{file:PATH}}`"
                    ));
                }
            });
            rest = &inner[end + close.len()..];
        }
        value.push_str(rest);
        Ok(Self { raw: raw.to_owned(), value })
    }
}

/// A value that may be another one later.
fn noted(reference: &str, value: String) -> String {
    reference::note(reference, &value);
    value
}

fn next_reference(text: &str) -> Option<(usize, &'static str, &'static str)> {
    let dollar = text.find("${").map(|at| (at, "${", "}"));
    let braces = text.find("{{").map(|at| (at, "{{", "}}"));
    match (dollar, braces) {
        (Some(left), Some(right)) => Some(if left.0 <= right.0 { left } else { right }),
        (left, right) => left.or(right),
    }
}

fn variable(name: &str) -> Result<String, String> {
    let name = name.trim();
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        Ok(_) => Err(format!("the environment variable `{name}` is empty")),
        Err(_) => Err(format!("the environment variable `{name}` is not set")),
    }
}

/// `{{ ENV_X }}` is the variable `ENV_X`, or `X` when that is not set.
fn template_variable(name: &str) -> Result<String, String> {
    variable(name).or_else(|error| match name.strip_prefix("ENV_") {
        Some(short) => {
            variable(short).map_err(|_| format!("neither `{name}` nor `{short}` is set in the environment"))
        }
        None => Err(error),
    })
}

/// A file's content without the newline at its end, which would break a header.
fn secret_file(path: &str) -> Result<String, String> {
    let path = path.trim();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the file `{path}` cannot be read: {}", error.kind()))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() { Err(format!("the file `{path}` is empty")) } else { Ok(text.to_owned()) }
}

/// A secret by reference: `env:NAME`, `file:PATH`, `secret:NAME` (the gateway's store), `vault:path#field`, `$NAME`,
/// `{{ NAME }}`. Text that is none of these is taken
/// as the path of an existing file (as MLflow does), else as the secret itself, with a warning.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    raw: Option<String>,
    value: String,
}

impl Secret {
    /// The secret. Hand it to the wire, never to a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// A secret that does not come from a file.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self { raw: None, value: value.into() }
    }

    /// The secret stands in the document itself.
    #[must_use]
    pub fn is_clear_text(&self) -> bool {
        self.raw.is_none()
    }

    /// It is kept where a gateway looks it up: `secret:NAME`, `vault:path#field`.
    #[must_use]
    pub fn is_kept_elsewhere(&self) -> bool {
        self.raw.as_deref().is_some_and(|raw| Kept::parse(raw.trim()).is_some())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let by_reference = |value: String| Self { raw: Some(text.to_owned()), value };
        let trimmed = text.trim();
        let found = if let Some(name) = trimmed.strip_prefix("env:") {
            by_reference(variable(name)?)
        } else if let Some(path) = trimmed.strip_prefix("file:") {
            by_reference(noted(trimmed, secret_file(path)?))
        } else if let Some(kept) = Kept::parse(trimmed) {
            kept?;
            by_reference(noted(trimmed, reference::look_up(trimmed)?))
        } else if trimmed.starts_with("${") || trimmed.starts_with("{{") {
            by_reference(Expanded::parse(trimmed)?.value)
        } else if let Some(name) = trimmed.strip_prefix('$') {
            by_reference(variable(name)?)
        } else if std::path::Path::new(trimmed).is_file() {
            by_reference(noted(&format!("file:{trimmed}"), secret_file(trimmed)?))
        } else {
            Self::new(trimmed)
        };
        if found.value.is_empty() {
            return Err("the secret is empty".to_owned());
        }
        if found.value.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err("the secret holds a control character".to_owned());
        }
        Ok(found)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.raw.as_deref().unwrap_or("***"))
    }
}

impl Serialize for Expanded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.raw)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a scalar with a parser of its own. Numbers are shown to the parser as text.
pub(crate) struct Scalar<T> {
    pub(crate) expecting: &'static str,
    pub(crate) parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }
}

macro_rules! scalar {
    ($type:ident, $expecting:literal, $pattern:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($crate::value::Scalar { expecting: $expecting, parse: Self::parse })
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": ["string", "integer"], "pattern": $pattern, "description": $expecting })
            }
        }
    };
}

pub(crate) use scalar;

scalar!(Period, "a duration such as `500ms`, `60s`, `5m`, `1h`", r"^\s*\d*\s*[A-Za-z]+\s*$");
scalar!(ByteSize, "a size such as `10MiB`", r"^\s*\d+\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?\s*$");
scalar!(Expanded, "text; `${env:NAME}` and `${file:PATH}` are replaced", "");
scalar!(Secret, "a secret by reference: `env:NAME`, `file:PATH`, `secret:NAME` or `vault:path#field`", ".");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_with_their_units() {
        let millis = |text: &str| Period::parse(text).map(|period| period.0.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("60s"), Ok(60_000));
        assert_eq!(millis("5m"), Ok(300_000));
        assert_eq!(millis("minute"), Ok(60_000));
        assert_eq!(millis("5 minutes"), Ok(300_000));
        assert_eq!(millis("1d"), Ok(86_400_000));
        assert!(millis("60").is_err());
        assert_eq!(millis("0s"), Ok(0));
        assert_eq!(millis("3 weeks"), Ok(3 * 604_800_000));
        assert!(millis("3 moons").is_err());
        assert_eq!(ByteSize::parse("10MiB"), Ok(ByteSize(10 << 20)));
        assert_eq!(ByteSize::parse("7"), Ok(ByteSize(7)));
        assert!(ByteSize::parse("7 lots").is_err());
    }

    #[test]
    fn secrets_never_show_themselves() {
        let secret = Secret::parse("sk-very-secret").unwrap();
        assert!(secret.is_clear_text());
        assert!(!format!("{secret:?}{}", serde_json::to_string(&secret).unwrap()).contains("very"));
        assert_eq!(Secret::parse("env:PATH").unwrap().expose(), std::env::var("PATH").unwrap());
        assert_eq!(Secret::parse("{{ ENV_PATH }}").unwrap().expose(), std::env::var("PATH").unwrap());
        assert!(Secret::parse("env:MILLGATE_NO_SUCH_VARIABLE").unwrap_err().contains("is not set"));
    }

    #[test]
    fn references_inside_text_are_replaced_once() {
        let path = std::env::var("PATH").unwrap();
        let expanded = Expanded::parse("http://${env:PATH}/{{ PATH }}").unwrap();
        assert_eq!(expanded.as_str(), format!("http://{path}/{path}"));
        assert!(Expanded::parse("${env:PATH").is_err());
        assert!(Expanded::parse("${other:x}").is_err());
    }
}
