//! Whole answers: the `response` object.

use millgate_types::{Answer, Block, ChatAnswer, Choice, Dialect, Fault, FinishReason, Operation, Usage};
use serde_json::{Map, Value, json};

use super::item;
use crate::json::{self, Object, count};
use crate::openai::usage::{reported_cost, write_cost};
use crate::{Context, completion, error, not_implemented};

pub(super) fn decode(operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
    let map = error::answer_object(body)?;
    match operation {
        Operation::Chat => chat(map).map(Answer::Chat),
        Operation::Completions => {
            chat(map).map(|answer| Answer::Completion(completion::chat_as_completion(answer)))
        }
        _ => Err(not_implemented(Dialect::Responses, operation)),
    }
}

fn chat(mut map: Map<String, Value>) -> Result<ChatAnswer, Fault> {
    if let Some(error) = map.get("error").filter(|error| !error.is_null()) {
        return Err(error::in_band(&error::read_value(error), None));
    }
    let Some(Value::Array(items)) = map.shift_remove("output") else {
        return Err(error::no_answer());
    };
    let mut content = Vec::with_capacity(items.len());
    for item in items {
        item::blocks(item, &mut content);
    }
    let has_calls = content.iter().any(|block| matches!(block, Block::ToolCall { .. }));
    let finish = Some(finish_reason(&map, has_calls));
    let choice = Choice { index: 0, content, finish, stop_sequence: None, logprobs: None, extra: Map::new() };
    Ok(ChatAnswer {
        id: json::take_string(&mut map, "id").unwrap_or_default(),
        created: map.get("created_at").and_then(Value::as_f64).map(|at| at as u64).filter(|at| *at > 0),
        model: json::take_string(&mut map, "model").unwrap_or_default(),
        choices: vec![choice],
        usage: map.shift_remove("usage").as_ref().and_then(usage),
        dialect: Dialect::Responses,
        extra: Map::new(),
    })
}

pub(super) fn finish_reason(response: &Map<String, Value>, has_calls: bool) -> FinishReason {
    let reason = response.get("incomplete_details").and_then(|details| details.get("reason")?.as_str());
    match reason {
        Some("max_output_tokens") => FinishReason::Length,
        Some("content_filter") => FinishReason::ContentFilter,
        Some(other) => FinishReason::Other(other.to_owned()),
        None if has_calls => FinishReason::ToolCalls,
        None => FinishReason::Stop,
    }
}

/// Cached tokens are inside the input, reasoning inside the output.
pub(super) fn usage(value: &Value) -> Option<Usage> {
    let map = value.as_object()?;
    let input = count(map.get("input_tokens"))?;
    let output = count(map.get("output_tokens"))?;
    let details =
        |outer: &str, inner: &str| map.get(outer).and_then(|details| count(details.get(inner))).unwrap_or(0);
    let cache_read = details("input_tokens_details", "cached_tokens").min(input);
    let cache_write = details("input_tokens_details", "cache_write_tokens").min(input - cache_read);
    let reasoning = details("output_tokens_details", "reasoning_tokens").min(output);
    Some(Usage {
        input: input - cache_read - cache_write,
        cache_read,
        cache_write,
        output: output - reasoning,
        reasoning,
        reported_cost: reported_cost(map),
        ..Usage::default()
    })
}

fn write_usage(out: &mut Vec<u8>, usage: &Usage) {
    let mut object = Object::new(out);
    object.field("input_tokens", &usage.prompt_total());
    let mut details = object.object("input_tokens_details");
    details.field("cached_tokens", &usage.cache_read);
    details.field("cache_write_tokens", &usage.cache_write);
    details.end();
    object.field("output_tokens", &usage.completion_total());
    object.field("output_tokens_details", &json!({"reasoning_tokens": usage.reasoning}));
    object.field("total_tokens", &usage.total());
    write_cost(&mut object, usage);
    object.end();
}

pub(super) fn encode(answer: &Answer, context: &Context) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let Answer::Chat(answer) = answer else {
        // Never asked for in this dialect.
        return crate::openai::error::body(
            &not_implemented(Dialect::Responses, Operation::Completions),
            context.request_id,
        );
    };
    let id = plain_id(&answer.id, context);
    let choice = answer.choices.first();
    let blocks = choice.map(|choice| choice.content.as_slice()).unwrap_or_default();
    let items = blocks.iter().enumerate().filter_map(|(number, block)| item::value(block, number, &id));
    let state = State {
        id: &id,
        created: answer.created.unwrap_or(context.created),
        finish: Some(choice.and_then(|choice| choice.finish.as_ref()).unwrap_or(&FinishReason::Stop)),
        items: &items.collect::<Vec<_>>(),
        usage: answer.usage.as_ref(),
    };
    write(&mut out, &state, context);
    out
}

/// The part of our ids that says which answer it is.
pub(super) fn plain_id(id: &str, context: &Context) -> String {
    let id = id.strip_prefix("resp_").unwrap_or(id);
    if id.is_empty() { context.request_id.to_string() } else { id.to_owned() }
}

/// A response as it stands.
pub(super) struct State<'a> {
    pub(super) id: &'a str,
    pub(super) created: u64,
    /// `None` while it is being made.
    pub(super) finish: Option<&'a FinishReason>,
    pub(super) items: &'a [Value],
    pub(super) usage: Option<&'a Usage>,
}

pub(super) fn write(out: &mut Vec<u8>, state: &State<'_>, context: &Context) {
    let (status, reason) = match state.finish {
        None => ("in_progress", None),
        Some(FinishReason::Length) => ("incomplete", Some("max_output_tokens")),
        Some(FinishReason::ContentFilter) => ("incomplete", Some("content_filter")),
        Some(_) => ("completed", None),
    };
    let mut top = Object::new(out);
    top.field("id", &format!("resp_{}", state.id));
    top.field("object", "response");
    top.field("created_at", &state.created);
    top.field("status", status);
    top.field("background", &false);
    top.field("error", &Value::Null);
    top.field("incomplete_details", &reason.map(|reason| json!({"reason": reason})));
    top.field("instructions", &Value::Null);
    top.field("max_output_tokens", &Value::Null);
    top.field("model", &context.model);
    top.field("output", state.items);
    top.field("parallel_tool_calls", &true);
    top.field("previous_response_id", &Value::Null);
    top.field("reasoning", &json!({"effort": null, "summary": null}));
    top.field("store", &false);
    top.field("temperature", &Value::Null);
    top.field("text", &json!({"format": {"type": "text"}}));
    top.field("tool_choice", "auto");
    top.field("tools", &json!([]));
    top.field("top_p", &Value::Null);
    top.field("truncation", "disabled");
    match state.usage {
        Some(usage) => write_usage(top.key("usage"), usage),
        None => top.field("usage", &Value::Null),
    }
    top.field("user", &Value::Null);
    top.field("metadata", &json!({}));
    top.end();
}
