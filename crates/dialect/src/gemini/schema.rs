//! Google's older schemas (an OpenAPI subset with upper-case types and `nullable`) as JSON Schema, which every
//! target takes, Google's newer fields included.

use serde_json::{Map, Value, json};

/// Whether the schema is written in the OpenAPI subset.
fn is_subset(map: &Map<String, Value>) -> bool {
    let upper =
        |word: &Value| word.as_str().is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_uppercase()));
    map.get("type").is_some_and(upper) || map.contains_key("nullable") || map.contains_key("propertyOrdering")
}

/// JSON Schema from either form.
pub(super) fn json_schema(schema: Value) -> Value {
    let Value::Object(map) = schema else { return schema };
    let subset = is_subset(&map);
    let nullable = map.get("nullable").and_then(Value::as_bool).unwrap_or(false);
    let mut out = Map::new();
    for (key, value) in map {
        let value = match (super::camel_word(&key).as_str(), value) {
            ("type", Value::String(word)) => {
                let word = if subset { word.to_ascii_lowercase() } else { word };
                if word == "type_unspecified" {
                    continue;
                }
                if nullable { json!([word, "null"]) } else { json!(word) }
            }
            ("nullable" | "propertyOrdering", _) if subset => continue,
            ("properties" | "$defs" | "defs", Value::Object(inner)) => {
                Value::Object(inner.into_iter().map(|(name, value)| (name, json_schema(value))).collect())
            }
            ("items" | "additionalProperties", value) => json_schema(value),
            ("anyOf" | "oneOf" | "allOf", Value::Array(items)) => {
                Value::Array(items.into_iter().map(json_schema).collect())
            }
            // Google writes 64-bit numbers as text.
            (
                "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties",
                Value::String(text),
            ) => text.parse::<u64>().map_or(Value::String(text), Value::from),
            (_, value) => value,
        };
        out.insert(if subset { super::camel_word(&key) } else { key }, value);
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openapi_subset_becomes_json_schema() {
        let given = json!({"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": true},
            "list": {"type": "ARRAY", "items": {"type": "INTEGER"}, "maxItems": "3"}}, "required": ["a"],
            "propertyOrdering": ["a"]});
        let wanted = json!({"type": "object", "properties": {"a": {"type": ["string", "null"]},
            "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}}, "required": ["a"]});
        assert_eq!(json_schema(given), wanted);
        let plain = json!({"type": "object", "properties": {"my_key": {"type": "string"}}});
        assert_eq!(json_schema(plain.clone()), plain);
    }
}
