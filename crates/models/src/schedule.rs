//! Times of the week in which more workers are kept.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// A time of the week.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Days on which it begins, from Monday.
    pub days: [bool; 7],
    /// Minutes since midnight.
    pub from: u16,
    /// Minutes since midnight; not after `from`: of the next day.
    pub to: u16,
    /// Where the clock hangs.
    pub zone: TimeZone,
    /// Workers that are kept.
    pub min: usize,
}

impl Window {
    fn holds(&self, now: Timestamp) -> bool {
        let local = now.to_zoned_datetime(self.zone.clone());
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let on = |day: Weekday| self.days[day.to_monday_zero_offset() as usize];
        let today = on(local.weekday());
        if self.from < self.to {
            return today && (self.from..self.to).contains(&minute);
        }
        let yesterday = local.checked_sub(1.day()).is_ok_and(|before| on(before.weekday()));
        today && minute >= self.from || yesterday && minute < self.to
    }
}

/// The number of workers to keep at this moment.
pub(crate) fn min_at(usual: usize, windows: &[Window], now: Timestamp) -> usize {
    let scheduled = windows.iter().filter(|window| window.holds(now)).map(|window| window.min).max();
    scheduled.unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_holds_on_its_days_by_its_own_clock() {
        let working = [true, true, true, true, true, false, false];
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let windows = [Window { days: working, from: 7 * 60 + 30, to: 19 * 60, zone, min: 3 }];
        let min = |now: &str| min_at(0, &windows, at(now));
        // A Thursday; Berlin is an hour ahead in winter, two in summer.
        assert_eq!(min("2026-11-26T06:29:59Z"), 0);
        assert_eq!(min("2026-11-26T06:30:00Z"), 3);
        assert_eq!(min("2026-11-26T17:59:59Z"), 3);
        assert_eq!(min("2026-11-26T18:00:00Z"), 0);
        assert_eq!(min("2026-07-23T05:30:00Z"), 3);
        assert_eq!(min("2026-11-28T12:00:00Z"), 0, "a Saturday");
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let friday = [false, false, false, false, true, false, false];
        let windows = [Window { days: friday, from: 22 * 60, to: 2 * 60, zone: TimeZone::UTC, min: 2 }];
        let min = |now: &str| min_at(1, &windows, at(now));
        assert_eq!(min("2026-11-27T21:59:00Z"), 1);
        assert_eq!(min("2026-11-27T22:00:00Z"), 2);
        assert_eq!(min("2026-11-28T01:59:00Z"), 2);
        assert_eq!(min("2026-11-28T02:00:00Z"), 1);
        assert_eq!(min("2026-11-28T22:30:00Z"), 1);
    }
}
