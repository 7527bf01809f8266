//! Callers' requests in Anthropic's shape.

use millgate_types::{
    Block, Call, ChatCall, Dialect, Extra, Fault, MediaSource, Message, Operation, Reasoning, ResponseFormat,
    Role, Sampling, Tool, ToolChoice,
};
use serde_json::{Map, Value};

use crate::json::{self, At};
use crate::{check_model, not_implemented, refuse_control_field};

const ROOT: At<'static> = At::Root;

pub(super) fn call(operation: Operation, body: Map<String, Value>) -> Result<Call, Fault> {
    match operation {
        Operation::Chat => {
            let call = chat(body)?;
            if call.max_output_tokens.is_none() {
                return Err(ROOT.missing("max_tokens"));
            }
            Ok(Call::Chat(Box::new(call)))
        }
        Operation::CountTokens => chat(body).map(|call| Call::Chat(Box::new(call))),
        _ => Err(not_implemented(Dialect::Anthropic, operation)),
    }
}

fn chat(body: Map<String, Value>) -> Result<ChatCall, Fault> {
    let mut call = ChatCall {
        model: String::new(),
        messages: Vec::new(),
        tools: Vec::new(),
        tool_choice: None,
        parallel_tool_calls: None,
        response_format: None,
        max_output_tokens: None,
        sampling: Sampling::default(),
        reasoning: None,
        stream: false,
        // Anthropic's streams always carry usage.
        include_usage: true,
        user: None,
        extra: Extra::none(Dialect::Anthropic),
    };
    let mut system = Vec::new();
    let mut seen_messages = false;
    for (key, value) in body {
        refuse_control_field(&key)?;
        if value.is_null() {
            continue;
        }
        let at = ROOT.key(&key);
        match key.as_str() {
            "model" => {
                call.model = json::string(value, &at)?;
                check_model(&call.model)?;
            }
            "max_tokens" => call.max_output_tokens = Some(json::unsigned(&value, &at, 1, u64::MAX)?),
            "messages" => {
                seen_messages = true;
                messages(value, &at, &mut call.messages)?;
            }
            "system" => system = blocks(value, &at)?,
            "tools" => call.tools = tools(value, &at)?,
            "tool_choice" => tool_choice(value, &at, &mut call)?,
            "stop_sequences" => call.sampling.stop = json::strings(value, &at)?,
            "temperature" => call.sampling.temperature = Some(json::number(&value, &at, 0.0, 1.0)?),
            "top_p" => call.sampling.top_p = Some(json::number(&value, &at, 0.0, 1.0)?),
            "top_k" => call.sampling.top_k = Some(json::unsigned(&value, &at, 0, u64::MAX)?),
            "stream" => call.stream = json::boolean(&value, &at)?,
            "metadata" => metadata(value, &at, &mut call)?,
            "thinking" => thinking(value, &at, &mut call)?,
            "output_config" => output_config(value, &at, &mut call)?,
            _ => drop(call.extra.fields.insert(key, value)),
        }
    }
    if !seen_messages {
        return Err(ROOT.missing("messages"));
    }
    if !system.is_empty() {
        let message = Message { role: Role::System, name: None, content: system, extra: Map::new() };
        call.messages.insert(0, message);
    }
    Ok(call)
}

fn metadata(value: Value, at: &At<'_>, call: &mut ChatCall) -> Result<(), Fault> {
    let mut map = json::object(value, at)?;
    if let Some(value) = json::take(&mut map, "user_id") {
        call.user = Some(json::string(value, &at.key("user_id"))?);
    }
    map.shift_remove("user_id");
    if !map.is_empty() {
        call.extra.fields.insert("metadata".to_owned(), Value::Object(map));
    }
    Ok(())
}

fn thinking(value: Value, at: &At<'_>, call: &mut ChatCall) -> Result<(), Fault> {
    let map = json::object(value, at)?;
    let kind = map.get("type").cloned().ok_or_else(|| at.missing("type"))?;
    let reasoning = call.reasoning.get_or_insert_default();
    match json::string(kind, &at.key("type"))?.as_str() {
        "enabled" => {
            let budget = map.get("budget_tokens").ok_or_else(|| at.missing("budget_tokens"))?;
            reasoning.budget_tokens = Some(json::unsigned(budget, &at.key("budget_tokens"), 1, u64::MAX)?);
        }
        "adaptive" => reasoning.adaptive = true,
        "disabled" => reasoning.effort = Some("none".to_owned()),
        _ => return Err(at.key("type").invalid("`thinking.type` is not one of the known forms")),
    }
    if map.keys().any(|key| key != "type" && key != "budget_tokens") {
        call.extra.fields.insert("thinking".to_owned(), Value::Object(map));
    }
    Ok(())
}

fn output_config(value: Value, at: &At<'_>, call: &mut ChatCall) -> Result<(), Fault> {
    let mut map = json::object(value, at)?;
    if let Some(effort) = json::take(&mut map, "effort") {
        let effort = json::string(effort, &at.key("effort"))?;
        call.reasoning.get_or_insert_with(Reasoning::default).effort = Some(effort);
    }
    if let Some(format) = json::take(&mut map, "format") {
        let at = at.key("format");
        let mut format = json::object(format, &at)?;
        let schema = json::take(&mut format, "schema").ok_or_else(|| at.missing("schema"))?;
        let name = json::take_string(&mut format, "name").unwrap_or_else(|| "response".to_owned());
        call.response_format =
            Some(ResponseFormat::JsonSchema { name, description: None, schema, strict: Some(true) });
    }
    if !map.is_empty() {
        call.extra.fields.insert("output_config".to_owned(), Value::Object(map));
    }
    Ok(())
}

fn messages(value: Value, at: &At<'_>, out: &mut Vec<Message>) -> Result<(), Fault> {
    let items = json::array(value, at)?;
    if items.is_empty() {
        return Err(at.invalid("`messages` must hold at least one message"));
    }
    for (index, item) in items.into_iter().enumerate() {
        let at = at.index(index);
        let mut map = json::object(item, &at)?;
        let role_at = at.key("role");
        let role = map.shift_remove("role").ok_or_else(|| at.missing("role"))?;
        let role = match json::string(role, &role_at)?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(role_at.invalid(format!("`{role_at}` is not a role"))),
        };
        let content = map.shift_remove("content").ok_or_else(|| at.missing("content"))?;
        let mut content = blocks(content, &at.key("content"))?;
        // Results of tools stand in a message of their own.
        let is_result = |block: &Block| matches!(block, Block::ToolResult { .. });
        while role == Role::User && content.iter().any(is_result) {
            let results = is_result(&content[0]);
            let end = content.iter().position(|block| is_result(block) != results).unwrap_or(content.len());
            let rest = content.split_off(end);
            let role = if results { Role::Tool } else { Role::User };
            out.push(Message { role, name: None, content, extra: Map::new() });
            content = rest;
        }
        if content.is_empty() && role == Role::User && out.last().is_some_and(|last| last.role == Role::Tool)
        {
            continue;
        }
        out.push(Message { role, name: None, content, extra: map });
    }
    Ok(())
}

fn blocks(value: Value, at: &At<'_>) -> Result<Vec<Block>, Fault> {
    match value {
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![Block::text(text)]),
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(index, item)| block(item, &at.index(index))).collect()
        }
        other => Err(at.invalid(format!(
            "`{at}` must be a string or a list of blocks, not {}",
            json::type_name(&other)
        ))),
    }
}

/// One content block of a request.
fn block(value: Value, at: &At<'_>) -> Result<Block, Fault> {
    let mut map = json::object(value, at)?;
    let kind = map.get("type").cloned().ok_or_else(|| at.missing("type"))?;
    let kind = json::string(kind, &at.key("type"))?;
    let mark = json::take(&mut map, "cache_control");
    let mut text = |key: &'static str| {
        let value = map.shift_remove(key).ok_or_else(|| at.missing(key))?;
        json::string(value, &at.key(key))
    };
    Ok(match kind.as_str() {
        "text" => {
            let text = text("text")?;
            let citations = match json::take(&mut map, "citations") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
            Block::Text { text, cache_control: mark, citations }
        }
        "image" => match source(&mut map, at)? {
            Some(source) => Block::Image { source, detail: None, cache_control: mark },
            None => other(map, mark),
        },
        "document" => match source(&mut map, at)? {
            Some(source) => {
                let filename = json::take(&mut map, "title")
                    .map(|value| json::string(value, &at.key("title")))
                    .transpose()?;
                map.shift_remove("type");
                map.retain(|_, value| !value.is_null());
                Block::File { source, filename, cache_control: mark, extra: map }
            }
            None => other(map, mark),
        },
        "tool_use" => {
            let (id, name) = (text("id")?, text("name")?);
            let input = map.shift_remove("input").unwrap_or(Value::Null);
            let arguments = match input {
                Value::Null => "{}".to_owned(),
                input => Value::Object(json::object(input, &at.key("input"))?).to_string(),
            };
            Block::ToolCall { id, name, arguments, cache_control: mark }
        }
        "tool_result" => {
            let call_id = text("tool_use_id")?;
            let is_error = match json::take(&mut map, "is_error") {
                Some(value) => json::boolean(&value, &at.key("is_error"))?,
                None => false,
            };
            let content = match json::take(&mut map, "content") {
                Some(value) => blocks(value, &at.key("content"))?,
                None => Vec::new(),
            };
            Block::ToolResult { call_id, content, is_error, cache_control: mark }
        }
        "thinking" => {
            let text = text("thinking")?;
            let signature = json::take_string(&mut map, "signature").filter(|text| !text.is_empty());
            Block::Reasoning { text, signature }
        }
        "redacted_thinking" => Block::RedactedReasoning { data: text("data")? },
        _ => other(map, mark),
    })
}

fn other(mut map: Map<String, Value>, mark: Option<Value>) -> Block {
    if let Some(mark) = mark {
        map.insert("cache_control".to_owned(), mark);
    }
    Block::Other { dialect: Dialect::Anthropic, value: Value::Object(map) }
}

/// `None` for a form of source that the canonical form does not have; the map is then untouched.
fn source(map: &mut Map<String, Value>, at: &At<'_>) -> Result<Option<MediaSource>, Fault> {
    let at = at.key("source");
    let Some(value) = map.get("source") else { return Err(at.invalid(format!("`{at}` is required"))) };
    let Some(source) = value.as_object() else {
        return Err(at.invalid(format!("`{at}` must be an object, not {}", json::type_name(value))));
    };
    let text = |key: &'static str| {
        let value = source.get(key).cloned().ok_or_else(|| at.missing(key))?;
        json::string(value, &at.key(key))
    };
    let found = match text("type")?.as_str() {
        "base64" => MediaSource::Base64 { media_type: text("media_type")?, data: text("data")? },
        "url" => MediaSource::Url(text("url")?),
        "file" => MediaSource::FileId(text("file_id")?),
        "text" => MediaSource::Text(text("data")?),
        _ => return Ok(None),
    };
    map.shift_remove("source");
    Ok(Some(found))
}

fn tools(value: Value, at: &At<'_>) -> Result<Vec<Tool>, Fault> {
    json::array(value, at)?
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let at = at.index(index);
            let mut map = json::object(item, &at)?;
            let custom = map.get("type").is_none_or(|kind| kind.is_null() || kind == "custom");
            let known = ["type", "name", "description", "input_schema", "strict", "cache_control"];
            if !custom
                || map.keys().any(|key| !known.contains(&key.as_str())) && !map.contains_key("input_schema")
            {
                let name = map.get("type").and_then(Value::as_str).unwrap_or("custom").to_owned();
                let other = Some((Dialect::Anthropic, Value::Object(map)));
                return Ok(Tool {
                    name,
                    description: None,
                    parameters: None,
                    strict: None,
                    other,
                    cache_control: None,
                });
            }
            let name = json::take(&mut map, "name").ok_or_else(|| at.missing("name"))?;
            let schema_at = at.key("input_schema");
            let schema = json::take(&mut map, "input_schema").ok_or_else(|| at.missing("input_schema"))?;
            Ok(Tool {
                name: json::string(name, &at.key("name"))?,
                description: json::take(&mut map, "description")
                    .map(|value| json::string(value, &at.key("description")))
                    .transpose()?,
                parameters: Some(Value::Object(json::object(schema, &schema_at)?)),
                strict: json::take(&mut map, "strict")
                    .map(|value| json::boolean(&value, &at.key("strict")))
                    .transpose()?,
                other: None,
                cache_control: json::take(&mut map, "cache_control"),
            })
        })
        .collect()
}

fn tool_choice(value: Value, at: &At<'_>, call: &mut ChatCall) -> Result<(), Fault> {
    let mut map = json::object(value, at)?;
    let kind = map.shift_remove("type").ok_or_else(|| at.missing("type"))?;
    call.tool_choice = Some(match json::string(kind, &at.key("type"))?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => {
            let name = map.shift_remove("name").ok_or_else(|| at.missing("name"))?;
            ToolChoice::Named(json::string(name, &at.key("name"))?)
        }
        _ => return Err(at.key("type").invalid("`tool_choice.type` is not one of the known forms")),
    });
    if let Some(off) = json::take(&mut map, "disable_parallel_tool_use") {
        call.parallel_tool_calls = Some(!json::boolean(&off, &at.key("disable_parallel_tool_use"))?);
    }
    Ok(())
}
