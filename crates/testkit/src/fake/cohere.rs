//! What the fake provider says in Cohere's chat and embed.

use serde_json::{Value, json};

use super::behaviour::{THOUGHT, called, is_cut, thinks};
use super::bodies::{Script, event};

fn usage(output: usize) -> Value {
    json!({ "billed_units": { "input_tokens": 4, "output_tokens": output },
        "tokens": { "input_tokens": 70, "output_tokens": output }, "cached_tokens": 0 })
}

fn finished(model: &str) -> &'static str {
    if !called(model).is_empty() {
        "TOOL_CALL"
    } else if is_cut(model) {
        "MAX_TOKENS"
    } else {
        "COMPLETE"
    }
}

/// A whole chat answer.
pub(super) fn answer(model: &str, text: &str) -> Value {
    let mut message = json!({ "role": "assistant", "content": [{ "type": "text", "text": text }] });
    let calls: Vec<Value> = called(model)
        .iter()
        .map(|call| {
            json!({ "id": format!("{}_{}", call.name, call.id), "type": "function",
                "function": { "name": call.name, "arguments": call.arguments() } })
        })
        .collect();
    if !calls.is_empty() {
        message = json!({ "role": "assistant", "tool_plan": "I will look.", "tool_calls": calls });
    }
    if thinks(model) {
        message["content"] =
            json!([{ "type": "thinking", "thinking": THOUGHT }, { "type": "text", "text": text }]);
    }
    json!({ "id": "co-fake", "message": message, "finish_reason": finished(model), "usage": usage(7) })
}

/// A vector for each text: its length, and how many came with it.
pub(super) fn embedded(request: &Value) -> Value {
    let texts = request["texts"].as_array().cloned().unwrap_or_default();
    if texts.len() > 96 {
        return json!({ "id": "fake", "message": "at most 96 texts" });
    }
    let vector = |text: &Value| json!([text.as_str().map_or(0, str::len), texts.len()]);
    let vectors: Vec<Value> = texts.iter().map(vector).collect();
    json!({ "id": "emb-fake", "embeddings": { "float": vectors }, "texts": texts,
        "meta": { "api_version": { "version": "2" }, "billed_units": { "input_tokens": texts.len() } },
        "response_type": "embeddings_by_type" })
}

/// The events of a stream.
pub(super) fn events(model: &str, words: &[String]) -> Script {
    let say = |name: &str, mut value: Value| {
        value["type"] = name.into();
        event(name, &value)
    };
    let message = |value: Value| json!({ "delta": { "message": value } });
    let at = |index: u64, mut value: Value| {
        value["index"] = index.into();
        value
    };
    let mut begin = message(json!({ "role": "assistant", "content": [], "tool_plan": "", "tool_calls": [] }));
    begin["id"] = "co-fake".into();
    let mut start = vec![say("message-start", begin)];
    let calls = called(model);
    let (mut content, mut finish) = (Vec::new(), Vec::new());
    if !calls.is_empty() {
        start.push(say("tool-plan-delta", message(json!({ "tool_plan": "I will look." }))));
    }
    for (index, call) in (0..).zip(calls) {
        let head = json!({ "tool_calls": { "id": format!("{}_{}", call.name, call.id), "type": "function",
            "function": { "name": call.name, "arguments": "" } } });
        content.push(say("tool-call-start", at(index, message(head))));
        content.extend(call.pieces.map(|text| {
            let call = json!({ "tool_calls": { "function": { "arguments": text } } });
            say("tool-call-delta", at(index, message(call)))
        }));
        content.push(say("tool-call-end", json!({ "index": index })));
    }
    if calls.is_empty() {
        let mut index = 0;
        if thinks(model) {
            let thinking =
                |text: &str| message(json!({ "content": { "type": "thinking", "thinking": text } }));
            start.push(say("content-start", at(0, thinking(""))));
            start.push(say("content-delta", at(0, thinking(THOUGHT))));
            start.push(say("content-end", json!({ "index": 0 })));
            index = 1;
        }
        let text = |text: &str| message(json!({ "content": { "type": "text", "text": text } }));
        start.push(say("content-start", at(index, text(""))));
        content.extend(words.iter().map(|word| say("content-delta", at(index, text(word)))));
        finish.push(say("content-end", json!({ "index": index })));
    }
    finish.push(say(
        "message-end",
        json!({ "delta": { "finish_reason": finished(model), "usage": usage(words.len()) } }),
    ));
    Script { start, content, finish, end: b"data: [DONE]\n\n".to_vec() }
}
