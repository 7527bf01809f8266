//! What the fake provider says in OpenAI's chat completions.

use serde_json::{Value, json};

use super::behaviour::{Manner, THOUGHT, Thinking, called, is_cut, thinks};
use super::bodies::{CREATED, Script, data};

/// What a message or a delta says of thinking, beside the content.
fn thought(manner: Manner, part: &mut Value) {
    match manner.thinking {
        Thinking::ReasoningContent => part["reasoning_content"] = THOUGHT.into(),
        Thinking::Reasoning => part["reasoning"] = THOUGHT.into(),
        Thinking::Details => {
            part["reasoning"] = THOUGHT.into();
            part["reasoning_details"] = json!([{ "type": "reasoning.text", "text": THOUGHT, "signature": "c2ln",
                "format": "anthropic-claude-v1", "index": 0 }]);
        }
        Thinking::Content => {
            part["content"] = json!([{ "type": "thinking", "closed": true,
                "thinking": [{ "type": "text", "text": THOUGHT }] }]);
        }
    }
}

fn finish(model: &str) -> &'static str {
    if !called(model).is_empty() {
        "tool_calls"
    } else if is_cut(model) {
        "length"
    } else {
        "stop"
    }
}

/// The whole answer.
pub(super) fn answer(manner: Manner, model: &str, text: &str) -> Value {
    let mut message = json!({ "role": "assistant", "content": text, "refusal": null, "annotations": [] });
    let calls: Vec<Value> = called(model)
        .iter()
        .map(|call| {
            json!({ "id": format!("call_{}", call.id), "type": "function",
                "function": { "name": call.name, "arguments": call.arguments() } })
        })
        .collect();
    if !calls.is_empty() {
        message["content"] = Value::Null;
        message["tool_calls"] = calls.into();
    }
    if thinks(model) {
        thought(manner, &mut message);
        if let Some(parts) = message["content"].as_array_mut() {
            parts.push(json!({ "type": "text", "text": text }));
        }
    }
    json!({
        "id": "chatcmpl-fake", "object": "chat.completion", "created": CREATED, "model": model,
        "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": finish(model) }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16,
            "prompt_tokens_details": { "cached_tokens": 0, "audio_tokens": 0 },
            "completion_tokens_details": { "reasoning_tokens": 0, "audio_tokens": 0 } },
        "service_tier": "default", "system_fingerprint": "fp_fake", "x_unknown": { "kept": true }
    })
}

/// The events of a stream.
pub(super) fn events(manner: Manner, model: &str, request: &Value, words: &[String]) -> Script {
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut value = json!({ "id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": CREATED,
            "model": model, "service_tier": "default", "system_fingerprint": "fp_fake", "choices": choices });
        if let Some(usage) = usage {
            value["usage"] = usage;
        }
        data(&value)
    };
    let wants_usage = request["stream_options"]["include_usage"] == true;
    let null_usage = wants_usage.then_some(Value::Null);
    let delta = |delta: Value, finish: Value| {
        let choices = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        chunk(choices, null_usage.clone())
    };
    let mut start = vec![delta(json!({ "role": "assistant", "content": "", "refusal": null }), Value::Null)];
    if thinks(model) {
        let mut part = json!({});
        thought(manner, &mut part);
        start.push(delta(part, Value::Null));
    }
    let mut content: Vec<Vec<u8>> = Vec::new();
    for (index, call) in called(model).iter().enumerate() {
        let first = json!({ "index": index, "id": format!("call_{}", call.id), "type": "function",
            "function": { "name": call.name, "arguments": "" } });
        let rest = call.pieces.map(|text| json!({ "index": index, "function": { "arguments": text } }));
        let deltas = [vec![first], rest.to_vec()].concat();
        content.extend(deltas.into_iter().map(|call| delta(json!({ "tool_calls": [call] }), Value::Null)));
    }
    if content.is_empty() {
        content.extend(words.iter().map(|word| delta(json!({ "content": word }), Value::Null)));
    }
    let usage =
        json!({ "prompt_tokens": 9, "completion_tokens": words.len(), "total_tokens": 9 + words.len() });
    let mut last = Vec::new();
    if manner.always_counts {
        let choices = json!([{ "index": 0, "delta": {}, "logprobs": null, "finish_reason": finish(model) }]);
        last.push(chunk(choices, Some(usage.clone())));
    } else {
        last.push(delta(json!({}), finish(model).into()));
    }
    if wants_usage {
        last.push(chunk(json!([]), Some(usage)));
    }
    Script { start, content, finish: last, end: b"data: [DONE]\n\n".to_vec() }
}
