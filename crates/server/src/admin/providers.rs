//! How providers stand: their breakers and their keys. Keys are told apart by their names only.

use std::sync::Arc;

use http::Method;
use millgate_policy::health::{BreakerState, Millis};
use millgate_types::{Fault, Permission, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

use super::{Answer, Context, Manner, Route};
use crate::snapshot::Provider;
use crate::standing::Key;

pub(super) fn routes() -> [Route; 2] {
    [
        Route {
            method: Method::GET,
            path: "/providers",
            needs: Permission::Read,
            summary: "All providers: whether they are called, and which of their keys are set aside",
            query: &[],
            request: None,
            response: SchemaGenerator::subschema_for::<ProviderList>,
            manner: Manner::default(),
            handle: |context| Box::pin(async move { list(&context) }),
        },
        Route {
            method: Method::POST,
            path: "/providers/{name}/reset",
            needs: Permission::Manage,
            summary: "Call a provider again, with all of its keys: what failed is mended",
            query: &[],
            request: None,
            response: SchemaGenerator::subschema_for::<ProviderView>,
            manner: Manner::default(),
            handle: |context| Box::pin(async move { reset(&context) }),
        },
    ]
}

#[derive(Serialize, JsonSchema)]
struct ProviderList {
    providers: Vec<ProviderView>,
}

/// A provider.
#[derive(Serialize, JsonSchema)]
struct ProviderView {
    name: Arc<str>,
    /// As in the catalogue.
    kind: &'static str,
    /// `null` where the breaker is turned off.
    breaker: Option<BreakerView>,
    keys: Vec<KeyView>,
}

/// Whether calls are sent.
#[derive(Serialize, JsonSchema)]
struct BreakerView {
    /// `closed`: they are. `open`: they are not. `half_open`: one tries whether the provider is back.
    state: &'static str,
    /// Failures in a row.
    failures: u32,
    /// Seconds until one is sent again.
    retry_after: Option<f64>,
}

/// A key.
#[derive(Serialize, JsonSchema)]
struct KeyView {
    /// As the configuration calls it, or its place in the list.
    name: Arc<str>,
    /// Its share of the calls.
    weight: u64,
    /// Set aside for all models.
    aside: Option<AsideView>,
    /// Set aside for some.
    models: Vec<ModelView>,
}

/// Why a key is not used, and for how long.
#[derive(Serialize, JsonSchema)]
struct AsideView {
    /// `refused` (401), `forbidden` (403), `quota`, `rate_limited` (429), `paced` (answers say that nothing is left).
    reason: &'static str,
    /// Seconds until it is used again.
    retry_after: f64,
}

#[derive(Serialize, JsonSchema)]
struct ModelView {
    /// The provider's name of it; empty for what is called of the provider's own API.
    model: Box<str>,
    aside: AsideView,
}

fn view(provider: &Provider, now: Millis) -> ProviderView {
    let standing = &provider.standing;
    let breaker = standing.breaker(now).map(|(state, wait, failures)| BreakerView {
        state: match state {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        },
        failures,
        retry_after: (state == BreakerState::Open).then_some(wait.as_secs_f64()),
    });
    let aside = |(wait, reason): (std::time::Duration, millgate_policy::health::Reason)| AsideView {
        reason: reason.name(),
        retry_after: wait.as_secs_f64(),
    };
    let key = |key: &Key| KeyView {
        name: Arc::clone(&key.name),
        weight: key.weight(),
        aside: key.state().aside(now).map(aside),
        models: key
            .state()
            .models(now)
            .into_iter()
            .map(|model| ModelView { model: model.model, aside: aside(model.aside) })
            .collect(),
    };
    ProviderView {
        name: Arc::clone(&provider.name),
        kind: &provider.kind.name,
        breaker,
        keys: standing.keys.iter().map(key).collect(),
    }
}

fn list(context: &Context) -> Result<Answer, Fault> {
    let now = context.gateway.millis();
    let providers = context.snapshot.providers.iter().map(|provider| view(provider, now)).collect();
    Answer::ok(&ProviderList { providers })
}

fn reset(context: &Context) -> Result<Answer, Fault> {
    let name = context.param("name");
    let provider = context.snapshot.providers.iter().find(|provider| &*provider.name == name);
    let provider = provider.ok_or_else(|| {
        let shown: String = name.chars().take(128).collect();
        Fault::client(code::NOT_FOUND, format!("there is no provider `{shown}`"))
    })?;
    let now = context.gateway.millis();
    let before = view(provider, now);
    provider.standing.reset();
    let after = view(provider, now);
    Answer::ok(&after).map(|answer| answer.changing(Some(&before), &after))
}
