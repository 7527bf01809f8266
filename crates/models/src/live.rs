//! A version that can answer, and how it comes to be: files, runtime, warm-up.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use millgate_scoring::ContentType;
use tokio::sync::mpsc;

use crate::artifacts::{ArtifactError, Cache};
use crate::chat::{ChatForm, no_chat_model};
use crate::convert;
use crate::deployment::{Deployment, DeploymentState, RuntimeChoice};
use crate::environment::{self, Environment};
use crate::model_file::ModelFile;
use crate::native::{NativeModel, converted, onnx};
use crate::progress::Progress;
use crate::registry::{RegistryError, Resolved};
use crate::settings::ModelSettings;
use crate::warm;
use crate::worker::user::{self, Gap, User};
use crate::worker::{Bounds, Plan, Pool};

/// A loaded version. Requests hold it while they run; when the last one lets go, its workers stop.
pub(crate) struct Live {
    pub(crate) identity: String,
    pub(crate) version: Arc<str>,
    pub(crate) digest: String,
    pub(crate) model: ModelFile,
    pub(crate) runtime: Runtime,
    pub(crate) runtime_reason: String,
}

/// What computes.
pub(crate) enum Runtime {
    Native(Box<NativeModel>),
    Worker(Pool),
}

impl Runtime {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Native(model) => model.runtime(),
            Self::Worker(_) => "worker",
        }
    }
}

/// Why a version could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    Model(String),
}

impl From<ArtifactError> for LoadError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Registry(error) => Self::Registry(error),
            ArtifactError::Cache(error) => Self::Model(format!("the artifact cache: {}", error.kind())),
            ArtifactError::Refused(_) => Self::Model(error.to_string()),
        }
    }
}

/// Loads `resolved`; `note` hears of each state.
pub(crate) async fn load(
    deployment: &Deployment,
    settings: &ModelSettings,
    alive: &mpsc::Sender<()>,
    resolved: &Resolved,
    note: impl Fn(DeploymentState),
) -> Result<Live, LoadError> {
    let spec = &deployment.spec;
    note(DeploymentState::Resolved);
    let artifact = Cache::new(&settings.data_dir).fetch(&spec.registry, resolved).await?;
    note(DeploymentState::Fetched);
    let folder = artifact.folder.clone();
    let model = run(move || ModelFile::read(&folder)).await?;
    if spec.chat && ChatForm::of(&model).is_none() {
        return Err(LoadError::Model(no_chat_model(&model)));
    }
    let mut start = Start { deployment, settings, model: &model, ground: None };
    let (runtime, runtime_reason) = match start.choose(&artifact.digest, &note).await? {
        Ok((native, why)) => (Runtime::Native(Box::new(native)), why),
        Err(why) => (Runtime::Worker(start.pool(alive, &note).await?), why),
    };
    let live = Live {
        identity: resolved.identity.clone(),
        version: Arc::from(resolved.version.as_str()),
        digest: artifact.digest,
        model,
        runtime,
        runtime_reason,
    };
    if let Runtime::Worker(pool) = &live.runtime {
        note(DeploymentState::Warm);
        warm::warm(spec, pool, &live.model, settings.load_timeout).await?;
    }
    Ok(live)
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, LoadError> {
    let done = crate::gate::blocking(work).await;
    done.unwrap_or_else(|_| Err("loading was stopped".to_owned())).map_err(LoadError::Model)
}

/// A version on its way to a runtime.
struct Start<'a> {
    deployment: &'a Deployment,
    settings: &'a ModelSettings,
    model: &'a ModelFile,
    /// What processes are started with, from the first time it is needed.
    ground: Option<Ground>,
}

/// A plan for processes, and what it was made on.
struct Ground {
    plan: Plan,
    environment: Environment,
}

impl Start<'_> {
    /// The native model and why it may serve, or why a worker must.
    async fn choose(
        &mut self,
        digest: &str,
        note: &impl Fn(DeploymentState),
    ) -> Result<Result<(NativeModel, String), String>, LoadError> {
        let spec = &self.deployment.spec;
        match spec.runtime {
            _ if spec.chat => return Ok(Err("a chat model is Python code".to_owned())),
            RuntimeChoice::Worker => return Ok(Err("`runtime: worker` is configured".to_owned())),
            RuntimeChoice::Auto if spec.device.is_some() => {
                return Ok(Err("a GPU is configured (`device`)".to_owned()));
            }
            RuntimeChoice::Auto if spec.compat_mlflow => {
                return Ok(Err("`compat: mlflow` asks for MLflow's own answers".to_owned()));
            }
            RuntimeChoice::Auto | RuntimeChoice::Native | RuntimeChoice::Onnx => {}
        }
        note(DeploymentState::Loading);
        let insists = spec.runtime == RuntimeChoice::Onnx;
        let loaded = if self.model.flavor("onnx").is_some() && spec.runtime != RuntimeChoice::Native {
            self.onnx().await?
        } else if insists {
            Err("the model has no onnx flavour".to_owned())
        } else if convert::is_candidate(self.model) {
            self.convert(digest, note).await?
        } else {
            let read = "trees are read and walked in process".to_owned();
            load_trees(self.model.clone()).await?.map(|native| (native, read))
        };
        match loaded {
            Err(why) if insists => {
                Err(LoadError::Model(format!("`runtime: onnx` is configured, but: {why}")))
            }
            Err(why) if spec.runtime == RuntimeChoice::Native => {
                Err(LoadError::Model(format!("`runtime: native` is configured, but: {why}")))
            }
            loaded => Ok(loaded),
        }
    }

    /// The ONNX Runtime's library, where the operator has one.
    async fn onnx_library(&self) -> Option<PathBuf> {
        match &self.settings.onnx_library {
            Some(library) => Some(library.clone()),
            None => onnx::find(&environment::folders(self.settings).await.unwrap_or_default()),
        }
    }

    /// An ONNX model in this process, by a library of the operator's: never by one that a model's requirements brought.
    async fn onnx(&self) -> Result<Result<(NativeModel, String), String>, LoadError> {
        let Some(library) = self.onnx_library().await else {
            let why = "no ONNX Runtime library: set `models.onnx_library`, or install onnxruntime for `models.python`";
            return Ok(Err(why.to_owned()));
        };
        let model = self.model.clone();
        run(move || {
            let loaded = onnx::load(&library, &model);
            Ok(loaded.map(|native| (native, "run by the ONNX Runtime in process".to_owned())))
        })
        .await
    }

    /// A scikit-learn model as data: kept from an earlier start, or made by the conversion job.
    async fn convert(
        &mut self,
        digest: &str,
        note: &impl Fn(DeploymentState),
    ) -> Result<Result<(NativeModel, String), String>, LoadError> {
        let spec = &self.deployment.spec;
        let place = convert::place(&self.settings.data_dir, digest, spec);
        let (signature, tolerance) = (self.model.signature.clone(), spec.tolerance);
        // Estimators that only ONNX computes are taken within a tolerance.
        let library = if tolerance.is_some() { self.onnx_library().await } else { None };
        let read = |written: Vec<u8>| {
            run(move || {
                let read = converted::read(&written, &signature, tolerance, library.as_deref());
                Ok(read.map(|converted| (converted.model, converted.reason)))
            })
        };
        let file = place.clone();
        if let Some(written) = run(move || Ok(convert::kept(&file))).await? {
            return read(written).await;
        }
        let ground = self.ground(note).await?;
        let written = match ground.plan.convert().await {
            Ok(written) => written,
            Err(why) => return Ok(Err(why)),
        };
        let packages = ground.environment.readable.clone();
        let copy = written.clone();
        run(move || {
            if let Err(error) = convert::keep(&place, &convert::stamp(&packages), &copy) {
                tracing::warn!(reason = %error.kind(), "a converted model cannot be kept");
            }
            Ok(())
        })
        .await?;
        read(written).await
    }

    /// Prepares the environment and the plan, once.
    async fn ground(&mut self, note: &impl Fn(DeploymentState)) -> Result<&Ground, LoadError> {
        if self.ground.is_none() {
            self.ground = Some(self.prepare(note).await?);
        }
        self.ground.as_ref().ok_or_else(|| LoadError::Model("nothing was prepared".to_owned()))
    }

    async fn prepare(&self, note: &impl Fn(DeploymentState)) -> Result<Ground, LoadError> {
        let Self { deployment, settings, model, .. } = self;
        let spec = &deployment.spec;
        note(DeploymentState::Env);
        let progress = Progress::default();
        let asked = environment::Asked { settings, spec, model, progress: &progress };
        let prepared = progress.told(deployment, asked.prepare()).await;
        let environment = prepared.map_err(LoadError::Model)?;
        note(DeploymentState::Loading);
        let mut readable = environment.readable.clone();
        readable.push(model.folder.clone());
        let mut plan = Plan {
            launcher: settings.launcher.clone(),
            python: environment.python.clone(),
            model: model.folder.clone(),
            strict: !spec.compat_mlflow,
            chat: ChatForm::of(model).filter(|_| spec.chat),
            run_dir: settings.data_dir.join("run"),
            readable,
            network_allowed: spec.network_allowed,
            memory_limit: spec.memory_limit_bytes,
            max_rss: spec.max_rss_bytes,
            threads: spec.threads,
            instances: Bounds {
                min: spec.instances.min,
                max: spec.instances.max,
                idle_timeout: spec.instances.idle_timeout,
                schedule: spec.instances.schedule.clone().into(),
            },
            device: spec.device.clone(),
            cpus: spec.cpus,
            batching: spec.batching.clone(),
            idempotent: spec.idempotent,
            isolation_required: settings.isolation_required,
            user: None,
            processes: 512 + 64 * spec.instances.max as u64,
            // With more threads its libraries would have to be told after the fork.
            zygote: settings.zygote && spec.threads == 1,
            imports: imports(model),
            load_timeout: settings.load_timeout,
            kill_after: settings.kill_after,
            label: spec.endpoint.clone(),
        };
        if user::is_root()
            && let Err(gap) = other_user(deployment, settings, &mut plan).await
        {
            plan.user = None;
            if settings.isolation_required {
                return Err(LoadError::Model(format!(
                    "worker isolation is required and incomplete: {}",
                    gap.text
                )));
            }
            say_once(&gap);
        }
        Ok(Ground { plan, environment })
    }

    async fn pool(
        &mut self,
        alive: &mpsc::Sender<()>,
        note: &impl Fn(DeploymentState),
    ) -> Result<Pool, LoadError> {
        let handle = &self.deployment.handle;
        let Ground { plan, environment } = self.ground(note).await?;
        Pool::start(plan.clone(), handle, alive).await.map_err(|reason| {
            let hint = if environment.differences.is_empty() {
                String::new()
            } else {
                format!(
                    " (packages differ from the model's requirements: {})",
                    environment.differences.join(", ")
                )
            };
            LoadError::Model(format!("{reason}{hint}"))
        })
    }
}

/// Trees that are read as they are, or why they cannot be.
async fn load_trees(model: ModelFile) -> Result<Result<NativeModel, String>, LoadError> {
    run(move || {
        Ok(NativeModel::load(&model).and_then(|native| {
            // The input example must at least be answered.
            let Some(example) = &model.example else { return Ok(native) };
            let checked = millgate_scoring::check(example, ContentType::Json, &model.signature)
                .map_err(|fault| format!("its input example does not fit its signature: {}", fault.public))?;
            if let Some(data) = checked.data {
                native
                    .predict(&data)
                    .map_err(|fault| format!("its input example fails: {}", fault.public))?;
            }
            Ok(native)
        }))
    })
    .await
}

/// What a zygote imports for a model: light packages of its flavour. Never those that start threads or hold sessions
/// (torch, tensorflow, onnxruntime); what is not installed is left out.
fn imports(model: &ModelFile) -> Vec<&'static str> {
    let mut names = vec!["mlflow", "mlflow.pyfunc", "mlflow.pyfunc.scoring_server", "numpy", "pandas"];
    let flavours: [(&str, &[&str]); 3] = [
        (
            "sklearn",
            &[
                "mlflow.sklearn",
                "sklearn.compose",
                "sklearn.ensemble",
                "sklearn.linear_model",
                "sklearn.neural_network",
                "sklearn.pipeline",
                "sklearn.preprocessing",
                "skops.io",
            ],
        ),
        ("xgboost", &["mlflow.xgboost", "xgboost"]),
        ("lightgbm", &["mlflow.lightgbm", "lightgbm"]),
    ];
    for (flavour, more) in flavours {
        if model.flavor(flavour).is_some() {
            names.extend(more);
        }
    }
    names
}

/// Gives the workers a user of their own and opens the way to what they read.
async fn other_user(deployment: &Deployment, settings: &ModelSettings, plan: &mut Plan) -> Result<(), Gap> {
    let (data, model) = (settings.data_dir.clone(), plan.model.clone());
    let mut needed = plan.readable.clone();
    needed.retain(|folder| *folder != model);
    needed.push(plan.python.clone());
    let opened = tokio::task::spawn_blocking(move || {
        crate::artifacts::private_dir(&data.join("run")).map_err(|error| unopened(&error))?;
        if let Some(gap) = user::gap(&data, &needed) {
            return Err(gap);
        }
        user::open(&data, &model, &needed).map_err(|error| unopened(&error))
    });
    opened.await.unwrap_or_else(|_| Err(unopened(&std::io::Error::other("stopped"))))?;
    let spec = &deployment.spec;
    plan.user.clone_from(deployment.user.get_or_init(|| User::lend(&spec.endpoint)));
    if plan.user.is_none() {
        let text = "no number is left for a user of its own".to_owned();
        return Err(Gap { text, fix: "serve fewer models".to_owned() });
    }
    plan.try_user().await.map_err(|reason| Gap {
        text: "another user cannot start the worker".to_owned(),
        fix: format!("let other users read the interpreter and its packages: {reason}"),
    })
}

fn unopened(error: &std::io::Error) -> Gap {
    Gap {
        text: format!("the data folder cannot be opened to another user ({})", error.kind()),
        fix: "put --data-dir on a file system of this machine that root owns".to_owned(),
    }
}

/// Each reason once: it is the same for every model and every try.
fn say_once(gap: &Gap) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.insert(format!("{}{}", gap.text, gap.fix)) {
        tracing::warn!(reason = gap.text, fix = gap.fix, "workers keep the user of the gateway");
    }
}

/// What the scoring protocol's `/version` answers when nothing better is known.
pub(crate) fn mlflow_version(live: &Live) -> Option<String> {
    match &live.runtime {
        Runtime::Worker(pool) => pool.facts().mlflow.or_else(|| live.model.mlflow_version.clone()),
        Runtime::Native(_) => live.model.mlflow_version.clone(),
    }
}
