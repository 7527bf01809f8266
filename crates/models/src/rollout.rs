//! Going back: the version that served before stays loaded for a while, and a version that was rolled back from is not
//! loaded again just because the registry still names it.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millgate_types::{Fault, ModelRef, VersionSelector, code};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::deployment::Deployment;
use crate::follow;
use crate::live::{Live, Runtime};

/// Pause between two looks at what is kept.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// The share of the machine's memory that must be free for a version to be kept beside the one that serves.
const FREE_MEMORY: f64 = 0.05;

/// Why a version is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolledBackBy {
    /// Somebody asked for it.
    Operator,
    /// Its workers kept dying.
    Crashes,
}

/// A version that the registry may go on naming, and the one that serves instead. Ends when the registry names yet
/// another version and that one is live, or by [`Deployment::resume`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hold {
    /// The version that was rolled back from.
    pub rejected: String,
    /// The version that serves, or is being loaded to serve.
    pub version: String,
    /// Who rolled back.
    pub by: RolledBackBy,
}

/// A hold as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    hold: Hold,
    /// The registry's identity of the rejected version: the same number made anew is another one.
    identity: String,
}

/// The version that is kept loaded beside the one that serves.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Kept {
    /// Its number.
    pub version: Arc<str>,
    /// `native`, `onnx` or `worker`.
    pub runtime: &'static str,
    /// Seconds until it is let go.
    pub seconds_left: u64,
}

/// What a roll-back or its end did.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Switched {
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// The version that served before.
    pub from: Option<Arc<str>>,
    /// The version that serves, or is being loaded to serve; `None`: the one that the registry names.
    pub to: Option<String>,
    /// Whether it serves already; else it is being loaded, and the status says how far it is.
    pub live: bool,
}

/// What a deployment can go back to.
#[derive(Default)]
pub(crate) struct Rollout {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Option<(Arc<Live>, Instant)>,
    /// The version before the present one, also when it is not kept any more.
    before: Option<String>,
    held: Option<Held>,
    /// Where a hold is written down.
    file: Option<PathBuf>,
}

impl Rollout {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the hold that an earlier process wrote down.
    pub(crate) fn recall(&self, data_dir: &Path, endpoint: &str, model: &ModelRef) {
        let name = millgate_types::hex(&Sha256::digest(format!("{endpoint}\n{model}")));
        let file = data_dir.join("rollouts").join(format!("{name}.json"));
        let mut state = self.state();
        state.held = fs::read(&file).ok().and_then(|text| match serde_json::from_slice(&text) {
            Ok(held) => Some(held),
            Err(error) => {
                tracing::warn!(endpoint, %error, "a roll-back that was written down cannot be read");
                None
            }
        });
        state.file = Some(file);
    }

    pub(crate) fn hold(&self) -> Option<Hold> {
        self.state().held.as_ref().map(|held| held.hold.clone())
    }

    pub(crate) fn kept(&self) -> Option<Kept> {
        let state = self.state();
        let (live, until) = state.kept.as_ref()?;
        Some(Kept {
            version: live.version.clone(),
            runtime: live.runtime.name(),
            seconds_left: until.saturating_duration_since(Instant::now()).as_secs(),
        })
    }

    /// The version to serve instead of the one with this identity.
    pub(crate) fn instead_of(&self, identity: &str) -> Option<u64> {
        let state = self.state();
        let held = state.held.as_ref().filter(|held| held.identity == identity)?;
        held.hold.version.parse().ok()
    }
}

impl Deployment {
    /// Puts a loaded version into service and keeps the one before it for a while. `false`: it was rolled back from
    /// while it was being loaded.
    pub(crate) fn put_live(&self, live: Arc<Live>) -> bool {
        let mut state = self.rollout.state();
        if state.held.as_ref().is_some_and(|held| held.identity == live.identity) {
            return false;
        }
        if state.held.as_ref().is_some_and(|held| held.hold.version != *live.version) {
            // The registry moved on to another version: the hold has done its work.
            state.hold(None).unwrap_or_else(|error| complain(self, &error));
        }
        self.switch(&mut state, live);
        true
    }

    /// Requests that hold the old version finish on it.
    fn switch(&self, state: &mut State, live: Arc<Live>) {
        follow::announce(self, &live);
        let old = self.live.swap(Some(live));
        self.problem.store(None);
        self.ready.send_replace(true);
        state.kept = None;
        let Some(old) = old else { return };
        state.before = Some(old.version.to_string());
        let keep = self.spec.keep_previous;
        if keep.is_zero() {
            return;
        }
        if memory_is_short() {
            tracing::info!(endpoint = %self.spec.endpoint, version = %old.version, "too little memory to keep it");
            return;
        }
        state.kept = Some((old, Instant::now() + keep));
    }

    /// Goes back to version `to`, or to the one before the present one: at once where it is still loaded, else as soon
    /// as it is. The version that served is not loaded again until the registry names another one, or [`Self::resume`];
    /// that holds over restarts. Faults: `invalid_value`, `model_unavailable`, `internal_error`.
    pub fn roll_back(&self, to: Option<&str>) -> Result<Switched, Fault> {
        self.roll_back_by(RolledBackBy::Operator, to)
    }

    fn roll_back_by(&self, by: RolledBackBy, to: Option<&str>) -> Result<Switched, Fault> {
        let endpoint = self.spec.endpoint.clone();
        let ModelRef::Registered { selector, .. } = &self.spec.model else {
            let text = format!("`{endpoint}` serves one model for ever: there is nothing to go back to");
            return Err(Fault::invalid_value("endpoint", text));
        };
        if matches!(selector, VersionSelector::Version(_)) {
            let text = format!("the route of `{endpoint}` names its version; change it there");
            return Err(Fault::invalid_value("endpoint", text));
        }
        if let Some(to) = to.filter(|to| to.parse::<u64>().is_err()) {
            let shown: String = to.chars().take(64).collect();
            return Err(Fault::invalid_value("to", format!("`{shown}` is no version number")));
        }
        let mut state = self.rollout.state();
        let current = self.live.load_full();
        let Some(current) = current else {
            let text = format!("no version of `{endpoint}` is live");
            return Err(Fault::gateway(code::MODEL_UNAVAILABLE, text));
        };
        let version = match (to, &state.held) {
            (Some(to), _) => to.to_owned(),
            (None, Some(Held { hold: Hold { version, rejected, .. }, .. })) => {
                let text = format!(
                    "`{endpoint}` went back from version {rejected} to {version} already: name a version, or resume"
                );
                return Err(Fault::invalid_value("to", text));
            }
            (None, None) => state.before.clone().ok_or_else(|| {
                let text = format!("no version of `{endpoint}` served before {}: name one", current.version);
                Fault::invalid_value("to", text)
            })?,
        };
        if version == *current.version {
            return Err(Fault::invalid_value("to", format!("version {version} is the one that serves")));
        }
        // A second step back still holds the version that the registry names.
        let held = state.held.as_ref().map(|held| (held.hold.rejected.clone(), held.identity.clone()));
        let (rejected, identity) =
            held.unwrap_or_else(|| (current.version.to_string(), current.identity.clone()));
        let forward = version == rejected;
        let hold = Hold { rejected, version: version.clone(), by };
        state.hold((!forward).then_some(Held { hold, identity })).map_err(|error| {
            let text = "the roll-back could not be written down, so nothing was changed";
            Fault::gateway(code::INTERNAL_ERROR, text).with_cause(error)
        })?;
        let live = self.take_kept(&mut state, &version);
        tracing::warn!(%endpoint, from = %current.version, to = version, ?by, instant = live, "rolled back");
        drop(state);
        self.wake.notify_one();
        Ok(Switched { endpoint, from: Some(current.version.clone()), to: Some(version), live })
    }

    /// Follows the registry again after a roll-back. Faults: `invalid_value` where nothing is held.
    pub fn resume(&self) -> Result<Switched, Fault> {
        let endpoint = self.spec.endpoint.clone();
        let mut state = self.rollout.state();
        let Some(held) = state.held.clone() else {
            let text = format!("`{endpoint}` follows the registry already");
            return Err(Fault::invalid_value("endpoint", text));
        };
        state.hold(None).map_err(|error| {
            let text = "the end of the roll-back could not be written down, so nothing was changed";
            Fault::gateway(code::INTERNAL_ERROR, text).with_cause(error)
        })?;
        let from = self.live.load().as_ref().map(|live| live.version.clone());
        tracing::info!(%endpoint, held = held.hold.rejected, "follows the registry again");
        drop(state);
        // What the registry names may be another version by now: the follower asks, and takes the kept one if it is it.
        self.wake.notify_one();
        Ok(Switched { endpoint, from, to: None, live: false })
    }

    /// Serves the kept version if it is this one.
    fn take_kept(&self, state: &mut State, version: &str) -> bool {
        let Some((kept, _)) = state.kept.take_if(|(kept, _)| *kept.version == *version) else { return false };
        self.switch(state, kept);
        true
    }

    /// Serves the kept version if it has this identity: nothing need be loaded.
    pub(crate) fn revive(&self, identity: &str) -> bool {
        let mut state = self.rollout.state();
        let Some((kept, _)) = state.kept.take_if(|(kept, _)| kept.identity == identity) else { return false };
        if state.held.as_ref().is_some_and(|held| held.hold.version != *kept.version) {
            state.hold(None).unwrap_or_else(|error| complain(self, &error));
        }
        self.switch(&mut state, kept);
        true
    }

    /// Lets the kept version go when its time is over or memory is short, and goes back to it when the workers of the
    /// present one keep dying. Never ends.
    pub(crate) async fn tend(&self) -> Infallible {
        loop {
            tokio::time::sleep(TEND_EVERY).await;
            let over = |until: Instant| until <= Instant::now() || memory_is_short();
            let let_go = self.rollout.state().kept.take_if(|(_, until)| over(*until));
            if let Some((old, _)) = let_go {
                tracing::debug!(endpoint = %self.spec.endpoint, version = %old.version, "not kept any longer");
            }
            let broken = self.live.load().as_ref().is_some_and(|live| match &live.runtime {
                Runtime::Worker(pool) => pool.is_broken(),
                Runtime::Native(_) => false,
            });
            if broken && self.rollout.kept().is_some() && self.rollout.hold().is_none() {
                let _ = self.roll_back_by(RolledBackBy::Crashes, None);
            }
        }
    }
}

fn complain(deployment: &Deployment, error: &std::io::Error) {
    tracing::warn!(endpoint = %deployment.spec.endpoint, %error, "the end of a roll-back cannot be written down");
}

impl State {
    /// Changes the hold, on disk first.
    fn hold(&mut self, held: Option<Held>) -> std::io::Result<()> {
        if let Some(file) = &self.file {
            match &held {
                Some(held) => write(file, &serde_json::to_vec(held)?)?,
                None => match fs::remove_file(file) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
            }
        }
        self.held = held;
        Ok(())
    }
}

/// Whole or not at all, and on the disk when it returns.
fn write(file: &Path, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = file.parent().unwrap_or(Path::new("."));
    crate::artifacts::private_dir(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(text)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    fs::File::open(folder)?.sync_all()
}

/// Whether the machine has little memory left. Unknown is no.
fn memory_is_short() -> bool {
    let Ok(text) = fs::read_to_string("/proc/meminfo") else { return false };
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    match (field("MemAvailable:"), field("MemTotal:")) {
        (Some(available), Some(total)) => available < total * FREE_MEMORY,
        _ => false,
    }
}
