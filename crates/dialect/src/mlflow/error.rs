//! Errors in MLflow's shape.

use millgate_types::{Fault, RequestId};

use crate::json::Object;
use crate::openai;

pub(super) fn body(fault: &Fault, request_id: RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut top = Object::new(&mut out);
    top.field("detail", &fault.public);
    top.field("error_code", fault.code.name);
    top.some("param", fault.param.as_ref());
    top.field("source", fault.source.name());
    top.field("request_id", &request_id.to_string());
    top.some("upstream_status", fault.upstream_status.as_ref());
    top.end();
    out
}

/// Inside a stream MLflow's newer gateway answers `data: {"error": ...}`, as OpenAI's clients expect.
pub(super) fn event(fault: &Fault, request_id: RequestId) -> Vec<u8> {
    openai::error::event(fault, request_id)
}
