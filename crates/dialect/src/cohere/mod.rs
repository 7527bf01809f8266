//! Cohere v2: rerank for callers and for every provider that has it, and Cohere itself as a provider of chats and
//! vectors. Nobody calls the gateway in Cohere's chat shape, so chats are written for the provider and read back
//! from it only.

mod answer;
mod encode;
mod rerank;
mod stream;
mod usage;

use millgate_types::{Answer, Call, Dialect, Fault, Operation, RequestId, Usage};

use crate::json::{self, Object};
use crate::stream::SseDecoder;
use crate::{
    Codec, Context, EncodedCall, ErrorBody, Quirks, StreamDecoder, completion, error, not_implemented,
};

/// Cohere's dialect.
pub(crate) struct Cohere;

impl Codec for Cohere {
    fn dialect(&self) -> Dialect {
        Dialect::Cohere
    }
    fn decode_call(&self, operation: Operation, body: &[u8]) -> Result<Call, Fault> {
        match operation {
            Operation::Rerank => rerank::decode_call(json::parse_object(body)?).map(Call::Rerank),
            _ => Err(not_implemented(Dialect::Cohere, operation)),
        }
    }
    fn encode_call(&self, call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
        match call {
            Call::Chat(call) => encode::chat(call, quirks),
            Call::Completion(call) => encode::chat(&completion::completion_as_chat(call)?, quirks),
            Call::Embedding(call) => encode::embed(call, quirks),
            Call::Rerank(call) => Ok(rerank::encode_call(call, quirks)),
            Call::Moderation(_) => Err(not_implemented(Dialect::Cohere, call.operation())),
        }
    }
    fn decode_answer(&self, operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
        answer::decode(operation, body)
    }
    fn encode_answer(&self, answer: &Answer, context: &Context) -> Vec<u8> {
        match answer {
            Answer::Rerank(answer) => rerank::encode_answer(answer, context),
            _ => self.encode_fault(&not_implemented(Dialect::Cohere, Operation::Chat), context.request_id),
        }
    }
    fn stream_decoder(&self, _operation: Operation) -> Box<dyn StreamDecoder> {
        Box::new(SseDecoder::new(stream::ChatReader::default()))
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut body = Object::new(&mut out);
        body.field("id", &request_id.to_string());
        body.field("message", &fault.public);
        body.field("code", fault.code.name);
        body.some("param", fault.param.as_ref());
        body.field("source", fault.source.name());
        body.some("upstream_status", fault.upstream_status.as_ref());
        body.end();
        out
    }
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        self.encode_fault(fault, request_id)
    }
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        error::read(body)
    }
    /// Rerankers differ in small things (`top_k`, `data`, unsorted results): none is passed through unread.
    fn passes(&self, _operation: Operation) -> bool {
        false
    }
    fn read_usage(&self, text: &[u8]) -> Option<Usage> {
        usage::read(&serde_json::from_slice(text).ok()?)
    }
}
