//! Ollama's own API, for providers: chat and embed. Its compatible API says less: there `keep_alive`, the size of the
//! context and a form of the answer that is a schema have no place.

mod answer;
mod encode;
mod stream;

use millgate_types::{Answer, Call, Dialect, Fault, Operation, RequestId, Usage};

use crate::{
    Codec, Context, EncodedCall, ErrorBody, Quirks, StreamDecoder, completion, error, not_implemented, openai,
};

/// Ollama's dialect.
pub(crate) struct Ollama;

impl Codec for Ollama {
    fn dialect(&self) -> Dialect {
        Dialect::Ollama
    }
    fn decode_call(&self, operation: Operation, _body: &[u8]) -> Result<Call, Fault> {
        Err(not_implemented(Dialect::Ollama, operation))
    }
    fn encode_call(&self, call: &Call, _quirks: &Quirks) -> Result<EncodedCall, Fault> {
        match call {
            Call::Chat(call) => encode::chat(call),
            Call::Completion(call) => encode::chat(&completion::completion_as_chat(call)?),
            Call::Embedding(call) => encode::embed(call),
            Call::Rerank(_) | Call::Moderation(_) => Err(not_implemented(Dialect::Ollama, call.operation())),
        }
    }
    fn decode_answer(&self, operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
        answer::decode(operation, body)
    }
    fn encode_answer(&self, _answer: &Answer, context: &Context) -> Vec<u8> {
        // Never asked for in this dialect.
        self.encode_fault(&not_implemented(Dialect::Ollama, Operation::Chat), context.request_id)
    }
    fn stream_decoder(&self, _operation: Operation) -> Box<dyn StreamDecoder> {
        Box::new(stream::Lines::default())
    }
    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        openai::error::body(fault, request_id)
    }
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        openai::error::event(fault, request_id)
    }
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        error::read(body)
    }
    fn passes(&self, _operation: Operation) -> bool {
        false
    }
    fn read_usage(&self, text: &[u8]) -> Option<Usage> {
        answer::usage(serde_json::from_slice::<serde_json::Value>(text).ok()?.as_object()?)
    }
}
