//! What the dialects' error codecs share: redaction, and faults from errors inside a stream.

use std::collections::HashMap;

use millgate_types::{Fault, Retry, code};
use serde_json::{Map, Value};

use crate::ErrorBody;

const MOST_CHARS: usize = 500;

/// Makes an upstream's message fit for callers: no keys, no long tokens, no control characters, bounded.
#[must_use]
pub fn redact(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(MOST_CHARS));
    let mut hide_next = false;
    for (index, word) in message.split_whitespace().take(MOST_CHARS).enumerate() {
        if index > 0 {
            out.push(' ');
        }
        let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let hide = std::mem::take(&mut hide_next) && core.len() >= 8 || secret(word);
        hide_next = match core.to_ascii_lowercase().as_str() {
            "bearer" | "basic" => true,
            "key" | "token" | "provided" | "authorization" => word.ends_with([':', '=']),
            _ => false,
        };
        if hide {
            out.push_str("[redacted]");
        } else {
            out.extend(word.chars().filter(|c| !c.is_control()));
        }
    }
    if out.chars().count() > MOST_CHARS {
        out = out.chars().take(MOST_CHARS).collect();
        out.push('\u{2026}');
    }
    out
}

/// The shortest run of bytes that is taken for a piece of what somebody sent.
const PIECE: usize = 12;
/// So much of what was sent is looked at.
const HEARD: usize = 1 << 20;

/// Leaves out of an upstream's message what it repeats of `heard`, the call's body: for the log, which holds no text of callers.
/// Names of the body's fields stay.
#[must_use]
pub fn conceal(message: &str, heard: &[u8]) -> String {
    let bytes = message.as_bytes();
    let heard = &heard[..heard.len().min(HEARD)];
    let mut windows: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, window) in bytes.windows(PIECE).enumerate() {
        windows.entry(window).or_default().push(at);
    }
    let mut repeated = vec![false; bytes.len()];
    for window in heard.windows(PIECE) {
        for at in windows.get(window).into_iter().flatten() {
            repeated[*at..at + PIECE].fill(true);
        }
    }
    let mut out = String::with_capacity(message.len());
    let mut rest = 0;
    while let Some(from) = (rest..bytes.len()).find(|at| repeated[*at]) {
        let to = (from..bytes.len()).find(|at| !repeated[*at]).unwrap_or(bytes.len());
        let from = (0..=from).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        let to = (to..=bytes.len()).find(|at| message.is_char_boundary(*at)).unwrap_or(bytes.len());
        let piece = message[from..to].trim_matches(|c: char| !c.is_alphanumeric());
        let field = memchr::memmem::find(heard, format!("\"{piece}\":").as_bytes()).is_some();
        out.push_str(&message[rest.min(from)..from]);
        out.push_str(if field { &message[from..to] } else { "[...]" });
        rest = to;
    }
    out.push_str(&message[rest..]);
    out
}

/// Whether some run of token characters in the word looks like a credential.
fn secret(word: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "sk-", "sk_", "pk-", "gsk_", "xai-", "aiza", "akia", "asia", "hf_", "pplx-", "csk-", "fw_", "dapi",
        "eyj", "key-", "org-", "ghp_", "r8_", "tgp_",
    ];
    word.split(|c: char| !(c.is_ascii_alphanumeric() || "-_*.+/=".contains(c))).any(|run| {
        let run = run.trim_matches('.');
        let lower = run.to_ascii_lowercase();
        if run.len() >= 8 && PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) || run.contains("***") {
            return true;
        }
        // A long run of letters and digits that is no word, path, model name or URL.
        let longest = run.split(['/', '.', '-', '_']).map(str::len).max().unwrap_or(0);
        longest >= 24
            && run.bytes().any(|byte| byte.is_ascii_digit())
            && run.bytes().any(|byte| byte.is_ascii_alphabetic())
    })
}

/// A provider's error inside a stream, or inside a 200 answer.
pub(crate) fn in_band(body: &ErrorBody, status: Option<u16>) -> Fault {
    let word = |needle: &str| {
        [&body.code, &body.kind].into_iter().flatten().any(|text| text.to_ascii_lowercase().contains(needle))
    };
    let status = status
        .or_else(|| body.code.as_deref().and_then(|text| text.parse().ok()))
        .filter(|status| (400..600).contains(status));
    let (code, retry) = if word("overloaded") || matches!(status, Some(503 | 529)) {
        (code::UPSTREAM_OVERLOADED, Retry::SameTarget(None))
    } else if word("insufficient_quota") || word("billing") || status == Some(402) {
        (code::UPSTREAM_QUOTA, Retry::NextTarget)
    } else if word("rate_limit") || status == Some(429) {
        (code::UPSTREAM_RATE_LIMITED, Retry::SameTarget(None))
    } else if word("authentication")
        || word("permission")
        || word("api_key")
        || matches!(status, Some(401 | 403))
    {
        (code::UPSTREAM_AUTH, Retry::NextTarget)
    } else if word("timeout") || matches!(status, Some(408 | 504)) {
        (code::UPSTREAM_TIMEOUT, Retry::NextTarget)
    } else if word("invalid_request") || matches!(status, Some(400 | 422)) {
        (code::UPSTREAM_INVALID_REQUEST, Retry::Never)
    } else if status == Some(404) {
        (code::UPSTREAM_NOT_FOUND, Retry::NextTarget)
    } else {
        (code::UPSTREAM_ERROR, Retry::SameTarget(None))
    };
    let message = match (&body.message, code == code::UPSTREAM_AUTH) {
        (Some(text), false) => redact(text),
        (_, true) => "the provider refused our credential".to_owned(),
        (None, _) => "the provider reported an error inside its answer".to_owned(),
    };
    let fault = Fault::upstream(code, retry, message);
    match status {
        Some(status) => fault.with_upstream_status(status),
        None => fault,
    }
}

/// The stream closed in the middle.
pub(crate) fn interrupted() -> Fault {
    Fault::upstream(code::STREAM_INTERRUPTED, Retry::Never, "the provider's stream broke off")
}

/// The stream, or the answer, is not what the dialect says.
pub(crate) fn nonsense(what: &'static str) -> Fault {
    Fault::upstream(code::UPSTREAM_ERROR, Retry::SameTarget(None), what)
}

/// The answer is not what the dialect says.
pub(crate) fn no_answer() -> Fault {
    nonsense("the provider's answer is not what its dialect says")
}

/// A provider's whole answer, which is one JSON object.
pub(crate) fn answer_object(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(no_answer()),
        Err(cause) => Err(no_answer().with_cause(cause)),
    }
}

/// Reads error bodies of all the shapes that OpenAI-like servers use.
pub(crate) fn read(body: &[u8]) -> ErrorBody {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => read_value(&value),
        Err(_) => ErrorBody::default(),
    }
}

pub(crate) fn read_value(value: &Value) -> ErrorBody {
    match value {
        Value::Array(items) => items.first().map(read_value).unwrap_or_default(),
        Value::String(text) => ErrorBody { message: Some(text.clone()), ..ErrorBody::default() },
        Value::Object(map) => read_object(map),
        _ => ErrorBody::default(),
    }
}

fn read_object(map: &Map<String, Value>) -> ErrorBody {
    let outer = ErrorBody {
        message: text(map, &["message", "Message", "msg"]),
        code: text(map, &["code", "error_code", "error_type"]),
        kind: text(map, &["type", "status"]),
        param: text(map, &["param"]),
        wait: None,
    };
    let inner = match map.get("error").or_else(|| map.get("detail")) {
        Some(inner @ (Value::Object(_) | Value::Array(_))) => read_value(inner),
        Some(Value::String(message)) => ErrorBody { message: Some(message.clone()), ..ErrorBody::default() },
        _ => return outer,
    };
    ErrorBody {
        message: inner.message.or(outer.message),
        code: inner.code.or(outer.code),
        kind: inner.kind.or(outer.kind.filter(|kind| kind != "error")),
        param: inner.param.or(outer.param),
        wait: None,
    }
}

fn text(map: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| match map.get(*key)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_does_not_repeat_what_callers_sent() {
        let body = r#"{"model":"m","max_completion_tokens":5,"messages":[{"role":"user","content":"My name is Ann, of Böhmen"}]}"#;
        for (message, logged) in [
            ("no such model", "no such model"),
            ("cannot read 'My name is Ann, of B\u{f6}hmen' here", "cannot read '[...]' here"),
            ("is Ann, of B\u{f6}hmen", "[...]"),
            ("max_completion_tokens is too large", "max_completion_tokens is too large"),
            ("My name is Ann, of B\u{f6}hmen or is Ann, of B\u{f6}", "[...] or[...]"),
            ("My name", "My name"),
        ] {
            assert_eq!(conceal(message, body.as_bytes()), logged, "{message}");
        }
    }

    #[test]
    fn credentials_never_reach_a_caller() {
        for message in [
            "Incorrect API key provided: sk-proj-abcdefgh1234. You can find it",
            "Incorrect API key provided: sk-p*****1234.",
            "bad token 9f8e7d6c5b4a39281706f5e4d3c2b1a0",
            "header Authorization: Bearer abcdefghijklmnop refused",
        ] {
            let shown = redact(message);
            assert!(shown.contains("[redacted]"), "{shown}");
            assert!(
                !shown.contains("1234") && !shown.contains("9f8e") && !shown.contains("abcdefghijkl"),
                "{shown}"
            );
        }
    }

    #[test]
    fn ordinary_messages_stay_whole() {
        for message in [
            "Invalid value for 'temperature': expected at most 2, got 3.",
            "The model `accounts/fireworks/models/llama-v3p1-405b-instruct` does not exist",
            "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
            "see https://platform.openai.com/docs/guides/error-codes/api-errors",
        ] {
            assert_eq!(redact(message), message);
        }
    }
}
