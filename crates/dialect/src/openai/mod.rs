//! OpenAI chat completions, completions and embeddings, and everything compatible with them.

pub(crate) mod answer;
mod chunks;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod error;
mod moderation;
mod reasoning;
pub(crate) mod stream;
mod texts;
pub(crate) mod usage;

use millgate_types::{Answer, Call, Dialect, Fault, Operation, RequestId, Usage};
use serde_json::Value;

use crate::stream::{ChunkEncoder, SseDecoder};
use crate::{Codec, Context, EncodedCall, ErrorBody, Quirks, StreamDecoder, StreamEncoder, json};

/// OpenAI's dialect.
pub(crate) struct OpenAi;

impl Codec for OpenAi {
    fn dialect(&self) -> Dialect {
        Dialect::OpenAi
    }
    fn decode_call(&self, operation: Operation, body: &[u8]) -> Result<Call, Fault> {
        decode::call(operation, json::parse_object(body)?, decode::OPENAI)
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
    fn stream_decoder(&self, operation: Operation) -> Box<dyn StreamDecoder> {
        Box::new(SseDecoder::new(stream::ChunkReader::new(operation)))
    }
    fn stream_encoder(&self, operation: Operation, context: &Context) -> Box<dyn StreamEncoder> {
        Box::new(ChunkEncoder::new(chunks::ChunkOut::new(operation, context)))
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        error::body(fault, request_id)
    }
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        error::event(fault, request_id)
    }
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        crate::error::read(body)
    }
    fn read_usage(&self, text: &[u8]) -> Option<Usage> {
        usage::read_text(text)
    }
}

/// One entry of `reasoning_details`.
pub(crate) fn reasoning_detail(index: usize, closed: bool, text: &str, signature: Option<&str>) -> Value {
    reasoning::detail(index, closed, text, signature)
}
