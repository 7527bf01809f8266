//! What there is, and how the gateway is: model lists in the callers' dialects, health, metrics.

mod abilities;
pub(crate) mod inference;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use millgate_config::{EndpointType, RouteConfig};
use millgate_models::{Deployment, DeploymentStatus};
use millgate_observe::CONTENT_TYPE;
use millgate_policy::Scope;
use millgate_types::{Fault, code};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Gateway;
use crate::reply::Reply;
use crate::snapshot::{Endpoint, Snapshot, TargetKind};
use crate::standing;
use crate::surface::{self, Surface};

/// MLflow's page size.
const PAGE: usize = 3000;

/// Answers that need no key.
pub(crate) fn public(gateway: &Gateway, snapshot: &Snapshot, surface: Surface<'_>) -> Result<Reply, Fault> {
    Ok(match surface {
        Surface::Ready => {
            let readiness = gateway.readiness();
            let mut reply = json_reply(&readiness)?;
            if !readiness.ready {
                reply.status = StatusCode::SERVICE_UNAVAILABLE;
            }
            reply
        }
        Surface::Metrics => {
            gateway.recorder.flush();
            standing::tell(gateway, snapshot);
            if let Some(keys) = &gateway.keys {
                gateway.metrics.dependency("store", keys.is_fresh());
            }
            if let Some(counters) = &gateway.shared {
                gateway.metrics.dependency("shared", counters.is_up());
            }
            if let Some(audit) = &gateway.audit {
                gateway.metrics.audit_healthy.set(i64::from(audit.is_healthy()));
                gateway.metrics.audit_lost.inner().store(audit.lost(), Ordering::Relaxed);
                gateway.metrics.audit_dropped.inner().store(audit.dropped(), Ordering::Relaxed);
            }
            Reply::whole(HeaderValue::from_static(CONTENT_TYPE), gateway.metrics.render())
        }
        Surface::Ping => {
            let mut reply = Reply::json(&b"\n"[..]);
            if served_model(snapshot).is_some_and(|(ready, _)| !ready) {
                reply.status = StatusCode::SERVICE_UNAVAILABLE;
            }
            reply
        }
        Surface::Version => {
            let version = served_model(snapshot).and_then(|(_, status)| status.mlflow_version);
            Reply::json(version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()))
        }
        Surface::Root => json_reply(&json!({
            "name": "millgate",
            "version": env!("CARGO_PKG_VERSION"),
            "models": "/v1/models",
            "endpoints": "/api/2.0/endpoints/",
            "health": "/health",
            "metrics": "/metrics",
        }))?,
        // That it answers is the answer.
        _ => Reply::json(&b"{\"status\":\"OK\"}"[..]),
    })
}

/// The model of `millgate models serve`: the endpoint at `/invocations`.
fn served_model(snapshot: &Snapshot) -> Option<(bool, DeploymentStatus)> {
    let deployment = deployment(snapshot.by_path("/invocations")?)?;
    Some((deployment.is_ready(), deployment.status()))
}

/// The first registered model behind an endpoint.
fn deployment(endpoint: &Endpoint) -> Option<Arc<Deployment>> {
    endpoint.route.targets().iter().find_map(|target| match &target.kind {
        TargetKind::Model(deployment) => Some(Arc::clone(deployment)),
        TargetKind::Provider { .. } | TargetKind::Chat(_) => None,
    })
}

/// Lists for callers.
pub(crate) fn listing(
    snapshot: &Snapshot,
    scope: &Scope,
    surface: Surface<'_>,
    head: &Parts,
) -> Result<Reply, Fault> {
    match surface {
        Surface::Models => {
            let served = served(snapshot, scope);
            let data: Vec<_> = served.iter().map(|(name, endpoint)| model(name, endpoint)).collect();
            let models: Vec<_> = served.iter().filter_map(|(name, e)| gemini_model(name, e)).collect();
            // Anthropic's list has these three beside `data`, Google's has `models`; others ignore them.
            json_reply(&json!({
                "object": "list",
                "data": data,
                "has_more": false,
                "first_id": served.first().map(|(name, _)| name),
                "last_id": served.last().map(|(name, _)| name),
                "models": models,
            }))
        }
        Surface::Model(name) => {
            let endpoint = visible(snapshot, scope, name).ok_or_else(|| {
                let shown: String = name.chars().take(128).collect();
                Fault::client(code::MODEL_NOT_FOUND, format!("no endpoint `{shown}` is served"))
                    .with_param("model")
            })?;
            let mut shown = model(name, endpoint);
            shown["millgate"] = abilities::of(endpoint, name);
            json_reply(&shown)
        }
        Surface::GeminiModels => {
            let served = served(snapshot, scope);
            let models: Vec<_> = served.iter().filter_map(|(name, e)| gemini_model(name, e)).collect();
            json_reply(&json!({ "models": models }))
        }
        Surface::GeminiModel(name) => {
            let name = surface::decoded(name);
            let found = visible(snapshot, scope, &name).and_then(|endpoint| gemini_model(&name, endpoint));
            json_reply(&found.ok_or_else(|| {
                let shown: String = name.chars().take(128).collect();
                Fault::client(code::MODEL_NOT_FOUND, format!("no model `{shown}` is served"))
            })?)
        }
        Surface::InferenceServer => json_reply(&json!({
            "name": "millgate",
            "version": env!("CARGO_PKG_VERSION"),
            "extensions": ["binary_tensor_data"],
        })),
        Surface::InferenceModel { model, version, ready } => {
            inference::model(snapshot, scope, &surface::decoded(model), version, ready)
        }
        Surface::OpenApi => Ok(Reply::json(snapshot.openapi.document(snapshot, scope))),
        Surface::MlflowEndpoints { legacy } => mlflow_endpoints(snapshot, scope, legacy, head),
        Surface::MlflowEndpoint { name, legacy } => {
            let endpoint = visible(snapshot, scope, name).filter(|endpoint| !is_traffic_route(endpoint));
            json_reply(&mlflow_endpoint(endpoint.ok_or_else(|| not_present(name))?, legacy))
        }
        Surface::MlflowRoute(name) => {
            let endpoint = visible(snapshot, scope, name).filter(|endpoint| is_traffic_route(endpoint));
            json_reply(&traffic_route(endpoint.ok_or_else(|| not_present(name))?))
        }
        Surface::MlflowLimits => {
            let kind = if head.method == http::Method::GET { "get_limits" } else { "set_limits" };
            Err(Fault::client(code::NOT_IMPLEMENTED, format!("The {kind} API is not available yet.")))
        }
        _ => Err(Fault::client(code::NOT_FOUND, "nothing is served at this path")),
    }
}

/// An endpoint that the caller may know of.
fn visible<'s>(snapshot: &'s Snapshot, scope: &Scope, name: &str) -> Option<&'s Arc<Endpoint>> {
    snapshot.by_name(name).filter(|endpoint| scope.allows_endpoint(&endpoint.name))
}

fn json_reply<T: Serialize>(value: &T) -> Result<Reply, Fault> {
    let body = serde_json::to_vec(value).map_err(|error| {
        Fault::gateway(code::INTERNAL_ERROR, "the list could not be written").with_cause(error)
    })?;
    Ok(Reply::json(body))
}

/// Every name that callers may use, and its endpoint. A pattern shows the catalogue's models that it fits.
fn served<'s>(snapshot: &'s Snapshot, scope: &Scope) -> Vec<(String, &'s Arc<Endpoint>)> {
    let mut found: Vec<(String, &Arc<Endpoint>)> = Vec::new();
    for endpoint in snapshot.endpoints.iter().filter(|endpoint| scope.allows_endpoint(&endpoint.name)) {
        let names: Vec<String> = if endpoint.name.contains('*') {
            // Whole names win over patterns, longer patterns over shorter ones.
            let mut names = abilities::fitting(endpoint);
            names.retain(|name| snapshot.by_name(name).is_some_and(|found| Arc::ptr_eq(found, endpoint)));
            names
        } else {
            let aliases = endpoint.config.aliases.iter().cloned();
            [endpoint.name.to_string()].into_iter().chain(aliases).collect()
        };
        found.extend(names.into_iter().map(|name| (name, endpoint)));
    }
    found
}

fn model(name: &str, endpoint: &Endpoint) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "millgate",
        "type": "model",
        "display_name": name,
        "name": format!("models/{name}"),
        "created_at": "1970-01-01T00:00:00Z",
        "endpoint_type": endpoint.kind.name(),
        "path": endpoint.path,
    })
}

/// An entry of Google's list; predictions and completions have no place there.
fn gemini_model(name: &str, endpoint: &Endpoint) -> Option<Value> {
    let methods = match endpoint.kind {
        EndpointType::Chat => json!(["generateContent", "countTokens"]),
        EndpointType::Embeddings => json!(["embedContent"]),
        _ => return None,
    };
    let mut shown = json!({
        "name": format!("models/{name}"),
        "version": "1",
        "displayName": name,
        "supportedGenerationMethods": methods,
    });
    let (context, max_output) = abilities::bounds(endpoint, name);
    for (key, bound) in [("inputTokenLimit", context), ("outputTokenLimit", max_output)] {
        if let Some(bound) = bound {
            shown[key] = bound.into();
        }
    }
    Some(shown)
}

// ---- MLflow -----------------------------------------------------------------------------------------

/// An LLM endpoint that splits its traffic over other endpoints is what MLflow calls a route.
fn is_traffic_route(endpoint: &Endpoint) -> bool {
    matches!(endpoint.config.route, RouteConfig::Split(_)) && endpoint.kind != EndpointType::Predict
}

fn not_present(name: &str) -> Fault {
    let shown: String = name.chars().take(128).collect();
    let public = format!(
        "The endpoint '{shown}' is not present or active on the server. Please verify the endpoint name."
    );
    Fault::client(code::MODEL_NOT_FOUND, public)
}

fn mlflow_endpoints(snapshot: &Snapshot, scope: &Scope, legacy: bool, head: &Parts) -> Result<Reply, Fault> {
    let token = surface::query(head.uri.path_and_query(), "page_token").filter(|token| !token.is_empty());
    let start = token.map_or(Some(0), page_start).ok_or_else(|| {
        Fault::invalid_value("page_token", "`page_token` is not one that this server gave out")
    })?;
    let all = snapshot.endpoints.iter();
    let all: Vec<_> =
        all.filter(|endpoint| !is_traffic_route(endpoint) && scope.allows_endpoint(&endpoint.name)).collect();
    let page: Vec<_> = all.iter().skip(start).take(PAGE).map(|e| mlflow_endpoint(e, legacy)).collect();
    let next = (start + PAGE < all.len()).then(|| {
        let token = json!({ "index": start + PAGE }).to_string();
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, token)
    });
    json_reply(&if legacy {
        json!({ "routes": page, "next_page_token": next })
    } else {
        json!({ "endpoints": page, "next_page_token": next })
    })
}

/// Tokens are base64 of `{"index": N}`; in the query `=` may be percent-encoded.
fn page_start(token: &str) -> Option<usize> {
    let token = token.replace("%3D", "=").replace("%3d", "=");
    let text = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, token).ok()?;
    let value: Value = serde_json::from_slice(&text).ok()?;
    value["index"].as_u64().and_then(|index| usize::try_from(index).ok())
}

/// Field order as MLflow's own.
fn mlflow_endpoint(endpoint: &Endpoint, legacy: bool) -> Value {
    let (kind, url) = if legacy { ("route_type", "route_url") } else { ("endpoint_type", "endpoint_url") };
    let model = endpoint.shown_model.as_ref();
    let mut limits = endpoint.config.limits.iter();
    let limit = limits.find_map(|limit| {
        let (calls, per) = limit.requests.zip(limit.per)?;
        Some(json!({ "calls": calls, "key": null, "renewal_period": per.to_string() }))
    });
    let mut shown = serde_json::Map::new();
    shown.insert("name".to_owned(), (*endpoint.name).into());
    shown.insert(kind.to_owned(), endpoint.kind.name().into());
    shown.insert(
        "model".to_owned(),
        json!({
            "name": model.map(|(_, name)| name),
            "provider": model.map_or("millgate", |(provider, _)| provider),
        }),
    );
    shown.insert(url.to_owned(), format!("/gateway/{}/invocations", endpoint.name).into());
    shown.insert("limit".to_owned(), limit.unwrap_or(Value::Null));
    Value::Object(shown)
}

fn traffic_route(endpoint: &Endpoint) -> Value {
    let destinations: Vec<_> = match &endpoint.config.route {
        RouteConfig::Split(split) => {
            split.0.iter().map(|(name, share)| json!({ "name": name, "traffic_percentage": share })).collect()
        }
        _ => Vec::new(),
    };
    json!({
        "name": &*endpoint.name,
        "task_type": endpoint.kind.name(),
        "destinations": destinations,
        "routing_strategy": "TRAFFIC_SPLIT",
    })
}
