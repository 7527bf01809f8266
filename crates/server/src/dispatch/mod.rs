//! Trying the plan's targets in order. A target that fails in a way another one may not is passed over as long
//! as nothing has been sent to the caller.

mod able;
mod chat;
mod doubt;
mod estimate;
mod facts;
mod life;
mod llm;
mod mock;
mod native;
mod predict;
mod raw;
mod remote;
mod stream;
mod upload;

use std::sync::Arc;

use http::HeaderValue;
use http::request::Parts;
use millgate_types::{Fault, Retry, code};

pub(crate) use chat::ChatTarget;
pub(crate) use facts::Facts;
pub(crate) use native::{NativeCall, native};
pub(crate) use remote::Described;

use crate::flight::Flight;
use crate::pipeline::{Planned, label};
use crate::reply::{Reply, names};
use crate::snapshot::{Snapshot, TargetKind};

/// Answers the call, or gives the fault of the last target tried.
pub(crate) async fn dispatch(
    snapshot: &Snapshot,
    planned: Planned,
    head: &Parts,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    let mut call = llm::Translated::default();
    let mut last = Fault::gateway(code::NO_HEALTHY_TARGET, "the route has no target");
    let count = planned.targets.len();
    for (index, target) in planned.targets.iter().enumerate() {
        flight.record().attempts += 1;
        flight.record().target = Some(Arc::clone(&target.label));
        let attempt = match &target.kind {
            TargetKind::Model(deployment) => {
                Box::pin(predict::predict(deployment, &planned, head, flight)).await
            }
            TargetKind::Chat(chat) => {
                let heartbeat = snapshot.heartbeat;
                chat.run(&planned, (head, snapshot.max_answer, heartbeat), &mut call, flight).await
            }
            TargetKind::Provider { provider, model } => {
                let asked = planned.call.facts.as_ref().and_then(|facts| facts.model.as_ref());
                let asked = asked.map(|model| &*model.name);
                let resolved = model.resolve(provider, &planned.call.endpoint, asked);
                let (provider, model, known) = resolved.ok_or_else(|| {
                    let public = format!("`model` must be a name that fits `{}`", planned.call.endpoint.name);
                    Fault::invalid_value("model", public)
                })?;
                if planned.call.facts.is_none() {
                    let max_answer = snapshot.max_answer;
                    let remote =
                        remote::Remote { planned: &planned, provider, model: &model, head, max_answer };
                    Box::pin(remote.predict(flight)).await
                } else {
                    let attempt = llm::Attempt {
                        planned: &planned,
                        provider,
                        model: &model,
                        known: &known,
                        head,
                        max_answer: snapshot.max_answer,
                        heartbeat: snapshot.heartbeat,
                    };
                    attempt.run(&mut call, flight).await
                }
            }
        };
        match attempt {
            Ok(reply) => return Ok(label(reply, &planned, target)),
            Err(fault) => {
                let more = index + 1 < count;
                if !more || fault.retry == Retry::Never {
                    let mut reply = Reply::fault(&fault, flight);
                    if let Ok(attempts) = HeaderValue::from_str(&(index + 1).to_string()) {
                        reply.headers.insert(names::ATTEMPTS, attempts);
                    }
                    return Ok(label(reply, &planned, target));
                }
                tracing::debug!(target = %target.label, %fault, "passing on to the next target");
                last = fault;
            }
        }
    }
    Err(last)
}
