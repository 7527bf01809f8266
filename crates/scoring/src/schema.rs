//! A signature as JSON Schema (2020-12): the bodies that a model takes, and what it answers. What a schema cannot say
//! (equal lengths, which cell stands under which name) is left to the check of each request: the schema refuses
//! nothing that the check takes.

use serde_json::{Map, Value, json};

use crate::signature::{Column, Inputs, Kind, Param, Signature, Tensor};

/// The bodies of the scoring protocol that fit a signature.
#[must_use]
pub fn request_schema(signature: &Signature) -> Value {
    let forms = match &signature.inputs {
        None => vec![
            ("dataframe_split", split(&json!({}), &json!({}))),
            ("dataframe_records", json!({ "type": "array", "items": { "type": "object" } })),
            ("instances", json!({ "type": ["array", "object"] })),
            ("inputs", json!({})),
        ],
        Some(Inputs::Columns(columns)) => table(columns),
        Some(Inputs::Tensors(tensors)) => tensor_forms(tensors),
    };
    let params = signature.params.as_deref().map(params);
    let forms = forms.into_iter().map(|(form, schema)| {
        let mut properties = Map::new();
        properties.insert(form.to_owned(), schema);
        properties.extend(params.clone().map(|params| ("params".to_owned(), params)));
        json!({ "title": form, "type": "object", "required": [form], "properties": properties })
    });
    json!({ "oneOf": forms.collect::<Vec<_>>() })
}

/// What a model answers, as far as its signature says. Python decides on the form: records, lists or columns.
#[must_use]
pub fn answer_schema(outputs: Option<&Inputs>) -> Value {
    let predictions = match outputs {
        None => json!({}),
        Some(Inputs::Columns(columns)) => {
            let cells =
                json!({ "anyOf": columns.iter().map(|column| cell(&column.kind)).collect::<Vec<_>>() });
            let named = columns.iter().filter_map(|column| Some((column.name.clone()?, cell(&column.kind))));
            let named: Map<String, Value> = named.collect();
            let mut ways = vec![
                json!({ "type": "array", "items": cells }),
                json!({ "type": "array", "items": { "type": "array", "items": cells } }),
            ];
            if !named.is_empty() {
                ways.insert(
                    0,
                    json!({ "type": "array", "items": { "type": "object", "properties": named } }),
                );
                ways.push(json!({ "type": "object" }));
            }
            json!({ "anyOf": ways })
        }
        Some(Inputs::Tensors(tensors)) => match tensors.as_slice() {
            [tensor] if tensor.name.is_none() => tensor_schema(tensor),
            tensors => {
                let named =
                    tensors.iter().filter_map(|tensor| Some((tensor.name.clone()?, tensor_schema(tensor))));
                json!({ "type": ["object", "array"], "properties": named.collect::<Map<_, _>>() })
            }
        },
    };
    json!({ "type": "object", "required": ["predictions"], "properties": { "predictions": predictions } })
}

/// One row of a table, as bulk scoring takes it: an object by column, or a list in the columns' order.
#[must_use]
pub fn row_schema(signature: &Signature) -> Value {
    match &signature.inputs {
        Some(Inputs::Columns(columns)) => json!({ "anyOf": [record(columns), by_position(columns)] }),
        Some(Inputs::Tensors(tensors)) => match tensors.as_slice() {
            [tensor] if tensor.name.is_none() => {
                nested(&tensor.dtype, tensor.shape.get(1..).unwrap_or_default())
            }
            _ => json!({}),
        },
        None => json!({}),
    }
}

fn split(columns: &Value, rows: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["data"],
        "additionalProperties": false,
        "properties": {
            "columns": columns,
            "index": { "type": ["array", "null"] },
            "data": { "type": "array", "items": rows },
        },
    })
}

fn table(columns: &[Column]) -> Vec<(&'static str, Value)> {
    let named = columns.iter().all(|column| column.name.is_some());
    let lists = by_position(columns);
    // One column needs no name; several named ones cannot be told apart without.
    let is_single = columns.len() == 1;
    let records = json!({ "type": "array", "items": record(columns) });
    let mut by_column = vec![json!({ "type": "array", "maxItems": 0 }), records.clone(), columns_of(columns)];
    if is_single || !named {
        by_column.push(json!({ "type": "array", "items": lists }));
    }
    if is_single {
        let one = columns.first().map_or_else(|| json!({}), |column| cell(&column.kind));
        by_column.push(json!({ "type": "array", "items": one }));
        by_column.push(one);
    }
    let typed = json!({ "anyOf": by_column });
    let any = json!({ "type": "array", "items": { "anyOf": columns.iter().map(|column| cell(&column.kind)).chain([json!({})]).collect::<Vec<_>>() } });
    let split = if named {
        let required = columns.iter().filter(|column| column.required && !is_single);
        let contains = required.map(|column| json!({ "contains": { "const": column.name } }));
        let mut names = json!({ "type": "array", "items": { "type": "string" }, "uniqueItems": true });
        let contains: Vec<_> = contains.collect();
        if !contains.is_empty() {
            names["allOf"] = Value::Array(contains);
        }
        let mut split = split(&names, &if is_single { json!({}) } else { any });
        if columns.iter().any(|column| column.required) && !is_single {
            split["required"] = json!(["columns", "data"]);
        }
        split
    } else {
        split(&json!({ "type": ["array", "null"] }), &if is_single { json!({}) } else { lists })
    };
    vec![
        ("dataframe_split", split),
        ("dataframe_records", records),
        ("instances", typed.clone()),
        ("inputs", typed),
    ]
}

/// An object with a cell for each column; others are dropped.
fn record(columns: &[Column]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for column in columns {
        let Some(name) = &column.name else { continue };
        properties.insert(name.clone(), cell(&column.kind));
        if column.required {
            required.push(json!(name));
        }
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// An object with a list for each column.
fn columns_of(columns: &[Column]) -> Value {
    let mut schema = record(columns);
    if let Some(properties) = schema["properties"].as_object_mut() {
        for schema in properties.values_mut() {
            let one = schema.take();
            *schema = json!({ "anyOf": [{ "type": "array", "items": one }, one] });
        }
    }
    schema
}

/// A list with a cell for each column, in order.
fn by_position(columns: &[Column]) -> Value {
    let cells: Vec<_> = columns.iter().map(|column| cell(&column.kind)).collect();
    let least = columns.iter().rposition(|column| column.required).map_or(0, |last| last + 1);
    json!({ "type": "array", "prefixItems": cells, "minItems": least, "maxItems": columns.len() })
}

fn tensor_forms(tensors: &[Tensor]) -> Vec<(&'static str, Value)> {
    match tensors {
        [tensor] if tensor.name.is_none() => {
            let schema = tensor_schema(tensor);
            vec![("inputs", schema.clone()), ("instances", schema)]
        }
        tensors => {
            let named =
                tensors.iter().filter_map(|tensor| Some((tensor.name.clone()?, tensor_schema(tensor))));
            let properties: Map<_, _> = named.collect();
            let required: Vec<_> = properties.keys().cloned().collect();
            let inputs = json!({ "type": "object", "properties": properties, "required": required });
            vec![("inputs", inputs), ("instances", json!({ "type": ["array", "object"] }))]
        }
    }
}

fn tensor_schema(tensor: &Tensor) -> Value {
    nested(&tensor.dtype, &tensor.shape)
}

fn nested(dtype: &str, shape: &[i64]) -> Value {
    let Some((size, inner)) = shape.split_first() else {
        return match dtype {
            "float64" => cell(&Kind::Double),
            "float32" => cell(&Kind::Float),
            "int64" => cell(&Kind::Long),
            "int32" => cell(&Kind::Integer),
            _ => json!({}),
        };
    };
    let mut schema = json!({ "type": "array", "items": nested(dtype, inner) });
    if *size >= 0 {
        schema["minItems"] = json!(size);
        schema["maxItems"] = json!(size);
    }
    schema
}

fn params(params: &[Param]) -> Value {
    let one = |param: &Param| {
        let inner = match &param.kind {
            kind @ (Kind::Float | Kind::Double | Kind::Boolean | Kind::Text) => without_null(cell(kind)),
            kind => cell(kind),
        };
        let schema = if param.list {
            json!({ "type": "array", "items": inner })
        } else {
            json!({ "anyOf": [inner, { "type": "null" }] })
        };
        (param.name.clone(), schema)
    };
    json!({
        "type": ["object", "null"],
        "properties": params.iter().map(one).collect::<Map<_, _>>(),
        "additionalProperties": false,
    })
}

fn without_null(mut schema: Value) -> Value {
    if let Some(word) = schema["type"].get(0).cloned() {
        schema["type"] = word;
    }
    schema
}

/// A cell of a type, by the rules of the check.
fn cell(kind: &Kind) -> Value {
    match kind {
        Kind::Boolean => json!({ "type": ["boolean", "null"] }),
        Kind::Integer => json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX }),
        Kind::Long => json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX }),
        Kind::Float => {
            // What rounds to a finite number of 32 bits.
            let most = f64::from(f32::MAX);
            json!({ "type": ["number", "null"], "minimum": -most, "maximum": most })
        }
        Kind::Double => json!({ "type": ["number", "null"] }),
        Kind::Text => json!({ "type": ["string", "null"] }),
        Kind::Binary => json!({ "type": "string", "contentEncoding": "base64" }),
        Kind::DateTime => json!({ "anyOf": [
            { "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}", "description": "ISO 8601" },
            { "type": "integer", "description": "nanoseconds since 1970" },
            { "type": "null" },
        ] }),
        Kind::Array(item) => json!({ "type": "array", "items": cell(item) }),
        Kind::Map(item) => json!({ "type": "object", "additionalProperties": cell(item) }),
        Kind::Object(members) => {
            let properties: Map<_, _> =
                members.iter().map(|member| (member.name.clone(), cell(&member.kind))).collect();
            let required: Vec<_> =
                members.iter().filter(|member| member.required).map(|member| json!(member.name)).collect();
            json!({ "type": "object", "properties": properties, "required": required })
        }
        Kind::Any => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_columns_and_params_are_described() {
        let signature = Signature::parse(
            Some(r#"[{"name":"a","type":"long"},{"name":"b","type":"string","required":false}]"#),
            Some(r#"[{"name":"k","type":"double","default":0.5,"shape":null},{"name":"q","type":"long","default":[1],"shape":[-1]}]"#),
        )
        .unwrap();
        let schema = request_schema(&signature);
        let titles: Vec<_> = schema["oneOf"].as_array().unwrap().iter().map(|form| &form["title"]).collect();
        assert_eq!(titles, ["dataframe_split", "dataframe_records", "instances", "inputs"]);
        let record = &schema["oneOf"][1]["properties"]["dataframe_records"]["items"];
        assert_eq!(record["required"], json!(["a"]));
        assert_eq!(record["properties"]["a"]["maximum"], json!(i64::MAX));
        let params = &schema["oneOf"][0]["properties"]["params"];
        assert_eq!(params["properties"]["k"]["anyOf"][0], json!({ "type": "number" }));
        assert_eq!(params["additionalProperties"], json!(false));
        let tensor = Signature::parse(
            Some(r#"[{"type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,4]}}]"#),
            None,
        );
        let schema = request_schema(&tensor.unwrap());
        let rows = &schema["oneOf"][0]["properties"]["inputs"];
        assert_eq!((&rows["items"]["minItems"], rows.get("minItems")), (&json!(4), None));
        let outputs = Signature::parse(Some(r#"[{"name":"y","type":"long"}]"#), None).unwrap().inputs;
        let answer = answer_schema(outputs.as_ref());
        assert_eq!(
            answer["properties"]["predictions"]["anyOf"][0]["items"]["properties"]["y"]["type"],
            "integer"
        );
    }
}
