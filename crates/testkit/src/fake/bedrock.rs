//! What the fake provider says in Bedrock's Converse.

use millgate_dialect::eventstream;
use serde_json::{Value, json};

use super::bodies::Script;

fn usage(output: usize) -> Value {
    json!({ "inputTokens": 5, "outputTokens": output, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 0,
        "totalTokens": 9 + output })
}

/// The whole answer.
pub(super) fn answer(model: &str, text: &str) -> Value {
    let mut content = vec![json!({ "text": text })];
    let mut stop = "end_turn";
    if model == "tool" {
        stop = "tool_use";
        content = vec![json!({ "toolUse": { "toolUseId": "tooluse_fake1", "name": "get_weather",
            "input": { "city": "Paris" } } })];
    }
    if model == "reasoning" {
        let inner = json!({ "text": "Let me think.", "signature": "c2ln" });
        content.insert(0, json!({ "reasoningContent": { "reasoningText": inner } }));
    }
    json!({ "output": { "message": { "role": "assistant", "content": content } }, "stopReason": stop,
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
    if model == "reasoning" {
        start.push(delta(0, json!({ "reasoningContent": { "text": "Let me think." } })));
        start.push(delta(0, json!({ "reasoningContent": { "signature": "c2ln" } })));
        start.push(stop(0));
        at = 1;
    }
    let (content, reason) = if model == "tool" {
        let call = json!({ "toolUse": { "toolUseId": "tooluse_fake1", "name": "get_weather" } });
        start.push(event("contentBlockStart", &json!({ "contentBlockIndex": at, "start": call })));
        let pieces = ["{\"city\":", "\"Paris\"}"];
        let delta = |piece| delta(at, json!({ "toolUse": { "input": piece } }));
        (pieces.into_iter().map(delta).collect(), "tool_use")
    } else {
        (words.iter().map(|word| delta(at, json!({ "text": word }))).collect(), "end_turn")
    };
    let finish = vec![stop(at), event("messageStop", &json!({ "stopReason": reason }))];
    let end = event("metadata", &json!({ "usage": usage(words.len()), "metrics": { "latencyMs": 12 } }));
    Script { start, content, finish, end }
}
