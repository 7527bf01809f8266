//! What the fake provider says in Bedrock's Converse.

use millgate_dialect::eventstream;
use serde_json::{Value, json};

use super::behaviour::{THOUGHT, called, is_cut, thinks};
use super::bodies::Script;

fn usage(output: usize) -> Value {
    json!({ "inputTokens": 5, "outputTokens": output, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 0,
        "totalTokens": 9 + output })
}

fn stopped(model: &str) -> &'static str {
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
            json!({ "toolUse": { "toolUseId": format!("tooluse_{}", call.id), "name": call.name,
                "input": call.object() } })
        })
        .collect();
    if content.is_empty() {
        content.push(json!({ "text": text }));
    }
    if thinks(model) {
        let inner = json!({ "text": THOUGHT, "signature": "c2ln" });
        content.insert(0, json!({ "reasoningContent": { "reasoningText": inner } }));
    }
    json!({ "output": { "message": { "role": "assistant", "content": content } }, "stopReason": stopped(model),
        "usage": usage(7), "metrics": { "latencyMs": 12 } })
}

fn frame(kind: (&str, &str), name: (&str, &str), payload: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let headers = [name, (":content-type", "application/json"), kind];
    eventstream::write(&mut out, &headers, payload.to_string().as_bytes());
    out
}

fn event(name: &str, payload: &Value) -> Vec<u8> {
    frame((":message-type", "event"), (":event-type", name), payload)
}

/// Throttling inside a stream.
pub(super) fn exception() -> Vec<u8> {
    let payload = json!({ "message": "Too many tokens, please wait before trying again." });
    frame((":message-type", "exception"), (":exception-type", "throttlingException"), &payload)
}

/// A stream with these words as content.
pub(super) fn events(model: &str, words: &[String]) -> Script {
    let mut start = vec![event("messageStart", &json!({ "role": "assistant", "p": "abc" }))];
    let delta = |index: usize, delta: Value| {
        event("contentBlockDelta", &json!({ "contentBlockIndex": index, "delta": delta, "p": "abcdef" }))
    };
    let stop = |index: usize| event("contentBlockStop", &json!({ "contentBlockIndex": index }));
    let mut at = 0;
    if thinks(model) {
        start.push(delta(0, json!({ "reasoningContent": { "text": THOUGHT } })));
        start.push(delta(0, json!({ "reasoningContent": { "signature": "c2ln" } })));
        start.push(stop(0));
        at = 1;
    }
    let calls = called(model);
    let mut content = Vec::new();
    for (place, call) in calls.iter().enumerate() {
        let head = json!({ "toolUse": { "toolUseId": format!("tooluse_{}", call.id), "name": call.name } });
        let opened = event("contentBlockStart", &json!({ "contentBlockIndex": at, "start": head }));
        if place == 0 {
            start.push(opened);
        } else {
            content.push(opened);
        }
        content.extend(call.pieces.map(|piece| delta(at, json!({ "toolUse": { "input": piece } }))));
        if place + 1 < calls.len() {
            content.push(stop(at));
            at += 1;
        }
    }
    if calls.is_empty() {
        // Text has no start.
        content.extend(words.iter().map(|word| delta(at, json!({ "text": word }))));
    }
    let finish = vec![stop(at), event("messageStop", &json!({ "stopReason": stopped(model) }))];
    let end = event("metadata", &json!({ "usage": usage(words.len()), "metrics": { "latencyMs": 12 } }));
    Script { start, content, finish, end }
}
