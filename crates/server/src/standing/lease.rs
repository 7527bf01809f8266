//! The right to send one call with one key, and what its end says of both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use millgate_policy::health::{BreakerState, Left, Millis, Passage, Reason, Told};
use millgate_provider::Remaining;
use millgate_types::{Fault, Retry, Source};

use super::{Key, Standing};
use crate::Gateway;

/// The right to send one call with one key.
pub(crate) struct Lease<'a> {
    pub(super) standing: &'a Standing,
    pub(super) gateway: &'a Gateway,
    pub(super) model: &'a str,
    pub(crate) place: usize,
    pub(super) passage: Option<Passage>,
    /// The provider said something: not every call needs it.
    pub(super) heard: AtomicBool,
}

/// What may be done about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Another key may do better.
    OtherKey,
    /// The same again, but not before this time.
    Again(Duration),
    /// Nothing is sent to the provider now.
    Nothing,
}

/// What a failed call says of where it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// Nothing: it was never sent, or our own side failed.
    Nobody,
    /// It answered, though not as wished.
    Answered,
    /// The key was not taken.
    Key(Reason),
    /// It did not answer, or not properly.
    Upstream,
}

impl Lease<'_> {
    /// The key.
    pub(crate) fn key(&self) -> &Key {
        &self.standing.keys[self.place]
    }

    /// Notes that the provider answers, and what it says is left of its limits.
    pub(crate) fn learn(&self, headers: &HeaderMap) {
        self.heard.store(true, Ordering::Relaxed);
        if !self.standing.paced {
            return;
        }
        let (requests, tokens) = millgate_provider::remaining(headers);
        if requests.is_none() && tokens.is_none() {
            return;
        }
        let left = |said: Remaining| Left { left: said.left, limit: said.limit, reset: said.reset };
        let told = Told { requests: requests.map(left), tokens: tokens.map(left) };
        self.key().state.told(self.model, &told, self.gateway.millis());
    }

    /// The call was answered.
    pub(crate) fn answered(mut self) {
        if !self.heard.load(Ordering::Relaxed) {
            return;
        }
        let now = self.gateway.millis();
        self.key().state.taken(self.model, now);
        self.upstream_answered();
    }

    fn upstream_answered(&mut self) {
        if let Some(passage) = self.passage.take()
            && self.standing.lasting.breaker.answered(passage)
        {
            tracing::info!(provider = %self.standing.provider, "the provider answers again");
        }
    }

    /// The call failed: notes what that says of the key and of the provider.
    pub(crate) fn failed(mut self, fault: &Fault) -> After {
        let now = self.gateway.millis();
        let standing = self.standing;
        match blame(fault) {
            Blame::Nobody => After::Again(Duration::ZERO),
            Blame::Answered => {
                self.key().state.taken(self.model, now);
                self.upstream_answered();
                After::Again(Duration::ZERO)
            }
            Blame::Key(reason) => {
                self.upstream_answered();
                // Of its own API a provider may keep parts from a key that is good for the rest.
                let partly = self.model.is_empty() && reason == Reason::Refused;
                let reason = if partly { Reason::Forbidden } else { reason };
                self.set_aside(reason, fault, now);
                if standing.keys.len() > 1 {
                    return After::OtherKey;
                }
                let aside = self.key().state.take(self.model, 0, false, now);
                After::Again(aside.err().map_or(Duration::ZERO, |(wait, _)| wait))
            }
            Blame::Upstream => {
                if let Some((settings, passage)) = standing.breaker.zip(self.passage.take())
                    && let Some(pause) =
                        standing.lasting.breaker.failed(passage, now, &settings, fastrand::f64())
                {
                    standing.opened(self.gateway, pause, fault);
                }
                match standing.breaker(now) {
                    Some((BreakerState::Open, ..)) => After::Nothing,
                    _ => After::Again(Duration::ZERO),
                }
            }
        }
    }

    fn set_aside(&self, reason: Reason, fault: &Fault, now: Millis) {
        let standing = self.standing;
        let of_rate = matches!(reason, Reason::RateLimited | Reason::Paced);
        let watched = if of_rate { standing.paced } else { standing.breaker.is_some() && standing.fixed };
        if !watched {
            return;
        }
        let said = fault.retry_after.filter(|_| of_rate);
        let Some(pause) = self.key().state.refused(self.model, reason, said, now) else { return };
        self.gateway.metrics.set_aside(&standing.provider, &self.key().name, reason.name());
        let (provider, key, seconds) = (&standing.provider, &self.key().name, pause.as_secs_f64());
        if of_rate {
            tracing::debug!(%provider, %key, model = self.model, seconds, "a key is over its rate");
        } else {
            let reason = reason.name();
            tracing::warn!(%provider, %key, reason, seconds, "a key is set aside");
        }
    }
}

impl Standing {
    fn opened(&self, gateway: &Gateway, pause: Duration, fault: &Fault) {
        gateway.metrics.breaker_opened(&self.provider);
        let seconds = pause.as_secs_f64();
        tracing::warn!(provider = %self.provider, %fault, seconds, "the provider is not called for a while");
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Nobody waited for the end.
        if let Some(passage) = self.passage.take() {
            self.standing.lasting.breaker.let_go(passage);
        }
    }
}

fn blame(fault: &Fault) -> Blame {
    if fault.source != Source::Upstream {
        return Blame::Nobody;
    }
    let status = fault.upstream_status;
    match fault.code.name {
        // Our own side could not get a credential.
        "upstream_auth" if status.is_none() => Blame::Nobody,
        "upstream_auth" if status == Some(403) => Blame::Key(Reason::Forbidden),
        "upstream_auth" => Blame::Key(Reason::Refused),
        "upstream_quota" => Blame::Key(Reason::Quota),
        // Too large for the limit by itself, or of another kind: waiting changes nothing.
        "upstream_rate_limited" if fault.retry == Retry::NextTarget && fault.retry_after.is_none() => {
            Blame::Answered
        }
        "upstream_rate_limited" => Blame::Key(Reason::RateLimited),
        "upstream_timeout" | "upstream_overloaded" | "stream_interrupted" => Blame::Upstream,
        "upstream_error" if status.is_none_or(|status| !(300..500).contains(&status)) => Blame::Upstream,
        _ => Blame::Answered,
    }
}
