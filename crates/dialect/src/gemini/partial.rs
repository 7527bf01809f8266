//! Arguments of a function call that come in pieces (`streamFunctionCallArguments`): each piece names its place
//! by a JSON path.

use serde_json::{Map, Value, json};

/// Puts a piece where it belongs; a text that goes on is appended.
pub(super) fn apply(whole: &mut Value, piece: &Value) {
    let Some(path) = piece.get("jsonPath").and_then(Value::as_str) else { return };
    let mut place = whole;
    for step in steps(path) {
        place = match step {
            Step::Name(name) => {
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                &mut place[name]
            }
            Step::Index(index) => {
                if !place.is_array() {
                    *place = json!([]);
                }
                let Value::Array(items) = place else { return };
                // Nobody sends lists with gaps; a large index would only waste memory.
                if index > items.len() {
                    return;
                }
                if index == items.len() {
                    items.push(Value::Null);
                }
                &mut items[index]
            }
        };
    }
    if let Some(text) = piece.get("stringValue").and_then(Value::as_str) {
        match place {
            Value::String(known) => known.push_str(text),
            _ => *place = json!(text),
        }
    } else if let Some(value) = piece.get("numberValue").or_else(|| piece.get("boolValue")) {
        *place = value.clone();
    } else if piece.get("nullValue").is_some() {
        *place = Value::Null;
    }
}

enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// `$.a.b[0]['c']`.
fn steps(path: &str) -> Vec<Step<'_>> {
    path.trim_start_matches('$')
        .split(['.', '['])
        .map(|step| step.trim_end_matches(']'))
        .filter(|step| !step.is_empty())
        .map(|step| match step.parse() {
            Ok(index) => Step::Index(index),
            Err(_) => Step::Name(step.trim_matches(['\'', '"'])),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_together() {
        let mut whole = json!({});
        for piece in [
            json!({"jsonPath": "$.city", "stringValue": "San ", "willContinue": true}),
            json!({"jsonPath": "$.city", "stringValue": "Francisco"}),
            json!({"jsonPath": "$.days[0].number", "numberValue": 3}),
            json!({"jsonPath": "$.days[1]['open']", "boolValue": true}),
            json!({"jsonPath": "$.days[9]", "numberValue": 1}),
            json!({"jsonPath": "$.none", "nullValue": "NULL_VALUE"}),
        ] {
            apply(&mut whole, &piece);
        }
        assert_eq!(
            whole,
            json!({"city": "San Francisco", "days": [{"number": 3}, {"open": true}], "none": null})
        );
    }
}
