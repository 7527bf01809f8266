//! What was used, one cell for each of those that a limit tells apart.

use std::hash::BuildHasher;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::queue::Lines;
use super::sync::{Mutex, MutexGuard};
use super::{Limit, Now, Span, nanos};

const SHARDS: usize = 16;
/// Parts of a nanosecond, as a shift.
const FRACTION: u32 = 20;
/// Cells per shard before those at rest are forgotten for the first time.
const SWEEP_AT: usize = 4096;

/// The cells of a limit, by label.
#[derive(Debug)]
pub struct Cells {
    /// Several limits are asked in the order of these, whatever snapshot they are of: no two calls wait for each other.
    number: u64,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    /// Who waits for room.
    pub(super) lines: Lines,
}

#[derive(Debug)]
struct Shard {
    cells: HashTable<(Box<str>, Cell)>,
    /// So many cells, and those at rest are forgotten before another one comes. Twice as many as were left the last time:
    /// where few are at rest, looking for them must not cost each call a walk over all.
    sweep_at: usize,
}

/// The shard that holds a label's cell. It is hashed once, for the shard and for the place in it.
pub(super) struct Locked<'a> {
    shard: MutexGuard<'a, Shard>,
    hasher: &'a RandomState,
    hash: u64,
}

/// What one of them has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    /// Rolling: the instant at which all of it has leaked away. Calendar: the instant at which the window ends. In
    /// [`FRACTION`]s of a nanosecond: what small amounts take is less than one.
    until: u128,
    /// Calendar: used in this window.
    spent: u64,
    /// Calendar: the window's end on the wall clock.
    ends_ms: i64,
    /// Reserved by calls that are under way.
    reserved: u64,
    /// Calendar: the last step of the alerts that was reached in this window.
    alerted: u8,
}

/// What one of those that a limit tells apart has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Who.
    pub label: Box<str>,
    /// What.
    pub tally: Tally,
}

/// How a limit stands, in its own measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How much may be used.
    pub amount: u64,
    /// Used and settled, within the span.
    pub used: u64,
    /// Reserved by calls that are under way.
    pub reserved: u64,
    /// Until all of it may be used again.
    pub reset: Duration,
    /// The end of the calendar's window, in milliseconds since 1970.
    pub ends_ms: Option<i64>,
}

/// The number of the next cells.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Default for Cells {
    fn default() -> Self {
        let empty = || Shard { cells: HashTable::new(), sweep_at: SWEEP_AT };
        let shards = (0..SHARDS).map(|_| Mutex::new(empty())).collect();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { number, hasher: RandomState::default(), shards, lines: Lines::default() }
    }
}

impl Cells {
    /// No two share it.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn lock(&self, label: &str) -> Locked<'_> {
        let hash = self.hasher.hash_one(label);
        // The table's own places come from the lower bits, what it compares first from the uppermost seven.
        let shard = &self.shards[(hash >> 48) as usize % SHARDS];
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { shard, hasher: &self.hasher, hash }
    }

    pub(super) fn counts(&self, limit: &Limit, now: Now) -> Vec<Count> {
        let mut counts = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            counts.extend(shard.cells.iter().filter_map(|(label, cell)| {
                let tally = cell.tally(limit, label, now);
                let is_used = tally.used > 0 || tally.reserved > 0;
                is_used.then(|| Count { label: label.clone(), tally })
            }));
        }
        counts.sort_by(|one, other| one.label.cmp(&other.label));
        counts
    }

    pub(super) fn book(&self, limit: &Limit, label: &str, amount: u64, now: Now) {
        let mut locked = self.lock(label);
        let cell = locked.cell(label, limit, now);
        cell.enter(limit, now);
        cell.settle(limit, label, (0, amount), 1, now);
        // Whoever was told is not told again by the next process.
        let _told = cell.alert(limit, label);
    }
}

impl Locked<'_> {
    /// The cell of the label, made where it is missing.
    pub(super) fn cell(&mut self, label: &str, limit: &Limit, now: Now) -> &mut Cell {
        let is_it = |(known, _): &(Box<str>, Cell)| **known == *label;
        let hash_of = |(known, _): &(Box<str>, Cell)| self.hasher.hash_one(&**known);
        let Shard { cells, sweep_at } = &mut *self.shard;
        let found = match cells.find_entry(self.hash, is_it) {
            Ok(found) => found,
            Err(missing) => {
                let cells = missing.into_table();
                if cells.len() >= *sweep_at {
                    cells.retain(|(_, cell)| !cell.is_at_rest(limit, now));
                    *sweep_at = SWEEP_AT.max(2 * cells.len());
                }
                cells.insert_unique(self.hash, (label.into(), Cell::default()), hash_of)
            }
        };
        &mut found.into_mut().1
    }
}

impl Cell {
    fn is_at_rest(&self, limit: &Limit, now: Now) -> bool {
        self.reserved == 0
            && match limit.span {
                Span::Rolling { .. } | Span::Calendar(_) => self.until <= fine(now),
                Span::Meanwhile => true,
            }
    }

    /// Begins the calendar's next window where the last one is over.
    pub(super) fn enter(&mut self, limit: &Limit, now: Now) {
        if let Span::Calendar(calendar) = &limit.span
            && self.until <= fine(now)
        {
            let (_, end) = calendar.window(now.wall_ms);
            let left = Duration::from_millis(end.saturating_sub(now.wall_ms).max(1) as u64);
            self.until = fine(now) + (u128::from(nanos(left)) << FRACTION);
            self.ends_ms = end;
            (self.spent, self.alerted) = (0, 0);
        }
    }

    /// Whether `amount` more fits; if not, until when it may, `None` where that hangs on calls under way. Call
    /// [`Self::enter`] before.
    pub(super) fn fits(
        &self,
        limit: &Limit,
        label: &str,
        amount: u64,
        share: u64,
        now: Now,
    ) -> Result<(), Option<Duration>> {
        let whole = limit.amount_for(label);
        let most = (whole / share.max(1)).max(1);
        match &limit.span {
            Span::Meanwhile => {
                if self.reserved.saturating_add(amount) <= most {
                    Ok(())
                } else {
                    Err(None)
                }
            }
            Span::Calendar(_) => {
                let wanted = self.spent.saturating_add(self.reserved).saturating_add(amount);
                if wanted <= most {
                    return Ok(());
                }
                // What is reserved may come back before the window ends.
                let waiting = self.spent.saturating_add(amount) <= most;
                Err(if waiting { None } else { Some(self.left(now)) })
            }
            Span::Rolling { window, burst } => {
                // Who has a part of the limit has all of its room, and each use takes as many times as long to leak away.
                let time = |units: u64| takes(units, whole, *window).saturating_mul(u128::from(share));
                let capacity = takes((*burst).min(whole).max(1), whole, *window);
                let filled = self.until.saturating_sub(fine(now));
                // What each call takes is rounded up; together they may come to a trifle more than the whole.
                let fits = |time: u128| filled + time <= capacity + (1 << FRACTION);
                if fits(time(self.reserved.saturating_add(amount))) {
                    return Ok(());
                }
                if fits(time(amount)) {
                    return Err(None);
                }
                // More than ever fits at once waits for the whole window.
                let never = time(amount) > capacity;
                Err(Some(if never { *window } else { coarse(filled + time(amount) - capacity) }))
            }
        }
    }

    /// How much fits now.
    pub(super) fn room(&self, limit: &Limit, label: &str, share: u64, now: Now) -> u64 {
        let whole = limit.amount_for(label);
        let most = (whole / share.max(1)).max(1);
        let room = match &limit.span {
            Span::Meanwhile => most,
            Span::Calendar(_) => most.saturating_sub(self.spent),
            Span::Rolling { window, burst } => {
                let capacity = takes((*burst).min(whole).max(1), whole, *window);
                let free = capacity.saturating_sub(self.until.saturating_sub(fine(now)));
                let each = takes(1, whole, *window).saturating_mul(u128::from(share)).max(1);
                // Rounded up one by one, so that many together fit in any case.
                u64::try_from(free / each).unwrap_or(u64::MAX)
            }
        };
        room.saturating_sub(self.reserved)
    }

    fn left(&self, now: Now) -> Duration {
        coarse(self.until.saturating_sub(fine(now)))
    }

    pub(super) fn reserve(&mut self, amount: u64) {
        self.reserved = self.reserved.saturating_add(amount);
    }

    /// Ends a reservation, and books what was used: `share` times over where the limit leaks away for that many.
    pub(super) fn settle(
        &mut self,
        limit: &Limit,
        label: &str,
        (reserved, used): (u64, u64),
        share: u64,
        now: Now,
    ) {
        self.reserved = self.reserved.saturating_sub(reserved);
        match &limit.span {
            Span::Meanwhile => {}
            Span::Calendar(_) => self.spent = self.spent.saturating_add(used),
            Span::Rolling { window, .. } => {
                self.until = self.until.max(fine(now))
                    + takes(used.saturating_mul(share), limit.amount_for(label), *window);
            }
        }
    }

    /// The highest step of the alerts that is reached and was not before.
    pub(super) fn alert(&mut self, limit: &Limit, label: &str) -> Option<(u8, u64, u64)> {
        let amount = limit.amount_for(label);
        let part = u128::from(self.spent) * 100;
        let reached = |percent: &&u8| part >= u128::from(**percent) * u128::from(amount);
        let step = *limit.alerts.iter().rev().find(reached)?;
        (step > self.alerted).then(|| {
            self.alerted = step;
            (step, self.spent, amount)
        })
    }

    pub(super) fn tally(&self, limit: &Limit, label: &str, now: Now) -> Tally {
        let amount = limit.amount_for(label);
        let left = self.until.saturating_sub(fine(now));
        let (used, ends_ms) = match &limit.span {
            Span::Meanwhile => (0, None),
            Span::Calendar(_) if left == 0 => (0, None),
            Span::Calendar(_) => (self.spent, Some(self.ends_ms)),
            Span::Rolling { window, .. } => {
                // Rounded up, but for the trifle of `fits`.
                let whole = (window.as_nanos() << FRACTION).max(1);
                let used =
                    left.saturating_sub(1 << FRACTION).saturating_mul(u128::from(amount)).div_ceil(whole);
                (u64::try_from(used).unwrap_or(u64::MAX), None)
            }
        };
        Tally { amount, used, reserved: self.reserved, reset: coarse(left), ends_ms }
    }
}

/// How long `units` take to leak away where `most` leak in `window`: rounded up, so that never more than `most` fit.
fn takes(units: u64, most: u64, window: Duration) -> u128 {
    (u128::from(units) << FRACTION).saturating_mul(window.as_nanos()).div_ceil(u128::from(most.max(1)))
}

fn fine(now: Now) -> u128 {
    u128::from(now.monotonic) << FRACTION
}

/// Rounded up: who waits so long is not refused again.
fn coarse(time: u128) -> Duration {
    Duration::from_nanos(u64::try_from(time.div_ceil(1 << FRACTION)).unwrap_or(u64::MAX))
}
