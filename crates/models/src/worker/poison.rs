//! Requests that killed workers. After the second death a request is turned away before it reaches a third.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Requests remembered; the oldest is forgotten first.
const KEPT: usize = 256;
/// Deaths after which a request is turned away.
const DEATHS: u8 = 2;

#[derive(Default)]
pub(super) struct Poison {
    /// So that a healthy pool never computes a fingerprint.
    count: AtomicUsize,
    known: Mutex<VecDeque<(u64, u8)>>,
}

impl Poison {
    /// Notes a death that a request caused alone.
    pub(super) fn note(&self, fingerprint: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.iter_mut().find(|(seen, _)| *seen == fingerprint) {
            Some((_, deaths)) => *deaths = deaths.saturating_add(1),
            None => {
                if known.len() == KEPT {
                    known.pop_front();
                }
                known.push_back((fingerprint, 1));
            }
        }
        self.count.store(known.len(), Ordering::Relaxed);
    }

    /// Whether a request is one that kills workers.
    pub(super) fn is_known(&self, fingerprint: impl FnOnce() -> u64) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let fingerprint = fingerprint();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|(seen, deaths)| *seen == fingerprint && *deaths >= DEATHS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_death_is_remembered_and_the_oldest_forgotten() {
        let poison = Poison::default();
        assert!(!poison.is_known(|| unreachable!("nothing is known yet")));
        poison.note(1);
        assert!(!poison.is_known(|| 1));
        poison.note(1);
        assert!(poison.is_known(|| 1) && !poison.is_known(|| 2));
        (2..2 + KEPT as u64).for_each(|other| poison.note(other));
        assert!(!poison.is_known(|| 1));
    }
}
