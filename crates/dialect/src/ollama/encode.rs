//! Requests for Ollama.

use std::collections::HashMap;

use millgate_types::{
    Block, ChatCall, Dialect, EmbeddingCall, Fault, MediaSource, Message, Prompt, Reasoning, ResponseFormat,
    Role, ToolChoice, code,
};
use serde_json::{Map, Value, json};

use crate::json::{Array, Object};
use crate::{EncodedCall, openai};

pub(super) fn chat(call: &ChatCall) -> Result<EncodedCall, Fault> {
    if call.sampling.n.is_some_and(|n| n > 1) {
        return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target gives one answer, `n` must be 1")
            .with_param("n"));
    }
    let mut writer = Writer::default();
    let mut body = Vec::with_capacity(1024);
    let mut top = Object::new(&mut body);
    top.field("model", &call.model);
    let mut list = top.array("messages");
    for (index, message) in call.messages.iter().enumerate() {
        writer.message(&mut list, message, index);
    }
    list.end();
    writer.tools(&mut top, call);
    match &call.response_format {
        Some(ResponseFormat::JsonSchema { schema, .. }) => top.field("format", schema),
        Some(ResponseFormat::JsonObject) => top.field("format", "json"),
        Some(ResponseFormat::Text) | None => {}
    }
    let own = |key: &str| call.extra.dialect == Dialect::OpenAi && call.extra.fields.contains_key(key);
    if let Some(reasoning) = call.reasoning.as_ref().filter(|_| !own("think")) {
        top.field("think", &think(reasoning, &call.model));
    }
    let options = options(call);
    if !options.is_empty() {
        top.field("options", &options);
    }
    for (key, value) in &call.extra.fields {
        match key.as_str() {
            "options" if own(key) && value.is_object() => {}
            "keep_alive" | "think" if own(key) => top.field(key, value),
            _ => writer.drop(key.as_str()),
        }
    }
    if call.user.is_some() {
        writer.drop("user");
    }
    // Silence means a stream here.
    top.field("stream", &call.stream);
    top.end();
    Ok(EncodedCall { body, dropped: writer.dropped })
}

/// Only some models take a degree; the others think or do not.
fn think(reasoning: &Reasoning, model: &str) -> Value {
    let effort = reasoning.effort.clone().or_else(|| openai::encode::effort_of(reasoning));
    match effort.as_deref() {
        Some("none") => json!(false),
        Some(degree @ ("low" | "medium" | "high")) if model.contains("gpt-oss") => json!(degree),
        _ => json!(true),
    }
}

#[derive(Default)]
struct Writer {
    dropped: Vec<String>,
    /// The tools' names by the ids of their calls: results refer by name here.
    names: HashMap<String, String>,
}

impl Writer {
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
        let role = match message.role {
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => return self.results(list, message, index),
        };
        let (mut text, mut thinking, mut images, mut calls) =
            (String::new(), String::new(), Vec::new(), Vec::new());
        for (place, block) in message.content.iter().enumerate() {
            match block {
                Block::Text { text: more, .. }
                | Block::Refusal { text: more }
                | Block::File { source: MediaSource::Text(more), .. } => append(&mut text, more),
                Block::Image { source: MediaSource::Base64 { data, .. }, .. } => images.push(data.as_str()),
                Block::Reasoning { text: more, .. } => append(&mut thinking, more),
                Block::ToolCall { id, name, arguments, .. } => {
                    self.names.insert(id.clone(), name.clone());
                    let arguments: Value = serde_json::from_str(arguments)
                        .ok()
                        .filter(Value::is_object)
                        .unwrap_or_else(|| json!({"_raw": arguments}));
                    calls.push(
                        json!({"type": "function", "function": {"name": name, "arguments": arguments}}),
                    );
                }
                // A picture by its address among them: Ollama fetches none, and we do not either.
                _ => self.drop(format!("messages[{index}].content[{place}]")),
            }
        }
        let mut item = list.object();
        item.field("role", role);
        item.field("content", &text);
        if !thinking.is_empty() {
            item.field("thinking", &thinking);
        }
        if !images.is_empty() {
            item.field("images", &images);
        }
        if !calls.is_empty() {
            item.field("tool_calls", &calls);
        }
        item.end();
    }

    fn results(&mut self, list: &mut Array<'_>, message: &Message, index: usize) {
        for (place, block) in message.content.iter().enumerate() {
            let Block::ToolResult { call_id, content, is_error, .. } = block else {
                self.drop(format!("messages[{index}].content[{place}]"));
                continue;
            };
            let (mut text, mut images) = (String::new(), Vec::new());
            for inner in content {
                match inner {
                    Block::Text { text: more, .. } => append(&mut text, more),
                    Block::Image { source: MediaSource::Base64 { data, .. }, .. } => {
                        images.push(data.as_str());
                    }
                    _ => self.drop(format!("messages[{index}].content[{place}].content")),
                }
            }
            if *is_error {
                text.insert_str(0, "Error: ");
            }
            let mut item = list.object();
            item.field("role", "tool");
            item.field("content", &text);
            item.some("tool_name", self.names.get(call_id).or(message.name.as_ref()));
            if !images.is_empty() {
                item.field("images", &images);
            }
            item.end();
        }
    }

    /// Ollama knows no choice: no tool means no list, and one tool a list of one.
    fn tools(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        let forced = match &call.tool_choice {
            Some(ToolChoice::None) => return,
            Some(
                ToolChoice::Required | ToolChoice::Named(_) | ToolChoice::Allowed { required: true, .. },
            ) => true,
            Some(ToolChoice::Auto | ToolChoice::Allowed { .. }) | None => false,
        };
        if forced {
            self.drop("tool_choice");
        }
        if call.parallel_tool_calls == Some(false) {
            self.drop("parallel_tool_calls");
        }
        let mut tools = Vec::with_capacity(call.tools.len());
        for (index, tool) in call.tools.iter().enumerate() {
            let wanted = match &call.tool_choice {
                Some(ToolChoice::Named(name)) => *name == tool.name,
                Some(ToolChoice::Allowed { names, .. }) => names.contains(&tool.name),
                _ => true,
            };
            if tool.other.is_some() {
                self.drop(format!("tools[{index}]"));
            } else if wanted {
                let mut function = Map::new();
                function.insert("name".to_owned(), json!(tool.name));
                if let Some(description) = &tool.description {
                    function.insert("description".to_owned(), json!(description));
                }
                let empty = || json!({"type": "object", "properties": {}});
                let parameters = tool.parameters.clone().unwrap_or_else(empty);
                function.insert("parameters".to_owned(), parameters);
                tools.push(json!({"type": "function", "function": function}));
            }
        }
        if !tools.is_empty() {
            top.field("tools", &tools);
        }
    }
}

/// What the caller set, on top of `options` in Ollama's own words.
fn options(call: &ChatCall) -> Map<String, Value> {
    let mut options = match call.extra.fields.get("options") {
        Some(Value::Object(own)) if call.extra.dialect == Dialect::OpenAi => own.clone(),
        _ => Map::new(),
    };
    let sampling = &call.sampling;
    let stop = (!sampling.stop.is_empty()).then(|| json!(sampling.stop));
    for (key, value) in [
        ("num_predict", call.max_output_tokens.map(Value::from)),
        ("temperature", sampling.temperature.map(Value::from)),
        ("top_p", sampling.top_p.map(Value::from)),
        ("top_k", sampling.top_k.map(Value::from)),
        ("frequency_penalty", sampling.frequency_penalty.map(Value::from)),
        ("presence_penalty", sampling.presence_penalty.map(Value::from)),
        ("seed", sampling.seed.map(Value::from)),
        ("stop", stop),
    ] {
        if let Some(value) = value {
            options.insert(key.to_owned(), value);
        }
    }
    options
}

fn append(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(more);
}

/// Writes an embed request.
pub(super) fn embed(call: &EmbeddingCall) -> Result<EncodedCall, Fault> {
    let mut body = Vec::with_capacity(512);
    let mut top = Object::new(&mut body);
    top.field("model", &call.model);
    match &call.input {
        Prompt::Text(text) => top.field("input", text),
        Prompt::Texts(texts) => top.field("input", texts),
        Prompt::Tokens(_) | Prompt::TokenLists(_) => {
            let public = "the target embeds texts, not tokens of another model's vocabulary";
            return Err(Fault::client(code::UNSUPPORTED_PARAMETER, public).with_param("input"));
        }
    }
    top.some("dimensions", call.dimensions.as_ref());
    let mut dropped = Vec::new();
    for (key, value) in &call.extra.fields {
        match key.as_str() {
            "truncate" | "keep_alive" | "options" => top.field(key, value),
            _ => dropped.push(key.clone()),
        }
    }
    if call.user.is_some() {
        dropped.push("user".to_owned());
    }
    top.end();
    Ok(EncodedCall { body, dropped })
}
