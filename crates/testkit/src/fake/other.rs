//! What the fake provider says in OpenAI's Responses API and in Google's.

use serde_json::{Value, json};

use super::behaviour::{THOUGHT, called, is_cut, thinks};
use super::bodies::{CREATED, Script, data, event};

fn items(model: &str, text: &str) -> Vec<Value> {
    let mut items: Vec<Value> = called(model)
        .iter()
        .map(|call| {
            json!({ "id": format!("fc_{}", call.id), "type": "function_call", "status": "completed",
                "call_id": format!("call_{}", call.id), "name": call.name, "arguments": call.arguments() })
        })
        .collect();
    if items.is_empty() {
        items.push(json!({ "id": "msg_fake", "type": "message", "status": "completed", "role": "assistant",
            "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }] }));
    }
    if thinks(model) {
        let summary = json!([{ "type": "summary_text", "text": THOUGHT }]);
        items.insert(
            0,
            json!({ "id": "rs_fake", "type": "reasoning", "summary": summary,
            "encrypted_content": "c2VhbGVk" }),
        );
    }
    items
}

/// A `response` object, done or just begun.
pub(super) fn response(model: &str, text: &str, done: bool) -> Value {
    let output = if done { items(model, text) } else { Vec::new() };
    let mut response = json!({ "id": "resp_fake", "object": "response", "created_at": CREATED,
        "status": if done { "completed" } else { "in_progress" }, "error": null, "incomplete_details": null,
        "instructions": null, "model": model, "output": output,
        "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "x_unknown": { "kept": true },
        "usage": null });
    if done && is_cut(model) {
        response["status"] = "incomplete".into();
        response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
    }
    if done {
        response["usage"] = json!({ "input_tokens": 9, "input_tokens_details": { "cached_tokens": 4 },
            "output_tokens": 7, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 16 });
    }
    response
}

pub(super) fn response_events(model: &str, words: &[String]) -> Script {
    let mut number = 0;
    let mut say = |name: &str, mut value: Value| {
        value["type"] = name.into();
        value["sequence_number"] = number.into();
        number += 1;
        event(name, &value)
    };
    let begun = response(model, "", false);
    let mut start = vec![
        say("response.created", json!({ "response": begun })),
        say("response.in_progress", json!({ "response": begun })),
    ];
    let text = words.concat();
    let (mut content, mut finish) = (Vec::new(), Vec::new());
    for (place, item) in items(model, &text).iter().enumerate() {
        let mut opened = item.clone();
        let at = json!({ "item_id": item["id"], "output_index": place });
        let with = |more: Value| {
            let mut value = at.clone();
            for (key, more) in more.as_object().into_iter().flatten() {
                value[key] = more.clone();
            }
            value
        };
        let done = json!({ "output_index": place, "item": item });
        match item["type"].as_str() {
            Some("reasoning") => {
                opened["summary"] = json!([]);
                let part = |text: &str| {
                    with(json!({ "summary_index": 0, "part": { "type": "summary_text", "text": text } }))
                };
                let said = |key: &str| with(json!({ "summary_index": 0, key: THOUGHT }));
                start.push(say(
                    "response.output_item.added",
                    json!({ "output_index": place, "item": opened }),
                ));
                start.push(say("response.reasoning_summary_part.added", part("")));
                start.push(say("response.reasoning_summary_text.delta", said("delta")));
                start.push(say("response.reasoning_summary_text.done", said("text")));
                start.push(say("response.reasoning_summary_part.done", part(THOUGHT)));
                start.push(say("response.output_item.done", done));
            }
            Some("function_call") => {
                opened["arguments"] = "".into();
                opened["status"] = "in_progress".into();
                let added = json!({ "output_index": place, "item": opened });
                content.push(say("response.output_item.added", added));
                let arguments = item["arguments"].as_str().unwrap_or_default();
                let (one, two) = arguments.split_at(arguments.len() / 2);
                for piece in [one, two] {
                    let delta = with(json!({ "delta": piece }));
                    content.push(say("response.function_call_arguments.delta", delta));
                }
                let whole = with(json!({ "arguments": arguments }));
                content.push(say("response.function_call_arguments.done", whole));
                content.push(say("response.output_item.done", done));
            }
            _ => {
                opened["status"] = "in_progress".into();
                opened["content"] = json!([]);
                let part = |text: &str| {
                    with(json!({ "content_index": 0,
                        "part": { "type": "output_text", "text": text, "annotations": [] } }))
                };
                start.push(say(
                    "response.output_item.added",
                    json!({ "output_index": place, "item": opened }),
                ));
                start.push(say("response.content_part.added", part("")));
                for word in words {
                    let delta = with(json!({ "content_index": 0, "delta": word }));
                    content.push(say("response.output_text.delta", delta));
                }
                let whole = with(json!({ "content_index": 0, "text": text }));
                finish.push(say("response.output_text.done", whole));
                finish.push(say("response.content_part.done", part(&text)));
                finish.push(say("response.output_item.done", done));
            }
        }
    }
    let last = if is_cut(model) { "response.incomplete" } else { "response.completed" };
    let end = say(last, json!({ "response": response(model, &text, true) }));
    Script { start, content, finish, end }
}

fn usage(candidates: usize) -> Value {
    json!({ "promptTokenCount": 9, "candidatesTokenCount": candidates, "thoughtsTokenCount": 3,
        "cachedContentTokenCount": 4, "totalTokenCount": 12 + candidates })
}

fn parts(model: &str, text: &str) -> Value {
    // Of several calls the first is signed.
    let mut parts: Vec<Value> = called(model)
        .iter()
        .map(|call| json!({ "functionCall": { "name": call.name, "args": call.object() } }))
        .collect();
    if let Some(first) = parts.first_mut() {
        first["thoughtSignature"] = "c2lnbmF0dXJl".into();
    } else {
        parts.push(json!({ "text": text }));
    }
    if thinks(model) {
        parts[0]["thoughtSignature"] = "c2lnbmF0dXJl".into();
        parts.insert(0, json!({ "text": THOUGHT, "thought": true }));
    }
    parts.into()
}

fn finished(model: &str) -> &'static str {
    if is_cut(model) { "MAX_TOKENS" } else { "STOP" }
}

/// A whole answer of Google's.
pub(super) fn generated(model: &str, text: &str) -> Value {
    json!({ "candidates": [{ "content": { "parts": parts(model, text), "role": "model" },
            "finishReason": finished(model), "index": 0, "xUnknown": { "kept": true } }],
        "usageMetadata": usage(7), "modelVersion": model, "responseId": "fake" })
}

pub(super) fn generated_events(model: &str, words: &[String]) -> Script {
    // Google ends its lines with CR LF.
    let chunk = |value: &Value| {
        let mut bytes = data(value);
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    };
    let piece = |parts: Value, count: usize, finish: bool| {
        let mut candidate = json!({ "content": { "parts": parts, "role": "model" }, "index": 0 });
        if finish {
            candidate["finishReason"] = finished(model).into();
        }
        chunk(&json!({ "candidates": [candidate], "usageMetadata": usage(count), "modelVersion": model,
            "responseId": "fake" }))
    };
    let content = if called(model).is_empty() {
        words.iter().enumerate().map(|(at, word)| piece(json!([{ "text": word }]), at + 1, false)).collect()
    } else {
        vec![piece(parts(model, ""), 5, false), piece(json!([{ "text": "" }]), 5, false)]
    };
    let mut start = Vec::new();
    let mut last = json!({ "text": "" });
    if thinks(model) {
        start.push(piece(json!([{ "text": THOUGHT, "thought": true }]), 0, false));
        last["thoughtSignature"] = "c2lnbmF0dXJl".into();
    }
    let end = piece(json!([last]), words.len(), true);
    Script { start, content, finish: Vec::new(), end }
}

pub(super) fn embedded(request: &Value) -> Value {
    if request.get("content").is_some() {
        return json!({ "embedding": { "values": [0.25, -0.5, 0.125, 1.0] },
            "usageMetadata": { "promptTokenCount": 3, "totalTokenCount": 3 } });
    }
    let count = request["requests"].as_array().map_or(0, Vec::len);
    json!({ "embeddings": vec![json!({ "values": [0.25, -0.5, 0.125, 1.0] }); count] })
}

/// Vertex AI's embeddings.
pub(super) fn predicted(request: &Value) -> Value {
    let count = request["instances"].as_array().map_or(0, Vec::len);
    let one = json!({ "embeddings": { "values": [0.25, -0.5, 0.125, 1.0],
        "statistics": { "token_count": 3, "truncated": false } } });
    json!({ "predictions": vec![one; count], "metadata": { "billableCharacterCount": 9 } })
}

pub(super) fn error(status: u16, message: &str) -> Value {
    let word = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    json!({ "error": { "code": status, "message": message, "status": word } })
}
