//! What the fake provider says.

use std::borrow::Cow;

use base64::Engine as _;
use serde_json::{Value, json};

use super::behaviour::{Manner, is_cut};

/// The API a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Api {
    Chat,
    Completions,
    Embeddings,
    Messages,
    Responses,
    Generate,
    GenerateStream,
    BatchEmbed,
    Predict,
    Converse,
    ConverseStream,
    Invoke,
    Count,
    Rerank,
    Moderations,
    CohereChat,
    CohereEmbed,
    OllamaChat,
    OllamaEmbed,
}

impl Api {
    pub(super) fn of(path: &str) -> Option<Self> {
        let path = path.split('?').next().unwrap_or_default();
        [
            ("/chat/completions", Self::Chat),
            ("/completions", Self::Completions),
            ("/embeddings", Self::Embeddings),
            ("/messages", Self::Messages),
            ("/count_tokens", Self::Count),
            ("/responses", Self::Responses),
            (":generateContent", Self::Generate),
            (":streamGenerateContent", Self::GenerateStream),
            (":batchEmbedContents", Self::BatchEmbed),
            (":countTokens", Self::Count),
            // Claude on Vertex AI.
            (":rawPredict", Self::Messages),
            (":streamRawPredict", Self::Messages),
            (":predict", Self::Predict),
            (":embedContent", Self::BatchEmbed),
            ("/converse", Self::Converse),
            ("/converse-stream", Self::ConverseStream),
            ("/invoke", Self::Invoke),
            ("/rerank", Self::Rerank),
            ("/moderations", Self::Moderations),
            ("/v2/chat", Self::CohereChat),
            ("/v2/embed", Self::CohereEmbed),
            ("/api/chat", Self::OllamaChat),
            ("/api/embed", Self::OllamaEmbed),
        ]
        .into_iter()
        .find_map(|(end, api)| path.ends_with(end).then_some(api))
    }

    /// The path alone says so.
    pub(super) fn always_streams(self) -> bool {
        matches!(self, Self::GenerateStream | Self::ConverseStream)
    }

    pub(super) fn stream_type(self) -> &'static str {
        match self {
            Self::ConverseStream => "application/vnd.amazon.eventstream",
            Self::OllamaChat => "application/x-ndjson",
            _ => "text/event-stream; charset=utf-8",
        }
    }

    /// The header in which Bedrock tells the class of an error.
    pub(super) fn error_class(self, status: u16) -> &'static str {
        if !matches!(self, Self::Converse | Self::ConverseStream | Self::Invoke) {
            return "";
        }
        match status {
            403 => "x-amzn-errortype: AccessDeniedException:http://internal.amazon.com/\r\n",
            429 => "x-amzn-errortype: ThrottlingException:http://internal.amazon.com/\r\n",
            _ => "x-amzn-errortype: ValidationException:http://internal.amazon.com/\r\n",
        }
    }

    /// Whether its answers may be streams, and are the same for every request to a model.
    pub(super) fn streams(self) -> bool {
        let whole = [
            Self::Embeddings,
            Self::BatchEmbed,
            Self::Count,
            Self::Rerank,
            Self::Moderations,
            Self::CohereEmbed,
            Self::OllamaEmbed,
            Self::Predict,
            Self::Invoke,
        ];
        !whole.contains(&self)
    }
}

pub(super) const TEXT: &str = "Hello from the fake provider.";
const JSON_TEXT: &str = "{\"answer\": 42}";
pub(super) const CREATED: u64 = 1_760_000_000;

/// What the model says: `repeat` says what it was told last.
fn said(model: &str, request: &Value) -> Cow<'static, str> {
    match model {
        "json" => JSON_TEXT.into(),
        "repeat" => {
            let last = request["messages"].as_array().and_then(|messages| messages.last());
            let content = last.map_or(&Value::Null, |message| &message["content"]);
            content.as_str().or_else(|| content[0]["text"].as_str()).unwrap_or_default().to_owned().into()
        }
        _ => TEXT.into(),
    }
}

/// The whole answer.
pub(super) fn whole(api: Api, path: &str, model: &str, request: &Value) -> Vec<u8> {
    let text = &*said(model, request);
    let answer = match api {
        Api::Chat => super::openai::answer(Manner::of(path), model, text),
        Api::Completions => json!({
            "id": "cmpl-fake", "object": "text_completion", "created": CREATED, "model": model,
            "choices": [{ "text": text, "index": 0, "logprobs": null, "finish_reason": completed(model) }],
            "usage": { "prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12 }
        }),
        Api::Embeddings => embeddings(model, request),
        Api::Responses => super::other::response(model, text, true),
        Api::Generate | Api::GenerateStream => super::other::generated(model, text),
        Api::BatchEmbed => super::other::embedded(request),
        Api::Predict => super::other::predicted(request),
        Api::Converse | Api::ConverseStream => super::bedrock::answer(model, text),
        Api::Invoke => json!({ "embedding": [0.25, -0.5, 0.125, 1.0] }),
        Api::OllamaChat => super::ollama::answer(model, text),
        Api::OllamaEmbed => super::ollama::embedded(request),
        Api::CohereChat => super::cohere::answer(model, text),
        Api::CohereEmbed => super::cohere::embedded(request),
        Api::Rerank => super::operations::reranked(path, model, request),
        Api::Moderations => super::operations::judged(path, model, request),
        Api::Count => json!({ "input_tokens": 42, "totalTokens": 42 }),
        Api::Messages => super::anthropic::answer(model, text),
    };
    answer.to_string().into_bytes()
}

fn completed(model: &str) -> &'static str {
    if is_cut(model) { "length" } else { "stop" }
}

fn embeddings(model: &str, request: &Value) -> Value {
    let count = match &request["input"] {
        Value::Array(items) if !items.first().is_some_and(Value::is_number) => items.len(),
        _ => 1,
    };
    let vector = [0.25_f32, -0.5, 0.125, 1.0];
    let embedding = if request["encoding_format"] == "base64" {
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        Value::from(base64::engine::general_purpose::STANDARD.encode(bytes))
    } else {
        json!(vector)
    };
    let data: Vec<_> = (0..count)
        .map(|index| json!({ "object": "embedding", "index": index, "embedding": embedding }))
        .collect();
    json!({ "object": "list", "data": data, "model": model,
        "usage": { "prompt_tokens": 3, "total_tokens": 3 } })
}

/// An error in the API's own form.
pub(super) fn error(api: Api, status: u16) -> Vec<u8> {
    let (openai, anthropic, message) = match status {
        400 | 422 => ("invalid_request_error", "invalid_request_error", "the field `x` is wrong"),
        401 => (
            "invalid_request_error",
            "authentication_error",
            "Incorrect API key provided: sk-fake1234567890abcdef",
        ),
        403 => ("invalid_request_error", "permission_error", "no access"),
        404 => ("invalid_request_error", "not_found_error", "the model does not exist"),
        413 => ("invalid_request_error", "request_too_large", "too large"),
        429 => ("rate_limit_error", "rate_limit_error", "slow down"),
        503 | 529 => ("server_error", "overloaded_error", "overloaded"),
        _ => ("server_error", "api_error", "the server had an error"),
    };
    let value = match api {
        Api::Messages => json!({ "type": "error", "error": { "type": anthropic, "message": message },
            "request_id": "req_fake" }),
        Api::Generate | Api::GenerateStream | Api::BatchEmbed | Api::Predict => {
            super::other::error(status, message)
        }
        Api::Converse | Api::ConverseStream | Api::Invoke => json!({ "message": message }),
        Api::OllamaChat | Api::OllamaEmbed => json!({ "error": message }),
        Api::CohereChat | Api::CohereEmbed => json!({ "id": "fake", "message": message }),
        _ => json!({ "error": { "message": message, "type": openai, "param": null, "code": null } }),
    };
    value.to_string().into_bytes()
}

/// The events of a stream.
pub(super) struct Script {
    /// Before the content.
    pub(super) start: Vec<Vec<u8>>,
    /// One content chunk each.
    pub(super) content: Vec<Vec<u8>>,
    /// After the content, up to the reason it ended.
    pub(super) finish: Vec<Vec<u8>>,
    /// The end marker.
    pub(super) end: Vec<u8>,
}

pub(super) fn data(value: &Value) -> Vec<u8> {
    format!("data: {value}\n\n").into_bytes()
}

pub(super) fn event(name: &str, value: &Value) -> Vec<u8> {
    format!("event: {name}\ndata: {value}\n\n").into_bytes()
}

/// The event that reports an error inside a stream.
pub(super) fn error_event(api: Api) -> Vec<u8> {
    if api == Api::ConverseStream {
        return super::bedrock::exception();
    }
    let body = error(api, if api == Api::Messages { 529 } else { 500 });
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    match api {
        Api::Messages => event("error", &value),
        Api::OllamaChat => format!("{value}\n").into_bytes(),
        _ => data(&value),
    }
}

/// A stream of `chunks` pieces of content; `None`: the usual text.
pub(super) fn script(api: Api, path: &str, model: &str, request: &Value, chunks: Option<usize>) -> Script {
    let words: Vec<String> = match chunks {
        Some(count) => (0..count).map(|index| format!("w{index} ")).collect(),
        None => said(model, request).split_inclusive(' ').map(str::to_owned).collect(),
    };
    match api {
        Api::Messages => super::anthropic::events(model, &words),
        Api::OllamaChat => super::ollama::events(model, &words),
        Api::CohereChat => super::cohere::events(model, &words),
        Api::Responses => super::other::response_events(model, &words),
        Api::GenerateStream => super::other::generated_events(model, &words),
        Api::ConverseStream => super::bedrock::events(model, &words),
        Api::Completions => {
            let chunk = |text: &str, finish: Value| {
                data(
                    &json!({ "id": "cmpl-fake", "object": "text_completion", "created": CREATED, "model": model,
                    "choices": [{ "text": text, "index": 0, "logprobs": null, "finish_reason": finish }] }),
                )
            };
            let mut finish = vec![chunk("", completed(model).into())];
            if request["stream_options"]["include_usage"] == true || Manner::of(path).always_counts {
                let usage = json!({ "prompt_tokens": 5, "completion_tokens": words.len(),
                    "total_tokens": 5 + words.len() });
                finish.push(data(&json!({ "id": "cmpl-fake", "object": "text_completion",
                    "created": CREATED, "model": model, "choices": [], "usage": usage })));
            }
            Script {
                start: Vec::new(),
                content: words.iter().map(|word| chunk(word, Value::Null)).collect(),
                finish,
                end: b"data: [DONE]\n\n".to_vec(),
            }
        }
        _ => super::openai::events(Manner::of(path), model, request, &words),
    }
}
