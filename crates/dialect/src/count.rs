//! Counting tokens without a vocabulary: a rule of thumb for targets that do not count.

use millgate_types::{Block, ChatCall};

/// What a picture, a recording or a document is taken for.
const MEDIA: u64 = 300;

/// A chat call's input tokens, at four characters each, rounded up.
#[must_use]
pub fn estimate_tokens(call: &ChatCall) -> u64 {
    let (mut characters, mut media) = (0, 0);
    for message in &call.messages {
        count(&message.content, &mut characters, &mut media);
    }
    for tool in &call.tools {
        characters += length(&tool.name) + tool.description.as_deref().map_or(0, length);
        characters += tool.parameters.as_ref().map_or(0, |schema| length(&schema.to_string()));
        characters += tool.other.as_ref().map_or(0, |(_, value)| length(&value.to_string()));
    }
    u64::div_ceil(characters, 4) + media * MEDIA
}

fn length(text: &str) -> u64 {
    text.chars().count() as u64
}

fn count(blocks: &[Block], characters: &mut u64, media: &mut u64) {
    for block in blocks {
        match block {
            Block::Text { text, .. } | Block::Refusal { text } | Block::Reasoning { text, .. } => {
                *characters += length(text);
            }
            Block::ToolCall { name, arguments, .. } => *characters += length(name) + length(arguments),
            Block::ToolResult { content, .. } => count(content, characters, media),
            Block::Image { .. } | Block::Audio { .. } | Block::File { .. } => *media += 1,
            Block::Other { value, .. } => *characters += length(&value.to_string()),
            Block::RedactedReasoning { .. } => {}
        }
    }
}
