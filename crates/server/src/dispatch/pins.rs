//! One version of each model for the whole of a request that asks more than once: a promotion in the middle of it does
//! not mix two versions' answers.

use std::sync::{Arc, Mutex, PoisonError};

use millgate_models::{Deployment, LiveModel};

/// The versions that a request has met.
#[derive(Default)]
pub(crate) struct Pins(Mutex<Vec<(Arc<Deployment>, LiveModel)>>);

impl Pins {
    /// The version of a model: the one that the request met first. `None` where none serves.
    pub(crate) fn live(&self, deployment: &Arc<Deployment>) -> Option<LiveModel> {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, live)) = pins.iter().find(|(known, _)| Arc::ptr_eq(known, deployment)) {
            return Some(live.clone());
        }
        let live = deployment.live_model()?;
        pins.push((Arc::clone(deployment), live.clone()));
        Some(live)
    }

    /// The version that answers, where only one does.
    pub(crate) fn only(&self) -> Option<LiveModel> {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let [(_, live)] = pins.as_slice() { Some(live.clone()) } else { None }
    }
}
