//! Model servers with an API of their own: a JSON template makes the request, a JSON pointer finds the predictions.

use millgate_types::{Fault, Retry, code};
use serde_json::{Map, Value, json};

use crate::table::{Sent, Shape};

/// How a server of its own kind is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The request's body. A text that is exactly one of [`PLACEHOLDERS`] stands for what was sent.
    pub request: Value,
    /// Where the predictions stand in the answer, as a JSON pointer (RFC 6901); empty for the whole answer.
    pub response: String,
}

/// `$rows` are lists of values, `$records` objects by column, `$columns` their names, `$params` the parameters,
/// `$body` the whole body as it came.
pub const PLACEHOLDERS: [&str; 5] = ["$rows", "$records", "$columns", "$params", "$body"];

impl Template {
    /// The server's request for a body of the scoring protocol. Faults: `invalid_json`, `schema_mismatch`.
    pub fn request(&self, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let sent = Sent::read(body)?;
        let (columns, rows) = match sent.shape {
            Shape::Table { columns, rows } => (Some(columns), rows.into_iter().map(Value::Array).collect()),
            Shape::Tensor(Value::Array(rows)) => (None, rows),
            Shape::Tensor(value) => (None, vec![value]),
            Shape::Named(members) => {
                let (names, values) = members.into_iter().unzip();
                (Some(names), vec![Value::Array(values)])
            }
        };
        let record = |row: &Value| match (&columns, row) {
            (Some(columns), Value::Array(cells)) => {
                Value::Object(columns.iter().cloned().zip(cells.iter().cloned()).collect::<Map<_, _>>())
            }
            (_, row) => row.clone(),
        };
        let find = |name: &str| {
            Some(match name {
                "$rows" => json!(rows),
                "$records" => rows.iter().map(record).collect(),
                "$columns" => json!(columns),
                "$params" => json!(sent.params.clone().unwrap_or_default()),
                "$body" => serde_json::from_slice(body).unwrap_or_default(),
                _ => return None,
            })
        };
        Ok(fill(&self.request, &find).to_string().into_bytes())
    }

    /// The answer as one of the scoring protocol. Faults: `upstream_error`.
    pub fn predictions(&self, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let none = |public: &'static str| Fault::upstream(code::UPSTREAM_ERROR, Retry::NextTarget, public);
        let answer: Value = serde_json::from_slice(body)
            .map_err(|cause| none("the model server's answer is not JSON").with_cause(cause))?;
        let found = answer.pointer(&self.response);
        let found =
            found.ok_or_else(|| none("the model server's answer has no predictions where they should be"))?;
        Ok(json!({"predictions": found}).to_string().into_bytes())
    }
}

fn fill(template: &Value, find: &impl Fn(&str) -> Option<Value>) -> Value {
    match template {
        Value::String(text) => find(text).unwrap_or_else(|| template.clone()),
        Value::Array(items) => items.iter().map(|item| fill(item, find)).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (name.clone(), fill(value, find))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_and_the_answer_found() {
        let template = Template {
            request: json!({"payload": {"x": "$rows", "names": "$columns", "r": ["$records"], "v": 2}, "options": "$params"}),
            response: "/result/values".to_owned(),
        };
        let sent = |body: &[u8]| serde_json::from_slice::<Value>(&template.request(body).unwrap()).unwrap();
        let records = br#"{"dataframe_records": [{"a": 1, "b": "$rows"}], "params": {"k": 1}}"#;
        // What callers send is never read as a template.
        let expected = json!({"payload": {"x": [[1, "$rows"]], "names": ["a", "b"], "r": [[{"a": 1, "b": "$rows"}]], "v": 2}, "options": {"k": 1}});
        assert_eq!(sent(records), expected);
        assert_eq!(sent(br#"{"instances": [[1], [2]]}"#)["payload"]["x"], json!([[1], [2]]));
        assert!(template.request(b"{}").is_err());
        assert_eq!(
            template.predictions(br#"{"result": {"values": [3]}}"#).unwrap(),
            br#"{"predictions":[3]}"#
        );
        assert!(template.predictions(br#"{"result": {}}"#).is_err());
        assert!(template.predictions(b"<html>").is_err());
    }
}
