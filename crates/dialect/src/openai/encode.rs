//! Requests for providers that speak OpenAI's shape.

use millgate_types::{
    Block, Call, ChatCall, Dialect, Extra, Fault, MediaSource, Message, Operation, Reasoning, ResponseFormat,
    Role, Sampling, Tool, ToolChoice,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{reasoning, texts};
use crate::json::{Array, Object};
use crate::quirks::{MaxTokensName, Quirks, ReasoningField, ReasoningParameter, SchemaSupport};
use crate::{EncodedCall, completion, not_implemented};

pub(crate) fn call(call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    let mut body = Vec::with_capacity(1024);
    let mut top = Top { object: Object::new(&mut body), quirks, dropped: Vec::new() };
    match call {
        Call::Chat(call) => chat(call, &mut top),
        Call::Completion(call) => texts::completion(call, &mut top),
        Call::Embedding(call) => texts::embedding(call, &mut top),
        Call::Moderation(call) => texts::moderation(call, &mut top),
        Call::Rerank(_) => return Err(not_implemented(Dialect::OpenAi, Operation::Rerank)),
    }
    let Top { object, dropped, .. } = top;
    object.end();
    Ok(EncodedCall { body, dropped })
}

/// The body's top level: applies the strip and rename lists.
pub(super) struct Top<'a> {
    pub(super) object: Object<'a>,
    quirks: &'a Quirks,
    dropped: Vec<String>,
}

impl Top<'_> {
    pub(super) fn field<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        let quirks = self.quirks;
        match quirks.name_of(key) {
            Some(name) => self.object.field(name, value),
            None => self.dropped.push(key.to_owned()),
        }
    }
    pub(super) fn some<T: Serialize>(&mut self, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.field(key, value);
        }
    }
    fn drop(&mut self, path: impl Into<String>) {
        let path = path.into();
        if !self.dropped.contains(&path) {
            self.dropped.push(path);
        }
    }
    pub(super) fn model(&mut self, model: &str) {
        if !self.quirks.omit_model && !model.is_empty() {
            self.object.string("model", model);
        }
    }
    pub(super) fn sampling(&mut self, sampling: &Sampling) {
        for (key, value) in [("temperature", sampling.temperature), ("top_p", sampling.top_p)] {
            match value {
                Some(_) if !self.quirks.sampling => self.drop(key),
                value => self.some(key, value.as_ref()),
            }
        }
        match sampling.top_k {
            Some(_) if !self.quirks.sampling => self.drop("top_k"),
            value => self.some("top_k", value.as_ref()),
        }
        self.some("frequency_penalty", sampling.frequency_penalty.as_ref());
        self.some("presence_penalty", sampling.presence_penalty.as_ref());
        if !sampling.stop.is_empty() {
            self.field("stop", &sampling.stop);
        }
        self.some("seed", sampling.seed.as_ref());
        self.some("n", sampling.n.as_ref());
    }
    fn limit(&mut self, limit: Option<u64>) {
        let key = match self.quirks.max_tokens_name {
            MaxTokensName::MaxTokens => "max_tokens",
            MaxTokensName::MaxCompletionTokens => "max_completion_tokens",
        };
        self.some(key, limit.as_ref());
    }
    pub(super) fn stream(&mut self, stream: bool) {
        if stream {
            self.object.field("stream", &true);
            // Asked for always: metering needs it. The caller's own wish decides what the caller sees.
            if self.quirks.supports_stream_options {
                self.object.field("stream_options", &json!({"include_usage": true}));
            }
        }
    }
    pub(super) fn extra(&mut self, extra: &Extra) {
        for (key, value) in &extra.fields {
            if extra.dialect == Dialect::OpenAi {
                self.field(key, value);
            } else {
                self.drop(key.as_str());
            }
        }
    }
}

fn chat(call: &ChatCall, top: &mut Top<'_>) {
    let quirks = top.quirks;
    top.model(&call.model);
    let words = schema_in_words(call.response_format.as_ref(), quirks.schema);
    let same = call.extra.dialect == Dialect::OpenAi;
    let mut messages = Messages { quirks, same, dropped: Vec::new(), images: Vec::new() };
    messages.write(top.object.array("messages"), &call.messages, words);
    top.dropped.append(&mut messages.dropped);
    if !call.tools.is_empty() {
        tools(call, top);
    }
    if let Some(format) = &call.response_format {
        response_format(format, top);
    }
    top.limit(call.max_output_tokens);
    top.sampling(&call.sampling);
    if let Some(reasoning) = &call.reasoning {
        reasoning_parameter(reasoning, top);
    }
    top.stream(call.stream);
    top.some("user", call.user.as_ref());
    top.extra(&call.extra);
}

fn reasoning_parameter(reasoning: &Reasoning, top: &mut Top<'_>) {
    let effort = reasoning.effort.clone().or_else(|| effort_of(reasoning));
    match top.quirks.reasoning_parameter {
        ReasoningParameter::None => top.drop("reasoning_effort"),
        ReasoningParameter::Effort => top.some("reasoning_effort", effort.as_ref()),
        ReasoningParameter::Object => match reasoning.budget_tokens {
            Some(budget) => top.field("reasoning", &json!({"max_tokens": budget})),
            None => top.field("reasoning", &json!({"effort": effort})),
        },
        ReasoningParameter::Thinking => {
            let off = effort.as_deref() == Some("none");
            top.field("thinking", &json!({"type": if off { "disabled" } else { "enabled" }}));
            if !off {
                top.some("reasoning_effort", reasoning.effort.as_ref());
            }
        }
    }
}

/// An Anthropic caller's budget in words.
pub(crate) fn effort_of(reasoning: &Reasoning) -> Option<String> {
    let word = match reasoning.budget_tokens {
        Some(0..=2048) => "low",
        Some(2049..=16_384) => "medium",
        Some(_) => "high",
        None if reasoning.adaptive => "medium",
        None => return None,
    };
    Some(word.to_owned())
}

fn tools(call: &ChatCall, top: &mut Top<'_>) {
    let strict = top.quirks.strict_tools;
    let marks = top.quirks.cache_control;
    let mut dropped = Vec::new();
    let named = |tool: &Tool| match &call.tool_choice {
        Some(ToolChoice::Allowed { names, .. }) => names.contains(&tool.name),
        _ => true,
    };
    // Servers other than OpenAI's do not know `allowed_tools`: there the list itself is shortened.
    let filter = !top.quirks.supports_developer_role;
    let chosen: Vec<(usize, &Tool)> = call
        .tools
        .iter()
        .enumerate()
        .filter(|(index, tool)| match &tool.other {
            Some((dialect, _)) if *dialect != Dialect::OpenAi => {
                dropped.push(format!("tools[{index}]"));
                false
            }
            _ => !filter || named(tool),
        })
        .collect();
    if !chosen.is_empty() {
        let mut list = top.object.array("tools");
        for (_, tool) in &chosen {
            if let Some((_, value)) = &tool.other {
                list.push(value);
                continue;
            }
            let mut item = list.object();
            item.field("type", "function");
            let mut function = item.object("function");
            function.string("name", &tool.name);
            function.some("description", tool.description.as_ref());
            function.some("parameters", tool.parameters.as_ref());
            function.some("strict", tool.strict.as_ref().filter(|_| strict));
            function.end();
            item.some("cache_control", tool.cache_control.as_ref().filter(|_| marks));
            item.end();
        }
        list.end();
        if let Some(choice) = &call.tool_choice {
            let value = match choice {
                ToolChoice::Auto => json!("auto"),
                ToolChoice::None => json!("none"),
                ToolChoice::Required => json!(top.quirks.tool_choice_required),
                ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
                ToolChoice::Allowed { required, .. } if filter => {
                    json!(if *required { top.quirks.tool_choice_required.as_str() } else { "auto" })
                }
                ToolChoice::Allowed { names, required } => {
                    let tools: Vec<Value> = names
                        .iter()
                        .map(|name| json!({"type": "function", "function": {"name": name}}))
                        .collect();
                    let mode = if *required { "required" } else { "auto" };
                    json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
                }
            };
            top.field("tool_choice", &value);
        }
        top.some("parallel_tool_calls", call.parallel_tool_calls.as_ref());
    }
    top.dropped.append(&mut dropped);
}

fn response_format(format: &ResponseFormat, top: &mut Top<'_>) {
    let value = match (format, top.quirks.schema) {
        (ResponseFormat::Text, _) => json!({"type": "text"}),
        (ResponseFormat::JsonObject | ResponseFormat::JsonSchema { .. }, SchemaSupport::None) => return,
        (ResponseFormat::JsonObject, _) | (ResponseFormat::JsonSchema { .. }, SchemaSupport::JsonObject) => {
            json!({"type": "json_object"})
        }
        (ResponseFormat::JsonSchema { name, description, schema, strict }, SchemaSupport::JsonSchema) => {
            let mut inner = serde_json::Map::new();
            inner.insert("name".to_owned(), json!(name));
            if let Some(description) = description {
                inner.insert("description".to_owned(), json!(description));
            }
            inner.insert("schema".to_owned(), schema.clone());
            if let Some(strict) = strict {
                inner.insert("strict".to_owned(), json!(strict));
            }
            json!({"type": "json_schema", "json_schema": inner})
        }
    };
    top.field("response_format", &value);
}

/// A sentence for targets that cannot be told a form in any other way.
fn schema_in_words(format: Option<&ResponseFormat>, support: SchemaSupport) -> Option<String> {
    match (format?, support) {
        (ResponseFormat::JsonSchema { schema, .. }, SchemaSupport::JsonObject | SchemaSupport::None) => {
            Some(completion::schema_sentence(schema))
        }
        (ResponseFormat::JsonObject, SchemaSupport::None) => Some(completion::OBJECT_SENTENCE.to_owned()),
        _ => None,
    }
}

struct Messages<'a> {
    quirks: &'a Quirks,
    /// The caller speaks this dialect too: fields we do not name may go along.
    same: bool,
    dropped: Vec<String>,
    /// Images inside tool results: this dialect takes text there, so they follow in a user message.
    images: Vec<Block>,
}

impl Messages<'_> {
    fn write(&mut self, mut list: Array<'_>, messages: &[Message], words: Option<String>) {
        if let Some(words) = words {
            let mut item = list.object();
            item.field("role", "system");
            item.field("content", &words);
            item.end();
        }
        for (index, message) in messages.iter().enumerate() {
            if message.role != Role::Tool {
                self.flush_images(&mut list);
            }
            match message.role {
                Role::Tool => self.tool(&mut list, message, index),
                _ => self.message(list.object(), message, index),
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
        let mut parts = item.array("content");
        for image in &images {
            self.part(&mut parts, image, "");
        }
        parts.end();
        item.end();
    }

    fn tool(&mut self, list: &mut Array<'_>, message: &Message, index: usize) {
        for (place, block) in message.content.iter().enumerate() {
            let Block::ToolResult { call_id, content, is_error, .. } = block else {
                self.dropped.push(format!("messages[{index}].content[{place}]"));
                continue;
            };
            let mut item = list.object();
            let legacy = call_id.is_empty() && message.name.is_some();
            item.field("role", if legacy { "function" } else { "tool" });
            let mut texts = Vec::new();
            for inner in content {
                match inner {
                    Block::Text { text, cache_control, .. } => {
                        texts.push((
                            text.as_str(),
                            cache_control.as_ref().filter(|_| self.quirks.cache_control),
                        ));
                    }
                    image @ (Block::Image { .. } | Block::File { .. }) => self.images.push(image.clone()),
                    _ => self.dropped.push(format!("messages[{index}].content[{place}].content")),
                }
            }
            let marked = texts.iter().any(|(_, mark)| mark.is_some());
            let several = (marked || texts.len() > 1 && !self.quirks.flatten_text) && !is_error;
            if several {
                let mut parts = item.array("content");
                for (text, mark) in texts {
                    let mut part = parts.object();
                    part.field("type", "text");
                    part.string("text", text);
                    part.some("cache_control", mark);
                    part.end();
                }
                parts.end();
            } else {
                let mut text = texts.iter().map(|(text, _)| *text).collect::<Vec<_>>().join("\n");
                if *is_error {
                    text.insert_str(0, "Error: ");
                }
                item.string("content", &text);
            }
            item.some("name", message.name.as_ref());
            if !legacy {
                item.string("tool_call_id", call_id);
            }
            self.extra(&mut item, message, index);
            item.end();
        }
    }

    fn extra(&mut self, item: &mut Object<'_>, message: &Message, index: usize) {
        for (key, value) in &message.extra {
            if self.same && key != "reasoning_details" {
                item.field(key, value);
            } else if !self.same {
                self.dropped.push(format!("messages[{index}].{key}"));
            }
        }
    }

    fn message(&mut self, mut item: Object<'_>, message: &Message, index: usize) {
        let role = match message.role {
            Role::Developer if self.quirks.supports_developer_role => "developer",
            Role::System | Role::Developer => "system",
            Role::Assistant => "assistant",
            Role::User | Role::Tool => "user",
        };
        item.string("role", role);
        let assistant = message.role == Role::Assistant;
        let visible: Vec<(usize, &Block)> = message
            .content
            .iter()
            .enumerate()
            .filter(|(_, block)| match block {
                Block::Text { .. } | Block::Image { .. } | Block::Audio { .. } | Block::File { .. } => true,
                Block::Other { dialect: Dialect::OpenAi, value } => {
                    value.get("type").is_none_or(|kind| kind != "custom")
                }
                _ => false,
            })
            .collect();
        for (place, block) in message.content.iter().enumerate() {
            let foreign = match block {
                Block::Other { dialect, .. } => *dialect != Dialect::OpenAi,
                Block::ToolResult { .. } => true,
                Block::ToolCall { .. } | Block::Reasoning { .. } | Block::RedactedReasoning { .. } => {
                    !assistant
                }
                _ => false,
            };
            if foreign {
                self.dropped.push(format!("messages[{index}].content[{place}]"));
            }
        }
        let has_calls = message.content.iter().any(|block| {
            matches!(block, Block::ToolCall { .. } | Block::Other { .. } | Block::Refusal { .. })
        });
        let thinking = reasoning::text(&message.content).filter(|text| {
            assistant && self.quirks.reasoning_field == ReasoningField::Content && !text.is_empty()
        });
        if let Some(thinking) = thinking {
            self.thinking(&mut item, &thinking, &visible, index);
        } else {
            let null = assistant && has_calls && !self.quirks.needs_content;
            self.content(&mut item, &visible, index, null);
        }
        item.some("name", message.name.as_ref());
        if assistant {
            self.assistant(&mut item, message, index);
        }
        self.extra(&mut item, message, index);
        item.end();
    }

    /// Thinking as the first part of the content.
    fn thinking(&mut self, item: &mut Object<'_>, text: &str, visible: &[(usize, &Block)], index: usize) {
        let mut parts = item.array("content");
        parts.push(&json!({"type": "thinking", "thinking": [{"type": "text", "text": text}]}));
        for (place, block) in visible {
            self.part(&mut parts, block, &format!("messages[{index}].content[{place}]"));
        }
        parts.end();
    }

    fn content(&mut self, item: &mut Object<'_>, visible: &[(usize, &Block)], index: usize, null: bool) {
        let marks = self.quirks.cache_control;
        let plain = |block: &Block| match block {
            Block::Text { cache_control, .. } => cache_control.is_none() || !marks,
            _ => false,
        };
        match visible {
            [] if null => item.field("content", &Value::Null),
            [] => item.field("content", ""),
            [(_, only @ Block::Text { text, .. })] if plain(only) => item.string("content", text),
            all if self.quirks.flatten_text && all.iter().all(|(_, block)| plain(block)) => {
                let texts: Vec<&str> = all
                    .iter()
                    .filter_map(|(_, block)| match block {
                        Block::Text { text, .. } => Some(text.as_str()),
                        _ => None,
                    })
                    .collect();
                item.field("content", &texts.join("\n"));
            }
            all => {
                let mut parts = item.array("content");
                for (place, block) in all {
                    self.part(&mut parts, block, &format!("messages[{index}].content[{place}]"));
                }
                parts.end();
            }
        }
    }

    fn part(&mut self, parts: &mut Array<'_>, block: &Block, path: &str) {
        let marks = self.quirks.cache_control;
        match block {
            Block::Text { text, cache_control, .. } => {
                let mut part = parts.object();
                part.field("type", "text");
                part.string("text", text);
                part.some("cache_control", cache_control.as_ref().filter(|_| marks));
                part.end();
            }
            Block::Image {
                source: source @ (MediaSource::Base64 { .. } | MediaSource::Url(_)),
                detail,
                cache_control,
            } => {
                let mut part = parts.object();
                part.field("type", "image_url");
                let mut image = part.object("image_url");
                image.field("url", &url(source));
                image.some("detail", detail.as_ref());
                image.end();
                part.some("cache_control", cache_control.as_ref().filter(|_| marks));
                part.end();
            }
            Block::Audio { data, .. } if self.quirks.bare_media => {
                parts.push(&json!({"type": "input_audio", "input_audio": data}));
            }
            Block::Audio { data, format } => {
                parts.push(&json!({"type": "input_audio", "input_audio": {"data": data, "format": format}}));
            }
            Block::File { source: MediaSource::Text(text), .. } => {
                parts.push(&json!({"type": "text", "text": text}));
            }
            Block::File {
                source: source @ (MediaSource::Base64 { .. } | MediaSource::Url(_)),
                filename,
                ..
            } if self.quirks.bare_media => {
                let mut part = parts.object();
                part.field("type", "document_url");
                part.field("document_url", &url(source));
                part.some("document_name", filename.as_ref());
                part.end();
            }
            Block::File { source, filename, cache_control, extra } => {
                let mut part = parts.object();
                part.field("type", "file");
                let mut file = part.object("file");
                file.some("filename", filename.as_ref());
                match source {
                    MediaSource::FileId(id) => file.field("file_id", id),
                    other => file.field("file_data", &url(other)),
                }
                if self.same {
                    for (key, value) in extra {
                        file.field(key, value);
                    }
                }
                file.end();
                part.some("cache_control", cache_control.as_ref().filter(|_| marks));
                part.end();
            }
            Block::Other { value, .. } => parts.push(value),
            _ => self.dropped.push(path.to_owned()),
        }
    }

    fn assistant(&mut self, item: &mut Object<'_>, message: &Message, index: usize) {
        let is_call = |block: &&Block| match block {
            Block::ToolCall { .. } => true,
            Block::Other { dialect: Dialect::OpenAi, value } => {
                value.get("type").is_some_and(|kind| kind == "custom")
            }
            _ => false,
        };
        if message.content.iter().any(|block| is_call(&block)) {
            let mut calls = item.array("tool_calls");
            for block in message.content.iter().filter(is_call) {
                match block {
                    Block::ToolCall { id, name, arguments, .. } => {
                        calls.push(&json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
                    }
                    Block::Other { value, .. } => calls.push(value),
                    _ => {}
                }
            }
            calls.end();
        }
        let refusal: String = message
            .content
            .iter()
            .filter_map(|block| match block {
                Block::Refusal { text } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        if !refusal.is_empty() {
            item.field("refusal", &refusal);
        }
        let text = reasoning::text(&message.content);
        let foreign = message.extra.get("reasoning_details").filter(|_| self.same);
        let details = reasoning::details_for_provider(&message.content);
        if self.quirks.reasoning_field.is_text() && reasoning::hides(&message.content) {
            self.dropped.push(format!("messages[{index}].reasoning_details"));
        }
        match self.quirks.reasoning_field {
            ReasoningField::None => {
                if text.is_some() || details.is_some() || foreign.is_some() {
                    self.dropped.push(format!("messages[{index}].reasoning_content"));
                }
            }
            // It stands in the content.
            ReasoningField::Content => {}
            ReasoningField::ReasoningContent => item.some("reasoning_content", text.as_ref()),
            ReasoningField::Reasoning => item.some("reasoning", text.as_ref()),
            ReasoningField::ReasoningDetails => {
                item.some("reasoning", text.as_ref());
                match (foreign, details) {
                    (Some(foreign), _) => item.field("reasoning_details", foreign),
                    (None, Some(details)) => item.field("reasoning_details", &details),
                    (None, None) => {}
                }
            }
        }
    }
}

fn url(source: &MediaSource) -> String {
    match source {
        MediaSource::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
        MediaSource::Url(url) => url.clone(),
        MediaSource::FileId(text) | MediaSource::Text(text) => text.clone(),
    }
}
