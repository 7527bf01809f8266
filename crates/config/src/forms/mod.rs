//! Other forms of the document, each rewritten into the canonical tree. A rewritten node keeps the place and
//! the path it had in the file, so that every later problem is reported in the file's own words.

mod cloud;
pub(crate) mod mlflow;
pub(crate) mod routes;

use crate::load::{Form, Problems, nearest};
use crate::node::{Key, Node, Value};

/// Parts of the canonical document that may stand beside the endpoints of every form.
pub(crate) const SHARED: [&str; 7] = ["version", "listen", "registries", "access", "server", "models", "log"];

/// Chooses by content: `route_type` beside `model` is the `routes:` form, `endpoint_type` or `destinations` is
/// MLflow 3.x, anything else is ours.
pub(crate) fn detect(root: &Node) -> Form {
    let items = |name: &str| root.get(name).map(Node::items).unwrap_or_default();
    let any = |name: &str, field: &str| items(name).iter().any(|item| item.get(field).is_some());
    if any("routes", "route_type") || any("routes", "model") || any("endpoints", "route_type") {
        Form::Routes
    } else if any("endpoints", "endpoint_type") || any("routes", "destinations") {
        Form::Mlflow
    } else {
        Form::Canonical
    }
}

/// Collects the providers that rewritten endpoints need; equal settings share one provider.
#[derive(Default)]
pub(crate) struct Providers {
    found: Vec<(String, String, Node)>,
}

impl Providers {
    /// The name under which a provider with these settings is found.
    fn name_for(&mut self, kind: &str, settings: Node) -> String {
        let shape = format!("{kind} {}", outline(&settings));
        if let Some((name, ..)) = self.found.iter().find(|(_, known, _)| *known == shape) {
            return name.clone();
        }
        let taken = self.found.iter().filter(|(_, known, _)| known.starts_with(&format!("{kind} "))).count();
        let name = if taken == 0 { kind.to_owned() } else { format!("{kind}-{}", taken + 1) };
        self.found.push((name.clone(), shape, settings));
        name
    }

    fn into_node(self, root: &Node) -> Node {
        let members =
            self.found.into_iter().map(|(name, _, node)| (Key { name, place: node.place }, node)).collect();
        root.with(Value::Map(members))
    }
}

/// A node's content without places, to compare by.
fn outline(node: &Node) -> String {
    match &node.value {
        Value::Map(members) => {
            let inner: Vec<_> =
                members.iter().map(|(key, node)| format!("{}={}", key.name, outline(node))).collect();
            format!("{{{}}}", inner.join(","))
        }
        Value::List(items) => format!("[{}]", items.iter().map(outline).collect::<Vec<_>>().join(",")),
        other => format!("{other:?}"),
    }
}

/// What an MLflow `model:` block says of its provider.
pub(crate) struct Found {
    pub(crate) kind: String,
    pub(crate) settings: Node,
    /// The deployment that stands in for the model's name (Azure).
    pub(crate) deployment: Option<Node>,
}

/// The canonical provider of an MLflow `model:` block: `provider`, `config` or `<provider>_config`.
fn provider(model: &Node, strict: bool, problems: &mut Problems) -> Option<Found> {
    let Some(provider) = model.get("provider") else {
        problems.error(model, "the field `provider` is missing", "for example `provider: openai`");
        return None;
    };
    let Some(written) = provider.text() else {
        problems.error(provider, "expected text", "");
        return None;
    };
    let kind = match written.to_ascii_lowercase().replace('_', "-").as_str() {
        "togetherai" => "together".to_owned(),
        "databricks-model-serving" => "databricks".to_owned(),
        other => other.to_owned(),
    };
    let mut settings = Vec::new();
    let (mut kind, mut deployment) = (kind, None);
    let config =
        model.members().iter().find(|(key, _)| key.name == "config" || key.name.ends_with("_config"));
    let mut headers = Vec::new();
    for (key, value) in config.map(|(_, node)| node.members()).unwrap_or_default() {
        if cloud::field(&key.name, value, &mut settings, problems) {
            continue;
        }
        // `openai_api_key`, `together_api_key`, `api_key`: the field behind the provider's own prefix.
        let field =
            ["api_key", "api_base", "organization", "api_version", "version", "api_type", "deployment_name"]
                .into_iter()
                .find(|field| key.name == *field || key.name.ends_with(&format!("_{field}")));
        match (field, value.text()) {
            (Some("api_key"), _) => settings.push(("api_key", value.clone())),
            (Some("api_base"), _) => settings.push(("base_url", value.clone())),
            (Some("organization"), _) => headers.push(("OpenAI-Organization", value.clone())),
            (Some("version"), _) if kind == "anthropic" => headers.push(("anthropic-version", value.clone())),
            (Some("api_type"), Some(text)) if text.eq_ignore_ascii_case("openai") => {}
            (Some("api_type"), Some(text)) if kind == "openai" => {
                // The key of the latter is a token, and travels as one.
                let named = match text.to_ascii_lowercase().as_str() {
                    "azure" => "azure",
                    "azuread" => "azure-ad",
                    _ => {
                        problems.error(value, "unknown API type", "one of `openai`, `azure`, `azuread`");
                        return None;
                    }
                };
                named.clone_into(&mut kind);
            }
            (Some("api_version"), _) => settings.push(("api_version", value.clone())),
            (Some("deployment_name"), _) => deployment = Some(value.clone()),
            _ if strict => {
                let known = ["api_key", "api_base"].map(|field| format!("{kind}_{field}"));
                problems.error(
                    value,
                    format!("unknown field `{}`", key.name),
                    nearest(&key.name, known.iter().map(String::as_str)),
                );
            }
            _ => problems.warning(value, format!("`{}` is not used", key.name), ""),
        }
    }
    if !headers.is_empty() {
        settings.push(("headers", model.with_map(headers)));
    }
    settings.insert(0, ("kind", provider.with_text(kind.as_str())));
    Some(Found { kind, settings: model.with_map(settings), deployment })
}
