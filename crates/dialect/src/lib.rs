//! Wire formats in both directions: what callers send and read, what providers take and answer, whole and
//! streamed. Bytes in, bytes out: no IO, no clock, no knowledge of providers beyond [`Quirks`].
//!
//! A dialect is one folder and one line in [`DIALECTS`]; the canonical form of `millgate-types` stands in the
//! middle.

mod aggregate;
mod anthropic;
mod bedrock;
mod cohere;
mod completion;
mod count;
mod error;
pub mod eventstream;
mod find;
mod foreign;
mod gemini;
mod inference;
mod json;
mod mlflow;
mod ollama;
mod openai;
mod problem;
mod quirks;
mod responses;
pub mod scan;
mod scoring;
mod seal;
pub mod sse;
mod stream;
mod watch;

use millgate_types::{
    Answer, Call, Dialect, EmbeddingFormat, Event, Fault, Operation, RequestId, Usage, code,
};

pub use aggregate::{Aggregator, aggregate, replay};
pub use completion::{chat_as_completion, completion_as_chat};
pub use count::estimate_tokens;
pub use error::{conceal, redact};
pub use foreign::holds_foreign_thinking;
pub use quirks::{
    EmbeddingStyle, MaxTokensName, Quirks, ReasoningField, ReasoningParameter, SchemaSupport, ThinkingStyle,
};
pub use watch::{Passed, Watch, model_in, usage_of};

/// One wire format, both ways. Callers' bytes are read strictly, upstreams' bytes tolerantly.
pub trait Codec: Sync {
    /// Which.
    fn dialect(&self) -> Dialect;
    /// Reads a caller's request. A dialect that only providers speak has none, and leaves this and what else
    /// writes to callers as it is.
    fn decode_call(&self, operation: Operation, _body: &[u8]) -> Result<Call, Fault> {
        Err(not_implemented(self.dialect(), operation))
    }
    /// Writes the request for a provider that speaks this dialect. A dialect of which only errors are written here
    /// leaves this and the other ways to providers as they are.
    fn encode_call(&self, call: &Call, _quirks: &Quirks) -> Result<EncodedCall, Fault> {
        Err(not_implemented(self.dialect(), call.operation()))
    }
    /// Reads a provider's whole answer; `upstream_error` when it is not one.
    fn decode_answer(&self, operation: Operation, _body: &[u8]) -> Result<Answer, Fault> {
        Err(not_implemented(self.dialect(), operation))
    }
    /// Writes a whole answer for the caller.
    fn encode_answer(&self, _answer: &Answer, context: &Context) -> Vec<u8> {
        self.encode_fault(&not_implemented(self.dialect(), Operation::Chat), context.request_id)
    }
    /// The content type of a provider's stream.
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }
    /// Reads a provider's stream.
    fn stream_decoder(&self, operation: Operation) -> Box<dyn StreamDecoder> {
        Box::new(stream::NoStream::new(self.dialect(), operation))
    }
    /// Writes a stream for the caller.
    fn stream_encoder(&self, operation: Operation, context: &Context) -> Box<dyn StreamEncoder> {
        Box::new(stream::Refusing::new(self.dialect(), operation, context.request_id))
    }
    /// The JSON body of an error answer.
    fn encode_fault(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        openai::OpenAi.encode_fault(fault, request_id)
    }
    /// An error inside a stream that has begun.
    fn fault_event(&self, fault: &Fault, request_id: RequestId) -> Vec<u8> {
        self.encode_fault(fault, request_id)
    }
    /// The same behind frames that passed through: where events are numbered, it continues their count. `_passed`
    /// is the end of what was passed.
    fn fault_event_behind(&self, _passed: &[u8], fault: &Fault, request_id: RequestId) -> Vec<u8> {
        self.fault_event(fault, request_id)
    }
    /// What means nothing to callers in the middle of a stream, between two frames: a sign of life.
    fn heartbeat(&self) -> &'static [u8] {
        b": keep-alive\n\n"
    }
    /// The content type of an error answer.
    fn fault_type(&self) -> &'static str {
        "application/json"
    }
    /// What an upstream's error body says.
    fn decode_error(&self, _status: u16, body: &[u8]) -> ErrorBody {
        error::read(body)
    }
    /// Whether a caller's body may go to a provider of the same dialect as it is. Some bodies name the model
    /// in places where it is not spliced.
    fn passes(&self, operation: Operation) -> bool {
        operation != Operation::Predict
    }
    /// Writes the answer to "how many tokens?".
    fn encode_count(&self, tokens: u64) -> Vec<u8> {
        format!("{{\"input_tokens\":{tokens}}}").into_bytes()
    }
    /// The top-level member of a whole answer that holds its usage.
    fn usage_member(&self) -> &'static str {
        "usage"
    }
    /// Reads that member's text.
    fn read_usage(&self, _text: &[u8]) -> Option<Usage> {
        None
    }
}

/// Turns a provider's bytes into events. Any chunking of the same bytes gives the same events.
pub trait StreamDecoder: Send {
    /// Takes the next bytes.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>);
    /// The stream closed. Without a terminal event before, that is [`code::STREAM_INTERRUPTED`].
    fn finish(&mut self, out: &mut Vec<Event>);
}

/// Turns events into the caller's bytes.
pub trait StreamEncoder: Send {
    /// Takes the next event. [`Event::Error`] becomes the dialect's error event and ends the stream without
    /// a terminal frame; [`Event::End`] writes the terminal frames.
    fn push(&mut self, event: Event, out: &mut Vec<u8>);
}

/// What the encoders of answers need to know about the request.
#[derive(Clone, Debug)]
pub struct Context {
    /// Our id of the request.
    pub request_id: RequestId,
    /// The model's name to show.
    pub model: String,
    /// For MLflow's `provider` field.
    pub provider: String,
    /// The caller wants usage at the end of a stream.
    pub include_usage: bool,
    /// How the caller wants vectors written.
    pub embedding_format: EmbeddingFormat,
    /// Unix seconds, for dialects whose answers carry them when the provider's did not.
    pub created: u64,
}

/// A request body for a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedCall {
    /// JSON.
    pub body: Vec<u8>,
    /// Paths of fields that the target cannot take and that were left out.
    pub dropped: Vec<String>,
}

/// What an error body says, for classification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// The text for people. Not yet redacted.
    pub message: Option<String>,
    /// The machine's word, for example `insufficient_quota`; numbers as text.
    pub code: Option<String>,
    /// The error's type, for example `overloaded_error`.
    pub kind: Option<String>,
    /// The request field at fault.
    pub param: Option<String>,
    /// How long to wait, in the body's own words (Google's `34s`).
    pub wait: Option<String>,
}

/// Every dialect, one line each.
pub static DIALECTS: &[&dyn Codec] = &[
    &openai::OpenAi,
    &responses::Responses,
    &anthropic::Anthropic,
    &gemini::Gemini,
    &bedrock::Bedrock,
    &cohere::Cohere,
    &ollama::Ollama,
    &mlflow::Mlflow,
    &scoring::Scoring,
    &inference::Inference,
    &problem::Problem,
];

/// The codec of a dialect.
#[must_use]
pub fn codec(dialect: Dialect) -> &'static dyn Codec {
    match DIALECTS.iter().find(|codec| codec.dialect() == dialect) {
        Some(codec) => *codec,
        None => &openai::OpenAi,
    }
}

/// Body members that would let a caller steer the gateway or the target: refused at the top level.
pub const CONTROL_FIELDS: &[&str] =
    &["api_base", "base_url", "api_key", "user_config", "extra_headers", "prompt_embeds"];

/// Prefix of further control fields (`chat_template`, `chat_template_kwargs`, ...).
pub const CONTROL_PREFIX: &str = "chat_template";

/// Whether callers may not send this top-level member.
#[must_use]
pub fn is_control_field(name: &str) -> bool {
    name.starts_with(CONTROL_PREFIX) || CONTROL_FIELDS.contains(&name)
}

fn refuse_control_field(name: &str) -> Result<(), Fault> {
    if is_control_field(name) {
        return Err(Fault::client(
            code::UNSUPPORTED_PARAMETER,
            format!("`{name}` may not be set by callers"),
        )
        .with_param(name.to_owned()));
    }
    Ok(())
}

/// Checks a model's name as callers write it: `[A-Za-z0-9][A-Za-z0-9._:/@-]{0,255}`.
pub fn check_model(name: &str) -> Result<(), Fault> {
    let mut bytes = name.bytes();
    let good = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() <= 256
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte));
    if good {
        return Ok(());
    }
    Err(Fault::client(code::INVALID_MODEL, "the model's name has characters that names do not have")
        .with_param("model"))
}

/// The fault of an operation that a dialect does not have.
fn not_implemented(dialect: Dialect, operation: Operation) -> Fault {
    Fault::client(
        code::NOT_IMPLEMENTED,
        format!("the {} operation is not part of the {} dialect", operation.name(), dialect.name()),
    )
}
