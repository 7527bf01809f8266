//! Providers' own APIs under a path of their own: which provider a path belongs to, and the request target that it
//! means there.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::uri::PathAndQuery;
use millgate_types::{Fault, code};

use crate::limits::Rule;
use crate::snapshot::Provider;

/// Folders of OpenAI's API that are served at OpenAI's own paths too, by the entry named `openai`.
const OPENAI_FOLDERS: [&str; 4] = ["images", "audio", "files", "batches"];
/// Where a credential may stand in a query; what a caller sends there goes no further.
const QUERY_CREDENTIALS: [&str; 5] = ["key", "api_key", "api-key", "access_token", "token"];

/// A provider's own API, as the configuration lets callers at it.
pub(crate) struct Native {
    /// `native/NAME`, for logs, metrics and limits.
    pub(crate) label: Arc<str>,
    /// `PROVIDER/*`.
    pub(crate) target: Arc<str>,
    pub(crate) provider: Arc<Provider>,
    pub(crate) rules: Vec<Rule>,
    /// Largest request body, in bytes.
    pub(crate) max_body: u64,
}

/// The entry that a path belongs to, and what it says behind the entry's name.
pub(crate) fn find<'n, 'p>(
    natives: &'n HashMap<String, Arc<Native>>,
    path: &'p str,
) -> Option<(&'n Arc<Native>, &'p str)> {
    if natives.is_empty() {
        return None;
    }
    let inside = path.strip_prefix('/')?;
    let (first, rest) = inside.split_once('/').unwrap_or((inside, ""));
    if let Some(native) = natives.get(first) {
        return (!rest.is_empty()).then(|| (native, &path[first.len() + 1..]));
    }
    let folder = rest.split('/').next().unwrap_or_default();
    let own = first == "v1" && OPENAI_FOLDERS.contains(&folder);
    own.then(|| natives.get("openai")).flatten().map(|native| (native, path))
}

impl Native {
    /// The request target upstream. Client libraries put the API's version behind the address they are told, so
    /// `/v1/files` and `/files` mean the same where the provider's address ends in a version.
    pub(crate) fn target(&self, path: &str, target: Option<&PathAndQuery>) -> Result<String, Fault> {
        if path.contains("//") {
            return Err(Fault::client(code::BAD_PATH, "the path holds an empty segment"));
        }
        let mut whole = joined(&self.provider.base, path).into_owned();
        let pairs = target.and_then(PathAndQuery::query).unwrap_or_default().split('&');
        let kept = pairs.filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !pair.is_empty() && !QUERY_CREDENTIALS.iter().any(|known| name.eq_ignore_ascii_case(known))
        });
        for (number, pair) in kept.enumerate() {
            whole.push(if number == 0 { '?' } else { '&' });
            whole.push_str(pair);
        }
        Ok(whole)
    }
}

fn joined<'a>(base: &str, path: &'a str) -> Cow<'a, str> {
    let under = path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'));
    if base.is_empty() || under {
        return path.into();
    }
    let (parent, last) = base.rsplit_once('/').unwrap_or_default();
    let first = path[1..].split('/').next().unwrap_or_default();
    if is_version(last) && is_version(first) {
        return format!("{parent}{path}").into();
    }
    format!("{base}{path}").into()
}

/// `v1`, `v1beta`, `v4`.
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_and_without_the_version_mean_the_same() {
        for (base, path, target) in [
            ("/v1", "/v1/files", "/v1/files"),
            ("/v1", "/files", "/v1/files"),
            ("/v1", "/v2/files", "/v2/files"),
            ("/openai/v1", "/v1/models", "/openai/v1/models"),
            ("/openai/v1", "/openai/v1/models", "/openai/v1/models"),
            ("/openai/v1", "/models", "/openai/v1/models"),
            ("/v1beta", "/v1beta/models/m:countTokens", "/v1beta/models/m:countTokens"),
            ("/v1beta", "/v1beta2/x", "/v1beta2/x"),
            ("", "/v2/chat", "/v2/chat"),
            ("/gateway", "/v1/x", "/gateway/v1/x"),
        ] {
            assert_eq!(joined(base, path), target, "{base} {path}");
        }
    }
}
