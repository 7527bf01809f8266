//! The running gateway: the current snapshot, and what outlives snapshots.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use millgate_audit::Audit;
use millgate_config::Config;
use millgate_credential::Credential;
use millgate_models::{Deployment, DeploymentStatus, Models, Registry};
use millgate_observe::{Metrics, Recorder};
use millgate_policy::Now;
use millgate_policy::health::Millis;
use millgate_store::{Store, StoreError};
use millgate_types::{Fault, code};
use serde::Serialize;

use crate::ConfigSource;
use crate::admin;
use crate::dispatch::mismatches;
use crate::documents::Documents;
use crate::granted::Granted;
use crate::keys::{Keys, now_ms};
use crate::ledger::{Begun, Ledger};
use crate::limits::Rule;
use crate::secrets::Secrets;
use crate::shared::Counters;
use crate::snapshot::{Builder, Snapshot, registry};

/// Pause between two tries to read what was spent, where the store was away at the start.
const AGAIN: Duration = Duration::from_secs(1);

/// Everything that requests share.
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    builder: Mutex<Builder>,
    models: Arc<Models>,
    /// Metrics, also fed by [`Recorder`].
    pub metrics: Arc<Metrics>,
    pub(crate) recorder: Recorder,
    /// Keys issued at run time, where there is a store.
    pub(crate) keys: Option<Arc<Keys>>,
    pub(crate) audit: Option<Arc<Audit>>,
    /// What outlives the process.
    pub(crate) store: Option<Store>,
    pub(crate) secrets: Option<Arc<Secrets>>,
    documents: OnceLock<Documents>,
    /// The admin API changes one thing at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) ledger: Option<Arc<Ledger>>,
    /// Counts that hold across replicas.
    pub(crate) shared: Option<Arc<Counters>>,
    draining: AtomicBool,
    /// The zero of the limiters' clock.
    epoch: Instant,
}

/// What outlives the process.
#[derive(Debug)]
pub struct Kept {
    /// Keys issued at run time.
    pub keys: Arc<Keys>,
    /// The audit log.
    pub audit: Arc<Audit>,
    /// Where everything else is kept.
    pub store: Store,
    /// Secrets that the configuration refers to.
    pub secrets: Arc<Secrets>,
    /// What was spent.
    pub ledger: Arc<Ledger>,
    /// Counts that hold across replicas, where the configuration names a server for them.
    pub shared: Option<Arc<Counters>>,
}

/// Why a checked config could not be put to use; the old one stays.
#[derive(Debug, PartialEq, Eq)]
pub struct ApplyError(pub String);

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ApplyError {}

/// What `/readyz` says.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Requests are welcome.
    pub ready: bool,
    /// The gateway is shutting down.
    pub draining: bool,
    /// Every registered model and what it is doing.
    pub models: Vec<DeploymentStatus>,
    /// Chains and ensembles whose models do not go together now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteProblem>,
}

/// Why an endpoint's route cannot answer, or not always.
#[derive(Debug, Serialize)]
pub struct RouteProblem {
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// Which models do not go together, and why.
    pub reason: String,
}

impl Gateway {
    /// Whether no call is made before the store knows what it may cost.
    pub(crate) fn is_durable(&self) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.durable)
    }

    /// A gateway that serves `config`; with `kept`, issued keys are good
    /// beside the configured ones and changes are audited; so are requests where the configuration says so.
    pub fn new(
        config: &Config,
        models: Arc<Models>,
        metrics: Arc<Metrics>,
        recorder: Recorder,
        kept: Option<Kept>,
    ) -> Result<Arc<Self>, ApplyError> {
        let shared = kept.as_ref().and_then(|kept| kept.shared.clone());
        let (keys, audit, store, secrets, ledger) = match kept {
            Some(kept) => {
                (Some(kept.keys), Some(kept.audit), Some(kept.store), Some(kept.secrets), Some(kept.ledger))
            }
            None => (None, None, None, None, None),
        };
        if let Some(ledger) = ledger.clone() {
            recorder.tell(move |record| ledger.record(record));
        }
        if let Some(audit) = audit.clone().filter(|_| config.audit.calls) {
            recorder.copy_to(move |exchange, line| audit.submit(admin::call(exchange, line, &audit)));
        }
        let mut builder = Builder::new(Arc::clone(&models));
        let snapshot = builder.build(config).map_err(ApplyError)?;
        metrics.config_generation.set(snapshot.generation as i64);
        Ok(Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            builder: Mutex::new(builder),
            models,
            metrics,
            recorder,
            keys,
            audit,
            store,
            secrets,
            documents: OnceLock::new(),
            changing: tokio::sync::Mutex::new(()),
            ledger,
            shared,
            draining: AtomicBool::new(false),
            epoch: Instant::now(),
        }))
    }

    /// From where `config` was read, and its text: the admin API shows it and, where it is a file, may replace it.
    /// Call it once, before changes of the file are followed.
    pub async fn keep_document(&self, file: Option<ConfigSource>, text: &str) {
        let documents = Documents::new(self.store.clone(), file, text).await;
        let _once = self.documents.set(documents);
    }

    pub(crate) fn documents(&self) -> Option<&Documents> {
        self.documents.get()
    }

    /// Serves `config` from the next request on. Requests under way finish on what they began with. On an
    /// error nothing has changed.
    pub fn apply(&self, config: &Config) -> Result<u64, ApplyError> {
        self.apply_when(config, || Ok(())).map_err(|fault| match fault.cause {
            Some(cause) => ApplyError(cause.to_string()),
            None => ApplyError(fault.public.into_owned()),
        })
    }

    /// The same, if `commit` agrees once everything is ready. Faults: `invalid_config`, those of `commit`.
    pub(crate) fn apply_when(
        &self,
        config: &Config,
        commit: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<u64, Fault> {
        let mut builder = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.snapshot.load_full();
        let refused = |error: String| {
            let text = "the configuration cannot be put to use; the log knows why";
            Fault::client(code::INVALID_CONFIG, text).with_cause(error)
        };
        let built = builder.build(config).map_err(refused);
        let snapshot = match built {
            Ok(snapshot) => commit().map(|()| snapshot).inspect_err(|_| {
                // Counts and connections go on being those of what is served.
                drop(builder.build(&old.config));
            }),
            Err(fault) => Err(fault),
        };
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(fault) => {
                self.models.retain(&old.deployments);
                return Err(fault);
            }
        };
        let generation = snapshot.generation;
        let deployments = snapshot.deployments.clone();
        if let Some(ledger) = self.ledger.clone() {
            ledger.know_budgets(&snapshot.rules);
            let (rules, now) = (snapshot.rules.clone(), self.clock());
            self.models.handle().spawn(async move {
                if let Err(error) = ledger.begin_budgets(&rules, now).await {
                    tracing::error!(%error, "new budgets begin with nothing: the ledger cannot be read");
                }
            });
        }
        self.snapshot.store(Arc::new(snapshot));
        self.models.retain(&deployments);
        self.metrics.config_generation.set(generation as i64);
        Ok(generation)
    }

    /// Lets budgets begin with what the ledger says was spent before, and from then on those that are granted. Where the
    /// store is away since the start, that is tried again until it is back, and hard budgets admit nothing until then.
    pub async fn begin_budgets(self: &Arc<Self>) -> Result<(), StoreError> {
        let (Some(ledger), Some(keys)) = (&self.ledger, &self.keys) else { return Ok(()) };
        ledger.know_budgets(&self.snapshot().rules);
        let begun = ledger.begin_budgets(&self.snapshot().rules, self.clock()).await.map(drop);
        if begun.is_err() && !ledger.is_unread() {
            return begun;
        }
        self.models.handle().spawn(begin_later(
            Arc::downgrade(self),
            Arc::clone(keys.granted()),
            begun.is_err(),
        ));
        Ok(())
    }

    /// Lets those budgets begin that have not.
    pub(crate) async fn begin_fresh_budgets(&self) -> Result<(), StoreError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let now = self.clock();
        let begun = ledger.begin_budgets(&self.snapshot().rules, now).await?;
        let Some(counters) = &self.shared else { return Ok(()) };
        for Begun { limit, label, spent } in begun {
            // Who had one before has counts that know nothing of the time between.
            if let Err(error) = counters.raise(&limit, &label, spent, now).await {
                tracing::warn!(%error, budget = %limit.name, whose = %label, "shared counts begin with what they had");
            }
        }
        Ok(())
    }

    /// The budgets that were granted at run time.
    pub(crate) fn granted(&self) -> Option<Guard<Arc<Vec<Rule>>>> {
        self.keys.as_ref().map(|keys| keys.granted().rules()).filter(|rules| !rules.is_empty())
    }

    /// The registries of a config, opened apart from any gateway, for `doctor`.
    pub fn registries(config: &Config) -> Result<Vec<Arc<Registry>>, ApplyError> {
        let opened = config.registries.iter().map(|(name, written)| registry(name, written));
        opened.collect::<Result<_, String>>().map_err(ApplyError)
    }

    /// Gets the credential of each provider that needs more than a fixed key, apart from any gateway, for
    /// `doctor`. The error says what is wrong, without any secret.
    pub async fn test_credentials(config: &Config) -> Vec<(String, Result<(), String>)> {
        let mut found = Vec::new();
        for (name, credential) in crate::snapshot::credentials(config) {
            let outcome = match credential {
                Ok(Credential::Fixed) => continue,
                Ok(credential) => credential.test().await.map_err(|fault| match fault.cause {
                    Some(cause) => cause.to_string(),
                    None => fault.public.into_owned(),
                }),
                Err(error) => Err(error),
            };
            found.push((name, outcome));
        }
        found
    }

    /// Says no to readiness from now on; requests are still served.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Stops models and sends the last records.
    pub async fn shutdown(&self) {
        self.models.shutdown().await;
        self.recorder.stop();
        if let Some(ledger) = &self.ledger {
            ledger.close().await;
        }
        if let Some(keys) = &self.keys {
            keys.close().await;
        }
        if let Some(audit) = &self.audit {
            audit.close();
        }
    }

    /// Whether requests are welcome. A model that is not loaded makes its endpoint answer 503, not the
    /// gateway unready: one broken model must not take the others out of service.
    pub fn readiness(&self) -> Readiness {
        let draining = self.draining.load(Ordering::Relaxed);
        let models = self.deployments().iter().map(|deployment| deployment.status()).collect();
        Readiness { ready: !draining, draining, models, routes: self.route_problems() }
    }

    /// What does not go together in chains and ensembles, by the signatures of the versions that serve now.
    pub fn route_problems(&self) -> Vec<RouteProblem> {
        let mut found = Vec::new();
        for endpoint in &self.snapshot.load().endpoints {
            for reason in mismatches(&endpoint.route) {
                found.push(RouteProblem { endpoint: Arc::clone(&endpoint.name), reason });
            }
        }
        found
    }

    /// The registered models that the current snapshot serves.
    pub fn deployments(&self) -> Vec<Arc<Deployment>> {
        self.snapshot.load().deployments.clone()
    }

    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The present, as breakers and keys see it: never 0.
    pub(crate) fn millis(&self) -> Millis {
        self.millis_at(Instant::now())
    }

    /// The same where the clock was read already.
    pub(crate) fn millis_at(&self, now: Instant) -> Millis {
        now.duration_since(self.epoch).as_millis() as Millis + 1
    }

    /// The present, as limits see it.
    pub(crate) fn clock(&self) -> Now {
        self.clock_at(Instant::now(), now_ms())
    }

    /// The same where the clocks were read already.
    pub(crate) fn clock_at(&self, now: Instant, wall_ms: i64) -> Now {
        Now { monotonic: now.duration_since(self.epoch).as_nanos() as u64, wall_ms }
    }
}

/// Budgets begin that could not so far, and those that are granted to somebody.
async fn begin_later(gateway: Weak<Gateway>, granted: Arc<Granted>, mut failing: bool) {
    loop {
        if failing {
            tokio::time::sleep(AGAIN).await;
        } else {
            granted.changed().await;
        }
        let Some(gateway) = gateway.upgrade() else { return };
        let begun = gateway.begin_fresh_budgets().await;
        if failing && begun.is_ok() {
            tracing::info!("budgets know what was spent before");
        }
        failing = begun.is_err();
    }
}
