//! Who waits for a limit, and whose turn it is: one line for each of those that the limit tells apart. Time and waiting are
//! the caller's business; here stand only places and whom to wake.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Limit;
use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// How a limit lets calls wait that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How many may wait in one line.
    pub size: usize,
    /// How long each of them.
    pub wait: Duration,
}

/// Whose turn is earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Before all others.
    High,
    /// Somebody waits for the answer.
    #[default]
    Normal,
    /// Nobody does: batches.
    Low,
}

/// The lines of a limit.
#[derive(Debug)]
pub(super) struct Lines {
    /// How many wait in all of them: looked at without a lock by those who come.
    waiting: AtomicUsize,
    lines: Mutex<HashMap<Box<str>, Line>>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), lines: Mutex::new(HashMap::new()) }
    }
}

/// Where one stands: by priority, then by round, then by who came first. Each caller has one place a round, so that who
/// sends many calls waits behind them and not before others.
type Turn = (Priority, u64, u64);

#[derive(Debug, Default)]
struct Line {
    order: BTreeMap<Turn, Waiting>,
    /// The number of the next place.
    next: u64,
    /// The round of the last one who left from the front.
    round: u64,
    /// Counts what was given back: who is in front tries again.
    released: u64,
}

#[derive(Debug)]
struct Waiting {
    caller: Arc<str>,
    waker: Option<Waker>,
}

/// A place in a line; dropped, it is free.
#[derive(Debug)]
pub struct Place {
    limit: Arc<Limit>,
    label: Arc<str>,
    turn: Turn,
}

/// There is no place, or it was given to one whose turn is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Lines {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Something was given back.
    pub(super) fn released(&self, label: &str) {
        if self.waiting() == 0 {
            return;
        }
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(label) else { return };
        line.released += 1;
        let front = line.wake();
        drop(lines);
        wake(front);
    }
}

impl Line {
    /// Who is in front, to be woken when the lock is free.
    fn wake(&mut self) -> Option<Waker> {
        self.order.first_entry()?.get_mut().waker.take()
    }

    fn is_front(&self, turn: Turn) -> bool {
        self.order.first_key_value().is_some_and(|(first, _)| *first == turn)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Limit {
    /// How many calls wait for it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.cells.lines.waiting()
    }

    /// Whether somebody waits in a line.
    #[must_use]
    pub fn has_line(&self, label: &str) -> bool {
        self.waiting() > 0 && self.cells.lines.lock().contains_key(label)
    }
}

impl Place {
    /// Takes a place in a limit's line. Where the line is full, the last turn of all gives way, which may be the new one.
    pub fn enter(
        limit: &Arc<Limit>,
        label: &Arc<str>,
        caller: Arc<str>,
        priority: Priority,
    ) -> Result<Self, Full> {
        let size = limit.queue.map_or(0, |queue| queue.size);
        let lines = &limit.cells.lines;
        let mut locked = lines.lock();
        if size == 0 {
            return Err(Full);
        }
        let line = locked.entry(label[..].into()).or_default();
        let last =
            line.order.iter().rev().find(|((of, ..), other)| *of == priority && other.caller == caller);
        let round = last.map_or(line.round, |((_, round, _), _)| *round).max(line.round) + 1;
        let turn = (priority, round, line.next);
        line.next += 1;
        let mut out = None;
        if line.order.len() >= size {
            match line.order.last_entry() {
                Some(last) if *last.key() > turn => {
                    // Its place finds itself gone.
                    out = last.remove().waker;
                    lines.waiting.fetch_sub(1, Ordering::AcqRel);
                }
                _ => return Err(Full),
            }
        }
        line.order.insert(turn, Waiting { caller, waker: None });
        lines.waiting.fetch_add(1, Ordering::AcqRel);
        drop(locked);
        wake(out);
        Ok(Self { limit: Arc::clone(limit), label: Arc::clone(label), turn })
    }

    /// Whether it is a place in the line of a limit.
    #[must_use]
    pub fn is_in(&self, limit: &Limit) -> bool {
        self.limit.cells.number() == limit.cells.number()
    }

    /// The limit that is waited for.
    #[must_use]
    pub fn limit(&self) -> &Arc<Limit> {
        &self.limit
    }

    /// Whose part of it.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Ready when it is this one's turn to try, and something was given back since `seen`: what an earlier call gave.
    pub fn poll_turn(&self, seen: Option<u64>, context: &mut Context<'_>) -> Poll<Result<u64, Full>> {
        let mut lines = self.limit.cells.lines.lock();
        let Some(line) = lines.get_mut(&self.label[..]) else { return Poll::Ready(Err(Full)) };
        if line.is_front(self.turn) && seen != Some(line.released) {
            return Poll::Ready(Ok(line.released));
        }
        match line.order.get_mut(&self.turn) {
            Some(waiting) => {
                waiting.waker = Some(context.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(Err(Full)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let lines = &self.limit.cells.lines;
        let mut locked = lines.lock();
        let Some(line) = locked.get_mut(&self.label[..]) else { return };
        let front = line.is_front(self.turn);
        if line.order.remove(&self.turn).is_none() {
            return;
        }
        lines.waiting.fetch_sub(1, Ordering::AcqRel);
        let mut next = None;
        if front {
            line.round = line.round.max(self.turn.1);
            next = line.wake();
        }
        if line.order.is_empty() {
            locked.remove(&self.label[..]);
        }
        drop(locked);
        wake(next);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::{Cells, Exceeded, Measure, Span};
    use super::*;

    fn limit(size: usize) -> Arc<Limit> {
        Arc::new(Limit {
            name: "l".into(),
            measure: Measure::Concurrent,
            amount: 1,
            amounts: HashMap::new(),
            span: Span::Meanwhile,
            exceeded: Exceeded::Refuse,
            budget: false,
            cap: false,
            queue: Some(Queue { size, wait: Duration::from_secs(1) }),
            alerts: Arc::default(),
            key: "k".into(),
            cells: Arc::new(Cells::default()),
        })
    }

    fn enter(limit: &Arc<Limit>, caller: &str, priority: Priority) -> Result<Place, Full> {
        Place::enter(limit, &"".into(), caller.into(), priority)
    }

    fn poll(place: &Place, seen: Option<u64>) -> Poll<Result<u64, Full>> {
        place.poll_turn(seen, &mut Context::from_waker(Waker::noop()))
    }

    /// Who is let in, one after the other.
    fn order(mut places: Vec<(&'static str, Place)>) -> Vec<&'static str> {
        let mut order = Vec::new();
        while !places.is_empty() {
            let at = places.iter().position(|(_, place)| poll(place, None).is_ready()).unwrap();
            order.push(places.remove(at).0);
        }
        order
    }

    #[test]
    fn callers_take_turns_however_many_calls_each_sends() {
        let limit = limit(100);
        let mut places = Vec::new();
        for (name, caller) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")] {
            places.push((name, enter(&limit, caller, Priority::Normal).unwrap()));
        }
        assert_eq!(limit.waiting(), 6);
        assert_eq!(order(places), ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert_eq!((limit.waiting(), limit.has_line("")), (0, false));
    }

    #[test]
    fn priorities_come_first_and_who_comes_late_is_in_the_round_of_this_moment() {
        let limit = limit(100);
        let low = enter(&limit, "batch", Priority::Low).unwrap();
        let first = enter(&limit, "a", Priority::Normal).unwrap();
        let second = enter(&limit, "a", Priority::Normal).unwrap();
        let third = enter(&limit, "a", Priority::Normal).unwrap();
        drop(first);
        drop(second);
        // Two rounds have gone by: one who comes now is not before those of them.
        let late = enter(&limit, "b", Priority::Normal).unwrap();
        let high = enter(&limit, "c", Priority::High).unwrap();
        assert_eq!(
            order(vec![("low", low), ("third", third), ("late", late), ("high", high)]),
            ["high", "third", "late", "low"]
        );
    }

    #[test]
    fn a_full_line_keeps_the_earlier_turns() {
        let limit = limit(2);
        let one = enter(&limit, "a", Priority::Normal).unwrap();
        let two = enter(&limit, "a", Priority::Normal).unwrap();
        assert_eq!(enter(&limit, "a", Priority::Normal).unwrap_err(), Full);
        // Another caller's first call is before this one's second.
        let other = enter(&limit, "b", Priority::Normal).unwrap();
        assert_eq!(poll(&two, None), Poll::Ready(Err(Full)));
        drop(two);
        assert_eq!(limit.waiting(), 2);
        assert_eq!(order(vec![("other", other), ("one", one)]), ["one", "other"]);
    }

    #[test]
    fn the_front_tries_again_when_something_is_given_back() {
        let limit = limit(2);
        let one = enter(&limit, "a", Priority::Normal).unwrap();
        let two = enter(&limit, "b", Priority::Normal).unwrap();
        let Poll::Ready(Ok(seen)) = poll(&one, None) else { panic!("it is its turn") };
        assert!(poll(&one, Some(seen)).is_pending() && poll(&two, None).is_pending());
        limit.cells.lines.released("");
        assert!(poll(&one, Some(seen)).is_ready() && poll(&two, None).is_pending());
        drop(one);
        assert!(poll(&two, None).is_ready());
    }
}
