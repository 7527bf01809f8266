//! Completions towards targets that only chat: the prompt becomes one user message, the answer's text comes
//! back. Streams need no translation: a completion stream is the text blocks of the same events.

use millgate_types::{
    Block, ChatAnswer, ChatCall, CompletionAnswer, CompletionCall, CompletionChoice, Fault, Message, Prompt,
    Role, code,
};
use serde_json::{Map, Value};

/// A completion call as a chat call with one user message.
pub fn completion_as_chat(call: &CompletionCall) -> Result<ChatCall, Fault> {
    let prompt = match &call.prompt {
        Prompt::Text(text) => text,
        Prompt::Texts(texts) if texts.len() == 1 => &texts[0],
        _ => {
            return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target takes one prompt, as text")
                .with_param("prompt"));
        }
    };
    let message = Message {
        role: Role::User,
        name: None,
        content: vec![Block::text(prompt.clone())],
        extra: Map::new(),
    };
    Ok(ChatCall {
        model: call.model.clone(),
        messages: vec![message],
        tools: Vec::new(),
        tool_choice: None,
        parallel_tool_calls: None,
        response_format: None,
        max_output_tokens: call.max_output_tokens,
        sampling: call.sampling.clone(),
        reasoning: None,
        stream: call.stream,
        include_usage: call.include_usage,
        user: call.user.clone(),
        extra: call.extra.clone(),
    })
}

/// The text of a chat answer as a completion answer.
#[must_use]
pub fn chat_as_completion(answer: ChatAnswer) -> CompletionAnswer {
    CompletionAnswer {
        id: answer.id,
        created: answer.created,
        model: answer.model,
        choices: answer
            .choices
            .into_iter()
            .map(|choice| CompletionChoice {
                index: choice.index,
                text: text_of(&choice.content),
                finish: choice.finish,
                logprobs: None,
            })
            .collect(),
        usage: answer.usage,
        dialect: answer.dialect,
        extra: Map::new(),
    }
}

/// All visible text.
pub(crate) fn text_of(content: &[Block]) -> String {
    content
        .iter()
        .filter_map(|block| match block {
            Block::Text { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// For targets without structured output.
pub(crate) const OBJECT_SENTENCE: &str = "Answer with one valid JSON object and nothing else.";

/// The same with a schema.
pub(crate) fn schema_sentence(schema: &Value) -> String {
    format!("Answer with one JSON value that fits this JSON Schema, and nothing else:\n{schema}")
}
