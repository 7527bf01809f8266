//! Google's Gemini API: `generateContent`, `streamGenerateContent` and `batchEmbedContents`. Model and stream
//! stand in the path, not in the body: the server puts them into the call.

mod answer;
mod decode;
mod embed;
mod encode;
mod error;
mod framing;
mod partial;
mod parts;
mod schema;
mod stream;

use millgate_types::{Answer, Call, Dialect, Fault, Operation, RequestId, Usage};
use serde_json::{Map, Value, json};

use crate::{Codec, Context, EncodedCall, ErrorBody, Quirks, StreamDecoder, StreamEncoder, json as wire};

/// Google's dialect.
pub(crate) struct Gemini;

impl Codec for Gemini {
    fn dialect(&self) -> Dialect {
        Dialect::Gemini
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
        Box::new(framing::EitherDecoder::default())
    }
    fn stream_encoder(&self, _operation: Operation, context: &Context) -> Box<dyn StreamEncoder> {
        Box::new(stream::ChunkOut::new(context))
    }
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        error::body(fault, request_id)
    }
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        error::event(fault, request_id)
    }
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        error::read(body)
    }
    fn passes(&self, operation: Operation) -> bool {
        // Requests for embeddings hold the model's name once per text.
        matches!(operation, Operation::Chat | Operation::CountTokens)
    }
    fn encode_count(&self, tokens: u64) -> Vec<u8> {
        format!("{{\"totalTokens\":{tokens}}}").into_bytes()
    }
    fn usage_member(&self) -> &'static str {
        "usageMetadata"
    }
    fn read_usage(&self, text: &[u8]) -> Option<Usage> {
        let value: &Value = &serde_json::from_slice(text).ok()?;
        answer::usage(value)
    }
}

/// The same object with its names in camelCase: Google takes both spellings. Values stay as they are.
fn camel(map: Map<String, Value>) -> Map<String, Value> {
    if !map.keys().any(|key| key.contains('_')) {
        return map;
    }
    map.into_iter().map(|(key, value)| (camel_word(&key), value)).collect()
}

fn camel_word(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut raise = false;
    for c in word.chars() {
        if c == '_' && !out.is_empty() {
            raise = true;
        } else if std::mem::take(&mut raise) {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// A tool call's arguments as the object that Google wants; text that is none is wrapped, never lost.
fn arguments(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(object @ Value::Object(_)) => object,
        _ if text.trim().is_empty() => json!({}),
        _ => json!({"_raw": text}),
    }
}

/// Whether we made this id because Google gave none (`call_0`, `call_<answer>_0`).
fn is_made(id: &str) -> bool {
    id.strip_prefix("call_").is_some_and(|rest| {
        let last = rest.rsplit('_').next().unwrap_or_default();
        !last.is_empty() && last.len() < 4 && last.bytes().all(|byte| byte.is_ascii_digit())
    })
}
