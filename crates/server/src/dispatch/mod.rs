//! Trying the plan's targets in order. A target that fails in a way another one may not is passed over as long
//! as nothing has been sent to the caller.

mod able;
mod bulk;
mod chat;
mod doubt;
mod estimate;
mod facts;
mod graph;
mod life;
mod llm;
mod mock;
mod native;
mod pins;
mod predict;
mod raw;
mod remote;
mod stream;
mod tries;
mod upload;

use std::sync::Arc;

use http::request::Parts;
use millgate_models::Deployment;
use millgate_policy::{Scope, Step};
use millgate_types::{Fault, ModelRef, Retry, Source, code};

pub(crate) use bulk::{bulk, form as bulk_form};
pub(crate) use chat::ChatTarget;
pub(crate) use estimate::count_input;
pub(crate) use facts::Facts;
pub(crate) use graph::mismatches;
pub(crate) use native::{NativeCall, native};
pub(crate) use pins::Pins;
pub(crate) use remote::Described;

use crate::flight::Flight;
use crate::pipeline::{Decoded, Planned, label, name_of};
use crate::reply::Reply;
use crate::snapshot::{Snapshot, Target, TargetKind, TargetModel};

/// Answers the call, or gives the fault of the last target tried.
pub(crate) async fn dispatch(
    snapshot: &Snapshot,
    planned: Planned,
    head: &Parts,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    let mut call = llm::Translated::default();
    let mut last = Fault::gateway(code::NO_HEALTHY_TARGET, "the route has no target");
    let count = planned.steps.len();
    for (index, step) in planned.steps.iter().enumerate() {
        flight.record().attempts += 1;
        flight.record().target = Some(Arc::clone(name_of(step)));
        let more = index + 1 < count;
        let tried = match step {
            Step::Target(target) => attempt(snapshot, &planned, target, head, more, &mut call, flight).await,
            Step::Graph(graph) => Box::pin(graph::answer(snapshot, &planned, graph, head, flight)).await,
        };
        match tried {
            Ok(reply) => return Ok(label(reply, &planned, step)),
            Err(fault) => {
                if !more || fault.retry == Retry::Never {
                    return Ok(label(Reply::fault(&fault, flight), &planned, step));
                }
                tracing::debug!(target = %name_of(step), %fault, "passing on to the next target");
                last = fault;
            }
        }
    }
    Err(last)
}

/// One target: the only way to it, also from inside a chain, ensemble or switch. `more`: there is a next one.
async fn attempt(
    snapshot: &Snapshot,
    planned: &Planned,
    target: &Target,
    head: &Parts,
    more: bool,
    call: &mut llm::Translated,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    if !allowed(target, &planned.call) {
        return Err(denied());
    }
    let held = flight.held();
    let tried = ask(snapshot, planned, target, (head, more), call, flight).await;
    if tried.is_err() {
        // The next one has limits of its own.
        flight.let_go(held);
    }
    tried.map_err(|fault| concealed(fault, &planned.call.body))
}

/// Keeps what an upstream or a model repeats of the call out of our log.
fn concealed(fault: Fault, body: &[u8]) -> Fault {
    if !matches!(fault.source, Source::Upstream | Source::Worker) {
        return fault;
    }
    let text = millgate_dialect::conceal(&fault.detail(), body);
    fault.logged_as(text)
}

async fn ask(
    snapshot: &Snapshot,
    planned: &Planned,
    target: &Target,
    (head, spare): (&Parts, bool),
    call: &mut llm::Translated,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    match &target.kind {
        TargetKind::Model(deployment) => {
            Box::pin(predict::predict(snapshot, deployment, planned, head, flight)).await
        }
        TargetKind::Chat(chat) => {
            let bounds = (head, snapshot.max_answer, snapshot.heartbeat);
            Box::pin(chat.run(planned, bounds, call, flight)).await
        }
        TargetKind::Provider { provider, model } => {
            let asked = planned.call.facts.as_ref().and_then(|facts| facts.model.as_ref());
            let asked = asked.map(|model| &*model.name);
            let resolved = model.resolve(provider, &planned.call.endpoint, asked);
            let (provider, model, known) = resolved.ok_or_else(|| {
                let public = format!("`model` must be a name that fits `{}`", planned.call.endpoint.name);
                Fault::invalid_value("model", public)
            })?;
            let tries = tries::Tries {
                snapshot,
                planned,
                target: &target.label,
                provider,
                model: &model,
                known: &known,
                head,
                spare,
            };
            tries.run(call, flight).await
        }
    }
}

/// Whether the caller may end at this target: by `provider/model` as it will be asked, also where the configuration has a
/// pattern, or by its `models:/` URI, as configured or with the version that serves.
pub(crate) fn allowed(target: &Target, call: &Decoded) -> bool {
    let scope = &call.identity.scope;
    if scope.is_open() {
        return true;
    }
    let (provider, model) = match &target.kind {
        TargetKind::Provider { provider, model } => (provider, model),
        TargetKind::Model(deployment) => return may_answer(scope, deployment, None),
        TargetKind::Chat(chat) => return may_answer(scope, &chat.deployment, None),
    };
    let asked = call.facts.as_ref().and_then(|facts| facts.model.as_ref());
    match (model, model.resolve(provider, &call.endpoint, asked.map(|model| &*model.name))) {
        (TargetModel::Fixed(..), _) | (_, None) => scope.allows_target(&target.label),
        (_, Some((provider, model, _))) => scope.allows_target(&format!("{}/{model}", provider.name)),
    }
}

/// Whether a caller may be answered by a version of a model, or by the one that serves now.
fn may_answer(scope: &Scope, deployment: &Deployment, version: Option<&str>) -> bool {
    let configured = &deployment.spec().model;
    let live = version.map(Arc::from).or_else(|| Some(Arc::clone(deployment.live_model()?.version())));
    match (configured, live) {
        (ModelRef::Registered { name, .. }, Some(version)) => {
            scope.allows_target_of(&[&configured.to_string(), &format!("models:/{name}/{version}")])
        }
        _ => scope.allows_target(&configured.to_string()),
    }
}

/// Refuses a version that the caller may not use: a promotion may have come since the target was chosen.
fn authorize(call: &Decoded, deployment: &Deployment, version: &str) -> Result<(), Fault> {
    if call.identity.scope.is_open() || may_answer(&call.identity.scope, deployment, Some(version)) {
        return Ok(());
    }
    Err(denied())
}

fn denied() -> Fault {
    let public = "the key may not use what this endpoint leads to";
    Fault::new(code::PERMISSION_DENIED, Source::Client, Retry::NextTarget, public)
}
