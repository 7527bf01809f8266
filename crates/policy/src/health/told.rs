//! What a provider's answers say of its rate limits.

use std::time::Duration;

use super::{Millis, millis};

/// How long "nothing is left" is believed where nothing is said of its end.
const A_MOMENT: Duration = Duration::from_secs(1);
/// Nothing is believed for longer.
const LONGEST: Duration = Duration::from_mins(1);
/// So much is plenty where the limit is not known.
const PLENTY: u64 = 1 << 20;

/// What is left of one limit, as an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// How much.
    pub left: u64,
    /// Of how much.
    pub limit: Option<u64>,
    /// Until all of it is there again.
    pub reset: Option<Duration>,
}

impl Left {
    /// Too much is left to be worth a note.
    fn is_plenty(&self) -> bool {
        self.left > 0 && self.left >= self.limit.map_or(PLENTY, |limit| limit / 2)
    }
}

/// What is left of a provider's limits. Fields are `None` where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Calls.
    pub requests: Option<Left>,
    /// Tokens, of prompt and answer or of the prompt only.
    pub tokens: Option<Left>,
}

impl Told {
    /// There is plenty of all.
    pub(super) fn is_plenty(&self) -> bool {
        [self.requests, self.tokens].iter().flatten().all(Left::is_plenty)
    }
}

/// What was left at a time. It fills up evenly to the limit, as the limits of OpenAI, Groq and Anthropic do; where the
/// limit is not known, all at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    left: u64,
    limit: Option<u64>,
    at: Millis,
    /// What fills up, in how many milliseconds.
    pace: (u64, Millis),
    over: Millis,
}

impl Noted {
    /// `None` where there is nothing to reckon with.
    pub(super) fn new(said: &Left, now: Millis) -> Option<Self> {
        if said.is_plenty() {
            return None;
        }
        let reset = match said.reset {
            Some(reset) => reset,
            None if said.left == 0 => A_MOMENT,
            None => return None,
        };
        let missing = said.limit.map_or(0, |limit| limit.saturating_sub(said.left));
        Some(Self {
            left: said.left,
            limit: said.limit,
            at: now,
            pace: (missing, millis(reset)),
            over: now.saturating_add(millis(reset.min(LONGEST))),
        })
    }

    /// When what was said is over.
    pub(super) fn over(&self) -> Millis {
        self.over
    }

    /// Takes `amount`, or says how long it is not there. What was said counts until it is over.
    pub(super) fn take(&mut self, amount: u64, now: Millis) -> Result<(), Duration> {
        let there = self.room(amount, now)?;
        if let Some(there) = there {
            (self.left, self.at) = (there.saturating_sub(amount), now);
        }
        Ok(())
    }

    /// How much is there, when it is enough; `None`: what was said is over.
    pub(super) fn room(&self, amount: u64, now: Millis) -> Result<Option<u64>, Duration> {
        let Some(rest) = self.over.checked_sub(now).filter(|rest| *rest > 0) else { return Ok(None) };
        let (units, length) = self.pace;
        let there = self.left.saturating_add(part(units, now.saturating_sub(self.at), length));
        let there = self.limit.map_or(there, |limit| there.min(limit));
        if amount <= there {
            return Ok(Some(there));
        }
        // What is more than the limit never fits.
        let fills = units > 0 && self.limit.is_some_and(|limit| amount <= limit);
        let wait = if fills { part(length, amount - there, units).saturating_add(1).min(rest) } else { rest };
        Err(Duration::from_millis(wait))
    }
}

/// `whole * part / of`.
fn part(whole: u64, part: u64, of: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(part) / u128::from(of.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(left: u64, limit: Option<u64>, seconds: Option<u64>) -> Left {
        Left { left, limit, reset: seconds.map(Duration::from_secs) }
    }

    #[test]
    fn nothing_is_sent_before_there_is_room_again() {
        // Without a limit: all at once, at the reset.
        let mut noted = Noted::new(&left(0, None, Some(10)), 1000).unwrap();
        assert_eq!(noted.take(1, 1000), Err(Duration::from_secs(10)));
        assert_eq!(noted.take(1, 10_999), Err(Duration::from_millis(1)));
        assert_eq!(noted.take(1, 11_000), Ok(()));
        // With one: evenly. 60 a minute is one a second.
        let mut noted = Noted::new(&left(0, Some(60), Some(60)), 0).unwrap();
        let wait = noted.take(1, 0).unwrap_err();
        assert!((1000..=1001).contains(&wait.as_millis()), "{wait:?}");
        assert_eq!(noted.take(1, 1001), Ok(()));
        assert!(noted.take(1, 1500).is_err(), "what was taken is gone");
        assert_eq!(noted.take(1, 2100), Ok(()));
    }

    #[test]
    fn no_more_is_taken_than_was_said_to_be_left() {
        let mut noted = Noted::new(&left(3, None, Some(5)), 0).unwrap();
        assert_eq!((0..10).filter(|_| noted.take(1, 0).is_ok()).count(), 3);
        let mut noted = Noted::new(&left(300, Some(1000), Some(7)), 0).unwrap();
        assert_eq!(noted.take(250, 0), Ok(()));
        // 700 in 7 s: 150 more are there after a second and a half.
        let wait = noted.take(200, 0).unwrap_err();
        assert!((1490..=1510).contains(&wait.as_millis()), "{wait:?}");
        // More than the limit: not before all that was said is over.
        assert_eq!(noted.take(2000, 0), Err(Duration::from_secs(7)));
    }

    #[test]
    fn plenty_and_silence_are_not_noted_and_words_have_an_end() {
        assert!(Noted::new(&left(600, Some(1000), Some(5)), 0).is_none());
        assert!(Noted::new(&left(7, Some(1000), None), 0).is_none(), "nobody says until when");
        let mut noted = Noted::new(&left(0, Some(1000), None), 0).unwrap();
        assert_eq!((noted.take(1, 0).is_err(), noted.take(1, 1000)), (true, Ok(())));
        let day = Noted::new(&left(0, None, Some(86_400)), 0).unwrap();
        assert_eq!(day.over(), 60_000);
    }

    /// Over a minute, a limit of N a minute that is used up admits N, within one.
    #[test]
    fn what_is_admitted_follows_the_limit() {
        for limit in [6_u64, 60, 600] {
            let mut noted = Noted::new(&left(0, Some(limit), Some(60)), 0).unwrap();
            let admitted = (0..60_000).filter(|now| noted.take(1, *now).is_ok()).count() as u64;
            assert!((limit - 1..=limit + 1).contains(&admitted), "{admitted} of {limit}");
        }
    }
}
