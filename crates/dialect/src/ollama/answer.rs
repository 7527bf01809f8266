//! Ollama's answers, whole.

use millgate_types::{
    Answer, Block, ChatAnswer, Choice, Dialect, Embedding, EmbeddingAnswer, Fault, FinishReason, Operation,
    Usage,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::json::{self, count};
use crate::{completion, error, not_implemented};

pub(super) fn decode(operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
    match operation {
        Operation::Chat => chat(body).map(Answer::Chat),
        Operation::Completions => {
            chat(body).map(|answer| Answer::Completion(completion::chat_as_completion(answer)))
        }
        Operation::Embeddings => embeddings(body).map(Answer::Embedding),
        _ => Err(not_implemented(Dialect::Ollama, operation)),
    }
}

fn chat(body: &[u8]) -> Result<ChatAnswer, Fault> {
    let mut map = error::answer_object(body)?;
    let mut message = match map.shift_remove("message") {
        Some(Value::Object(message)) => message,
        _ if map.contains_key("error") => {
            return Err(error::in_band(&error::read_value(&Value::Object(map)), None));
        }
        _ => return Err(error::no_answer()),
    };
    let mut content = Vec::new();
    if let Some(text) = json::take_string(&mut message, "thinking").filter(|text| !text.is_empty()) {
        content.push(Block::Reasoning { text, signature: None });
    }
    if let Some(text) = json::take_string(&mut message, "content").filter(|text| !text.is_empty()) {
        content.push(Block::text(text));
    }
    let stamp = map.get("created_at").and_then(Value::as_str).unwrap_or_default().to_owned();
    let calls = message.get("tool_calls").and_then(Value::as_array).cloned().unwrap_or_default();
    for (place, call) in calls.iter().enumerate() {
        let (id, name, arguments) = tool_call(call, &stamp, place);
        content.push(Block::ToolCall { id, name, arguments, cache_control: None });
    }
    let finish = Some(finish_reason(map.get("done_reason"), !calls.is_empty()));
    let choice = Choice { index: 0, content, finish, stop_sequence: None, logprobs: None, extra: Map::new() };
    Ok(ChatAnswer {
        id: String::new(),
        created: None,
        model: json::take_string(&mut map, "model").unwrap_or_default(),
        choices: vec![choice],
        usage: usage(&map),
        dialect: Dialect::Ollama,
        extra: Map::new(),
    })
}

/// Id, name and arguments. Older versions give no id: it is made of the answer's time, so that those of different
/// turns differ.
pub(super) fn tool_call(call: &Value, stamp: &str, place: usize) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id = match text(&call["id"]) {
        id if id.is_empty() => {
            let digits: String = stamp.chars().filter(char::is_ascii_digit).collect();
            format!("call_{digits}_{place}")
        }
        id => id,
    };
    let arguments = match &call["function"]["arguments"] {
        Value::Null => "{}".to_owned(),
        Value::String(text) => text.clone(),
        object => object.to_string(),
    };
    (id, text(&call["function"]["name"]), arguments)
}

pub(super) fn finish_reason(reason: Option<&Value>, has_calls: bool) -> FinishReason {
    match reason.and_then(Value::as_str) {
        Some("length") => FinishReason::Length,
        _ if has_calls => FinishReason::ToolCalls,
        Some("stop") | None => FinishReason::Stop,
        Some(other) => FinishReason::Other(other.to_owned()),
    }
}

/// A prompt that was all in the cache is not counted.
pub(super) fn usage(map: &Map<String, Value>) -> Option<Usage> {
    let (input, output) = (count(map.get("prompt_eval_count")), count(map.get("eval_count")));
    if input.is_none() && output.is_none() {
        return None;
    }
    Some(Usage { input: input.unwrap_or(0), output: output.unwrap_or(0), ..Usage::default() })
}

#[derive(Deserialize)]
struct Embedded {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    embeddings: Option<Vec<Vec<f32>>>,
    #[serde(default)]
    prompt_eval_count: Option<Value>,
}

fn embeddings(body: &[u8]) -> Result<EmbeddingAnswer, Fault> {
    let read: Embedded =
        serde_json::from_slice(body).map_err(|cause| error::no_answer().with_cause(cause))?;
    let vectors = read.embeddings.ok_or_else(error::no_answer)?;
    let counted = count(read.prompt_eval_count.as_ref());
    Ok(EmbeddingAnswer {
        model: read.model.unwrap_or_default(),
        data: (0..).zip(vectors).map(|(index, values)| Embedding { index, values }).collect(),
        usage: counted.map(|input| Usage { input, ..Usage::default() }),
        dialect: Dialect::Ollama,
        extra: Map::new(),
    })
}
