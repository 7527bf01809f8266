//! Whole answers of Converse.

use millgate_types::{
    Answer, Block, ChatAnswer, Choice, Dialect, Fault, FinishReason, Operation, Retry, Usage, code,
};
use serde_json::{Map, Value, json};

use crate::{completion, error, json as wire, not_implemented};

pub(super) fn decode(operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
    match operation {
        Operation::Chat => chat(body).map(Answer::Chat),
        Operation::Completions => {
            chat(body).map(|answer| Answer::Completion(completion::chat_as_completion(answer)))
        }
        _ => Err(not_implemented(Dialect::Bedrock, operation)),
    }
}

fn chat(body: &[u8]) -> Result<ChatAnswer, Fault> {
    let mut map = error::answer_object(body)?;
    let content = map
        .shift_remove("output")
        .and_then(|mut output| output.get_mut("message")?.get_mut("content").map(Value::take));
    let Some(Value::Array(items)) = content else { return Err(error::no_answer()) };
    let finish = match wire::take_string(&mut map, "stopReason") {
        Some(word) => Some(finish_reason(&word)?),
        None => None,
    };
    let stop_sequence = stop_sequence(map.get("additionalModelResponseFields"));
    let usage = map.shift_remove("usage").as_ref().and_then(usage);
    let choice = Choice {
        index: 0,
        content: items.into_iter().flat_map(blocks).collect(),
        finish,
        stop_sequence,
        logprobs: None,
        extra: Map::new(),
    };
    map.shift_remove("metrics");
    Ok(ChatAnswer {
        id: String::new(),
        created: None,
        model: String::new(),
        choices: vec![choice],
        usage,
        dialect: Dialect::Bedrock,
        extra: map,
    })
}

/// The stop text that ended the answer, where the request asked for it.
pub(super) fn stop_sequence(fields: Option<&Value>) -> Option<String> {
    fields?.get("stop_sequence")?.as_str().map(str::to_owned)
}

/// A content block; citations come as a block of several texts.
fn blocks(value: Value) -> Vec<Block> {
    let Value::Object(mut map) = value else { return Vec::new() };
    if let Some(text) = wire::take_string(&mut map, "text") {
        return vec![Block::text(text)];
    }
    if let Some(Value::Object(mut call)) = map.get("toolUse").cloned() {
        // Tools that the provider runs itself are none of the caller's.
        if call.get("type").is_some_and(|kind| kind == "server_tool_use") {
            return vec![Block::Other { dialect: Dialect::Bedrock, value: Value::Object(map) }];
        }
        let id = wire::take_string(&mut call, "toolUseId").unwrap_or_default();
        let name = wire::take_string(&mut call, "name").unwrap_or_default();
        let arguments = wire::take(&mut call, "input").map_or("{}".to_owned(), |input| input.to_string());
        return vec![Block::ToolCall { id, name, arguments, cache_control: None }];
    }
    if let Some(Value::Object(mut reasoning)) = map.get("reasoningContent").cloned() {
        if let Some(data) = wire::take_string(&mut reasoning, "redactedContent") {
            return vec![Block::RedactedReasoning { data }];
        }
        if let Some(Value::Object(mut text)) = reasoning.shift_remove("reasoningText") {
            let signature = wire::take_string(&mut text, "signature").filter(|seal| !seal.is_empty());
            let text = wire::take_string(&mut text, "text").unwrap_or_default();
            return vec![Block::Reasoning { text, signature }];
        }
    }
    if let Some(cited) = map.get("citationsContent") {
        let texts =
            cited["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
        let text: String = texts.collect();
        let citations = cited["citations"].as_array().into_iter().flatten().filter_map(citation).collect();
        return vec![Block::Text { text, cache_control: None, citations }];
    }
    vec![Block::Other { dialect: Dialect::Bedrock, value: Value::Object(map) }]
}

/// A citation in the form that Anthropic gives them, as callers get them from all providers.
pub(super) fn citation(value: &Value) -> Option<Value> {
    let place = value.get("location")?;
    let cited: String = value["sourceContent"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|part| part["text"].as_str())
        .collect();
    let title = value["title"].clone();
    let document = |inner: &Value, kind: &str, start: &str, end: &str| {
        json!({"type": kind, "cited_text": cited, "document_index": inner["documentIndex"],
            "document_title": title, start: inner["start"], end: inner["end"]})
    };
    if let Some(inner) = place.get("documentChar") {
        return Some(document(inner, "char_location", "start_char_index", "end_char_index"));
    }
    if let Some(inner) = place.get("documentPage") {
        return Some(document(inner, "page_location", "start_page_number", "end_page_number"));
    }
    if let Some(inner) = place.get("documentChunk") {
        return Some(document(inner, "content_block_location", "start_block_index", "end_block_index"));
    }
    if let Some(inner) = place.get("searchResultLocation") {
        return Some(json!({"type": "search_result_location", "cited_text": cited,
            "search_result_index": inner["searchResultIndex"], "source": value["source"], "title": title,
            "start_block_index": inner["start"], "end_block_index": inner["end"]}));
    }
    let inner = place.get("web")?;
    let title = if title.is_null() { inner["domain"].clone() } else { title };
    Some(json!({"type": "web_search_result_location", "cited_text": cited, "url": inner["url"],
        "title": title, "encrypted_index": ""}))
}

/// Why it ended. Output that the model spoiled is no answer but an error of the provider's.
pub(super) fn finish_reason(word: &str) -> Result<FinishReason, Fault> {
    Ok(match word {
        "end_turn" => FinishReason::Stop,
        "stop_sequence" => FinishReason::StopSequence,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "guardrail_intervened" | "content_filtered" => FinishReason::ContentFilter,
        "malformed_model_output" | "malformed_tool_use" => {
            let public = "the model's output was malformed";
            return Err(Fault::upstream(code::UPSTREAM_ERROR, Retry::SameTarget(None), public));
        }
        other => FinishReason::Other(other.to_owned()),
    })
}

/// Cached tokens stand beside `inputTokens`, thinking inside `outputTokens`.
pub(super) fn usage(value: &Value) -> Option<Usage> {
    let count = |keys: [&str; 2]| match keys.iter().find_map(|key| value.get(*key)) {
        None | Some(Value::Null) => Some(0),
        found => wire::count(found),
    };
    value.get("inputTokens").or(value.get("outputTokens"))?;
    Some(Usage {
        input: count(["inputTokens", "inputTokenCount"])?,
        cache_read: count(["cacheReadInputTokens", "cacheReadInputTokenCount"])?,
        cache_write: count(["cacheWriteInputTokens", "cacheWriteInputTokenCount"])?,
        output: count(["outputTokens", "outputTokenCount"])?,
        ..Usage::default()
    })
}
