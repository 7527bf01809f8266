//! `routes:` with `route_type`: registry models and LLMs side by side, and MLflow 2.x gateway files.
//!
//! ```yaml
//! routes:
//!   - name: iris
//!     route_type: mlflow-model
//!     model: { name: IrisClassifier, stage: Production }
//!     endpoint: /predict/iris
//!   - name: chat
//!     route_type: llm/v1/chat
//!     model: { provider: openai, name: gpt-4o-mini, openai_config: { openai_api_key: $OPENAI_API_KEY } }
//!     rate_limit: { calls: 10, period: 60s }
//! ```

use super::{Providers, SHARED, provider};
use crate::load::{Problems, nearest};
use crate::node::{Node, Value};

const ROUTE_FIELDS: [&str; 7] = ["name", "route_type", "model", "endpoint", "rate_limit", "limit", "serving"];

pub(crate) fn rewrite(root: &Node, problems: &mut Problems) -> Node {
    let mut providers = Providers::default();
    let mut endpoints = Vec::new();
    let mut uses_registry = false;
    let mut top = Vec::new();
    for (key, node) in root.members() {
        match key.name.as_str() {
            "routes" | "endpoints" => {
                for route in node.items() {
                    endpoints.extend(endpoint(route, &mut providers, &mut uses_registry, problems));
                }
            }
            name if SHARED.contains(&name) => top.push((name, node.clone())),
            name => problems.error(
                node,
                format!("unknown field `{name}`"),
                nearest(name, ["routes"].into_iter().chain(SHARED)),
            ),
        }
    }
    if uses_registry && root.get("registries").is_none() {
        top.push(("registries", default_registry(root)));
    }
    top.push(("providers", providers.into_node(root)));
    top.push(("endpoints", root.with(Value::List(endpoints))));
    root.with_map(top)
}

/// `MLFLOW_REGISTRY_URI` or `MLFLOW_TRACKING_URI` with its credentials, else `./mlruns`, as MLflow does.
fn default_registry(root: &Node) -> Node {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let uri = ["MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI"].into_iter().find(|name| set(name));
    let uri = uri.map_or_else(|| "./mlruns".to_owned(), |name| format!("${{env:{name}}}"));
    let mut registry = vec![("uri", root.with_text(uri))];
    if set("MLFLOW_TRACKING_TOKEN") {
        registry.push(("token", root.with_text("env:MLFLOW_TRACKING_TOKEN")));
    }
    if set("MLFLOW_TRACKING_USERNAME") && set("MLFLOW_TRACKING_PASSWORD") {
        registry.push(("username", root.with_text("${env:MLFLOW_TRACKING_USERNAME}")));
        registry.push(("password", root.with_text("env:MLFLOW_TRACKING_PASSWORD")));
    }
    root.with_map(vec![("default", root.with_map(registry))])
}

fn endpoint(
    route: &Node,
    providers: &mut Providers,
    uses_registry: &mut bool,
    problems: &mut Problems,
) -> Option<Node> {
    for (key, node) in route.members() {
        if !ROUTE_FIELDS.contains(&key.name.as_str()) {
            problems.error(
                node,
                format!("unknown field `{}`", key.name),
                nearest(&key.name, ROUTE_FIELDS.into_iter()),
            );
        }
    }
    let mut fields = Vec::new();
    if let Some(name) = route.get("name") {
        fields.push(("name", name.clone()));
    }
    if let Some(path) = route.get("endpoint") {
        fields.push(("path", path.clone()));
    }
    if let Some(serving) = route.get("serving") {
        fields.push(("serving", serving.clone()));
    }
    let Some(route_type) = route.get("route_type") else {
        problems.error(route, "the field `route_type` is missing", "for example `route_type: llm/v1/chat`");
        return None;
    };
    let Some(model) = route.get("model") else {
        problems.error(route, "the field `model` is missing", "");
        return None;
    };
    if route_type.text() == Some("mlflow-model") {
        *uses_registry = true;
        fields.push(("type", route_type.with_text("predict")));
        fields.push(("route", registered_model(model, problems)?));
    } else {
        fields.push(("type", route_type.clone()));
        let found = provider(model, true, problems)?;
        let provider = providers.name_for(&found.kind, found.settings);
        let Some(name) = found.deployment.as_ref().or(model.get("name")) else {
            problems.error(model, "the field `name` is missing", "the provider's name of the model");
            return None;
        };
        let Some(text) = name.text() else {
            problems.error(name, "expected text", "");
            return None;
        };
        fields.push(("route", name.with_text(format!("{provider}/{text}"))));
    }
    if let Some(limit) = route.get("rate_limit").or_else(|| route.get("limit")) {
        fields.push(("limits", limit.with(Value::List(vec![rate_limit(limit, problems)?]))));
    }
    Some(route.with_map(fields))
}

/// `{name, version | stage | alias}`, or `{uri: models:/...}`.
fn registered_model(model: &Node, problems: &mut Problems) -> Option<Node> {
    const FIELDS: [&str; 5] = ["name", "version", "stage", "alias", "uri"];
    for (key, node) in model.members() {
        if !FIELDS.contains(&key.name.as_str()) {
            let hint = nearest(&key.name, FIELDS.into_iter());
            problems.error(node, format!("unknown field `{}`", key.name), hint);
        }
    }
    if let Some(uri) = model.get("uri") {
        return Some(uri.clone());
    }
    let Some(name) = model.get("name") else {
        problems.error(model, "the field `name` is missing", "the registered model's name");
        return None;
    };
    let selectors: Vec<_> =
        ["version", "stage", "alias"].iter().filter_map(|field| Some((*field, model.get(field)?))).collect();
    let text = |node: &Node| match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Unsigned(number) => Some(number.to_string()),
        _ => None,
    };
    let uri = match selectors.as_slice() {
        [] => text(name).map(|name| format!("models:/{name}/latest")),
        [("alias", alias)] => {
            text(name).zip(text(alias)).map(|(name, alias)| format!("models:/{name}@{alias}"))
        }
        [(_, selector)] => {
            text(name).zip(text(selector)).map(|(name, part)| format!("models:/{name}/{part}"))
        }
        [_, (field, second), ..] => {
            problems.error(
                second,
                format!("`{field}` stands beside another selector"),
                "keep one of `version`, `stage`, `alias`",
            );
            return None;
        }
    };
    if uri.is_none() {
        problems.error(model, "`name` and its selector must be text", "");
    }
    Some(name.with_text(uri?))
}

/// `{calls, period}`, or MLflow's `{calls, renewal_period}`.
pub(crate) fn rate_limit(limit: &Node, problems: &mut Problems) -> Option<Node> {
    const FIELDS: [&str; 4] = ["calls", "period", "renewal_period", "key"];
    for (key, node) in limit.members() {
        if !FIELDS.contains(&key.name.as_str()) {
            let hint = nearest(&key.name, FIELDS.into_iter());
            problems.error(node, format!("unknown field `{}`", key.name), hint);
        }
    }
    if let Some(key) = limit.get("key").filter(|key| !matches!(key.value, Value::Null)) {
        problems.warning(key, "`key` has no effect", "the limit holds for each caller");
    }
    let (Some(calls), Some(period)) =
        (limit.get("calls"), limit.get("period").or_else(|| limit.get("renewal_period")))
    else {
        problems.error(
            limit,
            "a rate limit needs `calls` and `period`",
            "for example `{calls: 10, period: 60s}`",
        );
        return None;
    };
    Some(limit.with_map(vec![("requests", calls.clone()), ("per", period.clone())]))
}
