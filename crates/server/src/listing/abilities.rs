//! What the models behind a name can do, as far as it is known.

use millgate_config::EndpointType;
use millgate_provider::catalogue_date;
use serde_json::{Map, Value, json};

use crate::snapshot::known::Known;
use crate::snapshot::{Endpoint, Resolved, Target, TargetKind, TargetModel};

/// Every target of the endpoint, with what is known of its model.
pub(super) fn of(endpoint: &Endpoint, asked: &str) -> Value {
    let targets: Vec<Value> =
        endpoint.route.targets().iter().map(|target| describe(endpoint, target, asked)).collect();
    json!({ "endpoint": &*endpoint.name, "targets": targets, "catalogue_date": catalogue_date() })
}

/// The tokens that every target takes, and answers: the smallest of what is known.
pub(super) fn bounds(endpoint: &Endpoint, asked: &str) -> (Option<u64>, Option<u64>) {
    let targets = endpoint.route.targets();
    let known: Vec<_> = targets
        .iter()
        .filter_map(|target| known(endpoint, target, asked))
        .map(|(_, _, known)| known)
        .collect();
    let least = |of: fn(&Known) -> Option<u64>| known.iter().filter_map(|known| of(known)).min();
    (least(|known| known.context), least(|known| known.max_output))
}

/// The names of the catalogue's models that a pattern fits.
pub(super) fn fitting(endpoint: &Endpoint) -> Vec<String> {
    let Some((before, after)) = endpoint.name.split_once('*') else { return Vec::new() };
    let wanted: &[&str] = match endpoint.kind {
        EndpointType::Chat => &["chat", "responses"],
        EndpointType::Completions => &["completion", "chat"],
        EndpointType::Embeddings => &["embedding"],
        EndpointType::Rerank => &["rerank"],
        EndpointType::Moderations => &["moderation"],
        EndpointType::Predict => &[],
    };
    let mut names: Vec<String> = Vec::new();
    for target in endpoint.route.targets() {
        let TargetKind::Provider { provider, model: TargetModel::Pattern(start, end) } = &target.kind else {
            continue;
        };
        for model in millgate_provider::models(provider.kind) {
            let inside = model.strip_prefix(&**start).and_then(|rest| rest.strip_suffix(&**end));
            let of_mode =
                || provider.known(&model).mode.as_deref().is_some_and(|mode| wanted.contains(&mode));
            if let Some(inside) = inside.filter(|_| of_mode()) {
                let name = format!("{before}{inside}{after}");
                if !names.contains(&name) && millgate_dialect::check_model(&name).is_ok() {
                    names.push(name);
                }
            }
        }
    }
    names
}

fn known<'a>(endpoint: &Endpoint, target: &'a Target, asked: &'a str) -> Option<Resolved<'a>> {
    let TargetKind::Provider { provider, model } = &target.kind else { return None };
    model.resolve(provider, endpoint, Some(asked))
}

fn describe(endpoint: &Endpoint, target: &Target, asked: &str) -> Value {
    let mut shown = json!({ "target": &*target.label });
    let Some((provider, model, known)) = known(endpoint, target, asked) else { return shown };
    let can: Map<String, Value> = known
        .capabilities
        .iter()
        .map(|(capability, can)| (capability.name().to_owned(), (*can).into()))
        .collect();
    let price = known.price.as_ref().map(|price| {
        let (input, output) = price.per_million();
        json!({ "input_usd_per_million_tokens": input, "output_usd_per_million_tokens": output })
    });
    shown["provider"] = provider.kind.name.as_str().into();
    shown["model"] = (*model).into();
    shown["mode"] = known.mode.as_deref().into();
    shown["context_tokens"] = known.context.into();
    shown["max_output_tokens"] = known.max_output.into();
    shown["capabilities"] = Value::Object(can);
    shown["price"] = price.into();
    shown["shut_down"] = known.deprecation.as_deref().into();
    shown
}
