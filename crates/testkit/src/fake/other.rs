//! What the fake provider says in OpenAI's Responses API and in Google's.

use serde_json::{Value, json};

use super::bodies::{CREATED, Script, data, event};

/// A `response` object, done or just begun.
pub(super) fn response(model: &str, text: &str, done: bool) -> Value {
    let item = if model == "tool" {
        json!({ "id": "fc_fake", "type": "function_call", "status": "completed", "call_id": "call_fake1",
            "name": "get_weather", "arguments": "{\"city\":\"Paris\"}" })
    } else {
        json!({ "id": "msg_fake", "type": "message", "status": "completed", "role": "assistant",
            "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }] })
    };
    let mut response = json!({ "id": "resp_fake", "object": "response", "created_at": CREATED,
        "status": if done { "completed" } else { "in_progress" }, "error": null, "incomplete_details": null,
        "instructions": null, "model": model, "output": if done { json!([item]) } else { json!([]) },
        "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "x_unknown": { "kept": true },
        "usage": null });
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
    let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [] });
    let item = |status: &str, content: Value| json!({ "id": "msg_fake", "type": "message", "status": status, "role": "assistant", "content": content });
    let text = words.concat();
    let place = json!({ "item_id": "msg_fake", "output_index": 0, "content_index": 0 });
    let at = |key: &str, value: Value| {
        let mut whole = place.clone();
        whole[key] = value;
        whole
    };
    let begun = response(model, "", false);
    let start = vec![
        say("response.created", json!({ "response": begun })),
        say("response.in_progress", json!({ "response": begun })),
        say(
            "response.output_item.added",
            json!({ "output_index": 0, "item": item("in_progress", json!([])) }),
        ),
        say("response.content_part.added", at("part", part(""))),
    ];
    let content = words
        .iter()
        .map(|word| say("response.output_text.delta", at("delta", word.as_str().into())))
        .collect();
    let finish = vec![
        say("response.output_text.done", at("text", text.as_str().into())),
        say("response.content_part.done", at("part", part(&text))),
        say(
            "response.output_item.done",
            json!({ "output_index": 0, "item": item("completed", json!([part(&text)])) }),
        ),
    ];
    let end = say("response.completed", json!({ "response": response(model, &text, true) }));
    Script { start, content, finish, end }
}

fn usage(candidates: usize) -> Value {
    json!({ "promptTokenCount": 9, "candidatesTokenCount": candidates, "thoughtsTokenCount": 3,
        "cachedContentTokenCount": 4, "totalTokenCount": 12 + candidates })
}

fn parts(model: &str, text: &str) -> Value {
    match model {
        "tool" => json!([{ "functionCall": { "name": "get_weather", "args": { "city": "Paris" } },
            "thoughtSignature": "c2lnbmF0dXJl" }]),
        "reasoning" => json!([{ "text": "Let me think.", "thought": true }, { "text": text }]),
        _ => json!([{ "text": text }]),
    }
}

/// A whole answer of Google's.
pub(super) fn generated(model: &str, text: &str) -> Value {
    json!({ "candidates": [{ "content": { "parts": parts(model, text), "role": "model" },
            "finishReason": "STOP", "index": 0, "xUnknown": { "kept": true } }],
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
            candidate["finishReason"] = "STOP".into();
        }
        chunk(&json!({ "candidates": [candidate], "usageMetadata": usage(count), "modelVersion": model,
            "responseId": "fake" }))
    };
    let content = if model == "tool" {
        vec![piece(parts(model, ""), 5, false), piece(json!([{ "text": "" }]), 5, false)]
    } else {
        words.iter().enumerate().map(|(at, word)| piece(json!([{ "text": word }]), at + 1, false)).collect()
    };
    let end = piece(json!([{ "text": "" }]), words.len(), true);
    Script { start: Vec::new(), content, finish: Vec::new(), end }
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
