//! One cell against its column's type. Strict: nothing is cut, wrapped or guessed.

use crate::json::Json;
use crate::signature::Kind;

/// What does not fit: the place inside the cell (empty for the cell itself), what was expected, what was found.
pub(crate) struct Misfit {
    pub(crate) within: String,
    pub(crate) expected: String,
    pub(crate) found: &'static str,
}

impl Misfit {
    pub(crate) fn new(kind: &Kind, found: &'static str) -> Self {
        Self { within: String::new(), expected: kind.name().to_owned(), found }
    }

    fn inside(mut self, step: &str) -> Self {
        self.within.insert_str(0, step);
        self
    }
}

/// An integer cell. A float without a fraction, as JavaScript and pandas write integers, is one.
pub(crate) fn integer(kind: &Kind, value: &Json<'_>) -> Result<i64, Misfit> {
    let found = match value {
        Json::Int(found) => *found,
        Json::Big(_) => return Err(Misfit::new(kind, "integer out of range")),
        #[expect(clippy::float_cmp, reason = "exactly: is there a fraction")]
        Json::Float(found) if found.trunc() == *found => {
            if !(-9.3e18..9.2e18).contains(found) {
                return Err(Misfit::new(kind, "integer out of range"));
            }
            *found as i64
        }
        Json::Float(_) => return Err(Misfit::new(kind, "number with a fraction")),
        other => return Err(Misfit::new(kind, other.type_name())),
    };
    if *kind == Kind::Integer && i32::try_from(found).is_err() {
        return Err(Misfit::new(kind, "integer out of range"));
    }
    Ok(found)
}

/// A `float` or `double` cell; null is a missing value.
pub(crate) fn number(kind: &Kind, value: &Json<'_>) -> Result<f64, Misfit> {
    let found = match value {
        Json::Int(found) => *found as f64,
        Json::Big(found) => *found as f64,
        Json::Float(found) => *found,
        Json::Null => return Ok(f64::NAN),
        other => return Err(Misfit::new(kind, other.type_name())),
    };
    if *kind == Kind::Float {
        let narrow = found as f32;
        if narrow.is_infinite() {
            return Err(Misfit::new(kind, "number out of range"));
        }
        return Ok(f64::from(narrow));
    }
    Ok(found)
}

/// Any cell, for the types whose values stay in the body.
pub(crate) fn check(kind: &Kind, value: &Json<'_>) -> Result<(), Misfit> {
    match (kind, value) {
        (Kind::Any, _)
        | (Kind::Boolean, Json::Bool(_) | Json::Null)
        | (Kind::Text, Json::Text(_) | Json::Null)
        | (Kind::DateTime, Json::Int(_) | Json::Null) => Ok(()),
        (Kind::Integer | Kind::Long, _) => integer(kind, value).map(drop),
        (Kind::Float | Kind::Double, _) => number(kind, value).map(drop),
        (Kind::Binary, Json::Text(text)) => {
            use base64::Engine as _;
            let plain: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
            match base64::engine::general_purpose::STANDARD.decode(plain) {
                Ok(_) => Ok(()),
                Err(_) => Err(Misfit::new(kind, "string that is not base64")),
            }
        }
        (Kind::DateTime, Json::Text(text)) => {
            if is_date_like(text) {
                Ok(())
            } else {
                Err(Misfit::new(kind, "string that is not an ISO 8601 date"))
            }
        }
        (Kind::Array(item), Json::Array(values)) => {
            values.iter().enumerate().try_for_each(|(index, value)| {
                check(item, value).map_err(|misfit| misfit.inside(&format!("[{index}]")))
            })
        }
        (Kind::Map(item), Json::Object(members)) => members.iter().try_for_each(|(key, value)| {
            check(item, value).map_err(|misfit| misfit.inside(&format!(".{}", crate::shown(key))))
        }),
        (Kind::Object(properties), Json::Object(_)) => properties.iter().try_for_each(|property| {
            let step = format!(".{}", crate::shown(&property.name));
            match value.member(&property.name) {
                Some(value) => check(&property.kind, value).map_err(|misfit| misfit.inside(&step)),
                None if property.required => Err(Misfit::new(&property.kind, "nothing").inside(&step)),
                None => Ok(()),
            }
        }),
        (kind, value) => Err(Misfit::new(kind, value.type_name())),
    }
}

/// `YYYY-MM-DD` in front; the time's details are pandas' to read.
fn is_date_like(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 10
        && bytes.iter().take(10).enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}
