//! Errors in Anthropic's shape.

use millgate_types::{Fault, RequestId};

use crate::json::Object;
use crate::sse;

/// Anthropic's word for a status.
fn kind(fault: &Fault) -> &'static str {
    match fault.code.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

pub(super) fn body(fault: &Fault, request_id: RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, fault, request_id);
    out
}

/// `event: error`; no `message_stop` follows.
pub(super) fn event(fault: &Fault, request_id: RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    sse::event(&mut out, "error", |out| write(out, fault, request_id));
    out
}

pub(super) fn write(out: &mut Vec<u8>, fault: &Fault, request_id: RequestId) {
    let mut top = Object::new(out);
    top.field("type", "error");
    let mut error = top.object("error");
    error.field("type", kind(fault));
    error.field("message", &fault.public);
    error.field("code", fault.code.name);
    error.some("param", fault.param.as_ref());
    error.field("source", fault.source.name());
    error.some("upstream_status", fault.upstream_status.as_ref());
    error.end();
    top.field("request_id", &request_id.to_string());
    top.end();
}
