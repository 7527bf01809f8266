//! What callers can call, and how it is.

use std::sync::Arc;

use http::Method;
use millgate_config::RouteConfig;
use millgate_models::DeploymentState;
use millgate_types::{Fault, Permission, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

use super::{Answer, Context, Manner, Route};
use crate::snapshot::{Endpoint, Target, TargetKind};

pub(super) fn routes() -> [Route; 2] {
    let list = Route {
        method: Method::GET,
        path: "/endpoints",
        needs: Permission::Read,
        summary: "Every endpoint with its route and its targets",
        query: &[],
        request: None,
        response: SchemaGenerator::subschema_for::<Endpoints>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { list(&context) }),
    };
    [
        Route {
            path: "/endpoints/{name}",
            summary: "One endpoint",
            response: SchemaGenerator::subschema_for::<EndpointView>,
            handle: |context| Box::pin(async move { one(&context) }),
            ..list.copy()
        },
        list,
    ]
}

#[derive(Serialize, JsonSchema)]
struct Endpoints {
    endpoints: Vec<EndpointView>,
}

#[derive(Serialize, JsonSchema)]
struct EndpointView {
    name: Arc<str>,
    aliases: Vec<String>,
    /// `predict`, `llm/v1/chat`, ...
    #[serde(rename = "type")]
    kind: &'static str,
    /// A path of its own.
    path: Option<String>,
    /// As configured.
    route: RouteConfig,
    targets: Vec<TargetView>,
}

#[derive(Serialize, JsonSchema)]
struct TargetView {
    /// `provider/model` or a `models:/` URI.
    target: Arc<str>,
    /// The state of a registered model.
    state: Option<DeploymentState>,
    /// Its version that serves.
    version: Option<Arc<str>>,
    /// What runs it.
    runtime: Option<&'static str>,
}

fn view(endpoint: &Endpoint) -> EndpointView {
    let target = |target: Arc<Target>| {
        let status = match &target.kind {
            TargetKind::Model(deployment) => Some(deployment.status()),
            TargetKind::Chat(chat) => Some(chat.deployment.status()),
            TargetKind::Provider { .. } => None,
        };
        TargetView {
            target: Arc::clone(&target.label),
            state: status.as_ref().map(|status| status.state),
            version: status.as_ref().and_then(|status| status.version.clone()),
            runtime: status.as_ref().and_then(|status| status.runtime),
        }
    };
    EndpointView {
        name: Arc::clone(&endpoint.name),
        aliases: endpoint.config.aliases.clone(),
        kind: endpoint.kind.name(),
        path: endpoint.path.clone(),
        route: endpoint.config.route.clone(),
        targets: endpoint.route.targets().into_iter().map(target).collect(),
    }
}

fn list(context: &Context) -> Result<Answer, Fault> {
    let seen = context.snapshot.endpoints.iter().filter(|endpoint| context.sees(&endpoint.name));
    let endpoints = seen.map(|endpoint| view(endpoint)).collect();
    Answer::ok(&Endpoints { endpoints })
}

fn one(context: &Context) -> Result<Answer, Fault> {
    let name = context.param("name");
    let seen = context.snapshot.by_name(name).filter(|endpoint| context.sees(&endpoint.name));
    let endpoint = seen.ok_or_else(|| {
        let shown: String = name.chars().take(128).collect();
        Fault::client(code::NOT_FOUND, format!("no endpoint `{shown}` is served"))
    })?;
    Answer::ok(&view(endpoint))
}
