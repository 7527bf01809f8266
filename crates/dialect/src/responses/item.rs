//! Output items: what an answer is made of, read and written.

use millgate_types::{Block, Dialect};
use serde_json::{Map, Value, json};

use crate::{json, seal};

const FOREIGN: &str = "millgate/";
const FOREIGN_WHOLE: &str = "millgate-sealed/";

/// Reads an item into blocks. Items of built-in tools stay as they are.
pub(super) fn blocks(item: Value, out: &mut Vec<Block>) {
    let Value::Object(mut map) = item else { return };
    match map.get("type").and_then(Value::as_str) {
        Some("message") => {
            if let Some(Value::Array(parts)) = map.shift_remove("content") {
                out.extend(parts.into_iter().filter_map(part));
            }
        }
        Some("function_call") => {
            let mut text = |key: &str| json::take_string(&mut map, key).unwrap_or_default();
            let (call_id, id, name, arguments) =
                (text("call_id"), text("id"), text("name"), text("arguments"));
            let id = if call_id.is_empty() { id } else { call_id };
            let arguments = if arguments.trim().is_empty() { "{}".to_owned() } else { arguments };
            out.push(Block::ToolCall { id, name, arguments, cache_control: None });
        }
        Some("reasoning") => out.push(reasoning(&map)),
        _ => out.push(Block::Other { dialect: Dialect::Responses, value: Value::Object(map) }),
    }
}

fn part(part: Value) -> Option<Block> {
    let Value::Object(mut map) = part else { return None };
    if map.get("type").is_some_and(|kind| kind == "refusal") {
        return Some(Block::Refusal { text: json::take_string(&mut map, "refusal")? });
    }
    let text = json::take_string(&mut map, "text")?;
    let citations = match map.shift_remove("annotations") {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    Some(Block::Text { text, cache_control: None, citations })
}

/// A reasoning item. What another provider sealed comes back to it through `encrypted_content`.
pub(super) fn reasoning(map: &Map<String, Value>) -> Block {
    let text = reasoning_text(map);
    let id = map.get("id").and_then(Value::as_str).unwrap_or_default();
    let encrypted = map.get("encrypted_content").and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(encrypted) = encrypted else { return Block::Reasoning { text, signature: None } };
    if let Some(data) = encrypted.strip_prefix(FOREIGN_WHOLE) {
        return Block::RedactedReasoning { data: data.to_owned() };
    }
    let signature = match encrypted.strip_prefix(FOREIGN) {
        Some(signature) => signature.to_owned(),
        None => seal::openai(id, encrypted),
    };
    Block::Reasoning { text, signature: Some(signature) }
}

pub(super) fn reasoning_text(map: &Map<String, Value>) -> String {
    let texts = |key: &str| -> Vec<&str> {
        let items = map.get(key).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(|item| item.get("text")?.as_str()).collect()
    };
    let summary = texts("summary");
    if summary.is_empty() { texts("content").concat() } else { summary.join("\n\n") }
}

/// Writes a block as an item; `None` for what has no place here.
pub(super) fn value(block: &Block, number: usize, answer: &str) -> Option<Value> {
    let id = |prefix: &str| format!("{prefix}_{answer}_{number}");
    Some(match block {
        Block::Text { text, citations, .. } => message(&id("msg"), &text_part(text, citations)),
        Block::Refusal { text } => message(&id("msg"), &json!({"type": "refusal", "refusal": text})),
        Block::ToolCall { id: call_id, name, arguments, .. } => {
            json!({"id": id("fc"), "type": "function_call",
            "status": "completed", "arguments": arguments, "call_id": call_id, "name": name})
        }
        Block::Reasoning { text, signature } => reasoning_value(&id("rs"), text, signature.as_deref()),
        Block::RedactedReasoning { data } => redacted_value(&id("rs"), data),
        Block::Other { dialect: Dialect::Responses, value } => value.clone(),
        _ => return None,
    })
}

pub(super) fn reasoning_value(id: &str, text: &str, signature: Option<&str>) -> Value {
    let summary = if text.is_empty() { json!([]) } else { json!([{"type": "summary_text", "text": text}]) };
    let mut item = json!({"id": id, "type": "reasoning", "summary": summary});
    if let Some(signature) = signature {
        if let Some((id, encrypted)) = seal::as_openai(signature) {
            item["id"] = json!(id);
            item["encrypted_content"] = json!(encrypted);
        } else {
            item["encrypted_content"] = json!(format!("{FOREIGN}{signature}"));
        }
    }
    item
}

pub(super) fn redacted_value(id: &str, data: &str) -> Value {
    json!({"id": id, "type": "reasoning", "summary": [], "encrypted_content": format!("{FOREIGN_WHOLE}{data}")})
}

pub(super) fn message(id: &str, part: &Value) -> Value {
    json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "content": [part]})
}

pub(super) fn text_part(text: &str, citations: &[Value]) -> Value {
    let end = text.chars().count();
    let annotations: Vec<Value> = citations
        .iter()
        .filter_map(|citation| {
            if citation.get("type").is_some_and(|kind| kind == "url_citation") {
                return Some(citation.clone());
            }
            let url = citation.get("url")?.as_str()?;
            let title = citation.get("title").and_then(Value::as_str).unwrap_or_default();
            Some(json!({"type": "url_citation", "start_index": 0, "end_index": end, "url": url, "title": title}))
        })
        .collect();
    json!({"type": "output_text", "text": text, "annotations": annotations, "logprobs": []})
}
