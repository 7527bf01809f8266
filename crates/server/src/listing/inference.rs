//! What the Open Inference Protocol tells of a model.

use http::StatusCode;
use millgate_config::EndpointType;
use millgate_models::{Deployment, LiveModel};
use millgate_policy::Scope;
use millgate_types::{Fault, code};
use serde_json::json;

use super::{deployment, json_reply, visible};
use crate::dispatch::mismatches;
use crate::reply::Reply;
use crate::snapshot::{Endpoint, Snapshot, Target, TargetKind};

pub(super) fn model(
    snapshot: &Snapshot,
    scope: &Scope,
    name: &str,
    version: Option<&str>,
    ready: bool,
) -> Result<Reply, Fault> {
    let unknown = || {
        let shown: String = name.chars().take(128).collect();
        Fault::client(code::MODEL_NOT_FOUND, format!("no registered model is served as `{shown}`"))
    };
    let endpoint = visible(snapshot, scope, name).filter(|endpoint| endpoint.kind == EndpointType::Predict);
    let endpoint = endpoint.ok_or_else(unknown)?;
    if !endpoint.route.graphs().is_empty() {
        return graph(endpoint, name, version, ready);
    }
    let deployment = deployment(endpoint).ok_or_else(unknown)?;
    let metadata = deployment.inference_metadata(name, version)?;
    if !ready {
        return json_reply(&metadata);
    }
    readiness(name, deployment.is_ready())
}

fn readiness(name: &str, ready: bool) -> Result<Reply, Fault> {
    let mut reply = json_reply(&json!({ "name": name, "ready": ready }))?;
    if !ready {
        reply.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(reply)
}

/// Several models answer: the input is that of the first, the output that of the last, and there is no one version.
fn graph(endpoint: &Endpoint, name: &str, version: Option<&str>, ready: bool) -> Result<Reply, Fault> {
    if let Some(version) = version {
        let public = format!("endpoint `{}` has no version {version}: several models answer", endpoint.name);
        return Err(Fault::client(code::MODEL_NOT_FOUND, public));
    }
    if ready {
        let targets = endpoint.route.targets();
        let all = targets.iter().filter_map(|target| model_of(target)).all(Deployment::is_ready);
        return readiness(name, all && mismatches(&endpoint.route).is_empty());
    }
    let first = endpoint.route.first().iter().find_map(|target| live(target));
    let last = endpoint.route.last().iter().find_map(|target| live(target));
    let inputs = first.as_ref().and_then(|live| live.signature().inputs.as_ref());
    let outputs = last.as_ref().and_then(LiveModel::outputs);
    let mut metadata = millgate_scoring::inference::metadata(name, "", inputs, outputs);
    metadata["versions"] = json!([]);
    metadata["parameters"] =
        first.as_ref().map_or(json!({}), |live| millgate_models::described(live.signature()));
    json_reply(&metadata)
}

fn model_of(target: &Target) -> Option<&Deployment> {
    match &target.kind {
        TargetKind::Model(deployment) => Some(deployment),
        TargetKind::Provider { .. } | TargetKind::Chat(_) => None,
    }
}

pub(crate) fn live(target: &Target) -> Option<LiveModel> {
    model_of(target)?.live_model()
}
