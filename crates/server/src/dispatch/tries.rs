//! One target of a provider: its keys, each once, and the tries that its retries allow. A try that was answered with
//! anything, or whose answer has begun, is never made again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use millgate_types::{Fault, Operation, Retry};

use super::{llm, remote};
use crate::admit;
use crate::flight::Flight;
use crate::limits::Rule;
use crate::pipeline::{Decoded, Planned};
use crate::reply::Reply;
use crate::snapshot::known::Known;
use crate::snapshot::{Provider, Snapshot, Transport};
use crate::standing::{After, Lease, Places, Wanted};

/// The longest pause before the first retry, where the provider names none; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a prompt to a token, about.
const BYTES_PER_TOKEN: u64 = 4;

/// A target of a provider, to be tried.
pub(super) struct Tries<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) planned: &'a Planned,
    /// The target's name.
    pub(super) target: &'a str,
    pub(super) provider: &'a Provider,
    pub(super) model: &'a str,
    pub(super) known: &'a Known,
    pub(super) head: &'a Parts,
    /// The plan has a next target.
    pub(super) spare: bool,
}

impl Tries<'_> {
    /// Answers the call, or gives the fault of the last try.
    pub(super) async fn run(&self, call: &mut llm::Translated, flight: &mut Flight) -> Result<Reply, Fault> {
        let provider = self.provider;
        if !matches!(provider.transport, Transport::Http(_)) {
            self.within(&provider.rules, flight).await?;
            return self.once(None, call, flight).await;
        }
        let standing = &*self.provider.standing;
        standing.begin();
        let began = Instant::now();
        let gateway = Arc::clone(flight.gateway());
        let mut passed = Places::default();
        let mut last: Option<Fault> = None;
        let (mut tried, mut retries) = (0, 0);
        loop {
            let held = flight.held();
            let now = if tried == 0 { began } else { Instant::now() };
            let wanted = Wanted {
                model: self.model,
                tokens: about(&self.planned.call),
                spare: self.spare,
                in_order: false,
                now: gateway.millis_at(now),
            };
            let lease = match standing.lease(&gateway, &wanted, passed) {
                Ok(lease) => lease,
                Err(none) => {
                    if tried == 0 {
                        flight.record().attempts -= 1;
                    }
                    // What really happened says more.
                    return Err(last.unwrap_or(none));
                }
            };
            // Each try is a request that the provider counts.
            if let Err(fault) = self.within(&lease.key().rules, flight).await {
                passed.add(lease.place);
                last.get_or_insert(fault);
                continue;
            }
            if tried > 0 {
                flight.record().attempts += 1;
            }
            tried += 1;
            let mut fault = match self.once(Some(&lease), call, flight).await {
                Ok(reply) => {
                    lease.answered();
                    return Ok(reply);
                }
                Err(fault) => fault,
            };
            flight.let_go(held);
            let place = lease.place;
            let after = lease.failed(&fault);
            if after == After::OtherKey {
                passed.add(place);
                // The key that is back first counts.
                if let Some(before) = last.filter(|before| before.code == fault.code) {
                    fault.retry_after = [before.retry_after, fault.retry_after].into_iter().flatten().min();
                }
                last = Some(fault);
                continue;
            }
            let Some(pause) = self.pause(&fault, after, retries, began) else { return Err(fault) };
            if !standing.retry(&gateway) {
                return Err(fault);
            }
            tracing::debug!(provider = %self.provider.name, %fault, ?pause, "trying again");
            tokio::time::sleep(pause).await;
            retries += 1;
            last = Some(fault);
        }
    }

    /// Admits a try to what a provider, or one of its keys, allows.
    async fn within(&self, rules: &[Rule], flight: &mut Flight) -> Result<(), Fault> {
        if rules.is_empty() {
            return Ok(());
        }
        Box::pin(admit::provider(rules, self.target, self.planned, self.known, flight)).await
    }

    /// One call to the provider.
    async fn once(
        &self,
        lease: Option<&Lease<'_>>,
        call: &mut llm::Translated,
        flight: &mut Flight,
    ) -> Result<Reply, Fault> {
        let Self { planned, provider, model, known, head, .. } = *self;
        let max_answer = self.snapshot.max_answer;
        if planned.call.facts.is_none() {
            let remote = remote::Remote { planned, provider, model, lease, head, max_answer };
            return Box::pin(remote.predict(flight)).await;
        }
        let heartbeat = self.snapshot.heartbeat;
        let attempt = llm::Attempt { planned, provider, model, known, lease, head, max_answer, heartbeat };
        attempt.run(call, flight).await
    }

    /// How long to wait before the call is tried again; `None`: it is not.
    fn pause(&self, fault: &Fault, after: After, retries: u32, began: Instant) -> Option<Duration> {
        let settings = &self.provider.standing.retries;
        // Another target is better than another try.
        if self.spare || retries >= settings.attempts {
            return None;
        }
        let (Retry::SameTarget(said), After::Again(earliest)) = (fault.retry, after) else { return None };
        let status = fault.upstream_status;
        if status.is_some_and(|status| status < 500 && ![408, 429].contains(&status)) {
            return None;
        }
        let said = said.unwrap_or_default().max(earliest);
        if said > settings.max_wait.0 {
            return None;
        }
        let random = |most: Duration| most.mul_f64(fastrand::f64());
        let pause = if said.is_zero() {
            random(FIRST_PAUSE.saturating_mul(1 << retries.min(8)).min(settings.max_wait.0))
        } else {
            // Those that were told the same time do not come back together; and clocks are in whole milliseconds.
            said + random(FIRST_PAUSE) + Duration::from_millis(2)
        };
        (began.elapsed() + pause < self.provider.deadlines.total).then_some(pause)
    }
}

/// Tokens that a call is about to use, for what providers say is left. Providers count as roughly.
fn about(call: &Decoded) -> u64 {
    let Some(facts) = &call.facts else { return 0 };
    let writes = matches!(call.operation, Operation::Chat | Operation::Completions);
    let output = if writes { facts.most.unwrap_or(0).saturating_mul(facts.answers.max(1)) } else { 0 };
    (call.body.len() as u64 / BYTES_PER_TOKEN).saturating_add(output)
}
