//! Cells of Arrow columns as JSON, in the forms that the scoring protocol takes.

use std::fmt::Write as _;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, StructArray};
use arrow_schema::{DataType, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Types inside types beyond this are not taken.
const DEEPEST: usize = 16;

const DAY: i64 = 86_400_000_000_000;

/// Whether cells of a type have a counterpart.
pub(super) fn is_taken(kind: &DataType) -> bool {
    taken(kind, 0)
}

fn taken(kind: &DataType, depth: usize) -> bool {
    if depth > DEEPEST {
        return false;
    }
    match kind {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::Date32
        | DataType::Timestamp(..) => true,
        DataType::Dictionary(key, value) => {
            use DataType::{Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
            matches!(**key, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64)
                && taken(value, depth + 1)
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            taken(item.data_type(), depth + 1)
        }
        DataType::Struct(fields) => fields.iter().all(|field| taken(field.data_type(), depth + 1)),
        _ => false,
    }
}

/// A cell as JSON: NaN is a missing value, times are nanoseconds since 1970, bytes are base64. The error says what has no
/// counterpart.
pub(super) fn write(out: &mut String, column: &dyn Array, row: usize) -> Result<(), &'static str> {
    macro_rules! number {
        ($kind:ty) => {
            write!(out, "{}", column.as_primitive::<$kind>().value(row))
        };
    }
    macro_rules! time {
        ($kind:ty, $factor:expr) => {{
            let value = i64::from(column.as_primitive::<$kind>().value(row));
            let value = value.checked_mul($factor).ok_or("a time is out of range")?;
            write!(out, "{value}")
        }};
    }
    if column.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    let _infallible = match column.data_type() {
        DataType::Null => write!(out, "null"),
        DataType::Boolean => write!(out, "{}", column.as_boolean().value(row)),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => return float(out, f64::from(column.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => return float(out, column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => write!(out, "{}", quoted(column.as_string::<i32>().value(row))),
        DataType::LargeUtf8 => write!(out, "{}", quoted(column.as_string::<i64>().value(row))),
        DataType::Utf8View => write!(out, "{}", quoted(column.as_string_view().value(row))),
        DataType::Binary => write!(out, "\"{}\"", STANDARD.encode(column.as_binary::<i32>().value(row))),
        DataType::LargeBinary => write!(out, "\"{}\"", STANDARD.encode(column.as_binary::<i64>().value(row))),
        DataType::BinaryView => write!(out, "\"{}\"", STANDARD.encode(column.as_binary_view().value(row))),
        DataType::Date32 => time!(Date32Type, DAY),
        DataType::Timestamp(TimeUnit::Second, _) => time!(TimestampSecondType, 1_000_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => time!(TimestampMillisecondType, 1_000_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => time!(TimestampMicrosecondType, 1000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => time!(TimestampNanosecondType, 1),
        DataType::Dictionary(..) => return word(out, column, row),
        DataType::List(_) => return list(out, &column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => return list(out, &column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => return list(out, &column.as_fixed_size_list().value(row)),
        DataType::Struct(_) => return object(out, column.as_struct(), row),
        _ => return Err(NOT_TAKEN),
    };
    Ok(())
}

pub(super) const NOT_TAKEN: &str = "columns of this type are not taken";

/// One word of a column's dictionary.
fn word(out: &mut String, column: &dyn Array, row: usize) -> Result<(), &'static str> {
    macro_rules! key {
        ($kind:ty) => {{
            let column = column.as_dictionary::<$kind>();
            (column.key(row), column.values())
        }};
    }
    let DataType::Dictionary(key, _) = column.data_type() else { return Err(NOT_TAKEN) };
    let (key, words) = match **key {
        DataType::Int8 => key!(Int8Type),
        DataType::Int16 => key!(Int16Type),
        DataType::Int32 => key!(Int32Type),
        DataType::Int64 => key!(Int64Type),
        DataType::UInt8 => key!(UInt8Type),
        DataType::UInt16 => key!(UInt16Type),
        DataType::UInt32 => key!(UInt32Type),
        DataType::UInt64 => key!(UInt64Type),
        _ => return Err(NOT_TAKEN),
    };
    match key {
        Some(key) if key < words.len() => write(out, words, key),
        Some(_) => Err("a word is not in its dictionary"),
        None => {
            out.push_str("null");
            Ok(())
        }
    }
}

fn list(out: &mut String, items: &dyn Array) -> Result<(), &'static str> {
    out.push('[');
    for item in 0..items.len() {
        if item > 0 {
            out.push(',');
        }
        write(out, items, item)?;
    }
    out.push(']');
    Ok(())
}

fn object(out: &mut String, column: &StructArray, row: usize) -> Result<(), &'static str> {
    out.push('{');
    for (place, (field, cells)) in column.fields().iter().zip(column.columns()).enumerate() {
        if place > 0 {
            out.push(',');
        }
        out.push_str(&quoted(field.name()));
        out.push(':');
        write(out, cells, row)?;
    }
    out.push('}');
    Ok(())
}

fn float(out: &mut String, value: f64) -> Result<(), &'static str> {
    if value.is_infinite() {
        return Err("the number is infinite");
    }
    if value.is_nan() {
        out.push_str("null");
    } else {
        // The shortest digits that read back.
        let _infallible = write!(out, "{value:?}");
    }
    Ok(())
}

fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{ListBuilder, StringDictionaryBuilder};
    use arrow_array::{
        ArrayRef, BinaryArray, Date32Array, Decimal128Array, Int32Array, Int64Array, StringViewArray,
        TimestampMillisecondArray,
    };
    use arrow_schema::Field;

    use super::*;

    fn texts(column: &dyn Array) -> Vec<String> {
        (0..column.len())
            .map(|row| {
                let mut out = String::new();
                write(&mut out, column, row).map_or_else(str::to_owned, |()| out)
            })
            .collect()
    }

    #[test]
    fn cells_of_every_type_have_one_form() {
        let mut words = StringDictionaryBuilder::<Int8Type>::new();
        words.extend([Some("b"), None, Some("a\""), Some("b")]);
        assert_eq!(texts(&words.finish()), ["\"b\"", "null", "\"a\\\"\"", "\"b\""]);
        let mut lists = ListBuilder::new(arrow_array::builder::Float64Builder::new());
        lists.append_value([Some(0.5), None]);
        lists.append_value([]);
        lists.append_null();
        assert_eq!(texts(&lists.finish()), ["[0.5,null]", "[]", "null"]);
        let member = |name: &str, cells: ArrayRef| {
            (Arc::new(Field::new(name, cells.data_type().clone(), true)), cells)
        };
        let object = StructArray::from(vec![
            member("n", Arc::new(Int32Array::from(vec![1, -2]))),
            member("t", Arc::new(StringViewArray::from(vec![Some("x"), None]))),
        ]);
        assert_eq!(texts(&object), [r#"{"n":1,"t":"x"}"#, r#"{"n":-2,"t":null}"#]);
        assert_eq!(texts(&BinaryArray::from(vec![&b"\x00\xff"[..]])), ["\"AP8=\""]);
        assert_eq!(texts(&Date32Array::from(vec![1, -1])), ["86400000000000", "-86400000000000"]);
        let times = TimestampMillisecondArray::from(vec![5, i64::MAX]);
        assert_eq!(texts(&times), ["5000000", "a time is out of range"]);
        assert_eq!(texts(&Decimal128Array::from(vec![1])), [NOT_TAKEN]);
        for (kind, taken) in [
            (DataType::Decimal128(5, 2), false),
            (DataType::List(Arc::new(Field::new("item", DataType::Decimal128(5, 2), true))), false),
            (Int64Array::from(vec![1]).data_type().clone(), true),
        ] {
            assert_eq!(is_taken(&kind), taken, "{kind}");
        }
        let mut deep = DataType::Int64;
        for _ in 0..20 {
            deep = DataType::List(Arc::new(Field::new("item", deep, true)));
        }
        assert!(!is_taken(&deep));
    }
}
