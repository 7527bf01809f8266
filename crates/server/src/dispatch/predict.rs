//! Predictions of registered models.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use millgate_config::Compat;
use millgate_models::{Deployment, InferenceRequest, PredictRequest};
use millgate_scoring::inference::JSON_LENGTH;
use millgate_scoring::{ContentType, Inputs};
use millgate_types::{Dialect, Fault, Lane};

use super::bulk;
use crate::flight::Flight;
use crate::pipeline::Planned;
use crate::reply::{Reply, names, number};
use crate::snapshot::Snapshot;
use crate::surface::{self, Surface};

/// No caller waits longer than this; the deployment's own time-out is usually shorter.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) async fn predict(
    snapshot: &Snapshot,
    deployment: &Arc<Deployment>,
    planned: &Planned,
    head: &Parts,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    flight.record().lane = Some(Lane::Model);
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let rows = rows_of_parquet(snapshot, deployment, planned, content_type).await?;
    let request = PredictRequest {
        content_type: if rows.is_some() { Some("application/json") } else { content_type },
        body: rows.unwrap_or_else(|| planned.call.body.clone()),
        deadline: Instant::now() + LONGEST,
    };
    // Only that protocol's paths say more than which endpoint is meant.
    let is_inference = planned.call.dialect == Dialect::Inference;
    let begun = Instant::now();
    let (prediction, json_length) = match is_inference.then(|| surface::read(head.uri.path())) {
        Some(Surface::Infer { model, version }) => {
            let model = &surface::decoded(model);
            let json_length = json_length(head)?;
            deployment.infer(InferenceRequest { model, version, json_length, request }).await?
        }
        _ => {
            let pinned = planned.call.pins.as_ref().and_then(|pins| pins.live(deployment));
            let prediction = match &pinned {
                Some(live) => deployment.predict_by(live, request).await?,
                None => deployment.predict(request).await?,
            };
            (prediction, None)
        }
    };
    super::authorize(&planned.call, deployment, &prediction.version)?;
    flight.first_byte();
    flight.predicted(prediction.rows, begun.elapsed(), planned.call.endpoint.config.serving.price.as_ref());
    let record = flight.record();
    record.model_version = Some(prediction.version.clone());
    let mut reply = match json_length {
        Some(_) => tensors(prediction.body, json_length),
        None => Reply::whole(HeaderValue::from_static(prediction.content_type), prediction.body),
    };
    reply.headers.insert(names::RUNTIME, HeaderValue::from_static(prediction.runtime));
    reply.status = StatusCode::from_u16(prediction.status).unwrap_or(StatusCode::OK);
    if let Ok(version) = HeaderValue::from_str(&prediction.version) {
        reply.headers.insert(names::MODEL_VERSION, version);
    }
    Ok(reply)
}

/// The rows of a Parquet file in the protocol's JSON, so that they are checked and every runtime takes them. `None`: it is
/// another body, or Python must read it as it is: without columns in the signature nobody else knows what the types mean, and
/// with `compat: mlflow` nobody else is to.
async fn rows_of_parquet(
    snapshot: &Snapshot,
    deployment: &Arc<Deployment>,
    planned: &Planned,
    content_type: Option<&str>,
) -> Result<Option<Bytes>, Fault> {
    let call = &planned.call;
    let is_parquet = ContentType::parse(content_type).is_ok_and(|kind| kind == ContentType::Parquet);
    let is_strict = call.endpoint.config.serving.compat == Compat::Strict;
    if !is_parquet || !is_strict || call.dialect != Dialect::Scoring {
        return Ok(None);
    }
    let pinned = call.pins.as_ref().and_then(|pins| pins.live(deployment));
    let live = pinned.or_else(|| deployment.live_model());
    if !live.is_some_and(|live| matches!(live.signature().inputs, Some(Inputs::Columns(_)))) {
        return Ok(None);
    }
    bulk::read_parquet(call.body.clone(), snapshot.body_limits.size * 2).await
}

/// An answer of the Open Inference Protocol; `json_length` where binary tensors stand behind the JSON.
pub(super) fn tensors(body: Bytes, json_length: Option<usize>) -> Reply {
    let Some(length) = json_length else { return Reply::json(body) };
    Reply::whole(HeaderValue::from_static("application/octet-stream"), body)
        .with(HeaderName::from_static(JSON_LENGTH), number(length as u64))
}

/// The Open Inference Protocol's header for bodies with binary tensors.
pub(super) fn json_length(head: &Parts) -> Result<Option<usize>, Fault> {
    let Some(value) = head.headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || Fault::invalid_value(JSON_LENGTH, format!("`{JSON_LENGTH}` must be a number of bytes"));
    length.map(Some).ok_or_else(wrong)
}
