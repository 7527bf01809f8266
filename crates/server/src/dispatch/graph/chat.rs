//! Chains that end in an LLM, at an endpoint of the type `llm/v1/chat`: the steps before it as everywhere, the last one in
//! the caller's own dialect, as a stream where the caller asks for one.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use millgate_dialect::{Quirks, codec};
use millgate_policy::{ChainStep, Graph, Node, Route, Step};
use millgate_types::{Call, Dialect, Fault, Operation, Outcome, Retry, code};
use serde_json::{Value, json};

use super::ask::prompt;
use super::chain::blame;
use super::{Answer, Body, Input, Run, failed, late, types};
use crate::dispatch::{Facts, attempt, llm};
use crate::flight::Flight;
use crate::pipeline::{Decoded, Planned};
use crate::reply::{Content, Pieces, Reply};
use crate::snapshot::{Snapshot, Target};

pub(super) async fn answer(
    snapshot: &Snapshot,
    planned: &Planned,
    graph: &Graph<Target>,
    head: &Parts,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    let call = &planned.call;
    let Node::Chain(steps) = &graph.node else { return Err(failed("only a chain answers a chat")) };
    let Some((last, before)) = steps.split_last() else { return Err(failed("the chain has no step")) };
    if call.operation != Operation::Chat {
        let public = format!("`{}` is a chain, which has no {}", call.endpoint.name, call.operation.name());
        return Err(Fault::client(code::NOT_IMPLEMENTED, public));
    }
    let input = Body::json(in_openai(call)?);
    let run = Run {
        snapshot,
        call,
        head,
        departures: flight.departures(),
        request: OnceLock::new(),
        input: input.clone(),
        pins: Arc::default(),
    };
    types::check(steps)?;
    // The last step has the time-outs of its provider.
    let limit = call.endpoint.config.serving.timeout.0;
    let prepared = tokio::time::timeout(limit, run.steps(before, Input::Body(&input))).await;
    let prepared = prepared.unwrap_or_else(|_| Err(late(graph, limit)));
    let result = prepared?.as_ref().map(Answer::result).transpose()?;
    let body = run.last_body(last, result.as_ref(), before.len())?;
    let planned = run.in_dialect(body)?;
    let is_ours = !before.is_empty() || last.body.is_some();
    let reply = run.speak(&last.route, &planned, flight).await;
    flight.gather();
    reply.map_err(|fault| if is_ours { blame(fault, before.len()) } else { fault })
}

/// The caller's call in OpenAI's dialect, whole: what conditions, templates and steps before the last see.
fn in_openai(call: &Decoded) -> Result<Bytes, Fault> {
    let mut decoded = codec(call.dialect).decode_call(call.operation, &call.body)?;
    decoded.set_stream(false);
    let encoded = codec(Dialect::OpenAi).encode_call(&decoded, &Quirks::default())?;
    Ok(encoded.body.into())
}

impl Run<'_> {
    /// The last step's call, in OpenAI's dialect.
    fn last_body(
        &self,
        step: &ChainStep<Target>,
        result: Option<&Value>,
        number: usize,
    ) -> Result<Value, Fault> {
        match (&step.body, result) {
            (Some(template), result) => serde_json::from_str(&self.fill(template, result, number)?)
                .map_err(|cause| failed("the template makes no JSON").with_cause(cause)),
            (None, Some(result)) => Ok(prompt(result)),
            (None, None) => Ok(self.request().clone()),
        }
    }

    /// The call as the caller would have sent it.
    fn in_dialect(&self, mut body: Value) -> Result<Planned, Fault> {
        let call = self.call;
        let asked = call.facts.as_ref();
        let stream = asked.is_some_and(|facts| facts.stream);
        let name =
            asked.and_then(|facts| facts.model.as_ref()).map_or(&*call.endpoint.name, |model| &model.name);
        if let Value::Object(members) = &mut body {
            members.insert("model".to_owned(), name.into());
            members.shift_remove("stream_options");
            members.insert("stream".to_owned(), stream.into());
            if stream && let Some(usage) = asked.and_then(|facts| facts.include_usage) {
                members.insert("stream_options".to_owned(), json!({ "include_usage": usage }));
            }
        }
        let mut bytes = Bytes::from(body.to_string());
        if call.dialect != Dialect::OpenAi {
            let mut decoded: Call = codec(Dialect::OpenAi).decode_call(Operation::Chat, &bytes)?;
            decoded.set_stream(stream);
            bytes = codec(call.dialect).encode_call(&decoded, &Quirks::default())?.body.into();
        }
        let mut facts = Facts::read(&bytes, call.dialect, Operation::Chat)?;
        if facts.model.is_none() || call.dialect == Dialect::Gemini {
            facts.name(name.into(), stream);
        }
        facts.stream = stream;
        Ok(self.planned(call.dialect, Operation::Chat, bytes, Some(facts)))
    }

    /// Asks the last step's targets in order.
    async fn speak(
        &self,
        route: &Route<Target>,
        planned: &Planned,
        flight: &mut Flight,
    ) -> Result<Reply, Fault> {
        let mut last = Fault::gateway(code::NO_HEALTHY_TARGET, "the route has no target");
        let mut translated = llm::Translated::default();
        let plan = route.plan(&mut |below| fastrand::u64(..below));
        let count = plan.len();
        for (index, step) in plan.into_iter().enumerate() {
            let more = index + 1 < count;
            let Step::Target(target) = step else { return Err(failed("the last step must be an LLM")) };
            let mut hop = self.departures.hop(&target.label, planned.call.dialect, Operation::Chat);
            let tried =
                attempt(self.snapshot, planned, &target, self.head, more, &mut translated, &mut hop).await;
            match tried {
                Ok(mut reply) => {
                    flight.first_byte();
                    flight.record().lane = hop.record().lane;
                    reply.body = match reply.body {
                        Content::Whole(body) => {
                            hop.land();
                            Content::Whole(body)
                        }
                        Content::Stream(inner) => Content::Stream(Box::new(Hopping { inner, hop })),
                    };
                    return Ok(reply);
                }
                Err(fault) => {
                    hop.fail(&fault);
                    if fault.retry == Retry::Never {
                        return Err(fault);
                    }
                    last = fault;
                }
            }
        }
        Err(last)
    }
}

/// A stream whose consumption belongs to a hop.
struct Hopping {
    inner: Box<dyn Pieces>,
    hop: Flight,
}

impl Pieces for Hopping {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        let polled = self.inner.poll_piece(context, &mut self.hop);
        if matches!(polled, Poll::Ready(None)) && !self.inner.broke() {
            self.hop.land();
        }
        let hop = self.hop.record();
        if hop.outcome == Outcome::Failed && flight.record().outcome != Outcome::Failed {
            let record = flight.record();
            record.outcome = Outcome::Failed;
            (record.code, record.fault_source) = (hop.code, hop.fault_source);
            record.fault_detail.clone_from(&hop.fault_detail);
        }
        polled
    }

    fn is_told(&self) -> bool {
        self.inner.is_told()
    }

    fn broke(&self) -> bool {
        self.inner.broke()
    }

    fn settle(&mut self, _: &mut Flight) {
        self.inner.settle(&mut self.hop);
    }
}
