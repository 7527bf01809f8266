//! What a registry tells by itself: MLflow's signed webhooks. A delivery only says that it is time to look again; what
//! is true is asked from the registry, so a delivery that comes twice, late or out of order does no harm.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use http::request::Parts;
use millgate_config::Config;
use millgate_types::{Fault, ModelRef, code};
use serde::Deserialize;
use serde_json::json;

use crate::body::{self, BodyLimits, RequestBody};
use crate::reply::Reply;
use crate::snapshot::Snapshot;

/// The largest delivery, in bytes.
const LARGEST: usize = 64 << 10;
/// Deliveries signed longer ago are not taken. MLflow tries three times within some minutes.
const FRESH: Duration = Duration::from_mins(10);

/// The secrets of the registries that may call, by the registry's name.
pub(crate) struct Webhooks(HashMap<String, hmac::Key>);

impl Webhooks {
    pub(crate) fn new(config: &Config) -> Self {
        let key = |(name, registry): (&String, &millgate_config::RegistryConfig)| {
            let secret = registry.webhook_secret.as_ref()?;
            Some((name.clone(), hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes())))
        };
        Self(config.registries.iter().filter_map(key).collect())
    }
}

#[derive(Deserialize)]
struct Delivery {
    entity: String,
    action: String,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
struct Data {
    name: Option<String>,
}

/// Takes a delivery for `registry`: its models are looked up now instead of at the next poll. Faults: `not_found` where
/// no webhooks are expected, `invalid_api_key` for a signature that is missing, wrong or old, those of reading a body.
pub(crate) async fn receive(
    snapshot: &Snapshot,
    registry: &str,
    head: &Parts,
    body: RequestBody,
) -> Result<Reply, Fault> {
    let known = snapshot.webhooks.0.get(registry);
    let key = known.ok_or_else(|| Fault::client(code::NOT_FOUND, "no webhooks are expected at this path"))?;
    let signed = Signed::read(&head.headers).ok_or_else(refused)?;
    let limits = BodyLimits { size: LARGEST, idle: Duration::from_secs(5), total: Duration::from_secs(10) };
    let body = body::read(&head.headers, body, &limits).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    signed.verify(key, &body, now)?;
    let delivery: Delivery = serde_json::from_slice(&body).map_err(|cause| {
        Fault::client(code::INVALID_JSON, "this is no delivery of MLflow's webhooks").with_cause(cause)
    })?;
    let concerned = |model: &ModelRef| match (model, &delivery.data.name) {
        (ModelRef::Registered { name, .. }, Some(told)) => name == told,
        _ => true,
    };
    let mut refreshed = 0;
    for deployment in &snapshot.deployments {
        let spec = deployment.spec();
        if spec.registry.name() == registry && concerned(&spec.model) {
            deployment.refresh();
            refreshed += 1;
        }
    }
    let event = format!("{}.{}", delivery.entity, delivery.action);
    tracing::info!(registry, event, refreshed, "webhook");
    Ok(Reply::json(json!({ "status": "OK", "refreshed": refreshed }).to_string()))
}

fn refused() -> Fault {
    Fault::client(code::INVALID_API_KEY, "the delivery is not signed with the registry's webhook secret")
}

/// What MLflow signs a delivery with: `X-MLflow-Signature: v1,<base64>` over `id.timestamp.body`.
struct Signed<'a> {
    id: &'a str,
    timestamp: &'a str,
    signature: Vec<u8>,
}

impl<'a> Signed<'a> {
    fn read(headers: &'a HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let signature = text("x-mlflow-signature")?.strip_prefix("v1,")?;
        Some(Self {
            id: text("x-mlflow-delivery-id")?,
            timestamp: text("x-mlflow-timestamp")?,
            signature: BASE64.decode(signature).ok()?,
        })
    }

    fn verify(&self, key: &hmac::Key, body: &[u8], now: Duration) -> Result<(), Fault> {
        let at = self.timestamp.parse().map(Duration::from_secs).map_err(|_| refused())?;
        let signed = [self.id.as_bytes(), b".", self.timestamp.as_bytes(), b".", body].concat();
        hmac::verify(key, &signed, &self.signature).map_err(|_| refused())?;
        if at.abs_diff(now) > FRESH { Err(refused()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_fresh_deliveries_with_the_right_signature_are_taken() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let body = br#"{"entity":"model_version_alias","action":"created","data":{}}"#;
        let signature = hmac::sign(&key, &[&b"id-1.1000."[..], body].concat());
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-mlflow-delivery-id", "id-1".to_owned()),
            ("x-mlflow-timestamp", "1000".to_owned()),
            ("x-mlflow-signature", format!("v1,{}", BASE64.encode(signature.as_ref()))),
        ] {
            headers.insert(name, HeaderValue::try_from(value).unwrap());
        }
        let verify = |headers: &HeaderMap, key: &hmac::Key, body: &[u8], now| {
            let signed = Signed::read(headers).ok_or_else(refused)?;
            signed.verify(key, body, Duration::from_secs(now))
        };
        assert!(verify(&headers, &key, body, 1100).is_ok());
        assert!(verify(&headers, &key, body, 1601).is_err(), "old");
        assert!(verify(&headers, &key, &body[1..], 1100).is_err(), "another body");
        assert!(verify(&headers, &hmac::Key::new(hmac::HMAC_SHA256, b"other"), body, 1100).is_err());
        headers.insert("x-mlflow-timestamp", HeaderValue::from_static("1001"));
        assert!(verify(&headers, &key, body, 1100).is_err(), "another time");
        headers.remove("x-mlflow-signature");
        assert!(verify(&headers, &key, body, 1100).is_err(), "no signature");
    }
}
