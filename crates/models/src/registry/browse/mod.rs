//! Looking around in a registry: which models there are, their versions, and what a version says of itself. For people
//! and the admin API; serving never asks this.

mod file;
mod http;
mod sqlite;

use std::collections::BTreeMap;
use std::path::Path;

use millgate_types::{ModelRef, VersionSelector};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Backend, Registry, RegistryError, read_yaml, text_of};
use crate::artifacts;

/// Models of one page, unless fewer are asked for.
pub const PAGE: usize = 100;

/// Which models are looked for. All conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// A part of the name, whatever its case.
    pub name: Option<String>,
    /// A tag of the model: its key, and its value where that matters.
    pub tag: Option<(String, Option<String>)>,
    /// An alias that one of its versions has.
    pub alias: Option<String>,
    /// The most models of the page. At most 1,000.
    pub max_results: usize,
    /// What the page before gave.
    pub page_token: Option<String>,
}

/// A registered model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RegisteredModel {
    /// Its name.
    pub name: String,
    /// What its owner wrote.
    pub description: Option<String>,
    /// Milliseconds since 1970.
    pub created_ms: Option<u64>,
    /// Milliseconds since 1970.
    pub updated_ms: Option<u64>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Aliases and the versions they name.
    pub aliases: BTreeMap<String, String>,
    /// The highest version number.
    pub latest_version: Option<String>,
}

impl RegisteredModel {
    /// What cannot be asked of every registry is looked at here.
    fn fits(&self, search: &Search) -> bool {
        let name = search.name.as_ref().is_none_or(|part| {
            let (name, part) = (self.name.to_lowercase(), part.to_lowercase());
            name.contains(&part)
        });
        let tag = search.tag.as_ref().is_none_or(|(key, value)| {
            self.tags.get(key).is_some_and(|is| value.as_ref().is_none_or(|value| is == value))
        });
        name && tag && search.alias.as_ref().is_none_or(|alias| self.aliases.contains_key(alias))
    }
}

/// A version of a registered model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ModelVersion {
    /// Its number.
    pub version: String,
    /// The stage of older registries: `None`, `Staging`, `Production`, `Archived`.
    pub stage: Option<String>,
    /// `READY`, or why not.
    pub status: Option<String>,
    /// The aliases that name it.
    pub aliases: Vec<String>,
    /// What its owner wrote.
    pub description: Option<String>,
    /// The run that made it.
    pub run_id: Option<String>,
    /// Where it was registered from: a run's artifact or a logged model.
    pub source: Option<String>,
    /// Milliseconds since 1970.
    pub created_ms: Option<u64>,
    /// Milliseconds since 1970.
    pub updated_ms: Option<u64>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A page of registered models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ModelPage {
    /// May be fewer than asked for though more pages follow.
    pub models: Vec<RegisteredModel>,
    /// Gives the next page.
    pub next_page_token: Option<String>,
}

/// What a version says of itself, from its `MLmodel` file.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct VersionFacts {
    /// Its flavours: `sklearn`, `python_function`, ...
    pub flavors: Vec<String>,
    /// The MLflow that saved it.
    pub mlflow_version: Option<String>,
    /// The Python that saved it.
    pub python_version: Option<String>,
    /// Columns or tensors that it takes, as MLflow writes them; `null` without a signature.
    pub inputs: Value,
    /// What it answers.
    pub outputs: Value,
    /// The parameters of a prediction.
    pub params: Value,
}

impl Registry {
    /// A page of the models that fit.
    pub async fn search(&self, search: &Search) -> Result<ModelPage, RegistryError> {
        let search = Search { max_results: search.max_results.clamp(1, 1000), ..search.clone() };
        match &self.backend {
            Backend::Http(registry) => registry.search(&search).await,
            Backend::File(store) => {
                let store = store.clone();
                self.off_thread(move || store.models().map(|models| page(models, &search))).await
            }
            Backend::Sqlite(store) => store.models().await.map(|models| page(models, &search)),
        }
    }

    /// A model and its versions, the newest first.
    pub async fn model(&self, name: &str) -> Result<(RegisteredModel, Vec<ModelVersion>), RegistryError> {
        let (model, mut versions) = match &self.backend {
            Backend::Http(registry) => registry.model(name).await?,
            Backend::File(store) => {
                let (store, name) = (store.clone(), name.to_owned());
                self.off_thread(move || store.model(&name)).await?
            }
            Backend::Sqlite(store) => store.model(name).await?,
        };
        for version in &mut versions {
            let named = model.aliases.iter().filter(|(_, named)| **named == version.version);
            version.aliases = named.map(|(alias, _)| alias.clone()).collect();
        }
        versions.sort_by_key(|version| std::cmp::Reverse(version.version.parse::<u64>().unwrap_or(0)));
        Ok((model, versions))
    }

    /// What a version's `MLmodel` file says. Nothing else of the version is fetched.
    pub async fn version(&self, name: &str, version: u64) -> Result<VersionFacts, RegistryError> {
        let selector = VersionSelector::Version(version);
        let resolved = self.resolve(&ModelRef::Registered { name: name.to_owned(), selector }).await?;
        let registry = self.name().to_owned();
        let refused = move |reason: String| RegistryError::Refused { registry: registry.clone(), reason };
        let folder = tempfile::tempdir().map_err(|error| refused(error.kind().to_string()))?;
        let fetched = artifacts::fetch_description(self, &resolved, folder.path()).await;
        fetched.map_err(|error| match error {
            artifacts::ArtifactError::Registry(error) => error,
            error => refused(error.to_string()),
        })?;
        let path = folder.path().to_owned();
        self.off_thread(move || VersionFacts::read(&path).map_err(refused)).await
    }
}

impl VersionFacts {
    /// From a folder that holds an `MLmodel` file. The error is fit for callers.
    fn read(folder: &Path) -> Result<Self, String> {
        let file = read_yaml(&folder.join("MLmodel"))?;
        let signature = |name: &str| {
            let text = file.pointer(&format!("/signature/{name}")).and_then(Value::as_str);
            text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
        };
        let flavors = file.get("flavors").and_then(Value::as_object);
        Ok(Self {
            flavors: flavors.map(|flavors| flavors.keys().cloned().collect()).unwrap_or_default(),
            mlflow_version: text_of(file.get("mlflow_version")),
            python_version: text_of(file.pointer("/flavors/python_function/python_version")),
            inputs: signature("inputs"),
            outputs: signature("outputs"),
            params: signature("params"),
        })
    }
}

/// A page of what is all there. Tokens are the name of the page's last model.
fn page(mut models: Vec<RegisteredModel>, search: &Search) -> ModelPage {
    models.sort_by(|a, b| a.name.cmp(&b.name));
    let after = |model: &RegisteredModel| search.page_token.as_ref().is_none_or(|last| model.name > *last);
    let mut fitting = models.into_iter().filter(|model| after(model) && model.fits(search));
    let models: Vec<_> = fitting.by_ref().take(search.max_results).collect();
    let more = fitting.next().is_some();
    let next_page_token = models.last().filter(|_| more).map(|model| model.name.clone());
    ModelPage { models, next_page_token }
}
