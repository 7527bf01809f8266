//! OpenAI Responses: callers' requests for any target, and providers that have the API themselves. Such providers
//! get their callers' bytes; calls in other dialects are encoded for them where the configuration says so.

mod answer;
mod decode;
mod encode;
mod events;
mod item;
mod stream;

use millgate_types::{Answer, Call, Dialect, Fault, Operation, RequestId, Usage};
use serde_json::Value;

use crate::stream::SseDecoder;
use crate::{
    Codec, Context, EncodedCall, ErrorBody, Quirks, StreamDecoder, StreamEncoder, completion, json,
    not_implemented, openai,
};

/// The dialect of OpenAI's Responses API.
pub(crate) struct Responses;

impl Codec for Responses {
    fn dialect(&self) -> Dialect {
        Dialect::Responses
    }
    fn decode_call(&self, operation: Operation, body: &[u8]) -> Result<Call, Fault> {
        decode::call(operation, json::parse_object(body)?)
    }
    fn encode_call(&self, call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
        match call {
            Call::Chat(call) => encode::chat(call, quirks),
            Call::Completion(call) => encode::chat(&completion::completion_as_chat(call)?, quirks),
            _ => Err(not_implemented(Dialect::Responses, call.operation())),
        }
    }
    fn decode_answer(&self, operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
        answer::decode(operation, body)
    }
    fn encode_answer(&self, answer: &Answer, context: &Context) -> Vec<u8> {
        answer::encode(answer, context)
    }
    fn stream_decoder(&self, _operation: Operation) -> Box<dyn StreamDecoder> {
        Box::new(SseDecoder::new(stream::EventReader::default()))
    }
    fn stream_encoder(&self, _operation: Operation, context: &Context) -> Box<dyn StreamEncoder> {
        Box::new(events::EventOut::new(context))
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        openai::error::body(fault, request_id)
    }
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        events::fault(fault, request_id, 0)
    }
    fn fault_event_behind(&self, passed: &[u8], fault: &Fault, request_id: RequestId) -> Vec<u8> {
        let last = events::last_number(passed);
        events::fault(fault, request_id, last.map_or(0, |last| last.saturating_add(1)))
    }
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        crate::error::read(body)
    }
    fn passes(&self, operation: Operation) -> bool {
        operation == Operation::Chat
    }
    fn read_usage(&self, text: &[u8]) -> Option<Usage> {
        let value: &Value = &serde_json::from_slice(text).ok()?;
        answer::usage(value)
    }
}
