//! Tensors as raw little-endian bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Number, Value};

use super::Datatype;

/// Reads as many elements as `raw` holds. `None`: the bytes are not whole elements. `text`: elements of
/// [`Datatype::Bytes`] are text; else they become base64.
pub(super) fn read(raw: &[u8], datatype: Datatype, text: bool) -> Option<Vec<Value>> {
    let Some(size) = datatype.size() else { return read_bytes(raw, text) };
    let whole = raw.len().is_multiple_of(size);
    whole.then(|| raw.chunks_exact(size).map(|element| one(element, datatype)).collect())
}

fn one(raw: &[u8], datatype: Datatype) -> Value {
    let mut wide = [0; 8];
    wide[..raw.len()].copy_from_slice(raw);
    let bits = u64::from_le_bytes(wide);
    match datatype {
        Datatype::Bool => Value::Bool(bits != 0),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 => bits.into(),
        Datatype::Int8 => (bits as i8).into(),
        Datatype::Int16 => (bits as i16).into(),
        Datatype::Int32 => (bits as i32).into(),
        Datatype::Int64 => (bits as i64).into(),
        Datatype::Fp16 => float(half(bits as u16)),
        Datatype::Fp32 => float(f64::from(f32::from_bits(bits as u32))),
        Datatype::Fp64 => float(f64::from_bits(bits)),
        Datatype::Bytes => Value::Null,
    }
}

/// JSON has no NaN and no infinities: what is missing is null.
fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    }
}

fn read_bytes(mut raw: &[u8], text: bool) -> Option<Vec<Value>> {
    let mut found = Vec::new();
    while !raw.is_empty() {
        let (length, rest) = raw.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        found.push(if text {
            Value::String(std::str::from_utf8(element).ok()?.to_owned())
        } else {
            Value::String(BASE64.encode(element))
        });
        raw = rest;
    }
    Some(found)
}

/// Writes elements. What does not fit its type was refused before.
pub(super) fn write(elements: &[Value], datatype: Datatype, out: &mut Vec<u8>) {
    for element in elements {
        match datatype {
            Datatype::Bool => out.push(u8::from(element.as_bool().unwrap_or_default())),
            Datatype::Int32 => {
                out.extend((element.as_i64().unwrap_or_default() as i32).to_le_bytes());
            }
            Datatype::Fp32 => out.extend((element.as_f64().unwrap_or(f64::NAN) as f32).to_le_bytes()),
            Datatype::Fp64 => out.extend(element.as_f64().unwrap_or(f64::NAN).to_le_bytes()),
            Datatype::Bytes => {
                let text = element.as_str().map_or_else(|| element.to_string(), str::to_owned);
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
            }
            _ => out.extend(element.as_i64().unwrap_or_default().to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_datatype_is_read() {
        let read = |raw: &[u8], datatype| Value::from(read(raw, datatype, true).unwrap());
        assert_eq!(read(&[0, 1], Datatype::Bool), json!([false, true]));
        assert_eq!(read(&[255], Datatype::Uint8), json!([255]));
        assert_eq!(read(&[255], Datatype::Int8), json!([-1]));
        assert_eq!(read(&[0, 128], Datatype::Int16), json!([-32768]));
        assert_eq!(read(&u64::MAX.to_le_bytes(), Datatype::Uint64), json!([u64::MAX]));
        assert_eq!(read(&(-5_i64).to_le_bytes(), Datatype::Int64), json!([-5]));
        assert_eq!(read(&0.5_f32.to_le_bytes(), Datatype::Fp32), json!([0.5]));
        assert_eq!(read(&f64::NAN.to_le_bytes(), Datatype::Fp64), json!([null]));
        // One, the least above nothing, minus two, the largest.
        let halves = [0x3C00_u16, 0x0001, 0xC000, 0x7BFF].map(u16::to_le_bytes).concat();
        assert_eq!(read(&halves, Datatype::Fp16), json!([1.0, 2_f64.powi(-24), -2.0, 65504.0]));
        assert_eq!(read(b"\x01\0\0\0a\0\0\0\0", Datatype::Bytes), json!(["a", ""]));
        assert_eq!(super::read(b"\x01\0\0\0\xff", Datatype::Bytes, false), Some(vec![json!("/w==")]));
        for (raw, datatype) in [(&[1, 2, 3][..], Datatype::Fp32), (b"\x09\0\0\0a", Datatype::Bytes)] {
            assert_eq!(super::read(raw, datatype, true), None);
        }
    }
}
