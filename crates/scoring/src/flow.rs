//! What one model answers as the input of the next: whether the signatures go together, and the body.

use serde_json::{Map, Value, json};

use crate::combine::word;
use crate::shown;
use crate::signature::{Column, Inputs, Kind, Signature, Tensor};

/// Why answers of `outputs` are no input of a model with `signature`; `None` where they are, or where it cannot be told.
#[must_use]
pub fn mismatch(outputs: Option<&Inputs>, signature: &Signature) -> Option<String> {
    let (outputs, inputs) = (outputs?, signature.inputs.as_ref()?);
    match (names(outputs), inputs) {
        (Some(_), Inputs::Columns(columns)) if named(columns) => {
            columns.iter().find_map(|column| missing(outputs, column))
        }
        (_, Inputs::Columns(columns)) => {
            let width = width(outputs)?;
            if !fits(columns, width) {
                return Some(format!(
                    "{width} values a row are answered, the model takes {} columns",
                    columns.len()
                ));
            }
            let kinds = (0..width)
                .zip(columns)
                .filter_map(|(place, column)| Some((kind_at(outputs, place)?, column)));
            kinds
                .into_iter()
                .find(|(kind, column)| !goes_into(kind, &column.kind))
                .map(|(kind, column)| misfit(column, &kind))
        }
        (Some(names), Inputs::Tensors(tensors)) if tensors.iter().all(|tensor| tensor.name.is_some()) => {
            let mut wanted = tensors.iter().filter_map(|tensor| tensor.name.as_deref());
            let lacking = wanted.find(|name| !names.contains(name))?;
            Some(format!("the input `{}` is not among the answers", shown(lacking)))
        }
        (_, Inputs::Tensors(tensors)) => {
            let [tensor] = tensors.as_slice() else {
                return Some("answers without names are no input of a model with several tensors".to_owned());
            };
            let (found, expected) =
                (width(outputs)?, i64::from(tensor.shape.len() > 1) * tensor.shape.get(1)?);
            (expected > 0 && expected != found as i64)
                .then(|| format!("{found} values a row are answered, the model takes {expected}"))
        }
    }
}

/// Why two models cannot be members of one ensemble, by what they answer. `numbers`: texts cannot be combined.
#[must_use]
pub fn unlike(one: Option<&Inputs>, other: Option<&Inputs>, numbers: bool) -> Option<String> {
    let (one, other) = (one?, other?);
    if let (Some(first), Some(second)) = (width(one), width(other))
        && first != second
    {
        return Some(format!("one answers {first} values a row, another {second}"));
    }
    if let (Some(first), Some(second)) = (names(one), names(other))
        && let Some(lacking) = first.iter().find(|name| !second.contains(name))
    {
        return Some(format!("`{}` is answered by one and not by another", shown(lacking)));
    }
    let is_text = |side: &Inputs| {
        let count = width(side).unwrap_or(1);
        (0..count)
            .any(|place| matches!(kind_at(side, place), Some(Kind::Text | Kind::Binary | Kind::Boolean)))
    };
    let text = numbers && (is_text(one) || is_text(other));
    text.then(|| "one answers what is no number, which only `vote` can combine".to_owned())
}

/// A body of the scoring protocol with `predictions` in the form that a model with `signature` takes. The error says why
/// there is none, never a value.
pub fn hand_over(predictions: &Value, signature: Option<&Signature>) -> Result<Vec<u8>, String> {
    let inputs = signature.and_then(|signature| signature.inputs.as_ref());
    let body = match predictions {
        Value::Array(rows) if rows.first().is_some_and(Value::is_object) => match inputs {
            Some(Inputs::Tensors(tensors)) if is_unnamed(tensors) => {
                let cells = |row: &Value| match row {
                    Value::Object(members) => members.values().cloned().collect(),
                    other => other.clone(),
                };
                json!({ "inputs": rows.iter().map(cells).collect::<Vec<_>>() })
            }
            _ => json!({ "dataframe_records": rows }),
        },
        Value::Array(rows) => list(rows, inputs)?,
        Value::Object(members) => json!({ "inputs": members }),
        scalar => list(std::slice::from_ref(scalar), inputs)?,
    };
    Ok(body.to_string().into_bytes())
}

/// Rows that are lists or single values.
fn list(rows: &[Value], inputs: Option<&Inputs>) -> Result<Value, String> {
    let wide = |rows: &[Value]| -> Vec<Value> {
        rows.iter().map(|row| if row.is_array() { row.clone() } else { json!([row]) }).collect()
    };
    match inputs {
        None => Ok(json!({ "inputs": rows })),
        Some(Inputs::Tensors(tensors)) if is_unnamed(tensors) => {
            let flat = tensors.first().is_some_and(|tensor| tensor.shape.len() < 2);
            Ok(if flat { json!({ "inputs": rows }) } else { json!({ "inputs": wide(rows) }) })
        }
        Some(Inputs::Tensors(_)) => {
            Err("answers without names are no input of a model with several tensors".to_owned())
        }
        Some(Inputs::Columns(columns)) => {
            let width = match rows.first() {
                Some(Value::Array(cells)) => cells.len(),
                Some(_) => 1,
                None => columns.len(),
            };
            if let Some(odd) = rows.iter().position(|row| row.as_array().map_or(1, Vec::len) != width) {
                return Err(format!("row {odd}: expected {width} values, found {}", word(&rows[odd])));
            }
            if !fits(columns, width) {
                return Err(format!(
                    "{width} values a row are answered, the model takes {} columns",
                    columns.len()
                ));
            }
            let mut split = Map::new();
            if named(columns) {
                split.insert(
                    "columns".to_owned(),
                    chosen(columns, width).map(|column| json!(column.name)).collect(),
                );
            }
            split.insert("data".to_owned(), Value::Array(wide(rows)));
            Ok(json!({ "dataframe_split": split }))
        }
    }
}

/// The columns that so many values stand for: all of them, else those that must be there.
fn chosen(columns: &[Column], width: usize) -> impl Iterator<Item = &Column> {
    let all = columns.len() == width;
    columns.iter().filter(move |column| all || column.required)
}

fn fits(columns: &[Column], width: usize) -> bool {
    columns.len() == width || columns.iter().filter(|column| column.required).count() == width
}

fn missing(outputs: &Inputs, column: &Column) -> Option<String> {
    let name = column.name.as_deref().unwrap_or_default();
    let place = names(outputs)?.iter().position(|known| *known == name);
    match place {
        None if column.required => Some(format!("the column `{}` is not among the answers", shown(name))),
        None => None,
        Some(place) => {
            let kind = kind_at(outputs, place)?;
            (!goes_into(&kind, &column.kind)).then(|| misfit(column, &kind))
        }
    }
}

fn misfit(column: &Column, kind: &Kind) -> String {
    let name = column.name.as_deref().map_or_else(String::new, |name| format!(" `{}`", shown(name)));
    format!("the column{name} takes {}, {} is answered", column.kind.name(), kind.name())
}

fn named(columns: &[Column]) -> bool {
    columns.iter().all(|column| column.name.is_some())
}

fn is_unnamed(tensors: &[Tensor]) -> bool {
    matches!(tensors, [tensor] if tensor.name.is_none())
}

/// The names of what is answered, where everything has one.
fn names(side: &Inputs) -> Option<Vec<&str>> {
    match side {
        Inputs::Columns(columns) => columns.iter().map(|column| column.name.as_deref()).collect(),
        Inputs::Tensors(tensors) => tensors.iter().map(|tensor| tensor.name.as_deref()).collect(),
    }
}

/// Values a row, where that is known.
fn width(side: &Inputs) -> Option<usize> {
    match side {
        Inputs::Columns(columns) => Some(columns.len()),
        Inputs::Tensors(tensors) => match tensors.as_slice() {
            [tensor] => match tensor.shape.as_slice() {
                [_] => Some(1),
                [_, width] => usize::try_from(*width).ok(),
                _ => None,
            },
            several => Some(several.len()),
        },
    }
}

fn kind_at(side: &Inputs, place: usize) -> Option<Kind> {
    match side {
        Inputs::Columns(columns) => columns.get(place).map(|column| column.kind.clone()),
        Inputs::Tensors(tensors) => {
            let tensor = if tensors.len() == 1 { tensors.first() } else { tensors.get(place) };
            tensor.and_then(|tensor| numpy(&tensor.dtype))
        }
    }
}

fn numpy(dtype: &str) -> Option<Kind> {
    Some(match dtype {
        "float64" => Kind::Double,
        "float32" => Kind::Float,
        "int64" => Kind::Long,
        "int32" => Kind::Integer,
        "bool" => Kind::Boolean,
        text if text == "str" || text.starts_with("<U") => Kind::Text,
        _ => return None,
    })
}

/// Whether values of one type are taken for another. Where it depends on the value, it may.
fn goes_into(from: &Kind, into: &Kind) -> bool {
    use Kind::{Any, Binary, DateTime, Double, Float, Integer, Long, Text};
    match (from, into) {
        (Any, _)
        | (_, Any)
        | (Integer | Long, Integer | Long | Float | Double)
        | (Float | Double, Float | Double)
        | (Text | DateTime | Binary, Text | DateTime | Binary) => true,
        (from, into) => std::mem::discriminant(from) == std::mem::discriminant(into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(inputs: &str) -> Signature {
        Signature::parse(Some(inputs), None).unwrap()
    }

    const TWO: &str = r#"[{"name":"a","type":"double"},{"name":"b","type":"long","required":false}]"#;
    const TENSOR: &str = r#"[{"type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,2]}}]"#;
    const ONE: &str = r#"[{"type":"long"}]"#;
    const FLAT: &str = r#"[{"type":"tensor","tensor-spec":{"dtype":"int64","shape":[-1]}}]"#;

    fn body(predictions: &Value, inputs: Option<&str>) -> Result<Value, String> {
        let signature = inputs.map(signature);
        hand_over(predictions, signature.as_ref()).map(|body| serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn predictions_become_the_next_models_input() {
        for (predictions, inputs, expected) in [
            (json!([{"a": 1, "b": 2}]), Some(TWO), json!({"dataframe_records": [{"a": 1, "b": 2}]})),
            (
                json!([[1.5, 2], [3.5, 4]]),
                Some(TWO),
                json!({"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 2], [3.5, 4]]}}),
            ),
            (json!([7, 8]), Some(TWO), json!({"dataframe_split": {"columns": ["a"], "data": [[7], [8]]}})),
            (json!([7, 8]), Some(ONE), json!({"dataframe_split": {"data": [[7], [8]]}})),
            (json!([[1, 2]]), Some(TENSOR), json!({"inputs": [[1, 2]]})),
            (json!([{"x": 1, "y": 2}]), Some(TENSOR), json!({"inputs": [[1, 2]]})),
            (json!([7, 8]), Some(FLAT), json!({"inputs": [7, 8]})),
            (json!([7, 8]), None, json!({"inputs": [7, 8]})),
            (json!({"a": [1], "b": [2]}), Some(TWO), json!({"inputs": {"a": [1], "b": [2]}})),
            (json!("text"), Some(TWO), json!({"dataframe_split": {"columns": ["a"], "data": [["text"]]}})),
        ] {
            assert_eq!(body(&predictions, inputs), Ok(expected), "{predictions} into {inputs:?}");
        }
        let error = body(&json!([[1, 2, 3]]), Some(TWO)).unwrap_err();
        assert_eq!(error, "3 values a row are answered, the model takes 2 columns");
        assert!(body(&json!([[1, 2], [1]]), Some(TWO)).unwrap_err().starts_with("row 1: expected 2 values"));
    }

    #[test]
    fn signatures_that_do_not_go_together_are_told() {
        let check =
            |outputs: &str, inputs: &str| mismatch(signature(outputs).inputs.as_ref(), &signature(inputs));
        for (outputs, inputs, expected) in [
            (TWO, TWO, None),
            (r#"[{"name":"a","type":"long"},{"name":"z","type":"string"}]"#, TWO, None),
            (r#"[{"name":"x","type":"double"}]"#, TWO, Some("the column `a` is not among the answers")),
            (
                r#"[{"name":"a","type":"string"}]"#,
                TWO,
                Some("the column `a` takes double, string is answered"),
            ),
            (ONE, TWO, None),
            (FLAT, TWO, None),
            (TENSOR, TWO, Some("the column `b` takes long, double is answered")),
            (
                r#"[{"type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,3]}}]"#,
                TWO,
                Some("3 values a row are answered, the model takes 2 columns"),
            ),
            (ONE, TENSOR, Some("1 values a row are answered, the model takes 2")),
            (TWO, TENSOR, None),
        ] {
            assert_eq!(check(outputs, inputs).as_deref(), expected, "{outputs} into {inputs}");
        }
        assert_eq!(mismatch(None, &signature(TWO)), None);
        assert_eq!(mismatch(signature(TWO).inputs.as_ref(), &Signature::default()), None);
    }

    #[test]
    fn members_of_an_ensemble_answer_alike() {
        let check = |one: &str, other: &str, numbers| {
            unlike(signature(one).inputs.as_ref(), signature(other).inputs.as_ref(), numbers)
        };
        assert_eq!(check(ONE, FLAT, true), None);
        assert_eq!(check(ONE, TENSOR, true).unwrap(), "one answers 1 values a row, another 2");
        assert!(check(r#"[{"type":"string"}]"#, ONE, true).is_some());
        assert_eq!(check(r#"[{"type":"string"}]"#, r#"[{"type":"string"}]"#, false), None);
    }
}
