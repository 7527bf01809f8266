//! Predictions by model servers elsewhere: an `mlflow models serve`, whoever speaks the Open Inference Protocol, or a
//! server with an API of its own. Where caller and server speak the same, bodies pass as they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, header, response};
use millgate_credential::Unauthorized;
use millgate_scoring::inference::{self, JSON_LENGTH};
use millgate_scoring::{ContentType, Signature};
use millgate_types::{Dialect, Fault, Lane, Operation, Retry, code};
use millgate_upstream::{Client, Outgoing, Payload, UpstreamError, collect};

use super::llm::MAX_ERROR_BODY;
use super::predict::json_length;
use crate::flight::Flight;
use crate::pipeline::Planned;
use crate::reply::{JSON, Reply, names};
use crate::snapshot::{Provider, Transport};
use crate::standing::Lease;
use crate::surface::{self, Surface};

/// What a server said of a model's inputs is believed for this long.
const FRESH: Duration = Duration::from_mins(1);
/// The longest description of a model.
const MAX_METADATA: usize = 1 << 20;

/// What servers said of their models.
#[derive(Default)]
pub(crate) struct Described(Mutex<HashMap<String, (Instant, Arc<inference::RemoteInputs>)>>);

/// One try at one model server.
pub(super) struct Remote<'a> {
    pub(super) planned: &'a Planned,
    pub(super) provider: &'a Provider,
    /// The server's name of the model.
    pub(super) model: &'a str,
    /// The key to call with.
    pub(super) lease: Option<&'a Lease<'a>>,
    pub(super) head: &'a Parts,
    pub(super) max_answer: usize,
}

/// What the caller sent in the Open Inference Protocol and wants back.
struct Asked<'a> {
    model: std::borrow::Cow<'a, str>,
    wanted: inference::Wanted,
}

impl Remote<'_> {
    pub(super) async fn predict(&self, flight: &mut Flight) -> Result<Reply, Fault> {
        let call = &self.planned.call;
        let theirs = self.provider.dialect(Operation::Predict).ok_or_else(|| {
            let public = format!("{} serves no registered models", self.provider.kind.title);
            Fault::gateway(code::NOT_IMPLEMENTED, public)
        })?;
        let passes = call.dialect == theirs && self.provider.scorer.is_none();
        flight.record().lane = Some(if passes { Lane::Pass } else { Lane::Translate });
        if passes {
            let (head, body) = self.send(call.body.clone(), self.passed_headers()).await?;
            flight.first_byte();
            let kind = head.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(JSON);
            let mut reply = Reply::whole(kind, body);
            if let Some(length) = head.headers.get(JSON_LENGTH) {
                reply.headers.insert(HeaderName::from_static(JSON_LENGTH), length.clone());
            }
            return Ok(reply.with(names::RUNTIME, HeaderValue::from_static("remote")));
        }
        let (body, asked) = self.scoring_body()?;
        let sent = match (&self.provider.scorer, theirs) {
            (Some(template), _) => template.request(&body)?.into(),
            (None, Dialect::Inference) => inference::outgoing(&body, &*self.inputs().await)?.into(),
            (None, _) => body,
        };
        let (_, answer) = self.send(sent, Vec::new()).await?;
        flight.first_byte();
        let answer = match (&self.provider.scorer, theirs) {
            (Some(template), _) => template.predictions(&answer)?.into(),
            (None, Dialect::Inference) => inference::predictions(&answer)?.into(),
            (None, _) => answer,
        };
        let Some(asked) = asked else {
            return Ok(Reply::json(answer).with(names::RUNTIME, HeaderValue::from_static("remote")));
        };
        let (body, length) = inference::write(&answer, &asked.model, "", &asked.wanted)?;
        let mut reply = super::predict::tensors(body.into(), length);
        reply.headers.insert(names::RUNTIME, HeaderValue::from_static("remote"));
        Ok(reply)
    }

    /// The caller's headers that say what its body is.
    fn passed_headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        [header::CONTENT_TYPE, HeaderName::from_static(JSON_LENGTH)]
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.head.headers.get(name)?.clone())))
            .collect()
    }

    /// The caller's body in the scoring protocol's JSON.
    fn scoring_body(&self) -> Result<(Bytes, Option<Asked<'_>>), Fault> {
        let call = &self.planned.call;
        if let Surface::Infer { model, .. } = surface::read(self.head.uri.path()) {
            let read = inference::read(&call.body, json_length(self.head)?, &Signature::default())?;
            return Ok((
                read.body.into(),
                Some(Asked { model: surface::decoded(model), wanted: read.wanted }),
            ));
        }
        let content_type = self.head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if ContentType::parse(content_type)? != ContentType::Json {
            let public = format!("behind this endpoint is {}: it takes JSON", self.provider.kind.title);
            return Err(Fault::client(code::UNSUPPORTED_MEDIA_TYPE, public));
        }
        Ok((call.body.clone(), None))
    }

    /// What the server says of the model's inputs. One that does not say gets what values look like.
    async fn inputs(&self) -> Arc<inference::RemoteInputs> {
        let described = &self.provider.described.0;
        let known = described.lock().unwrap_or_else(PoisonError::into_inner).get(self.model).cloned();
        if let Some((at, inputs)) = known
            && at.elapsed() < FRESH
        {
            return inputs;
        }
        let target = self.target().unwrap_or_default();
        let target = target.strip_suffix("/infer").unwrap_or_default().to_owned();
        let sent = self.exchange(&Method::GET, &target, Bytes::new(), Vec::new(), MAX_METADATA).await;
        let inputs = sent.map(|(_, body)| inference::RemoteInputs::read(&body)).unwrap_or_default();
        let inputs = Arc::new(inputs);
        let mut described = described.lock().unwrap_or_else(PoisonError::into_inner);
        described.insert(self.model.to_owned(), (Instant::now(), Arc::clone(&inputs)));
        inputs
    }

    fn target(&self) -> Result<std::borrow::Cow<'_, str>, Fault> {
        let dialect = self.provider.dialect(Operation::Predict).unwrap_or(Dialect::Scoring);
        let target = self.provider.target(dialect, Operation::Predict, false, self.model);
        target.ok_or_else(|| Fault::gateway(code::INTERNAL_ERROR, "the model server has no such path"))
    }

    async fn send(
        &self,
        body: Bytes,
        named: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<(response::Parts, Bytes), Fault> {
        let target = self.target()?;
        self.exchange(&Method::POST, &target, body, named, self.max_answer).await
    }

    /// One request; what is no success is a fault. `named` headers stand in place of the provider's own.
    async fn exchange(
        &self,
        method: &Method,
        target: &str,
        body: Bytes,
        named: Vec<(HeaderName, HeaderValue)>,
        most: usize,
    ) -> Result<(response::Parts, Bytes), Fault> {
        let provider = self.provider;
        let Transport::Http(origin) = &provider.transport else {
            return Err(Fault::gateway(
                code::NOT_IMPLEMENTED,
                "the mock provider serves no registered models",
            ));
        };
        let mut headers = provider.headers.clone();
        for (name, value) in named {
            headers.insert(name, value);
        }
        let mut more = Vec::new();
        let asked = Unauthorized {
            method,
            target,
            host: &origin.authority,
            content_type: headers.get(header::CONTENT_TYPE),
            body: &body,
        };
        provider.credential.authorize(&asked, &mut more).await?;
        more.extend(self.lease.and_then(|lease| lease.key().header.clone()));
        let body = Payload::Whole(body);
        let outgoing = Outgoing { method, target, headers: &headers, more: &more, body };
        let response = Client.send(origin, outgoing, &provider.deadlines).await;
        let (head, body) = response.map_err(UpstreamError::into_fault)?.into_parts();
        if let Some(lease) = self.lease {
            lease.learn(&head.headers);
        }
        if head.status.is_success() {
            let body = collect(body, most).await.map_err(UpstreamError::into_fault)?;
            return Ok((head, body));
        }
        if head.status.is_redirection() {
            let public = "the model server answered with a redirect, which is never followed";
            return Err(Fault::upstream(code::UPSTREAM_ERROR, Retry::NextTarget, public)
                .with_upstream_status(head.status.as_u16()));
        }
        let body = collect(body, MAX_ERROR_BODY).await.unwrap_or_default();
        provider.credential.refused(head.status);
        Err(millgate_provider::classify(provider.kind, head.status.as_u16(), &head.headers, &body))
    }
}
