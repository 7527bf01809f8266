//! Usage that an answer tells in its headers.

use http::HeaderMap;
use millgate_types::Usage;

/// The counts of Bedrock's InvokeModel, whose bodies often have none (`contracts/providers.md` 1.6).
#[must_use]
pub fn counted(headers: &HeaderMap) -> Option<Usage> {
    let count = |name: &str| {
        let text = headers.get(format!("x-amzn-bedrock-{name}-token-count"))?.to_str().ok()?;
        text.parse::<u64>().ok().filter(|count| *count <= 1_000_000_000)
    };
    Some(Usage {
        input: count("input")?,
        output: count("output").unwrap_or(0),
        cache_read: count("cache-read-input").unwrap_or(0),
        cache_write: count("cache-write-input").unwrap_or(0),
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn counts_are_read_and_not_believed_beyond_reason() {
        let mut headers = HeaderMap::new();
        assert_eq!(counted(&headers), None);
        headers.insert("x-amzn-bedrock-input-token-count", HeaderValue::from_static("7"));
        headers.insert("x-amzn-bedrock-cache-read-input-token-count", HeaderValue::from_static("3"));
        assert_eq!(counted(&headers), Some(Usage { input: 7, cache_read: 3, ..Usage::default() }));
        headers.insert("x-amzn-bedrock-input-token-count", HeaderValue::from_static("-7"));
        assert_eq!(counted(&headers), None);
    }
}
