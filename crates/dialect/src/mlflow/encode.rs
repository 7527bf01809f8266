//! Answers in MLflow's key order, nulls included. What MLflow loses (thinking, refusal text, `logprobs`)
//! has no place here either.

use millgate_types::{Answer, ChatAnswer, CompletionAnswer, Dialect, EmbeddingAnswer, Operation, Usage};
use serde_json::{Value, json};

use crate::json::Object;
use crate::openai::answer::{answer_id, call_value, finish_word, refusal_of, write_vectors};
use crate::{Context, completion, not_implemented};

pub(super) fn answer(answer: &Answer, context: &Context) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    match answer {
        Answer::Chat(answer) => chat(&mut out, answer, context),
        Answer::Completion(answer) => completion_answer(&mut out, answer, context),
        Answer::Embedding(answer) => embedding(&mut out, answer, context),
        // Never asked for in this dialect.
        Answer::Rerank(_) | Answer::Moderation(_) => {
            return super::error::body(
                &not_implemented(Dialect::Mlflow, Operation::Rerank),
                context.request_id,
            );
        }
    }
    out
}

fn chat(out: &mut Vec<u8>, answer: &ChatAnswer, context: &Context) {
    let mut top = Object::new(out);
    top.field("id", &answer_id(&answer.id, "chatcmpl-", context));
    top.field("object", "chat.completion");
    top.field("created", &answer.created.unwrap_or(context.created));
    top.field("model", &context.model);
    let mut choices = top.array("choices");
    for (index, choice) in answer.choices.iter().enumerate() {
        let mut item = choices.object();
        item.field("index", &index);
        let mut message = item.object("message");
        message.field("role", "assistant");
        let text = completion::text_of(&choice.content);
        let calls: Vec<Value> = choice.content.iter().filter_map(call_value).collect();
        let refusal = refusal_of(&choice.content);
        let null = text.is_empty() && (!calls.is_empty() || refusal.is_some());
        message.field("content", &(!null).then_some(text));
        message.field("tool_calls", &(!calls.is_empty()).then_some(calls));
        message.field("refusal", &refusal);
        message.end();
        item.field("finish_reason", &choice.finish.as_ref().map(finish_word));
        item.end();
    }
    choices.end();
    usage(top.key("usage"), answer.usage.as_ref());
    top.field("provider", &context.provider);
    top.end();
}

/// The three counts, and the cached part when there is one.
pub(super) fn usage(out: &mut Vec<u8>, found: Option<&Usage>) {
    let mut object = Object::new(out);
    object.field("prompt_tokens", &found.map(Usage::prompt_total));
    object.field("completion_tokens", &found.map(Usage::completion_total));
    object.field("total_tokens", &found.map(Usage::total));
    if let Some(found) = found.filter(|found| found.cache_read > 0) {
        object.field("prompt_tokens_details", &json!({"cached_tokens": found.cache_read}));
    }
    object.end();
}

fn completion_answer(out: &mut Vec<u8>, answer: &CompletionAnswer, context: &Context) {
    let mut top = Object::new(out);
    top.field("id", &answer_id(&answer.id, "cmpl-", context));
    top.field("object", "text_completion");
    top.field("created", &answer.created.unwrap_or(context.created));
    top.field("model", &context.model);
    let mut choices = top.array("choices");
    for (index, choice) in answer.choices.iter().enumerate() {
        let mut item = choices.object();
        item.field("index", &index);
        item.field("text", &choice.text);
        item.field("finish_reason", &choice.finish.as_ref().map(finish_word));
        item.end();
    }
    choices.end();
    let found = answer.usage.as_ref();
    top.field("usage", &three_counts(found));
    top.end();
}

/// Usage of completions: no parts.
pub(super) fn three_counts(found: Option<&Usage>) -> Value {
    json!({
        "prompt_tokens": found.map(Usage::prompt_total),
        "completion_tokens": found.map(Usage::completion_total),
        "total_tokens": found.map(Usage::total),
    })
}

fn embedding(out: &mut Vec<u8>, answer: &EmbeddingAnswer, context: &Context) {
    let mut top = Object::new(out);
    top.field("object", "list");
    write_vectors(&mut top, answer, context.embedding_format);
    top.field("model", &context.model);
    let found = answer.usage.as_ref();
    let (prompt, total) = (found.map(Usage::prompt_total), found.map(Usage::total));
    top.field("usage", &json!({"prompt_tokens": prompt, "total_tokens": total}));
    top.end();
}
