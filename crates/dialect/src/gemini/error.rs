//! Errors in Google's shape.

use millgate_types::{Fault, RequestId};
use serde_json::{Value, json};

use crate::json::Object;
use crate::{ErrorBody, error};

/// Google's word for a status.
fn word(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        501 => "UNIMPLEMENTED",
        502 | 503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        400..=499 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    }
}

pub(super) fn body(fault: &Fault, request_id: RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(384);
    write(&mut out, fault, request_id);
    out
}

/// A whole object in the stream, as Google does it; nothing follows.
pub(super) fn event(fault: &Fault, request_id: RequestId) -> Vec<u8> {
    let mut out = b"data: ".to_vec();
    write(&mut out, fault, request_id);
    out.extend_from_slice(b"\r\n\r\n");
    out
}

pub(super) fn write(out: &mut Vec<u8>, fault: &Fault, request_id: RequestId) {
    let mut top = Object::new(out);
    let mut error = top.object("error");
    error.field("code", &fault.code.status);
    error.field("message", &fault.public);
    error.field("status", word(fault.code.status));
    let mut metadata = json!({"source": fault.source.name(), "request_id": request_id.to_string()});
    if let Some(param) = &fault.param {
        metadata["param"] = json!(param);
    }
    if let Some(status) = fault.upstream_status {
        metadata["upstream_status"] = json!(status.to_string());
    }
    let mut details = vec![json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": fault.code.name, "domain": "millgate", "metadata": metadata})];
    if let Some(seconds) = fault.retry_after_seconds() {
        details.push(json!({"@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": format!("{seconds}s")}));
    }
    error.field("details", &details);
    error.end();
    top.end();
}

/// An error inside a stream, or under 200.
pub(super) fn in_band(value: &Value) -> Fault {
    let status = value["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    error::in_band(&read_value(value), status)
}

/// The reason in the details says more than the status: a bad key is an `INVALID_ARGUMENT` too.
pub(super) fn read(body: &[u8]) -> ErrorBody {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => read_value(&value),
        Err(_) => ErrorBody::default(),
    }
}

pub(super) fn read_value(value: &Value) -> ErrorBody {
    let mut found = error::read_value(value);
    let value = value.as_array().and_then(|items| items.first()).unwrap_or(value);
    let details = value.get("error").and_then(|error| error.get("details")?.as_array());
    for detail in details.into_iter().flatten() {
        if let Some(reason) = detail.get("reason").and_then(Value::as_str) {
            found.code = Some(reason.to_owned());
        }
        if let Some(delay) = detail.get("retryDelay").and_then(Value::as_str) {
            found.wait = Some(delay.to_owned());
        }
        if let Some(field) =
            detail.get("fieldViolations").and_then(|list| list.get(0)?.get("field")?.as_str())
        {
            found.param = Some(field.to_owned());
        }
    }
    found
}
