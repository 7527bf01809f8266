//! All deployments of a gateway.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::deployment::{Deployment, DeploymentSpec};
use crate::follow::follow;
use crate::settings::ModelSettings;

/// How long a shutdown waits for workers.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Holds the deployments, and the runtime their tasks live on.
pub struct Models {
    settings: Arc<ModelSettings>,
    handle: Handle,
    deployments: Mutex<Vec<Arc<Deployment>>>,
    /// Cloned into every task and worker; gone from here at shutdown.
    alive: Mutex<Option<mpsc::Sender<()>>>,
    gone: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Models {
    /// Nothing is started yet. Registry calls and workers will live on `handle`.
    #[must_use]
    pub fn new(mut settings: ModelSettings, handle: Handle) -> Arc<Self> {
        // Workers and installers start in folders of their own.
        let absolute = |path: &mut PathBuf| {
            if let Ok(full) = std::path::absolute(&*path) {
                *path = full;
            }
        };
        absolute(&mut settings.data_dir);
        absolute(&mut settings.launcher);
        let paths =
            [&mut settings.python, &mut settings.wheelhouse, &mut settings.uv, &mut settings.onnx_library];
        paths.into_iter().flatten().for_each(absolute);
        let (alive, gone) = mpsc::channel(1);
        Arc::new(Self {
            settings: Arc::new(settings),
            handle,
            deployments: Mutex::default(),
            alive: Mutex::new(Some(alive)),
            gone: tokio::sync::Mutex::new(gone),
        })
    }

    /// What it was made with.
    pub fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    /// The runtime that registries are called on.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Starts a deployment, or answers the running one whose spec is equal.
    pub fn deploy(&self, spec: DeploymentSpec) -> Arc<Deployment> {
        let mut deployments = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = deployments.iter().find(|running| running.spec == spec) {
            return running.clone();
        }
        let deployment = Deployment::new(spec, self.handle.clone());
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(alive) = alive {
            self.handle.spawn(follow(deployment.clone(), self.settings.clone(), alive));
            deployments.push(deployment.clone());
        }
        deployment
    }

    /// All running deployments.
    pub fn deployments(&self) -> Vec<Arc<Deployment>> {
        self.deployments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops every deployment that is not in `used`. Requests in flight finish.
    pub fn retain(&self, used: &[Arc<Deployment>]) {
        let mut deployments = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        deployments.retain(|deployment| {
            let keep = used.iter().any(|used| Arc::ptr_eq(used, deployment));
            if !keep {
                deployment.stop.send_replace(true);
            }
            keep
        });
    }

    /// Stops everything; answers when all workers are gone, after 10 s at the latest. Workers that are still
    /// there then are killed with the runtime.
    pub async fn shutdown(&self) {
        self.retain(&[]);
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut gone = self.gone.lock().await;
        let _ = tokio::time::timeout(SHUTDOWN, gone.recv()).await;
    }
}
