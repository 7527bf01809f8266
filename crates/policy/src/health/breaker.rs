//! The circuit breaker: after failures in a row nothing is sent for a while, then one call tries.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::{Millis, doubled, millis};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// It opens at this many failures in a row.
    pub failures: u32,
    /// The first pause; it doubles with every try that fails.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

/// What a breaker shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are sent.
    Closed,
    /// The next call, or one under way, tries whether it is over.
    HalfOpen,
    /// Nothing is sent.
    Open,
}

/// The right to send one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Passage {
    /// One of many.
    Free,
    /// The one that tries whether the upstream is back.
    Probe,
}

/// The breaker of one upstream. A look at a closed one is a single read.
#[derive(Debug, Default)]
pub struct Breaker {
    /// In a row.
    failures: AtomicU32,
    /// 0: closed.
    until: AtomicU64,
    /// Pauses in a row.
    pauses: AtomicU32,
    probing: AtomicBool,
}

impl Breaker {
    /// Lets a call pass, or says how long none will.
    pub fn pass(&self, now: Millis) -> Result<Passage, Duration> {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return Ok(Passage::Free);
        }
        if now < until {
            return Err(Duration::from_millis(until - now));
        }
        if self.probing.swap(true, Ordering::AcqRel) {
            // Somebody tries just now.
            return Err(Duration::from_secs(1));
        }
        Ok(Passage::Probe)
    }

    /// The upstream answered. True when that closed the breaker.
    pub fn answered(&self, passage: Passage) -> bool {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if passage == Passage::Free {
            return false;
        }
        self.pauses.store(0, Ordering::Relaxed);
        self.until.store(0, Ordering::Release);
        self.probing.store(false, Ordering::Release);
        true
    }

    /// The upstream failed. Gives the pause when that opened the breaker, or kept it open. `chance` is from 0 to 1 and
    /// makes the pause up to a fifth shorter or longer, so that gateways do not try all at once.
    pub fn failed(
        &self,
        passage: Passage,
        now: Millis,
        settings: &BreakerSettings,
        chance: f64,
    ) -> Option<Duration> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if passage == Passage::Free && failures < settings.failures {
            return None;
        }
        let pauses = self.pauses.load(Ordering::Relaxed);
        let pause = doubled(settings.pause, pauses, settings.longest_pause).mul_f64(0.8 + 0.4 * chance);
        let until = now.saturating_add(millis(pause).max(1));
        let opened = if passage == Passage::Probe {
            self.until.store(until, Ordering::Release);
            self.probing.store(false, Ordering::Release);
            true
        } else {
            // Of those that were under way, one opens it.
            self.until.compare_exchange(0, until, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if opened {
            self.pauses.fetch_add(1, Ordering::Relaxed);
        }
        opened.then_some(pause)
    }

    /// The call was not sent, or nobody waited for its end: nothing is known.
    pub fn let_go(&self, passage: Passage) {
        if passage == Passage::Probe {
            self.probing.store(false, Ordering::Release);
        }
    }

    /// Closes it: somebody says that the upstream is back.
    pub fn reset(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.pauses.store(0, Ordering::Relaxed);
        self.until.store(0, Ordering::Release);
    }

    /// How it stands, and how long nothing will be sent.
    pub fn state(&self, now: Millis) -> (BreakerState, Duration) {
        match self.until.load(Ordering::Acquire) {
            0 => (BreakerState::Closed, Duration::ZERO),
            until if now < until => (BreakerState::Open, Duration::from_millis(until - now)),
            _ => (BreakerState::HalfOpen, Duration::ZERO),
        }
    }

    /// Failures since the last answer.
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BreakerSettings =
        BreakerSettings { failures: 3, pause: Duration::from_secs(1), longest_pause: Duration::from_secs(4) };

    fn fail(breaker: &Breaker, now: Millis) -> Option<Duration> {
        let passage = breaker.pass(now).unwrap();
        breaker.failed(passage, now, &SETTINGS, 0.5)
    }

    #[test]
    fn it_opens_at_failures_in_a_row_only() {
        let breaker = Breaker::default();
        assert_eq!((fail(&breaker, 1), fail(&breaker, 1)), (None, None));
        assert!(!breaker.answered(breaker.pass(1).unwrap()));
        assert_eq!((fail(&breaker, 1), fail(&breaker, 1)), (None, None));
        assert_eq!(fail(&breaker, 1), Some(Duration::from_secs(1)));
        assert_eq!(breaker.pass(500), Err(Duration::from_millis(501)));
        assert_eq!(breaker.state(500).0, BreakerState::Open);
    }

    #[test]
    fn one_call_tries_and_pauses_double_to_the_longest() {
        let breaker = Breaker::default();
        let mut now = 0;
        for _ in 0..2 {
            assert_eq!(fail(&breaker, now), None);
        }
        for seconds in [1, 2, 4, 4] {
            assert_eq!(fail(&breaker, now), Some(Duration::from_secs(seconds)));
            assert!(breaker.pass(now + seconds * 1000 - 1).is_err());
            now += seconds * 1000;
            assert_eq!(breaker.state(now).0, BreakerState::HalfOpen);
            let probe = breaker.pass(now).unwrap();
            assert_eq!(probe, Passage::Probe);
            assert!(breaker.pass(now).is_err(), "a second probe");
            // Nobody waited for it: the next one tries.
            breaker.let_go(probe);
        }
        let probe = breaker.pass(now).unwrap();
        assert!(breaker.answered(probe));
        assert_eq!((breaker.pass(now), breaker.failures()), (Ok(Passage::Free), 0));
        assert_eq!((fail(&breaker, now), fail(&breaker, now)), (None, None));
        assert_eq!(fail(&breaker, now), Some(Duration::from_secs(1)), "pauses begin anew");
    }

    #[test]
    fn calls_that_were_under_way_neither_open_it_twice_nor_close_it() {
        let breaker = Breaker::default();
        let early: Vec<_> = (0..8).map(|_| breaker.pass(0).unwrap()).collect();
        let opened = early[..7].iter().filter_map(|one| breaker.failed(*one, 0, &SETTINGS, 0.5)).count();
        assert_eq!(opened, 1);
        assert!(!breaker.answered(early[7]));
        assert!(breaker.pass(999).is_err());
    }

    #[test]
    fn eight_threads_get_one_probe() {
        let breaker = Breaker::default();
        for _ in 0..3 {
            let _opened = fail(&breaker, 0);
        }
        let probes = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| breaker.pass(5000).is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(probes, 1);
    }
}
