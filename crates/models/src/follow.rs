//! The task that owns a deployment: asks the registry, loads what it names, swaps it in. A failure of the new
//! never touches the old.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use millgate_types::{ModelRef, VersionSelector};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::deployment::{Deployment, DeploymentState, DeploymentStatus, Problem};
use crate::live::{self, Live, LoadError};
use crate::registry::{RegistryError, Resolved};
use crate::settings::ModelSettings;

/// Pauses between two tries to load a version that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(10));
/// The longest pause while the registry is down or has no such model.
const REGISTRY_PAUSE: Duration = Duration::from_secs(5);

/// A version that could not be loaded.
struct FailedVersion {
    identity: String,
    again: Instant,
    pause: Duration,
}

pub(crate) async fn follow(
    deployment: Arc<Deployment>,
    settings: Arc<ModelSettings>,
    alive: mpsc::Sender<()>,
) {
    let mut stop = deployment.stop.subscribe();
    let mut failed: Option<FailedVersion> = None;
    deployment.rollout.recall(&settings.data_dir, &deployment.spec.endpoint, &deployment.spec.model);
    let mut tend = pin!(deployment.tend());
    loop {
        let pause = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            never = &mut tend => match never {},
            pause = step(&deployment, &settings, &alive, &mut failed) => pause,
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            never = &mut tend => match never {},
            () = tokio::time::sleep(pause) => {}
            () = deployment.wake.notified() => {}
        }
    }
    deployment.ready.send_replace(false);
    deployment.live.store(None);
    deployment
        .problem
        .store(Some(Arc::new(Problem { registry: false, text: "the deployment was stopped".to_owned() })));
    update(&deployment, |status| {
        status.state = DeploymentState::Gone;
        status.next = None;
    });
}

fn update(deployment: &Deployment, change: impl Fn(&mut DeploymentStatus)) {
    deployment.status.rcu(|status| {
        let mut status = DeploymentStatus::clone(status);
        change(&mut status);
        status
    });
}

/// One look at the registry; answers the pause until the next.
async fn step(
    deployment: &Deployment,
    settings: &ModelSettings,
    alive: &mpsc::Sender<()>,
    failed: &mut Option<FailedVersion>,
) -> Duration {
    let spec = &deployment.spec;
    let poll = spec.registry.config().poll_interval.max(Duration::from_millis(50));
    let resolved = match resolve(deployment).await {
        Ok(resolved) => resolved,
        Err(error) => {
            let pause = poll.min(REGISTRY_PAUSE);
            complain(deployment, LoadError::Registry(error), pause);
            return pause;
        }
    };
    let current = deployment.live.load_full();
    if current.as_ref().is_some_and(|live| live.identity == resolved.identity) {
        *failed = None;
        update(deployment, |status| {
            (status.next, status.reason, status.next_try_seconds) = (None, None, None);
        });
        return if is_pinned(&spec.model) { poll.max(Duration::from_mins(1)) } else { poll };
    }
    if deployment.revive(&resolved.identity) {
        *failed = None;
        return poll;
    }
    if let Some(failed) = failed.as_ref().filter(|failed| failed.identity == resolved.identity)
        && failed.again > Instant::now()
    {
        return poll.min(failed.again - Instant::now());
    }
    let began = Instant::now();
    let note = |state| {
        tracing::debug!(endpoint = %spec.endpoint, version = resolved.version, ?state, "model");
        update(deployment, |status| {
            status.next = Some((resolved.version.clone(), state));
            if status.version.is_none() {
                status.state = state;
            }
        });
    };
    match live::load(deployment, settings, alive, &resolved, note).await {
        Ok(live) => {
            tracing::info!(
                endpoint = %spec.endpoint,
                registry = spec.registry.name(),
                model = %spec.model,
                version = resolved.version,
                runtime = live.runtime.name(),
                reason = live.runtime_reason,
                milliseconds = began.elapsed().as_millis() as u64,
                "model is live"
            );
            *failed = None;
            if deployment.put_live(Arc::new(live)) {
                return poll;
            }
            update(deployment, |status| status.next = None);
            Duration::ZERO
        }
        Err(error) => {
            // The registry may be down only for the download.
            let transient = matches!(&error, LoadError::Registry(RegistryError::Unreachable { .. }));
            let pause = if transient {
                poll.min(REGISTRY_PAUSE)
            } else {
                let before = failed.take().filter(|failed| failed.identity == resolved.identity);
                let pause = before.map_or(BACKOFF.0, |failed| (failed.pause * 2).min(BACKOFF.1));
                *failed = Some(FailedVersion {
                    identity: resolved.identity.clone(),
                    again: Instant::now() + pause,
                    pause,
                });
                pause
            };
            let error = match error {
                LoadError::Model(text) => LoadError::Model(format!("version {}: {text}", resolved.version)),
                error @ LoadError::Registry(_) => error,
            };
            complain(deployment, error, pause);
            poll.min(pause)
        }
    }
}

/// A reference that names one version for ever.
fn is_pinned(model: &ModelRef) -> bool {
    match model {
        ModelRef::Registered { selector, .. } => matches!(selector, VersionSelector::Version(_)),
        ModelRef::Logged(_) | ModelRef::Run { .. } => true,
        ModelRef::Path(_) => false,
    }
}

/// Which version should serve: the one that the registry names, or the one that was gone back to from it.
async fn resolve(deployment: &Deployment) -> Result<Resolved, RegistryError> {
    let spec = &deployment.spec;
    let named = spec.registry.resolve(&spec.model).await?;
    match (&spec.model, deployment.rollout.instead_of(&named.identity)) {
        (ModelRef::Registered { name, .. }, Some(version)) => {
            let selector = VersionSelector::Version(version);
            spec.registry.resolve(&ModelRef::Registered { name: name.clone(), selector }).await
        }
        _ => Ok(named),
    }
}

/// The status of a version that serves from now on.
pub(crate) fn announce(deployment: &Deployment, live: &Live) {
    update(deployment, |status| {
        status.state = DeploymentState::Live;
        status.version = Some(live.version.clone());
        status.runtime = Some(live.runtime.name());
        status.runtime_reason = Some(live.runtime_reason.clone());
        status.digest = Some(live.digest.clone());
        status.mlflow_version = live::mlflow_version(live);
        (status.next, status.reason, status.next_try_seconds) = (None, None, None);
    });
}

fn complain(deployment: &Deployment, error: LoadError, pause: Duration) {
    let spec = &deployment.spec;
    let (registry, text) = match error {
        LoadError::Registry(error @ RegistryError::Unreachable { .. }) => (true, error.to_string()),
        LoadError::Registry(error) => (false, error.to_string()),
        LoadError::Model(text) => {
            let model = deployment.status.load().model.clone();
            (false, format!("model `{model}` of registry `{}`: {text}", spec.registry.name()))
        }
    };
    let known = deployment.status.load().reason.as_ref() == Some(&text);
    if !known {
        tracing::warn!(endpoint = %spec.endpoint, reason = text, "model");
    }
    deployment.problem.store(Some(Arc::new(Problem { registry, text: text.clone() })));
    let serving = deployment.live.load().is_some();
    update(deployment, |status| {
        status.state = if serving { DeploymentState::Live } else { DeploymentState::Failed };
        status.next = None;
        status.reason = Some(text.clone());
        status.next_try_seconds = Some(pause.as_secs_f64().ceil() as u64);
    });
}
