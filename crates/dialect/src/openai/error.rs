//! Errors in OpenAI's shape.

use millgate_types::{Fault, RequestId};

use crate::json::Object;
use crate::sse;

pub(crate) fn body(fault: &Fault, request_id: RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, fault, request_id);
    out
}

/// `data: {"error": ...}`; no `[DONE]` follows.
pub(crate) fn event(fault: &Fault, request_id: RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    sse::data(&mut out, |out| write(out, fault, request_id));
    out
}

fn write(out: &mut Vec<u8>, fault: &Fault, request_id: RequestId) {
    let mut top = Object::new(out);
    let mut error = top.object("error");
    error.field("message", &fault.public);
    error.field("type", fault.code.openai_type);
    error.field("param", &fault.param);
    error.field("code", fault.code.name);
    error.field("source", fault.source.name());
    error.field("request_id", &request_id.to_string());
    error.some("upstream_status", fault.upstream_status.as_ref());
    error.end();
    top.end();
}
