//! What the fake provider says in Ollama's own API.

use serde_json::{Value, json};

use super::behaviour::{Called, THOUGHT, called, is_cut, thinks};
use super::bodies::Script;

const STAMP: &str = "2026-08-05T08:10:56.372032Z";

fn line(model: &str, message: &Value, done: Option<usize>) -> Value {
    let mut line = json!({ "model": model, "created_at": STAMP, "message": message, "done": done.is_some() });
    if let Some(count) = done {
        line["done_reason"] = if is_cut(model) { "length" } else { "stop" }.into();
        line["prompt_eval_count"] = 9.into();
        line["eval_count"] = count.into();
    }
    line
}

fn call(call: &Called) -> Value {
    json!({ "function": { "name": call.name, "arguments": call.object() } })
}

/// A whole chat answer.
pub(super) fn answer(model: &str, text: &str) -> Value {
    let mut message = json!({ "role": "assistant", "content": text });
    let calls: Vec<Value> = called(model).iter().map(call).collect();
    if !calls.is_empty() {
        message = json!({ "role": "assistant", "content": "", "tool_calls": calls });
    }
    if thinks(model) {
        message["thinking"] = THOUGHT.into();
    }
    line(model, &message, Some(7))
}

/// A vector for each text.
pub(super) fn embedded(request: &Value) -> Value {
    let count = request["input"].as_array().map_or(1, Vec::len);
    json!({ "model": request["model"], "embeddings": vec![[0.25, -0.5]; count], "prompt_eval_count": 3 })
}

/// The lines of a stream.
pub(super) fn events(model: &str, words: &[String]) -> Script {
    let say = |message: Value| format!("{}\n", line(model, &message, None)).into_bytes();
    // Several calls come in several lines.
    let calling = |one: &Called| json!({ "role": "assistant", "content": "", "tool_calls": [call(one)] });
    let mut content: Vec<Vec<u8>> = called(model).iter().map(|one| say(calling(one))).collect();
    if content.is_empty() {
        content.extend(words.iter().map(|word| say(json!({ "role": "assistant", "content": word }))));
    }
    let start = if thinks(model) {
        vec![say(json!({ "role": "assistant", "content": "", "thinking": THOUGHT }))]
    } else {
        Vec::new()
    };
    let last = line(model, &json!({ "role": "assistant", "content": "" }), Some(words.len()));
    Script { start, content, finish: Vec::new(), end: format!("{last}\n").into_bytes() }
}
