//! Routes that need several answers for one: chains, ensembles, switches. Each target inside is asked as if it were the
//! only one, with a record of its own (a hop), and the answers are put together here. The caller's input goes in and
//! the answer goes out in its own protocol; between the targets it is the scoring protocol's JSON.

mod ask;
mod chain;
mod chat;
mod ensemble;
mod switch;
mod types;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, header};
use millgate_config::EndpointType;
use millgate_policy::{Graph, Node};
use millgate_scoring::{ContentType, RowBody, Signature, inference};
use millgate_types::{Dialect, Fault, Lane, Retry, Source, code};
use serde_json::{Value, json};

use super::pins::Pins;
use super::predict::{json_length, tensors};
use crate::flight::{Departures, Flight};
use crate::pipeline::{Decoded, Planned};
use crate::reply::{Reply, names};
use crate::snapshot::{Snapshot, Target};
use crate::surface::{self, Surface};

pub(crate) use types::mismatches;

/// Work on more bytes than this is done off the data thread.
const LARGE: usize = 256 << 10;

/// Answers a call by a graph.
pub(super) async fn answer(
    snapshot: &Snapshot,
    planned: &Planned,
    graph: &Graph<Target>,
    head: &Parts,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    if planned.call.endpoint.kind == EndpointType::Chat {
        return chat::answer(snapshot, planned, graph, head, flight).await;
    }
    flight.record().lane = Some(Lane::Model);
    let (input, asked) = incoming(&planned.call, graph, head)?;
    let run = Run {
        snapshot,
        call: &planned.call,
        head,
        departures: flight.departures(),
        request: OnceLock::new(),
        input: input.clone(),
        pins: Arc::default(),
    };
    let limit = planned.call.endpoint.config.serving.timeout.0;
    let answered = tokio::time::timeout(limit, run.graph(graph, Input::Body(&input))).await;
    flight.gather();
    let answer = answered.unwrap_or_else(|_| Err(late(graph, limit)))?;
    flight.first_byte();
    let body = answer.into_body();
    flight.record().rows = rows_of(&body);
    let reply = match asked {
        None => Reply::json(body),
        Some((model, wanted)) => {
            let (body, length) = inference::write(&body, &model, "", &wanted)?;
            tensors(body.into(), length)
        }
    };
    Ok(reply.with(names::RUNTIME, HeaderValue::from_static("graph")))
}

/// What the caller asked for in the Open Inference Protocol: the model's name and how outputs are written.
type Asked = (String, inference::Wanted);

/// The caller's input, in the scoring protocol.
fn incoming(call: &Decoded, graph: &Graph<Target>, head: &Parts) -> Result<(Body, Option<Asked>), Fault> {
    if call.dialect == Dialect::Inference
        && let Surface::Infer { model, version } = surface::read(head.uri.path())
    {
        if let Some(version) = version {
            let public =
                format!("endpoint `{}` has no version {version}: several models answer", call.endpoint.name);
            return Err(Fault::client(code::MODEL_NOT_FOUND, public));
        }
        // Whoever is asked first says what tensors mean.
        let first =
            graph.parts().first().and_then(|part| part.first().iter().find_map(|target| types::live(target)));
        let unknown = Signature::default();
        let signature = first.as_ref().map_or(&unknown, millgate_models::LiveModel::signature);
        let read = inference::read(&call.body, json_length(head)?, signature)?;
        let asked = (surface::decoded(model).into_owned(), read.wanted);
        return Ok((Body::json(read.body), Some(asked)));
    }
    let kind = head.headers.get(header::CONTENT_TYPE);
    ContentType::parse(kind.and_then(|value| value.to_str().ok()))?;
    Ok((Body { bytes: call.body.clone(), kind: kind.cloned() }, None))
}

/// A body on its way to a target.
#[derive(Clone)]
pub(super) struct Body {
    bytes: Bytes,
    /// `None`: JSON.
    kind: Option<HeaderValue>,
}

impl Body {
    pub(super) fn json(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), kind: None }
    }

    fn is_json(&self) -> bool {
        let kind = self.kind.as_ref().map(|kind| kind.to_str().ok());
        kind.is_none_or(|kind| ContentType::parse(kind).is_ok_and(|kind| kind == ContentType::Json))
    }

    /// Its rows, where they can be told apart.
    fn rows(&self) -> Result<RowBody, Fault> {
        if self.is_json() {
            return RowBody::read(&self.bytes);
        }
        let public = "rows of this Content-Type cannot be told apart, which this endpoint needs: send JSON";
        Err(Fault::client(code::UNSUPPORTED_MEDIA_TYPE, public))
    }
}

/// What a part of a graph is asked.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    /// This body, whoever is asked.
    Body(&'a Body),
    /// What came before, in the form that whoever is asked takes.
    Result(&'a Value),
}

/// What a part of a graph answered.
pub(super) enum Answer {
    /// A body of the scoring protocol.
    Predictions(Bytes),
    /// An LLM's text.
    Text(String),
}

impl Answer {
    fn of(predictions: &Value) -> Self {
        Self::Predictions(json!({ "predictions": predictions }).to_string().into())
    }

    /// What was answered, without the protocol around it.
    fn result(&self) -> Result<Value, Fault> {
        let body = match self {
            Self::Text(text) => return Ok(Value::String(text.clone())),
            Self::Predictions(body) => body,
        };
        let parsed: Value = serde_json::from_slice(body)
            .map_err(|cause| failed("a model's answer is not JSON").with_cause(cause))?;
        Ok(match parsed {
            Value::Object(mut members) if members.contains_key("predictions") => {
                members.shift_remove("predictions").unwrap_or_default()
            }
            other => other,
        })
    }

    /// The rows that were answered; a text is one.
    fn rows(&self) -> Result<Value, Fault> {
        Ok(match self.result()? {
            Value::String(text) => json!([text]),
            other => other,
        })
    }

    pub(super) fn into_body(self) -> Bytes {
        match self {
            Self::Predictions(body) => body,
            Self::Text(text) => json!({ "predictions": [text] }).to_string().into(),
        }
    }
}

/// How many rows a body of the scoring protocol answers; 1 where they cannot be told.
fn rows_of(body: &[u8]) -> u64 {
    #[derive(serde::Deserialize)]
    struct Rows {
        #[serde(default)]
        predictions: Vec<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Rows>(body).map_or(1, |rows| rows.predictions.len() as u64)
}

/// The answers inside a graph do not go together. Another target of a fallback may still answer.
fn failed(public: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(code::GRAPH_FAILED, Source::Gateway, Retry::NextTarget, public)
}

fn late(graph: &Graph<Target>, limit: Duration) -> Fault {
    let public = format!("`{}` did not answer within {} s", graph.label, limit.as_secs_f64());
    Fault::worker(code::WORKER_TIMEOUT, Retry::NextTarget, public)
}

/// One request's way through a graph.
pub(super) struct Run<'a> {
    snapshot: &'a Snapshot,
    call: &'a Decoded,
    head: &'a Parts,
    departures: Departures,
    /// What the caller sent, for conditions and templates; read when first asked for.
    request: OnceLock<Value>,
    input: Body,
    /// One version of each model for the whole of it.
    pins: Arc<Pins>,
}

impl<'a> Run<'a> {
    /// A way for one body in the scoring protocol's JSON, among others of the same request.
    pub(super) fn of(
        snapshot: &'a Snapshot,
        call: &'a Decoded,
        head: &'a Parts,
        departures: Departures,
        input: Body,
    ) -> Self {
        let pins = call.pins.clone().unwrap_or_default();
        Self { snapshot, call, head, departures, request: OnceLock::new(), input, pins }
    }
}

impl Run<'_> {
    async fn graph(&self, graph: &Graph<Target>, input: Input<'_>) -> Result<Answer, Fault> {
        match &graph.node {
            Node::Chain(steps) => self.chain(steps, input).await,
            Node::Ensemble(ensemble) => self.ensemble(ensemble, input).await,
            Node::Switch(switch) => self.switch(switch, input).await,
        }
    }

    /// The caller's body; a text where it is no JSON.
    fn request(&self) -> &Value {
        self.request.get_or_init(|| {
            serde_json::from_slice(&self.input.bytes)
                .unwrap_or_else(|_| String::from_utf8_lossy(&self.input.bytes).into_owned().into())
        })
    }

    /// How many rows the caller sent; 1 where they cannot be told.
    fn request_rows(&self) -> u64 {
        self.input.rows().map_or(1, |rows| rows.len() as u64)
    }
}

/// Does work on `size` bytes where it holds nobody up.
async fn off_thread<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    if size < LARGE {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|cause| {
        Err(Fault::gateway(code::INTERNAL_ERROR, "the work was stopped").with_cause(cause))
    })
}
