//! One endpoint's model: a task that follows the registry, and the live version that requests see.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use millgate_scoring::{Checked, ContentType, Signature};
use millgate_types::{Fault, ModelRef, Retry, code};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};

use crate::live::{Live, Runtime};
use crate::registry::Registry;
use crate::rollout::{Hold, Kept, Rollout};
use crate::schedule::Window;
use crate::worker::user::User;
use crate::worker::{Ask, Batching, Columns, Pool, Reply, refusal};

/// Which runtime may serve a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// Native where it is exact, else a worker.
    #[default]
    Auto,
    /// Native or nothing.
    Native,
    /// The ONNX Runtime in this process, or nothing.
    Onnx,
    /// A Python worker.
    Worker,
}

/// Where a worker's Python packages come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnvManager {
    /// The interpreter of the settings, as it is.
    #[default]
    Local,
    /// A virtual environment with the model's requirements, built by `uv` (by `venv` and `pip` without it).
    Uv,
    /// The same, built by `venv` and `pip`.
    Virtualenv,
}

/// How many worker processes a version has.
#[derive(Clone, Debug, PartialEq)]
pub struct Instances {
    /// Always. 0: none after `idle_timeout` without a request; the next request starts one and waits for it.
    pub min: usize,
    /// Under load.
    pub max: usize,
    /// See `min`.
    pub idle_timeout: Duration,
    /// Times of the week with another `min`.
    pub schedule: Vec<Window>,
}

impl Default for Instances {
    fn default() -> Self {
        Self { min: 1, max: 1, idle_timeout: Duration::from_mins(5), schedule: Vec::new() }
    }
}

/// What an endpoint asks for. Equal specs are one deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentSpec {
    /// The endpoint's name, for messages and logs.
    pub endpoint: Arc<str>,
    /// Where the model is registered.
    pub registry: Arc<Registry>,
    /// Which model, which version.
    pub model: ModelRef,
    /// Which runtimes may serve it.
    pub runtime: RuntimeChoice,
    /// Where a worker's packages come from.
    pub env_manager: EnvManager,
    /// A prepared environment's folder, in place of what `env_manager` says.
    pub environment: Option<PathBuf>,
    /// Worker processes.
    pub instances: Instances,
    /// Which requests may share a call of a worker.
    pub batching: Batching,
    /// Whether a request may be tried again after it reached the model's code; `None`: where the flavour only computes.
    pub idempotent: Option<bool>,
    /// Threads of a worker's numeric libraries.
    pub threads: u32,
    /// `cuda` or `cuda:N` for a GPU; `None`: the CPU.
    pub device: Option<Arc<str>>,
    /// Cores that its workers together may use; `None`: all.
    pub cpus: Option<usize>,
    /// A worker that grew over this many bytes is replaced between two calls.
    pub max_rss_bytes: Option<u64>,
    /// The limit for one prediction; the server takes the earlier of this and its own deadline.
    pub timeout: Duration,
    /// The most memory one worker may use, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Whether workers may open network connections.
    pub network_allowed: bool,
    /// Answer as MLflow does, without our stricter checks. Implies a worker.
    pub compat_mlflow: bool,
    /// How far a converted model's numbers may lie from Python's where they cannot be the same to the last bit.
    pub tolerance: Option<f64>,
    /// How long the version before stays loaded, to go back to. Zero: not at all.
    pub keep_previous: Duration,
    /// It serves an endpoint for chats: a model that does not chat is not loaded.
    pub chat: bool,
}

impl DeploymentSpec {
    /// Defaults: runtime `auto`, environment `local`, one worker, 60 s, no memory limit, no network, strict,
    /// 10 min for the version before.
    #[must_use]
    pub fn new(endpoint: impl Into<Arc<str>>, registry: Arc<Registry>, model: ModelRef) -> Self {
        Self {
            endpoint: endpoint.into(),
            registry,
            model,
            runtime: RuntimeChoice::Auto,
            env_manager: EnvManager::Local,
            environment: None,
            instances: Instances::default(),
            batching: Batching::default(),
            idempotent: None,
            threads: 1,
            device: None,
            cpus: None,
            max_rss_bytes: None,
            timeout: Duration::from_mins(1),
            memory_limit_bytes: None,
            network_allowed: false,
            compat_mlflow: false,
            tolerance: None,
            keep_previous: Duration::from_mins(10),
            chat: false,
        }
    }
}

/// Where a version is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DeploymentState {
    /// The registry is being asked.
    Resolving,
    /// The registry said which version; its files are being fetched.
    Resolved,
    /// The files are in the cache.
    Fetched,
    /// The environment is being prepared.
    Env,
    /// A runtime loads the model.
    Loading,
    /// The input example is being answered.
    Warm,
    /// Requests are answered.
    Live,
    /// Nothing serves; see the reason and the next try.
    Failed,
    /// The deployment was stopped.
    Gone,
}

/// What a deployment is doing, for the admin API and `doctor`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeploymentStatus {
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// The registry's name.
    pub registry: String,
    /// The reference as configured, as a `models:/` URI.
    pub model: String,
    /// The state of what serves, or of what is being loaded while nothing serves.
    pub state: DeploymentState,
    /// The version that serves.
    pub version: Option<Arc<str>>,
    /// `native`, `onnx` or `worker`, of the version that serves.
    pub runtime: Option<&'static str>,
    /// Why that runtime.
    pub runtime_reason: Option<String>,
    /// sha256 over the files of the version that serves.
    pub digest: Option<String>,
    /// The MLflow that a worker runs, or that saved the model.
    pub mlflow_version: Option<String>,
    /// A version on its way, and where it is.
    pub next: Option<(String, DeploymentState)>,
    /// The version before, while it is kept to go back to.
    pub kept: Option<Kept>,
    /// A version that is not served though the registry names it, after a roll-back.
    pub held: Option<Hold>,
    /// How far the building of an environment is, while one is built, for example `installing 12 of 34 packages, 7 s`.
    pub progress: Option<String>,
    /// What went wrong last, while it still matters.
    pub reason: Option<String>,
    /// Seconds until the next try, from when the reason was noted.
    pub next_try_seconds: Option<u64>,
    /// Workers with the model loaded.
    pub workers_ready: usize,
    /// Workers that there should be.
    pub workers_wanted: usize,
    /// Worker deaths since this version began.
    pub worker_restarts: u64,
    /// Workers that were replaced because they grew over `max_rss`.
    pub workers_recycled: u64,
    /// Calls that workers made of the model since this version began, and the requests in them: more where requests
    /// share calls.
    pub worker_calls: u64,
    /// See `worker_calls`.
    pub worker_requests: u64,
    /// Whether requests share a worker's calls, and why not. Only for workers.
    pub batching: Option<String>,
    /// How rows reach the worker: `columns`, `columns, through MLflow's own check`, or why as `JSON`.
    pub input: Option<String>,
}

/// One prediction asked for.
#[derive(Clone, Debug)]
pub struct PredictRequest<'a> {
    /// The request's Content-Type header.
    pub content_type: Option<&'a str>,
    /// The request's body.
    pub body: Bytes,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// One prediction's answer.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// 200; under `compat_mlflow` also the status of MLflow's own error answer.
    pub status: u16,
    /// JSON.
    pub body: Bytes,
    /// Of the body.
    pub content_type: &'static str,
    /// Rows predicted; 1 where only Python can tell.
    pub rows: u64,
    /// The version that answered.
    pub version: Arc<str>,
    /// `native` or `worker`.
    pub runtime: &'static str,
}

/// Bodies above this size, in bytes, are parsed on the blocking pool.
const LARGE_BODY: usize = 128 << 10;
/// Tree walks above this number are done on the blocking pool: about 5 ms.
const LARGE_WORK: u64 = 20_000;

/// Why nothing serves.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) registry: bool,
    pub(crate) text: String,
}

/// A model behind an endpoint.
pub struct Deployment {
    pub(crate) spec: DeploymentSpec,
    pub(crate) handle: Handle,
    pub(crate) live: ArcSwapOption<Live>,
    pub(crate) status: ArcSwap<DeploymentStatus>,
    pub(crate) problem: ArcSwapOption<Problem>,
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) wake: Notify,
    /// The user of its workers, from the first time one is asked for.
    pub(crate) user: OnceLock<Option<Arc<User>>>,
    pub(crate) rollout: Rollout,
    /// Large requests that may be computed at once, aside from the data threads.
    shares: Semaphore,
}

impl std::fmt::Debug for Deployment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployment").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Deployment {
    pub(crate) fn new(spec: DeploymentSpec, handle: Handle) -> Arc<Self> {
        let status = DeploymentStatus {
            endpoint: spec.endpoint.clone(),
            registry: spec.registry.name().to_owned(),
            model: match &spec.model {
                // A path of this machine is nobody else's business.
                ModelRef::Path(path) => {
                    PathBuf::from(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
                }
                model => model.to_string(),
            },
            state: DeploymentState::Resolving,
            version: None,
            runtime: None,
            runtime_reason: None,
            digest: None,
            mlflow_version: None,
            next: None,
            kept: None,
            held: None,
            progress: None,
            reason: None,
            next_try_seconds: None,
            workers_ready: 0,
            workers_wanted: 0,
            worker_restarts: 0,
            workers_recycled: 0,
            worker_calls: 0,
            worker_requests: 0,
            batching: None,
            input: None,
        };
        Arc::new(Self {
            spec,
            handle,
            live: ArcSwapOption::empty(),
            status: ArcSwap::from_pointee(status),
            problem: ArcSwapOption::empty(),
            ready: watch::Sender::new(false),
            stop: watch::Sender::new(false),
            wake: Notify::new(),
            user: OnceLock::new(),
            rollout: Rollout::default(),
            shares: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
        })
    }

    /// What it was made from.
    pub fn spec(&self) -> &DeploymentSpec {
        &self.spec
    }

    /// What it is doing now.
    pub fn status(&self) -> DeploymentStatus {
        let mut status = DeploymentStatus::clone(&self.status.load());
        (status.kept, status.held) = (self.rollout.kept(), self.rollout.hold());
        if let Some(live) = self.live.load().as_ref()
            && let Runtime::Worker(pool) = &live.runtime
        {
            status.workers_ready = pool.ready();
            status.workers_wanted = pool.wanted();
            status.worker_restarts = pool.restarts();
            status.workers_recycled = pool.recycled();
            (status.worker_calls, status.worker_requests) = pool.calls();
            status.batching = Some(pool.batching());
            status.input = Some(self.input(pool));
            status.reason = status.reason.or_else(|| pool.failure());
        }
        status
    }

    /// Whether a version is loaded and can answer now.
    pub fn is_ready(&self) -> bool {
        match self.live.load().as_ref().map(|live| &live.runtime) {
            Some(Runtime::Native(_)) => true,
            Some(Runtime::Worker(pool)) => pool.can_answer(),
            None => false,
        }
    }

    /// Waits until a version is live; `false` when `timeout` came first.
    pub async fn wait_ready(&self, timeout: Duration) -> bool {
        let mut ready = self.ready.subscribe();
        let waited = tokio::time::timeout(timeout, ready.wait_for(|ready| *ready)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Asks the registry again now instead of at the next poll.
    pub fn refresh(&self) {
        self.wake.notify_one();
    }

    fn not_live(&self) -> Fault {
        let problem = self.problem.load();
        let (code, text) = match problem.as_ref() {
            Some(problem) if problem.registry => (code::REGISTRY_UNAVAILABLE, problem.text.clone()),
            Some(problem) => (code::MODEL_UNAVAILABLE, problem.text.clone()),
            None => {
                let status = self.status.load();
                let step = status.progress.as_ref().map_or(String::new(), |step| format!(": {step}"));
                let text = format!(
                    "model `{}` of registry `{}` is being loaded{step}",
                    status.model, status.registry
                );
                (code::MODEL_UNAVAILABLE, text)
            }
        };
        Fault::new(code, millgate_types::Source::Gateway, Retry::NextTarget, text)
            .with_retry_after(Duration::from_secs(5))
    }

    /// Predicts with the version that is live when the call begins. May be awaited on any tokio runtime with
    /// timers. Faults: those of [`millgate_scoring::check`], `model_rejected_input`, `model_failed`,
    /// `worker_timeout`, `worker_crashed`, `worker_protocol`, `overloaded`, `registry_unavailable`,
    /// `model_unavailable`.
    pub async fn predict(&self, request: PredictRequest<'_>) -> Result<Prediction, Fault> {
        let live = self.live()?;
        let content_type = ContentType::parse(request.content_type)?;
        self.score(live, content_type, request.body, request.deadline).await
    }

    /// The version that serves now.
    pub(crate) fn live(&self) -> Result<Arc<Live>, Fault> {
        self.live.load_full().ok_or_else(|| self.not_live())
    }

    pub(crate) async fn score(
        &self,
        live: Arc<Live>,
        content_type: ContentType,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Prediction, Fault> {
        let deadline = deadline.min(Instant::now() + self.spec.timeout);
        match &live.runtime {
            Runtime::Native(_) => self.predict_native(live, content_type, body).await,
            Runtime::Worker(pool) => {
                let checked = if self.spec.compat_mlflow {
                    None
                } else {
                    Some(self.check(&live, content_type, &body).await?)
                };
                let rows = checked.as_ref().map_or(1, |checked| checked.rows);
                let columns = checked.as_ref().filter(|_| content_type == ContentType::Json);
                let columns = columns.and_then(|checked| columns_of(checked, &live.model.signature));
                let ask = Ask { content_type: content_type.name(), body, columns, chat: None };
                let reply = pool.predict(ask, deadline).await?;
                self.answer(reply, &live, rows)
            }
        }
    }

    fn input(&self, pool: &Pool) -> String {
        let facts = pool.facts();
        if self.spec.chat {
            let pieces = if facts.streams { "piece by piece" } else { "whole" };
            return format!("chat, answered {pieces}");
        }
        if self.spec.compat_mlflow {
            return "JSON: `compat: mlflow` leaves the body to MLflow".to_owned();
        }
        match facts.why {
            None if facts.columns && facts.direct => "columns".to_owned(),
            None if facts.columns => "columns, through MLflow's own check".to_owned(),
            why => format!("JSON: {}", why.unwrap_or_else(|| "the worker takes nothing else".to_owned())),
        }
    }

    async fn check(&self, live: &Arc<Live>, kind: ContentType, body: &Bytes) -> Result<Checked, Fault> {
        if body.len() <= LARGE_BODY {
            return millgate_scoring::check(body, kind, &live.model.signature);
        }
        let (live, body) = (live.clone(), body.clone());
        self.off_thread(move || millgate_scoring::check(&body, kind, &live.model.signature)).await
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        // One hot model must not take all threads of the pool: what comes beyond its share waits here.
        let _share = self.shares.acquire().await;
        self.handle.spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(Fault::gateway(code::INTERNAL_ERROR, "the prediction was stopped").with_cause(error))
        })
    }

    async fn predict_native(
        &self,
        live: Arc<Live>,
        kind: ContentType,
        body: Bytes,
    ) -> Result<Prediction, Fault> {
        let checked = self.check(&live, kind, &body).await?;
        let rows = checked.rows;
        let Some(data) = checked.data else {
            let text = if kind == ContentType::Parquet {
                "this model takes application/json and text/csv"
            } else {
                "this model takes dataframe_split, dataframe_records, instances or inputs"
            };
            let code = if kind == ContentType::Parquet {
                code::UNSUPPORTED_MEDIA_TYPE
            } else {
                code::SCHEMA_MISMATCH
            };
            return Err(Fault::client(code, text));
        };
        let version = live.version.clone();
        let runtime = live.runtime.name();
        let large = matches!(&live.runtime, Runtime::Native(model) if model.work(rows) > LARGE_WORK);
        let run = move || match &live.runtime {
            Runtime::Native(model) => {
                model.predict(&data).and_then(|predictions| match predictions.not_finite() {
                    None => Ok(predictions.to_json()),
                    Some((row, None)) => Err(not_finite(&format!("row {row}"))),
                    Some((row, Some(column))) => Err(not_finite(&format!("row {row}, column {column}"))),
                })
            }
            Runtime::Worker(_) => Err(Fault::gateway(code::INTERNAL_ERROR, "the wrong runtime was asked")),
        };
        let body = if large { self.off_thread(run).await? } else { run()? };
        Ok(Prediction {
            status: 200,
            body: Bytes::from(body),
            content_type: "application/json",
            rows,
            version,
            runtime,
        })
    }

    fn answer(&self, reply: Reply, live: &Live, rows: u64) -> Result<Prediction, Fault> {
        let prediction = |status, body| Prediction {
            status,
            body,
            content_type: "application/json",
            rows,
            version: live.version.clone(),
            runtime: "worker",
        };
        match reply {
            Reply::Answer(body) => Ok(prediction(200, body)),
            Reply::Error { status, body, .. } if self.spec.compat_mlflow => {
                Ok(prediction(status, Bytes::from(body)))
            }
            Reply::Error { place: Some(place), .. } => {
                let place: String = place.chars().filter(|c| !c.is_control()).take(100).collect();
                Err(not_finite(&place))
            }
            Reply::Error { user, class, .. } => Err(refusal(user, &class)),
            Reply::Stream(_) => Err(Fault::gateway(code::INTERNAL_ERROR, "a prediction became a stream")),
        }
    }
}

/// The rows as a worker takes them, where they can be laid out.
pub(crate) fn columns_of(checked: &Checked, signature: &Signature) -> Option<Columns> {
    Columns::of(checked.data.as_ref()?, signature, checked.params.as_deref())
}

fn not_finite(place: &str) -> Fault {
    let text = format!("the model answered NaN or an infinite number, which JSON cannot hold: {place}");
    Fault::worker(code::MODEL_FAILED, Retry::NextTarget, text)
}
