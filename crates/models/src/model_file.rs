//! The MLmodel file and its neighbours.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use millgate_scoring::{Inputs, Signature};
use serde_json::Value;

use crate::registry::{read_yaml, text_of};

/// The largest input example that is used to warm a model, in bytes.
const EXAMPLE_LIMIT: u64 = 4 << 20;

/// What a model's folder says about itself.
#[derive(Clone, Debug)]
pub(crate) struct ModelFile {
    pub(crate) folder: PathBuf,
    flavors: Value,
    pub(crate) signature: Signature,
    /// What it answers, as far as its signature says.
    pub(crate) outputs: Option<Inputs>,
    pub(crate) mlflow_version: Option<String>,
    /// What it says it is for, for example `agent/v1/responses`.
    pub(crate) task: Option<String>,
    /// A ready request body, to warm the model with.
    pub(crate) example: Option<Bytes>,
}

impl ModelFile {
    /// Reads the folder. The error is fit for callers.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        let file = read_yaml(&folder.join("MLmodel"))?;
        let part = |name: &str| file.pointer(&format!("/signature/{name}")).and_then(Value::as_str);
        // Made from a type hint it describes one item of a list, which MLflow checks against the hint itself.
        let hinted = file.get("is_signature_from_type_hint").and_then(Value::as_bool) == Some(true);
        let signature = Signature::parse(part("inputs").filter(|_| !hinted), part("params"))
            .map_err(|error| error.to_string())?;
        let outputs = Signature::parse(part("outputs"), None).map_err(|error| error.to_string())?.inputs;
        let example = file
            .pointer("/saved_input_example_info/serving_input_path")
            .and_then(Value::as_str)
            .and_then(|name| small_file(folder, name));
        let task = text_of(file.pointer("/metadata/task"))
            .or_else(|| text_of(file.pointer("/flavors/transformers/inference_task")));
        Ok(Self {
            folder: folder.to_owned(),
            flavors: file.get("flavors").cloned().unwrap_or_default(),
            signature,
            outputs,
            mlflow_version: text_of(file.get("mlflow_version")),
            task,
            example,
        })
    }

    pub(crate) fn flavor(&self, name: &str) -> Option<&Value> {
        self.flavors.get(name)
    }

    /// The path a flavour's key names, when it is a plain file of the model.
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        let plain = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let path = self.folder.join(name);
        (plain && path.is_file()).then_some(path)
    }

    /// `requirements.txt`, when there is one.
    pub(crate) fn requirements(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.join("requirements.txt")).ok()
    }

    /// The Python version the model was saved with, for example `3.11.7`.
    pub(crate) fn python_version(&self) -> Option<String> {
        text_of(self.flavor("python_function")?.get("python_version"))
    }
}

fn small_file(folder: &Path, name: &str) -> Option<Bytes> {
    let plain = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let path = folder.join(name);
    if !plain || std::fs::metadata(&path).ok()?.len() > EXAMPLE_LIMIT {
        return None;
    }
    std::fs::read(path).ok().map(Bytes::from)
}
