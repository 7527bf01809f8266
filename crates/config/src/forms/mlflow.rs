//! MLflow 3.x gateway files: `endpoints:` with `endpoint_type`, `routes:` that split traffic. As in MLflow,
//! unknown keys are ignored; here they give a warning. The sections
//! that MLflow does not have (`access`, `server`, ...) are ours and count.

use super::{Providers, SHARED, provider, routes::rate_limit};
use crate::load::Problems;
use crate::node::{Key, Node, Value};

pub(crate) fn rewrite(root: &Node, problems: &mut Problems) -> Node {
    let mut providers = Providers::default();
    let mut endpoints = Vec::new();
    let mut top = Vec::new();
    for (key, node) in root.members() {
        match key.name.as_str() {
            "endpoints" => {
                for item in node.items() {
                    endpoints.extend(endpoint(item, &mut providers, problems));
                }
            }
            "routes" => {
                for item in node.items() {
                    endpoints.extend(traffic(item, problems));
                }
            }
            shared if SHARED.contains(&shared) => top.push((shared, node.clone())),
            other => problems.warning(node, format!("`{other}` is not used"), "MLflow ignores it too"),
        }
    }
    top.push(("providers", providers.into_node(root)));
    top.push(("endpoints", root.with(Value::List(endpoints))));
    root.with_map(top)
}

fn ignore_others(node: &Node, known: &[&str], problems: &mut Problems) {
    for (key, value) in node.members() {
        if !known.contains(&key.name.as_str()) {
            problems.warning(value, format!("`{}` is not used", key.name), "MLflow ignores it too");
        }
    }
}

fn endpoint(item: &Node, providers: &mut Providers, problems: &mut Problems) -> Option<Node> {
    ignore_others(item, &["name", "endpoint_type", "model", "limit"], problems);
    let mut fields = Vec::new();
    if let Some(name) = item.get("name") {
        fields.push(("name", name.clone()));
    }
    if let Some(endpoint_type) = item.get("endpoint_type") {
        fields.push(("type", endpoint_type.clone()));
    }
    let Some(model) = item.get("model") else {
        problems.error(item, "the field `model` is missing", "");
        return None;
    };
    ignore_others(model, &["name", "provider", "config"], problems);
    let found = provider(model, false, problems)?;
    let provider = providers.name_for(&found.kind, found.settings);
    let name = found.deployment.as_ref().or(model.get("name")).unwrap_or(model);
    fields.push(("route", name.with_text(format!("{provider}/{}", name.text().unwrap_or_default()))));
    if let Some(limit) = item.get("limit").filter(|limit| !matches!(limit.value, Value::Null)) {
        fields.push(("limits", limit.with(Value::List(vec![rate_limit(limit, problems)?]))));
    }
    Some(item.with_map(fields))
}

fn traffic(item: &Node, problems: &mut Problems) -> Option<Node> {
    ignore_others(item, &["name", "task_type", "routing_strategy", "destinations"], problems);
    if let Some(strategy) = item.get("routing_strategy")
        && strategy.text() != Some("TRAFFIC_SPLIT")
    {
        problems.error(strategy, "unknown routing strategy", "the only one is `TRAFFIC_SPLIT`");
    }
    let Some(destinations) = item.get("destinations") else {
        problems.error(item, "the field `destinations` is missing", "");
        return None;
    };
    let mut sum = 0;
    let mut weights = Vec::new();
    for destination in destinations.items() {
        let (Some(name), Some(share)) = (destination.get("name"), destination.get("traffic_percentage"))
        else {
            problems.error(destination, "a destination needs `name` and `traffic_percentage`", "");
            return None;
        };
        match share.value {
            Value::Unsigned(percent @ 0..=100) => sum += percent,
            _ => problems.error(share, "expected an integer from 0 to 100", ""),
        }
        let key = Key { name: name.text().unwrap_or_default().to_owned(), place: name.place };
        weights.push((key, share.clone()));
    }
    if sum != 100 {
        problems.error(destinations, format!("the percentages add up to {sum}"), "they must add up to 100");
    }
    let split = destinations.with(Value::Map(weights));
    let mut fields = vec![("route", item.with_map(vec![("split", split)]))];
    if let Some(name) = item.get("name") {
        fields.push(("name", name.clone()));
    }
    if let Some(task_type) = item.get("task_type") {
        fields.push(("type", task_type.clone()));
    }
    Some(item.with_map(fields))
}
