//! Calls of identity providers: no redirects, no proxies, bounded in time and size. For the control runtime.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::{Client, RequestBuilder};
use serde::de::DeserializeOwned;
use url::{Host, Url};

/// The largest answer, in bytes.
const LARGEST: usize = 256 << 10;
/// Time for a whole call.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A client for one provider.
pub(super) fn client(url: &Url) -> Result<Client, String> {
    let mut builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .timeout(PATIENCE);
    if url.scheme() == "http" {
        // Without TLS no certificate store need be read, and slim machines have none.
        builder = builder.tls_certs_only(std::iter::empty::<reqwest::Certificate>());
    }
    builder.build().map_err(|error| format!("no HTTP client: {error}"))
}

/// An address that a provider's own document names; `like` is the provider's.
pub(super) fn address(text: &str, like: &Url) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "its document names an address that is none".to_owned())?;
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if here && like.scheme() == "http" => Ok(url),
        _ => Err("its document names an address without TLS".to_owned()),
    }
}

/// Sends a request and gives the body of a good answer. The error holds no address and no secret.
pub(super) async fn bytes(request: RequestBuilder) -> Result<Vec<u8>, String> {
    let answer = request.send().await.map_err(reason)?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("status {}", status.as_u16()));
    }
    if answer.content_length().is_some_and(|length| length > LARGEST as u64) {
        return Err("its answer is too large".to_owned());
    }
    let mut body = Vec::new();
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(reason)?;
        if body.len() + chunk.len() > LARGEST {
            return Err("its answer is too large".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The same, read as JSON.
pub(super) async fn json<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, String> {
    let body = bytes(request).await?;
    serde_json::from_slice(&body).map_err(|_| "its answer is not the JSON that was expected".to_owned())
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
