//! Calls that do not fit a limit now and wait for their turn.

use std::future::poll_fn;
use std::time::Duration;

use millgate_policy::{Amounts, Ask, Place, Refused};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Admission, Allowance, Shorten};
use crate::flight::Flight;

/// How often is looked again where nobody tells that something was given back: at other replicas, or under a configuration
/// that was read since.
const LOOK: Duration = Duration::from_millis(100);

/// How a call left a line.
enum Turn {
    /// Admitted, or refused for good.
    Over(Result<Allowance, Option<Refused>>),
    /// It has to wait for another limit.
    Elsewhere(Refused),
}

/// Whether there may be room before a moment.
fn in_time(refused: &Refused, end: Instant) -> bool {
    refused.retry_after.is_none_or(|wait| Instant::now() + wait <= end)
}

impl Admission<'_> {
    /// A line in which others wait already for what this call wants.
    pub(super) fn line(&self) -> Option<Refused> {
        self.line_beside(&[])
    }

    fn line_beside(&self, passed: &[u64]) -> Option<Refused> {
        let others = |ask: &&Ask| {
            let limit = &ask.limit;
            limit.queue.is_some() && !passed.contains(&limit.cells.number()) && limit.has_line(&ask.label)
        };
        let ask = self.asks.iter().find(others)?;
        Some(Refused::waited(&ask.limit, &ask.label, self.gateway.clock()))
    }

    /// Waits for the limit that refused the call, and for others behind it, as long as the one with the least patience lets it.
    pub(super) async fn wait(
        &self,
        mut refused: Refused,
        amounts: &mut Amounts,
        shorten: &mut Shorten<'_>,
        flight: &mut Flight,
    ) -> Result<Allowance, Option<Refused>> {
        let began = Instant::now();
        let mut deadline = None::<Instant>;
        let mut passed = Vec::new();
        loop {
            let Some(queue) = refused.limit.queue else { return Err(Some(refused)) };
            let patience = began + queue.wait;
            let end = *deadline.insert(deadline.map_or(patience, |before| before.min(patience)));
            if !in_time(&refused, end) {
                return Err(Some(refused));
            }
            let Some(place) = self.place(&refused) else { return Err(Some(refused)) };
            let _counted = self.gateway.metrics.limit_waiting(&refused.limit.name);
            passed.push(refused.limit.cells.number());
            match self.stand((&place, end), refused, &passed, amounts, shorten, flight).await {
                Turn::Over(ended) => {
                    if ended.is_ok() {
                        flight.record().waited = began.elapsed();
                    }
                    return ended;
                }
                Turn::Elsewhere(other) => refused = other,
            }
        }
    }

    /// Stands in one line until the call is admitted, its time is over, or it must wait in another line.
    async fn stand(
        &self,
        (place, end): (&Place, Instant),
        mut refused: Refused,
        passed: &[u64],
        amounts: &mut Amounts,
        shorten: &mut Shorten<'_>,
        flight: &mut Flight,
    ) -> Turn {
        loop {
            let seen = match timeout_at(end, poll_fn(|context| place.poll_turn(None, context))).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(_)) => return Turn::Over(Err(Some(refused))),
                Err(_) => {
                    let late = Refused::waited(place.limit(), place.label(), self.gateway.clock());
                    return Turn::Over(Err(Some(late)));
                }
            };
            if let Some(other) = self.line_beside(passed) {
                return Turn::Elsewhere(other);
            }
            refused = match self.fit(amounts, shorten, flight).await {
                Err(Some(refused)) => refused,
                ended => return Turn::Over(ended),
            };
            if !place.is_in(&refused.limit) {
                return Turn::Elsewhere(refused);
            }
            if !in_time(&refused, end) {
                return Turn::Over(Err(Some(refused)));
            }
            let again = Instant::now() + refused.retry_after.unwrap_or(LOOK);
            tokio::select! {
                () = sleep_until(again.min(end)) => {}
                _turn = poll_fn(|context| place.poll_turn(Some(seen), context)) => {}
            }
            if Instant::now() >= end {
                return Turn::Over(Err(Some(refused)));
            }
        }
    }

    fn place(&self, refused: &Refused) -> Option<Place> {
        let same = |number: u64| number == refused.limit.cells.number();
        let rule = self.rules.iter().find(|rule| same(rule.limit.cells.number()))?;
        let priority = rule.priority(self.who);
        Place::enter(&refused.limit, &refused.label, self.who.caller(), priority).ok()
    }
}
