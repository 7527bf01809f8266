//! What the provider was sent, read in the provider's own dialect by hand: nothing here uses the gateway's writers.

use millgate_types::Dialect;
use serde_json::Value;

use super::caller::PIXEL;
use super::seen::Call;

/// A chat call as the provider gets it.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// All instructions.
    pub(super) system: String,
    /// What the user said.
    pub(super) user: String,
    /// The names of the declared tools.
    pub(super) tools: Vec<String>,
    /// Calls in the history.
    pub(super) calls: Vec<Call>,
    /// Ids (names where there are none) and texts of results in the history.
    pub(super) results: Vec<(String, String)>,
    /// The picture came, byte for byte.
    pub(super) image: bool,
    /// The form that the answer is held to.
    pub(super) form: Value,
    /// Thinking was asked for.
    pub(super) thinks: bool,
    /// Thinking in the history.
    pub(super) thinking: String,
    /// Seals over thinking in the history.
    pub(super) seals: Vec<String>,
    pub(super) bound: Option<u64>,
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text, or a list of parts with texts.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(|part| string(&part["text"])).collect(),
        _ => String::new(),
    }
}

/// Reads a request body.
pub(super) fn read(wire: Dialect, body: &Value) -> Sent {
    let mut sent = Sent::default();
    match wire {
        Dialect::OpenAi | Dialect::Mlflow | Dialect::Cohere => openai(wire, body, &mut sent),
        Dialect::Responses => responses(body, &mut sent),
        Dialect::Anthropic => anthropic(body, &mut sent),
        Dialect::Gemini => gemini(body, &mut sent),
        Dialect::Bedrock => bedrock(body, &mut sent),
        Dialect::Ollama => ollama(body, &mut sent),
        Dialect::Scoring | Dialect::Inference | Dialect::Problem => {}
    }
    sent
}

fn openai(wire: Dialect, body: &Value, sent: &mut Sent) {
    for message in list(&body["messages"]) {
        let content = &message["content"];
        match message["role"].as_str() {
            Some("system" | "developer") => sent.system += &text(content),
            Some("user") => {
                sent.user += &text(content);
                let url = format!("data:image/png;base64,{PIXEL}");
                sent.image |= list(content).any(|part| {
                    part["type"] == "image_url"
                        && (part["image_url"]["url"] == url.as_str() || part["image_url"] == url.as_str())
                });
            }
            Some("tool") => sent.results.push((string(&message["tool_call_id"]), tool_text(content))),
            _ => {
                for part in list(content).filter(|part| part["type"] == "thinking") {
                    sent.thinking += &text(&part["thinking"]);
                }
                sent.thinking += &string(&message["reasoning_content"]);
                sent.thinking += &string(&message["reasoning"]);
                sent.seals
                    .extend(list(&message["reasoning_details"]).map(|detail| string(&detail["signature"])));
                sent.calls.extend(list(&message["tool_calls"]).map(|call| Call {
                    id: string(&call["id"]),
                    name: string(&call["function"]["name"]),
                    arguments: string(&call["function"]["arguments"]),
                }));
            }
        }
    }
    sent.tools = list(&body["tools"]).map(|tool| string(&tool["function"]["name"])).collect();
    let format = &body["response_format"];
    sent.form =
        if wire == Dialect::Cohere { &format["json_schema"] } else { &format["json_schema"]["schema"] }
            .clone();
    sent.thinks = body["reasoning_effort"].is_string()
        || body["reasoning"].is_object()
        || matches!(body["thinking"]["type"].as_str(), Some("enabled" | "adaptive"));
    sent.bound = body["max_tokens"].as_u64().or(body["max_completion_tokens"].as_u64());
}

/// Cohere's results are documents or texts.
fn tool_text(content: &Value) -> String {
    let of = |part: &Value| match &part["document"]["data"] {
        Value::Null => string(&part["text"]),
        Value::Object(data) => data.values().map(string).collect(),
        other => string(other),
    };
    match content {
        Value::Array(parts) => parts.iter().map(of).collect(),
        other => string(other),
    }
}

fn responses(body: &Value, sent: &mut Sent) {
    sent.system = string(&body["instructions"]);
    for item in list(&body["input"]) {
        match item["type"].as_str() {
            Some("function_call") => sent.calls.push(Call {
                id: string(&item["call_id"]),
                name: string(&item["name"]),
                arguments: string(&item["arguments"]),
            }),
            Some("function_call_output") => {
                sent.results.push((string(&item["call_id"]), text(&item["output"])));
            }
            Some("reasoning") => {
                sent.thinking += &text(&item["summary"]);
                sent.seals.push(string(&item["encrypted_content"]));
            }
            _ => match item["role"].as_str() {
                Some("system" | "developer") => sent.system += &text(&item["content"]),
                Some("user") => {
                    sent.user += &text(&item["content"]);
                    let url = format!("data:image/png;base64,{PIXEL}");
                    sent.image |= list(&item["content"])
                        .any(|part| part["type"] == "input_image" && part["image_url"] == url.as_str());
                }
                _ => {}
            },
        }
    }
    sent.tools = list(&body["tools"])
        .filter(|tool| tool["type"] == "function")
        .map(|tool| string(&tool["name"]))
        .collect();
    if body["text"]["format"]["type"] == "json_schema" {
        sent.form = body["text"]["format"]["schema"].clone();
    }
    sent.thinks = body["reasoning"]["effort"].is_string();
    sent.bound = body["max_output_tokens"].as_u64();
}

fn anthropic(body: &Value, sent: &mut Sent) {
    sent.system = text(&body["system"]);
    for message in list(&body["messages"]) {
        if message["content"].is_string() {
            sent.user += &string(&message["content"]);
        }
        for block in list(&message["content"]) {
            match block["type"].as_str() {
                Some("text") if message["role"] == "user" => sent.user += &string(&block["text"]),
                Some("image") => {
                    sent.image |=
                        block["source"]["data"] == PIXEL && block["source"]["media_type"] == "image/png";
                }
                Some("thinking") => {
                    sent.thinking += &string(&block["thinking"]);
                    sent.seals.push(string(&block["signature"]));
                }
                Some("tool_use") => sent.calls.push(Call {
                    id: string(&block["id"]),
                    name: string(&block["name"]),
                    arguments: block["input"].to_string(),
                }),
                Some("tool_result") => {
                    sent.results.push((string(&block["tool_use_id"]), text(&block["content"])));
                }
                _ => {}
            }
        }
    }
    sent.tools = list(&body["tools"]).map(|tool| string(&tool["name"])).collect();
    sent.form = body["output_config"]["format"]["schema"].clone();
    sent.thinks = matches!(body["thinking"]["type"].as_str(), Some("enabled" | "adaptive"));
    sent.bound = body["max_tokens"].as_u64();
}

fn gemini(body: &Value, sent: &mut Sent) {
    sent.system = text(&body["systemInstruction"]["parts"]);
    for content in list(&body["contents"]) {
        for part in list(&content["parts"]) {
            if let Some(seal) = part["thoughtSignature"].as_str() {
                sent.seals.push(seal.to_owned());
            }
            if part["functionCall"].is_object() {
                let call = &part["functionCall"];
                sent.calls.push(Call {
                    id: string(&call["id"]),
                    name: string(&call["name"]),
                    arguments: call["args"].to_string(),
                });
            } else if part["functionResponse"].is_object() {
                let result = &part["functionResponse"];
                let texts = result["response"].as_object().into_iter().flat_map(|map| map.values());
                sent.results.push((string(&result["name"]), texts.map(string).collect()));
            } else if part["inlineData"].is_object() {
                let data = &part["inlineData"];
                sent.image |= data["data"] == PIXEL && data["mimeType"] == "image/png";
            } else if part["thought"] == true {
                sent.thinking += &string(&part["text"]);
            } else if content["role"] == "user" {
                sent.user += &string(&part["text"]);
            }
        }
    }
    for tool in list(&body["tools"]) {
        sent.tools.extend(list(&tool["functionDeclarations"]).map(|tool| string(&tool["name"])));
    }
    let config = &body["generationConfig"];
    if config["responseMimeType"] == "application/json" {
        sent.form = config["responseJsonSchema"].clone();
    }
    sent.thinks = config["thinkingConfig"]["includeThoughts"] == true;
    sent.bound = config["maxOutputTokens"].as_u64();
}

fn bedrock(body: &Value, sent: &mut Sent) {
    sent.system = text(&body["system"]);
    for message in list(&body["messages"]) {
        for block in list(&message["content"]) {
            if message["role"] == "user" {
                sent.user += &string(&block["text"]);
            }
            let image = &block["image"];
            sent.image |= image["format"] == "png" && image["source"]["bytes"] == PIXEL;
            let thought = &block["reasoningContent"]["reasoningText"];
            if thought.is_object() {
                sent.thinking += &string(&thought["text"]);
                sent.seals.push(string(&thought["signature"]));
            }
            let call = &block["toolUse"];
            if call.is_object() {
                sent.calls.push(Call {
                    id: string(&call["toolUseId"]),
                    name: string(&call["name"]),
                    arguments: call["input"].to_string(),
                });
            }
            let result = &block["toolResult"];
            if result.is_object() {
                sent.results.push((string(&result["toolUseId"]), text(&result["content"])));
            }
        }
    }
    sent.tools = list(&body["toolConfig"]["tools"]).map(|tool| string(&tool["toolSpec"]["name"])).collect();
    let form = &body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"];
    sent.form = form.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let more = &body["additionalModelRequestFields"];
    sent.thinks = more["thinking"].is_object()
        || more["reasoningConfig"].is_object()
        || more["reasoning_effort"].is_string();
    sent.bound = body["inferenceConfig"]["maxTokens"].as_u64();
}

fn ollama(body: &Value, sent: &mut Sent) {
    for message in list(&body["messages"]) {
        match message["role"].as_str() {
            Some("system") => sent.system += &string(&message["content"]),
            Some("user") => {
                sent.user += &string(&message["content"]);
                sent.image |= list(&message["images"]).any(|image| image == PIXEL);
            }
            Some("tool") => {
                sent.results.push((string(&message["tool_name"]), string(&message["content"])));
            }
            _ => {
                sent.thinking += &string(&message["thinking"]);
                sent.calls.extend(list(&message["tool_calls"]).map(|call| Call {
                    id: string(&call["id"]),
                    name: string(&call["function"]["name"]),
                    arguments: call["function"]["arguments"].to_string(),
                }));
            }
        }
    }
    sent.tools = list(&body["tools"]).map(|tool| string(&tool["function"]["name"])).collect();
    sent.form = body["format"].clone();
    sent.thinks = body["think"] == true || body["think"].is_string();
    sent.bound = body["options"]["num_predict"].as_u64();
}
