//! Requests for providers whose chats go by the Responses API. Nothing is kept there: each call carries the whole
//! conversation, thinking included, sealed as the provider gave it.

use millgate_types::{
    Block, ChatCall, Dialect, Fault, MediaSource, Message, Reasoning, ResponseFormat, Role, ToolChoice, code,
};
use serde_json::{Map, Value, json};

use super::item;
use crate::json::{Array, Object};
use crate::{EncodedCall, Quirks, openai, seal};

/// The least bound that the API takes.
const LEAST_TOKENS: u64 = 16;
/// Fields of OpenAI's chats that have the same name and meaning here.
const SHARED_FIELDS: &[&str] =
    &["metadata", "service_tier", "store", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"];

pub(super) fn chat(call: &ChatCall, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    if call.sampling.n.is_some_and(|n| n > 1) {
        return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target gives one answer, `n` must be 1")
            .with_param("n"));
    }
    let mut writer = Writer { quirks, sealed: false, dropped: Vec::new() };
    let mut body = Vec::with_capacity(1024);
    let mut top = Object::new(&mut body);
    if !quirks.omit_model && !call.model.is_empty() {
        top.field("model", &call.model);
    }
    let mut list = top.array("input");
    for (index, message) in call.messages.iter().enumerate() {
        writer.message(&mut list, message, index);
    }
    list.end();
    writer.tools(&mut top, call);
    text(&mut top, call);
    let limit = call.max_output_tokens.map(|limit| limit.max(LEAST_TOKENS));
    top.some("max_output_tokens", limit.as_ref());
    writer.sampling(&mut top, call);
    writer.reasoning(&mut top, call);
    writer.rest(&mut top, call);
    if call.stream {
        top.field("stream", &true);
    }
    top.end();
    Ok(EncodedCall { body, dropped: writer.dropped })
}

struct Writer<'a> {
    quirks: &'a Quirks,
    /// The conversation holds thinking that the provider sealed.
    sealed: bool,
    dropped: Vec<String>,
}

impl Writer<'_> {
    fn drop(&mut self, path: impl Into<String>) {
        let path = path.into();
        if !self.dropped.contains(&path) {
            self.dropped.push(path);
        }
    }

    fn message(&mut self, list: &mut Array<'_>, message: &Message, index: usize) {
        for key in message.extra.keys() {
            self.drop(format!("messages[{index}].{key}"));
        }
        match message.role {
            Role::Tool => self.results(list, message, index),
            Role::Assistant => self.turn(list, message, index),
            Role::User => self.said(list, "user", message, index),
            Role::Developer if self.quirks.supports_developer_role => {
                self.said(list, "developer", message, index);
            }
            Role::System | Role::Developer => self.said(list, "system", message, index),
        }
    }

    fn said(&mut self, list: &mut Array<'_>, role: &str, message: &Message, index: usize) {
        let at = |place: usize| format!("messages[{index}].content[{place}]");
        let parts = self.parts(&message.content, &at);
        list.push(&json!({"role": role, "content": parts}));
    }

    fn parts(&mut self, content: &[Block], at: &dyn Fn(usize) -> String) -> Vec<Value> {
        let mut parts = Vec::with_capacity(content.len());
        for (place, block) in content.iter().enumerate() {
            match part(block) {
                Some(part) => parts.push(part),
                None => self.drop(at(place)),
            }
        }
        parts
    }

    /// What the model said, thought and called: an item each, in order.
    fn turn(&mut self, list: &mut Array<'_>, message: &Message, index: usize) {
        let mut said = Vec::new();
        let flush = |said: &mut Vec<Value>, list: &mut Array<'_>| {
            if !said.is_empty() {
                list.push(&json!({"type": "message", "role": "assistant", "content": std::mem::take(said)}));
            }
        };
        for (place, block) in message.content.iter().enumerate() {
            let next = match block {
                Block::Text { text, .. } => {
                    said.push(json!({"type": "output_text", "text": text, "annotations": []}));
                    continue;
                }
                Block::Refusal { text } => {
                    said.push(json!({"type": "refusal", "refusal": text}));
                    continue;
                }
                Block::ToolCall { id, name, arguments, .. } => {
                    json!({"type": "function_call", "call_id": id, "name": name, "arguments": arguments})
                }
                // Only what this provider sealed is thinking to it.
                Block::Reasoning { text, signature: Some(signature) }
                    if seal::as_openai(signature).is_some() =>
                {
                    self.sealed = true;
                    item::reasoning_value("", text, Some(signature))
                }
                Block::Other { dialect: Dialect::Responses, value } => value.clone(),
                _ => {
                    self.drop(format!("messages[{index}].content[{place}]"));
                    continue;
                }
            };
            flush(&mut said, list);
            list.push(&next);
        }
        flush(&mut said, list);
    }

    fn results(&mut self, list: &mut Array<'_>, message: &Message, index: usize) {
        for (place, block) in message.content.iter().enumerate() {
            let Block::ToolResult { call_id, content, is_error, .. } = block else {
                self.drop(format!("messages[{index}].content[{place}]"));
                continue;
            };
            let at = |_| format!("messages[{index}].content[{place}].content");
            let parts = self.parts(content, &at);
            let plain = parts.iter().all(|part| part["type"] == "input_text");
            let output = if plain {
                let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
                let prefix = if *is_error { "Error: " } else { "" };
                json!(format!("{prefix}{}", texts.join("\n")))
            } else {
                json!(parts)
            };
            list.push(&json!({"type": "function_call_output", "call_id": call_id, "output": output}));
        }
    }

    fn tools(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        let mut tools = Vec::with_capacity(call.tools.len());
        for (index, tool) in call.tools.iter().enumerate() {
            if let Some((dialect, value)) = &tool.other {
                if *dialect == Dialect::Responses {
                    tools.push(value.clone());
                } else {
                    self.drop(format!("tools[{index}]"));
                }
                continue;
            }
            let mut item = Map::new();
            item.insert("type".to_owned(), json!("function"));
            item.insert("name".to_owned(), json!(tool.name));
            if let Some(description) = &tool.description {
                item.insert("description".to_owned(), json!(description));
            }
            let empty = || json!({"type": "object", "properties": {}});
            item.insert("parameters".to_owned(), tool.parameters.clone().unwrap_or_else(empty));
            // Here silence means strict; in the other dialects it does not.
            item.insert("strict".to_owned(), json!(tool.strict.unwrap_or(false)));
            tools.push(Value::Object(item));
        }
        if tools.is_empty() {
            return;
        }
        top.field("tools", &tools);
        if let Some(choice) = &call.tool_choice {
            let value = match choice {
                ToolChoice::Auto => json!("auto"),
                ToolChoice::None => json!("none"),
                ToolChoice::Required => json!("required"),
                ToolChoice::Named(name) => json!({"type": "function", "name": name}),
                ToolChoice::Allowed { names, required } => {
                    let tools: Vec<Value> =
                        names.iter().map(|name| json!({"type": "function", "name": name})).collect();
                    let mode = if *required { "required" } else { "auto" };
                    json!({"type": "allowed_tools", "mode": mode, "tools": tools})
                }
            };
            top.field("tool_choice", &value);
        }
        top.some("parallel_tool_calls", call.parallel_tool_calls.as_ref());
    }

    fn sampling(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        let sampling = &call.sampling;
        for (key, value) in [("temperature", sampling.temperature), ("top_p", sampling.top_p)] {
            match value {
                Some(_) if !self.quirks.sampling => self.drop(key),
                value => top.some(key, value.as_ref()),
            }
        }
        let unknown = [
            ("top_k", sampling.top_k.is_some()),
            ("frequency_penalty", sampling.frequency_penalty.is_some()),
            ("presence_penalty", sampling.presence_penalty.is_some()),
            ("seed", sampling.seed.is_some()),
            ("stop", !sampling.stop.is_empty()),
        ];
        for (key, _) in unknown.into_iter().filter(|(_, said)| *said) {
            self.drop(key);
        }
    }

    fn reasoning(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        let effort = call.reasoning.as_ref().and_then(effort);
        if let Some(effort) = &effort {
            top.field("reasoning", &json!({"effort": effort}));
        }
        let said = call.extra.dialect == Dialect::OpenAi && call.extra.fields.contains_key("store");
        if !said {
            top.field("store", &false);
        }
        // Models that do not think refuse to be asked for it.
        let thinks = self.sealed || effort.is_some_and(|effort| effort != "none") || is_thinker(&call.model);
        if thinks {
            top.field("include", &["reasoning.encrypted_content"]);
        }
    }

    fn rest(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        top.some("user", call.user.as_ref());
        for (key, value) in &call.extra.fields {
            match (call.extra.dialect, key.as_str()) {
                (Dialect::Responses, "text") | (Dialect::OpenAi, "verbosity") => {}
                (Dialect::Responses, _) => top.field(key, value),
                (Dialect::OpenAi, shared) if SHARED_FIELDS.contains(&shared) => top.field(key, value),
                _ => self.drop(key.as_str()),
            }
        }
    }
}

/// The form of the answer's text.
fn text(top: &mut Object<'_>, call: &ChatCall) {
    let mut text = match call.extra.fields.get("text") {
        Some(Value::Object(own)) if call.extra.dialect == Dialect::Responses => own.clone(),
        _ => Map::new(),
    };
    match &call.response_format {
        Some(ResponseFormat::JsonSchema { name, description, schema, strict }) => {
            let mut format = Map::new();
            format.insert("type".to_owned(), json!("json_schema"));
            format.insert("name".to_owned(), json!(name));
            if let Some(description) = description {
                format.insert("description".to_owned(), json!(description));
            }
            format.insert("schema".to_owned(), schema.clone());
            if let Some(strict) = strict {
                format.insert("strict".to_owned(), json!(strict));
            }
            text.insert("format".to_owned(), Value::Object(format));
        }
        Some(ResponseFormat::JsonObject) => {
            text.insert("format".to_owned(), json!({"type": "json_object"}));
        }
        Some(ResponseFormat::Text) | None => {}
    }
    if let Some(verbosity) =
        call.extra.fields.get("verbosity").filter(|_| call.extra.dialect == Dialect::OpenAi)
    {
        text.insert("verbosity".to_owned(), verbosity.clone());
    }
    if !text.is_empty() {
        top.field("text", &text);
    }
}

fn effort(reasoning: &Reasoning) -> Option<String> {
    reasoning.effort.clone().or_else(|| openai::encode::effort_of(reasoning))
}

/// Whether the model thinks, as its name tells: `o3`, `gpt-5-mini`, `grok-4`.
fn is_thinker(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let name = name.strip_prefix("openai.").unwrap_or(name);
    let number = |prefix: &str| {
        let rest = name.strip_prefix(prefix)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse::<u32>().ok()
    };
    !name.contains("-chat")
        && (number("o").is_some()
            || number("gpt-").is_some_and(|version| version >= 5)
            || number("grok-").is_some_and(|version| version >= 4)
            || name.starts_with("codex"))
}

/// A part of what people, the system or tools say.
fn part(block: &Block) -> Option<Value> {
    let data_url = |media_type: &str, data: &str| format!("data:{media_type};base64,{data}");
    Some(match block {
        Block::Text { text, .. } | Block::File { source: MediaSource::Text(text), .. } => {
            json!({"type": "input_text", "text": text})
        }
        Block::Image { source, detail, .. } => {
            let mut part = Map::new();
            part.insert("type".to_owned(), json!("input_image"));
            let (key, value) = match source {
                MediaSource::Base64 { media_type, data } => ("image_url", data_url(media_type, data)),
                MediaSource::Url(url) => ("image_url", url.clone()),
                MediaSource::FileId(id) => ("file_id", id.clone()),
                MediaSource::Text(_) => return None,
            };
            part.insert(key.to_owned(), json!(value));
            if let Some(detail) = detail {
                part.insert("detail".to_owned(), json!(detail));
            }
            Value::Object(part)
        }
        Block::File { source, filename, .. } => {
            let mut part = Map::new();
            part.insert("type".to_owned(), json!("input_file"));
            let (key, value) = match source {
                MediaSource::Base64 { media_type, data } => ("file_data", data_url(media_type, data)),
                MediaSource::Url(url) => ("file_url", url.clone()),
                MediaSource::FileId(id) => ("file_id", id.clone()),
                MediaSource::Text(_) => return None,
            };
            // Data needs a name; the others have one.
            if let Some(name) = filename.as_deref().or((key == "file_data").then_some("file")) {
                part.insert("filename".to_owned(), json!(name));
            }
            part.insert(key.to_owned(), json!(value));
            Value::Object(part)
        }
        Block::Audio { data, format } => {
            json!({"type": "input_audio", "input_audio": {"data": data, "format": format}})
        }
        Block::Refusal { text } => json!({"type": "input_text", "text": text}),
        Block::Other { dialect: Dialect::Responses, value } => value.clone(),
        _ => return None,
    })
}
