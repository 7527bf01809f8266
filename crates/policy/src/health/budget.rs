//! How many calls may be tried again: a part of all calls, and a few more.

use std::sync::atomic::{AtomicI64, Ordering};

/// A retry, in the budget's unit: thousandths.
const ONE: i64 = 1000;
/// Retries that a quiet time leaves, at most.
const FEW: i64 = 10 * ONE;

/// The retry budget of one upstream: every call brings its part of a retry, and a retry takes a whole one. So of any
/// number of calls at most that part, and ten more, are tried again.
#[derive(Debug)]
pub struct Budget(AtomicI64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicI64::new(FEW))
    }
}

impl Budget {
    /// A call begins, which brings `percent` of a retry.
    pub fn earn(&self, percent: u32) {
        let part = i64::from(percent) * ONE / 100;
        // Full is the usual state, and one read then does.
        let _full = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left < FEW).then(|| (left + part).min(FEW))
        });
    }

    /// Takes a retry, if there is one.
    #[must_use]
    pub fn take(&self) -> bool {
        let taken = |left: i64| (left >= ONE).then_some(left - ONE);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_part_of_all_calls_and_ten_more() {
        let budget = Budget::default();
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.earn(20);
            retries += (0..3).filter(|_| budget.take()).count();
        }
        assert!((2000..=2010).contains(&retries), "{retries}");
        let budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10);
        // A quiet day saves up no more.
        (0..10_000).for_each(|_| budget.earn(20));
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10);
    }

    #[test]
    fn concurrent_calls_share_it() {
        let budget = Budget::default();
        let retries = std::thread::scope(|scope| {
            let work = || {
                (0..1000)
                    .filter(|_| {
                        budget.earn(20);
                        budget.take()
                    })
                    .count()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert!((1600..=1610).contains(&retries), "{retries}");
    }
}
