//! Bodies of the scoring protocol taken apart without a signature, for model servers elsewhere.

use std::borrow::Cow;

use millgate_types::{Fault, code};
use serde_json::{Map, Value};

use crate::Json;

/// What a caller sent.
pub(crate) struct Sent {
    pub(crate) shape: Shape,
    pub(crate) params: Option<Map<String, Value>>,
}

/// The three shapes that the protocol's forms have.
pub(crate) enum Shape {
    /// `dataframe_split`, `dataframe_records`. Rows are as long as there are columns.
    Table { columns: Vec<String>, rows: Vec<Vec<Value>> },
    /// `instances` and `inputs` that are lists.
    Tensor(Value),
    /// `inputs` by name; `instances` that are records.
    Named(Map<String, Value>),
}

fn mismatch(public: impl Into<Cow<'static, str>>) -> Fault {
    Fault::client(code::SCHEMA_MISMATCH, public)
}

impl Sent {
    /// Faults: `invalid_json`, `duplicate_member`, `schema_mismatch`.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Fault> {
        // The strict rules of all callers' bodies.
        Json::parse(body)?;
        let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else {
            return Err(mismatch("expected an object with the input"));
        };
        let params = match members.shift_remove("params") {
            None | Some(Value::Null) => None,
            Some(Value::Object(params)) => Some(params),
            Some(_) => return Err(mismatch("`params` must be an object")),
        };
        let mut forms = ["dataframe_split", "dataframe_records", "instances", "inputs"]
            .into_iter()
            .filter_map(|form| Some((form, members.shift_remove(form)?)));
        let (form, value) = forms.next().ok_or_else(|| {
            mismatch(
                "expected one of `dataframe_split`, `dataframe_records`, `instances`, `inputs` at the top",
            )
        })?;
        if forms.next().is_some() {
            return Err(mismatch("more than one form of input is given"));
        }
        let shape = match (form, value) {
            ("dataframe_split", value) => split(value)?,
            ("dataframe_records", Value::Array(rows)) => records(rows)?,
            ("instances", Value::Array(rows)) if rows.first().is_some_and(Value::is_object) => records(rows)?,
            ("instances" | "inputs", value @ Value::Array(_)) => Shape::Tensor(value),
            ("inputs", Value::Object(members)) => Shape::Named(members),
            (form, _) => return Err(mismatch(format!("`{form}` must be a list"))),
        };
        Ok(Self { shape, params })
    }
}

fn split(value: Value) -> Result<Shape, Fault> {
    let Value::Object(mut split) = value else { return Err(mismatch("`dataframe_split` must be an object")) };
    let Some(Value::Array(data)) = split.shift_remove("data") else {
        return Err(mismatch("`dataframe_split.data` must be a list"));
    };
    let mut rows = Vec::with_capacity(data.len());
    for (number, row) in data.into_iter().enumerate() {
        let Value::Array(row) = row else { return Err(mismatch(format!("row {number} is no list"))) };
        rows.push(row);
    }
    let columns: Vec<String> = match split.shift_remove("columns") {
        Some(Value::Array(names)) => {
            names.iter().map(|name| name.as_str().map_or_else(|| name.to_string(), str::to_owned)).collect()
        }
        None => (0..rows.first().map_or(0, Vec::len)).map(|place| place.to_string()).collect(),
        Some(_) => return Err(mismatch("`dataframe_split.columns` must be a list")),
    };
    if let Some(number) = rows.iter().position(|row| row.len() != columns.len()) {
        let (found, expected) = (rows[number].len(), columns.len());
        return Err(mismatch(format!("row {number}: expected {expected} values, found {found}")));
    }
    Ok(Shape::Table { columns, rows })
}

fn records(records: Vec<Value>) -> Result<Shape, Fault> {
    let mut columns: Vec<String> = Vec::new();
    let mut rows = Vec::with_capacity(records.len());
    for (number, record) in records.into_iter().enumerate() {
        let Value::Object(mut record) = record else {
            return Err(mismatch(format!("row {number} is no object")));
        };
        if number == 0 {
            columns = record.keys().cloned().collect();
        }
        let row: Vec<Value> =
            columns.iter().map(|name| record.shift_remove(name).unwrap_or_default()).collect();
        if let Some(name) = record.keys().next() {
            return Err(mismatch(format!(
                "row {number}: column `{}` is not in the first row",
                crate::shown(name)
            )));
        }
        rows.push(row);
    }
    Ok(Shape::Table { columns, rows })
}
