//! Time as limits see it.

use std::time::Duration;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Unit};

/// The present, on two clocks. Everything that has a length is measured on the first one; the second is only looked at
/// when a calendar's window begins, so that a clock that is set anew neither locks anybody out nor lets anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds on a monotonic clock of the caller's choice.
    pub monotonic: u64,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

/// The time over which a limit counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Span {
    /// Any stretch of this length: what was used leaks away evenly (the generic cell rate algorithm).
    Rolling {
        /// The stretch.
        window: Duration,
        /// How much may come at once.
        burst: u64,
    },
    /// Stretches of the calendar, each counted from nothing.
    Calendar(Calendar),
    /// As long as calls are under way.
    Meanwhile,
}

/// A division of time.
#[derive(Clone, Debug, PartialEq)]
pub enum Calendar {
    /// Hours, days, weeks (from Monday), months or years of a time zone.
    Civil(Unit, TimeZone),
    /// Stretches of this many milliseconds, one of which begins at `anchor_ms`.
    Every {
        /// Length, at least 1.
        length_ms: i64,
        /// Milliseconds since 1970.
        anchor_ms: i64,
    },
}

impl Calendar {
    /// Beginning and end of the stretch that a moment is in, in milliseconds since 1970.
    #[must_use]
    pub fn window(&self, at_ms: i64) -> (i64, i64) {
        match self {
            Self::Every { length_ms, anchor_ms } => {
                let length = (*length_ms).max(1);
                let start = at_ms - (at_ms - anchor_ms).rem_euclid(length);
                (start, start.saturating_add(length))
            }
            Self::Civil(unit, zone) => civil(*unit, zone, at_ms).unwrap_or_else(|| {
                // Beyond the calendar: hours still are.
                Self::Every { length_ms: 3_600_000, anchor_ms: 0 }.window(at_ms)
            }),
        }
    }
}

fn civil(unit: Unit, zone: &TimeZone, at_ms: i64) -> Option<(i64, i64)> {
    let at = Timestamp::from_millisecond(at_ms).ok()?.to_zoned_datetime(zone.clone());
    let day = at.start_of_day().ok()?;
    let (start, end) = match unit {
        Unit::Minute | Unit::Hour => {
            let length = if unit == Unit::Hour { 3_600_000 } else { 60_000 };
            // Zones are off by minutes, never by parts of them.
            let offset = i64::from(at.offset().seconds()) * 1000;
            let start = at_ms - (at_ms + offset).rem_euclid(length);
            return Some((start, start + length));
        }
        Unit::Day => (day.clone(), day.checked_add(1.day()).ok()?),
        Unit::Week => {
            let since = i64::from(day.weekday().since(Weekday::Monday));
            let monday = day.checked_sub(since.days()).ok()?;
            (monday.clone(), monday.checked_add(1.week()).ok()?)
        }
        Unit::Month => {
            let first = day.date().first_of_month().to_zoned_datetime(zone.clone()).ok()?;
            (first.clone(), first.checked_add(1.month()).ok()?)
        }
        Unit::Year => {
            let first = day.date().first_of_year().to_zoned_datetime(zone.clone()).ok()?;
            (first.clone(), first.checked_add(1.year()).ok()?)
        }
        _ => return None,
    };
    Some((start.timestamp().as_millisecond(), end.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn windows_follow_the_calendar_of_their_zone() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let of = |unit, at: &str| {
            let (start, end) = Calendar::Civil(unit, berlin.clone()).window(ms(at));
            [start, end].map(|at| Timestamp::from_millisecond(at).unwrap().to_string())
        };
        // The day on which the clocks go forward has 23 hours, and the one on which they go back 25.
        assert_eq!(of(Unit::Day, "2026-03-29T12:00:00Z"), ["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"]);
        assert_eq!(of(Unit::Day, "2026-10-25T12:00:00Z"), ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"]);
        assert_eq!(of(Unit::Week, "2026-11-26T12:00:00Z"), ["2026-11-22T23:00:00Z", "2026-11-29T23:00:00Z"]);
        assert_eq!(of(Unit::Month, "2026-02-01T00:30:00Z"), ["2026-01-31T23:00:00Z", "2026-02-28T23:00:00Z"]);
        assert_eq!(of(Unit::Year, "2026-07-01T00:00:00Z"), ["2025-12-31T23:00:00Z", "2026-12-31T23:00:00Z"]);
        assert_eq!(of(Unit::Hour, "2026-07-01T05:59:59Z"), ["2026-07-01T05:00:00Z", "2026-07-01T06:00:00Z"]);
        let india = Calendar::Civil(Unit::Hour, TimeZone::get("Asia/Kolkata").unwrap());
        assert_eq!(india.window(ms("2026-07-01T05:29:00Z")).0, ms("2026-07-01T04:30:00Z"));
    }

    #[test]
    fn stretches_of_ones_own_begin_at_their_anchor() {
        let ten_days = Calendar::Every { length_ms: 864_000_000, anchor_ms: ms("2026-01-05T00:00:00Z") };
        assert_eq!(ten_days.window(ms("2026-01-20T00:00:00Z")).0, ms("2026-01-15T00:00:00Z"));
        assert_eq!(ten_days.window(ms("2026-01-04T23:00:00Z")).1, ms("2026-01-05T00:00:00Z"));
    }
}
