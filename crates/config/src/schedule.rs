//! Times of the week: days, times of day, time zones.

use std::fmt;

use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::value::scalar;

/// A time of the week in which more instances are kept.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Days on which it begins: `mon-fri`, `sat,sun`, `daily`. Default `daily`.
    #[serde(default)]
    pub days: Days,
    /// When it begins, for example `07:30`. Workers need a while to load: a little before they are needed.
    pub from: ClockTime,
    /// When it ends. Not after `from`: on the next day.
    pub to: ClockTime,
    /// The time zone, for example `Europe/Berlin`. Default `UTC`.
    #[serde(default)]
    pub timezone: Zone,
    /// Instead of `instances.min` during this time.
    #[schemars(range(min = 1, max = 64))]
    pub min: u32,
}

/// Days of the week, from Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(pub [bool; 7]);

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Default for Days {
    fn default() -> Self {
        Self([true; 7])
    }
}

impl Days {
    /// Reads `daily`, or days and ranges of them with commas: `mon-fri,sun`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        if text == "daily" {
            return Ok(Self::default());
        }
        let day = |name: &str| {
            let found = NAMES.iter().position(|known| *known == name.trim());
            found.ok_or_else(|| format!("`{name}` is no day; write `mon`, `tue`, ..., `mon-fri` or `daily`"))
        };
        let mut days = [false; 7];
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            let length = (last + 7 - first) % 7;
            (0..=length).for_each(|step| days[(first + step) % 7] = true);
        }
        Ok(Self(days))
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("daily");
        }
        let names: Vec<_> = NAMES.iter().zip(self.0).filter_map(|(name, on)| on.then_some(*name)).collect();
        f.write_str(&names.join(","))
    }
}

/// A time of day, in minutes since midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockTime(pub u16);

impl ClockTime {
    /// Reads `07:30`; `24:00` is the end of the day.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no time of day; write it like `\"07:30\"`");
        let (hours, minutes) = text.trim().split_once(':').ok_or_else(wrong)?;
        let (hours, minutes): (u16, u16) =
            (hours.parse().map_err(|_| wrong())?, minutes.parse().map_err(|_| wrong())?);
        let whole = hours.checked_mul(60).map(|hours| hours + minutes.min(60));
        whole.filter(|whole| *whole <= 24 * 60 && minutes < 60).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// A time zone by its IANA name.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone(pub TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl Zone {
    /// Reads `UTC`, `Europe/Berlin`, ...
    pub fn parse(text: &str) -> Result<Self, String> {
        let found = TimeZone::get(text.trim());
        found.map(Self).map_err(|_| format!("`{text}` is no time zone; write it like `Europe/Berlin`"))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

macro_rules! serialize_as_text {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

serialize_as_text!(Days, ClockTime, Zone);
scalar!(Days, "days such as `mon-fri`, `sat,sun` or `daily`", "^[A-Za-z, -]+$");
scalar!(ClockTime, "a time of day such as `\"07:30\"`", r"^\d{1,2}:\d{2}$");
scalar!(Zone, "a time zone such as `Europe/Berlin`", "^[A-Za-z0-9_/+-]+$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_are_read_as_people_write_them() {
        let days = |text: &str| Days::parse(text).map(|days| days.to_string());
        assert_eq!(days("Mon-Fri").as_deref(), Ok("mon,tue,wed,thu,fri"));
        assert_eq!(days("sat, sun").as_deref(), Ok("sat,sun"));
        assert_eq!(days("fri-mon").as_deref(), Ok("mon,fri,sat,sun"));
        assert_eq!(days("daily").as_deref(), Ok("daily"));
        assert!(days("weekdays").is_err());
        let time = |text: &str| ClockTime::parse(text).map(|time| time.0);
        assert_eq!(time("07:30"), Ok(450));
        assert_eq!(time("24:00"), Ok(1440));
        assert!(
            time("24:01").is_err() && time("7").is_err() && time("07:60").is_err() && time("x:1").is_err()
        );
        assert_eq!(Zone::parse("Europe/Berlin").map(|zone| zone.to_string()).as_deref(), Ok("Europe/Berlin"));
        assert!(Zone::parse("Middle/Earth").is_err());
    }
}
