//! States of objects: `ETag` says which one is shown, `If-Match` in which one a change is meant to find it.

use http::{HeaderMap, header};
use millgate_types::{Fault, code};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Context;

/// Digits of a digest that make a tag.
const DIGITS: usize = 32;

/// The tag of a state: a digest of everything that a change can change.
pub(super) fn of<T: Serialize>(state: &T) -> String {
    let text = serde_json::to_vec(state).unwrap_or_default();
    let mut tag = millgate_types::hex(&Sha256::digest(text));
    tag.truncate(DIGITS);
    tag
}

/// As it stands in a header.
pub(super) fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

/// The states of `If-Match`, without their quotes; `None` where any will do. Weak ones match nothing.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<Vec<String>>, Fault> {
    let mut tags = Vec::new();
    let mut any = true;
    for value in headers.get_all(header::IF_MATCH) {
        any = false;
        let text = value.to_str().map_err(|_| malformed())?;
        for tag in text.split(',').map(str::trim) {
            if tag == "*" {
                return Ok(None);
            }
            let plain = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            match plain {
                Some(plain) => tags.push(plain.to_owned()),
                None if tag.starts_with("W/\"") => {}
                None => return Err(malformed()),
            }
        }
    }
    Ok((!any).then_some(tags))
}

fn malformed() -> Fault {
    Fault::client(code::INVALID_VALUE, "`If-Match` must hold what an `ETag` said: \"...\"")
}

/// Refuses a change that expects another state. Fault: `precondition_failed`.
pub(super) fn check(context: &Context, tag: Option<fn(&Context) -> Option<String>>) -> Result<(), Fault> {
    let Some(expected) = expected(&context.headers)? else { return Ok(()) };
    let text = match tag {
        // What cannot be compared does not match.
        None => "this path has no state to compare `If-Match` with",
        Some(tag) => match tag(context) {
            Some(tag) if expected.contains(&tag) => return Ok(()),
            // The handler says what is not there.
            None => return Ok(()),
            Some(_) => "it was changed meanwhile: read it again",
        },
    };
    Err(Fault::client(code::PRECONDITION_FAILED, text))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_strong_tags_and_the_star_match() {
        let read = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_static(text))]);
            expected(&headers).map_err(|fault| fault.code.name)
        };
        assert_eq!(expected(&HeaderMap::new()).unwrap(), None);
        assert_eq!(read("*"), Ok(None));
        assert_eq!(read("\"a\", \"b\""), Ok(Some(vec!["a".to_owned(), "b".to_owned()])));
        assert_eq!(read("W/\"a\""), Ok(Some(Vec::new())));
        assert_eq!(read("a"), Err("invalid_value"));
    }
}
