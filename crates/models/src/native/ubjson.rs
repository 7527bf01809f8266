//! UBJSON as XGBoost writes it, into JSON values. Lengths are checked against the bytes that are there, so a
//! forged file cannot make us reserve memory.

use serde_json::{Map, Number, Value};

const MAX_DEPTH: usize = 64;

/// A tree of JSON values; typed number arrays become plain arrays.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, &'static str> {
    let mut reader = Reader { bytes, at: 0 };
    let kind = reader.byte()?;
    let value = reader.value(kind, 0)?;
    Ok(value)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

const CUT: &str = "the UBJSON file is cut off";

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let byte = *self.bytes.get(self.at).ok_or(CUT)?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Result<u8, &'static str> {
        self.bytes.get(self.at).copied().ok_or(CUT)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let end = self.at.checked_add(N).ok_or(CUT)?;
        let part = self.bytes.get(self.at..end).ok_or(CUT)?;
        self.at = end;
        part.try_into().map_err(|_| CUT)
    }

    fn integer(&mut self, kind: u8) -> Result<i64, &'static str> {
        Ok(match kind {
            b'i' => i64::from(i8::from_be_bytes(self.take()?)),
            b'U' => i64::from(self.byte()?),
            b'I' => i64::from(i16::from_be_bytes(self.take()?)),
            b'l' => i64::from(i32::from_be_bytes(self.take()?)),
            b'L' => i64::from_be_bytes(self.take()?),
            _ => return Err("the UBJSON file has a length that is not a number"),
        })
    }

    fn length(&mut self) -> Result<usize, &'static str> {
        let kind = self.byte()?;
        let length = usize::try_from(self.integer(kind)?).map_err(|_| "a negative length")?;
        // Every element takes at least one byte in the forms XGBoost writes.
        if length > self.bytes.len() - self.at { Err(CUT) } else { Ok(length) }
    }

    fn text(&mut self) -> Result<String, &'static str> {
        let length = self.length()?;
        let part = self.bytes.get(self.at..self.at + length).ok_or(CUT)?;
        self.at += length;
        String::from_utf8(part.to_vec()).map_err(|_| "a text that is not UTF-8")
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<Value, &'static str> {
        if depth > MAX_DEPTH {
            return Err("the UBJSON file is nested too deeply");
        }
        Ok(match kind {
            b'Z' | b'N' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'i' | b'U' | b'I' | b'l' | b'L' => Value::from(self.integer(kind)?),
            // Kept exactly: every f32 is an f64. What is not finite becomes null, which readers refuse.
            b'd' => Number::from_f64(f64::from(f32::from_be_bytes(self.take()?)))
                .map_or(Value::Null, Value::Number),
            b'D' => Number::from_f64(f64::from_be_bytes(self.take()?)).map_or(Value::Null, Value::Number),
            b'C' => Value::String(char::from(self.byte()?).to_string()),
            b'S' => Value::String(self.text()?),
            b'[' => self.array(depth)?,
            b'{' => self.object(depth)?,
            _ => return Err("the UBJSON file has an unknown marker"),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Value, &'static str> {
        let mut items = Vec::new();
        let kind = if self.peek()? == b'$' {
            self.at += 1;
            let kind = self.byte()?;
            if matches!(kind, b'Z' | b'T' | b'F' | b'N') {
                return Err("the UBJSON file has an array of nothing");
            }
            if self.peek()? != b'#' {
                return Err("the UBJSON file has a typed array without a length");
            }
            Some(kind)
        } else {
            None
        };
        if self.peek()? == b'#' {
            self.at += 1;
            let length = self.length()?;
            items.reserve(length);
            for _ in 0..length {
                let kind = match kind {
                    Some(kind) => kind,
                    None => self.byte()?,
                };
                items.push(self.value(kind, depth + 1)?);
            }
            return Ok(Value::Array(items));
        }
        loop {
            match self.byte()? {
                b']' => return Ok(Value::Array(items)),
                kind => items.push(self.value(kind, depth + 1)?),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, &'static str> {
        let mut members = Map::new();
        if matches!(self.peek()?, b'#' | b'$') {
            return Err("the UBJSON file has a sized object");
        }
        loop {
            if self.peek()? == b'}' {
                self.at += 1;
                return Ok(Value::Object(members));
            }
            let key = self.text()?;
            let kind = self.byte()?;
            let value = self.value(kind, depth + 1)?;
            members.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_arrays_and_objects_are_read() {
        let mut bytes = b"{L\0\0\0\0\0\0\0\x01a[$d#L\0\0\0\0\0\0\0\x02".to_vec();
        bytes.extend(1.5_f32.to_be_bytes());
        bytes.extend((-2.0_f32).to_be_bytes());
        bytes.extend(b"i\x01b[i\x05SU\x02hi]}");
        assert_eq!(parse(&bytes), Ok(serde_json::json!({"a": [1.5, -2.0], "b": [5, "hi"]})));
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err());
        }
        assert!(parse(b"[$d#L\x7f\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert!(parse(&[b'['; 10_000]).is_err());
    }
}
