//! Records by HTTP: some at a time, a line each, signed. A delivery that fails is tried again with growing pauses.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use millgate_types::hex;
use reqwest::{Client, StatusCode};
use tokio::runtime::Runtime;

use super::{Deliver, Line, Patience};

/// How long one delivery may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause, doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// Tries of one delivery: some minutes.
const ATTEMPTS: u32 = 12;

/// A receiver.
#[derive(Clone)]
pub struct Webhook {
    /// Where to post.
    pub url: String,
    /// What deliveries are signed with.
    pub secret: String,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}

pub(super) struct Deliveries {
    url: String,
    key: hmac::Key,
    client: Client,
    runtime: Runtime,
}

impl Deliveries {
    pub(super) fn open(webhook: Webhook) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut client =
            Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).no_proxy();
        if webhook.url.starts_with("http://") {
            // Without TLS no certificate store need be read, and slim machines have none.
            client = client.tls_certs_only(std::iter::empty::<reqwest::Certificate>());
        }
        let client = client.build().map_err(io::Error::other)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, webhook.secret.as_bytes());
        Ok(Self { url: webhook.url, key, client, runtime })
    }

    /// `Ok(false)`: it makes no sense to try this again.
    fn post(&self, id: &str, body: &[u8]) -> Result<bool, ()> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string();
        let signed = [id.as_bytes(), b".", at.as_bytes(), b".", body].concat();
        let signature = BASE64.encode(hmac::sign(&self.key, &signed));
        let request = self
            .client
            .post(&self.url)
            .header("content-type", "application/x-ndjson")
            .header("x-millgate-delivery-id", id)
            .header("x-millgate-timestamp", at)
            .header("x-millgate-signature", format!("v1,{signature}"))
            .body(body.to_vec());
        let status = self.runtime.block_on(async { request.send().await }).map_err(drop)?.status();
        let again = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        match status {
            status if status.is_success() => Ok(true),
            status if status.is_client_error() && !again => Ok(false),
            _ => Err(()),
        }
    }
}

impl Deliver for Deliveries {
    fn deliver(&mut self, lines: &[Line], patience: &Patience) -> u64 {
        let mut body = Vec::new();
        for line in lines {
            body.extend_from_slice(line);
            body.push(b'\n');
        }
        let mut id = [0; 16];
        let _random = rand::fill(&mut id);
        // The same for every try: a receiver can tell that it had this.
        let id = hex(&id);
        let mut pause = PAUSE;
        for _ in 0..ATTEMPTS {
            match self.post(&id, &body) {
                Ok(true) => return 0,
                Err(()) if patience.pause(pause) => {}
                Ok(false) | Err(()) => break,
            }
            pause = (pause * 2).min(LONGEST);
        }
        lines.len() as u64
    }

    fn batch(&self) -> usize {
        500
    }
}
