//! How many instances a version should have. Pure: time and load come in, a number comes out. The idea is that of
//! Knative's autoscaler: a stable window decides, a short one may add at once and then forbids removal for a while.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::schedule::{Window, min_at};

/// The window that usually decides.
const STABLE: Duration = Duration::from_mins(1);
/// The window that sees a burst.
const PANIC: Duration = Duration::from_secs(6);
/// The share of its time that an instance should be busy.
const UTILISATION: f64 = 0.7;

/// The bounds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// 0 lets the last instance go when nothing was asked for `idle_timeout`.
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) idle_timeout: Duration,
    /// Times of the week with another `min`.
    pub(crate) schedule: Arc<[Window]>,
}

impl Bounds {
    /// Whether there is anything to decide.
    pub(super) fn are_fixed(&self) -> bool {
        self.min == self.max && self.schedule.is_empty()
    }

    /// The least there should be at this moment.
    pub(super) fn min_now(&self) -> usize {
        min_at(self.min, &self.schedule, Timestamp::now())
    }
}

#[derive(Debug)]
pub(super) struct Scale {
    bounds: Bounds,
    /// When, and how many calls were in work or waiting on average since the sample before.
    samples: VecDeque<(Duration, f64)>,
    panicked: Option<Duration>,
    busy: Duration,
}

impl Scale {
    pub(super) fn new(bounds: Bounds, now: Duration) -> Self {
        Self { bounds, samples: VecDeque::new(), panicked: None, busy: now }
    }

    /// Takes a sample and says how many instances there should be; `current` is how many there are to be now.
    /// `min` is the least there should be now.
    pub(super) fn step(&mut self, now: Duration, load: f64, current: usize, min: usize) -> usize {
        if load > 0.0 {
            self.busy = now;
        }
        self.samples.push_back((now, load));
        while self.samples.front().is_some_and(|(at, _)| *at + STABLE < now) {
            self.samples.pop_front();
        }
        let (stable, urgent) = (self.wanted(now, STABLE), self.wanted(now, PANIC));
        if urgent > current.max(1) && urgent >= 2 * current.max(1) {
            self.panicked = Some(now);
        }
        let panics = self.panicked.is_some_and(|since| now < since + STABLE);
        let wanted = if panics { urgent.max(stable).max(current) } else { stable };
        if now.saturating_sub(self.busy) >= self.bounds.idle_timeout {
            return min;
        }
        // The last one goes only after the idle time.
        let floor = min.max(1.min(current));
        wanted.clamp(floor, self.bounds.max.max(floor))
    }

    fn wanted(&self, now: Duration, window: Duration) -> usize {
        let seen = self.samples.iter().rev().take_while(|(at, _)| *at + window > now);
        let (count, sum) = seen.fold((0_u32, 0.0), |(count, sum), (_, load)| (count + 1, sum + load));
        let mean = if count == 0 { 0.0 } else { sum / f64::from(count) };
        (mean / UTILISATION).ceil() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a second at a time; `load` of the second and the number of instances come in, what came out is kept.
    struct Clock {
        scale: Scale,
        second: u64,
        current: usize,
    }

    impl Clock {
        fn new(min: usize, max: usize) -> Self {
            let idle_timeout = Duration::from_secs(90);
            let bounds = Bounds { min, max, idle_timeout, schedule: Arc::default() };
            Self { scale: Scale::new(bounds, Duration::ZERO), second: 0, current: min.max(1) }
        }

        fn run(&mut self, seconds: u64, load: f64) -> usize {
            for _ in 0..seconds {
                self.second += 1;
                self.current = self.scale.step(
                    Duration::from_secs(self.second),
                    load,
                    self.current,
                    self.scale.bounds.min,
                );
            }
            self.current
        }
    }

    #[test]
    fn a_burst_adds_within_seconds_and_is_not_taken_back_for_a_minute() {
        let mut clock = Clock::new(1, 8);
        assert_eq!(clock.run(60, 0.3), 1);
        // Three calls at a time, on average over six seconds.
        assert!(clock.run(6, 3.0) >= 5, "{}", clock.current);
        let top = clock.current;
        assert_eq!(clock.run(50, 0.1), top, "removed during a panic");
        assert_eq!(clock.run(70, 0.1), 1);
    }

    #[test]
    fn steady_load_is_met_at_seven_tenths_and_never_above_the_bound() {
        let mut clock = Clock::new(1, 3);
        assert_eq!(clock.run(120, 1.3), 2);
        assert_eq!(clock.run(120, 50.0), 3);
        assert_eq!(clock.run(300, 0.0), 1);
    }

    #[test]
    fn the_last_instance_goes_only_after_the_idle_time_and_a_request_brings_it_back() {
        let mut clock = Clock::new(0, 2);
        assert_eq!(clock.run(10, 0.5), 1);
        assert_eq!(clock.run(89, 0.0), 1);
        assert_eq!(clock.run(1, 0.0), 0);
        assert_eq!(clock.run(100, 0.0), 0);
        assert_eq!(clock.run(1, 0.4), 1);
    }

    #[test]
    fn a_fixed_number_stays() {
        let mut clock = Clock::new(2, 2);
        assert_eq!(clock.run(30, 0.0), 2);
        assert_eq!(clock.run(30, 9.0), 2);
    }
}
