//! The registries' models: what there is, and what of it is served where, by which runtime, why.

use std::sync::Arc;

use http::Method;
use millgate_models::{
    DeploymentState, ModelVersion, RegisteredModel, Registry, RegistryError, Search, VersionFacts,
};
use millgate_types::{Fault, ModelRef, Permission, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

use super::page::{self, CURSOR, LIMIT, Page};
use super::{Answer, Context, Manner, Route};
use crate::snapshot::Snapshot;

pub(super) fn routes() -> [Route; 3] {
    let search = Route {
        method: Method::GET,
        path: "/models",
        needs: Permission::Read,
        summary: "Search the models of a registry, and see which are served",
        query: &[
            ("registry", "The registry's name; default `default`, or the only one"),
            ("name", "A part of the model's name, whatever its case"),
            ("tag", "A tag of the model: `key`, or `key=value`"),
            ("alias", "An alias that one of its versions has"),
            LIMIT,
            CURSOR,
        ],
        request: None,
        response: SchemaGenerator::subschema_for::<FoundPage>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { search(&context).await }),
    };
    [
        Route {
            path: "/models/{registry}/{name}",
            summary: "One model: its versions, and where they are served",
            query: &[],
            response: SchemaGenerator::subschema_for::<Described>,
            handle: |context| Box::pin(async move { model(&context).await }),
            ..search.copy()
        },
        Route {
            path: "/models/{registry}/{name}/versions/{version}",
            summary: "What a version says of itself: flavours, signature, parameters",
            query: &[],
            response: SchemaGenerator::subschema_for::<VersionFacts>,
            handle: |context| Box::pin(async move { version(&context).await }),
            ..search.copy()
        },
        search,
    ]
}

#[derive(Serialize, JsonSchema)]
struct FoundPage {
    registry: String,
    models: Vec<Found>,
    /// Gives the next page; a page may be shorter than asked for though more follow.
    next_cursor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Found {
    model: RegisteredModel,
    served: Vec<Served>,
}

#[derive(Serialize, JsonSchema)]
struct Described {
    registry: String,
    model: RegisteredModel,
    /// The newest first.
    versions: Vec<ModelVersion>,
    served: Vec<Served>,
}

/// A place where a version of the model is served.
#[derive(Serialize, JsonSchema)]
struct Served {
    endpoint: Arc<str>,
    /// The route's reference.
    target: String,
    state: DeploymentState,
    version: Option<Arc<str>>,
    /// `native`, `onnx` or `worker`.
    runtime: Option<&'static str>,
    /// Why that runtime.
    why: Option<String>,
    /// What is wrong, if something is.
    reason: Option<String>,
}

fn served(snapshot: &Snapshot, registry: &Registry, name: &str) -> Vec<Served> {
    let of_model = snapshot.deployments.iter().filter(|deployment| {
        let spec = deployment.spec();
        let registered = matches!(&spec.model, ModelRef::Registered { name: known, .. } if known == name);
        registered && spec.registry.name() == registry.name()
    });
    let place = of_model.map(|deployment| {
        let status = deployment.status();
        Served {
            endpoint: status.endpoint,
            target: status.model,
            state: status.state,
            version: status.version,
            runtime: status.runtime,
            why: status.runtime_reason,
            reason: status.reason,
        }
    });
    place.collect()
}

/// The registry that is meant.
fn registry(snapshot: &Snapshot, named: Option<&str>) -> Result<Arc<Registry>, Fault> {
    let registries = &snapshot.registries;
    let found = match named {
        Some(name) => registries.get(name),
        None if registries.len() == 1 => registries.values().next(),
        None => registries.get("default"),
    };
    found.cloned().ok_or_else(|| {
        let mut names: Vec<_> = registries.keys().map(String::as_str).collect();
        names.sort_unstable();
        let text = format!("`registry` must be one of: {}", names.join(", "));
        Fault::invalid_value("registry", text)
    })
}

fn fault(error: &RegistryError) -> Fault {
    let text = error.to_string();
    match error {
        RegistryError::NotFound { .. } => Fault::client(code::NOT_FOUND, text),
        RegistryError::Unreachable { .. } => Fault::gateway(code::REGISTRY_UNAVAILABLE, text),
        RegistryError::BadUri { .. } | RegistryError::Refused { .. } => {
            Fault::gateway(code::UPSTREAM_ERROR, text)
        }
    }
}

async fn search(context: &Context) -> Result<Answer, Fault> {
    let registry = registry(&context.snapshot, context.query("registry").as_deref())?;
    let asked = Page::of(context)?;
    let tag = context.query("tag").map(|tag| match tag.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (tag.into_owned(), None),
    });
    let owned = |name: &str| context.query(name).map(std::borrow::Cow::into_owned);
    let search = Search {
        name: owned("name"),
        tag,
        alias: owned("alias"),
        max_results: asked.limit,
        page_token: asked.after,
    };
    let found_page = registry.search(&search).await.map_err(|error| fault(&error))?;
    let found = found_page.models.into_iter().map(|model| {
        let served = served(&context.snapshot, &registry, &model.name);
        Found { model, served }
    });
    Answer::ok(&FoundPage {
        registry: registry.name().to_owned(),
        models: found.collect(),
        next_cursor: found_page.next_page_token.as_deref().map(page::cursor),
    })
}

async fn model(context: &Context) -> Result<Answer, Fault> {
    let registry = registry(&context.snapshot, Some(context.param("registry")))?;
    let (model, versions) = registry.model(context.param("name")).await.map_err(|error| fault(&error))?;
    let served = served(&context.snapshot, &registry, &model.name);
    Answer::ok(&Described { registry: registry.name().to_owned(), model, versions, served })
}

async fn version(context: &Context) -> Result<Answer, Fault> {
    let registry = registry(&context.snapshot, Some(context.param("registry")))?;
    let number = context.param("version").parse();
    let number = number.map_err(|_| Fault::invalid_value("version", "the version must be a number"))?;
    Answer::ok(&registry.version(context.param("name"), number).await.map_err(|error| fault(&error))?)
}
