//! MLflow models: registries, the artifact cache, and the runtimes that serve a version.
mod artifacts;
mod model_file;
mod native;
mod registry;

pub use registry::{Registry, RegistryAuth, RegistryConfig, RegistryError};
