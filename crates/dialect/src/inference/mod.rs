//! The Open Inference Protocol's error bodies. Tensors are read and written by `millgate-scoring`, which knows the
//! model's signature; asking for any other operation is a fault.

use millgate_types::{Answer, Call, Dialect, Fault, Operation, RequestId, Usage};

use crate::{Codec, EncodedCall, ErrorBody, Quirks, StreamDecoder, error, json, not_implemented};

/// The Open Inference Protocol, version 2.
pub(crate) struct Inference;

impl Codec for Inference {
    fn dialect(&self) -> Dialect {
        Dialect::Inference
    }
    fn encode_call(&self, call: &Call, _quirks: &Quirks) -> Result<EncodedCall, Fault> {
        Err(not_implemented(Dialect::Inference, call.operation()))
    }
    fn decode_answer(&self, operation: Operation, _body: &[u8]) -> Result<Answer, Fault> {
        Err(not_implemented(Dialect::Inference, operation))
    }
    fn stream_decoder(&self, operation: Operation) -> Box<dyn StreamDecoder> {
        crate::scoring::Scoring.stream_decoder(operation)
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
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        error::read(body)
    }
    fn read_usage(&self, _text: &[u8]) -> Option<Usage> {
        None
    }
}
