//! Predictions of registered models.

use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use millgate_models::{Deployment, PredictRequest};
use millgate_types::{Fault, Lane};

use crate::flight::Flight;
use crate::pipeline::Planned;
use crate::reply::{Reply, names};

/// No caller waits longer than this; the deployment's own time-out is usually shorter.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) async fn predict(
    deployment: &Deployment,
    planned: &Planned,
    head: &Parts,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    flight.record().lane = Some(Lane::Model);
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let request =
        PredictRequest { content_type, body: planned.call.body.clone(), deadline: Instant::now() + LONGEST };
    let prediction = deployment.predict(request).await?;
    flight.first_byte();
    let record = flight.record();
    record.rows = prediction.rows;
    record.model_version = Some(prediction.version.clone());
    let mut reply = Reply::whole(HeaderValue::from_static(prediction.content_type), prediction.body)
        .with(names::RUNTIME, HeaderValue::from_static(prediction.runtime));
    reply.status = StatusCode::from_u16(prediction.status).unwrap_or(StatusCode::OK);
    if let Ok(version) = HeaderValue::from_str(&prediction.version) {
        reply.headers.insert(names::MODEL_VERSION, version);
    }
    Ok(reply)
}
