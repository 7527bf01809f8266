//! Whole answers in Google's shape.

use millgate_types::{
    Answer, Block, ChatAnswer, Choice, Dialect, Embedding, EmbeddingAnswer, EmbeddingFormat, Fault,
    FinishReason, Operation, Usage,
};
use serde_json::{Map, Value, json};

use super::parts::{self, Kind, Turn};
use crate::json::{self, Object, count};
use crate::openai::answer::made_id;
use crate::seal::{self, Place};
use crate::{Context, completion, error, not_implemented};

pub(super) fn decode(operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
    let value =
        serde_json::from_slice::<Value>(body).map_err(|cause| error::no_answer().with_cause(cause))?;
    // Without `alt=sse` Google answers with a list.
    let value = match value {
        Value::Array(mut items) if items.len() == 1 => items.remove(0),
        other => other,
    };
    let Value::Object(map) = value else { return Err(error::no_answer()) };
    if map.get("error").is_some_and(|error| !error.is_null()) {
        return Err(super::error::in_band(&Value::Object(map)));
    }
    match operation {
        Operation::Chat => chat(map).map(Answer::Chat),
        Operation::Completions => {
            chat(map).map(|answer| Answer::Completion(completion::chat_as_completion(answer)))
        }
        Operation::Embeddings => embedding(map).map(Answer::Embedding),
        _ => Err(not_implemented(Dialect::Gemini, operation)),
    }
}

fn chat(mut map: Map<String, Value>) -> Result<ChatAnswer, Fault> {
    let id = json::take_string(&mut map, "responseId").unwrap_or_default();
    let model = json::take_string(&mut map, "modelVersion").unwrap_or_default();
    let usage = map.shift_remove("usageMetadata").as_ref().and_then(usage);
    let choices = match map.shift_remove("candidates") {
        Some(Value::Array(items)) if !items.is_empty() => {
            items.into_iter().enumerate().map(|(place, item)| choice(item, place, &id)).collect()
        }
        _ if map.get("promptFeedback").is_some_and(is_blocked) => vec![blocked()],
        _ if usage.is_some() => vec![Choice { finish: Some(FinishReason::Stop), ..blocked() }],
        _ => return Err(error::no_answer()),
    };
    Ok(ChatAnswer { id, created: None, model, choices, usage, dialect: Dialect::Gemini, extra: map })
}

pub(super) fn is_blocked(feedback: &Value) -> bool {
    feedback.get("blockReason").is_some_and(|reason| !reason.is_null())
}

/// What stands for the answer to a prompt that was refused.
fn blocked() -> Choice {
    Choice {
        index: 0,
        content: Vec::new(),
        finish: Some(FinishReason::ContentFilter),
        stop_sequence: None,
        logprobs: None,
        extra: Map::new(),
    }
}

fn choice(item: Value, place: usize, answer: &str) -> Choice {
    let mut item = match item {
        Value::Object(item) => item,
        _ => Map::new(),
    };
    let index = item.shift_remove("index").and_then(|index| index.as_u64()).unwrap_or(place as u64) as u32;
    let mut content = Vec::new();
    let mut calls = 0;
    if let Some(Value::Object(mut whole)) = item.shift_remove("content")
        && let Some(Value::Array(items)) = whole.shift_remove("parts")
    {
        for part in items.into_iter().filter_map(parts::read) {
            add(part, &mut content, &mut calls, answer);
        }
    }
    let citations = item.get("groundingMetadata").map(citations).unwrap_or_default();
    if let Some(Block::Text { citations: slot, .. }) =
        content.iter_mut().rfind(|block| matches!(block, Block::Text { .. }))
    {
        *slot = citations;
    }
    let finish = item.shift_remove("finishReason").and_then(|reason| finish_reason(&reason, calls > 0));
    item.retain(|_, value| !value.is_null());
    Choice { index, content, finish, stop_sequence: None, logprobs: None, extra: item }
}

fn add(part: parts::Part, content: &mut Vec<Block>, calls: &mut usize, answer: &str) {
    let signature = part.signature;
    match part.kind {
        Kind::Thought(text) => {
            match content.last_mut() {
                Some(Block::Reasoning { text: last, signature: None }) => last.push_str(&text),
                _ => content.push(Block::Reasoning { text, signature: None }),
            }
            sign(content, signature, Place::Thought);
        }
        Kind::Text(text) => {
            let at = content.len();
            let mut after = None;
            match content.last_mut() {
                Some(Block::Text { text: last, .. }) => {
                    last.push_str(&text);
                    after = signature;
                }
                _ if text.is_empty() => after = signature,
                _ => {
                    content.push(Block::text(text));
                    let open = at.checked_sub(1).map(|at| &mut content[at]);
                    match (open, signature) {
                        (Some(Block::Reasoning { signature: slot @ None, .. }), Some(signature)) => {
                            *slot = Some(seal::gemini(Place::Text, &signature));
                        }
                        (_, signature) => after = signature,
                    }
                }
            }
            sign(content, after, Place::Text);
        }
        Kind::Call(parts::Call { id, name, arguments, .. }) => {
            sign(content, signature, Place::Call(*calls));
            let id = id.unwrap_or_else(|| made_id(answer, *calls));
            *calls += 1;
            content.push(Block::ToolCall { id, name, arguments, cache_control: None });
        }
        // As in streams, whose events have no media of their own.
        Kind::Media(block) => content.extend(parts::media_value(&block).map(parts::other)),
        Kind::Other(value) => content.push(parts::other(value)),
        Kind::Response { .. } => {}
    }
}

/// Puts a signature on the thought that stands open, or on one without words.
fn sign(content: &mut Vec<Block>, signature: Option<String>, place: Place) {
    let Some(signature) = signature else { return };
    let seal = Some(seal::gemini(place, &signature));
    match content.last_mut() {
        Some(Block::Reasoning { signature: slot @ None, .. }) => *slot = seal,
        _ => content.push(Block::Reasoning { text: String::new(), signature: seal }),
    }
}

/// The web pages that an answer rests on, in the form that Anthropic gives citations.
pub(super) fn citations(grounding: &Value) -> Vec<Value> {
    let chunks = grounding.get("groundingChunks").and_then(Value::as_array);
    chunks
        .into_iter()
        .flatten()
        .filter_map(|chunk| {
            let web = chunk.get("web")?;
            Some(json!({"type": "web_search_result_location", "url": web.get("uri")?,
                "title": web.get("title"), "cited_text": "", "encrypted_index": ""}))
        })
        .collect()
}

/// Google's word; a number where enums were asked for as such. `None` when nothing is said.
pub(super) fn finish_reason(reason: &Value, has_calls: bool) -> Option<FinishReason> {
    let numbers =
        ["", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT"];
    let word = match reason {
        Value::String(word) => word.as_str(),
        Value::Number(number) => numbers.get(number.as_u64()? as usize).copied().unwrap_or("OTHER"),
        _ => return None,
    };
    Some(match word {
        "" | "FINISH_REASON_UNSPECIFIED" => return None,
        "STOP" if has_calls => FinishReason::ToolCalls,
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "LANGUAGE"
        | "MODEL_ARMOR"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => FinishReason::ContentFilter,
        other => FinishReason::Other(other.to_owned()),
    })
}

pub(super) fn finish_word(reason: &FinishReason) -> &str {
    match reason {
        FinishReason::Stop | FinishReason::StopSequence | FinishReason::ToolCalls => "STOP",
        FinishReason::Length => "MAX_TOKENS",
        FinishReason::ContentFilter => "SAFETY",
        FinishReason::Other(word) if word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') => {
            word
        }
        FinishReason::Pause | FinishReason::Other(_) => "OTHER",
    }
}

/// Counts of Google's: thoughts stand beside the candidates, cached tokens inside the prompt.
pub(super) fn usage(value: &Value) -> Option<Usage> {
    let map = value.as_object()?;
    let get = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Some(None),
        value => count(value).map(Some),
    };
    let prompt = get("promptTokenCount")?;
    let candidates = get("candidatesTokenCount")?;
    let total = get("totalTokenCount")?;
    if prompt.is_none() && candidates.is_none() && total.is_none() {
        return None;
    }
    let of = |key: &str, modality: &str| -> u64 {
        let items = map.get(key).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter(|item| item.get("modality").is_some_and(|found| found == modality))
            .filter_map(|item| count(item.get("tokenCount")))
            .sum()
    };
    let prompt = prompt.unwrap_or(0) + get("toolUsePromptTokenCount")?.unwrap_or(0);
    let cache_read = get("cachedContentTokenCount")?.unwrap_or(0).min(prompt);
    let audio = of("promptTokensDetails", "AUDIO").saturating_sub(of("cacheTokensDetails", "AUDIO"));
    let audio_input = audio.min(prompt - cache_read);
    let candidates = candidates.unwrap_or(0);
    let audio_output = of("candidatesTokensDetails", "AUDIO").min(candidates);
    Some(Usage {
        input: prompt - cache_read - audio_input,
        cache_read,
        output: candidates - audio_output,
        reasoning: get("thoughtsTokenCount")?.unwrap_or(0),
        audio_input,
        audio_output,
        ..Usage::default()
    })
}

pub(super) fn write_usage(out: &mut Vec<u8>, usage: &Usage) {
    let mut object = Object::new(out);
    object.field("promptTokenCount", &usage.prompt_total());
    object.field("candidatesTokenCount", &(usage.output + usage.audio_output));
    object.field("totalTokenCount", &usage.total());
    if usage.reasoning > 0 {
        object.field("thoughtsTokenCount", &usage.reasoning);
    }
    if usage.cache_read > 0 {
        object.field("cachedContentTokenCount", &usage.cache_read);
    }
    if usage.audio_input > 0 {
        object.field("promptTokensDetails", &json!([{"modality": "AUDIO", "tokenCount": usage.audio_input}]));
    }
    if usage.audio_output > 0 {
        object.field(
            "candidatesTokensDetails",
            &json!([{"modality": "AUDIO", "tokenCount": usage.audio_output}]),
        );
    }
    object.end();
}

fn embedding(mut map: Map<String, Value>) -> Result<EmbeddingAnswer, Fault> {
    if let Some(Value::Array(items)) = map.shift_remove("predictions") {
        return predictions(&items, map);
    }
    let items = match (map.shift_remove("embeddings"), map.shift_remove("embedding")) {
        (Some(Value::Array(items)), _) => items,
        (_, Some(one @ Value::Object(_))) => vec![one],
        _ => return Err(error::no_answer()),
    };
    let data = items
        .iter()
        .enumerate()
        .map(|(index, item)| vector(index, item))
        .collect::<Option<_>>()
        .ok_or_else(error::no_answer)?;
    Ok(EmbeddingAnswer {
        model: String::new(),
        data,
        usage: map.shift_remove("usageMetadata").as_ref().and_then(usage),
        dialect: Dialect::Gemini,
        extra: map,
    })
}

fn vector(index: usize, item: &Value) -> Option<Embedding> {
    let values = item.get("values").and_then(Value::as_array)?;
    let values: Option<_> = values.iter().map(|value| Some(value.as_f64()? as f32)).collect();
    Some(Embedding { index: index as u32, values: values? })
}

/// Vertex AI's answer to `:predict`: tokens are counted for each text.
fn predictions(items: &[Value], extra: Map<String, Value>) -> Result<EmbeddingAnswer, Fault> {
    let of = |item: &Value| item.get("embeddings").cloned().unwrap_or_default();
    let data: Option<_> = items.iter().enumerate().map(|(index, item)| vector(index, &of(item))).collect();
    let counts: Option<Vec<u64>> =
        items.iter().map(|item| json::count(item.pointer("/embeddings/statistics/token_count"))).collect();
    Ok(EmbeddingAnswer {
        model: String::new(),
        data: data.ok_or_else(error::no_answer)?,
        usage: counts.map(|counts| Usage { input: counts.iter().sum(), ..Usage::default() }),
        dialect: Dialect::Gemini,
        extra,
    })
}

// ---- writing ----------------------------------------------------------------------------------------

pub(super) fn encode(answer: &Answer, context: &Context) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    match answer {
        Answer::Chat(answer) => write(&mut out, answer, context),
        Answer::Embedding(answer) => write_embedding(&mut out, answer, context),
        // Never asked for in this dialect.
        Answer::Completion(_) | Answer::Rerank(_) | Answer::Moderation(_) => {
            let fault = not_implemented(Dialect::Gemini, Operation::Completions);
            super::error::write(&mut out, &fault, context.request_id);
        }
    }
    out
}

pub(super) fn answer_id(id: &str, context: &Context) -> String {
    if id.is_empty() { context.request_id.to_string() } else { id.to_owned() }
}

fn write(out: &mut Vec<u8>, answer: &ChatAnswer, context: &Context) {
    let own = answer.dialect == Dialect::Gemini;
    let mut top = Object::new(out);
    let mut candidates = top.array("candidates");
    for choice in &answer.choices {
        let mut item = candidates.object();
        let mut turn = Turn::default();
        for block in &choice.content {
            add_block(&mut turn, block);
        }
        let mut content = item.object("content");
        let parts = turn.end();
        if !parts.is_empty() {
            content.field("parts", &parts);
        }
        content.field("role", "model");
        content.end();
        let finish = choice.finish.as_ref().map_or("STOP", finish_word);
        item.field("finishReason", finish);
        item.field("index", &choice.index);
        if own {
            for (key, value) in &choice.extra {
                item.field(key, value);
            }
        }
        item.end();
    }
    candidates.end();
    if let Some(usage) = &answer.usage {
        write_usage(top.key("usageMetadata"), usage);
    }
    top.field("modelVersion", &context.model);
    top.field("responseId", &answer_id(&answer.id, context));
    if own {
        for (key, value) in &answer.extra {
            top.field(key, value);
        }
    }
    top.end();
}

/// One block as the parts it is in an answer.
pub(super) fn add_block(turn: &mut Turn, block: &Block) {
    match block {
        Block::Text { text, .. } | Block::Refusal { text } => turn.text(text),
        Block::Reasoning { text, signature: None } => turn.push(json!({"text": text, "thought": true})),
        Block::Reasoning { text, signature: Some(seal) } => match seal::as_gemini(seal) {
            Some((place, signature)) => turn.thought(text, place, signature),
            None => turn.push(json!({"text": text, "thought": true,
                "thoughtSignature": parts::foreign_signature(seal)})),
        },
        Block::RedactedReasoning { data } => {
            turn.push(json!({"text": "", "thought": true, "thoughtSignature": parts::foreign_data(data)}));
        }
        Block::ToolCall { id, name, arguments, .. } => turn.call(Some(id), name, arguments, None),
        Block::Other { dialect: Dialect::Gemini, value } => turn.push(value.clone()),
        block => {
            if let Some(part) = parts::media_value(block) {
                turn.push(part);
            }
        }
    }
}

fn write_embedding(out: &mut Vec<u8>, answer: &EmbeddingAnswer, context: &Context) {
    let mut top = Object::new(out);
    if context.embedding_format == EmbeddingFormat::Single {
        let values = answer.data.first().map(|embedding| embedding.values.as_slice()).unwrap_or_default();
        top.field("embedding", &json!({"values": values}));
    } else {
        let mut list = top.array("embeddings");
        for embedding in &answer.data {
            let mut item = list.object();
            item.field("values", &embedding.values);
            item.end();
        }
        list.end();
    }
    if let Some(usage) = &answer.usage {
        write_usage(top.key("usageMetadata"), usage);
    }
    top.end();
}
