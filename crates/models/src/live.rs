//! A version that can answer, and how it comes to be: files, runtime, warm-up.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use millgate_scoring::ContentType;
use tokio::sync::mpsc;

use crate::artifacts::{ArtifactError, Cache};
use crate::deployment::{Deployment, DeploymentState, RuntimeChoice};
use crate::environment;
use crate::model_file::ModelFile;
use crate::native::NativeModel;
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
    Native(NativeModel),
    Worker(Pool),
}

impl Runtime {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Native(_) => "native",
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
    let (runtime, runtime_reason) = match choose(deployment, &model, &note).await? {
        Ok(native) => (Runtime::Native(native), "trees are read and walked in process".to_owned()),
        Err(why) => {
            let pool = start_pool(deployment, settings, alive, &model, &note).await?;
            (Runtime::Worker(pool), why)
        }
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
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("loading was stopped".to_owned())).map_err(LoadError::Model)
}

/// The native model, or why a worker must serve.
async fn choose(
    deployment: &Deployment,
    model: &ModelFile,
    note: &impl Fn(DeploymentState),
) -> Result<Result<NativeModel, String>, LoadError> {
    let spec = &deployment.spec;
    match spec.runtime {
        RuntimeChoice::Worker => return Ok(Err("`runtime: worker` is configured".to_owned())),
        RuntimeChoice::Auto if spec.compat_mlflow => {
            return Ok(Err("`compat: mlflow` asks for MLflow's own answers".to_owned()));
        }
        RuntimeChoice::Auto | RuntimeChoice::Native => {}
    }
    note(DeploymentState::Loading);
    let copy = model.clone();
    let loaded = run(move || {
        Ok(NativeModel::load(&copy).and_then(|native| {
            // The input example must at least be answered.
            let Some(example) = &copy.example else { return Ok(native) };
            let checked = millgate_scoring::check(example, ContentType::Json, &copy.signature)
                .map_err(|fault| format!("its input example does not fit its signature: {}", fault.public))?;
            if let Some(data) = checked.data {
                native
                    .predict(&data)
                    .map_err(|fault| format!("its input example fails: {}", fault.public))?;
            }
            Ok(native)
        }))
    })
    .await?;
    match loaded {
        Err(why) if spec.runtime == RuntimeChoice::Native => {
            Err(LoadError::Model(format!("`runtime: native` is configured, but: {why}")))
        }
        loaded => Ok(loaded),
    }
}

async fn start_pool(
    deployment: &Deployment,
    settings: &ModelSettings,
    alive: &mpsc::Sender<()>,
    model: &ModelFile,
    note: &impl Fn(DeploymentState),
) -> Result<Pool, LoadError> {
    let spec = &deployment.spec;
    note(DeploymentState::Env);
    let environment =
        environment::prepare(settings, spec.env_manager, model).await.map_err(LoadError::Model)?;
    note(DeploymentState::Loading);
    let mut readable = environment.readable;
    readable.push(model.folder.clone());
    let mut plan = Plan {
        launcher: settings.launcher.clone(),
        python: environment.python,
        model: model.folder.clone(),
        strict: !spec.compat_mlflow,
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
        },
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
    Pool::start(plan, &deployment.handle, alive).await.map_err(|reason| {
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
