//! How a provider stands: its keys with what is noted of each, its breaker, its retry budget. States stay when a
//! configuration is read again; a call takes a [`Lease`] and gives back what it learned.

mod lease;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use millgate_config::{Pacing, ProviderConfig, RetriesConfig};
use millgate_policy::health::{Breaker, BreakerSettings, BreakerState, Budget, Millis, Reason, Spare};
use millgate_types::{Fault, Retry, Source, code};
use sha2::{Digest, Sha256};

pub(crate) use lease::{After, Lease};

use crate::Gateway;
use crate::limits::Rule;
use crate::snapshot::Snapshot;

/// What outlives a snapshot.
#[derive(Debug, Default)]
struct Lasting {
    breaker: Breaker,
    retries: Budget,
    /// Calls so far, for taking turns.
    turns: AtomicU64,
}

/// A key as one snapshot knows it.
pub(crate) struct Key {
    /// As the configuration calls it; never the key itself.
    pub(crate) name: Arc<str>,
    weight: u64,
    /// What proves us, where the provider's headers do not.
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
    /// What the provider allows altogether, and with it.
    pub(crate) rules: Arc<[Rule]>,
    state: Arc<Spare>,
}

/// How a provider stands.
pub(crate) struct Standing {
    provider: Arc<str>,
    /// At least one; a provider without a key has one that is empty.
    pub(crate) keys: Box<[Key]>,
    weights: u64,
    /// `None`: every call is sent.
    breaker: Option<BreakerSettings>,
    pub(crate) retries: RetriesConfig,
    paced: bool,
    /// A key can be refused: it is no token that renews itself.
    fixed: bool,
    lasting: Arc<Lasting>,
}

/// What tells a provider's states apart: other addresses begin anew.
type Place = (String, Option<String>);
/// The states of one provider.
struct Kept {
    place: Place,
    lasting: Arc<Lasting>,
    keys: HashMap<[u8; 32], Arc<Spare>>,
}

/// The states of all providers, from one snapshot to the next.
#[derive(Default)]
pub(crate) struct Standings(HashMap<String, Kept>);

/// States that the next snapshot will use, by the provider's name.
pub(crate) struct Coming(String, Kept);

impl Standings {
    /// How a provider stands: as before, where its address and its keys stayed.
    pub(crate) fn open(
        &self,
        name: &Arc<str>,
        written: &ProviderConfig,
        headers: Vec<Option<(HeaderName, HeaderValue)>>,
        fixed: bool,
    ) -> (Standing, Coming) {
        let base = written.base_url.as_ref().map(|base| base.as_str().to_owned());
        let place = (written.kind.clone(), base);
        let before = self.0.get(&**name).filter(|kept| kept.place == place);
        let lasting = before.map(|kept| Arc::clone(&kept.lasting)).unwrap_or_default();
        let mut states = HashMap::new();
        let mut state = |secret: &[u8]| -> Arc<Spare> {
            let digest = <[u8; 32]>::from(Sha256::digest(secret));
            let known = before.and_then(|kept| kept.keys.get(&digest)).cloned().unwrap_or_default();
            states.insert(digest, Arc::clone(&known));
            known
        };
        let mut keys: Vec<Key> = written
            .api_keys
            .iter()
            .enumerate()
            .zip(headers)
            .map(|((number, key), header)| Key {
                name: key.called(number).into(),
                weight: u64::from(key.weight),
                header,
                rules: Arc::default(),
                state: state(key.key.expose().as_bytes()),
            })
            .collect();
        if keys.is_empty() {
            let secret = written.api_key.as_ref().map_or(&b""[..], |key| key.expose().as_bytes());
            let state = state(secret);
            keys.push(Key { name: "1".into(), weight: 1, header: None, rules: Arc::default(), state });
        }
        let settings = written.breaker;
        let standing = Standing {
            provider: Arc::clone(name),
            weights: keys.iter().map(|key| key.weight).sum(),
            keys: keys.into(),
            breaker: settings.enabled.then_some(BreakerSettings {
                failures: settings.failures,
                pause: settings.pause.0,
                longest_pause: settings.max_pause.0,
            }),
            retries: written.retries,
            paced: written.pacing == Pacing::Learned,
            fixed,
            lasting: Arc::clone(&lasting),
        };
        (standing, Coming(name.to_string(), Kept { place, lasting, keys: states }))
    }

    /// Keeps what is in use from now on.
    pub(crate) fn keep(&mut self, coming: Vec<Coming>) {
        self.0 = coming.into_iter().map(|Coming(name, kept)| (name, kept)).collect();
    }
}

/// A call that looks for a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The provider's name of the model; empty for its own API.
    pub(crate) model: &'a str,
    /// Tokens of prompt and answer, about.
    pub(crate) tokens: u64,
    /// There is a next target.
    pub(crate) spare: bool,
    /// Keys are asked in their order, not in turn.
    pub(crate) in_order: bool,
    pub(crate) now: Millis,
}

/// Keys by their places, as bits: a provider has at most 64.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Places(u64);

impl Places {
    pub(crate) fn add(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }
}

impl Standing {
    /// Nothing is known of it and nothing held back: for what is no provider elsewhere.
    pub(crate) fn unwatched() -> Self {
        let key =
            Key { name: "1".into(), weight: 1, header: None, rules: Arc::default(), state: Arc::default() };
        Self {
            provider: "".into(),
            keys: Box::new([key]),
            weights: 1,
            breaker: None,
            retries: RetriesConfig { attempts: 0, ..RetriesConfig::default() },
            paced: false,
            fixed: false,
            lasting: Arc::default(),
        }
    }

    /// Sets what the provider allows with each key.
    pub(crate) fn limited(&mut self, mut rules: impl FnMut(usize, &str) -> Vec<Rule>) {
        for (place, key) in self.keys.iter_mut().enumerate() {
            key.rules = rules(place, &key.name).into();
        }
    }

    /// A call begins: it brings its part of a retry.
    pub(crate) fn begin(&self) {
        if self.retries.attempts > 0 {
            self.lasting.retries.earn(self.retries.budget_percent);
        }
    }

    /// Takes a retry out of the budget.
    pub(crate) fn retry(&self, gateway: &Gateway) -> bool {
        let taken = self.lasting.retries.take();
        if taken {
            gateway.metrics.retried(&self.provider);
        }
        taken
    }

    /// A key to send a call with, but for those `passed` over. Faults: `no_healthy_target` while the breaker is open, that of
    /// the key that is back first where all are set aside.
    pub(crate) fn lease<'a>(
        &'a self,
        gateway: &'a Gateway,
        wanted: &Wanted<'a>,
        passed: Places,
    ) -> Result<Lease<'a>, Fault> {
        let (place, passage) = match self.breaker {
            None => (self.key(wanted, passed)?, None),
            Some(_) => {
                let passage = self.lasting.breaker.pass(wanted.now).map_err(|wait| self.open(wait))?;
                let key = self.key(wanted, passed);
                let key = key.inspect_err(|_| self.lasting.breaker.let_go(passage));
                (key?, Some(passage))
            }
        };
        Ok(Lease {
            standing: self,
            gateway,
            model: wanted.model,
            place,
            passage,
            heard: AtomicBool::new(false),
        })
    }

    fn open(&self, wait: Duration) -> Fault {
        let public = format!("`{}` did not answer lately and is not called now", self.provider);
        Fault::new(code::NO_HEALTHY_TARGET, Source::Gateway, Retry::NextTarget, public).with_retry_after(wait)
    }

    fn key(&self, wanted: &Wanted<'_>, passed: Places) -> Result<usize, Fault> {
        let first = if wanted.in_order || self.keys.len() == 1 { 0 } else { self.turn() };
        let count = self.keys.len();
        let mut soonest: Option<(Duration, Reason)> = None;
        let mut uncertain = None;
        for place in (first..count).chain(0..first).filter(|place| !passed.has(*place)) {
            match self.keys[place].state.take(wanted.model, wanted.tokens, self.paced, wanted.now) {
                Ok(()) => return Ok(place),
                Err((wait, reason)) => {
                    // Of a provider's own API it is not known which part a refusal is of.
                    let partly = wanted.in_order && matches!(reason, Reason::RateLimited | Reason::Forbidden);
                    if reason == Reason::Paced || partly {
                        uncertain.get_or_insert(place);
                    }
                    if soonest.is_none_or(|(known, _)| wait < known) {
                        soonest = Some((wait, reason));
                    }
                }
            }
        }
        // With nowhere else to go the provider decides.
        match uncertain.filter(|_| !wanted.spare) {
            Some(place) => Ok(place),
            None => Err(none_left(soonest)),
        }
    }

    /// The key whose turn it is, by their weights: places of a sequence that is as even as can be.
    fn turn(&self) -> usize {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let turn = self.lasting.turns.fetch_add(1, Ordering::Relaxed).wrapping_mul(GOLDEN);
        let mut point = ((u128::from(turn) * u128::from(self.weights)) >> 64) as u64;
        for (place, key) in self.keys.iter().enumerate() {
            match point.checked_sub(key.weight) {
                Some(rest) => point = rest,
                None => return place,
            }
        }
        0
    }

    /// Calls it again, with all keys.
    pub(crate) fn reset(&self) {
        self.lasting.breaker.reset();
        self.keys.iter().for_each(|key| key.state.forget());
    }

    /// How the breaker stands, for how long nothing is sent, and failures in a row. `None`: there is none.
    pub(crate) fn breaker(&self, now: Millis) -> Option<(BreakerState, Duration, u32)> {
        self.breaker?;
        let (state, wait) = self.lasting.breaker.state(now);
        Some((state, wait, self.lasting.breaker.failures()))
    }
}

impl Key {
    pub(crate) fn state(&self) -> &Spare {
        &self.state
    }

    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }
}

/// Why no key is left.
fn none_left(soonest: Option<(Duration, Reason)>) -> Fault {
    let (code, public) = match soonest {
        Some((_, Reason::RateLimited | Reason::Paced)) => {
            (code::UPSTREAM_RATE_LIMITED, "the provider's rate limit is used up")
        }
        Some((_, Reason::Quota)) => (code::UPSTREAM_QUOTA, "the provider's account has no credit left"),
        Some((_, Reason::Refused | Reason::Forbidden)) => {
            (code::UPSTREAM_AUTH, "the provider refused the gateway's credential")
        }
        None => (code::NO_HEALTHY_TARGET, "no key of the provider is left to call it with"),
    };
    let fault = Fault::upstream(code, Retry::NextTarget, public);
    match soonest {
        Some((wait, _)) => fault.with_retry_after(wait),
        None => fault,
    }
}

/// Says to the metrics how providers and registries stand now.
pub(crate) fn tell(gateway: &Gateway, snapshot: &Snapshot) {
    let (metrics, now) = (&gateway.metrics, gateway.millis());
    metrics.forget_providers();
    for provider in &snapshot.providers {
        let standing = &provider.standing;
        let state = standing.breaker(now).map_or(0, |(state, ..)| match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        });
        metrics.provider_state(&provider.name, state);
        for key in &standing.keys {
            metrics.key_usable(&provider.name, &key.name, key.state.aside(now).is_none());
        }
    }
    let registries = snapshot.deployments.iter().map(|deployment| &deployment.spec().registry);
    metrics.registry_ages(registries.filter_map(|registry| Some((registry.name(), registry.age()?))));
}
