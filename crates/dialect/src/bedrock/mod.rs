//! AWS Bedrock: Converse and ConverseStream for chats, InvokeModel for embeddings. Only providers speak it.
//! Callers reach these models in the dialects of their own.

mod answer;
mod content;
mod embed;
mod encode;
mod model;
mod stream;

use millgate_types::{Answer, Call, Dialect, Fault, Operation, Usage};
use serde_json::Value;

use crate::{Codec, EncodedCall, ErrorBody, Quirks, StreamDecoder};

/// Bedrock's dialect.
pub(crate) struct Bedrock;

impl Codec for Bedrock {
    fn dialect(&self) -> Dialect {
        Dialect::Bedrock
    }
    fn encode_call(&self, call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
        match call {
            Call::Embedding(call) => embed::encode(call),
            call => encode::call(call, quirks),
        }
    }
    fn decode_answer(&self, operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
        match operation {
            Operation::Embeddings => embed::decode(body).map(Answer::Embedding),
            operation => answer::decode(operation, body),
        }
    }
    fn stream_type(&self) -> &'static str {
        "application/vnd.amazon.eventstream"
    }
    fn stream_decoder(&self, _operation: Operation) -> Box<dyn StreamDecoder> {
        Box::new(stream::ConverseReader::default())
    }
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        crate::error::read(body)
    }
    fn read_usage(&self, text: &[u8]) -> Option<Usage> {
        let value: &Value = &serde_json::from_slice(text).ok()?;
        answer::usage(value)
    }
}
