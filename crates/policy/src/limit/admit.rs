//! One decision over several limits: all of them are taken, or none is touched.

use std::sync::Arc;
use std::time::Duration;

use super::cells::Cell;
use super::{Alert, Amounts, Exceeded, Limit, Measure, Now};

/// A limit that a call must be within, and whom it counts for there.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Whom it tells apart: a key's name, a team, an address. Empty where all share it.
    pub label: Arc<str>,
}

/// Why a call is not admitted.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The limit that it does not fit in.
    pub limit: Arc<Limit>,
    /// Whose part of it.
    pub label: Arc<str>,
    /// What may be used.
    pub amount: u64,
    /// So much would fit now.
    pub room: u64,
    /// Exactly until the call would fit, if nobody else takes the room. `None`: when calls that are under way end.
    pub retry_after: Option<Duration>,
    /// Until all of it may be used again.
    pub reset: Duration,
}

impl Refused {
    /// What somebody is told who waited in vain.
    #[must_use]
    pub fn waited(limit: &Arc<Limit>, label: &Arc<str>, now: Now) -> Self {
        let mut locked = limit.cells.lock(label);
        let ask = Ask { limit: Arc::clone(limit), label: Arc::clone(label) };
        Self::by(&ask, locked.cell(label, limit, now), 1, None, now)
    }

    fn by(ask: &Ask, cell: &Cell, share: u64, retry_after: Option<Duration>, now: Now) -> Self {
        let Ask { limit, label } = ask.clone();
        let (tally, room) = (cell.tally(&limit, &label, now), cell.room(&limit, &label, share, now));
        Self { limit, label, amount: tally.amount, room, retry_after, reset: tally.reset }
    }
}

/// What a limit still allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// What is counted.
    pub measure: Measure,
    /// What may be used.
    pub amount: u64,
    /// What may be used at once now.
    pub remaining: u64,
    /// Until all of it may be used again.
    pub reset: Duration,
    /// The call did not fit, and passes because the limit only counts.
    pub exceeded: bool,
}

/// What a call has reserved. Dropped without [`settle`](Self::settle), all of it counts as used: nobody knows better.
#[derive(Debug, Default)]
pub struct Reservation {
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    ask: Ask,
    amount: u64,
    share: u64,
    /// The last known time, for the reservation that nobody settles.
    at: Now,
}

/// How strictly a call is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How many times over the amounts that are only bounds must fit: 1 where they are near.
    pub margin: u64,
    /// How many share the limits and cannot ask each other: each has that part of them.
    pub share: u64,
    /// Somebody else has decided; the call is only counted.
    pub decided: bool,
}

impl Terms {
    /// The limits are this process's own.
    #[must_use]
    pub fn alone(margin: u64) -> Self {
        Self { margin, share: 1, decided: false }
    }
}

/// Admits a call that will use `amounts` at most.
///
/// `asks` are in the order of their cells' numbers. What each still allows is told by `left`.
pub fn admit(
    asks: &[Ask],
    amounts: &Amounts,
    terms: Terms,
    now: Now,
    left: &mut dyn FnMut(&Ask, Left),
) -> Result<Reservation, Refused> {
    debug_assert!(asks.is_sorted_by_key(|ask| ask.limit.cells.number()));
    take(asks, amounts, terms, now, left)?;
    let held = asks.iter().filter(|ask| !ask.limit.measure.is_final());
    let held = held.map(|ask| Held {
        ask: ask.clone(),
        amount: amounts.of(ask.limit.measure),
        share: terms.share,
        at: now,
    });
    Ok(Reservation { held: held.collect() })
}

/// Locks one cell after the other, in an order that all callers share, and takes none before all fit. The locks stand on
/// the stack: that costs nothing but the recursion.
fn take(
    asks: &[Ask],
    amounts: &Amounts,
    terms: Terms,
    now: Now,
    left: &mut dyn FnMut(&Ask, Left),
) -> Result<(), Refused> {
    let Some((ask, rest)) = asks.split_first() else { return Ok(()) };
    let Ask { limit, label } = ask;
    let amount = amounts.of(limit.measure);
    let wanted = limit.wanted(amount, terms.margin);
    let mut locked = limit.cells.lock(label);
    let cell = locked.cell(label, limit, now);
    cell.enter(limit, now);
    let fits = cell.fits(limit, label, wanted, terms.share, now);
    let exceeded = fits.is_err();
    if let Err(retry_after) = fits
        && limit.exceeded == Exceeded::Refuse
        && !terms.decided
    {
        return Err(Refused::by(ask, cell, terms.share, retry_after, now));
    }
    take(rest, amounts, terms, now, left)?;
    if limit.measure.is_final() {
        cell.settle(limit, label, (0, amount), terms.share, now);
    } else {
        cell.reserve(amount);
    }
    let tally = cell.tally(limit, label, now);
    let remaining = match limit.span {
        super::Span::Rolling { burst, .. } => burst.min(tally.amount),
        _ => tally.amount,
    };
    left(
        ask,
        Left {
            measure: limit.measure,
            amount: tally.amount,
            remaining: remaining.saturating_sub(tally.used).saturating_sub(tally.reserved),
            reset: tally.reset,
            exceeded,
        },
    );
    Ok(())
}

impl Reservation {
    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many limits hold something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// What was taken over behind the first `at` of them.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        Self { held: self.held.split_off(at.min(self.held.len())) }
    }

    /// What is reserved of one measure, by the limit that reserved most.
    #[must_use]
    pub fn reserved(&self, measure: Measure) -> u64 {
        let of = self.held.iter().filter(|held| held.ask.limit.measure == measure);
        of.map(|held| held.amount).max().unwrap_or(0)
    }

    /// Takes over what another one holds.
    pub fn join(&mut self, mut other: Self) {
        if self.held.is_empty() {
            *self = other;
        } else {
            self.held.append(&mut other.held);
        }
    }

    /// Reserves so much that `amounts` in all are covered: for calls of which nobody knew before how much they use. On an
    /// error what was held before is held still.
    pub fn extend(&mut self, amounts: &Amounts, now: Now) -> Result<(), Refused> {
        for held in &mut self.held {
            let ask = &held.ask;
            let Ask { limit, label } = ask;
            let more = amounts.of(limit.measure).saturating_sub(held.amount);
            if more == 0 {
                continue;
            }
            let mut locked = limit.cells.lock(label);
            let cell = locked.cell(label, limit, now);
            cell.enter(limit, now);
            if let Err(retry_after) = cell.fits(limit, label, more, held.share, now)
                && limit.exceeded == Exceeded::Refuse
            {
                return Err(Refused::by(ask, cell, held.share, retry_after, now));
            }
            cell.reserve(more);
            held.amount += more;
        }
        Ok(())
    }

    /// Gives places among calls under way back; what was used is settled later.
    pub fn landed(&mut self, now: Now) {
        self.held.retain_mut(|held| {
            let concurrent = held.ask.limit.measure == Measure::Concurrent;
            if concurrent {
                let _no_money = held.settle(0, now);
            } else {
                held.at = now;
            }
            !concurrent
        });
    }

    /// Books what was used. Gives the alerts that this raises.
    pub fn settle(mut self, used: &Amounts, now: Now) -> Vec<Alert> {
        let settle = |mut held: Held| held.settle(used.of(held.ask.limit.measure), now);
        self.held.drain(..).filter_map(settle).collect()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for held in &mut self.held {
            let (amount, at) = (held.amount, held.at);
            let _nobody_listens = held.settle(amount, at);
        }
    }
}

impl Held {
    fn settle(&mut self, used: u64, now: Now) -> Option<Alert> {
        let Ask { limit, label } = &self.ask;
        let mut locked = limit.cells.lock(label);
        let cell = locked.cell(label, limit, now);
        cell.enter(limit, now);
        cell.settle(limit, label, (self.amount, used), self.share, now);
        let alert = cell.alert(limit, label);
        drop(locked);
        limit.cells.lines.released(label);
        let (percent, used, amount) = alert?;
        Some(Alert { limit: Arc::clone(limit), label: Arc::clone(label), percent, used, amount })
    }
}

#[cfg(test)]
mod tests;
