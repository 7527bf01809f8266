//! The keys of an issuer: read at start, looked at again now and then, and at once when a token names one that is not
//! known. However many wait, one fetch runs.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use millgate_identity::KeySet;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::watch;
use url::Url;

use super::fetch;

/// Keys are fetched anew after this.
const RENEW: Duration = Duration::from_mins(10);
/// Keys are used this long while the issuer does not answer.
const OLDEST: Duration = Duration::from_hours(24);
/// The pause before a failed fetch is tried again: with keys, and without any.
const PAUSE: Duration = Duration::from_secs(30);
const URGENT: Duration = Duration::from_secs(3);
/// Unknown keys make us ask once in this time, for all callers together.
const QUIET: Duration = Duration::from_secs(30);
/// A request waits this long for keys.
const WAIT: Duration = Duration::from_secs(5);

/// What a provider's discovery document says.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    jwks_uri: String,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: Option<String>,
}

struct Held {
    keys: Arc<KeySet>,
    since: Instant,
}

/// One issuer's keys.
pub(crate) struct Source {
    name: String,
    issuer: Url,
    written: String,
    jwks_uri: Option<Url>,
    client: reqwest::Client,
    handle: Handle,
    held: ArcSwapOption<Held>,
    metadata: ArcSwapOption<Metadata>,
    pace: Mutex<Pace>,
    /// Fetches that ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct Pace {
    running: bool,
    /// When a token made us ask the last time.
    asked: Option<Instant>,
}

impl Pace {
    /// Whether a token with an unknown key may start a fetch now.
    fn may_ask(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= QUIET)
    }
}

impl Source {
    /// Starts to fetch at once, on `handle`.
    pub(super) fn open(
        name: &str,
        issuer: &str,
        jwks_uri: Option<&str>,
        handle: &Handle,
    ) -> Result<Arc<Self>, String> {
        let url = Url::parse(issuer).map_err(|error| error.to_string())?;
        let source = Arc::new(Self {
            name: name.to_owned(),
            written: issuer.to_owned(),
            jwks_uri: jwks_uri.map(Url::parse).transpose().map_err(|error| error.to_string())?,
            client: fetch::client(&url)?,
            issuer: url,
            handle: handle.clone(),
            held: ArcSwapOption::empty(),
            metadata: ArcSwapOption::empty(),
            pace: Mutex::default(),
            ended: watch::Sender::new(0),
        });
        handle.spawn(keep(Arc::downgrade(&source)));
        Ok(source)
    }

    pub(super) fn is(&self, issuer: &str, jwks_uri: Option<&str>) -> bool {
        self.written == issuer
            && match (&self.jwks_uri, jwks_uri) {
                (Some(own), Some(other)) => Url::parse(other).is_ok_and(|other| *own == other),
                (None, None) => true,
                _ => false,
            }
    }

    /// The keys, unless they are too old.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        let held = self.held.load();
        held.as_ref().filter(|held| held.since.elapsed() < OLDEST).map(|held| Arc::clone(&held.keys))
    }

    /// Waits for keys that are newer than those that the caller has `seen`. `false`: there are none to be had now.
    pub(super) async fn refresh(self: &Arc<Self>, seen: Option<Instant>) -> bool {
        let mut ended = self.ended.subscribe();
        let before = *ended.borrow_and_update();
        {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            if !pace.running {
                // They may have come since the caller looked.
                if self.since() != seen {
                    return true;
                }
                if !pace.may_ask(Instant::now()) {
                    return false;
                }
                pace.asked = Some(Instant::now());
                pace.running = true;
                self.handle.spawn(fetch_once(Arc::clone(self)));
            }
        }
        let wait =
            tokio::time::timeout(WAIT, async { ended.wait_for(|count| *count > before).await.is_ok() });
        wait.await == Ok(true) && self.since() != seen
    }

    /// When the known keys came.
    pub(super) fn since(&self) -> Option<Instant> {
        self.held.load().as_ref().map(|held| held.since)
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let jwks_uri = match &self.jwks_uri {
            Some(uri) => uri.clone(),
            None => {
                let metadata = self.describe().await?;
                let place = fetch::address(&metadata.jwks_uri, &self.issuer)?;
                self.metadata.store(Some(Arc::new(metadata)));
                place
            }
        };
        let document = fetch::bytes(self.client.get(jwks_uri)).await?;
        KeySet::read(&document).map_err(|error| error.to_string())
    }

    /// What the provider says of itself, as far as it was asked already.
    pub(super) fn described(&self) -> Option<Arc<Metadata>> {
        self.metadata.load_full()
    }

    /// The issuer's address.
    pub(super) fn url(&self) -> &Url {
        &self.issuer
    }

    async fn describe(&self) -> Result<Metadata, String> {
        let place = format!("{}/.well-known/openid-configuration", self.written.trim_end_matches('/'));
        let metadata: Metadata = fetch::json(self.client.get(place)).await?;
        if metadata.issuer != self.written {
            return Err("its discovery document is that of another issuer".to_owned());
        }
        Ok(metadata)
    }

    fn claim(&self) -> bool {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        !std::mem::replace(&mut pace.running, true)
    }
}

/// Fetches; whoever calls it has claimed the turn.
async fn fetch_once(source: Arc<Source>) {
    // Also where the fetch is dropped half way.
    struct Turn(Arc<Source>);
    impl Drop for Turn {
        fn drop(&mut self) {
            self.0.pace.lock().unwrap_or_else(PoisonError::into_inner).running = false;
            self.0.ended.send_modify(|count| *count += 1);
        }
    }
    let turn = Turn(source);
    let source = &turn.0;
    match source.fetch().await {
        Ok(keys) => {
            tracing::debug!(issuer = source.name, ?keys, "the issuer's keys");
            source.held.store(Some(Arc::new(Held { keys: Arc::new(keys), since: Instant::now() })));
        }
        Err(reason) => tracing::warn!(
            issuer = source.name,
            reason,
            known = source.keys().is_some(),
            "the issuer's keys cannot be fetched"
        ),
    }
}

/// Keeps the keys fresh as long as somebody holds the source.
async fn keep(source: Weak<Source>) {
    loop {
        let Some(held) = source.upgrade() else { return };
        let before = held.since();
        if held.claim() {
            fetch_once(Arc::clone(&held)).await;
        }
        let pause = match held.since() {
            None => URGENT,
            now if now == before => PAUSE,
            _ => RENEW,
        };
        drop(held);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_make_us_ask_once_in_a_while() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert!(pace.may_ask(start));
        pace.asked = Some(start);
        assert!(!pace.may_ask(start) && !pace.may_ask(start + QUIET / 2));
        assert!(pace.may_ask(start + QUIET));
    }
}
