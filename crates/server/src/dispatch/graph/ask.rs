//! One part of a graph asked: its plan, its targets in order, a record for each.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, StatusCode, header};
use millgate_policy::{Route, Step};
use millgate_types::{Dialect, Fault, Operation, Retry, Source, code};
use serde_json::{Value, json};

use super::{Answer, Body, Input, Run, failed, types};
use crate::dispatch::{Facts, attempt, llm};
use crate::pipeline::{Decoded, Planned};
use crate::reply::{Content, JSON};
use crate::snapshot::{Target, TargetKind};

/// A future of an answer. Graphs nest, so their futures are boxed.
type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

impl Run<'_> {
    /// Asks a route. What fails in a way another target may not is passed over.
    pub(super) fn ask<'a>(&'a self, route: &'a Route<Target>, input: Input<'a>) -> Asking<'a, Answer> {
        Box::pin(async move {
            let plan = route.plan(&mut |below| fastrand::u64(..below));
            self.try_all(&plan, input).await
        })
    }

    /// Asks the items of a plan in order.
    pub(in crate::dispatch) async fn try_all(
        &self,
        plan: &[Step<Target>],
        input: Input<'_>,
    ) -> Result<Answer, Fault> {
        let mut last = Fault::gateway(code::NO_HEALTHY_TARGET, "the route has no target");
        for (index, step) in plan.iter().enumerate() {
            let more = index + 1 < plan.len();
            let tried = match step {
                Step::Target(target) => self.target(target, input, more).await,
                Step::Graph(graph) => self.graph(graph, input).await,
            };
            match tried {
                Ok(answer) => return Ok(answer),
                Err(fault) if fault.retry == Retry::Never => return Err(fault),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn target(&self, target: &Target, input: Input<'_>, more: bool) -> Result<Answer, Fault> {
        let is_chat = target.operation == Operation::Chat;
        let dialect = if is_chat { Dialect::OpenAi } else { Dialect::Scoring };
        let mut hop = self.departures.hop(&target.label, dialect, target.operation);
        let answered = if is_chat {
            self.chats(target, input, more, &mut hop).await
        } else {
            self.predicts(target, input, more, &mut hop).await
        };
        match &answered {
            Ok(_) => hop.land(),
            Err(fault) => hop.fail(fault),
        }
        answered
    }

    async fn predicts(
        &self,
        target: &Target,
        input: Input<'_>,
        more: bool,
        hop: &mut crate::flight::Flight,
    ) -> Result<Answer, Fault> {
        let body = self.body_for(target, input)?;
        let planned = self.planned(Dialect::Scoring, Operation::Predict, body.bytes, None);
        let head = head(body.kind.unwrap_or(JSON));
        let mut unused = llm::Translated::default();
        let reply = attempt(self.snapshot, &planned, target, &head, more, &mut unused, hop).await?;
        // Under `compat: mlflow` MLflow's own error is an answer.
        if reply.status != StatusCode::OK {
            let public = "the model refused the input";
            return Err(Fault::new(code::MODEL_REJECTED_INPUT, Source::Worker, Retry::Never, public));
        }
        Ok(Answer::Predictions(whole(reply.body)?))
    }

    async fn chats(
        &self,
        target: &Target,
        input: Input<'_>,
        more: bool,
        hop: &mut crate::flight::Flight,
    ) -> Result<Answer, Fault> {
        let mut call = match input {
            Input::Body(body) => serde_json::from_slice(&body.bytes)
                .map_err(|cause| failed("an LLM was to be sent what is not JSON").with_cause(cause))?,
            Input::Result(result) => prompt(result),
        };
        if let Value::Object(members) = &mut call {
            // An answer in the middle is never a stream.
            members.shift_remove("stream");
            members.shift_remove("stream_options");
        }
        let bytes = Bytes::from(call.to_string());
        let facts = Facts::read(&bytes, Dialect::OpenAi, Operation::Chat)?;
        let planned = self.planned(Dialect::OpenAi, Operation::Chat, bytes, Some(facts));
        let mut translated = llm::Translated::default();
        let reply = attempt(self.snapshot, &planned, target, &head(JSON), more, &mut translated, hop).await?;
        let answer: Value = serde_json::from_slice(&whole(reply.body)?)
            .map_err(|cause| failed("an LLM's answer is not JSON").with_cause(cause))?;
        match answer.pointer("/choices/0/message/content") {
            Some(Value::String(text)) => Ok(Answer::Text(text.clone())),
            _ => Err(failed("an LLM answered no text")),
        }
    }

    /// The body that a model is sent.
    pub(super) fn body_for(&self, target: &Target, input: Input<'_>) -> Result<Body, Fault> {
        let result = match input {
            Input::Body(body) => return Ok(body.clone()),
            Input::Result(result) => result,
        };
        let live = match &target.kind {
            TargetKind::Model(deployment) => self.pins.live(deployment),
            TargetKind::Provider { .. } | TargetKind::Chat(_) => None,
        };
        let signature = live.as_ref().map(millgate_models::LiveModel::signature);
        let body = millgate_scoring::hand_over(result, signature).map_err(|reason| {
            failed(format!("`{}` does not take the answer before it: {reason}", types::shown(target)))
        })?;
        Ok(Body::json(body))
    }

    /// A call of the caller's with another body.
    pub(super) fn planned(
        &self,
        dialect: Dialect,
        operation: Operation,
        body: Bytes,
        facts: Option<Facts>,
    ) -> Planned {
        let call = Decoded {
            identity: self.call.identity.clone(),
            dialect,
            operation,
            endpoint: Arc::clone(&self.call.endpoint),
            body,
            facts,
            array: self.call.array,
            pins: Some(Arc::clone(&self.pins)),
        };
        Planned { call, steps: Vec::new(), allowance: crate::admit::Allowance::default() }
    }
}

/// What an LLM is asked about a result when nothing else is configured.
pub(super) fn prompt(result: &Value) -> Value {
    let content = result.as_str().map_or_else(|| result.to_string(), str::to_owned);
    json!({ "messages": [{ "role": "user", "content": content }] })
}

/// The head of a request that was never sent.
fn head(kind: HeaderValue) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.headers.insert(header::CONTENT_TYPE, kind);
    head
}

fn whole(content: Content) -> Result<Bytes, Fault> {
    match content {
        Content::Whole(body) => Ok(body),
        Content::Stream(_) => Err(failed("a stream came where a whole answer is due")),
    }
}
