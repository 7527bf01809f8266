//! Registered models at work: how they are, and going back to the version before.

use std::sync::Arc;

use http::{Method, StatusCode};
use millgate_models::{Deployment, DeploymentStatus, Switched};
use millgate_types::{Fault, Permission, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{Answer, Context, Manner, Route, tag};

pub(super) fn routes() -> [Route; 5] {
    let one = Manner { tag: Some(deployment_tag), ..Manner::default() };
    let change = Route {
        method: Method::POST,
        path: "/deployments/{endpoint}/rollback",
        needs: Permission::Manage,
        summary: "Go back to the version before, or to `to`; the registry is followed again when it names another one",
        query: &[],
        request: Some(SchemaGenerator::subschema_for::<RollBack>),
        response: SchemaGenerator::subschema_for::<Switched>,
        manner: one,
        handle: |context| Box::pin(async move { roll_back(&context) }),
    };
    [
        Route {
            method: Method::GET,
            path: "/deployments",
            needs: Permission::Read,
            summary: "Every registered model that is served, and how it is",
            query: &[],
            request: None,
            response: SchemaGenerator::subschema_for::<Deployments>,
            manner: Manner::default(),
            handle: |context| Box::pin(async move { list(&context) }),
        },
        Route {
            method: Method::GET,
            path: "/deployments/{endpoint}",
            needs: Permission::Read,
            summary: "The registered model of one endpoint",
            query: &[],
            request: None,
            response: SchemaGenerator::subschema_for::<DeploymentStatus>,
            manner: one,
            handle: |context| Box::pin(async move { Answer::ok(&find(&context, None)?.status()) }),
        },
        Route {
            path: "/deployments/{endpoint}/resume",
            summary: "Follow the registry again after a roll-back",
            request: Some(SchemaGenerator::subschema_for::<Resume>),
            handle: |context| Box::pin(async move { resume(&context) }),
            ..change.copy()
        },
        Route {
            path: "/deployments/{endpoint}/refresh",
            summary: "Ask the registry now instead of at the next poll",
            request: Some(SchemaGenerator::subschema_for::<Resume>),
            response: SchemaGenerator::subschema_for::<DeploymentStatus>,
            handle: |context| Box::pin(async move { refresh(&context) }),
            ..change.copy()
        },
        change,
    ]
}

#[derive(Serialize, JsonSchema)]
struct Deployments {
    deployments: Vec<DeploymentStatus>,
}

/// Where to go back to.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RollBack {
    /// The version's number. Default: the version that served before.
    to: Option<String>,
    /// Which model, where the endpoint has several (`models:/name@alias`).
    model: Option<String>,
}

/// Which model is meant.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Resume {
    /// Which model, where the endpoint has several (`models:/name@alias`).
    model: Option<String>,
}

/// What a change can change: which version serves, and which are kept and held back.
fn deployment_tag(context: &Context) -> Option<String> {
    let name = context.param("endpoint");
    let seen = context.snapshot.deployments.iter().filter(|_| context.sees(name));
    let of_endpoint = seen.filter(|one| *one.spec().endpoint == *name);
    let state = |one: &Arc<Deployment>| {
        let status = one.status();
        let kept = serde_json::to_value(&status.kept).map(|kept| kept["version"].clone());
        (status.model, status.version, kept.unwrap_or_default(), serde_json::to_value(&status.held).ok())
    };
    let states: Vec<_> = of_endpoint.map(state).collect();
    (!states.is_empty()).then(|| tag::of(&states))
}

fn list(context: &Context) -> Result<Answer, Fault> {
    let seen = context.snapshot.deployments.iter().filter(|one| context.sees(&one.spec().endpoint));
    let deployments = seen.map(|deployment| deployment.status()).collect();
    Answer::ok(&Deployments { deployments })
}

/// The deployment that is meant; an endpoint that splits between models has several.
fn find(context: &Context, model: Option<&str>) -> Result<Arc<Deployment>, Fault> {
    let name = context.param("endpoint");
    let deployments = context.snapshot.deployments.iter().filter(|_| context.sees(name));
    let of_endpoint: Vec<_> = deployments.filter(|deployment| *deployment.spec().endpoint == *name).collect();
    let names =
        || of_endpoint.iter().map(|deployment| deployment.status().model).collect::<Vec<_>>().join("`, `");
    match (model, &*of_endpoint) {
        (_, []) => {
            let shown: String = name.chars().take(128).collect();
            Err(Fault::client(code::NOT_FOUND, format!("no registered model is served as `{shown}`")))
        }
        (None, [one]) => Ok(Arc::clone(one)),
        (Some(model), several) => {
            let found = several.iter().find(|deployment| deployment.status().model == model);
            found
                .map(|found| Arc::clone(found))
                .ok_or_else(|| Fault::invalid_value("model", format!("`{name}` serves `{}`", names())))
        }
        (None, _) => {
            let text = format!("`{name}` serves several models, name one of them: `{}`", names());
            Err(Fault::invalid_value("model", text))
        }
    }
}

fn roll_back(context: &Context) -> Result<Answer, Fault> {
    let asked: RollBack = context.body()?;
    let switched = find(context, asked.model.as_deref())?.roll_back(asked.to.as_deref())?;
    switched_answer(context, &switched, "rollback")
}

fn resume(context: &Context) -> Result<Answer, Fault> {
    let asked: Resume = context.body()?;
    let switched = find(context, asked.model.as_deref())?.resume()?;
    switched_answer(context, &switched, "resume")
}

fn switched_answer(context: &Context, switched: &Switched, action: &str) -> Result<Answer, Fault> {
    let caller = context.identity.principal.name();
    tracing::info!(
        caller,
        action,
        endpoint = &*switched.endpoint,
        to = switched.to.as_deref(),
        "admin change"
    );
    let status = if switched.live { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(Answer::with(status, switched)?.changing(None, switched))
}

fn refresh(context: &Context) -> Result<Answer, Fault> {
    let asked: Resume = context.body()?;
    let deployment = find(context, asked.model.as_deref())?;
    deployment.refresh();
    Answer::with(StatusCode::ACCEPTED, &deployment.status())
}
