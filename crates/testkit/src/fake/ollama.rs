//! What the fake provider says in Ollama's own API.

use serde_json::{Value, json};

use super::bodies::Script;

const STAMP: &str = "2026-08-05T08:10:56.372032Z";

fn line(model: &str, message: &Value, done: Option<usize>) -> Value {
    let mut line = json!({ "model": model, "created_at": STAMP, "message": message, "done": done.is_some() });
    if let Some(count) = done {
        line["done_reason"] = "stop".into();
        line["prompt_eval_count"] = 9.into();
        line["eval_count"] = count.into();
    }
    line
}

fn call() -> Value {
    json!([{ "function": { "name": "get_weather", "arguments": { "city": "Paris" } } }])
}

/// A whole chat answer.
pub(super) fn answer(model: &str, text: &str) -> Value {
    let mut message = json!({ "role": "assistant", "content": text });
    if model == "tool" {
        message = json!({ "role": "assistant", "content": "", "tool_calls": call() });
    }
    if model == "reasoning" {
        message["thinking"] = "Let me think.".into();
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
    let content = if model == "tool" {
        vec![say(json!({ "role": "assistant", "content": "", "tool_calls": call() }))]
    } else {
        words.iter().map(|word| say(json!({ "role": "assistant", "content": word }))).collect()
    };
    let start = if model == "reasoning" {
        vec![say(json!({ "role": "assistant", "content": "", "thinking": "Let me think." }))]
    } else {
        Vec::new()
    };
    let last = line(model, &json!({ "role": "assistant", "content": "" }), Some(words.len()));
    Script { start, content, finish: Vec::new(), end: format!("{last}\n").into_bytes() }
}
