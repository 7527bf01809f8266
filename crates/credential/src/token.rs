//! Calls of token endpoints. No redirects, no proxies; answers and time are bounded, and what an endpoint says
//! is redacted before it is kept.

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::HeaderValue;
use millgate_dialect::redact;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::cache::Fetched;
use crate::failure::Failure;

/// The largest answer of a token endpoint, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
/// The life of a token that comes without one, as OAuth recommends no value and an hour is usual.
const USUAL_LIFE: u64 = 3600;

/// A client for one address.
pub(crate) fn client(url: &Url) -> Result<Client, String> {
    // Harmless when the binary has installed the same provider already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(10));
    if url.scheme() == "http" {
        // Without TLS no certificate store need be read, and slim machines have none.
        builder = builder.tls_certs_only(std::iter::empty::<reqwest::Certificate>());
    }
    builder.build().map_err(|error| format!("no HTTP client: {error}"))
}

/// An address that tokens are asked for at.
pub(crate) fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("the token endpoint is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("the token endpoint is not an `https://` URL".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into the URL of a token endpoint".to_owned());
    }
    Ok(url)
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    expires_in: Option<Value>,
}

/// Hides the token from `Debug`.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// A request with a form.
pub(crate) fn post(client: &Client, url: Url, form: &[(&str, &str)]) -> RequestBuilder {
    let body = Serializer::new(String::new()).extend_pairs(form).finish();
    client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
}

/// Sends a request for a token and makes the header that carries it.
pub(crate) async fn fetch(request: RequestBuilder) -> Result<Fetched<HeaderValue>, Failure> {
    let answer = request.send().await.map_err(|error| Failure::unreachable(reason(error)))?;
    let status = answer.status();
    let mut body = Vec::new();
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Failure::unreachable(reason(error)))?;
        if body.len() + chunk.len() > ANSWER_LIMIT {
            return Err(Failure::unreachable("its answer is too large"));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return read(&body);
    }
    let text = format!("status {}{}", status.as_u16(), said(&body));
    if status.is_client_error() && !matches!(status.as_u16(), 404 | 408 | 425 | 429) {
        return Err(Failure::Refused(text));
    }
    Err(Failure::unreachable(text))
}

fn read(body: &[u8]) -> Result<Fetched<HeaderValue>, Failure> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| Failure::unreachable("its answer holds no access token"))?;
    let seconds = match &answer.expires_in {
        Some(Value::Number(number)) => number.as_f64().map(|seconds| seconds.max(0.0) as u64),
        // Microsoft's older endpoints write it as text.
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", answer.access_token))
        .map_err(|_| Failure::unreachable("its token cannot stand in a header"))?;
    value.set_sensitive(true);
    if seconds == Some(0) {
        return Err(Failure::unreachable("its token has expired already"));
    }
    let life = Duration::from_secs(seconds.unwrap_or(USUAL_LIFE).min(30 * 86_400));
    Ok(Fetched { value, life: Some(life) })
}

/// The words of an OAuth error, `{"error", "error_description"}`.
fn said(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |key: &str| value.get(key).and_then(Value::as_str).map(redact);
    let words = [word("error"), word("error_description")].into_iter().flatten();
    words.flat_map(|text| [", ".to_owned(), text]).collect()
}

/// The innermost cause, without the address.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_never_shown() {
        let fetched =
            read(br#"{"access_token":"ya29.secret","expires_in":3599,"token_type":"Bearer"}"#).unwrap();
        assert_eq!(fetched.value, "Bearer ya29.secret");
        assert!(!format!("{:?}", fetched.value).contains("secret"));
        assert_eq!(fetched.life, Some(Duration::from_secs(3599)));
        assert_eq!(
            read(br#"{"access_token":"a","expires_in":"60"}"#).unwrap().life,
            Some(Duration::from_secs(60))
        );
        assert_eq!(read(br#"{"access_token":"a"}"#).unwrap().life, Some(Duration::from_secs(3600)));
        for bad in [
            &b"<html>"[..],
            b"{}",
            b"{\"access_token\":\"a\",\"expires_in\":0}",
            b"{\"access_token\":\"a\",\"expires_in\":-5}",
            b"{\"access_token\":\"a\\nb\"}",
            b"{\"access_token\":7}",
        ] {
            assert!(read(bad).is_err());
        }
    }

    #[test]
    fn what_an_endpoint_says_is_redacted() {
        let text =
            said(br#"{"error":"invalid_client","error_description":"bad secret sk-abcdefgh12345678 given"}"#);
        assert_eq!(text, ", invalid_client, bad secret [redacted] given");
        assert_eq!(said(b"<html>"), "");
    }

    #[test]
    fn token_endpoints_are_checked() {
        assert!(endpoint("https://login.example/token").is_ok());
        for bad in ["file:///etc/passwd", "login", "https://user:secret@host/token"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
