//! Requests for Cohere's chat and embed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use millgate_types::{
    Block, ChatCall, Dialect, EmbeddingCall, Fault, MediaSource, Message, Prompt, Reasoning, ResponseFormat,
    Role, Tool, ToolChoice, code,
};
use serde_json::{Map, Value, json};

use crate::json::{Array, Object};
use crate::{EncodedCall, Quirks, openai};

/// Cohere's own fields, which OpenAI's callers may set too; the rest of what has no counterpart is dropped and
/// said.
const OWN_FIELDS: &[&str] = &[
    "documents",
    "citation_options",
    "safety_mode",
    "strict_tools",
    "thinking",
    "priority",
    "raw_prompting",
];

/// Cohere takes at most so many stop texts.
const MOST_STOPS: usize = 5;

pub(super) fn chat(call: &ChatCall, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    if call.sampling.n.is_some_and(|n| n > 1) {
        return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target gives one answer, `n` must be 1")
            .with_param("n"));
    }
    let mut writer = Writer::default();
    let mut body = Vec::with_capacity(1024);
    let mut top = Object::new(&mut body);
    if !quirks.omit_model && !call.model.is_empty() {
        top.field("model", &call.model);
    }
    writer.messages(top.array("messages"), &call.messages);
    writer.tools(&mut top, call);
    writer.documents(&mut top, call);
    if let Some(format) = &call.response_format {
        top.field("response_format", &response_format(format));
    }
    top.some("max_tokens", call.max_output_tokens.as_ref());
    writer.sampling(&mut top, call, quirks);
    if own(call, "thinking").is_none()
        && let Some(reasoning) = &call.reasoning
    {
        top.field("thinking", &thinking(reasoning));
    }
    writer.rest(&mut top, call);
    if call.stream {
        top.field("stream", &true);
    }
    top.end();
    Ok(EncodedCall { body, dropped: writer.dropped })
}

/// A field of Cohere's own that the caller set: OpenAI's clients can, as extra fields.
fn own<'a>(call: &'a ChatCall, key: &str) -> Option<&'a Value> {
    let known = call.extra.dialect == Dialect::OpenAi && OWN_FIELDS.contains(&key);
    call.extra.fields.get(key).filter(|_| known)
}

fn response_format(format: &ResponseFormat) -> Value {
    match format {
        ResponseFormat::Text => json!({"type": "text"}),
        ResponseFormat::JsonObject => json!({"type": "json_object"}),
        ResponseFormat::JsonSchema { schema, .. } => json!({"type": "json_object", "json_schema": schema}),
    }
}

fn thinking(reasoning: &Reasoning) -> Value {
    if reasoning.effort.as_deref() == Some("none") {
        return json!({"type": "disabled"});
    }
    match reasoning.budget_tokens {
        Some(budget) => json!({"type": "enabled", "token_budget": budget}),
        None => json!({"type": "enabled"}),
    }
}

#[derive(Default)]
struct Writer {
    dropped: Vec<String>,
    /// Texts that the caller attached as files: documents that the answer may cite.
    documents: Vec<Value>,
    /// Pictures inside results of tools, which take text only: they follow in a user message.
    images: Vec<Block>,
}

impl Writer {
    fn drop(&mut self, path: impl Into<String>) {
        let path = path.into();
        if !self.dropped.contains(&path) {
            self.dropped.push(path);
        }
    }

    fn messages(&mut self, mut list: Array<'_>, messages: &[Message]) {
        for (index, message) in messages.iter().enumerate() {
            if message.role != Role::Tool {
                self.flush_images(&mut list);
            }
            for key in message.extra.keys() {
                self.drop(format!("messages[{index}].{key}"));
            }
            if message.name.is_some() && message.role != Role::Tool {
                self.drop(format!("messages[{index}].name"));
            }
            match message.role {
                Role::Tool => self.results(&mut list, message, index),
                Role::Assistant => self.assistant(list.object(), message, index),
                Role::User => self.said(list.object(), "user", message, index),
                Role::System | Role::Developer => self.said(list.object(), "system", message, index),
            }
        }
        self.flush_images(&mut list);
        list.end();
    }

    fn flush_images(&mut self, list: &mut Array<'_>) {
        if self.images.is_empty() {
            return;
        }
        let images = std::mem::take(&mut self.images);
        let mut item = list.object();
        item.field("role", "user");
        let parts: Vec<Value> = images.iter().filter_map(image).collect();
        item.field("content", &parts);
        item.end();
    }

    /// What a person or the system says.
    fn said(&mut self, mut item: Object<'_>, role: &str, message: &Message, index: usize) {
        item.field("role", role);
        let mut parts = Vec::with_capacity(message.content.len());
        for (place, block) in message.content.iter().enumerate() {
            match block {
                Block::Text { text, .. } => parts.push(json!({"type": "text", "text": text})),
                Block::Image { .. } => match image(block) {
                    Some(part) => parts.push(part),
                    None => self.drop(format!("messages[{index}].content[{place}]")),
                },
                Block::File { source, filename, .. } => match document_text(source) {
                    Some(text) => self.document(filename.as_deref(), &text),
                    None => self.drop(format!("messages[{index}].content[{place}]")),
                },
                _ => self.drop(format!("messages[{index}].content[{place}]")),
            }
        }
        content(&mut item, &parts);
        item.end();
    }

    fn document(&mut self, title: Option<&str>, text: &str) {
        let mut data = Map::new();
        if let Some(title) = title {
            data.insert("title".to_owned(), json!(title));
        }
        data.insert("text".to_owned(), json!(text));
        let id = format!("doc:{}", self.documents.len());
        self.documents.push(json!({"id": id, "data": data}));
    }

    /// Text beside tool calls is the plan behind them.
    fn assistant(&mut self, mut item: Object<'_>, message: &Message, index: usize) {
        item.field("role", "assistant");
        let calls: Vec<Value> = message.content.iter().filter_map(openai::answer::call_value).collect();
        let (mut parts, mut plan) = (Vec::new(), String::new());
        for (place, block) in message.content.iter().enumerate() {
            match block {
                Block::Text { text, .. } | Block::Refusal { text } if calls.is_empty() => {
                    parts.push(json!({"type": "text", "text": text}));
                }
                Block::Text { text, .. } | Block::Refusal { text } => plan.push_str(text),
                Block::Reasoning { text, .. } if !text.is_empty() => {
                    parts.push(json!({"type": "thinking", "thinking": text}));
                }
                Block::ToolCall { .. } | Block::Reasoning { .. } => {}
                _ => self.drop(format!("messages[{index}].content[{place}]")),
            }
        }
        if !calls.is_empty() {
            if !plan.is_empty() {
                item.field("tool_plan", &plan);
            }
            item.field("tool_calls", &calls);
        }
        if !parts.is_empty() || calls.is_empty() {
            content(&mut item, &parts);
        }
        item.end();
    }

    /// One message for each result.
    fn results(&mut self, list: &mut Array<'_>, message: &Message, index: usize) {
        for (place, block) in message.content.iter().enumerate() {
            let Block::ToolResult { call_id, content: inner, is_error, .. } = block else {
                self.drop(format!("messages[{index}].content[{place}]"));
                continue;
            };
            let (mut texts, mut documents) = (Vec::new(), Vec::new());
            for block in inner {
                let text = match block {
                    Block::File { source, .. } => document_text(source),
                    _ => None,
                };
                match (block, text) {
                    (Block::Text { text, .. }, _) => texts.push(text.as_str()),
                    (Block::File { filename, .. }, Some(text)) => {
                        let data = json!({"title": filename, "text": text});
                        documents.push(json!({"type": "document", "document": {"data": data}}));
                    }
                    (Block::Image { .. }, _) if image(block).is_some() => self.images.push(block.clone()),
                    _ => self.drop(format!("messages[{index}].content[{place}].content")),
                }
            }
            let mut text = texts.join("\n");
            if *is_error {
                text.insert_str(0, "Error: ");
            }
            let mut item = list.object();
            item.field("role", "tool");
            item.field("tool_call_id", call_id);
            if documents.is_empty() {
                item.field("content", &text);
            } else {
                if !text.is_empty() {
                    documents.insert(0, json!({"type": "text", "text": text}));
                }
                item.field("content", &documents);
            }
            item.end();
        }
    }

    /// Cohere knows no choice of one tool: the list is shortened to it.
    fn tools(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        if call.parallel_tool_calls == Some(false) {
            self.drop("parallel_tool_calls");
        }
        let wanted = |tool: &Tool| match &call.tool_choice {
            Some(ToolChoice::Named(name)) => *name == tool.name,
            Some(ToolChoice::Allowed { names, .. }) => names.contains(&tool.name),
            _ => true,
        };
        let mut tools = Vec::with_capacity(call.tools.len());
        for (index, tool) in call.tools.iter().enumerate() {
            if tool.other.is_some() {
                self.drop(format!("tools[{index}]"));
            } else if wanted(tool) {
                let mut function = Map::new();
                function.insert("name".to_owned(), json!(tool.name));
                if let Some(description) = &tool.description {
                    function.insert("description".to_owned(), json!(description));
                }
                let empty = || json!({"type": "object", "properties": {}});
                function.insert("parameters".to_owned(), tool.parameters.clone().unwrap_or_else(empty));
                tools.push(json!({"type": "function", "function": function}));
            }
        }
        if tools.is_empty() {
            return;
        }
        top.field("tools", &tools);
        if call.tools.iter().any(|tool| tool.strict == Some(true)) && own(call, "strict_tools").is_none() {
            top.field("strict_tools", &true);
        }
        match &call.tool_choice {
            Some(ToolChoice::None) => top.field("tool_choice", "NONE"),
            Some(
                ToolChoice::Required | ToolChoice::Named(_) | ToolChoice::Allowed { required: true, .. },
            ) => top.field("tool_choice", "REQUIRED"),
            Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) | None => {}
        }
    }

    /// Attached texts, and the documents that the caller gives in Cohere's own words.
    fn documents(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        let mut documents = match own(call, "documents") {
            Some(Value::Array(given)) => given.clone(),
            Some(_) => {
                self.drop("documents");
                Vec::new()
            }
            None => Vec::new(),
        };
        documents.append(&mut self.documents);
        if !documents.is_empty() {
            top.field("documents", &documents);
        }
    }

    fn sampling(&mut self, top: &mut Object<'_>, call: &ChatCall, quirks: &Quirks) {
        let sampling = &call.sampling;
        let mut maybe = |key: &str, name: &str, value: Option<Value>| match value {
            Some(value) if quirks.sampling => top.field(name, &value),
            Some(_) => self.dropped.push(key.to_owned()),
            None => {}
        };
        // The scale ends at 1.
        maybe("temperature", "temperature", sampling.temperature.map(|value| json!(value.clamp(0.0, 1.0))));
        maybe("top_p", "p", sampling.top_p.map(Value::from));
        maybe("top_k", "k", sampling.top_k.map(Value::from));
        top.some("frequency_penalty", sampling.frequency_penalty.as_ref());
        top.some("presence_penalty", sampling.presence_penalty.as_ref());
        top.some("seed", sampling.seed.as_ref());
        if !sampling.stop.is_empty() {
            top.field("stop_sequences", &sampling.stop[..sampling.stop.len().min(MOST_STOPS)]);
        }
        if sampling.stop.len() > MOST_STOPS {
            self.drop("stop");
        }
    }

    fn rest(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        if call.user.is_some() {
            self.drop("user");
        }
        for (key, value) in &call.extra.fields {
            match key.as_str() {
                "documents" if own(call, key).is_some() => {}
                _ if own(call, key).is_some() => top.field(key, value),
                _ => self.drop(key.as_str()),
            }
        }
    }
}

/// One text as a string, everything else as a list.
fn content(item: &mut Object<'_>, parts: &[Value]) {
    match parts {
        [] => item.field("content", ""),
        [only] if only["type"] == "text" => item.field("content", &only["text"]),
        _ => item.field("content", parts),
    }
}

/// A picture part; `None` where it stands in a provider's own store.
fn image(block: &Block) -> Option<Value> {
    let Block::Image { source, detail, .. } = block else { return None };
    let url = match source {
        MediaSource::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
        MediaSource::Url(url) => url.clone(),
        MediaSource::FileId(_) | MediaSource::Text(_) => return None,
    };
    let mut image = Map::new();
    image.insert("url".to_owned(), json!(url));
    if let Some(detail) = detail {
        image.insert("detail".to_owned(), json!(detail));
    }
    Some(json!({"type": "image_url", "image_url": image}))
}

/// The text of a file that is text.
fn document_text(source: &MediaSource) -> Option<String> {
    match source {
        MediaSource::Text(text) => Some(text.clone()),
        MediaSource::Base64 { media_type, data } if media_type.starts_with("text/") => {
            String::from_utf8(BASE64.decode(data).ok()?).ok()
        }
        _ => None,
    }
}

/// Writes an embed request. What the vectors are for says the caller's `input_type`, else the provider's setting.
pub(super) fn embed(call: &EmbeddingCall, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    let texts = match &call.input {
        Prompt::Text(text) => std::slice::from_ref(text),
        Prompt::Texts(texts) => texts.as_slice(),
        Prompt::Tokens(_) | Prompt::TokenLists(_) => {
            let public = "the target embeds texts, not tokens of another model's vocabulary";
            return Err(Fault::client(code::UNSUPPORTED_PARAMETER, public).with_param("input"));
        }
    };
    let mut dropped = Vec::new();
    let mut body = Vec::with_capacity(1024);
    let mut top = Object::new(&mut body);
    if !quirks.omit_model && !call.model.is_empty() {
        top.field("model", &call.model);
    }
    let asked = call.extra.fields.get("input_type").filter(|value| value.is_string());
    match asked {
        Some(asked) => top.field("input_type", asked),
        None => top.field("input_type", &quirks.input_type),
    }
    top.field("texts", texts);
    top.field("embedding_types", &["float"]);
    top.some("output_dimension", call.dimensions.as_ref());
    for (key, value) in &call.extra.fields {
        match key.as_str() {
            "input_type" => {}
            "truncate" | "max_tokens" | "priority" => top.field(key, value),
            _ => dropped.push(key.clone()),
        }
    }
    if call.user.is_some() {
        dropped.push("user".to_owned());
    }
    top.end();
    Ok(EncodedCall { body, dropped })
}
