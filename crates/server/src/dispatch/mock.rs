//! The mock provider: answers in OpenAI's dialect without a network, says that it is a mock, and misbehaves on
//! demand. Deterministic: the same request gives the same answer.
//!
//! | model | does |
//! |---|---|
//! | `echo` | repeats the last user message; embeds any text |
//! | `slow` | the same, 200 ms a word |
//! | `tool-call` | calls the first tool, without arguments |
//! | `error-NNN` | answers status NNN |
//! | `error-in-stream` | an error frame after some words |
//! | `cut-stream` | the connection breaks after some words |
//! | `stall` | nothing more comes after some words |
//! | `empty-stream` | a stream without a frame |
//! | `garbage` | an HTML page under 200 |

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use millgate_types::{Fault, Operation, code};
use millgate_upstream::UpstreamError;
use serde_json::{Value, json};
use tokio::time::Sleep;

use super::llm::AnswerBody;

/// A pause of the model `slow`.
const SLOW: Duration = Duration::from_millis(200);
/// Length of embeddings when the caller does not choose.
const DIMENSIONS: usize = 8;

/// The answer to a request body in OpenAI's dialect.
pub(super) async fn answer(operation: Operation, body: &[u8]) -> Result<Response<AnswerBody>, Fault> {
    let request: Value = serde_json::from_slice(body).map_err(|error| {
        Fault::gateway(code::INTERNAL_ERROR, "the mock was sent no JSON").with_cause(error)
    })?;
    let model = request["model"].as_str().unwrap_or_default().to_owned();
    let status = model.strip_prefix("error-").and_then(|status| status.parse::<u16>().ok());
    if let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) {
        let message = format!("[mock] error {} on demand", status.as_u16());
        let error =
            json!({ "error": { "message": message, "type": "mock_error", "param": null, "code": null } });
        let mut response = whole(&error);
        *response.status_mut() = status;
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        return Ok(response);
    }
    match model.as_str() {
        "garbage" => {
            let mut response =
                respond("text/html", MockBody::new([Step::Data("<html>[mock]</html>".into())]));
            *response.status_mut() = StatusCode::OK;
            return Ok(response);
        }
        "slow" => tokio::time::sleep(SLOW).await,
        "echo" | "tool-call" | "cut-stream" | "stall" | "empty-stream" | "error-in-stream" => {}
        other => {
            let message = format!("[mock] the model `{other}` does not exist");
            let error = json!({ "error": { "message": message, "type": "invalid_request_error", "param": "model", "code": "model_not_found" } });
            let mut response = whole(&error);
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    }
    if operation == Operation::Embeddings {
        return Ok(whole(&embeddings(&request, &model)));
    }
    let reply = Reply::to(&request, operation, &model);
    if request["stream"] == json!(true) {
        return Ok(respond("text/event-stream", reply.stream(&request)));
    }
    if matches!(model.as_str(), "cut-stream" | "stall" | "empty-stream" | "error-in-stream") {
        let end = if model == "stall" { Step::Stall } else { Step::Break };
        return Ok(respond("application/json", MockBody::new([Step::Data("{\"id\":".into()), end])));
    }
    Ok(whole(&reply.whole()))
}

fn whole(value: &Value) -> Response<AnswerBody> {
    respond("application/json", MockBody::new([Step::Data(value.to_string().into())]))
}

fn respond(content_type: &'static str, body: MockBody) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Mock(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// What the mock says.
struct Reply {
    model: String,
    operation: Operation,
    words: Vec<String>,
    /// Name of the tool to call instead.
    tool: Option<String>,
    prompt_tokens: usize,
}

impl Reply {
    fn to(request: &Value, operation: Operation, model: &str) -> Self {
        let (said, prompt_tokens) = if operation == Operation::Completions {
            let prompt = text_of(&request["prompt"]);
            let tokens = prompt.split_whitespace().count();
            (prompt, tokens)
        } else {
            let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
            let last = messages.iter().rev().find(|message| message["role"] == "user");
            let tokens = messages.iter().map(|m| text_of(&m["content"]).split_whitespace().count()).sum();
            (last.map(|message| text_of(&message["content"])).unwrap_or_default(), tokens)
        };
        let mut words: Vec<String> =
            format!("[mock] You said: {said}").split(' ').map(str::to_owned).collect();
        if let Some(most) = request["max_tokens"].as_u64().or(request["max_completion_tokens"].as_u64()) {
            words.truncate(usize::try_from(most).unwrap_or(usize::MAX).max(1));
        }
        let tool = (model == "tool-call").then(|| request["tools"][0]["function"]["name"].as_str()).flatten();
        Self {
            model: format!("mock/{model}"),
            operation,
            words,
            tool: tool.map(str::to_owned),
            prompt_tokens,
        }
    }

    fn usage(&self) -> Value {
        let completion = self.words.len();
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        })
    }

    fn finish(&self) -> &'static str {
        if self.tool.is_some() { "tool_calls" } else { "stop" }
    }

    fn object(&self, chunk: bool) -> &'static str {
        match (self.operation, chunk) {
            (Operation::Completions, _) => "text_completion",
            (_, true) => "chat.completion.chunk",
            (_, false) => "chat.completion",
        }
    }

    fn tool_call(name: &str) -> Value {
        json!({ "index": 0, "id": "call_mock", "type": "function", "function": { "name": name, "arguments": "{}" } })
    }

    fn whole(&self) -> Value {
        let text = self.words.join(" ");
        let finish = self.finish();
        let choice = match (self.operation, &self.tool) {
            (Operation::Completions, _) => json!({ "index": 0, "text": text, "finish_reason": finish }),
            (_, Some(tool)) => json!({
                "index": 0,
                "message": { "role": "assistant", "content": null, "tool_calls": [Self::tool_call(tool)] },
                "finish_reason": finish,
            }),
            (_, None) => json!({
                "index": 0,
                "message": { "role": "assistant", "content": text },
                "finish_reason": finish,
            }),
        };
        json!({
            "id": "mock", "object": self.object(false), "created": 0, "model": self.model,
            "choices": [choice], "usage": self.usage(), "system_fingerprint": "mock",
        })
    }

    #[expect(clippy::needless_pass_by_value, reason = "the values are made for this call")]
    fn chunk(&self, choices: Value, usage: Value) -> Step {
        let chunk = json!({
            "id": "mock", "object": self.object(true), "created": 0, "model": self.model,
            "choices": choices, "usage": usage,
        });
        Step::Data(format!("data: {chunk}\n\n").into())
    }

    fn stream(&self, request: &Value) -> MockBody {
        let kind = self.model.trim_start_matches("mock/");
        if kind == "empty-stream" {
            return MockBody::new([]);
        }
        let completions = self.operation == Operation::Completions;
        let delta =
            |delta: Value, finish: Value| json!([{ "index": 0, "delta": delta, "finish_reason": finish }]);
        let mut steps = Vec::new();
        if !completions {
            steps.push(
                self.chunk(delta(json!({ "role": "assistant", "content": "" }), Value::Null), Value::Null),
            );
        }
        if let Some(tool) = &self.tool {
            let call = json!({ "tool_calls": [Self::tool_call(tool)] });
            steps.push(self.chunk(delta(call, Value::Null), Value::Null));
        }
        let words = if self.tool.is_some() { &[][..] } else { &self.words };
        for (index, word) in words.iter().enumerate() {
            match (kind, index) {
                ("cut-stream", 2) => {
                    steps.push(Step::Break);
                    return MockBody::new(steps);
                }
                ("stall", 2) => {
                    steps.push(Step::Stall);
                    return MockBody::new(steps);
                }
                ("error-in-stream", 2) => {
                    let error = json!({ "error": { "message": "[mock] error on demand", "type": "server_error", "code": 500 } });
                    steps.push(Step::Data(format!("data: {error}\n\n").into()));
                    return MockBody::new(steps);
                }
                ("slow", 1..) => steps.push(Step::Wait(SLOW)),
                _ => {}
            }
            let text = if index == 0 { word.clone() } else { format!(" {word}") };
            let choices = if completions {
                json!([{ "index": 0, "text": text, "finish_reason": null }])
            } else {
                delta(json!({ "content": text }), Value::Null)
            };
            steps.push(self.chunk(choices, Value::Null));
        }
        let last = if completions {
            json!([{ "index": 0, "text": "", "finish_reason": self.finish() }])
        } else {
            delta(json!({}), self.finish().into())
        };
        steps.push(self.chunk(last, Value::Null));
        if request["stream_options"]["include_usage"] == json!(true) {
            steps.push(self.chunk(json!([]), self.usage()));
        }
        steps.push(Step::Data("data: [DONE]\n\n".into()));
        MockBody::new(steps)
    }
}

/// The text of a string or of a list of parts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.as_str().or(part["text"].as_str()));
            texts.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

/// Vectors of length one, made from the text alone.
fn embeddings(request: &Value, model: &str) -> Value {
    let texts = match &request["input"] {
        Value::Array(items) if items.iter().all(Value::is_string) => items.iter().map(text_of).collect(),
        other => vec![if other.is_string() { text_of(other) } else { other.to_string() }],
    };
    let length = request["dimensions"].as_u64().map_or(DIMENSIONS, |length| length.clamp(1, 4096) as usize);
    let tokens: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = vector(text, length);
            json!({ "object": "embedding", "index": index, "embedding": encode(&vector, request) })
        })
        .collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    json!({ "object": "list", "model": format!("mock/{model}"), "data": data, "usage": usage })
}

/// Floats, or little-endian bytes in base64, as asked for.
fn encode(vector: &[f32], request: &Value) -> Value {
    if request["encoding_format"] == "base64" {
        let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        return base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes).into();
    }
    json!(vector)
}

fn vector(text: &str, length: usize) -> Vec<f32> {
    let seed = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let mut vector: Vec<f32> = (0..length).map(|_| random.f32() - 0.5).collect();
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        for value in &mut vector {
            *value /= norm;
        }
    }
    vector
}

enum Step {
    Data(Bytes),
    Wait(Duration),
    /// The connection breaks.
    Break,
    /// Nothing comes any more, until the idle time-out of a real connection would end it.
    Stall,
}

/// The mock's body, step by step.
pub(super) struct MockBody {
    steps: VecDeque<Step>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl MockBody {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), timer: None }
    }
}

/// How long the model `stall` stays silent before it counts as stalled.
const STALL: Duration = Duration::from_secs(120);

impl Body for MockBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        loop {
            let pause = match this.steps.front() {
                None => return Poll::Ready(None),
                Some(Step::Wait(pause)) => *pause,
                Some(Step::Stall) => STALL,
                Some(Step::Break) => {
                    this.steps.clear();
                    return Poll::Ready(Some(Err(UpstreamError::Broken(
                        std::io::ErrorKind::UnexpectedEof.into(),
                    ))));
                }
                Some(Step::Data(_)) => {
                    let Some(Step::Data(data)) = this.steps.pop_front() else { continue };
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            };
            let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            ready!(timer.as_mut().poll(context));
            this.timer = None;
            if let Some(Step::Stall) = this.steps.pop_front() {
                this.steps.clear();
                return Poll::Ready(Some(Err(UpstreamError::Idle)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
