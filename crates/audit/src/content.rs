//! What callers and models said, as far as a policy lets it into the log: not at all, as a keyed hash, without what is
//! private in it, or as it was. Redaction finds what looks like a secret, an e-mail address, a card, a bank account or a
//! phone number; it is no proof that nothing private is left.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use millgate_types::{Captured, ContentPolicy};
use regex::{Captures, Regex};
use serde_json::{Value, json};

use crate::Audit;

/// The content of a record.
#[must_use]
pub fn content(captured: &Captured, audit: &Audit) -> Value {
    let side = |bytes: &[u8], whole: u64| match captured.policy {
        ContentPolicy::None => Value::Null,
        ContentPolicy::Hashed => json!({ "bytes": whole, "hmac": audit.digest(bytes) }),
        ContentPolicy::Redacted => redacted(bytes, whole),
        ContentPolicy::Full => json!({ "text": String::from_utf8_lossy(bytes), "bytes": whole }),
    };
    json!({
        "policy": captured.policy.name(),
        "request": side(&captured.request, captured.request_bytes),
        "answer": side(&captured.answer, captured.answer_bytes),
    })
}

fn redacted(bytes: &[u8], whole: u64) -> Value {
    // What was cut is no JSON any more: a text in it may hide behind an escape.
    if bytes.len() as u64 != whole {
        return json!({ "bytes": whole, "omitted": "too long to be redacted" });
    }
    if let Ok(mut value) = serde_json::from_slice::<Value>(bytes) {
        walk(&mut value);
        return json!({ "json": value, "bytes": whole });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains("data:") => {
            let texts: Vec<_> = pieces(text).into_values().map(|text| redact(&text)).collect();
            json!({ "texts": texts, "bytes": whole })
        }
        Ok("") => json!({ "bytes": 0 }),
        _ => json!({ "bytes": whole, "omitted": "neither JSON nor an event stream" }),
    }
}

fn walk(value: &mut Value) {
    match value {
        Value::String(text) => {
            let clean = redact(text);
            if clean != *text {
                *text = clean;
            }
        }
        Value::Number(number) => {
            let text = number.to_string();
            let clean = redact(&text);
            if clean != text {
                *value = clean.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::Object(members) => {
            let old = std::mem::take(members);
            members.extend(old.into_iter().map(|(name, mut member)| {
                walk(&mut member);
                (redact(&name), member)
            }));
        }
        Value::Bool(_) | Value::Null => {}
    }
}

/// The texts of an event stream, put together again: a number or a name may be cut anywhere. Pieces belong together that
/// stand at the same place under the same `index`.
fn pieces(stream: &str) -> BTreeMap<String, String> {
    const TEXTS: [&str; 9] = [
        "content",
        "text",
        "delta",
        "partial_json",
        "arguments",
        "reasoning_content",
        "thinking",
        "reasoning",
        "refusal",
    ];
    fn gather(value: &Value, place: &str, texts: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(members) => {
                let indices = ["index", "output_index", "content_index"]
                    .map(|name| members.get(name).and_then(Value::as_u64));
                let place = format!("{place}{indices:?}");
                for (name, member) in members {
                    match member {
                        Value::String(text) if TEXTS.contains(&name.as_str()) => {
                            texts.entry(format!("{place}.{name}")).or_default().push_str(text);
                        }
                        _ => gather(member, &format!("{place}.{name}"), texts),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| gather(item, place, texts)),
            _ => {}
        }
    }
    let mut texts = BTreeMap::new();
    for data in stream.lines().filter_map(|line| line.strip_prefix("data:")) {
        if let Ok(frame) = serde_json::from_str::<Value>(data.trim()) {
            gather(&frame, "", &mut texts);
        }
    }
    texts
}

struct Pattern {
    regex: Regex,
    name: &'static str,
    /// Whether what looks so is so.
    is: fn(&str) -> bool,
}

static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let pattern = |text: &str, name, is| Pattern {
        regex: Regex::new(text).expect("a pattern is well formed"),
        name,
        is,
    };
    let always = |_: &str| true;
    vec![
        pattern(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)",
            "secret",
            always,
        ),
        pattern(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "secret", always),
        pattern(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}", "secret", always),
        pattern(
            r"\b(?:sk|pk|rk|mgk|mg|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs]|hf|hvs|AIza|AKIA|ASIA|ya29)[-_.]?[A-Za-z0-9_.-]{12,}",
            "secret",
            always,
        ),
        pattern(
            r#"(?i)\b(?:password|passwd|secret|api[_-]?key|token)\b["']?\s*[:=]\s*["']?[^\s"',;]{6,}"#,
            "secret",
            always,
        ),
        pattern(r"[\p{L}0-9._%+-]+@[\p{L}0-9-]+(?:\.[\p{L}0-9-]+)*\.\p{L}{2,}", "e-mail", always),
        pattern(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]){11,30}\b", "iban", is_iban),
        pattern(r"\b\d(?:[ -]?\d){12,18}\b", "card", is_card),
        pattern(r"(?:\+|\b00)\d{1,3}(?:[ ./-]?\(?\d{1,4}\)?){2,6}\b", "phone", is_phone),
        pattern(r"(?:\(\d{3}\) ?|\b\d{3}[-. ])\d{3}[-. ]\d{4}\b", "phone", always),
        pattern(r"\b0\d{2,4}[ /-]\d{3,8}(?:[ -]?\d{1,5})?\b", "phone", is_phone),
    ]
});

/// The text without what looks private: `[e-mail]` stands where an address was.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut clean = text.to_owned();
    for pattern in PATTERNS.iter() {
        let replaced = pattern.regex.replace_all(&clean, |found: &Captures<'_>| {
            let found = &found[0];
            if (pattern.is)(found) { format!("[{}]", pattern.name) } else { found.to_owned() }
        });
        if let std::borrow::Cow::Owned(replaced) = replaced {
            clean = replaced;
        }
    }
    clean
}

/// Luhn's sum.
fn is_card(text: &str) -> bool {
    let digits = text.chars().rev().filter_map(|c| c.to_digit(10));
    let sum: u32 = digits
        .enumerate()
        .map(|(at, digit)| match digit * (1 + (at as u32 & 1)) {
            doubled if doubled > 9 => doubled - 9,
            doubled => doubled,
        })
        .sum();
    sum.is_multiple_of(10) && text.chars().any(|c| c.is_ascii_digit() && c != '0')
}

/// ISO 13616: the remainder by 97 is 1.
fn is_iban(text: &str) -> bool {
    let plain: Vec<u8> = text.bytes().filter(u8::is_ascii_alphanumeric).collect();
    // What follows the number may have been taken for its end.
    (15..=plain.len().min(34)).any(|length| {
        let moved = plain[4..length].iter().chain(&plain[..4]);
        let rest = moved.fold(0_u32, |rest, byte| match byte {
            b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
            _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
        });
        rest == 1
    })
}

fn is_phone(text: &str) -> bool {
    (7..=15).contains(&text.chars().filter(char::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_is_replaced_by_its_kind() {
        for (text, clean) in [
            ("write to anna.berg@example.co.uk, please", "write to [e-mail], please"),
            ("müller@bücher.example", "[e-mail]"),
            ("card 4111 1111 1111 1111 or 5500-0000-0000-0004", "card [card] or [card]"),
            ("order 4111 1111 1111 1112", "order 4111 1111 1111 1112"),
            ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [iban]."),
            ("GB29NWBK60161331926819", "[iban]"),
            ("call +49 30 901820 or (555) 123-4567", "call [phone] or [phone]"),
            ("0049 89 1234567", "[phone]"),
            ("key sk-proj-abcdefghijklmnop", "key [secret]"),
            ("Authorization: Bearer abc.def-ghi_jkl", "Authorization: [secret]"),
            ("password = hunter2222", "[secret]"),
            ("in 2026 we sold 1250 units at 19.99", "in 2026 we sold 1250 units at 19.99"),
            ("version 1.2.3, build 20261126", "version 1.2.3, build 20261126"),
        ] {
            assert_eq!(redact(text), clean);
        }
        let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc";
        assert_eq!(redact(&format!("t={token}")), "t=[secret]");
    }

    #[test]
    fn escapes_numbers_names_and_pieces_hide_nothing() {
        let body =
            br#"{"messages":[{"content":"a\u0040example.com"}],"card":4111111111111111,"b@example.com":1}"#;
        let clean = redacted(body, body.len() as u64);
        assert_eq!(
            clean["json"],
            json!({ "messages": [{ "content": "[e-mail]" }], "card": "[card]", "[e-mail]": 1 })
        );
        let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"it is an\"}}]}\n\n\
                      data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"other\"}}]}\n\n\
                      data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"na@exam\"}}]}\n\n\
                      data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ple.com!\"}}]}\n\ndata: [DONE]\n\n";
        let clean = redacted(stream.as_bytes(), stream.len() as u64);
        assert_eq!(clean["texts"], json!(["it is [e-mail]!", "other"]));
        let cut = redacted(&body[..20], body.len() as u64);
        assert_eq!(cut["omitted"], "too long to be redacted");
    }
}
