//! Tokens that say nothing by themselves: the provider is asked (RFC 7662). An answer is used for a while, also a no;
//! however many requests bring a token, it is asked about once at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millgate_config::{IntrospectionConfig, Secret};
use millgate_identity::{Mapping, MappingConfig, Person};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::{Refused, fetch, rules};

/// Questions that run at one time.
const AT_ONCE: usize = 32;
/// A request waits this long for an answer.
const WAIT: Duration = Duration::from_secs(5);
/// How long an answer can be found where it was asked for.
const LINGER: Duration = Duration::from_millis(100);
/// A no is believed this long, or as long as `cache` where that is shorter.
const NO_FOR: Duration = Duration::from_secs(10);
/// Noes that are remembered.
const MOST_NOES: usize = 4096;
/// Our own keys are nobody else's business.
const OUR_PREFIX: &[u8] = b"mgk-";

type Digest = [u8; 32];
/// Who holds the token, and until when that is believed.
type Found = Result<(Person, i64), Refused>;
type Outcome = watch::Receiver<Option<Found>>;

/// The endpoint, and what is known from it.
pub(super) struct Introspection {
    inner: Arc<Inner>,
    handle: Handle,
}

struct Inner {
    url: Url,
    client: reqwest::Client,
    client_id: String,
    client_secret: Secret,
    audience: Vec<String>,
    cache_ms: i64,
    mapping: Mapping,
    turns: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asking: HashMap<Digest, Outcome>,
    noes: HashMap<Digest, Instant>,
}

impl Introspection {
    pub(super) fn open(written: &IntrospectionConfig, handle: &Handle) -> Result<Self, String> {
        let fail = |error: String| format!("access.introspection: {error}");
        let url = Url::parse(written.url.as_str()).map_err(|error| fail(error.to_string()))?;
        let mapping = MappingConfig {
            user: written.user.clone(),
            team: written.team.clone(),
            app: written.app.clone(),
            organization: written.organization.clone(),
            roles: rules(&written.roles),
        };
        let inner = Inner {
            client: fetch::client(&url).map_err(fail)?,
            url,
            client_id: written.client_id.as_str().to_owned(),
            client_secret: written.client_secret.clone(),
            audience: written.audience.clone(),
            cache_ms: i64::try_from(written.cache.0.as_millis()).unwrap_or(i64::MAX),
            mapping: Mapping::compile(&mapping, &["claims"]).map_err(fail)?,
            turns: Semaphore::new(AT_ONCE),
            state: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner), handle: handle.clone() })
    }

    /// Who holds the token, and until when that is believed.
    pub(super) async fn ask(&self, token: &[u8], digest: Digest, now_ms: i64) -> Found {
        let printable = token.iter().all(u8::is_ascii_graphic);
        if token.is_empty() || !printable || token.starts_with(OUR_PREFIX) {
            return Err("no such key");
        }
        let mut outcome = {
            let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.noes.get(&digest).is_some_and(|until| Instant::now() < *until) {
                return Err("the token was not good a moment ago");
            }
            match state.asking.get(&digest) {
                Some(outcome) => outcome.clone(),
                None => {
                    let (tell, outcome) = watch::channel(None);
                    state.asking.insert(digest, outcome.clone());
                    let (inner, token) = (Arc::clone(&self.inner), token.to_vec());
                    self.handle.spawn(async move {
                        let found = inner.question(&token, now_ms).await;
                        inner.told(digest, &found);
                        let _nobody_waits = tell.send(Some(found));
                        // Who looked before those who waited have noted the answer finds it here.
                        tokio::time::sleep(LINGER).await;
                        inner.forget(&digest);
                    });
                    outcome
                }
            }
        };
        let told = tokio::time::timeout(WAIT, outcome.wait_for(Option::is_some));
        match told.await {
            Ok(Ok(found)) => found.clone().unwrap_or(Err("the introspection broke off")),
            _ => Err("the introspection endpoint did not answer in time"),
        }
    }
}

impl Inner {
    fn told(&self, digest: Digest, found: &Found) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *found == Err(NOT_ACTIVE) {
            let now = Instant::now();
            if state.noes.len() >= MOST_NOES {
                state.noes.retain(|_, until| now < *until);
            }
            if state.noes.len() < MOST_NOES {
                let no_for = NO_FOR.min(Duration::from_millis(self.cache_ms.unsigned_abs()));
                state.noes.insert(digest, now + no_for);
            }
        }
    }

    fn forget(&self, digest: &Digest) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).asking.remove(digest);
    }

    async fn question(&self, token: &[u8], now_ms: i64) -> Found {
        let _turn = self.turns.acquire().await.map_err(|_| "the gateway shuts down")?;
        let token = String::from_utf8_lossy(token);
        let form = Serializer::new(String::new())
            .append_pair("token", &token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        // RFC 6749, 2.3.1: both are encoded as in a form before they are joined.
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let request = self
            .client
            .post(self.url.clone())
            .basic_auth(encoded(&self.client_id), Some(encoded(self.client_secret.expose())))
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(http::header::ACCEPT, "application/json")
            .body(form);
        match fetch::json::<Value>(request).await {
            Ok(answer) => self.read(&answer, now_ms),
            Err(reason) => {
                tracing::warn!(reason, "tokens cannot be asked about");
                Err("the introspection endpoint gave no answer")
            }
        }
    }

    fn read(&self, answer: &Value, now_ms: i64) -> Found {
        if answer.get("active") != Some(&Value::Bool(true)) {
            return Err(NOT_ACTIVE);
        }
        let number =
            |name: &str| answer.get(name).and_then(Value::as_f64).map(|seconds| (seconds * 1000.0) as i64);
        let expires = number("exp").unwrap_or(i64::MAX);
        if now_ms >= expires || number("nbf").is_some_and(|from| from > now_ms) {
            return Err(NOT_ACTIVE);
        }
        let ours =
            |name: &Value| name.as_str().is_some_and(|name| self.audience.iter().any(|own| own == name));
        let named = match answer.get("aud") {
            _ if self.audience.is_empty() => true,
            Some(Value::Array(names)) => names.iter().any(ours),
            Some(name) => ours(name),
            None => false,
        };
        if !named {
            return Err("the token is for another audience");
        }
        let person = self.mapping.person(answer).ok_or("the token names no user")?;
        Ok((person, expires.min(now_ms.saturating_add(self.cache_ms))))
    }
}

const NOT_ACTIVE: Refused = "the token is not active";
