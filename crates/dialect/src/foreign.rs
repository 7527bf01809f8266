//! Thinking that another provider sealed, in a body that could pass as it is: the pass lane must not carry it to a
//! provider that refuses what it did not seal itself. Looks at bytes only; whoever finds something decodes.

use memchr::memmem::Finder;
use millgate_types::Dialect;

use crate::find::{finder, has};
use crate::quirks::{Quirks, ReasoningField};

/// Whether a body of `dialect` holds thinking that a target of the same dialect may not be sent. May say yes in vain;
/// then the body is translated, which costs time only.
#[must_use]
pub fn holds_foreign_thinking(dialect: Dialect, body: &[u8], quirks: &Quirks) -> bool {
    match dialect {
        Dialect::Anthropic => has_member(body, finder!(b"\"signature\""), &[b"gemini/", b"openai/"]),
        Dialect::Responses => {
            has_member(body, finder!(b"\"encrypted_content\""), &[b"millgate/", b"millgate-sealed/"])
        }
        // `millgate` in base64, as far as it is the same whatever follows.
        Dialect::Gemini => [finder!(b"\"thoughtSignature\""), finder!(b"\"thought_signature\"")]
            .into_iter()
            .any(|name| has_member(body, name, &[b"bWlsbGdhdG"])),
        // The list is OpenRouter's and ours; nobody else reads it.
        Dialect::OpenAi if quirks.reasoning_field == ReasoningField::ReasoningDetails => {
            has_member(body, finder!(b"\"signature\""), &[b"gemini/", b"openai/"])
        }
        Dialect::OpenAi => has(body, finder!(b"\"reasoning_details\"")),
        _ => false,
    }
}

/// Whether a member of this name somewhere is a text that begins with one of these.
fn has_member(body: &[u8], name: &Finder<'_>, beginnings: &[&[u8]]) -> bool {
    name.find_iter(body).any(|at| {
        let rest = body[at + name.needle().len()..].trim_ascii_start();
        let text = rest.strip_prefix(b":").and_then(|rest| rest.trim_ascii_start().strip_prefix(b"\""));
        text.is_some_and(|text| beginnings.iter().any(|beginning| text.starts_with(beginning)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(dialect: Dialect, body: &str) -> bool {
        holds_foreign_thinking(dialect, body.as_bytes(), &Quirks::default())
    }

    #[test]
    fn seals_of_others_are_found_where_seals_stand() {
        let named =
            "{\"messages\":[{\"content\":\"gemini/x openai/y millgate/z\"}],\"model\":\"openai/gpt-5\"}";
        for (dialect, foreign, own) in [
            (Dialect::Anthropic, r#"{"signature": "gemini/t/AAAA"}"#, r#"{"signature":"EqQBCgI="}"#),
            (Dialect::Anthropic, r#"{"signature":"openai/rs_1/AAAA"}"#, r#"{"signature":""}"#),
            (
                Dialect::Responses,
                r#"{"encrypted_content":"millgate/EqQB"}"#,
                r#"{"encrypted_content":"gAAA"}"#,
            ),
            (
                Dialect::Gemini,
                r#"{"thoughtSignature":"bWlsbGdhdGUvRXFRQg=="}"#,
                r#"{"thoughtSignature":"CiQB"}"#,
            ),
            (Dialect::Gemini, r#"{"thought_signature" : "bWlsbGdhdGUtc2VhbGVkL0E="}"#, r#"{"thought":true}"#),
            (Dialect::OpenAi, r#"{"reasoning_details":[]}"#, r#"{"reasoning_content":"Hm."}"#),
        ] {
            assert!(holds(dialect, foreign), "{foreign}");
            assert!(!holds(dialect, own), "{own}");
            assert!(!holds(dialect, named));
        }
    }

    #[test]
    fn openrouter_keeps_its_own_details() {
        let quirks = Quirks { reasoning_field: ReasoningField::ReasoningDetails, ..Quirks::default() };
        let holds = |body: &str| holds_foreign_thinking(Dialect::OpenAi, body.as_bytes(), &quirks);
        assert!(!holds(r#"{"reasoning_details":[{"type":"reasoning.text","signature":"EqQB"}]}"#));
        assert!(holds(r#"{"reasoning_details":[{"type":"reasoning.text","signature":"openai/rs_1/AA"}]}"#));
    }
}
