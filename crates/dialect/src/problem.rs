//! Problem details for HTTP APIs (RFC 9457), as the admin API answers errors.

use millgate_types::{Dialect, Fault, FieldError, RequestId, pointer};
use serde_json::{Value, json};

use crate::Codec;

/// Errors alone; nothing is called in it.
pub(crate) struct Problem;

impl Codec for Problem {
    fn dialect(&self) -> Dialect {
        Dialect::Problem
    }
    fn fault_type(&self) -> &'static str {
        "application/problem+json"
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        let mut body = json!({
            "type": format!("urn:millgate:error:{}", fault.code.name),
            "title": fault.code.meaning,
            "status": fault.status().as_u16(),
            "detail": fault.public,
            "code": fault.code.name,
            "request_id": request_id.to_string(),
        });
        if !fault.errors.is_empty() {
            body["errors"] = fault.errors.iter().map(field).collect();
        } else if let Some(param) = &fault.param {
            body["errors"] = json!([{ "pointer": pointer(param), "detail": fault.public }]);
        }
        body.to_string().into_bytes()
    }
}

fn field(error: &FieldError) -> Value {
    let mut shown = json!({ "pointer": pointer(&error.path), "detail": error.detail });
    if !error.hint.is_empty() {
        shown["hint"] = error.hint.as_str().into();
    }
    if let Some((line, column)) = error.place {
        shown["line"] = line.into();
        shown["column"] = column.into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_field_points_at_it() {
        let fault = Fault::invalid_value("limits[0].requests", "must be at least 1");
        let body = Problem.encode_fault(&fault, RequestId::random());
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["type"], "urn:millgate:error:invalid_value");
        assert_eq!(body["status"], 400);
        assert_eq!(body["errors"][0]["pointer"], "#/limits/0/requests");
        assert_eq!(body["detail"], "must be at least 1");
    }
}
