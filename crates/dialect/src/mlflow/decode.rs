//! Requests as MLflow's gateway takes them: OpenAI's fields, numbers and booleans also as text, `stop` as a
//! list only. Unknown fields go on to the provider, where MLflow drops those inside messages.

use millgate_types::{Call, Fault, Operation};
use serde_json::{Number, Value};

use crate::json;
use crate::openai::decode::{self, Rules};

const RULES: Rules = Rules { bare_stop: false, any_role: true, any_prompt: false };

const INTEGERS: &[&str] = &["n", "max_tokens", "max_completion_tokens", "top_k", "seed", "dimensions"];
const FLOATS: &[&str] = &["temperature", "top_p", "presence_penalty", "frequency_penalty"];
const BOOLEANS: &[&str] = &["stream", "parallel_tool_calls"];

pub(super) fn call(operation: Operation, body: &[u8]) -> Result<Call, Fault> {
    let mut map = json::parse_object(body)?;
    for (key, value) in &mut map {
        coerce(key, value);
    }
    if let Some(Value::Array(stop)) = map.get("stop")
        && stop.is_empty()
    {
        return Err(json::At::Root.key("stop").invalid("`stop` must hold at least one text"));
    }
    decode::call(operation, map, RULES)
}

/// Pydantic's lenient reading of the known scalar fields.
fn coerce(key: &str, value: &mut Value) {
    let read = match value {
        Value::String(text) if INTEGERS.contains(&key) => text.trim().parse::<i64>().ok().map(Value::from),
        Value::Number(number) if INTEGERS.contains(&key) && number.is_f64() => number
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() < 9e15)
            .map(|float| Value::from(float as i64)),
        Value::String(text) if FLOATS.contains(&key) => {
            text.trim().parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number)
        }
        Value::String(text) if BOOLEANS.contains(&key) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" | "t" | "y" => Some(Value::Bool(true)),
            "false" | "0" | "no" | "off" | "f" | "n" => Some(Value::Bool(false)),
            _ => None,
        },
        _ => None,
    };
    if let Some(read) = read {
        *value = read;
    }
}
