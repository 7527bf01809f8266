//! What a model takes and gives, in the protocol's words.

use serde_json::{Value, json};

use crate::signature::{Column, Inputs, Kind, Tensor};

/// The model's metadata. Sizes of -1 are any.
#[must_use]
pub fn metadata(name: &str, version: &str, inputs: Option<&Inputs>, outputs: Option<&Inputs>) -> Value {
    json!({
        "name": name,
        "versions": [version],
        "platform": "mlflow",
        "inputs": tensors(inputs, "input"),
        "outputs": tensors(outputs, "output"),
    })
}

fn tensors(schema: Option<&Inputs>, word: &str) -> Vec<Value> {
    let numbered =
        |name: &Option<String>, place: usize| name.clone().unwrap_or_else(|| format!("{word}-{}", place + 1));
    match schema {
        None => Vec::new(),
        Some(Inputs::Columns(columns)) => {
            let column = |(place, column): (usize, &Column)| {
                let mut shown = json!({
                    "name": numbered(&column.name, place),
                    "datatype": datatype(&column.kind),
                    "shape": [-1, 1],
                });
                let content_type = match column.kind {
                    Kind::Text => Some("str"),
                    Kind::Binary => Some("base64"),
                    Kind::DateTime => Some("datetime"),
                    _ => None,
                };
                let mut parameters = serde_json::Map::new();
                parameters.extend(content_type.map(|word| ("content_type".to_owned(), word.into())));
                if !column.required {
                    parameters.insert("optional".to_owned(), true.into());
                }
                if !parameters.is_empty() {
                    shown["parameters"] = parameters.into();
                }
                shown
            };
            columns.iter().enumerate().map(column).collect()
        }
        Some(Inputs::Tensors(tensors)) => {
            let tensor = |(place, tensor): (usize, &Tensor)| {
                json!({
                    "name": numbered(&tensor.name, place),
                    "datatype": numpy(&tensor.dtype),
                    "shape": tensor.shape,
                })
            };
            tensors.iter().enumerate().map(tensor).collect()
        }
    }
}

fn datatype(kind: &Kind) -> &'static str {
    match kind {
        Kind::Boolean => "BOOL",
        Kind::Integer => "INT32",
        Kind::Long => "INT64",
        Kind::Float => "FP32",
        Kind::Double => "FP64",
        _ => "BYTES",
    }
}

fn numpy(dtype: &str) -> &'static str {
    match dtype {
        "bool" => "BOOL",
        "uint8" => "UINT8",
        "uint16" => "UINT16",
        "uint32" => "UINT32",
        "uint64" => "UINT64",
        "int8" => "INT8",
        "int16" => "INT16",
        "int32" => "INT32",
        "int64" => "INT64",
        "float16" => "FP16",
        "float32" => "FP32",
        "float64" => "FP64",
        _ => "BYTES",
    }
}
