//! One of a provider's keys: set aside when it is refused, for all models or for one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::told::Noted;
use super::{Left, Millis, Told, doubled, millis};

/// Models remembered per key; of more nothing is noted.
const MAX_MODELS: usize = 256;
/// Pauses of a key that is refused.
const REFUSED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(10));
/// Pauses of a key whose account has no credit.
const QUOTA: (Duration, Duration) = (Duration::from_mins(1), Duration::from_mins(10));
/// Pauses of a key that is over its rate, where the provider names none, and the longest one that is believed.
const LIMITED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// A model may be forbidden for what one request asks of it: only so many in a row are about the key.
const FORBIDDEN: u32 = 3;

/// Why a key is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The provider does not know it, or refuses it (401).
    Refused,
    /// It may not use the model (403).
    Forbidden,
    /// Its account has no credit left.
    Quota,
    /// It is over the provider's rate limit.
    RateLimited,
    /// An answer said that no more calls, or tokens, are left now.
    Paced,
}

impl Reason {
    /// The word for logs, metrics and the admin API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Forbidden => "forbidden",
            Self::Quota => "quota",
            Self::RateLimited => "rate_limited",
            Self::Paced => "paced",
        }
    }
}

/// A pause, and how many there were in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    until: Millis,
    times: u32,
    reason: Option<Reason>,
}

impl Pause {
    /// Begins a pause, unless there is one: calls that were under way together are one reason.
    fn begin(&mut self, reason: Reason, said: Option<Duration>, now: Millis) -> Option<Duration> {
        if now < self.until {
            return None;
        }
        let (first, longest) = match reason {
            Reason::Refused | Reason::Forbidden => REFUSED,
            Reason::Quota => QUOTA,
            Reason::RateLimited | Reason::Paced => LIMITED,
        };
        let length = said.unwrap_or_else(|| doubled(first, self.times, longest)).min(longest);
        self.times = self.times.saturating_add(1);
        self.until = now.saturating_add(millis(length).max(1));
        self.reason = Some(reason);
        Some(length)
    }

    fn wait(&self, now: Millis) -> Option<(Duration, Reason)> {
        let left = self.until.checked_sub(now).filter(|left| *left > 0)?;
        Some((Duration::from_millis(left), self.reason?))
    }
}

/// What is noted of one model.
#[derive(Clone, Copy, Debug, Default)]
struct Model {
    pause: Pause,
    /// 403 in a row.
    forbidden: u32,
    requests: Option<Noted>,
    tokens: Option<Noted>,
}

impl Model {
    /// Nothing of it counts any more.
    fn is_over(&self, now: Millis) -> bool {
        let over = |noted: &Option<Noted>| noted.is_none_or(|noted| noted.over() <= now);
        self.pause.until <= now && over(&self.requests) && over(&self.tokens)
    }
}

#[derive(Debug, Default)]
struct Notes {
    pause: Pause,
    models: HashMap<Box<str>, Model>,
}

impl Notes {
    fn model(&mut self, name: &str, now: Millis) -> Option<&mut Model> {
        if !self.models.contains_key(name) {
            if self.models.len() >= MAX_MODELS {
                self.models.retain(|_, model| !model.is_over(now));
            }
            if self.models.len() >= MAX_MODELS {
                return None;
            }
            self.models.insert(name.into(), Model::default());
        }
        self.models.get_mut(name)
    }
}

/// A key as the admin API shows it for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpareModel {
    /// The provider's name of the model; empty for its own API.
    pub model: Box<str>,
    /// Why it is set aside for this model, and for how long.
    pub aside: (Duration, Reason),
}

/// The state of a key. While nothing is noted a call costs two reads.
#[derive(Debug, Default)]
pub struct Spare {
    /// Until then there may be something to reckon with; 0: nothing is noted. Set under the lock.
    noted: AtomicU64,
    notes: Mutex<Notes>,
}

impl Spare {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_until(&self, until: Millis) {
        self.noted.fetch_max(until, Ordering::Release);
    }

    /// Whether a call of about `tokens` tokens may go out with it; why not, and how long not. `paced` calls keep to what
    /// answers said is left, and take their part of it.
    pub fn take(&self, model: &str, tokens: u64, paced: bool, now: Millis) -> Result<(), (Duration, Reason)> {
        if self.noted.load(Ordering::Acquire) <= now {
            return Ok(());
        }
        let mut notes = self.notes();
        if let Some(aside) = notes.pause.wait(now) {
            return Err(aside);
        }
        let Some(model) = notes.models.get_mut(model) else { return Ok(()) };
        if let Some(aside) = model.pause.wait(now) {
            return Err(aside);
        }
        if paced {
            let wait = |wait| (wait, Reason::Paced);
            // Both or none.
            if let Some(requests) = &model.requests {
                requests.room(1, now).map_err(wait)?;
            }
            if let Some(noted) = &mut model.tokens {
                noted.take(tokens, now).map_err(wait)?;
            }
            if let Some(noted) = &mut model.requests {
                noted.take(1, now).map_err(wait)?;
            }
        }
        Ok(())
    }

    /// Notes what an answer says is left.
    pub fn told(&self, model: &str, told: &Told, now: Millis) {
        // Where nothing is noted, plenty is no news.
        if told.is_plenty() && self.noted.load(Ordering::Acquire) <= now {
            return;
        }
        let mut notes = self.notes();
        let Some(model) = notes.model(model, now) else { return };
        let noted = |said: Option<Left>| said.and_then(|said| Noted::new(&said, now));
        (model.requests, model.tokens) = (noted(told.requests), noted(told.tokens));
        if let Some(over) = [model.requests, model.tokens].iter().flatten().map(Noted::over).max() {
            self.note_until(over);
        }
    }

    /// The provider did not take the key. Gives the pause, where one begins. `said` is how long the provider says.
    pub fn refused(
        &self,
        model: &str,
        reason: Reason,
        said: Option<Duration>,
        now: Millis,
    ) -> Option<Duration> {
        let mut notes = self.notes();
        let pause = match reason {
            Reason::Refused | Reason::Quota => &mut notes.pause,
            Reason::Forbidden => {
                let model = notes.model(model, now)?;
                model.forbidden += 1;
                if model.forbidden < FORBIDDEN {
                    self.note_until(1);
                    return None;
                }
                &mut model.pause
            }
            Reason::RateLimited | Reason::Paced => &mut notes.model(model, now)?.pause,
        };
        let length = pause.begin(reason, said, now)?;
        self.note_until(pause.until);
        Some(length)
    }

    /// The provider took it: pauses begin anew. Costs one read where nothing is noted.
    pub fn taken(&self, model: &str, now: Millis) {
        if self.noted.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut notes = self.notes();
        if notes.pause.until <= now {
            notes.pause = Pause::default();
        }
        if let Some(known) = notes.models.get_mut(model) {
            known.forbidden = 0;
            if known.is_over(now) {
                notes.models.remove(model);
            }
        }
        if notes.models.is_empty() && notes.pause.times == 0 {
            self.noted.store(0, Ordering::Release);
        }
    }

    /// Forgets everything: somebody says that it is good again.
    pub fn forget(&self) {
        let mut notes = self.notes();
        *notes = Notes::default();
        self.noted.store(0, Ordering::Release);
    }

    /// Why it is set aside for all models, and for how long.
    pub fn aside(&self, now: Millis) -> Option<(Duration, Reason)> {
        self.notes().pause.wait(now)
    }

    /// The models that it is set aside for, or that it has nothing left for.
    pub fn models(&self, now: Millis) -> Vec<SpareModel> {
        let notes = self.notes();
        let mut models: Vec<SpareModel> = notes
            .models
            .iter()
            .filter_map(|(name, model)| {
                let paced = |(noted, amount): (Option<Noted>, u64)| {
                    noted?.room(amount, now).err().map(|wait| (wait, Reason::Paced))
                };
                let aside = model
                    .pause
                    .wait(now)
                    .or_else(|| [(model.requests, 1), (model.tokens, 1)].into_iter().find_map(paced))?;
                Some(SpareModel { model: name.clone(), aside })
            })
            .collect();
        models.sort_by(|left, right| left.model.cmp(&right.model));
        models
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Millis = 1000;

    #[expect(clippy::unnecessary_wraps, reason = "as it is compared with")]
    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    #[test]
    fn a_refused_key_rests_longer_each_time_and_for_all_models() {
        let key = Spare::default();
        let mut now = 1;
        for pause in [10, 20, 40, 80, 160, 320, 600, 600] {
            assert_eq!(key.refused("m", Reason::Refused, None, now), seconds(pause));
            assert_eq!(key.refused("m", Reason::Refused, None, now), None, "one pause at a time");
            assert_eq!(key.take("other", 0, true, now).unwrap_err().1, Reason::Refused);
            now += pause * SECOND;
            assert_eq!(key.take("m", 0, true, now), Ok(()));
        }
        key.taken("m", now);
        assert_eq!(key.refused("m", Reason::Refused, None, now), seconds(10));
        key.forget();
        assert_eq!((key.take("m", 0, true, now), key.aside(now)), (Ok(()), None));
    }

    #[test]
    fn a_rate_limit_is_that_of_one_model_and_what_is_said_counts_up_to_a_minute() {
        let key = Spare::default();
        assert_eq!(key.refused("m", Reason::RateLimited, seconds(7), 0), seconds(7));
        assert_eq!(key.take("m", 0, false, 6999), Err((Duration::from_millis(1), Reason::RateLimited)));
        assert_eq!((key.take("other", 0, false, 0), key.take("m", 0, false, 7000)), (Ok(()), Ok(())));
        assert_eq!(key.refused("m", Reason::RateLimited, seconds(3600), 7000), seconds(60));
        assert_eq!(key.refused("n", Reason::RateLimited, None, 0), seconds(1));
        assert_eq!(key.refused("n", Reason::RateLimited, None, SECOND), seconds(2));
    }

    #[test]
    fn no_single_request_can_have_a_key_forbidden() {
        let key = Spare::default();
        for _ in 0..10 {
            assert_eq!(key.refused("m", Reason::Forbidden, None, 0), None);
            assert_eq!(key.refused("m", Reason::Forbidden, None, 0), None);
            key.taken("m", 0);
        }
        for _ in 0..2 {
            assert_eq!(key.refused("m", Reason::Forbidden, None, 0), None);
        }
        assert_eq!(key.refused("m", Reason::Forbidden, None, 0), seconds(10));
        assert_eq!((key.take("m", 0, true, 0).is_err(), key.take("other", 0, true, 0)), (true, Ok(())));
    }

    #[test]
    fn what_answers_say_is_kept_to_by_those_that_can_go_elsewhere() {
        let key = Spare::default();
        let left = |left, limit, reset| Some(Left { left, limit: Some(limit), reset: seconds(reset) });
        key.told("m", &Told { requests: left(400, 500, 1), tokens: left(9000, 10_000, 1) }, 0);
        assert_eq!(key.models(0), []);
        key.told("m", &Told { requests: left(400, 500, 1), tokens: left(1000, 60_000, 59) }, 0);
        assert_eq!(key.take("m", 900, true, 0), Ok(()));
        let (wait, reason) = key.take("m", 900, true, 0).unwrap_err();
        assert_eq!((wait.as_millis(), reason), (801, Reason::Paced));
        assert_eq!((key.take("m", 900, false, 0), key.take("m", 50, true, 0)), (Ok(()), Ok(())));
        assert_eq!(key.take("m", 900, true, 60 * SECOND), Ok(()), "it is over");
        key.told("m", &Told { requests: left(0, 60, 60), tokens: None }, 0);
        assert_eq!(key.models(0).len(), 1);
        key.told("m", &Told { requests: left(60, 60, 0), tokens: None }, 0);
        assert_eq!((key.take("m", 0, true, 0), key.models(0)), (Ok(()), vec![]));
    }

    #[test]
    fn names_that_callers_invent_fill_no_memory() {
        let key = Spare::default();
        for number in 0..1000 {
            let _pause = key.refused(&format!("m{number}"), Reason::RateLimited, None, 0);
        }
        assert_eq!(key.models(0).len(), MAX_MODELS);
        assert_eq!(
            key.refused("late", Reason::RateLimited, None, 2000),
            seconds(1),
            "what is over makes room"
        );
        assert_eq!(key.models(2000).len(), 1);
    }

    #[test]
    fn a_key_that_is_good_again_costs_nothing() {
        let key = Spare::default();
        let _pause = key.refused("m", Reason::Refused, None, 0);
        let _pause = key.refused("m", Reason::RateLimited, None, 0);
        key.taken("m", 5 * SECOND);
        assert_ne!(key.noted.load(Ordering::Relaxed), 0, "the key itself still rests");
        key.taken("m", 10 * SECOND);
        assert_eq!(key.noted.load(Ordering::Relaxed), 0);
    }
}
