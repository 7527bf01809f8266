//! Anthropic Messages.

mod answer;
mod decode;
mod encode;
mod error;
mod stream;

pub(crate) use encode::{Plan, closed, plan, version};
use millgate_types::{Answer, Call, Dialect, Fault, Operation, RequestId, Usage};
use serde_json::{Value, json};

use crate::stream::SseDecoder;
use crate::{Codec, Context, EncodedCall, ErrorBody, Quirks, StreamDecoder, StreamEncoder, json as wire};

/// Anthropic's dialect.
pub(crate) struct Anthropic;

impl Codec for Anthropic {
    fn dialect(&self) -> Dialect {
        Dialect::Anthropic
    }
    fn decode_call(&self, operation: Operation, body: &[u8]) -> Result<Call, Fault> {
        decode::call(operation, wire::parse_object(body)?)
    }
    fn encode_call(&self, call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
        encode::call(call, quirks)
    }
    fn decode_answer(&self, operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
        answer::decode(operation, body)
    }
    fn encode_answer(&self, answer: &Answer, context: &Context) -> Vec<u8> {
        answer::encode(answer, context)
    }
    fn stream_decoder(&self, _operation: Operation) -> Box<dyn StreamDecoder> {
        Box::new(SseDecoder::new(stream::MessageReader::default()))
    }
    fn stream_encoder(&self, _operation: Operation, context: &Context) -> Box<dyn StreamEncoder> {
        Box::new(stream::MessageOut::new(context))
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        error::body(fault, request_id)
    }
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        error::event(fault, request_id)
    }
    fn heartbeat(&self) -> &'static [u8] {
        b"event: ping\ndata: {\"type\": \"ping\"}\n\n"
    }
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        crate::error::read(body)
    }
    fn read_usage(&self, text: &[u8]) -> Option<Usage> {
        let value: &Value = &serde_json::from_slice(text).ok()?;
        answer::Counts::read(value).usage()
    }
}

/// A tool call's arguments as the object that Anthropic wants; text that is none is wrapped, never lost.
pub(crate) fn input(arguments: &str) -> Value {
    match serde_json::from_str::<Value>(arguments) {
        Ok(object @ Value::Object(_)) => object,
        _ if arguments.trim().is_empty() => json!({}),
        _ => json!({"_raw": arguments}),
    }
}
