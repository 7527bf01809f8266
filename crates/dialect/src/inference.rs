//! The Open Inference Protocol's error bodies. Tensors are read and written by `millgate-scoring`, which knows the
//! model's signature; asking for any other operation is a fault.

use millgate_types::{Dialect, Fault, RequestId};

use crate::{Codec, json};

/// The Open Inference Protocol, version 2.
pub(crate) struct Inference;

impl Codec for Inference {
    fn dialect(&self) -> Dialect {
        Dialect::Inference
    }
    /// `error` is the protocol's; the others stand beside it.
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        let mut out = Vec::new();
        let mut body = json::Object::new(&mut out);
        body.string("error", &fault.public);
        body.string("code", fault.code.name);
        body.some("param", fault.param.as_ref());
        body.string("source", fault.source.name());
        body.string("request_id", &request_id.to_string());
        body.end();
        out
    }
}
