//! How busy a pool is: calls in work and waiting, as an average over time.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Counts calls in work, exactly.
pub(super) struct Meter {
    inner: Mutex<Inner>,
}

struct Inner {
    in_work: u32,
    since: Instant,
    /// Calls in work times seconds, since the last [`Meter::take`].
    area: f64,
    taken: Instant,
}

/// A call in work, until it is dropped.
pub(super) struct Working<'a>(&'a Meter);

impl Default for Meter {
    fn default() -> Self {
        let now = Instant::now();
        Self { inner: Mutex::new(Inner { in_work: 0, since: now, area: 0.0, taken: now }) }
    }
}

impl Meter {
    fn change(&self, by: i32) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        inner.area += f64::from(inner.in_work) * (now - inner.since).as_secs_f64();
        inner.since = now;
        inner.in_work = inner.in_work.saturating_add_signed(by);
    }

    pub(super) fn begin(&self) -> Working<'_> {
        self.change(1);
        Working(self)
    }

    /// The average number of calls in work since it was asked last.
    pub(super) fn take(&self) -> f64 {
        self.change(0);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = (inner.since - inner.taken).as_secs_f64();
        let mean = if seconds > 0.0 { inner.area / seconds } else { f64::from(inner.in_work) };
        (inner.area, inner.taken) = (0.0, inner.since);
        mean
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.change(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn half_a_second_of_work_in_a_second_is_one_half() {
        let meter = Meter::default();
        let working = meter.begin();
        tokio::time::advance(Duration::from_millis(500)).await;
        drop(working);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!((meter.take() - 0.5).abs() < 1e-9);
        let _working = meter.begin();
        let _more = meter.begin();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!((meter.take() - 2.0).abs() < 1e-9);
    }
}
