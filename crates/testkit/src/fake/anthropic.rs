//! What the fake provider says in Anthropic's Messages.

use serde_json::{Value, json};

use super::behaviour::{THOUGHT, called, is_cut, thinks};
use super::bodies::{Script, event};

fn stop(model: &str) -> &'static str {
    if !called(model).is_empty() {
        "tool_use"
    } else if is_cut(model) {
        "max_tokens"
    } else {
        "end_turn"
    }
}

/// The whole answer.
pub(super) fn answer(model: &str, text: &str) -> Value {
    let mut content: Vec<Value> = called(model)
        .iter()
        .map(|call| {
            json!({ "type": "tool_use", "id": format!("toolu_{}", call.id), "name": call.name,
                "input": call.object() })
        })
        .collect();
    if content.is_empty() {
        content.push(json!({ "type": "text", "text": text }));
    }
    if thinks(model) {
        content.insert(0, json!({ "type": "thinking", "thinking": THOUGHT, "signature": "c2ln" }));
    }
    json!({
        "id": "msg_fake", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": stop(model), "stop_sequence": null,
        "usage": { "input_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": 7, "service_tier": "standard" }
    })
}

/// The events of a stream.
pub(super) fn events(model: &str, words: &[String]) -> Script {
    let say = |name: &str, mut value: Value| {
        value["type"] = name.into();
        event(name, &value)
    };
    let begin = |index: usize, block: Value| {
        say("content_block_start", json!({ "index": index, "content_block": block }))
    };
    let delta =
        |index: usize, delta: Value| say("content_block_delta", json!({ "index": index, "delta": delta }));
    let end = |index: usize| say("content_block_stop", json!({ "index": index }));
    let mut start = vec![
        say(
            "message_start",
            json!({ "message": {
            "id": "msg_fake", "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": { "input_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "output_tokens": 1 } } }),
        ),
        say("ping", json!({})),
    ];
    let mut at = 0;
    if thinks(model) {
        start.push(begin(0, json!({ "type": "thinking", "thinking": "", "signature": "" })));
        start.push(delta(0, json!({ "type": "thinking_delta", "thinking": THOUGHT })));
        start.push(delta(0, json!({ "type": "signature_delta", "signature": "c2ln" })));
        start.push(end(0));
        at = 1;
    }
    let mut content = Vec::new();
    let calls = called(model);
    for (place, call) in calls.iter().enumerate() {
        let block = json!({ "type": "tool_use", "id": format!("toolu_{}", call.id), "name": call.name,
            "input": {} });
        let opened = begin(at, block);
        if place == 0 {
            start.push(opened);
        } else {
            content.push(opened);
        }
        let piece = |piece| delta(at, json!({ "type": "input_json_delta", "partial_json": piece }));
        content.extend(call.pieces.map(piece));
        if place + 1 < calls.len() {
            content.push(end(at));
            at += 1;
        }
    }
    if calls.is_empty() {
        start.push(begin(at, json!({ "type": "text", "text": "" })));
        content.extend(words.iter().map(|word| delta(at, json!({ "type": "text_delta", "text": word }))));
    }
    let finish = vec![
        end(at),
        say(
            "message_delta",
            json!({ "delta": { "stop_reason": stop(model), "stop_sequence": null },
            "usage": { "output_tokens": words.len() } }),
        ),
    ];
    Script { start, content, finish, end: say("message_stop", json!({})) }
}
