//! Who calls, and what they send: requests in each dialect, written by hand.

use serde_json::{Value, json};

/// A dialect that callers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    OpenAi,
    Responses,
    Anthropic,
    Gemini,
    Mlflow,
    /// OpenAI's completions.
    Completions,
    /// MLflow's completions.
    MlflowCompletions,
}

/// What is asked for beside a word of greeting.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) stream: bool,
    pub(super) tools: bool,
    pub(super) image: bool,
    pub(super) schema: bool,
    pub(super) thinking: bool,
    /// Turns after the first, in the caller's shape.
    pub(super) more: Vec<Value>,
}

pub(super) const SYSTEM: &str = "Be brief.";
pub(super) const USER: &str = "Which weather is it?";
pub(super) const RESULTS: [&str; 2] = ["18 degrees", "12 o'clock"];
pub(super) const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// The call's bound. Anthropic's thinking has to be below it.
pub(super) const BOUND: u64 = 4000;

fn form() -> Value {
    json!({ "type": "object", "properties": { "answer": { "type": "integer" } }, "required": ["answer"],
        "additionalProperties": false })
}

fn parameters(name: &str) -> Value {
    json!({ "type": "object", "properties": { name: { "type": "string" } }, "required": [name] })
}

/// Name, description and parameters of each tool.
fn tools() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("get_weather", "The weather of a city.", parameters("city")),
        ("get_time", "The time of a zone.", parameters("zone")),
    ]
}

impl Caller {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::OpenAi => "OpenAI chat completions",
            Self::Responses => "OpenAI Responses",
            Self::Anthropic => "Anthropic Messages",
            Self::Gemini => "Gemini",
            Self::Mlflow => "MLflow gateway, chat",
            Self::Completions => "OpenAI completions",
            Self::MlflowCompletions => "MLflow gateway, completions",
        }
    }

    pub(super) fn completes(self) -> bool {
        matches!(self, Self::Completions | Self::MlflowCompletions)
    }

    /// Its answers have a place for thinking.
    pub(super) fn shows_thinking(self) -> bool {
        !matches!(self, Self::Mlflow) && !self.completes()
    }

    pub(super) fn path(self, endpoint: &str, stream: bool) -> String {
        match self {
            Self::OpenAi => "/v1/chat/completions".to_owned(),
            Self::Responses => "/v1/responses".to_owned(),
            Self::Anthropic => "/v1/messages".to_owned(),
            Self::Gemini if stream => format!("/v1beta/models/{endpoint}:streamGenerateContent?alt=sse"),
            Self::Gemini => format!("/v1beta/models/{endpoint}:generateContent"),
            Self::Mlflow | Self::MlflowCompletions => format!("/gateway/{endpoint}/invocations"),
            Self::Completions => "/v1/completions".to_owned(),
        }
    }

    pub(super) fn body(self, endpoint: &str, ask: &Ask) -> Value {
        let mut body = match self {
            Self::OpenAi | Self::Mlflow => openai(ask),
            Self::Responses => responses(ask),
            Self::Anthropic => anthropic(ask),
            Self::Gemini => return gemini(ask),
            Self::Completions | Self::MlflowCompletions => json!({ "prompt": USER, "max_tokens": BOUND }),
        };
        if ask.stream {
            body["stream"] = true.into();
            if matches!(self, Self::OpenAi | Self::Completions) {
                body["stream_options"] = json!({ "include_usage": true });
            }
        }
        if !matches!(self, Self::Mlflow | Self::MlflowCompletions) {
            body["model"] = endpoint.into();
        }
        body
    }

    /// The answer as a turn of the conversation, unchanged.
    pub(super) fn turn(self, answer: &Value) -> Vec<Value> {
        match self {
            Self::Responses => answer["output"].as_array().cloned().unwrap_or_default(),
            Self::Anthropic => vec![json!({ "role": "assistant", "content": answer["content"] })],
            Self::Gemini => vec![answer["candidates"][0]["content"].clone()],
            _ => vec![answer["choices"][0]["message"].clone()],
        }
    }

    /// What the tools answered to calls of these ids and names.
    pub(super) fn results(self, calls: &[(String, String)]) -> Vec<Value> {
        let pairs = calls.iter().zip(RESULTS);
        match self {
            Self::Responses => pairs
                .map(|((id, _), text)| json!({ "type": "function_call_output", "call_id": id, "output": text }))
                .collect(),
            Self::Anthropic => {
                let blocks: Vec<Value> = pairs
                    .map(|((id, _), text)| json!({ "type": "tool_result", "tool_use_id": id, "content": text }))
                    .collect();
                vec![json!({ "role": "user", "content": blocks })]
            }
            Self::Gemini => {
                let parts: Vec<Value> = pairs
                    .map(|((id, name), text)| {
                        let mut response = json!({ "name": name, "response": { "result": text } });
                        if !id.is_empty() {
                            response["id"] = id.as_str().into();
                        }
                        json!({ "functionResponse": response })
                    })
                    .collect();
                vec![json!({ "role": "user", "parts": parts })]
            }
            _ => pairs
                .map(|((id, _), text)| json!({ "role": "tool", "tool_call_id": id, "content": text }))
                .collect(),
        }
    }

    /// One more question.
    pub(super) fn question(self, text: &str) -> Value {
        match self {
            Self::Gemini => json!({ "role": "user", "parts": [{ "text": text }] }),
            _ => json!({ "role": "user", "content": text }),
        }
    }
}

fn openai(ask: &Ask) -> Value {
    let mut user = json!(USER);
    if ask.image {
        user = json!([{ "type": "text", "text": USER },
            { "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{PIXEL}") } }]);
    }
    let mut messages =
        vec![json!({ "role": "system", "content": SYSTEM }), json!({ "role": "user", "content": user })];
    messages.extend(ask.more.iter().cloned());
    let mut body = json!({ "messages": messages, "max_tokens": BOUND });
    if ask.tools {
        let tool = |(name, description, parameters)| {
            json!({ "type": "function",
                "function": { "name": name, "description": description, "parameters": parameters } })
        };
        body["tools"] = tools().into_iter().map(tool).collect();
        body["tool_choice"] = "auto".into();
    }
    if ask.schema {
        body["response_format"] = json!({ "type": "json_schema",
            "json_schema": { "name": "answer", "strict": true, "schema": form() } });
    }
    if ask.thinking {
        body["reasoning_effort"] = "low".into();
    }
    body
}

fn responses(ask: &Ask) -> Value {
    let mut parts = vec![json!({ "type": "input_text", "text": USER })];
    if ask.image {
        parts.push(json!({ "type": "input_image", "image_url": format!("data:image/png;base64,{PIXEL}") }));
    }
    let mut input = vec![json!({ "role": "user", "content": parts })];
    input.extend(ask.more.iter().cloned());
    let mut body =
        json!({ "instructions": SYSTEM, "input": input, "max_output_tokens": BOUND, "store": false });
    if ask.tools {
        let tool = |(name, description, parameters)| {
            json!({ "type": "function", "name": name, "description": description, "parameters": parameters,
                "strict": false })
        };
        body["tools"] = tools().into_iter().map(tool).collect();
        body["tool_choice"] = "auto".into();
    }
    if ask.schema {
        body["text"] = json!({ "format": { "type": "json_schema", "name": "answer", "strict": true,
            "schema": form() } });
    }
    if ask.thinking {
        body["reasoning"] = json!({ "effort": "low", "summary": "auto" });
        body["include"] = json!(["reasoning.encrypted_content"]);
    }
    body
}

fn anthropic(ask: &Ask) -> Value {
    let mut parts = vec![json!({ "type": "text", "text": USER })];
    if ask.image {
        parts.push(json!({ "type": "image",
            "source": { "type": "base64", "media_type": "image/png", "data": PIXEL } }));
    }
    let mut messages = vec![json!({ "role": "user", "content": parts })];
    messages.extend(ask.more.iter().cloned());
    let mut body = json!({ "system": SYSTEM, "messages": messages, "max_tokens": BOUND });
    if ask.tools {
        let tool = |(name, description, parameters)| json!({ "name": name, "description": description, "input_schema": parameters });
        body["tools"] = tools().into_iter().map(tool).collect();
        body["tool_choice"] = json!({ "type": "auto" });
    }
    if ask.schema {
        body["output_config"] = json!({ "format": { "type": "json_schema", "schema": form() } });
    }
    if ask.thinking {
        body["thinking"] = json!({ "type": "enabled", "budget_tokens": 1024 });
    }
    body
}

fn gemini(ask: &Ask) -> Value {
    let mut parts = vec![json!({ "text": USER })];
    if ask.image {
        parts.push(json!({ "inlineData": { "mimeType": "image/png", "data": PIXEL } }));
    }
    let mut contents = vec![json!({ "role": "user", "parts": parts })];
    contents.extend(ask.more.iter().cloned());
    let mut body = json!({ "systemInstruction": { "parts": [{ "text": SYSTEM }] }, "contents": contents,
        "generationConfig": { "maxOutputTokens": BOUND } });
    if ask.tools {
        let tool = |(name, description, parameters)| json!({ "name": name, "description": description, "parametersJsonSchema": parameters });
        let declared: Vec<Value> = tools().into_iter().map(tool).collect();
        body["tools"] = json!([{ "functionDeclarations": declared }]);
        body["toolConfig"] = json!({ "functionCallingConfig": { "mode": "AUTO" } });
    }
    if ask.schema {
        body["generationConfig"]["responseMimeType"] = "application/json".into();
        body["generationConfig"]["responseJsonSchema"] = form();
    }
    if ask.thinking {
        body["generationConfig"]["thinkingConfig"] =
            json!({ "thinkingBudget": 1024, "includeThoughts": true });
    }
    body
}
