//! Predictions of the scoring protocol as output tensors.

use millgate_types::{Fault, Retry, code};
use serde_json::{Map, Value, json};

use super::{Datatype, Wanted, binary};

/// A tensor on its way out.
pub(super) struct Output {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) datatype: Datatype,
    pub(super) elements: Vec<Value>,
}

/// Writes the answer to a request. `body` is the scoring protocol's. Gives the body and, where binary tensors stand
/// behind it, the length of the JSON part. Faults: `invalid_value` when an output is asked for that is not there,
/// `model_failed` when the predictions are no tensors.
pub fn write(
    body: &[u8],
    model: &str,
    version: &str,
    wanted: &Wanted,
) -> Result<(Vec<u8>, Option<usize>), Fault> {
    let no_tensor = || {
        let public = "the model's answer is no table and no tensor, which this protocol needs";
        Fault::worker(code::MODEL_FAILED, Retry::Never, public)
    };
    let mut answer: Value = serde_json::from_slice(body).map_err(|cause| no_tensor().with_cause(cause))?;
    let predictions = answer.get_mut("predictions").map_or(Value::Null, Value::take);
    let mut outputs = outputs(predictions).ok_or_else(no_tensor)?;
    if !wanted.outputs.is_empty() {
        let mut chosen = Vec::with_capacity(outputs.len());
        for (name, _) in &wanted.outputs {
            let place = outputs.iter().position(|output| output.name == *name).ok_or_else(|| {
                Fault::invalid_value("outputs", format!("the model has no output `{}`", crate::shown(name)))
            })?;
            chosen.push(outputs.swap_remove(place));
        }
        outputs = chosen;
    }
    let mut raw = Vec::new();
    let tensors: Vec<Value> = outputs
        .into_iter()
        .enumerate()
        .map(|(place, output)| {
            let own = wanted.outputs.get(place).and_then(|(_, binary)| *binary);
            let mut tensor = json!({
                "name": output.name, "shape": output.shape, "datatype": output.datatype.name()
            });
            if own.unwrap_or(wanted.binary) {
                let before = raw.len();
                binary::write(&output.elements, output.datatype, &mut raw);
                tensor["parameters"] = json!({"binary_data_size": raw.len() - before});
            } else {
                tensor["data"] = Value::Array(output.elements);
            }
            tensor
        })
        .collect();
    let mut text = Map::new();
    text.insert("model_name".to_owned(), model.into());
    text.insert("model_version".to_owned(), version.into());
    text.extend(wanted.id.as_ref().map(|id| ("id".to_owned(), id.as_str().into())));
    text.insert("outputs".to_owned(), Value::Array(tensors));
    let mut out = Value::Object(text).to_string().into_bytes();
    let length = (!raw.is_empty()).then_some(out.len());
    out.append(&mut raw);
    Ok((out, length))
}

/// A list is one output, a list of records one per member, and so is an object of lists.
fn outputs(predictions: Value) -> Option<Vec<Output>> {
    match predictions {
        Value::Array(rows) if rows.first().is_some_and(Value::is_object) => {
            let mut columns: Vec<(String, Vec<Value>)> = Vec::new();
            let count = rows.len();
            for (number, row) in rows.into_iter().enumerate() {
                let Value::Object(members) = row else { return None };
                for (name, value) in members {
                    match columns.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, values)) => values.push(value),
                        None if number == 0 => columns.push((name, vec![value])),
                        None => return None,
                    }
                }
            }
            columns
                .into_iter()
                .map(|(name, values)| (values.len() == count).then(|| tensor(name, values.into()))?)
                .collect()
        }
        Value::Object(members) => members.into_iter().map(|(name, value)| tensor(name, value)).collect(),
        Value::Null => None,
        one => Some(vec![tensor("output-1".to_owned(), one)?]),
    }
}

/// Lists in lists become one row-major list. A plain list is a column, as MLServer writes it: `[n, 1]`.
pub(super) fn tensor(name: String, value: Value) -> Option<Output> {
    let mut shape = Vec::new();
    let mut inner = &value;
    while let Value::Array(items) = inner {
        shape.push(items.len());
        match items.first() {
            Some(first) => inner = first,
            None => break,
        }
    }
    let mut elements = Vec::new();
    gather(value, &shape, &mut elements)?;
    if shape.len() < 2 {
        shape.push(1);
    }
    Some(Output { name, shape, datatype: datatype(&elements)?, elements })
}

/// `None`: the lists are not all of one length.
fn gather(value: Value, shape: &[usize], out: &mut Vec<Value>) -> Option<()> {
    match (value, shape) {
        (Value::Array(items), [size, rest @ ..]) if items.len() == *size => {
            items.into_iter().try_for_each(|item| gather(item, rest, out))
        }
        (Value::Array(_), _) | (_, [_, ..]) => None,
        (element, []) => {
            out.push(element);
            Some(())
        }
    }
}

fn datatype(elements: &[Value]) -> Option<Datatype> {
    let all = |test: fn(&Value) -> bool| elements.iter().all(test);
    Some(match () {
        () if elements.is_empty() => Datatype::Fp64,
        () if all(Value::is_boolean) => Datatype::Bool,
        () if all(Value::is_i64) => Datatype::Int64,
        () if all(|element| element.is_number() || element.is_null()) => Datatype::Fp64,
        () if all(|element| element.is_string() || element.is_null()) => Datatype::Bytes,
        // Objects and mixtures are no tensor.
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(body: &str, wanted: &Wanted) -> Value {
        let (text, length) = write(body.as_bytes(), "iris", "3", wanted).unwrap();
        assert_eq!(length, None);
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn predictions_become_tensors() {
        let plain = Wanted { id: Some("a".to_owned()), ..Wanted::default() };
        let labels = json!({"name": "output-1", "shape": [2, 1], "datatype": "INT64", "data": [2, 0]});
        let expected = json!({"model_name": "iris", "model_version": "3", "id": "a", "outputs": [labels]});
        assert_eq!(written(r#"{"predictions": [2, 0]}"#, &plain), expected);
        let shown = |body: &str| written(body, &Wanted::default())["outputs"].clone();
        let rows =
            json!([{"name": "output-1", "shape": [2, 2], "datatype": "FP64", "data": [1, 0.5, null, 2.0]}]);
        assert_eq!(shown(r#"{"predictions": [[1, 0.5], [null, 2.0]]}"#), rows);
        let columns = json!([
            {"name": "p", "shape": [2, 1], "datatype": "FP64", "data": [0.5, 0.25]},
            {"name": "label", "shape": [2, 1], "datatype": "BYTES", "data": ["x", "y"]},
        ]);
        assert_eq!(
            shown(r#"{"predictions": [{"p": 0.5, "label": "x"}, {"p": 0.25, "label": "y"}]}"#),
            columns
        );
        assert_eq!(shown(r#"{"predictions": {"p": [0.5, 0.25], "label": ["x", "y"]}}"#), columns);
        for odd in [
            r#"{"predictions": [[1], [1, 2]]}"#,
            r#"{"predictions": [{"a": 1}, {"b": 2}]}"#,
            r#"{"choices": []}"#,
        ] {
            assert!(write(odd.as_bytes(), "iris", "3", &Wanted::default()).is_err(), "{odd}");
        }
    }

    #[test]
    fn outputs_are_chosen_and_packed() {
        let body = r#"{"predictions": {"p": [0.5, 0.25], "label": ["x", "yy"]}}"#;
        let wanted = Wanted {
            binary: true,
            outputs: vec![("label".to_owned(), None), ("p".to_owned(), Some(true))],
            id: None,
        };
        let (text, length) = write(body.as_bytes(), "m", "1", &wanted).unwrap();
        let (text, raw) = text.split_at(length.unwrap());
        let text: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(text["outputs"][0]["parameters"]["binary_data_size"], 11);
        assert_eq!(text["outputs"][1]["shape"], json!([2, 1]));
        assert_eq!(
            raw,
            [&b"\x01\0\0\0x\x02\0\0\0yy"[..], &0.5_f64.to_le_bytes(), &0.25_f64.to_le_bytes()].concat()
        );
        let unknown = Wanted { outputs: vec![("q".to_owned(), None)], ..Wanted::default() };
        assert_eq!(write(body.as_bytes(), "m", "1", &unknown).unwrap_err().param.as_deref(), Some("outputs"));
    }
}
