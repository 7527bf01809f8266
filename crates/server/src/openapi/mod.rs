//! `/openapi.json`: what this gateway serves now, as OpenAPI 3.1. Predictions are described by the signatures of the versions
//! that are live, so the document changes with a promotion; LLM endpoints by the main fields of the dialects
//! (`dialects.json`). What the document leaves out may be sent all the same.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use millgate_config::EndpointType;
use millgate_models::LiveModel;
use millgate_policy::Scope;
use millgate_scoring::{Signature, answer_schema, request_schema, row_schema};
use serde_json::{Map, Value, json};

use crate::listing::inference::live;
use crate::snapshot::{Endpoint, Snapshot};

const DIALECTS: &str = include_str!("dialects.json");

/// The document, kept as long as the same versions are live.
#[derive(Default)]
pub(crate) struct OpenApi(Mutex<Option<(Vec<Version>, Bytes)>>);

/// Endpoint, version and digest of what a part of the document was made from.
type Version = (Arc<str>, Arc<str>, String);

/// What an endpoint takes and answers.
struct Described {
    first: Option<LiveModel>,
    last: Option<LiveModel>,
}

impl Described {
    fn of(endpoint: &Endpoint) -> Self {
        let first = endpoint.route.first().iter().find_map(|target| live(target));
        // Behind an LLM or a server elsewhere nothing is known.
        let last = endpoint.route.last();
        let last = last.first().and_then(|target| live(target));
        Self { first, last }
    }
}

impl OpenApi {
    /// The JSON, of the endpoints that the caller may know of.
    pub(crate) fn document(&self, snapshot: &Snapshot, scope: &Scope) -> Bytes {
        let visible = snapshot.endpoints.iter().filter(|endpoint| scope.allows_endpoint(&endpoint.name));
        let visible: Vec<&Arc<Endpoint>> = visible.collect();
        let predicts = visible.iter().copied().filter(|endpoint| endpoint.kind == EndpointType::Predict);
        let described: Vec<_> = predicts.map(|endpoint| (endpoint, Described::of(endpoint))).collect();
        let versions: Vec<Version> = described
            .iter()
            .flat_map(|(endpoint, described)| {
                let sides = described.first.iter().chain(&described.last);
                sides.map(|live| {
                    (Arc::clone(&endpoint.name), Arc::clone(live.version()), live.digest().to_owned())
                })
            })
            .collect();
        if visible.len() < snapshot.endpoints.len() {
            return make(&visible, &described).to_string().into();
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, bytes)) = &*kept
            && *known == versions
        {
            return bytes.clone();
        }
        let bytes = Bytes::from(make(&visible, &described).to_string());
        *kept = Some((versions, bytes.clone()));
        bytes
    }
}

fn make(visible: &[&Arc<Endpoint>], described: &[(&Arc<Endpoint>, Described)]) -> Value {
    let dialects: Value = serde_json::from_str(DIALECTS).unwrap_or_default();
    let mut schemas = dialects["schemas"].as_object().cloned().unwrap_or_default();
    let mut paths: Map<String, Value> = Map::new();
    for (endpoint, described) in described {
        let unknown = Signature::default();
        let signature = described.first.as_ref().map_or(&unknown, LiveModel::signature);
        let outputs = described.last.as_ref().and_then(LiveModel::outputs);
        let name = component(&endpoint.name);
        schemas.insert(format!("{name}.Request"), request_schema(signature));
        schemas.insert(format!("{name}.Row"), row_schema(signature));
        schemas.insert(format!("{name}.Answer"), answer_schema(outputs));
        predict_paths(endpoint, described, &name, &mut paths);
    }
    let llm = |kind: EndpointType| -> Vec<&Arc<Endpoint>> {
        visible.iter().copied().filter(|endpoint| endpoint.kind == kind).collect()
    };
    for kind in EndpointType::LLM {
        let endpoints = llm(kind);
        if endpoints.is_empty() {
            continue;
        }
        let names: Vec<_> = endpoints.iter().map(|endpoint| Value::from(&*endpoint.name)).collect();
        let listed = dialects["paths"][kind.name()].as_object().into_iter().flatten();
        for (path, written) in listed {
            let summary = format!(
                "{}; `model` is one of {}",
                written["summary"].as_str().unwrap_or_default(),
                list(&names)
            );
            let id = path.trim_start_matches('/').replace(['/', ':', '{', '}'], "_");
            paths.insert(path.clone(), operation(&id, &summary, kind.name(), written));
        }
        for endpoint in endpoints.iter().filter(|endpoint| !endpoint.name.contains('*')) {
            let invocations = &dialects["invocations"][kind.name()];
            let id = format!("invoke_{}", component(&endpoint.name));
            let summary = format!("Ask `{}` in MLflow's dialect", endpoint.name);
            let path = format!("/gateway/{}/invocations", endpoint.name);
            paths.insert(path, operation(&id, &summary, &endpoint.name, invocations));
            if let Some(path) = &endpoint.path {
                let natural = &dialects["own_path"][kind.name()];
                let summary = format!("Ask `{}`", endpoint.name);
                paths
                    .insert(path.clone(), operation(&format!("{id}_own"), &summary, &endpoint.name, natural));
            }
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Millgate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What this gateway serves now. Fields that are not described here may be sent all the same.",
        },
        "security": [{ "key": [] }, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn list(names: &[Value]) -> String {
    names.iter().filter_map(Value::as_str).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The name as one of a component: those have no other characters than these.
fn component(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || "._-".contains(letter) { letter } else { '_' })
        .collect()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn error(name: &str) -> Value {
    json!({
        "description": "What went wrong; `code` and the header `x-millgate-error` name it.",
        "content": { "application/json": { "schema": reference(name) } },
    })
}

/// A `POST` of a dialect: its schemas by name.
fn operation(id: &str, summary: &str, tag: &str, written: &Value) -> Value {
    let name = |field: &str| written[field].as_str().unwrap_or_default();
    let mut content = json!({ "application/json": { "schema": reference(name("answer")) } });
    if written["stream"] == true {
        content["text/event-stream"] = json!({ "schema": { "type": "string" } });
    }
    let mut operation = json!({
        "operationId": id,
        "summary": summary,
        "tags": [tag],
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": reference(name("request")) } },
        },
        "responses": {
            "200": { "description": "The answer.", "content": content },
            "default": error(name("error")),
        },
    });
    if let Some(parameters) = written.get("parameters") {
        operation["parameters"] = parameters.clone();
    }
    json!({ "post": operation })
}

fn predict_paths(endpoint: &Endpoint, described: &Described, name: &str, paths: &mut Map<String, Value>) {
    let mut about = format!("Ask `{}` in MLflow's scoring protocol", endpoint.name);
    match &described.first {
        Some(live) => about.push_str(&format!(" (version {} is live)", live.version())),
        None => about.push_str(" (its signature is not known now)"),
    }
    let rows = format!("{name}.Row");
    let request = format!("{name}.Request");
    let answer = format!("{name}.Answer");
    let scoring = |id: String, error_name: &str| {
        json!({ "post": {
            "operationId": id,
            "summary": about,
            "tags": [endpoint.name],
            "requestBody": { "required": true, "content": {
                "application/json": { "schema": reference(&request) },
                "text/csv": { "schema": { "type": "string" } },
                "application/vnd.apache.parquet": { "schema": {} },
                "application/x-ndjson": { "schema": reference(&rows) },
                "application/vnd.apache.arrow.stream": { "schema": {} },
            } },
            "responses": {
                "200": {
                    "description": "The predictions, row by row.",
                    "content": {
                        "application/json": { "schema": reference(&answer) },
                        "application/x-ndjson": { "schema": {} },
                        "application/vnd.apache.arrow.stream": { "schema": {} },
                    },
                },
                "default": error(error_name),
            },
        } })
    };
    if let Some(path) = &endpoint.path {
        paths.insert(path.clone(), scoring(format!("predict_{name}_own"), "ScoringError"));
    }
    if endpoint.name.contains('*') {
        return;
    }
    for prefix in ["endpoints", "gateway"] {
        let path = format!("/{prefix}/{}/invocations", endpoint.name);
        paths.insert(path, scoring(format!("predict_{name}_{prefix}"), "ScoringError"));
    }
    let model = format!("/v2/models/{}", endpoint.name);
    let answered = |name: &str| json!({ "description": "The answer.", "content": { "application/json": { "schema": reference(name) } } });
    paths.insert(
        model.clone(),
        json!({ "get": {
            "operationId": format!("metadata_{name}"), "tags": [endpoint.name],
            "summary": format!("Inputs and outputs of `{}` in the Open Inference Protocol", endpoint.name),
            "responses": { "200": answered("InferenceMetadata"), "default": error("InferenceError") },
        } }),
    );
    paths.insert(
        format!("{model}/infer"),
        json!({ "post": {
            "operationId": format!("infer_{name}"), "tags": [endpoint.name],
            "summary": format!("Ask `{}` in the Open Inference Protocol", endpoint.name),
            "requestBody": { "required": true, "content": {
                "application/json": { "schema": reference("InferenceRequest") },
                "application/octet-stream": { "schema": {} },
            } },
            "responses": { "200": answered("InferenceAnswer"), "default": error("InferenceError") },
        } }),
    );
}
