//! Predictions as Arrow columns: which there are and of which type, said by a model's signature or seen in its first answer,
//! and later answers held against that. A value is never bent to fit.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array,
    ListArray, RecordBatch, RecordBatchOptions, StructArray, TimestampNanosecondArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, FieldRef, Schema, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use millgate_scoring::{Inputs, Kind, Tensor};
use serde_json::Value;

/// The column of predictions that have no name.
const ONE: &str = "prediction";

/// The mark of a column whose texts are JSON, for what has no type of its own: Arrow's canonical extension.
const EXTENSION: (&str, &str) = ("ARROW:extension:name", "arrow.json");

/// The columns of an answer.
pub(super) struct Columns {
    schema: Arc<Schema>,
    /// A prediction is the cell of the only column; otherwise it is a row of cells.
    single: bool,
}

impl Default for Columns {
    fn default() -> Self {
        Self::new(Vec::new(), false)
    }
}

/// A cell; `None` where a prediction has none.
type Cell<'a> = Option<&'a Value>;

impl Columns {
    fn new(fields: Vec<Field>, single: bool) -> Self {
        Self { schema: Arc::new(Schema::new(fields)), single }
    }

    pub(super) fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// What a model's signature says about its answers; `None` where it says nothing.
    pub(super) fn of_signature(outputs: &Inputs) -> Option<Self> {
        let fields: Vec<Field> = match outputs {
            Inputs::Columns(columns) => {
                let name = |index: usize, name: &Option<String>| {
                    let unnamed = if columns.len() == 1 { ONE.to_owned() } else { index.to_string() };
                    name.clone().unwrap_or(unnamed)
                };
                let columns = columns.iter().enumerate();
                columns.map(|(index, column)| of_kind(name(index, &column.name), &column.kind)).collect()
            }
            Inputs::Tensors(tensors) => tensors.iter().map(of_tensor).collect::<Option<_>>()?,
        };
        let single = fields.len() == 1;
        (!fields.is_empty()).then(|| Self::new(fields, single))
    }

    /// What stands in a first answer.
    pub(super) fn of_predictions(predictions: &Value) -> Self {
        let mut seen: IndexMap<&str, Seen<'_>> = IndexMap::new();
        match predictions {
            Value::Object(columns) => {
                for (name, cells) in columns {
                    let cells = cells.as_array().map(Vec::as_slice).unwrap_or_default();
                    seen.insert(name, cells.iter().fold(Seen::Nothing, Seen::and));
                }
            }
            Value::Array(rows) if !rows.is_empty() && rows.iter().all(Value::is_object) => {
                for (name, cell) in rows.iter().filter_map(Value::as_object).flatten() {
                    let column = seen.entry(name).or_insert(Seen::Nothing);
                    *column = std::mem::replace(column, Seen::Nothing).and(cell);
                }
            }
            Value::Array(rows) => {
                let field = rows.iter().fold(Seen::Nothing, Seen::and).field(ONE);
                return Self::new(vec![field], true);
            }
            _ => {}
        }
        Self::new(seen.into_iter().map(|(name, seen)| seen.field(name)).collect(), false)
    }

    /// The predictions of so many rows. The error says which row, from 0, does not fit, and why.
    pub(super) fn batch(&self, predictions: &Value, rows: usize) -> Result<RecordBatch, String> {
        let fields = self.schema.fields();
        let columns = match predictions {
            Value::Object(members) => self.by_column(members, rows)?,
            Value::Array(items) if items.len() == rows => self.by_row(items)?,
            Value::Array(items) => {
                return Err(format!("{rows} rows were asked about, {} answered", items.len()));
            }
            _ => return Err("the model's answer has no predictions".to_owned()),
        };
        let arrays = fields.iter().zip(&columns).map(|(field, cells)| {
            array(field, cells).map_err(|(row, reason)| {
                format!(
                    "the answer's column `{}`, row {row}: {reason}; NDJSON holds it as it is",
                    field.name()
                )
            })
        });
        let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|_| "the answer does not fit its columns".to_owned())
    }

    fn by_column<'a>(
        &self,
        members: &'a serde_json::Map<String, Value>,
        rows: usize,
    ) -> Result<Vec<Vec<Cell<'a>>>, String> {
        let fields = self.schema.fields();
        let only = members.values().next().filter(|_| self.single && members.len() == 1);
        if let (None, Some(name)) = (only, members.keys().find(|name| self.schema.index_of(name).is_err())) {
            return Err(unknown(name));
        }
        let column = |field: &FieldRef| {
            let cells = only.or_else(|| members.get(field.name()));
            match cells {
                Some(Value::Array(cells)) if cells.len() == rows => Ok(cells.iter().map(Some).collect()),
                Some(Value::Array(cells)) => {
                    Err(format!("{rows} rows were asked about, {} answered", cells.len()))
                }
                _ => Err(format!("the answer has no column `{}`", field.name())),
            }
        };
        fields.iter().map(column).collect()
    }

    fn by_row<'a>(&self, rows: &'a [Value]) -> Result<Vec<Vec<Cell<'a>>>, String> {
        let fields = self.schema.fields();
        if let (true, Some(field)) = (self.single, fields.first()) {
            let is_struct = matches!(field.data_type(), DataType::Struct(_));
            let cell = |row: &'a Value| match row {
                // A record of the only column.
                Value::Object(members) if members.len() == 1 && !is_struct && !is_json(field) => {
                    members.values().next()
                }
                row => Some(row),
            };
            return Ok(vec![rows.iter().map(cell).collect()]);
        }
        let mut columns: Vec<Vec<Cell<'a>>> = fields.iter().map(|_| Vec::with_capacity(rows.len())).collect();
        for (number, row) in rows.iter().enumerate() {
            match row {
                Value::Object(members) => {
                    if let Some(name) = members.keys().find(|name| self.schema.index_of(name).is_err()) {
                        return Err(unknown(name));
                    }
                    for (column, field) in columns.iter_mut().zip(fields) {
                        column.push(members.get(field.name()));
                    }
                }
                Value::Array(cells) if cells.len() == columns.len() => {
                    for (column, cell) in columns.iter_mut().zip(cells) {
                        column.push(Some(cell));
                    }
                }
                _ => return Err(format!("the answer's row {number}: expected {} columns", columns.len())),
            }
        }
        Ok(columns)
    }
}

fn unknown(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    format!("the answer has a column `{name}` that its first batch or the signature does not have")
}

fn is_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION.0).is_some_and(|name| name == EXTENSION.1)
}

fn json(name: impl Into<String>) -> Field {
    let metadata: HashMap<_, _> = [(EXTENSION.0.to_owned(), EXTENSION.1.to_owned())].into();
    Field::new(name, DataType::Utf8, true).with_metadata(metadata)
}

fn of_kind(name: impl Into<String>, kind: &Kind) -> Field {
    let kind = match kind {
        Kind::Boolean => DataType::Boolean,
        Kind::Integer => DataType::Int32,
        Kind::Long => DataType::Int64,
        Kind::Float => DataType::Float32,
        Kind::Double => DataType::Float64,
        Kind::Text => DataType::Utf8,
        Kind::Binary => DataType::Binary,
        Kind::DateTime => DataType::Timestamp(TimeUnit::Nanosecond, None),
        Kind::Array(item) => DataType::List(Arc::new(of_kind("item", item))),
        Kind::Object(members) => {
            DataType::Struct(members.iter().map(|member| of_kind(&member.name, &member.kind)).collect())
        }
        Kind::Map(_) | Kind::Any => return json(name),
    };
    Field::new(name, kind, true)
}

/// `None`: numpy's type has no counterpart.
fn of_tensor(tensor: &Tensor) -> Option<Field> {
    let mut kind = match tensor.dtype.as_str() {
        "bool" => DataType::Boolean,
        "int8" | "int16" | "int32" | "uint8" | "uint16" => DataType::Int32,
        "int64" | "uint32" => DataType::Int64,
        "float16" | "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "object" | "str" => return None,
        text if text.starts_with("<U") => DataType::Utf8,
        _ => return None,
    };
    for size in tensor.shape.iter().skip(1).rev() {
        let item = Arc::new(Field::new("item", kind, true));
        kind = match i32::try_from(*size) {
            Ok(size) if size >= 0 => DataType::FixedSizeList(item, size),
            _ => DataType::List(item),
        };
    }
    Some(Field::new(tensor.name.as_deref().unwrap_or(ONE), kind, true))
}

/// What has been seen of a column.
enum Seen<'a> {
    Nothing,
    Truth,
    Integer,
    Number,
    Text,
    List(Box<Seen<'a>>),
    Object(IndexMap<&'a str, Seen<'a>>),
    /// Values of several types.
    Mixed,
}

impl<'a> Seen<'a> {
    fn and(self, value: &'a Value) -> Self {
        match (self, value) {
            (seen, Value::Null) => seen,
            (Self::Nothing | Self::Truth, Value::Bool(_)) => Self::Truth,
            (Self::Nothing | Self::Integer, Value::Number(number)) if number.is_i64() => Self::Integer,
            (Self::Number, Value::Number(_)) => Self::Number,
            (Self::Nothing | Self::Integer, Value::Number(number)) if number.is_f64() => Self::Number,
            (Self::Nothing | Self::Text, Value::String(_)) => Self::Text,
            (Self::Nothing, Value::Array(items)) => {
                Self::List(Box::new(items.iter().fold(Self::Nothing, Self::and)))
            }
            (Self::List(item), Value::Array(items)) => {
                Self::List(Box::new(items.iter().fold(*item, Self::and)))
            }
            (Self::Nothing, Value::Object(members)) => Self::Object(IndexMap::new()).members(members),
            (seen @ Self::Object(_), Value::Object(members)) => seen.members(members),
            _ => Self::Mixed,
        }
    }

    fn members(self, members: &'a serde_json::Map<String, Value>) -> Self {
        let Self::Object(mut seen) = self else { return self };
        for (name, value) in members {
            let member = seen.entry(name).or_insert(Self::Nothing);
            *member = std::mem::replace(member, Self::Nothing).and(value);
        }
        Self::Object(seen)
    }

    fn field(self, name: &str) -> Field {
        let kind = match self {
            Self::Truth => DataType::Boolean,
            Self::Integer => DataType::Int64,
            // Only nulls: a missing number.
            Self::Number | Self::Nothing => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::List(item) => DataType::List(Arc::new(item.field("item"))),
            Self::Object(members) if !members.is_empty() => {
                DataType::Struct(members.into_iter().map(|(name, seen)| seen.field(name)).collect())
            }
            Self::Object(_) | Self::Mixed => return json(name),
        };
        Field::new(name, kind, true)
    }
}

/// A column's cells as an array. The error has the row, from 0.
fn array(field: &Field, cells: &[Cell<'_>]) -> Result<ArrayRef, (usize, String)> {
    let cells: Vec<Cell<'_>> = cells.iter().map(|cell| cell.filter(|cell| !cell.is_null())).collect();
    if is_json(field) {
        return Ok(Arc::new(
            cells.iter().map(|cell| cell.map(Value::to_string)).collect::<arrow_array::StringArray>(),
        ));
    }
    let kind = field.data_type();
    Ok(match kind {
        DataType::Boolean => Arc::new(each(&cells, "boolean", Value::as_bool)?.collect::<BooleanArray>()),
        DataType::Int32 => {
            let read = |cell: &Value| integer(cell).and_then(|value| i32::try_from(value).ok());
            Arc::new(each(&cells, "32-bit integer", read)?.collect::<Int32Array>())
        }
        DataType::Int64 => Arc::new(each(&cells, "integer", integer)?.collect::<Int64Array>()),
        DataType::Float32 => {
            let read =
                |cell: &Value| cell.as_f64().map(|value| value as f32).filter(|value| value.is_finite());
            Arc::new(each(&cells, "32-bit number", read)?.collect::<Float32Array>())
        }
        DataType::Float64 => Arc::new(each(&cells, "number", number)?.collect::<Float64Array>()),
        DataType::Utf8 => {
            let mut texts = StringBuilder::with_capacity(cells.len(), 0);
            each(&cells, "string", Value::as_str)?.for_each(|text| texts.append_option(text));
            Arc::new(texts.finish())
        }
        DataType::Binary => {
            let mut values = BinaryBuilder::new();
            let read = |cell: &Value| cell.as_str().and_then(|text| STANDARD.decode(text).ok());
            each(&cells, "base64 text", read)?.for_each(|value| values.append_option(value));
            Arc::new(values.finish())
        }
        DataType::Timestamp(..) => {
            Arc::new(each(&cells, "ISO 8601 time", time)?.collect::<TimestampNanosecondArray>())
        }
        DataType::List(item) => {
            let (items, lengths) = lists(&cells, None)?;
            let values = array(item, &items).map_err(|(at, reason)| (owner(&lengths, at), reason))?;
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(Arc::clone(item), offsets, values, nulls(&cells)))
        }
        DataType::FixedSizeList(item, size) => {
            let (items, lengths) = lists(&cells, Some(*size as usize))?;
            let values = array(item, &items).map_err(|(at, reason)| (owner(&lengths, at), reason))?;
            let list = FixedSizeListArray::try_new_with_length(
                Arc::clone(item),
                *size,
                values,
                nulls(&cells),
                cells.len(),
            );
            Arc::new(list.map_err(|error| (0, error.to_string()))?)
        }
        DataType::Struct(fields) => {
            for (row, cell) in cells.iter().enumerate() {
                let Some(cell) = cell else { continue };
                let Value::Object(members) = cell else { return Err((row, expected("object", cell))) };
                if let Some(name) = members.keys().find(|name| fields.find(name).is_none()) {
                    return Err((row, unknown(name)));
                }
            }
            let columns = fields.iter().map(|field| {
                let members: Vec<_> =
                    cells.iter().map(|cell| cell.and_then(|cell| cell.get(field.name()))).collect();
                array(field, &members)
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let made = StructArray::try_new_with_length(fields.clone(), columns, nulls(&cells), cells.len());
            Arc::new(made.map_err(|error| (0, error.to_string()))?)
        }
        _ => return Err((0, "a column of a type that answers do not have".to_owned())),
    })
}

/// The values of the cells, in order.
fn each<'a, T>(
    cells: &[Cell<'a>],
    what: &'static str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<std::vec::IntoIter<Option<T>>, (usize, String)> {
    let mut values = Vec::with_capacity(cells.len());
    for (row, cell) in cells.iter().enumerate() {
        let value = cell.map(|cell| read(cell).ok_or_else(|| (row, expected(what, cell))));
        values.push(value.transpose()?);
    }
    Ok(values.into_iter())
}

/// The items of all lists one behind the other, and how many each has. `size`: how many it must have; a missing list has as
/// many missing items.
fn lists<'a>(
    cells: &[Cell<'a>],
    size: Option<usize>,
) -> Result<(Vec<Cell<'a>>, Vec<usize>), (usize, String)> {
    let (mut items, mut lengths) = (Vec::new(), Vec::with_capacity(cells.len()));
    for (row, cell) in cells.iter().enumerate() {
        let before = items.len();
        match cell {
            Some(Value::Array(list)) => items.extend(list.iter().map(Some)),
            None => items.extend(std::iter::repeat_n(None, size.unwrap_or(0))),
            Some(other) => return Err((row, expected("list", other))),
        }
        let length = items.len() - before;
        if let Some(size) = size.filter(|size| *size != length) {
            return Err((row, format!("expected a list of {size}, found one of {length}")));
        }
        lengths.push(length);
    }
    Ok((items, lengths))
}

/// The list that an item belongs to.
fn owner(lengths: &[usize], item: usize) -> usize {
    let mut end = 0;
    lengths
        .iter()
        .position(|length| {
            end += length;
            item < end
        })
        .unwrap_or(0)
}

fn nulls(cells: &[Cell<'_>]) -> Option<NullBuffer> {
    let nulls: NullBuffer = cells.iter().map(Option::is_some).collect();
    (nulls.null_count() > 0).then_some(nulls)
}

/// An integer, also one that is written with a fraction of zero.
fn integer(cell: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = |value: &f64| value.fract() == 0.0 && value.abs() <= EXACT;
    cell.as_i64().or_else(|| cell.as_f64().filter(whole).map(|value| value as i64))
}

/// A number; an integer that a 64-bit float cannot hold is none.
fn number(cell: &Value) -> Option<f64> {
    let Some(whole) = cell.as_i64() else { return cell.as_f64().filter(|_| cell.is_f64()) };
    let value = whole as f64;
    (value as i128 == i128::from(whole)).then_some(value)
}

/// Nanoseconds since 1970 of an ISO 8601 text; without an offset it is meant as UTC, as numpy means it.
fn time(cell: &Value) -> Option<i64> {
    let text = cell.as_str()?;
    let nanoseconds = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.as_nanosecond(),
        Err(_) => {
            let time: jiff::civil::DateTime = text.parse().ok()?;
            jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?.as_nanosecond()
        }
    };
    i64::try_from(nanoseconds).ok()
}

fn expected(what: &str, found: &Value) -> String {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    format!("expected {what}, found {found}")
}

#[cfg(test)]
mod tests {
    use arrow_array::Array as _;
    use arrow_array::cast::AsArray as _;
    use arrow_array::types::{Float32Type, Int32Type, TimestampNanosecondType};
    use millgate_scoring::Signature;
    use serde_json::json;

    use super::*;

    fn signed(outputs: &Value) -> Columns {
        let outputs = Signature::parse(Some(&outputs.to_string()), None).unwrap().inputs.unwrap();
        Columns::of_signature(&outputs).unwrap()
    }

    fn types(columns: &Columns) -> String {
        let fields = columns.schema().fields().iter();
        fields.map(|field| format!("{}: {}", field.name(), field.data_type())).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_signature_says_the_types() {
        let mixed = signed(&json!([
            { "type": "integer", "name": "n" }, { "type": "float", "name": "x" }, { "type": "string", "name": "t" },
            { "type": "datetime", "name": "at" }, { "type": "binary", "name": "raw" },
            { "type": "map", "values": { "type": "long" }, "name": "any" },
        ]));
        let answer = json!([
            { "n": 1, "x": 0.5, "t": "a", "at": "2024-01-02T03:04:05.5", "raw": "AP8=", "any": { "k": 1 } },
            { "n": 2.0, "x": 1, "t": null, "at": "1970-01-01T01:00:00+01:00", "raw": null, "any": null },
        ]);
        let batch = mixed.batch(&answer, 2).unwrap();
        assert_eq!(batch["n"].as_primitive::<Int32Type>().values().as_ref(), [1, 2]);
        assert_eq!(batch["x"].as_primitive::<Float32Type>().values().as_ref(), [0.5, 1.0]);
        let at = batch["at"].as_primitive::<TimestampNanosecondType>();
        assert_eq!(at.values().as_ref(), [1_704_164_645_500_000_000, 0]);
        assert_eq!(batch["raw"].as_binary::<i32>().value(0), b"\x00\xff");
        assert!(batch["t"].is_null(1) && batch["raw"].is_null(1) && batch["any"].is_null(1));
        assert_eq!(batch["any"].as_string::<i32>().value(0), r#"{"k":1}"#);
        // By column and by place are other ways to say it.
        let by_column = json!({ "n": [1], "x": [1], "t": ["b"], "at": [null], "raw": [null], "any": [null] });
        assert_eq!(mixed.batch(&by_column, 1).unwrap().num_rows(), 1);
        assert!(mixed.batch(&json!([[1, 2, "b", null, null, null]]), 1).is_ok());

        let tensor =
            signed(&json!([{ "type": "tensor", "tensor-spec": { "dtype": "float32", "shape": [-1, 3] } }]));
        assert_eq!(types(&tensor), "prediction: FixedSizeList(3 x Float32)");
        let batch = tensor.batch(&json!([[0.25, 0.5, 0.25], [1, 0, 0]]), 2).unwrap();
        assert_eq!(batch.column(0).as_fixed_size_list().values().as_primitive::<Float32Type>().len(), 6);
        assert!(
            tensor
                .batch(&json!([[0.25, 0.5]]), 1)
                .unwrap_err()
                .contains("expected a list of 3, found one of 2")
        );
        // One named column is also answered as records, or as itself.
        let one = signed(&json!([{ "type": "long", "name": "label" }]));
        for answer in [json!([1, 2]), json!([{ "label": 1 }, { "label": 2 }]), json!({ "label": [1, 2] })] {
            assert_eq!(one.batch(&answer, 2).unwrap().num_columns(), 1);
        }
    }

    #[test]
    fn a_first_answer_says_the_types_where_no_signature_does() {
        for (answer, expected) in [
            (json!([1, null, 2]), "prediction: Int64"),
            (json!([1, 2.5]), "prediction: Float64"),
            (json!([true, null]), "prediction: Boolean"),
            (json!([null, null]), "prediction: Float64"),
            (json!(["a", "b"]), "prediction: Utf8"),
            (json!(["a", 1]), "prediction: Utf8"),
            (json!([[1, 2], [0.5]]), "prediction: List(Float64)"),
            (json!([{ "a": 1 }, { "b": "x", "a": 0.5 }]), "a: Float64; b: Utf8"),
            (json!({ "a": [1], "b": [[true]] }), "a: Int64; b: List(Boolean)"),
            (json!([{ "a": { "b": 1, "c": "x" } }]), "a: Struct(\"b\": Int64, \"c\": Utf8)"),
        ] {
            let columns = Columns::of_predictions(&answer);
            assert_eq!(types(&columns), expected, "{answer}");
            let rows = answer.as_array().map_or(1, Vec::len);
            assert_eq!(columns.batch(&answer, rows).unwrap().num_rows(), rows, "{answer}");
        }
        let mixed = Columns::of_predictions(&json!(["a", 1]));
        let batch = mixed.batch(&json!(["a", 1]), 2).unwrap();
        assert!(is_json(mixed.schema().field(0)));
        assert_eq!(batch.column(0).as_string::<i32>().value(0), "\"a\"");
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_row_and_never_bent() {
        let whole = Columns::of_predictions(&json!([1, 2]));
        for (answer, reason) in [
            (json!([1, 0.5]), "column `prediction`, row 1: expected integer, found number"),
            (json!([1, "x"]), "row 1: expected integer, found string"),
            (json!([1]), "2 rows were asked about, 1 answered"),
        ] {
            let error = whole.batch(&answer, 2).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let float = Columns::of_predictions(&json!([0.5]));
        assert!(
            float
                .batch(&json!([9_007_199_254_740_993_i64]), 1)
                .unwrap_err()
                .contains("expected number, found integer")
        );
        let records = Columns::of_predictions(&json!([{ "a": 1, "l": [[1], [2]] }, { "a": 2, "l": [] }]));
        assert!(
            records.batch(&json!([{ "a": 1, "l": [], "b": 2 }]), 1).unwrap_err().contains("a column `b`")
        );
        let error =
            records.batch(&json!([{ "a": 1, "l": [] }, { "a": 1, "l": [[1], ["x"]] }]), 2).unwrap_err();
        assert!(error.contains("column `l`, row 1: expected integer, found string"), "{error}");
        // What a record leaves out is missing.
        assert!(records.batch(&json!([{ "a": 1 }]), 1).unwrap()["l"].is_null(0));
        let narrow = signed(&json!([{ "type": "integer" }]));
        assert!(narrow.batch(&json!([1_i64 << 40]), 1).unwrap_err().contains("expected 32-bit integer"));
    }
}
