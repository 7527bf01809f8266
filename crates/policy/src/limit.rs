//! Rate limits by the generic cell rate algorithm, in integers: one number per caller, exact under
//! concurrency.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Mutex;
use std::time::Duration;

const SHARDS: usize = 16;
/// Callers remembered per shard before those at rest are forgotten.
const SWEEP_AT: usize = 4096;

/// How many requests a window admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per window, at least 1.
    pub requests: u64,
    /// The window.
    pub window: Duration,
    /// Requests that may come at once, at least 1.
    pub burst: u64,
}

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may pass.
    Admitted {
        /// Requests that could pass at once now.
        remaining: u64,
        /// Until the whole burst is free again.
        reset: Duration,
    },
    /// It may not.
    Refused {
        /// Exactly until the next request would pass.
        retry_after: Duration,
        /// Until the whole burst is free again.
        reset: Duration,
    },
}

/// A limit and its counters, one per key.
#[derive(Debug)]
pub struct Limiter<K> {
    rate: Rate,
    /// Nanoseconds that one request takes up.
    cost: u64,
    hasher: RandomState,
    /// Per key the instant (nanoseconds on the caller's clock) at which its bucket is empty.
    shards: Vec<Mutex<HashMap<K, u64>>>,
}

impl<K: Hash + Eq> Limiter<K> {
    /// A limiter without any history.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let cost = (rate.window.as_nanos() / u128::from(rate.requests.max(1))).max(1) as u64;
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect();
        Self { rate, cost, hasher: RandomState::new(), shards }
    }

    /// The limit.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Asks for one request of `key` at `now` (nanoseconds on a monotonic clock of the caller's choice).
    pub fn admit(&self, key: K, now: u64) -> Admission {
        let shard = &self.shards[self.hasher.hash_one(&key) as usize % SHARDS];
        let mut cells = shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if cells.len() >= SWEEP_AT {
            cells.retain(|_, empty_at| *empty_at > now);
        }
        let capacity = self.cost.saturating_mul(self.rate.burst.max(1));
        let empty_at = cells.entry(key).or_insert(now);
        let filled = empty_at.saturating_sub(now);
        if filled + self.cost > capacity {
            return Admission::Refused {
                retry_after: Duration::from_nanos(filled + self.cost - capacity),
                reset: Duration::from_nanos(filled),
            };
        }
        *empty_at = now.max(*empty_at) + self.cost;
        let filled = *empty_at - now;
        Admission::Admitted {
            remaining: (capacity - filled) / self.cost,
            reset: Duration::from_nanos(filled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limiter(requests: u64, seconds: u64, burst: u64) -> Limiter<&'static str> {
        Limiter::new(Rate { requests, window: Duration::from_secs(seconds), burst })
    }

    #[test]
    fn the_burst_passes_and_the_next_waits_exactly_its_turn() {
        let limiter = limiter(10, 60, 10);
        for left in (0..10).rev() {
            assert!(
                matches!(limiter.admit("a", 5), Admission::Admitted { remaining, .. } if remaining == left)
            );
        }
        let refused = limiter.admit("a", 5);
        assert_eq!(
            refused,
            Admission::Refused { retry_after: Duration::from_secs(6), reset: Duration::from_mins(1) }
        );
        assert!(matches!(limiter.admit("b", 5), Admission::Admitted { .. }));
        assert!(matches!(limiter.admit("a", 5 + 6 * SECOND - 1), Admission::Refused { .. }));
        assert!(matches!(limiter.admit("a", 5 + 6 * SECOND), Admission::Admitted { remaining: 0, .. }));
    }

    #[test]
    fn no_window_admits_more_than_limit_and_burst() {
        let limiter = limiter(100, 1, 20);
        let mut random = fastrand::Rng::with_seed(3);
        let mut now = 0;
        let mut admitted = Vec::new();
        for _ in 0..20_000 {
            now += random.u64(0..2_000_000);
            if matches!(limiter.admit("a", now), Admission::Admitted { .. }) {
                admitted.push(now);
            }
        }
        for (index, start) in admitted.iter().enumerate() {
            let inside = admitted[index..].iter().take_while(|at| **at < start + SECOND).count();
            assert!(inside <= 120, "{inside} in the window at {start}");
        }
    }

    #[test]
    fn threads_together_never_overshoot() {
        let limiter = limiter(50, 3600, 50);
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1000)
                            .filter(|_| matches!(limiter.admit("a", 1), Admission::Admitted { .. }))
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 50);
    }
}
