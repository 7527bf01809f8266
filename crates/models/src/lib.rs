//! MLflow models: registries, the artifact cache, and the runtimes that serve a version. Nothing that came with a
//! model is executed in this process: trees are read as data, everything else runs in worker processes.

mod artifacts;
mod chat;
mod convert;
mod demo;
mod demo_files;
mod deployment;
mod described;
mod doctor;
mod environment;
mod follow;
mod gate;
mod inference;
mod live;
mod model_file;
mod models;
mod native;
mod progress;
mod registry;
mod rollout;
mod schedule;
mod settings;
mod warm;
mod worker;

pub use chat::{ChatForm, ChatModel, ChatReply, ChatStream};
pub use demo::unpack_demo_store;
pub use deployment::{
    Deployment, DeploymentSpec, DeploymentState, DeploymentStatus, EnvManager, Instances, PredictRequest,
    Prediction, RuntimeChoice,
};
pub use described::LiveModel;
pub use doctor::{Finding, FindingLevel, doctor};
pub use inference::{InferenceRequest, described};
pub use models::Models;
pub use registry::browse::{ModelPage, ModelVersion, PAGE, RegisteredModel, Search, VersionFacts};
pub use registry::{Registry, RegistryAuth, RegistryConfig, RegistryError};
pub use rollout::{Hold, Kept, RolledBackBy, Switched};
pub use schedule::Window;
pub use settings::ModelSettings;
pub use worker::Batching;
pub use worker::exec::worker_exec;
