//! What the fake provider says.

use base64::Engine as _;
use serde_json::{Value, json};

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

/// The whole answer.
pub(super) fn whole(api: Api, path: &str, model: &str, request: &Value) -> Vec<u8> {
    let text = if model == "json" { JSON_TEXT } else { TEXT };
    let answer = match api {
        Api::Chat => {
            let mut message =
                json!({ "role": "assistant", "content": text, "refusal": null, "annotations": [] });
            let mut finish = "stop";
            if model == "tool" {
                finish = "tool_calls";
                message["content"] = Value::Null;
                message["tool_calls"] = json!([{ "id": "call_fake1", "type": "function",
                    "function": { "name": "get_weather", "arguments": "{\"city\":\"Paris\"}" } }]);
            }
            if model == "reasoning" && path.contains("/mistral/") {
                message["content"] = json!([{ "type": "thinking", "closed": true,
                    "thinking": [{ "type": "text", "text": "Let me think." }] }, { "type": "text", "text": text }]);
            } else if model == "reasoning" {
                message["reasoning_content"] = "Let me think.".into();
            }
            json!({
                "id": "chatcmpl-fake", "object": "chat.completion", "created": CREATED, "model": model,
                "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": finish }],
                "usage": { "prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16,
                    "prompt_tokens_details": { "cached_tokens": 0, "audio_tokens": 0 },
                    "completion_tokens_details": { "reasoning_tokens": 0, "audio_tokens": 0 } },
                "service_tier": "default", "system_fingerprint": "fp_fake", "x_unknown": { "kept": true }
            })
        }
        Api::Completions => json!({
            "id": "cmpl-fake", "object": "text_completion", "created": CREATED, "model": model,
            "choices": [{ "text": text, "index": 0, "logprobs": null, "finish_reason": "stop" }],
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
        Api::Messages => {
            let mut content = vec![json!({ "type": "text", "text": text })];
            let mut stop = "end_turn";
            if model == "tool" {
                stop = "tool_use";
                content = vec![json!({ "type": "tool_use", "id": "toolu_fake1", "name": "get_weather",
                    "input": { "city": "Paris" } })];
            }
            if model == "reasoning" {
                content.insert(
                    0,
                    json!({ "type": "thinking", "thinking": "Let me think.", "signature": "c2ln" }),
                );
            }
            json!({
                "id": "msg_fake", "type": "message", "role": "assistant", "model": model, "content": content,
                "stop_reason": stop, "stop_sequence": null,
                "usage": { "input_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                    "output_tokens": 7, "service_tier": "standard" }
            })
        }
    };
    answer.to_string().into_bytes()
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
pub(super) fn script(api: Api, model: &str, request: &Value, chunks: Option<usize>) -> Script {
    let words: Vec<String> = match chunks {
        Some(count) => (0..count).map(|index| format!("w{index} ")).collect(),
        None if model == "json" => JSON_TEXT.split_inclusive(' ').map(str::to_owned).collect(),
        None => TEXT.split_inclusive(' ').map(str::to_owned).collect(),
    };
    match api {
        Api::Messages => messages(model, &words),
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
            Script {
                start: Vec::new(),
                content: words.iter().map(|word| chunk(word, Value::Null)).collect(),
                finish: vec![chunk("", "stop".into())],
                end: b"data: [DONE]\n\n".to_vec(),
            }
        }
        _ => chat(model, request, &words),
    }
}

fn chat(model: &str, request: &Value, words: &[String]) -> Script {
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut value = json!({ "id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": CREATED,
            "model": model, "service_tier": "default", "system_fingerprint": "fp_fake", "choices": choices });
        if let Some(usage) = usage {
            value["usage"] = usage;
        }
        data(&value)
    };
    let wants_usage = request["stream_options"]["include_usage"] == true;
    let null_usage = wants_usage.then_some(Value::Null);
    let delta = |delta: Value, finish: Value| {
        let choices = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        chunk(choices, null_usage.clone())
    };
    let mut start = vec![delta(json!({ "role": "assistant", "content": "", "refusal": null }), Value::Null)];
    if model == "reasoning" {
        start.push(delta(json!({ "reasoning_content": "Let me think." }), Value::Null));
    }
    let mut finish = Vec::new();
    let content = if model == "tool" {
        finish.push(delta(json!({}), "tool_calls".into()));
        [
            json!({ "index": 0, "id": "call_fake1", "type": "function",
                "function": { "name": "get_weather", "arguments": "" } }),
            json!({ "index": 0, "function": { "arguments": "{\"city\":" } }),
            json!({ "index": 0, "function": { "arguments": "\"Paris\"}" } }),
        ]
        .into_iter()
        .map(|call| delta(json!({ "tool_calls": [call] }), Value::Null))
        .collect()
    } else {
        finish.push(delta(json!({}), "stop".into()));
        words.iter().map(|word| delta(json!({ "content": word }), Value::Null)).collect()
    };
    if wants_usage {
        let usage =
            json!({ "prompt_tokens": 9, "completion_tokens": words.len(), "total_tokens": 9 + words.len() });
        finish.push(chunk(json!([]), Some(usage)));
    }
    Script { start, content, finish, end: b"data: [DONE]\n\n".to_vec() }
}

fn messages(model: &str, words: &[String]) -> Script {
    let block = |index: usize, block: Value| {
        event(
            "content_block_start",
            &json!({ "type": "content_block_start", "index": index, "content_block": block }),
        )
    };
    let delta = |index: usize, delta: Value| {
        event(
            "content_block_delta",
            &json!({ "type": "content_block_delta", "index": index, "delta": delta }),
        )
    };
    let stop =
        |index: usize| event("content_block_stop", &json!({ "type": "content_block_stop", "index": index }));
    let mut start = vec![
        event(
            "message_start",
            &json!({ "type": "message_start", "message": {
            "id": "msg_fake", "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": { "input_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "output_tokens": 1 } } }),
        ),
        event("ping", &json!({ "type": "ping" })),
    ];
    let mut at = 0;
    if model == "reasoning" {
        start.push(block(0, json!({ "type": "thinking", "thinking": "", "signature": "" })));
        start.push(delta(0, json!({ "type": "thinking_delta", "thinking": "Let me think." })));
        start.push(delta(0, json!({ "type": "signature_delta", "signature": "c2ln" })));
        start.push(stop(0));
        at = 1;
    }
    let (content, reason) = if model == "tool" {
        start.push(block(
            at,
            json!({ "type": "tool_use", "id": "toolu_fake1", "name": "get_weather", "input": {} }),
        ));
        let pieces = ["{\"city\":", "\"Paris\"}"];
        let delta = |piece| delta(at, json!({ "type": "input_json_delta", "partial_json": piece }));
        (pieces.into_iter().map(delta).collect(), "tool_use")
    } else {
        start.push(block(at, json!({ "type": "text", "text": "" })));
        let delta = |word| delta(at, json!({ "type": "text_delta", "text": word }));
        (words.iter().map(delta).collect(), "end_turn")
    };
    let finish = vec![
        stop(at),
        event(
            "message_delta",
            &json!({ "type": "message_delta",
            "delta": { "stop_reason": reason, "stop_sequence": null },
            "usage": { "output_tokens": words.len() } }),
        ),
    ];
    Script { start, content, finish, end: event("message_stop", &json!({ "type": "message_stop" })) }
}
