//! Whole answers in OpenAI's shape: read tolerantly from providers, written exactly for callers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use millgate_types::{
    Answer, Block, ChatAnswer, Choice, CompletionAnswer, CompletionChoice, Dialect, Embedding,
    EmbeddingAnswer, EmbeddingFormat, Fault, FinishReason, Operation,
};
use serde::Deserialize;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{moderation, reasoning, usage};
use crate::json::{self, Object};
use crate::{Context, completion, error, not_implemented};

pub(crate) fn decode(operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
    match operation {
        Operation::Chat => chat(body).map(Answer::Chat),
        Operation::Completions => completion_answer(object(body)?).map(Answer::Completion),
        Operation::Embeddings => embedding(body).map(Answer::Embedding),
        Operation::Moderations => moderation::decode_answer(body).map(Answer::Moderation),
        _ => Err(not_implemented(Dialect::OpenAi, operation)),
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    let value =
        serde_json::from_slice::<Value>(body).map_err(|cause| error::no_answer().with_cause(cause))?;
    match value {
        Value::Object(map) => refuse_error(map),
        _ => Err(error::no_answer()),
    }
}

/// An error object inside a 200 answer (OpenRouter).
fn refuse_error(map: Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    let has_choices = map.get("choices").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    match map.get("error") {
        Some(error) if !error.is_null() && !has_choices => {
            Err(error::in_band(&error::read_value(&Value::Object(map)), None))
        }
        _ => Ok(map),
    }
}

/// A chat answer as it comes. Members that every answer has are read to where they go; a tree is built only of what
/// some answers have.
#[derive(Deserialize)]
struct Wire<'a> {
    id: Option<Value>,
    #[serde(default, rename = "object")]
    _object: IgnoredAny,
    created: Option<Value>,
    model: Option<Value>,
    choices: Option<Vec<WireChoice>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
struct WireChoice {
    index: Option<Value>,
    // A choice that Azure's filter emptied has no message at all.
    message: Option<Message>,
    finish_reason: Option<Value>,
    stop_reason: Option<Value>,
    logprobs: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Message {
    #[serde(default, rename = "role")]
    _role: IgnoredAny,
    content: Option<Value>,
    reasoning_content: Option<Value>,
    reasoning: Option<Value>,
    reasoning_details: Option<Value>,
    refusal: Option<Value>,
    tool_calls: Option<Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// An id for a tool call whose server gave none. Holds the answer's id: ids must differ between turns.
pub(crate) fn made_id(answer: &str, place: usize) -> String {
    let answer: String = answer.chars().filter(char::is_ascii_alphanumeric).collect();
    if answer.is_empty() { format!("call_{place}") } else { format!("call_{answer}_{place}") }
}

fn chat(body: &[u8]) -> Result<ChatAnswer, Fault> {
    match serde_json::from_slice::<Wire<'_>>(body) {
        Ok(wire) => wire.answer(body),
        // Perhaps only a member that stands twice. In a tree the last one counts.
        Err(_) => {
            let once = Value::Object(object(body)?).to_string();
            let wire = serde_json::from_str::<Wire<'_>>(&once);
            wire.map_err(|cause| error::no_answer().with_cause(cause))?.answer(body)
        }
    }
}

impl Wire<'_> {
    fn answer(self, body: &[u8]) -> Result<ChatAnswer, Fault> {
        let choices = self.choices.unwrap_or_default();
        if choices.is_empty() && !object(body)?.get("choices").is_some_and(Value::is_array) {
            return Err(error::no_answer());
        }
        let id = text(self.id).unwrap_or_default();
        let choices = choices.into_iter().enumerate().map(|(place, wire)| choice(wire, place, &id)).collect();
        Ok(ChatAnswer {
            id,
            created: self.created.as_ref().and_then(created),
            model: text(self.model).unwrap_or_default(),
            choices,
            usage: self.usage.and_then(|usage| usage::read_text(usage.get().as_bytes())),
            dialect: Dialect::OpenAi,
            extra: self.extra,
        })
    }
}

/// Anything but a string counts as absent.
fn text(value: Option<Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn created(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_f64().filter(|float| *float > 0.0).map(|float| float as u64))
        .filter(|at| *at > 0)
}

fn choice(wire: WireChoice, place: usize, answer: &str) -> Choice {
    let index = wire.index.as_ref().and_then(Value::as_u64).unwrap_or(place as u64) as u32;
    let message = wire.message.unwrap_or_default();
    let thinking = text(message.reasoning_content).filter(|text| !text.is_empty());
    let thinking = match message.reasoning {
        Some(Value::String(text)) if !text.is_empty() => thinking.or(Some(text)),
        _ => thinking,
    };
    let details =
        message.reasoning_details.filter(|list| list.as_array().is_none_or(|list| !list.is_empty()));
    let mut extra = Map::new();
    let mut content = reasoning::blocks(thinking, details, &mut extra);
    visible(message.content, &mut content);
    if let Some(text) = text(message.refusal).filter(|text| !text.is_empty()) {
        content.push(Block::Refusal { text });
    }
    let calls_before = content.len();
    if let Some(Value::Array(calls)) = message.tool_calls {
        content.extend(calls.into_iter().enumerate().map(|(place, call)| tool_call(call, place, answer)));
    }
    let has_calls = content.len() > calls_before;
    extra.extend(message.extra.into_iter().filter(|(_, value)| !value.is_null()));
    let finish = wire.finish_reason.as_ref().and_then(Value::as_str).map(finish_reason);
    let finish = match finish {
        Some(FinishReason::Stop) if has_calls => Some(FinishReason::ToolCalls),
        finish => finish,
    };
    Choice { index, content, finish, stop_sequence: text(wire.stop_reason), logprobs: wire.logprobs, extra }
}

/// Content as a string, or as the lists that some servers send.
pub(super) fn visible(content: Option<Value>, blocks: &mut Vec<Block>) {
    match content {
        Some(Value::String(text)) if !text.is_empty() => blocks.push(Block::text(text)),
        Some(Value::Array(parts)) => {
            for part in parts {
                let text =
                    |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
                match part.get("type").and_then(Value::as_str) {
                    Some("text" | "output_text") => {
                        let text = text(part.get("text"));
                        match blocks.last_mut() {
                            _ if text.is_empty() => {}
                            Some(Block::Text { text: last, .. }) => last.push_str(&text),
                            _ => blocks.push(Block::text(text)),
                        }
                    }
                    Some("thinking" | "reasoning") => {
                        let text = thinking_text(&part);
                        if !text.is_empty() {
                            blocks.push(Block::Reasoning { text, signature: None });
                        }
                    }
                    // Mistral's: which of the sources the text before it rests on.
                    Some("reference") => match blocks.last_mut() {
                        Some(Block::Text { citations, .. }) => citations.push(part),
                        _ => blocks.push(Block::Text {
                            text: String::new(),
                            cache_control: None,
                            citations: vec![part],
                        }),
                    },
                    Some("refusal") => blocks.push(Block::Refusal { text: text(part.get("refusal")) }),
                    _ => blocks.push(Block::Other { dialect: Dialect::OpenAi, value: part }),
                }
            }
        }
        _ => {}
    }
}

/// Mistral's `thinking` and Databricks' `summary` are lists of text parts.
pub(super) fn thinking_text(part: &Value) -> String {
    match part.get("thinking").or_else(|| part.get("summary")).or_else(|| part.get("text")) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().filter_map(|item| item.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

fn tool_call(mut call: Value, place: usize, answer: &str) -> Block {
    let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
        return Block::Other { dialect: Dialect::OpenAi, value: call };
    };
    let name = json::take_string(function, "name").unwrap_or_default();
    let arguments = match function.shift_remove("arguments") {
        Some(Value::String(text)) if !text.trim().is_empty() => text,
        Some(object @ Value::Object(_)) => object.to_string(),
        _ => "{}".to_owned(),
    };
    let id = match call.get("id").and_then(Value::as_str) {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ => made_id(answer, place),
    };
    Block::ToolCall { id, name, arguments, cache_control: None }
}

pub(crate) fn finish_reason(word: &str) -> FinishReason {
    match word {
        "stop" | "eos" | "eos_token" | "" | "end_turn" | "stop_sequence" => FinishReason::Stop,
        "tool_calls" | "function_call" | "tool_use" => FinishReason::ToolCalls,
        "length" | "model_length" | "max_tokens" => FinishReason::Length,
        "content_filter" | "refusal" => FinishReason::ContentFilter,
        other => FinishReason::Other(other.to_owned()),
    }
}

pub(crate) fn finish_word(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::Stop | FinishReason::StopSequence | FinishReason::Pause | FinishReason::Other(_) => {
            "stop"
        }
    }
}

/// The raw word of a reason that OpenAI's vocabulary does not have.
pub(crate) fn native_finish(reason: &FinishReason) -> Option<&str> {
    match reason {
        FinishReason::Pause => Some("pause_turn"),
        FinishReason::Other(word) => Some(word),
        _ => None,
    }
}

fn completion_answer(mut map: Map<String, Value>) -> Result<CompletionAnswer, Fault> {
    let Some(Value::Array(items)) = map.shift_remove("choices") else {
        return Err(error::no_answer());
    };
    let choices = items
        .into_iter()
        .enumerate()
        .map(|(place, item)| {
            let Value::Object(mut item) = item else { return Err(error::no_answer()) };
            Ok(CompletionChoice {
                index: item.get("index").and_then(Value::as_u64).unwrap_or(place as u64) as u32,
                text: json::take_string(&mut item, "text").unwrap_or_default(),
                finish: item.get("finish_reason").and_then(Value::as_str).map(finish_reason),
                logprobs: json::take(&mut item, "logprobs"),
            })
        })
        .collect::<Result<_, _>>()?;
    let usage = usage::take(&mut map);
    map.shift_remove("object");
    Ok(CompletionAnswer {
        id: json::take_string(&mut map, "id").unwrap_or_default(),
        created: map.shift_remove("created").as_ref().and_then(created),
        model: json::take_string(&mut map, "model").unwrap_or_default(),
        choices,
        usage,
        dialect: Dialect::OpenAi,
        extra: map,
    })
}

#[derive(Deserialize)]
struct Embeddings {
    #[serde(default)]
    data: Option<Vec<Item>>,
    #[serde(default)]
    model: Option<Value>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    index: Option<u32>,
    embedding: Vector,
}

struct Vector(Vec<f32>);

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Vector;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of numbers or base64")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vector, A::Error> {
                let mut values = Vec::with_capacity(seq.size_hint().unwrap_or(1536));
                while let Some(value) = seq.next_element::<f32>()? {
                    values.push(value);
                }
                Ok(Vector(values))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vector, E> {
                let bytes = BASE64.decode(text).map_err(|_| E::custom("not base64"))?;
                if bytes.len() % 4 != 0 {
                    return Err(E::custom("not 32-bit floats"));
                }
                let floats = bytes
                    .chunks_exact(4)
                    .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
                let floats: Vec<f32> = floats.collect();
                // Bytes of another type, such as Perplexity's 8-bit vectors, would be noise.
                if floats.iter().any(|value| !value.is_finite()) {
                    return Err(E::custom("not 32-bit floats"));
                }
                Ok(Vector(floats))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

fn embedding(body: &[u8]) -> Result<EmbeddingAnswer, Fault> {
    let read: Embeddings =
        serde_json::from_slice(body).map_err(|cause| error::no_answer().with_cause(cause))?;
    let Some(items) = read.data else {
        return Err(match read.error {
            Some(value) => error::in_band(&error::read_value(&value), None),
            None => error::no_answer(),
        });
    };
    let mut data: Vec<Embedding> = items
        .into_iter()
        .enumerate()
        .map(|(place, item)| Embedding {
            index: item.index.unwrap_or(place as u32),
            values: item.embedding.0,
        })
        .collect();
    data.sort_by_key(|embedding| embedding.index);
    Ok(EmbeddingAnswer {
        model: read.model.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
        data,
        usage: read.usage.as_ref().and_then(usage::read),
        dialect: Dialect::OpenAi,
        extra: Map::new(),
    })
}

pub(crate) fn encode(answer: &Answer, context: &Context) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    match answer {
        Answer::Chat(answer) => write_chat(&mut out, answer, context),
        Answer::Completion(answer) => write_completion(&mut out, answer, context),
        Answer::Embedding(answer) => write_embedding(&mut out, answer, context),
        Answer::Moderation(answer) => moderation::encode_answer(&mut out, answer, context),
        Answer::Rerank(_) => {
            return super::error::body(
                &not_implemented(Dialect::OpenAi, Operation::Rerank),
                context.request_id,
            );
        }
    }
    out
}

/// The id of an answer whose provider gave none.
pub(crate) fn answer_id(id: &str, prefix: &str, context: &Context) -> String {
    if id.is_empty() { format!("{prefix}{}", context.request_id) } else { id.to_owned() }
}

fn extra(top: &mut Object<'_>, dialect: Dialect, extra: &Map<String, Value>) {
    if dialect == Dialect::OpenAi {
        for (key, value) in extra {
            top.field(key, value);
        }
    }
}

fn write_chat(out: &mut Vec<u8>, answer: &ChatAnswer, context: &Context) {
    let mut top = Object::new(out);
    top.field("id", &answer_id(&answer.id, "chatcmpl-", context));
    top.field("object", "chat.completion");
    top.field("created", &answer.created.unwrap_or(context.created));
    top.string("model", &context.model);
    let mut choices = top.array("choices");
    for choice in &answer.choices {
        let mut item = choices.object();
        item.field("index", &choice.index);
        message(item.object("message"), choice, answer.dialect);
        item.field("logprobs", &choice.logprobs);
        item.field("finish_reason", &choice.finish.as_ref().map(finish_word));
        item.some("native_finish_reason", choice.finish.as_ref().and_then(native_finish).as_ref());
        item.end();
    }
    choices.end();
    if let Some(found) = &answer.usage {
        usage::write(top.key("usage"), found);
    }
    extra(&mut top, answer.dialect, &answer.extra);
    top.end();
}

fn message(mut item: Object<'_>, choice: &Choice, dialect: Dialect) {
    item.field("role", "assistant");
    let text = completion::text_of(&choice.content);
    let refusal = refusal_of(&choice.content);
    let calls: Vec<Value> = choice.content.iter().filter_map(call_value).collect();
    if text.is_empty() && (!calls.is_empty() || refusal.is_some()) {
        item.field("content", &Value::Null);
    } else {
        item.string("content", &text);
    }
    item.field("refusal", &refusal);
    if !calls.is_empty() {
        item.field("tool_calls", &calls);
    }
    item.some("reasoning_content", reasoning::text(&choice.content).as_ref());
    item.some("reasoning_details", reasoning::details(&choice.content).as_ref());
    let (annotations, citations) = annotations(&choice.content);
    for (key, found) in [("annotations", annotations), ("citations", citations)] {
        if !found.is_empty() && !choice.extra.contains_key(key) {
            item.field(key, &found);
        }
    }
    extra(&mut item, dialect, &choice.extra);
    item.end();
}

pub(crate) fn refusal_of(content: &[Block]) -> Option<String> {
    let mut found: Option<String> = None;
    for block in content {
        if let Block::Refusal { text } = block {
            found.get_or_insert_default().push_str(text);
        }
    }
    found
}

pub(crate) fn call_value(block: &Block) -> Option<Value> {
    match block {
        Block::ToolCall { id, name, arguments, .. } => {
            Some(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
        }
        Block::Other { dialect: Dialect::OpenAi, value }
            if value.get("type").is_some_and(|kind| kind == "custom") =>
        {
            Some(value.clone())
        }
        _ => None,
    }
}

/// A citation of the web in OpenAI's form, `url_citation`. `None`: its source has no address, as passages of
/// documents have none, and OpenAI no form for it. `start` and `end` are where the cited text stands, in characters,
/// unless the citation says so itself, from `start` on.
pub(crate) fn annotation(citation: &Value, start: usize, end: usize) -> Option<Value> {
    let url = citation.get("url").and_then(Value::as_str)?;
    let title = citation.get("title").and_then(Value::as_str).unwrap_or_default();
    let own = |short: &str, long: &str| {
        let place = citation.get(short).or_else(|| citation.get(long))?.as_u64()?;
        Some(start + usize::try_from(place).ok()?)
    };
    let (start, end) = (own("start", "start_index").unwrap_or(start), own("end", "end_index").unwrap_or(end));
    Some(json!({"type": "url_citation",
        "url_citation": {"start_index": start, "end_index": end, "url": url, "title": title}}))
}

/// The citations that hang on text blocks: those of the web in OpenAI's form, and the others as they came.
fn annotations(content: &[Block]) -> (Vec<Value>, Vec<Value>) {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let mut at = 0;
    for block in content {
        let Block::Text { text, citations, .. } = block else { continue };
        let end = at + text.chars().count();
        for citation in citations {
            match annotation(citation, at, end) {
                Some(annotation) => found.push(annotation),
                None => others.push(citation.clone()),
            }
        }
        at = end;
    }
    (found, others)
}

fn write_completion(out: &mut Vec<u8>, answer: &CompletionAnswer, context: &Context) {
    let mut top = Object::new(out);
    top.field("id", &answer_id(&answer.id, "cmpl-", context));
    top.field("object", "text_completion");
    top.field("created", &answer.created.unwrap_or(context.created));
    top.string("model", &context.model);
    let mut choices = top.array("choices");
    for choice in &answer.choices {
        let mut item = choices.object();
        item.field("index", &choice.index);
        item.field("text", &choice.text);
        item.field("logprobs", &choice.logprobs);
        item.field("finish_reason", &choice.finish.as_ref().map(finish_word));
        item.end();
    }
    choices.end();
    if let Some(found) = &answer.usage {
        usage::write(top.key("usage"), found);
    }
    extra(&mut top, answer.dialect, &answer.extra);
    top.end();
}

/// The `data` list of an embeddings answer, in the format the caller asked for.
pub(crate) fn write_vectors(top: &mut Object<'_>, answer: &EmbeddingAnswer, format: EmbeddingFormat) {
    let mut data = top.array("data");
    for embedding in &answer.data {
        let mut item = data.object();
        item.field("object", "embedding");
        match format {
            EmbeddingFormat::Float | EmbeddingFormat::Single => item.field("embedding", &embedding.values),
            EmbeddingFormat::Base64 => {
                let bytes: Vec<u8> = embedding.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                item.field("embedding", &BASE64.encode(bytes));
            }
        }
        item.field("index", &embedding.index);
        item.end();
    }
    data.end();
}

fn write_embedding(out: &mut Vec<u8>, answer: &EmbeddingAnswer, context: &Context) {
    let mut top = Object::new(out);
    top.field("object", "list");
    write_vectors(&mut top, answer, context.embedding_format);
    top.string("model", &context.model);
    let found = answer.usage.unwrap_or_default();
    let mut usage = top.object("usage");
    usage.field("prompt_tokens", &found.prompt_total());
    usage.field("total_tokens", &found.total());
    super::usage::write_cost(&mut usage, &found);
    usage.end();
    top.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_answers_are_read_as_far_as_they_go() {
        let text = |body: &str| chat(body.as_bytes()).map(|answer| answer.choices[0].content.clone());
        let said = vec![Block::text("b".to_owned())];
        let twice = r#"{"id":"1","id":"2","choices":[{"message":{"content":"a","content":"b"}}]}"#;
        assert_eq!(text(twice).unwrap(), said);
        assert_eq!(chat(twice.as_bytes()).unwrap().id, "2");
        assert_eq!(
            text(r#"{"id":7,"choices":[{"message":{"content":"b","role":null}}],"error":null}"#).unwrap(),
            said
        );
        assert_eq!(text(r#"{"choices":[{"finish_reason":"content_filter"}]}"#).unwrap(), []);
        assert!(chat(br#"{"choices":[]}"#).unwrap().choices.is_empty());
        for none in [
            r#"{"choices":null}"#,
            "{}",
            "[]",
            r#"{"choices":[1]}"#,
            r#"{"choices":[],"error":{"code":429}}"#,
        ] {
            assert!(text(none).is_err(), "{none}");
        }
    }
}
