//! Callers' requests. What would need a memory of earlier answers, or tools that run at OpenAI, is refused:
//! left out silently it would change what the caller means.

use millgate_types::{
    Block, Call, ChatCall, Dialect, Extra, Fault, MediaSource, Message, Operation, ResponseFormat, Role,
    Sampling, Tool, ToolChoice, code,
};
use serde_json::{Map, Value};

use super::item;
use crate::json::{self, At};
use crate::{check_model, not_implemented, refuse_control_field};

const ROOT: At<'static> = At::Root;

pub(super) fn call(operation: Operation, body: Map<String, Value>) -> Result<Call, Fault> {
    match operation {
        Operation::Chat => chat(body).map(|call| Call::Chat(Box::new(call))),
        _ => Err(not_implemented(Dialect::Responses, operation)),
    }
}

fn unsupported(at: &At<'_>, public: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::client(code::UNSUPPORTED_PARAMETER, public).with_param(at.to_string())
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
        // The last event always carries usage.
        include_usage: true,
        user: None,
        extra: Extra::none(Dialect::Responses),
    };
    let mut instructions = None;
    let mut seen_input = false;
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
            "input" => {
                seen_input = true;
                call.messages = input(value, &at)?;
            }
            "instructions" => instructions = Some(json::string(value, &at)?),
            "previous_response_id" | "conversation" | "prompt" => {
                let public = format!("`{key}` needs a target that keeps responses; send the whole input");
                return Err(unsupported(&at, public));
            }
            "background" => {
                if json::boolean(&value, &at)? {
                    return Err(unsupported(&at, "`background` needs a target that keeps responses"));
                }
            }
            "tools" => call.tools = tools(value, &at)?,
            "tool_choice" => call.tool_choice = Some(tool_choice(value, &at)?),
            "parallel_tool_calls" => call.parallel_tool_calls = Some(json::boolean(&value, &at)?),
            "text" => text(value, &at, &mut call)?,
            "reasoning" => {
                let mut map = json::object(value, &at)?;
                if let Some(effort) = json::take(&mut map, "effort") {
                    let effort = json::string(effort, &at.key("effort"))?;
                    call.reasoning.get_or_insert_default().effort = Some(effort);
                }
            }
            "max_output_tokens" => {
                call.max_output_tokens = Some(json::unsigned(&value, &at, 1, u64::MAX)?);
            }
            "temperature" => call.sampling.temperature = Some(json::number(&value, &at, 0.0, 2.0)?),
            "top_p" => call.sampling.top_p = Some(json::number(&value, &at, 0.0, 1.0)?),
            "stream" => call.stream = json::boolean(&value, &at)?,
            "user" => call.user = Some(json::string(value, &at)?),
            // Said of what is done anyway: nothing is kept, seals are always included, nothing is cut.
            "store" | "include" | "stream_options" => {}
            "truncation" if value == "disabled" => {}
            _ => drop(call.extra.fields.insert(key, value)),
        }
    }
    if !seen_input {
        return Err(ROOT.missing("input"));
    }
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        call.messages.insert(0, message(Role::System, vec![Block::text(text)]));
    }
    Ok(call)
}

fn message(role: Role, content: Vec<Block>) -> Message {
    Message { role, name: None, content, extra: Map::new() }
}

fn input(value: Value, at: &At<'_>) -> Result<Vec<Message>, Fault> {
    let items = match value {
        Value::String(text) => return Ok(vec![message(Role::User, vec![Block::text(text)])]),
        items => json::array(items, at)?,
    };
    if items.is_empty() {
        return Err(at.invalid("`input` must hold at least one item"));
    }
    let mut out: Vec<Message> = Vec::with_capacity(items.len());
    // Reasoning, message and calls of one turn are items of their own here.
    let mut say = |role: Role, mut content: Vec<Block>| match out.last_mut() {
        Some(last) if role == Role::Assistant && last.role == role => last.content.append(&mut content),
        _ => out.push(message(role, content)),
    };
    for (index, item) in items.into_iter().enumerate() {
        let at = at.index(index);
        let mut map = json::object(item, &at)?;
        let kind = match map.get("type") {
            None | Some(Value::Null) => "message".to_owned(),
            Some(kind) => json::string(kind.clone(), &at.key("type"))?,
        };
        match kind.as_str() {
            "message" => {
                let role = json::take(&mut map, "role").ok_or_else(|| at.missing("role"))?;
                let role = match json::string(role, &at.key("role"))?.as_str() {
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    "system" => Role::System,
                    "developer" => Role::Developer,
                    _ => return Err(at.key("role").invalid("`role` is not one of the known ones")),
                };
                let content = json::take(&mut map, "content").ok_or_else(|| at.missing("content"))?;
                say(role, parts(content, &at.key("content"))?);
            }
            "function_call" => {
                for key in ["call_id", "name", "arguments"] {
                    let value = map.get(key).cloned().ok_or_else(|| at.missing(key))?;
                    json::string(value, &at.key(key))?;
                }
                let mut content = Vec::new();
                item::blocks(Value::Object(map), &mut content);
                say(Role::Assistant, content);
            }
            "function_call_output" => {
                let call_id = json::take(&mut map, "call_id").ok_or_else(|| at.missing("call_id"))?;
                let call_id = json::string(call_id, &at.key("call_id"))?;
                let output = json::take(&mut map, "output").ok_or_else(|| at.missing("output"))?;
                let content = parts(output, &at.key("output"))?;
                let result = Block::ToolResult { call_id, content, is_error: false, cache_control: None };
                say(Role::Tool, vec![result]);
            }
            "reasoning" => say(Role::Assistant, vec![item::reasoning(&map)]),
            // Clients that believe OpenAI keeps everything refer to reasoning. Without it the conversation still
            // is one; what cannot take the reference says so.
            "item_reference"
                if map.get("id").and_then(Value::as_str).is_some_and(|id| id.starts_with("rs_")) =>
            {
                let value = Value::Object(map);
                say(Role::Assistant, vec![Block::Other { dialect: Dialect::Responses, value }]);
            }
            "item_reference" => {
                return Err(unsupported(&at, "items can only be referred to where the target keeps them"));
            }
            _ => {
                let value = Value::Object(map);
                say(Role::Assistant, vec![Block::Other { dialect: Dialect::Responses, value }]);
            }
        }
    }
    Ok(out)
}

fn parts(value: Value, at: &At<'_>) -> Result<Vec<Block>, Fault> {
    match value {
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![Block::text(text)]),
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(index, item)| part(item, &at.index(index))).collect()
        }
        other => Err(at
            .invalid(format!("`{at}` must be a string or a list of parts, not {}", json::type_name(&other)))),
    }
}

fn part(value: Value, at: &At<'_>) -> Result<Block, Fault> {
    let mut map = json::object(value, at)?;
    let kind = map.get("type").cloned().ok_or_else(|| at.missing("type"))?;
    let kind = json::string(kind, &at.key("type"))?;
    let mut text = |key: &'static str| {
        json::take(&mut map, key).map(|value| json::string(value, &at.key(key))).transpose()
    };
    Ok(match kind.as_str() {
        "input_text" | "output_text" | "text" | "summary_text" => {
            Block::text(text("text")?.ok_or_else(|| at.missing("text"))?)
        }
        "refusal" => Block::Refusal { text: text("refusal")?.ok_or_else(|| at.missing("refusal"))? },
        "input_image" => {
            let source = match (text("image_url")?, text("file_id")?) {
                (Some(url), _) => media(url),
                (None, Some(id)) => MediaSource::FileId(id),
                (None, None) => return Err(at.missing("image_url")),
            };
            Block::Image { source, detail: text("detail")?, cache_control: None }
        }
        "input_file" => {
            let source = match (text("file_data")?, text("file_url")?, text("file_id")?) {
                (Some(data), ..) => media(data),
                (None, Some(url), _) => MediaSource::Url(url),
                (None, None, Some(id)) => MediaSource::FileId(id),
                (None, None, None) => return Err(at.missing("file_data")),
            };
            Block::File { source, filename: text("filename")?, cache_control: None, extra: Map::new() }
        }
        "input_audio" => {
            let at = at.key("input_audio");
            let audio = map.shift_remove("input_audio").ok_or_else(|| at.missing("data"))?;
            let mut audio = json::object(audio, &at)?;
            let mut field = |key: &'static str| {
                let value = json::take(&mut audio, key).ok_or_else(|| at.missing(key))?;
                json::string(value, &at.key(key))
            };
            Block::Audio { data: field("data")?, format: field("format")? }
        }
        _ => Block::Other { dialect: Dialect::Responses, value: Value::Object(map) },
    })
}

/// A data URL's bytes, or a URL for the provider to fetch.
fn media(url: String) -> MediaSource {
    match url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((media_type, data)) => {
            MediaSource::Base64 { media_type: media_type.to_owned(), data: data.to_owned() }
        }
        None => MediaSource::Url(url),
    }
}

fn tools(value: Value, at: &At<'_>) -> Result<Vec<Tool>, Fault> {
    json::array(value, at)?
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let at = at.index(index);
            let mut map = json::object(item, &at)?;
            let kind = json::take(&mut map, "type").ok_or_else(|| at.missing("type"))?;
            let kind = json::string(kind, &at.key("type"))?;
            if kind != "function" {
                return Err(unsupported(&at, format!("the target has no built-in tool `{kind}`")));
            }
            let name = json::take(&mut map, "name").ok_or_else(|| at.missing("name"))?;
            Ok(Tool {
                name: json::string(name, &at.key("name"))?,
                description: json::take(&mut map, "description")
                    .map(|value| json::string(value, &at.key("description")))
                    .transpose()?,
                parameters: json::take(&mut map, "parameters")
                    .map(|value| json::object(value, &at.key("parameters")).map(Value::Object))
                    .transpose()?,
                strict: json::take(&mut map, "strict")
                    .map(|value| json::boolean(&value, &at.key("strict")))
                    .transpose()?,
                other: None,
                cache_control: None,
            })
        })
        .collect()
}

fn tool_choice(value: Value, at: &At<'_>) -> Result<ToolChoice, Fault> {
    let unknown = || at.invalid("`tool_choice` is not one of the known forms");
    let map = match value {
        Value::String(word) => {
            return match word.as_str() {
                "auto" => Ok(ToolChoice::Auto),
                "none" => Ok(ToolChoice::None),
                "required" => Ok(ToolChoice::Required),
                _ => Err(unknown()),
            };
        }
        other => json::object(other, at)?,
    };
    match map.get("type").and_then(Value::as_str) {
        Some("function") => {
            let name = map.get("name").and_then(Value::as_str).ok_or_else(|| at.missing("name"))?;
            Ok(ToolChoice::Named(name.to_owned()))
        }
        Some("allowed_tools") => {
            let tools = map.get("tools").and_then(Value::as_array).ok_or_else(|| at.missing("tools"))?;
            let names = tools.iter().map(|tool| tool.get("name")?.as_str().map(str::to_owned));
            let names = names.collect::<Option<Vec<_>>>().ok_or_else(unknown)?;
            let required = map.get("mode").and_then(Value::as_str) == Some("required");
            Ok(ToolChoice::Allowed { names, required })
        }
        _ => Err(unsupported(at, "the target has no such built-in tool")),
    }
}

fn text(value: Value, at: &At<'_>, call: &mut ChatCall) -> Result<(), Fault> {
    let mut map = json::object(value, at)?;
    if let Some(format) = json::take(&mut map, "format") {
        let at = at.key("format");
        let mut format = json::object(format, &at)?;
        let kind = json::take(&mut format, "type").ok_or_else(|| at.missing("type"))?;
        call.response_format = Some(match json::string(kind, &at.key("type"))?.as_str() {
            "text" => ResponseFormat::Text,
            "json_object" => ResponseFormat::JsonObject,
            "json_schema" => {
                let text = |value: Option<Value>, key: &'static str| {
                    value.map(|value| json::string(value, &at.key(key))).transpose()
                };
                ResponseFormat::JsonSchema {
                    name: text(json::take(&mut format, "name"), "name")?
                        .unwrap_or_else(|| "response".to_owned()),
                    description: text(json::take(&mut format, "description"), "description")?,
                    strict: json::take(&mut format, "strict")
                        .map(|value| json::boolean(&value, &at.key("strict")))
                        .transpose()?,
                    schema: json::take(&mut format, "schema").ok_or_else(|| at.missing("schema"))?,
                }
            }
            other => return Err(unsupported(&at, format!("the target has no text format `{other}`"))),
        });
        if call.response_format == Some(ResponseFormat::Text) {
            // The default, said aloud by some clients and refused by some targets.
            call.response_format = None;
        }
    }
    map.retain(|_, value| !value.is_null());
    if !map.is_empty() {
        call.extra.fields.insert("text".to_owned(), Value::Object(map));
    }
    Ok(())
}
