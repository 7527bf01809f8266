//! Callers' requests in OpenAI's shape; MLflow shares it with a few rules of its own.

use millgate_types::{
    Block, Call, ChatCall, CompletionCall, Dialect, EmbeddingCall, EmbeddingFormat, Extra, Fault,
    MediaSource, Message, Operation, Prompt, Reasoning, ResponseFormat, Role, Sampling, Tool, ToolChoice,
};
use serde_json::{Map, Value};

use super::{answer, moderation, reasoning};
use crate::json::{self, At};
use crate::{check_model, not_implemented, refuse_control_field};

/// Where MLflow's reading differs from OpenAI's.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// `stop` may be a bare string.
    pub(crate) bare_stop: bool,
    /// Roles that are not known count as `user`.
    pub(crate) any_role: bool,
    /// `prompt` may be a list or tokens.
    pub(crate) any_prompt: bool,
}

pub(crate) const OPENAI: Rules = Rules { bare_stop: true, any_role: false, any_prompt: true };

pub(crate) fn call(operation: Operation, body: Map<String, Value>, rules: Rules) -> Result<Call, Fault> {
    match operation {
        Operation::Chat | Operation::CountTokens => chat(body, rules).map(|call| Call::Chat(Box::new(call))),
        Operation::Completions => completion(body, rules).map(Call::Completion),
        Operation::Embeddings => embedding(body).map(Call::Embedding),
        Operation::Moderations => moderation::decode_call(body).map(Call::Moderation),
        Operation::Rerank | Operation::Predict | Operation::Native => {
            Err(not_implemented(Dialect::OpenAi, operation))
        }
    }
}

const ROOT: At<'static> = At::Root;

fn chat(body: Map<String, Value>, rules: Rules) -> Result<ChatCall, Fault> {
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
        include_usage: false,
        user: None,
        extra: Extra::none(Dialect::OpenAi),
    };
    let mut limit = None;
    let mut seen_messages = false;
    for (key, value) in body {
        refuse_control_field(&key)?;
        if value.is_null() {
            continue;
        }
        let at = ROOT.key(&key);
        match key.as_str() {
            "model" => call.model = model(value, &at)?,
            "messages" => {
                seen_messages = true;
                call.messages = messages(value, &at, rules)?;
            }
            "tools" => call.tools = tools(value, &at)?,
            "tool_choice" => call.tool_choice = Some(tool_choice(value, &at)?),
            "parallel_tool_calls" => call.parallel_tool_calls = Some(json::boolean(&value, &at)?),
            "response_format" => match response_format(value, &at)? {
                Ok(format) => call.response_format = Some(format),
                Err(other) => drop(call.extra.fields.insert(key, other)),
            },
            "max_tokens" => limit = Some(json::unsigned(&value, &at, 1, u64::MAX)?),
            "max_completion_tokens" => {
                call.max_output_tokens = Some(json::unsigned(&value, &at, 1, u64::MAX)?);
            }
            "reasoning_effort" => {
                call.reasoning.get_or_insert_default().effort = Some(json::string(value, &at)?);
            }
            "reasoning" => match openrouter_reasoning(&value) {
                Some(found) => call.reasoning = Some(found),
                None => drop(call.extra.fields.insert(key, value)),
            },
            "stream" => call.stream = json::boolean(&value, &at)?,
            "stream_options" => call.include_usage = include_usage(value, &at)?,
            "user" => call.user = Some(json::string(value, &at)?),
            _ => match sampling(&mut call.sampling, &key, value, &at, rules)? {
                None => {}
                Some(value) => drop(call.extra.fields.insert(key, value)),
            },
        }
    }
    if !seen_messages {
        return Err(ROOT.missing("messages"));
    }
    call.max_output_tokens = call.max_output_tokens.or(limit);
    Ok(call)
}

fn completion(body: Map<String, Value>, rules: Rules) -> Result<CompletionCall, Fault> {
    let mut call = CompletionCall {
        model: String::new(),
        prompt: Prompt::Texts(Vec::new()),
        max_output_tokens: None,
        sampling: Sampling::default(),
        stream: false,
        include_usage: false,
        user: None,
        extra: Extra::none(Dialect::OpenAi),
    };
    let mut limit = None;
    let mut seen_prompt = false;
    for (key, value) in body {
        refuse_control_field(&key)?;
        if value.is_null() {
            continue;
        }
        let at = ROOT.key(&key);
        match key.as_str() {
            "model" => call.model = model(value, &at)?,
            "prompt" => {
                seen_prompt = true;
                call.prompt = match value {
                    Value::String(text) => Prompt::Text(text),
                    other if rules.any_prompt => prompt(other, &at)?,
                    other => Prompt::Text(json::string(other, &at)?),
                };
            }
            "max_tokens" => limit = Some(json::unsigned(&value, &at, 1, u64::MAX)?),
            "max_completion_tokens" => {
                call.max_output_tokens = Some(json::unsigned(&value, &at, 1, u64::MAX)?);
            }
            "stream" => call.stream = json::boolean(&value, &at)?,
            "stream_options" => call.include_usage = include_usage(value, &at)?,
            "user" => call.user = Some(json::string(value, &at)?),
            _ => match sampling(&mut call.sampling, &key, value, &at, rules)? {
                None => {}
                Some(value) => drop(call.extra.fields.insert(key, value)),
            },
        }
    }
    if !seen_prompt {
        return Err(ROOT.missing("prompt"));
    }
    call.max_output_tokens = call.max_output_tokens.or(limit);
    Ok(call)
}

fn embedding(body: Map<String, Value>) -> Result<EmbeddingCall, Fault> {
    let mut call = EmbeddingCall {
        model: String::new(),
        input: Prompt::Texts(Vec::new()),
        dimensions: None,
        format: EmbeddingFormat::Float,
        user: None,
        extra: Extra::none(Dialect::OpenAi),
    };
    let mut seen_input = false;
    for (key, value) in body {
        refuse_control_field(&key)?;
        if value.is_null() {
            continue;
        }
        let at = ROOT.key(&key);
        match key.as_str() {
            "model" => call.model = model(value, &at)?,
            "input" => {
                seen_input = true;
                call.input = prompt(value, &at)?;
            }
            "dimensions" => call.dimensions = Some(json::unsigned(&value, &at, 1, u64::MAX)?),
            "encoding_format" => {
                call.format = match json::string(value, &at)?.as_str() {
                    "float" => EmbeddingFormat::Float,
                    "base64" => EmbeddingFormat::Base64,
                    _ => return Err(at.invalid("`encoding_format` must be `float` or `base64`")),
                }
            }
            "user" => call.user = Some(json::string(value, &at)?),
            _ => drop(call.extra.fields.insert(key, value)),
        }
    }
    if !seen_input {
        return Err(ROOT.missing("input"));
    }
    Ok(call)
}

fn model(value: Value, at: &At<'_>) -> Result<String, Fault> {
    let name = json::string(value, at)?;
    check_model(&name)?;
    Ok(name)
}

fn include_usage(value: Value, at: &At<'_>) -> Result<bool, Fault> {
    match json::object(value, at)?.get("include_usage") {
        None | Some(Value::Null) => Ok(false),
        Some(value) => json::boolean(value, &at.key("include_usage")),
    }
}

/// Takes a sampling parameter; gives the value back when the key is not one.
fn sampling(
    sampling: &mut Sampling,
    key: &str,
    value: Value,
    at: &At<'_>,
    rules: Rules,
) -> Result<Option<Value>, Fault> {
    match key {
        "temperature" => sampling.temperature = Some(json::number(&value, at, 0.0, 2.0)?),
        "top_p" => sampling.top_p = Some(json::number(&value, at, 0.0, 1.0)?),
        "top_k" => {
            // Several servers read -1 as "off".
            if value.as_i64() != Some(-1) {
                sampling.top_k = Some(json::unsigned(&value, at, 1, u64::MAX)?);
            }
        }
        "frequency_penalty" => sampling.frequency_penalty = Some(json::number(&value, at, -2.0, 2.0)?),
        "presence_penalty" => sampling.presence_penalty = Some(json::number(&value, at, -2.0, 2.0)?),
        "stop" => {
            sampling.stop = match value {
                Value::String(text) if rules.bare_stop => vec![text],
                other => json::strings(other, at)?,
            }
        }
        "seed" => sampling.seed = Some(json::signed(&value, at)?),
        "n" => sampling.n = Some(json::unsigned(&value, at, 1, 128)?),
        _ => return Ok(Some(value)),
    }
    Ok(None)
}

fn openrouter_reasoning(value: &Value) -> Option<Reasoning> {
    let map = value.as_object()?;
    let mut found = Reasoning::default();
    for (key, value) in map {
        match key.as_str() {
            "effort" => found.effort = Some(value.as_str()?.to_owned()),
            "max_tokens" => found.budget_tokens = Some(value.as_u64()?),
            _ => return None,
        }
    }
    Some(found)
}

fn prompt(value: Value, at: &At<'_>) -> Result<Prompt, Fault> {
    let items = match value {
        Value::String(text) => return Ok(Prompt::Text(text)),
        other => json::array(other, at)?,
    };
    let each = |items: Vec<Value>, at: &At<'_>| -> Result<Vec<u64>, Fault> {
        items
            .iter()
            .enumerate()
            .map(|(index, item)| json::unsigned(item, &at.index(index), 0, u64::from(u32::MAX)))
            .collect()
    };
    match items.first() {
        None => Err(at.invalid(format!("`{at}` must not be empty"))),
        Some(Value::Number(_)) => each(items, at).map(Prompt::Tokens),
        Some(Value::Array(_)) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| {
                let at = at.index(index);
                each(json::array(item, &at)?, &at)
            })
            .collect::<Result<_, _>>()
            .map(Prompt::TokenLists),
        Some(_) => json::strings(Value::Array(items), at).map(Prompt::Texts),
    }
}

fn messages(value: Value, at: &At<'_>, rules: Rules) -> Result<Vec<Message>, Fault> {
    let items = json::array(value, at)?;
    if items.is_empty() {
        return Err(at.invalid("`messages` must hold at least one message"));
    }
    items.into_iter().enumerate().map(|(index, item)| message(item, &at.index(index), rules)).collect()
}

fn message(value: Value, at: &At<'_>, rules: Rules) -> Result<Message, Fault> {
    let mut map = json::object(value, at)?;
    let role_at = at.key("role");
    let word = json::string(map.shift_remove("role").ok_or_else(|| at.missing("role"))?, &role_at)?;
    let role = match word.as_str() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        _ if rules.any_role => Role::User,
        _ => return Err(role_at.invalid(format!("`{role_at}` is not a role"))),
    };
    if role != Role::Assistant && !rules.any_role && map.get("content").is_none_or(Value::is_null) {
        return Err(at.missing("content"));
    }
    let mut message = Message { role, name: None, content: Vec::new(), extra: Map::new() };
    let (mut content, mut calls, mut call_id, mut refusal) = (Vec::new(), Vec::new(), String::new(), None);
    let (mut thinking, mut details) = (None, None);
    for (key, value) in map {
        if value.is_null() {
            continue;
        }
        let at = at.key(&key);
        match key.as_str() {
            "content" => content = parts(value, &at)?,
            "name" => message.name = Some(json::string(value, &at)?),
            "tool_calls" if role == Role::Assistant => calls = tool_calls(value, &at)?,
            "tool_call_id" if role == Role::Tool => call_id = json::string(value, &at)?,
            "refusal" if role == Role::Assistant => refusal = Some(json::string(value, &at)?),
            "reasoning_content" | "reasoning" if role == Role::Assistant && value.is_string() => {
                thinking = value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).or(thinking);
            }
            "reasoning_details" if role == Role::Assistant => details = Some(value),
            _ => drop(message.extra.insert(key, value)),
        }
    }
    if role == Role::Tool {
        if word == "tool" && call_id.is_empty() {
            return Err(at.missing("tool_call_id"));
        }
        message.content = vec![Block::ToolResult { call_id, content, is_error: false, cache_control: None }];
        return Ok(message);
    }
    message.content = reasoning::blocks(thinking, details, &mut message.extra);
    message.content.append(&mut content);
    message.content.extend(refusal.map(|text| Block::Refusal { text }));
    message.content.append(&mut calls);
    Ok(message)
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
    let mut map = match value {
        Value::String(text) => return Ok(Block::text(text)),
        other => json::object(other, at)?,
    };
    let kind = match map.get("type") {
        Some(value) => json::string(value.clone(), &at.key("type"))?,
        None => return Err(at.missing("type")),
    };
    let cache_control = json::take(&mut map, "cache_control");
    let need =
        |map: &mut Map<String, Value>, key: &'static str| json::take(map, key).ok_or_else(|| at.missing(key));
    Ok(match kind.as_str() {
        "text" => {
            let text = json::string(need(&mut map, "text")?, &at.key("text"))?;
            Block::Text { text, cache_control, citations: Vec::new() }
        }
        // Mistral's thinking, as its callers echo it.
        "thinking"
            if map.get("thinking").is_some_and(|thinking| thinking.is_array() || thinking.is_string()) =>
        {
            let text = answer::thinking_text(&Value::Object(map));
            Block::Reasoning { text, signature: None }
        }
        "refusal" => Block::Refusal { text: json::string(need(&mut map, "refusal")?, &at.key("refusal"))? },
        "image_url" => {
            let at = at.key("image_url");
            let (url, detail) = match need(&mut map, "image_url")? {
                Value::String(url) => (url, None),
                other => {
                    let mut image = json::object(other, &at)?;
                    let url = json::take(&mut image, "url").ok_or_else(|| at.missing("url"))?;
                    let detail = json::take(&mut image, "detail")
                        .map(|value| json::string(value, &at.key("detail")))
                        .transpose()?;
                    (json::string(url, &at.key("url"))?, detail)
                }
            };
            Block::Image { source: media(url), detail, cache_control }
        }
        // Mistral's form is a bare string; it stays as it is.
        "input_audio" if !map.get("input_audio").is_some_and(Value::is_string) => {
            let at = at.key("input_audio");
            let mut audio = json::object(need(&mut map, "input_audio")?, &at)?;
            let mut field = |key: &'static str| {
                let value = json::take(&mut audio, key).ok_or_else(|| at.missing(key))?;
                json::string(value, &at.key(key))
            };
            Block::Audio { data: field("data")?, format: field("format")? }
        }
        "file" => {
            let at = at.key("file");
            let mut file = json::object(need(&mut map, "file")?, &at)?;
            let filename = json::take(&mut file, "filename")
                .map(|value| json::string(value, &at.key("filename")))
                .transpose()?;
            let source = if let Some(value) = json::take(&mut file, "file_data") {
                media(json::string(value, &at.key("file_data"))?)
            } else if let Some(value) = json::take(&mut file, "file_id") {
                MediaSource::FileId(json::string(value, &at.key("file_id"))?)
            } else {
                return Err(at.missing("file_data"));
            };
            Block::File { source, filename, cache_control, extra: file }
        }
        _ => {
            if let Some(mark) = cache_control {
                map.insert("cache_control".to_owned(), mark);
            }
            Block::Other { dialect: Dialect::OpenAi, value: Value::Object(map) }
        }
    })
}

/// A data URL's bytes, or a URL for the provider to fetch.
fn media(url: String) -> MediaSource {
    if let Some((media_type, data)) = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        return MediaSource::Base64 { media_type: media_type.to_owned(), data: data.to_owned() };
    }
    MediaSource::Url(url)
}

fn tool_calls(value: Value, at: &At<'_>) -> Result<Vec<Block>, Fault> {
    json::array(value, at)?
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let at = at.index(index);
            let mut map = json::object(item, &at)?;
            if !map.contains_key("function") {
                return Ok(Block::Other { dialect: Dialect::OpenAi, value: Value::Object(map) });
            }
            let id = json::take(&mut map, "id").ok_or_else(|| at.missing("id"))?;
            let id = json::string(id, &at.key("id"))?;
            let cache_control = json::take(&mut map, "cache_control");
            let at = at.key("function");
            let mut function = json::object(map.shift_remove("function").unwrap_or_default(), &at)?;
            let name = json::take(&mut function, "name").ok_or_else(|| at.missing("name"))?;
            let name = json::string(name, &at.key("name"))?;
            let arguments = match json::take(&mut function, "arguments") {
                None => "{}".to_owned(),
                Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
                Some(Value::String(text)) => text,
                Some(other @ Value::Object(_)) => other.to_string(),
                Some(other) => json::string(other, &at.key("arguments"))?,
            };
            Ok(Block::ToolCall { id, name, arguments, cache_control })
        })
        .collect()
}

fn tools(value: Value, at: &At<'_>) -> Result<Vec<Tool>, Fault> {
    json::array(value, at)?
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let at = at.index(index);
            let mut map = json::object(item, &at)?;
            let kind = match json::take(&mut map, "type") {
                Some(kind) => json::string(kind, &at.key("type"))?,
                None if map.contains_key("function") => "function".to_owned(),
                None => return Err(at.missing("type")),
            };
            if kind != "function" && kind != "uc_function" {
                map.insert("type".to_owned(), Value::String(kind.clone()));
                let other = Some((Dialect::OpenAi, Value::Object(map)));
                return Ok(Tool {
                    name: kind,
                    description: None,
                    parameters: None,
                    strict: None,
                    other,
                    cache_control: None,
                });
            }
            let cache_control = json::take(&mut map, "cache_control");
            let function = json::take(&mut map, "function").ok_or_else(|| at.missing("function"))?;
            let at = at.key("function");
            let mut function = json::object(function, &at)?;
            let name = json::take(&mut function, "name").ok_or_else(|| at.missing("name"))?;
            let description = json::take(&mut function, "description")
                .map(|value| json::string(value, &at.key("description")))
                .transpose()?;
            let parameters = json::take(&mut function, "parameters")
                .map(|value| json::object(value, &at.key("parameters")).map(Value::Object))
                .transpose()?;
            let strict = json::take(&mut function, "strict")
                .map(|value| json::boolean(&value, &at.key("strict")))
                .transpose()?;
            let name = json::string(name, &at.key("name"))?;
            Ok(Tool { name, description, parameters, strict, other: None, cache_control })
        })
        .collect()
}

fn tool_choice(value: Value, at: &At<'_>) -> Result<ToolChoice, Fault> {
    let unknown = || at.invalid("`tool_choice` is not one of the known forms");
    match value {
        Value::String(word) => match word.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" | "any" => Ok(ToolChoice::Required),
            _ => Err(unknown()),
        },
        Value::Object(map) => {
            if let Some(name) = map.get("function").and_then(|function| function.get("name")) {
                return name.as_str().map(|name| ToolChoice::Named(name.to_owned())).ok_or_else(unknown);
            }
            let allowed = map.get("allowed_tools").ok_or_else(unknown)?;
            let tools = allowed.get("tools").and_then(Value::as_array).ok_or_else(unknown)?;
            let names = tools
                .iter()
                .map(|tool| tool.get("function")?.get("name")?.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(unknown)?;
            let required = allowed.get("mode").and_then(Value::as_str) == Some("required");
            Ok(ToolChoice::Allowed { names, required })
        }
        other => {
            Err(at.invalid(format!("`{at}` must be a string or an object, not {}", json::type_name(&other))))
        }
    }
}

/// The inner error is a format that the canonical form does not name.
fn response_format(value: Value, at: &At<'_>) -> Result<Result<ResponseFormat, Value>, Fault> {
    let mut map = json::object(value, at)?;
    let kind = map.get("type").cloned().ok_or_else(|| at.missing("type"))?;
    Ok(Ok(match json::string(kind, &at.key("type"))?.as_str() {
        "text" => ResponseFormat::Text,
        "json_object" => ResponseFormat::JsonObject,
        "json_schema" => {
            let at = at.key("json_schema");
            let schema = json::take(&mut map, "json_schema").unwrap_or(Value::Null);
            let mut schema = json::object(schema, &at)?;
            let name = json::take(&mut schema, "name")
                .map_or(Ok("response".to_owned()), |value| json::string(value, &at.key("name")))?;
            let description = json::take(&mut schema, "description")
                .map(|value| json::string(value, &at.key("description")))
                .transpose()?;
            let strict = json::take(&mut schema, "strict")
                .map(|value| json::boolean(&value, &at.key("strict")))
                .transpose()?;
            let schema = json::take(&mut schema, "schema").ok_or_else(|| at.missing("schema"))?;
            ResponseFormat::JsonSchema { name, description, schema, strict }
        }
        _ => return Ok(Err(Value::Object(map))),
    }))
}
