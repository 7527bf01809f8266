//! An inference request as a body of the scoring protocol.

use std::borrow::Cow;

use millgate_types::{Fault, code};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Datatype, RESERVED, Wanted, binary, is_true};
use crate::shown;
use crate::signature::{Column, Inputs, Kind, Signature};

/// A request in the scoring protocol's terms.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// A JSON body of the scoring protocol.
    pub body: Vec<u8>,
    /// What the answer is to look like.
    pub wanted: Wanted,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<u64>,
    datatype: Datatype,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// An input with its elements in row-major order.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    elements: Vec<Value>,
    /// `pd`, `np`, `str`, `base64`, ...
    content_type: Option<String>,
}

fn mismatch(public: impl Into<Cow<'static, str>>) -> Fault {
    Fault::client(code::SCHEMA_MISMATCH, public)
}

/// Reads a request. `json_length` is the value of [`super::JSON_LENGTH`]; behind that many bytes stand the binary
/// tensors. Faults: `invalid_json`, `invalid_value` for what is no inference request, `schema_mismatch` for inputs that
/// do not fit their shape or the signature.
pub fn read(body: &[u8], json_length: Option<usize>, signature: &Signature) -> Result<InferRequest, Fault> {
    let (text, mut raw) = match json_length {
        None => (body, &[][..]),
        Some(length) => body.split_at_checked(length).ok_or_else(|| {
            Fault::invalid_value(super::JSON_LENGTH, "the JSON part is longer than the body")
        })?,
    };
    // The rules of all callers' bodies, with the offset of what is wrong.
    crate::Json::parse(text)?;
    let request: Request = serde_json::from_slice(text).map_err(|error| {
        let error = error.to_string();
        let what = error.rfind(" at line ").map_or(error.as_str(), |end| &error[..end]);
        Fault::invalid_value("inputs", format!("the body is no inference request: {what}"))
    })?;
    let mut tensors = Vec::with_capacity(request.inputs.len());
    for input in request.inputs {
        tensors.push(tensor(input, &mut raw)?);
    }
    if !raw.is_empty() {
        return Err(Fault::invalid_value(
            "inputs",
            format!("{} bytes stand behind the last tensor", raw.len()),
        ));
    }
    let as_frame = request.parameters.get("content_type").and_then(Value::as_str) == Some("pd");
    let mut scoring = Map::new();
    let (form, value) = match &signature.inputs {
        Some(Inputs::Columns(columns)) => ("dataframe_split", frame(tensors, columns)?),
        Some(Inputs::Tensors(wanted)) if wanted.iter().all(|tensor| tensor.name.is_some()) => {
            ("inputs", named(tensors))
        }
        None if as_frame || tensors.len() > 1 => ("dataframe_split", frame(tensors, &[])?),
        Some(Inputs::Tensors(_)) | None => ("inputs", only(&tensors)?),
    };
    scoring.insert(form.to_owned(), value);
    let params: Map<String, Value> =
        request.parameters.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str())).map(own).collect();
    if !params.is_empty() {
        scoring.insert("params".to_owned(), Value::Object(params));
    }
    let outputs = request.outputs.into_iter();
    let outputs = outputs.map(|output| (output.name, is_true(&output.parameters, "binary_data"))).collect();
    let binary = is_true(&request.parameters, "binary_data_output").unwrap_or(false);
    let wanted = Wanted { id: request.id, binary, outputs };
    Ok(InferRequest { body: Value::Object(scoring).to_string().into_bytes(), wanted })
}

fn own((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

fn tensor(input: Input, raw: &mut &[u8]) -> Result<Tensor, Fault> {
    let name = shown(&input.name);
    let wrong = |what: String| mismatch(format!("input `{name}`: {what}"));
    let count = input.shape.iter().try_fold(1_u64, |count, size| count.checked_mul(*size));
    let count = count.filter(|count| usize::try_from(*count).is_ok());
    let count = count.ok_or_else(|| wrong("its shape is too large".to_owned()))? as usize;
    let content_type = input.parameters.get("content_type").and_then(Value::as_str).map(str::to_owned);
    let elements = match input.parameters.get("binary_data_size") {
        Some(size) => {
            let size = size.as_u64().and_then(|size| raw.split_at_checked(usize::try_from(size).ok()?));
            let (own, rest) = size.ok_or_else(|| wrong("its bytes are not all there".to_owned()))?;
            *raw = rest;
            let text = content_type.as_deref() != Some("base64");
            let read = binary::read(own, input.datatype, text);
            read.ok_or_else(|| wrong(format!("its bytes are no {} elements", input.datatype.name())))?
        }
        None => {
            let mut elements = Vec::with_capacity(count.min(1 << 20));
            flatten(input.data, &mut elements);
            for (place, element) in elements.iter_mut().enumerate() {
                if !fits(element, input.datatype) {
                    let found = type_name(element);
                    return Err(wrong(format!(
                        "element {place}: expected {}, found {found}",
                        input.datatype.name()
                    )));
                }
                // The nearest float32, as it arrives in a binary tensor.
                if input.datatype == Datatype::Fp32
                    && let Some(value) = element.as_f64()
                {
                    *element = json!(f64::from(value as f32));
                }
            }
            elements
        }
    };
    if elements.len() != count {
        return Err(wrong(format!("its shape has {count} elements, its data {}", elements.len())));
    }
    let shape = input.shape.iter().map(|size| *size as usize).collect();
    Ok(Tensor { name: input.name, shape, elements, content_type })
}

/// Nested lists and flat ones are both allowed.
pub(super) fn flatten(value: Value, out: &mut Vec<Value>) {
    match value {
        Value::Array(items) => items.into_iter().for_each(|item| flatten(item, out)),
        other => out.push(other),
    }
}

fn fits(element: &Value, datatype: Datatype) -> bool {
    let within =
        |least: i64, most: i64| element.as_i64().is_some_and(|number| (least..=most).contains(&number));
    match datatype {
        _ if element.is_null() => true,
        Datatype::Bool => element.is_boolean(),
        Datatype::Uint8 => within(0, u8::MAX.into()),
        Datatype::Uint16 => within(0, u16::MAX.into()),
        Datatype::Uint32 => within(0, u32::MAX.into()),
        Datatype::Uint64 => element.is_u64(),
        Datatype::Int8 => within(i8::MIN.into(), i8::MAX.into()),
        Datatype::Int16 => within(i16::MIN.into(), i16::MAX.into()),
        Datatype::Int32 => within(i32::MIN.into(), i32::MAX.into()),
        Datatype::Int64 => element.is_i64(),
        Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 => element.is_number(),
        Datatype::Bytes => element.is_string(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a float",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `dataframe_split`: one column per input, or one input that holds all columns.
fn frame(mut tensors: Vec<Tensor>, columns: &[Column]) -> Result<Value, Fault> {
    if let ([table], false) = (tensors.as_slice(), columns.is_empty())
        && table.shape.len() == 2
        && table.shape[1] == columns.len()
        && !(columns.len() == 1 && columns[0].name.as_deref() == Some(&table.name))
    {
        let rows = nested(&table.elements, &table.shape);
        let names: Option<Vec<_>> = columns.iter().map(|column| column.name.as_deref()).collect();
        return Ok(match names {
            Some(names) => json!({"columns": names, "data": rows}),
            None => json!({"data": rows}),
        });
    }
    let rows = tensors.first().and_then(|tensor| tensor.shape.first()).copied().unwrap_or(0);
    for tensor in &mut tensors {
        let name = shown(&tensor.name);
        if !matches!(*tensor.shape, [_] | [_, 1]) {
            return Err(mismatch(format!("input `{name}`: a column has the shape [{rows}] or [{rows}, 1]")));
        }
        if tensor.shape[0] != rows {
            return Err(mismatch(format!(
                "input `{name}` has {} rows, the first has {rows}",
                tensor.shape[0]
            )));
        }
        // Text that is meant to be text, where the signature wants bytes.
        let kind = columns.iter().find(|column| column.name.as_deref() == Some(&tensor.name));
        let binary = kind.is_some_and(|column| column.kind == Kind::Binary);
        if binary && tensor.content_type.as_deref() == Some("str") {
            encode(&mut tensor.elements);
        }
    }
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut columns: Vec<_> = tensors.iter().map(|tensor| tensor.elements.iter()).collect();
    let mut row = || columns.iter_mut().map(|column| column.next().cloned().unwrap_or_default()).collect();
    let data: Vec<Value> = (0..rows).map(|_| row()).collect();
    Ok(json!({"columns": names, "data": data}))
}

fn encode(elements: &mut [Value]) {
    use base64::Engine as _;
    for element in elements {
        if let Value::String(text) = element {
            *text = base64::engine::general_purpose::STANDARD.encode(text.as_bytes());
        }
    }
}

fn named(tensors: Vec<Tensor>) -> Value {
    let pairs = tensors.into_iter().map(|tensor| (tensor.name, nested(&tensor.elements, &tensor.shape)));
    Value::Object(pairs.collect())
}

fn only(tensors: &[Tensor]) -> Result<Value, Fault> {
    match tensors {
        [tensor] => Ok(nested(&tensor.elements, &tensor.shape)),
        more => Err(mismatch(format!("the model takes one input, found {}", more.len()))),
    }
}

/// Elements as lists in lists.
pub(super) fn nested(elements: &[Value], shape: &[usize]) -> Value {
    match shape {
        [] => elements.first().cloned().unwrap_or_default(),
        [_] => Value::from(elements),
        [outer, inner @ ..] => {
            let size: usize = inner.iter().product();
            (0..*outer).map(|row| nested(&elements[row * size..(row + 1) * size], inner)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(inputs: &str) -> Signature {
        Signature::parse(Some(inputs), None).unwrap()
    }

    fn as_scoring(body: &Value, inputs: &str) -> Result<Value, String> {
        let read = read(body.to_string().as_bytes(), None, &signature(inputs))
            .map_err(|fault| fault.public.to_string())?;
        Ok(serde_json::from_slice(&read.body).unwrap())
    }

    const TABLE: &str = r#"[{"name":"a","type":"double"},{"name":"b","type":"string"}]"#;

    #[test]
    fn columns_become_a_table() {
        let a = json!({"name": "a", "shape": [2, 1], "datatype": "FP32", "data": [0.1, null]});
        let b = json!({"name": "b", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]});
        let read =
            as_scoring(&json!({"inputs": [b, a], "parameters": {"content_type": "pd", "alpha": 1}}), TABLE);
        let data = json!([["x", f64::from(0.1_f32)], ["y", null]]);
        let expected =
            json!({"dataframe_split": {"columns": ["b", "a"], "data": data}, "params": {"alpha": 1}});
        assert_eq!(read.unwrap(), expected);
        let two = r#"[{"name":"a","type":"double"},{"name":"b","type":"double"}]"#;
        let table =
            json!({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [[1.5, 2.5]]}]});
        assert_eq!(
            as_scoring(&table, two).unwrap(),
            json!({"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 2.5]]}})
        );
    }

    #[test]
    fn tensors_stay_tensors() {
        let one = r#"[{"type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,2,1]}}]"#;
        let input = json!({"name": "any", "shape": [2, 2, 1], "datatype": "INT32", "data": [1, 2, 3, 4]});
        assert_eq!(
            as_scoring(&json!({"inputs": [input]}), one).unwrap(),
            json!({"inputs": [[[1], [2]], [[3], [4]]]})
        );
        let named = r#"[{"name":"any","type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,2,1]}}]"#;
        let read = as_scoring(&json!({"inputs": [input]}), named).unwrap();
        assert_eq!(read, json!({"inputs": {"any": [[[1], [2]], [[3], [4]]]}}));
    }

    #[test]
    fn raw_bytes_stand_behind_the_json() {
        let text = json!({"id": "7", "parameters": {"binary_data_output": true}, "outputs": [{"name": "y", "parameters": {"binary_data": false}}],
            "inputs": [{"name": "a", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": 16}},
                {"name": "b", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 10}}]});
        let text = text.to_string();
        let mut body = text.clone().into_bytes();
        body.extend([1.5_f64, -2.0].map(f64::to_le_bytes).concat());
        body.extend(b"\x01\0\0\0x\x01\0\0\0y");
        let read = read(&body, Some(text.len()), &signature(TABLE)).unwrap();
        assert_eq!(read.body, br#"{"dataframe_split":{"columns":["a","b"],"data":[[1.5,"x"],[-2.0,"y"]]}}"#);
        let outputs = vec![("y".to_owned(), Some(false))];
        assert_eq!(read.wanted, Wanted { id: Some("7".to_owned()), binary: true, outputs });
        for (length, cut) in [(text.len(), 1), (text.len() - 1, 0), (body.len() + 1, 0)] {
            assert!(super::read(&body[..body.len() - cut], Some(length), &signature(TABLE)).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let with = |input: Value| {
            as_scoring(&json!({"inputs": [input]}), r#"[{"name":"a","type":"long"}]"#).unwrap_err()
        };
        for (input, said) in [
            (
                json!({"name": "a", "shape": [2], "datatype": "INT64", "data": [1]}),
                "input `a`: its shape has 2 elements, its data 1",
            ),
            (
                json!({"name": "a", "shape": [1], "datatype": "INT64", "data": [2.5]}),
                "input `a`: element 0: expected INT64, found a float",
            ),
            (
                json!({"name": "a", "shape": [1], "datatype": "UINT8", "data": [256]}),
                "input `a`: element 0: expected UINT8, found an integer",
            ),
            (
                json!({"name": "a", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}),
                "input `a`: a column has the shape [1] or [1, 1]",
            ),
            (
                json!({"name": "a", "shape": [u64::MAX, 2], "datatype": "INT64", "data": []}),
                "input `a`: its shape is too large",
            ),
            (json!({"name": "a", "shape": [1], "datatype": "INT63", "data": [1]}), "unknown variant"),
            (json!({"shape": [1], "datatype": "INT64", "data": [1]}), "missing field `name`"),
        ] {
            let found = with(input);
            assert!(found.contains(said), "{found}");
        }
    }
}
