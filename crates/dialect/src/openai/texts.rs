//! Requests that are texts and settings: completions, embeddings, moderations.

use millgate_types::{CompletionCall, EmbeddingCall, EmbeddingFormat, ModerationCall, Prompt};

use super::encode::Top;
use super::moderation;

pub(super) fn completion(call: &CompletionCall, top: &mut Top<'_>) {
    top.model(&call.model);
    match &call.prompt {
        Prompt::Text(text) => top.object.field("prompt", text),
        Prompt::Texts(texts) => top.object.field("prompt", texts),
        Prompt::Tokens(tokens) => top.object.field("prompt", tokens),
        Prompt::TokenLists(lists) => top.object.field("prompt", lists),
    }
    // The completions API never learned `max_completion_tokens`.
    top.some("max_tokens", call.max_output_tokens.as_ref());
    top.sampling(&call.sampling);
    top.stream(call.stream);
    top.some("user", call.user.as_ref());
    top.extra(&call.extra);
}

pub(super) fn embedding(call: &EmbeddingCall, top: &mut Top<'_>) {
    top.model(&call.model);
    match &call.input {
        Prompt::Text(text) => top.object.field("input", text),
        Prompt::Texts(texts) => top.object.field("input", texts),
        Prompt::Tokens(tokens) => top.object.field("input", tokens),
        Prompt::TokenLists(lists) => top.object.field("input", lists),
    }
    top.some("dimensions", call.dimensions.as_ref());
    if call.format == EmbeddingFormat::Base64 {
        // Left out where stripped: the answer is converted anyway.
        top.field("encoding_format", "base64");
    }
    top.some("user", call.user.as_ref());
    top.extra(&call.extra);
}

pub(super) fn moderation(call: &ModerationCall, top: &mut Top<'_>) {
    top.model(&call.model);
    moderation::write_input(&mut top.object, &call.input);
    top.extra(&call.extra);
}
