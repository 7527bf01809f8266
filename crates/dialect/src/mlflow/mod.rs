//! MLflow gateway invocations: OpenAI's requests with MLflow's rules, and answers in MLflow's exact key order.
//! Providers that are MLflow gateways themselves answer in OpenAI's shape, so reading is shared.

mod decode;
mod encode;
mod error;
mod stream;

use millgate_types::{Answer, Call, Dialect, Fault, Operation, RequestId, Usage};

use crate::openai;
use crate::stream::{ChunkEncoder, SseDecoder};
use crate::{Codec, Context, EncodedCall, ErrorBody, Quirks, StreamDecoder, StreamEncoder};

/// MLflow's dialect.
pub(crate) struct Mlflow;

impl Codec for Mlflow {
    fn dialect(&self) -> Dialect {
        Dialect::Mlflow
    }
    fn decode_call(&self, operation: Operation, body: &[u8]) -> Result<Call, Fault> {
        decode::call(operation, body)
    }
    fn encode_call(&self, call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
        openai::encode::call(call, quirks)
    }
    fn decode_answer(&self, operation: Operation, body: &[u8]) -> Result<Answer, Fault> {
        openai::answer::decode(operation, body)
    }
    fn encode_answer(&self, answer: &Answer, context: &Context) -> Vec<u8> {
        encode::answer(answer, context)
    }
    fn stream_decoder(&self, operation: Operation) -> Box<dyn StreamDecoder> {
        Box::new(SseDecoder::new(openai::stream::ChunkReader::new(operation)))
    }
    fn stream_encoder(&self, operation: Operation, context: &Context) -> Box<dyn StreamEncoder> {
        Box::new(ChunkEncoder::new(stream::ChunkOut::new(operation, context)))
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        error::body(fault, request_id)
    }
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        error::event(fault, request_id)
    }
    /// MLflow's clients read `data:` lines only, and skip empty ones.
    fn heartbeat(&self) -> &'static [u8] {
        b"\n"
    }
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        crate::error::read(body)
    }
    fn read_usage(&self, text: &[u8]) -> Option<Usage> {
        openai::usage::read_text(text)
    }
}
