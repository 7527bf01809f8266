//! A body of the scoring protocol as an inference request, for servers that speak the Open Inference Protocol only.

use std::borrow::Cow;

use millgate_types::{Fault, code};
use serde_json::{Map, Value, json};

use crate::shown;
use crate::table::{Sent, Shape};

/// What a server says of a model's inputs: `GET /v2/models/NAME`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(Vec<(String, String, Vec<i64>)>);

impl Inputs {
    /// Reads the metadata. What is not understood is left out.
    #[must_use]
    pub fn read(metadata: &[u8]) -> Self {
        let metadata: Value = serde_json::from_slice(metadata).unwrap_or_default();
        let input = |input: &Value| {
            let text = |name: &str| input.get(name)?.as_str().map(str::to_owned);
            let shape =
                input.get("shape")?.as_array()?.iter().map(|size| size.as_i64().unwrap_or(-1)).collect();
            Some((text("name")?, text("datatype")?, shape))
        };
        let inputs = metadata.get("inputs").and_then(Value::as_array);
        Self(inputs.into_iter().flatten().filter_map(input).collect())
    }

    fn datatype(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, ..)| known == name).map(|(_, datatype, _)| datatype.as_str())
    }
}

fn mismatch(public: impl Into<Cow<'static, str>>) -> Fault {
    Fault::client(code::SCHEMA_MISMATCH, public)
}

/// Writes the request: one input per column of a table, or one with all of them where `inputs` says so; one per
/// tensor. Datatypes are those of `inputs`, else what the values are. Faults: `invalid_json`, `schema_mismatch`.
pub fn request(body: &[u8], inputs: &Inputs) -> Result<Vec<u8>, Fault> {
    let sent = Sent::read(body)?;
    let mut parameters = sent.params.unwrap_or_default();
    let tensors = match sent.shape {
        Shape::Table { columns, rows } => match inputs.0.as_slice() {
            [(name, datatype, shape)] if is_packed(shape, columns.len()) && !columns.contains(name) => {
                let rows = Value::Array(rows.into_iter().map(Value::Array).collect());
                vec![tensor(name, rows, Some(datatype))?]
            }
            _ => {
                parameters.insert("content_type".to_owned(), "pd".into());
                let mut cells: Vec<Vec<Value>> = vec![Vec::with_capacity(rows.len()); columns.len()];
                for row in rows {
                    cells.iter_mut().zip(row).for_each(|(column, cell)| column.push(cell));
                }
                let column = |(name, cells): (&String, Vec<Value>)| {
                    let cells = cells.into_iter().map(|cell| Value::Array(vec![cell])).collect();
                    tensor(name, Value::Array(cells), inputs.datatype(name))
                };
                columns.iter().zip(cells).map(column).collect::<Result<_, _>>()?
            }
        },
        Shape::Tensor(value) => {
            let (name, datatype) = match inputs.0.first() {
                Some((name, datatype, _)) => (name.as_str(), Some(datatype.as_str())),
                None => ("input-0", None),
            };
            vec![tensor(name, value, datatype)?]
        }
        Shape::Named(members) => members
            .into_iter()
            .map(|(name, value)| tensor(&name, value, inputs.datatype(&name)))
            .collect::<Result<_, _>>()?,
    };
    let mut request = Map::new();
    if !parameters.is_empty() {
        request.insert("parameters".to_owned(), Value::Object(parameters));
    }
    request.insert("inputs".to_owned(), Value::Array(tensors));
    Ok(Value::Object(request).to_string().into_bytes())
}

/// `[rows, columns]`
fn is_packed(shape: &[i64], columns: usize) -> bool {
    matches!(shape, [_, width] if *width == columns as i64 || *width == -1)
}

fn tensor(name: &str, value: Value, datatype: Option<&str>) -> Result<Value, Fault> {
    let read = super::answer::tensor(name.to_owned(), value);
    let read = read.ok_or_else(|| {
        mismatch(format!(
            "input `{}`: its values are of several types, or its lists of several lengths",
            shown(name)
        ))
    })?;
    let found = read.datatype.name();
    let datatype = datatype.unwrap_or(found);
    let numbers = |word: &str| word.starts_with("FP") || word == "BF16";
    let whole = |word: &str| word.starts_with("INT") || word.starts_with("UINT");
    let fits = datatype == found
        || numbers(datatype) && (whole(found) || numbers(found))
        || whole(datatype) && whole(found);
    if !fits && !read.elements.is_empty() {
        return Err(mismatch(format!("input `{}`: expected {datatype}, found {found}", shown(name))));
    }
    Ok(json!({"name": name, "shape": read.shape, "datatype": datatype, "data": read.elements}))
}

/// An answer of the Open Inference Protocol as one of the scoring protocol: one output is the predictions, columns
/// of one length are records, other outputs stay apart by name. Faults: `upstream_error`.
pub fn predictions(body: &[u8]) -> Result<Vec<u8>, Fault> {
    let none = || {
        let public = "the model server's answer is no answer of the Open Inference Protocol";
        Fault::upstream(code::UPSTREAM_ERROR, millgate_types::Retry::NextTarget, public)
    };
    let answer: Value = serde_json::from_slice(body).map_err(|cause| none().with_cause(cause))?;
    let outputs = answer.get("outputs").and_then(Value::as_array).ok_or_else(none)?;
    let mut named = Vec::with_capacity(outputs.len());
    for output in outputs {
        let name = output.get("name").and_then(Value::as_str).ok_or_else(none)?;
        let shape = output.get("shape").and_then(Value::as_array).ok_or_else(none)?;
        let shape: Option<Vec<usize>> =
            shape.iter().map(|size| size.as_u64().map(|size| size as usize)).collect();
        let mut shape = shape.ok_or_else(none)?;
        let mut elements = Vec::new();
        super::request::flatten(output.get("data").cloned().unwrap_or_default(), &mut elements);
        if shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size)) != Some(elements.len()) {
            return Err(none());
        }
        // A column is a plain list.
        if let [_, 1] = *shape {
            shape.pop();
        }
        named.push((name.to_owned(), super::request::nested(&elements, &shape), shape));
    }
    let value = match named.as_mut_slice() {
        [(_, value, _)] => value.take(),
        [(_, _, first), rest @ ..] if first.len() == 1 && rest.iter().all(|(.., shape)| shape == first) => {
            let rows = first[0];
            let record = |row: usize| {
                Value::Object(
                    named.iter().map(|(name, value, _)| (name.clone(), value[row].clone())).collect(),
                )
            };
            (0..rows).map(record).collect()
        }
        _ => Value::Object(named.into_iter().map(|(name, value, _)| (name, value)).collect()),
    };
    Ok(json!({"predictions": value}).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(body: &Value, inputs: &Inputs) -> Value {
        serde_json::from_slice(&request(body.to_string().as_bytes(), inputs).unwrap()).unwrap()
    }

    #[test]
    fn tables_and_tensors_become_inputs() {
        let split = json!({"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2.5, "y"]]}, "params": {"k": 1}});
        let columns = json!({"parameters": {"k": 1, "content_type": "pd"}, "inputs": [
            {"name": "a", "shape": [2, 1], "datatype": "FP64", "data": [1, 2.5]},
            {"name": "b", "shape": [2, 1], "datatype": "BYTES", "data": ["x", "y"]}]});
        assert_eq!(sent(&split, &Inputs::default()), columns);
        let packed = Inputs::read(br#"{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}]}"#);
        let records = json!({"dataframe_records": [{"a": 1, "b": 2}, {"b": 4, "a": 3}]});
        let one =
            json!({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]});
        assert_eq!(sent(&records, &packed), one);
        assert_eq!(sent(&json!({"instances": [[1, 2], [3, 4]]}), &packed), one);
        let named = sent(&json!({"inputs": {"p": [true], "q": [[1, 2]]}}), &Inputs::default());
        assert_eq!(named["inputs"][0]["datatype"], "BOOL");
        assert_eq!(named["inputs"][1]["shape"], json!([1, 2]));
        let wrong = request(br#"{"inputs": [["a", "b"]]}"#, &packed).unwrap_err();
        assert_eq!(wrong.public, "input `x`: expected FP32, found BYTES");
        assert!(request(br#"{"inputs": [1, "b"]}"#, &packed).is_err());
    }

    #[test]
    fn outputs_become_predictions() {
        let read = |outputs: Value| {
            let body = json!({"model_name": "m", "outputs": outputs}).to_string();
            predictions(body.as_bytes())
                .map(|body| serde_json::from_slice::<Value>(&body).unwrap()["predictions"].clone())
        };
        let p = json!({"name": "p", "shape": [2, 1], "datatype": "FP64", "data": [0.5, 0.25]});
        let label = json!({"name": "label", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]});
        assert_eq!(read(json!([p])).unwrap(), json!([0.5, 0.25]));
        assert_eq!(
            read(json!([p, label])).unwrap(),
            json!([{"p": 0.5, "label": "x"}, {"p": 0.25, "label": "y"}])
        );
        let wide = json!({"name": "w", "shape": [1, 2], "datatype": "INT64", "data": [[1, 2]]});
        assert_eq!(read(json!([p, wide])).unwrap(), json!({"p": [0.5, 0.25], "w": [[1, 2]]}));
        assert!(read(json!([{"name": "p", "shape": [3], "datatype": "FP64", "data": [1]}])).is_err());
        assert!(predictions(b"{}").is_err());
    }
}
