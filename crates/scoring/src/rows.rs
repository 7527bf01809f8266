//! Rows of a body and of an answer, taken apart and put back: for models that are asked about some rows only.

use std::borrow::Cow;

use millgate_types::{Fault, code};
use serde_json::{Map, Value};

use crate::Json;

const FORMS: [&str; 4] = ["dataframe_split", "dataframe_records", "instances", "inputs"];

/// A body of the scoring protocol whose rows can be told apart.
#[derive(Clone, Debug, PartialEq)]
pub struct RowBody {
    form: &'static str,
    params: Option<Value>,
    rows: Rows,
}

#[derive(Clone, Debug, PartialEq)]
enum Rows {
    /// A list of rows.
    List(Vec<Value>),
    /// `dataframe_split`.
    Split { columns: Option<Vec<Value>>, data: Vec<Value> },
    /// Lists by column, all of one length.
    Columns(Map<String, Value>, usize),
}

fn mismatch(public: impl Into<Cow<'static, str>>) -> Fault {
    Fault::client(code::SCHEMA_MISMATCH, public)
}

impl RowBody {
    /// Reads a body. Faults: `invalid_json`, `duplicate_member`, `schema_mismatch` where it has no rows.
    pub fn read(body: &[u8]) -> Result<Self, Fault> {
        // The strict rules of all callers' bodies.
        Json::parse(body)?;
        let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else {
            return Err(mismatch("expected an object with the input"));
        };
        let params = members.shift_remove("params").filter(|params| !params.is_null());
        let mut forms = FORMS.into_iter().filter_map(|form| Some((form, members.shift_remove(form)?)));
        let (form, value) = forms
            .next()
            .ok_or_else(|| mismatch(format!("expected one of {} at the top", FORMS.join(", "))))?;
        if forms.next().is_some() {
            return Err(mismatch("more than one form of input is given"));
        }
        let rows = match (form, value) {
            ("dataframe_split", Value::Object(mut split)) => {
                let columns = match split.shift_remove("columns") {
                    Some(Value::Array(columns)) => Some(columns),
                    _ => None,
                };
                match split.shift_remove("data") {
                    Some(Value::Array(data)) => Rows::Split { columns, data },
                    _ => return Err(mismatch("`dataframe_split.data` must be a list")),
                }
            }
            (_, Value::Array(rows)) if form != "dataframe_split" => Rows::List(rows),
            ("instances" | "inputs", Value::Object(columns)) => {
                let mut lengths = columns.values().map(|column| column.as_array().map(Vec::len));
                let length = lengths.next().flatten();
                match length.filter(|length| lengths.all(|other| other == Some(*length))) {
                    Some(length) => Rows::Columns(columns, length),
                    None => return Err(mismatch(format!("`{form}` has no rows that can be told apart"))),
                }
            }
            (form, _) => return Err(mismatch(format!("`{form}` must hold rows"))),
        };
        Ok(Self { form, params, rows })
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::List(rows) | Rows::Split { data: rows, .. } => rows.len(),
            Rows::Columns(_, length) => *length,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One row: an object by column where columns have names.
    #[must_use]
    pub fn row(&self, row: usize) -> Value {
        let cell = |values: &[Value]| values.get(row).cloned().unwrap_or_default();
        match &self.rows {
            Rows::List(rows) => cell(rows),
            Rows::Split { columns, data } => match (columns, data.get(row)) {
                (Some(columns), Some(Value::Array(cells))) => {
                    let named = columns.iter().zip(cells).map(|(name, cell)| {
                        (name.as_str().map_or_else(|| name.to_string(), str::to_owned), cell.clone())
                    });
                    Value::Object(named.collect())
                }
                _ => cell(data),
            },
            Rows::Columns(columns, _) => {
                let named = columns.iter().map(|(name, column)| {
                    (name.clone(), column.as_array().map_or(Value::Null, |column| cell(column)))
                });
                Value::Object(named.collect())
            }
        }
    }

    /// A body with some of the rows, in the order given.
    #[must_use]
    pub fn select(&self, chosen: &[usize]) -> Vec<u8> {
        let pick = |rows: &[Value]| -> Vec<Value> {
            chosen.iter().filter_map(|row| rows.get(*row).cloned()).collect()
        };
        let value = match &self.rows {
            Rows::List(rows) => Value::Array(pick(rows)),
            Rows::Split { columns, data } => {
                let mut split = Map::new();
                split.extend(columns.clone().map(|columns| ("columns".to_owned(), Value::Array(columns))));
                split.insert("data".to_owned(), Value::Array(pick(data)));
                Value::Object(split)
            }
            Rows::Columns(columns, _) => Value::Object(
                columns
                    .iter()
                    .map(|(name, column)| {
                        let column = column.as_array().map(Vec::as_slice).unwrap_or_default();
                        (name.clone(), Value::Array(pick(column)))
                    })
                    .collect(),
            ),
        };
        let mut body = Map::new();
        body.insert(self.form.to_owned(), value);
        body.extend(self.params.clone().map(|params| ("params".to_owned(), params)));
        Value::Object(body).to_string().into_bytes()
    }
}

/// Puts answers about some rows in the places of the first ones. The error says what does not fit.
pub fn replace(all: &mut [Value], chosen: &[usize], answers: Vec<Value>) -> Result<(), String> {
    if answers.len() != chosen.len() {
        return Err(format!("{} rows were asked about, {} answered", chosen.len(), answers.len()));
    }
    for (row, answer) in chosen.iter().zip(answers) {
        let Some(place) = all.get_mut(*row) else { return Err(format!("there is no row {row}")) };
        if std::mem::discriminant(place) != std::mem::discriminant(&answer) {
            let (first, second) = (crate::combine::word(place), crate::combine::word(&answer));
            return Err(format!("row {row}: the first answer is {first}, the second {second}"));
        }
        *place = answer;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<RowBody, Fault> {
        RowBody::read(body.to_string().as_bytes())
    }

    #[test]
    fn rows_of_every_form_are_told_apart_and_chosen() {
        for (body, row, chosen) in [
            (
                json!({"dataframe_split": {"index": [7, 8, 9], "columns": ["a", "b"], "data": [[1, 2], [3, 4], [5, 6]]}, "params": {"k": 1}}),
                json!({"a": 3, "b": 4}),
                json!({"dataframe_split": {"columns": ["a", "b"], "data": [[5, 6], [1, 2]]}, "params": {"k": 1}}),
            ),
            (
                json!({"dataframe_records": [{"a": 1}, {"a": 3}, {"a": 5}]}),
                json!({"a": 3}),
                json!({"dataframe_records": [{"a": 5}, {"a": 1}]}),
            ),
            (json!({"instances": [[1], [3], [5]]}), json!([3]), json!({"instances": [[5], [1]]})),
            (
                json!({"inputs": {"a": [1, 3, 5], "b": [2, 4, 6]}}),
                json!({"a": 3, "b": 4}),
                json!({"inputs": {"a": [5, 1], "b": [6, 2]}}),
            ),
        ] {
            let rows = read(&body).unwrap();
            assert_eq!((rows.len(), rows.row(1)), (3, row), "{body}");
            assert_eq!(serde_json::from_slice::<Value>(&rows.select(&[2, 0])).unwrap(), chosen);
        }
        for body in [
            json!({"inputs": {"a": [1], "b": [1, 2]}}),
            json!({"inputs": 3}),
            json!({}),
            json!({"messages": []}),
            json!({"dataframe_split": [1]}),
        ] {
            assert_eq!(read(&body).unwrap_err().code, code::SCHEMA_MISMATCH, "{body}");
        }
    }

    #[test]
    fn answers_take_their_places() {
        let mut all = vec![json!(1), json!(2), json!(3)];
        replace(&mut all, &[2, 0], vec![json!(9.5), json!(8)]).unwrap();
        assert_eq!(all, [json!(8), json!(2), json!(9.5)]);
        assert!(replace(&mut all, &[0], vec![]).unwrap_err().contains("1 rows were asked about, 0"));
        let error = replace(&mut all, &[0], vec![json!([0.1])]).unwrap_err();
        assert_eq!(error, "row 0: the first answer is a number, the second a list");
    }
}
