//! Thinking in OpenAI's shape: `reasoning_content` for people, and an opaque `reasoning_details` list (the
//! form OpenRouter uses) that carries signatures, so that a caller who echoes the assistant's message gives
//! the provider back what it sealed.

use millgate_types::Block;
use serde_json::{Map, Value, json};

use crate::seal;

const FORMAT: &str = "anthropic-claude-v1";
const GOOGLE: &str = "google-gemini-v1";
const RESPONSES: &str = "openai-responses-v1";

/// OpenRouter's word for whose seal it is.
fn format(signature: Option<&str>) -> &'static str {
    match signature {
        Some(signature) if seal::as_gemini(signature).is_some() => GOOGLE,
        Some(signature) if seal::as_openai(signature).is_some() => RESPONSES,
        _ => FORMAT,
    }
}

/// Thinking blocks from a message's fields. Details of a form that is not ours stay in `extra`, untouched.
pub(super) fn blocks(
    text: Option<String>,
    details: Option<Value>,
    extra: &mut Map<String, Value>,
) -> Vec<Block> {
    if let Some(details) = details {
        if let Some(blocks) = details.as_array().and_then(|items| sealed(items)) {
            if !blocks.is_empty() {
                return blocks;
            }
        } else {
            let text = text.or_else(|| plain(&details));
            extra.insert("reasoning_details".to_owned(), details);
            return text.map(|text| Block::Reasoning { text, signature: None }).into_iter().collect();
        }
    }
    text.map(|text| Block::Reasoning { text, signature: None }).into_iter().collect()
}

/// Details that are all Anthropic's, or sealed the way we mark other providers' seals, as blocks.
fn sealed(details: &[Value]) -> Option<Vec<Block>> {
    details
        .iter()
        .map(|detail| {
            let field = |key: &str| detail.get(key).and_then(Value::as_str).map(str::to_owned);
            let ours = field("signature").is_some_and(|signature| !seal::is_anthropic(&signature));
            if !ours && !detail.get("format")?.as_str()?.starts_with("anthropic") {
                return None;
            }
            match detail.get("type")?.as_str()? {
                "reasoning.text" => Some(Block::Reasoning {
                    text: field("text").unwrap_or_default(),
                    signature: field("signature").filter(|signature| !signature.is_empty()),
                }),
                "reasoning.encrypted" => Some(Block::RedactedReasoning { data: field("data")? }),
                _ => None,
            }
        })
        .collect()
}

/// The visible text inside details.
pub(super) fn plain(details: &Value) -> Option<String> {
    let text: String = details
        .as_array()?
        .iter()
        .filter_map(|detail| detail.get("text").or_else(|| detail.get("summary"))?.as_str())
        .collect();
    (!text.is_empty()).then_some(text)
}

/// The details of a message's thinking; `None` when nothing in it is sealed.
pub(super) fn details(content: &[Block]) -> Option<Vec<Value>> {
    let is_sealed = |block: &Block| {
        matches!(block, Block::Reasoning { signature: Some(_), .. } | Block::RedactedReasoning { .. })
    };
    if !content.iter().any(is_sealed) {
        return None;
    }
    let blocks = content.iter().filter_map(|block| match block {
        Block::Reasoning { text, signature } => Some((false, text, signature.as_deref())),
        Block::RedactedReasoning { data } => Some((true, data, None)),
        _ => None,
    });
    Some(
        blocks
            .enumerate()
            .map(|(index, (closed, text, signature))| detail(index, closed, text, signature))
            .collect(),
    )
}

/// The details that go to a provider: those of Anthropic's models. Seals with another maker's mark are for that
/// maker, and their text stands in `reasoning` too.
pub(super) fn details_for_provider(content: &[Block]) -> Option<Vec<Value>> {
    let of_others = |block: &&Block| matches!(block, Block::Reasoning { signature: Some(signature), .. } if !seal::is_anthropic(signature));
    if !content.iter().any(|block| of_others(&block)) {
        return details(content);
    }
    let kept: Vec<Block> = content.iter().filter(|block| !of_others(block)).cloned().collect();
    details(&kept)
}

/// Whether some thinking is sealed as a whole: there is no text of it.
pub(super) fn hides(content: &[Block]) -> bool {
    content.iter().any(|block| matches!(block, Block::RedactedReasoning { .. }))
}

/// One entry.
pub(super) fn detail(index: usize, closed: bool, text: &str, signature: Option<&str>) -> Value {
    if closed {
        return json!({"type": "reasoning.encrypted", "data": text, "format": FORMAT, "index": index});
    }
    json!({"type": "reasoning.text", "text": text, "signature": signature, "format": format(signature), "index": index})
}

/// All visible thinking of a message.
pub(super) fn text(content: &[Block]) -> Option<String> {
    let mut found: Option<String> = None;
    for block in content {
        if let Block::Reasoning { text, .. } = block {
            found.get_or_insert_default().push_str(text);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_gets_no_seal_that_carries_another_makers_mark() {
        let thought = |signature: &str| Block::Reasoning {
            text: "Hm.".to_owned(),
            signature: Some(signature.to_owned()),
        };
        let content = [thought("gemini/t/AAAA"), thought("openai/rs_1/AAAA"), thought("EqQB")];
        let kept = details_for_provider(&content).unwrap_or_default();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0]["signature"], "EqQB");
        assert_eq!(details_for_provider(&content[..2]), None);
        // Callers see all of them, to bring them back.
        assert_eq!(details(&content).map(|all| all.len()), Some(3));
    }
}
