//! Cohere's answers, whole.

use millgate_types::{
    Answer, Block, ChatAnswer, Choice, Dialect, Embedding, EmbeddingAnswer, Fault, FinishReason, Operation,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{rerank, usage};
use crate::json;
use crate::{completion, error, not_implemented};

pub(super) fn decode(operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
    match operation {
        Operation::Chat => chat(body).map(Answer::Chat),
        Operation::Completions => {
            chat(body).map(|answer| Answer::Completion(completion::chat_as_completion(answer)))
        }
        Operation::Embeddings => embeddings(body).map(Answer::Embedding),
        Operation::Rerank => rerank::decode_answer(body).map(Answer::Rerank),
        _ => Err(not_implemented(Dialect::Cohere, operation)),
    }
}

fn chat(body: &[u8]) -> Result<ChatAnswer, Fault> {
    let mut map = error::answer_object(body)?;
    let mut message = match map.shift_remove("message") {
        Some(Value::Object(message)) => message,
        // An error's text stands where the message should.
        Some(Value::String(text)) => {
            let body = crate::ErrorBody { message: Some(text), ..crate::ErrorBody::default() };
            return Err(error::in_band(&body, None));
        }
        _ => return Err(error::no_answer()),
    };
    let mut content = content(message.shift_remove("content"));
    let citations = match message.shift_remove("citations") {
        Some(Value::Array(citations)) => citations,
        _ => Vec::new(),
    };
    cite(&mut content, citations);
    let plan = json::take_string(&mut message, "tool_plan").filter(|plan| !plan.is_empty());
    // The plan is what the model says before it calls, unless it says something else.
    if let Some(plan) = plan.filter(|_| !content.iter().any(|block| matches!(block, Block::Text { .. }))) {
        content.push(Block::text(plan));
    }
    if let Some(Value::Array(calls)) = message.shift_remove("tool_calls") {
        content.extend(calls.iter().filter_map(tool_call));
    }
    let has_calls = content.iter().any(|block| matches!(block, Block::ToolCall { .. }));
    let finish = json::take_string(&mut map, "finish_reason").map(|word| finish_reason(&word, has_calls));
    if let Some(FinishReason::Other(word)) = &finish
        && is_failure(word)
    {
        return Err(error::nonsense("the provider broke off with an error"));
    }
    let usage = map.shift_remove("usage").as_ref().and_then(usage::read);
    let id = json::take_string(&mut map, "id").unwrap_or_default();
    let choice = Choice { index: 0, content, finish, stop_sequence: None, logprobs: None, extra: Map::new() };
    Ok(ChatAnswer {
        id,
        created: None,
        model: String::new(),
        choices: vec![choice],
        usage,
        dialect: Dialect::Cohere,
        extra: map,
    })
}

fn content(value: Option<Value>) -> Vec<Block> {
    let items = match value {
        Some(Value::Array(items)) => items,
        Some(Value::String(text)) if !text.is_empty() => return vec![Block::text(text)],
        _ => return Vec::new(),
    };
    let block = |item: Value| {
        let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        match item.get("type").and_then(Value::as_str) {
            Some("text") => Block::text(text("text")),
            Some("thinking") => Block::Reasoning { text: text("thinking"), signature: None },
            _ => Block::Other { dialect: Dialect::Cohere, value: item },
        }
    };
    items.into_iter().map(block).collect()
}

/// Hangs each citation on the text block it is about.
fn cite(content: &mut [Block], citations: Vec<Value>) {
    for citation in citations {
        let named = citation.get("content_index").and_then(Value::as_u64).map(|index| index as usize);
        let is_text = |block: &Block| matches!(block, Block::Text { .. });
        let place = named
            .filter(|index| content.get(*index).is_some_and(is_text))
            .or_else(|| content.iter().position(is_text));
        if let Some(Block::Text { citations, .. }) = place.and_then(|place| content.get_mut(place)) {
            citations.push(located(citation));
        }
    }
}

/// A citation in the canonical form, which is Anthropic's: what Cohere says of it stands beside.
pub(super) fn located(citation: Value) -> Value {
    let Value::Object(map) = citation else { return citation };
    let source = map.get("sources").map(|sources| sources[0].clone()).unwrap_or_default();
    let of = |key: &str| {
        source["document"].get(key).or_else(|| source["tool_output"].get(key)).and_then(Value::as_str)
    };
    let mut found = Map::new();
    found.insert("type".to_owned(), json!("search_result_location"));
    found.insert("cited_text".to_owned(), map.get("text").cloned().unwrap_or_default());
    found.insert("source".to_owned(), json!(of("url").or(source["id"].as_str())));
    found.insert("title".to_owned(), json!(of("title")));
    // Cohere does not say which passage of the source it is.
    for key in ["search_result_index", "start_block_index", "end_block_index"] {
        found.insert(key.to_owned(), json!(0));
    }
    if let Some(url) = of("url") {
        found.insert("url".to_owned(), json!(url));
    }
    found.extend(map.into_iter().filter(|(key, _)| !["type", "content_index"].contains(&key.as_str())));
    Value::Object(found)
}

fn tool_call(call: &Value) -> Option<Block> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let function = call.get("function")?;
    let arguments = match &function["arguments"] {
        Value::String(arguments) if !arguments.trim().is_empty() => arguments.clone(),
        object @ Value::Object(_) => object.to_string(),
        _ => "{}".to_owned(),
    };
    Some(Block::ToolCall {
        id: text(&call["id"]),
        name: text(&function["name"]),
        arguments,
        cache_control: None,
    })
}

pub(super) fn finish_reason(word: &str, has_calls: bool) -> FinishReason {
    match word {
        "COMPLETE" if has_calls => FinishReason::ToolCalls,
        "COMPLETE" => FinishReason::Stop,
        "STOP_SEQUENCE" => FinishReason::StopSequence,
        "MAX_TOKENS" => FinishReason::Length,
        "TOOL_CALL" => FinishReason::ToolCalls,
        "ERROR_TOXIC" => FinishReason::ContentFilter,
        other => FinishReason::Other(other.to_owned()),
    }
}

/// Whether the word says that there is no answer.
pub(super) fn is_failure(word: &str) -> bool {
    matches!(word, "ERROR" | "TIMEOUT")
}

#[derive(Deserialize)]
struct Embedded {
    #[serde(default)]
    embeddings: Option<Vectors>,
    #[serde(default)]
    meta: Option<Value>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct Vectors {
    #[serde(default)]
    float: Option<Vec<Vec<f32>>>,
}

fn embeddings(body: &[u8]) -> Result<EmbeddingAnswer, Fault> {
    let read: Embedded =
        serde_json::from_slice(body).map_err(|cause| error::no_answer().with_cause(cause))?;
    let Some(vectors) = read.embeddings.and_then(|vectors| vectors.float) else {
        return Err(match read.message {
            Some(message) => {
                error::in_band(&crate::ErrorBody { message: Some(message), ..Default::default() }, None)
            }
            None => error::no_answer(),
        });
    };
    Ok(EmbeddingAnswer {
        model: String::new(),
        data: (0..).zip(vectors).map(|(index, values)| Embedding { index, values }).collect(),
        usage: read.meta.as_ref().and_then(usage::read),
        dialect: Dialect::Cohere,
        extra: Map::new(),
    })
}
