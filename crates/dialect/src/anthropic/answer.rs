//! Whole answers in Anthropic's shape.

use millgate_types::{Answer, Block, ChatAnswer, Choice, Dialect, Fault, FinishReason, Operation, Usage};
use serde_json::{Map, Value, json};

use crate::json::{self, Object};
use crate::{Context, completion, error, not_implemented};

pub(super) fn decode(operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
    match operation {
        Operation::Chat => chat(body).map(Answer::Chat),
        Operation::Completions => {
            chat(body).map(|answer| Answer::Completion(completion::chat_as_completion(answer)))
        }
        _ => Err(not_implemented(Dialect::Anthropic, operation)),
    }
}

fn chat(body: &[u8]) -> Result<ChatAnswer, Fault> {
    let mut map = error::answer_object(body)?;
    if map.get("type").is_some_and(|kind| kind == "error") {
        return Err(error::in_band(&error::read_value(&Value::Object(map)), None));
    }
    let Some(Value::Array(items)) = map.shift_remove("content") else {
        return Err(error::no_answer());
    };
    let content = items.into_iter().filter_map(block).collect();
    let finish = json::take_string(&mut map, "stop_reason").map(|word| finish_reason(&word));
    let stop_sequence = json::take_string(&mut map, "stop_sequence");
    let usage = map.shift_remove("usage").as_ref().and_then(|value| Counts::read(value).usage());
    map.shift_remove("type");
    map.shift_remove("role");
    map.retain(|_, value| !value.is_null());
    let id = json::take_string(&mut map, "id").unwrap_or_default();
    let model = json::take_string(&mut map, "model").unwrap_or_default();
    let choice = Choice { index: 0, content, finish, stop_sequence, logprobs: None, extra: Map::new() };
    Ok(ChatAnswer {
        id,
        created: None,
        model,
        choices: vec![choice],
        usage,
        dialect: Dialect::Anthropic,
        extra: map,
    })
}

/// One content block of an answer.
fn block(value: Value) -> Option<Block> {
    let Value::Object(mut map) = value else { return None };
    let mut text = |key: &str| json::take_string(&mut map, key).unwrap_or_default();
    Some(match map_kind(&mut text).as_str() {
        "text" => {
            let text = text("text");
            let citations = match json::take(&mut map, "citations") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
            Block::Text { text, cache_control: None, citations }
        }
        "thinking" => {
            let (text, signature) = (text("thinking"), text("signature"));
            Block::Reasoning { text, signature: Some(signature).filter(|signature| !signature.is_empty()) }
        }
        "redacted_thinking" => Block::RedactedReasoning { data: text("data") },
        "tool_use" => {
            let (id, name) = (text("id"), text("name"));
            let arguments = match json::take(&mut map, "input") {
                None => "{}".to_owned(),
                Some(input) => input.to_string(),
            };
            Block::ToolCall { id, name, arguments, cache_control: None }
        }
        kind => {
            let mut whole = Map::new();
            whole.insert("type".to_owned(), json!(kind));
            whole.extend(map);
            Block::Other { dialect: Dialect::Anthropic, value: Value::Object(whole) }
        }
    })
}

fn map_kind(text: &mut impl FnMut(&str) -> String) -> String {
    text("type")
}

pub(super) fn finish_reason(word: &str) -> FinishReason {
    match word {
        "end_turn" => FinishReason::Stop,
        "stop_sequence" => FinishReason::StopSequence,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        "pause_turn" => FinishReason::Pause,
        other => FinishReason::Other(other.to_owned()),
    }
}

pub(super) fn finish_word(reason: &FinishReason) -> &str {
    match reason {
        FinishReason::Stop | FinishReason::Other(_) => "end_turn",
        FinishReason::StopSequence => "stop_sequence",
        FinishReason::Length => "max_tokens",
        FinishReason::ToolCalls => "tool_use",
        FinishReason::ContentFilter => "refusal",
        FinishReason::Pause => "pause_turn",
    }
}

/// The counts that a usage object names; in a stream, later ones replace earlier ones of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
    /// Some count was not to be believed.
    broken: bool,
}

impl Counts {
    pub(super) fn read(value: &Value) -> Self {
        let mut counts = Self::default();
        let mut broken = false;
        let mut get = |value: Option<&Value>| match value {
            None | Some(Value::Null) => None,
            value => {
                let found = json::count(value);
                broken |= found.is_none();
                found
            }
        };
        counts.input = get(value.get("input_tokens"));
        counts.cache_read = get(value.get("cache_read_input_tokens"));
        counts.cache_write = get(value.get("cache_creation_input_tokens"));
        counts.output = get(value.get("output_tokens"));
        counts.thinking =
            get(value.get("output_tokens_details").and_then(|details| details.get("thinking_tokens")));
        counts.broken = broken;
        counts
    }

    pub(super) fn update(&mut self, later: Self) {
        self.input = later.input.or(self.input);
        self.cache_read = later.cache_read.or(self.cache_read);
        self.cache_write = later.cache_write.or(self.cache_write);
        self.output = later.output.or(self.output);
        self.thinking = later.thinking.or(self.thinking);
        self.broken |= later.broken;
    }

    pub(super) fn usage(self) -> Option<Usage> {
        if self.broken || (self.input.is_none() && self.output.is_none()) {
            return None;
        }
        let output = self.output.unwrap_or(0);
        let reasoning = self.thinking.unwrap_or(0).min(output);
        Some(Usage {
            input: self.input.unwrap_or(0),
            cache_read: self.cache_read.unwrap_or(0),
            cache_write: self.cache_write.unwrap_or(0),
            output: output - reasoning,
            reasoning,
            ..Usage::default()
        })
    }
}

pub(super) fn encode(answer: &Answer, context: &Context) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    match answer {
        Answer::Chat(answer) => write(&mut out, answer, context),
        // Never asked for in this dialect.
        Answer::Completion(_) | Answer::Embedding(_) | Answer::Rerank(_) | Answer::Moderation(_) => {
            let fault = not_implemented(Dialect::Anthropic, Operation::Completions);
            super::error::write(&mut out, &fault, context.request_id);
        }
    }
    out
}

/// `msg_...`, whatever the provider's id looks like.
pub(super) fn message_id(id: &str, context: &Context) -> String {
    if id.is_empty() {
        format!("msg_{}", context.request_id)
    } else if id.starts_with("msg_") {
        id.to_owned()
    } else {
        format!("msg_{id}")
    }
}

fn write(out: &mut Vec<u8>, answer: &ChatAnswer, context: &Context) {
    let mut top = Object::new(out);
    top.string("id", &message_id(&answer.id, context));
    top.string("type", "message");
    top.string("role", "assistant");
    top.string("model", &context.model);
    let mut content = top.array("content");
    let choice = answer.choices.first();
    for block in choice.map(|choice| choice.content.as_slice()).unwrap_or_default() {
        match block {
            Block::Text { text, citations, .. } if citations.is_empty() => {
                let mut block = content.object();
                block.string("type", "text");
                block.string("text", text);
                block.end();
            }
            block => block_value(block).iter().for_each(|value| content.push(value)),
        }
    }
    content.end();
    let finish = choice.and_then(|choice| choice.finish.as_ref());
    let stop_sequence = choice.and_then(|choice| choice.stop_sequence.as_ref());
    top.field("stop_reason", &finish.map(|finish| stop_word(finish, stop_sequence.is_some())));
    top.field("stop_sequence", &stop_sequence);
    write_usage(top.key("usage"), &answer.usage.unwrap_or_default(), true);
    if answer.dialect == Dialect::Anthropic {
        for (key, value) in &answer.extra {
            top.field(key, value);
        }
    }
    top.end();
}

/// OpenAI-like servers say `stop` and, some of them, which text it was.
pub(super) fn stop_word(finish: &FinishReason, has_text: bool) -> &str {
    if *finish == FinishReason::Stop && has_text { "stop_sequence" } else { finish_word(finish) }
}

fn block_value(block: &Block) -> Option<Value> {
    Some(match block {
        Block::Text { text, citations, .. } => json!({"type": "text", "text": text, "citations": citations}),
        Block::Refusal { text } => json!({"type": "text", "text": text}),
        Block::Reasoning { text, signature } => {
            json!({"type": "thinking", "thinking": text, "signature": signature.as_deref().unwrap_or_default()})
        }
        Block::RedactedReasoning { data } => json!({"type": "redacted_thinking", "data": data}),
        Block::ToolCall { id, name, arguments, .. } => {
            json!({"type": "tool_use", "id": id, "name": name, "input": super::input(arguments)})
        }
        Block::Other { dialect: Dialect::Anthropic, value } => value.clone(),
        _ => return None,
    })
}

pub(super) fn write_usage(out: &mut Vec<u8>, usage: &Usage, input: bool) {
    let mut object = Object::new(out);
    if input {
        object.field("input_tokens", &(usage.input + usage.audio_input + usage.image_input));
        object.field("cache_creation_input_tokens", &usage.cache_write);
        object.field("cache_read_input_tokens", &usage.cache_read);
    }
    object.field("output_tokens", &usage.completion_total());
    if usage.reasoning > 0 {
        object.field("output_tokens_details", &json!({"thinking_tokens": usage.reasoning}));
    }
    object.end();
}
