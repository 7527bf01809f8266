//! The MLflow scoring protocol's error bodies. Predictions themselves are read by the model runtimes, which
//! know the model's signature; asking for any other operation is a fault.

use millgate_types::{Dialect, Fault, RequestId, Source};

use crate::{Codec, json};

/// The scoring protocol.
pub(crate) struct Scoring;

impl Codec for Scoring {
    fn dialect(&self) -> Dialect {
        Dialect::Scoring
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        let mut out = Vec::new();
        let mut body = json::Object::new(&mut out);
        body.field("error_code", error_code(fault));
        body.field("message", &fault.public);
        body.field("code", fault.code.name);
        body.some("param", fault.param.as_ref());
        body.field("source", fault.source.name());
        body.field("request_id", &request_id.to_string());
        body.end();
        out
    }
    /// The last line of bulk scoring's answer.
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        let mut out = b"{\"error\": ".to_vec();
        out.extend(self.encode_fault(fault, request_id));
        out.extend(b"}\n");
        out
    }
}

/// MLflow's word for the fault.
fn error_code(fault: &Fault) -> &'static str {
    match (fault.code.status, fault.source) {
        (404, _) => "RESOURCE_DOES_NOT_EXIST",
        (401, _) => "UNAUTHENTICATED",
        (403, _) => "PERMISSION_DENIED",
        (429, _) => "REQUEST_LIMIT_EXCEEDED",
        (503, _) => "TEMPORARILY_UNAVAILABLE",
        (400, Source::Client) if fault.code.name == "schema_mismatch" => "INVALID_PARAMETER_VALUE",
        (400..=499, _) => "BAD_REQUEST",
        _ => "INTERNAL_ERROR",
    }
}
