//! Callers' requests in Google's shape. Names come in camelCase or `snake_case`.

use std::collections::VecDeque;

use millgate_types::{
    Block, Call, ChatCall, Dialect, EmbeddingCall, EmbeddingFormat, Extra, Fault, Message, Operation, Prompt,
    Reasoning, ResponseFormat, Role, Sampling, Tool, ToolChoice, code,
};
use serde_json::{Map, Value, json};

use super::parts::{self, Kind};
use super::{camel, schema};
use crate::json::{self, At};
use crate::seal::Place;
use crate::{not_implemented, refuse_control_field};

const ROOT: At<'static> = At::Root;

pub(super) fn call(operation: Operation, body: Map<String, Value>) -> Result<Call, Fault> {
    match operation {
        Operation::Chat => chat(body).map(|call| Call::Chat(Box::new(call))),
        Operation::CountTokens => count(body).map(|call| Call::Chat(Box::new(call))),
        Operation::Embeddings => embedding(body).map(Call::Embedding),
        _ => Err(not_implemented(Dialect::Gemini, operation)),
    }
}

/// `countTokens` takes contents, or a whole request.
fn count(body: Map<String, Value>) -> Result<ChatCall, Fault> {
    let mut body = camel(body);
    match json::take(&mut body, "generateContentRequest") {
        Some(request) => chat(json::object(request, &ROOT.key("generateContentRequest"))?),
        None => chat(body),
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
        // Google's streams always carry usage.
        include_usage: true,
        user: None,
        extra: Extra::none(Dialect::Gemini),
    };
    let mut system = None;
    let mut seen_contents = false;
    for (key, value) in camel(body) {
        refuse_control_field(&key)?;
        if value.is_null() {
            continue;
        }
        let at = ROOT.key(&key);
        match key.as_str() {
            // The path names the model; clients repeat it in `countTokens`.
            "model" => {}
            "contents" => {
                seen_contents = true;
                call.messages = contents(value, &at)?;
            }
            "systemInstruction" => system = Some(instruction(value, &at)?),
            "tools" => call.tools = tools(value, &at)?,
            "toolConfig" => tool_config(value, &at, &mut call)?,
            "generationConfig" => generation(value, &at, &mut call)?,
            _ => drop(call.extra.fields.insert(key, value)),
        }
    }
    if !seen_contents {
        return Err(ROOT.missing("contents"));
    }
    if let Some(content) = system.filter(|content| !content.is_empty()) {
        call.messages.insert(0, message(Role::System, content));
    }
    Ok(call)
}

fn message(role: Role, content: Vec<Block>) -> Message {
    Message { role, name: None, content, extra: Map::new() }
}

/// A content, or what older clients send in its place: a text or a list of parts.
fn instruction(value: Value, at: &At<'_>) -> Result<Vec<Block>, Fault> {
    let parts = match value {
        Value::String(text) => return Ok(vec![Block::text(text)]),
        Value::Object(map) => camel(map).shift_remove("parts").unwrap_or(Value::Array(Vec::new())),
        parts => parts,
    };
    let mut reader = Reader::default();
    reader.blocks(parts, &at.key("parts"))
}

fn contents(value: Value, at: &At<'_>) -> Result<Vec<Message>, Fault> {
    let items = match value {
        Value::Array(items) => items,
        Value::String(text) => vec![json!({"parts": [{"text": text}]})],
        one => vec![one],
    };
    if items.is_empty() {
        return Err(at.invalid("`contents` must hold at least one content"));
    }
    let mut reader = Reader::default();
    let mut out = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let at = at.index(index);
        let mut map = camel(json::object(item, &at)?);
        let role_at = at.key("role");
        let role = match json::take(&mut map, "role") {
            None => Role::User,
            Some(role) => match json::string(role, &role_at)?.as_str() {
                "user" | "function" | "tool" | "" => Role::User,
                "model" => Role::Assistant,
                "system" => Role::System,
                _ => return Err(role_at.invalid(format!("`{role_at}` must be `user` or `model`"))),
            },
        };
        let parts = json::take(&mut map, "parts").unwrap_or(Value::Array(Vec::new()));
        let mut content = reader.blocks(parts, &at.key("parts"))?;
        // Results of tools stand in a message of their own.
        let is_result = |block: &Block| matches!(block, Block::ToolResult { .. });
        while role == Role::User && content.iter().any(is_result) {
            let results = is_result(&content[0]);
            let end = content.iter().position(|block| is_result(block) != results).unwrap_or(content.len());
            let rest = content.split_off(end);
            out.push(message(if results { Role::Tool } else { Role::User }, content));
            content = rest;
        }
        let over = content.is_empty() && out.last().is_some_and(|last| last.role == Role::Tool);
        if !over {
            out.push(message(role, content));
        }
    }
    Ok(out)
}

/// Gives calls without an id one, and finds it again for their results: by name, in order.
#[derive(Default)]
struct Reader {
    made: usize,
    open: VecDeque<(String, String)>,
}

impl Reader {
    fn blocks(&mut self, value: Value, at: &At<'_>) -> Result<Vec<Block>, Fault> {
        let items = match value {
            Value::Array(items) => items,
            Value::String(text) => return Ok(vec![Block::text(text)]),
            one => vec![one],
        };
        let mut out = Vec::with_capacity(items.len());
        let mut calls = 0;
        for (index, item) in items.into_iter().enumerate() {
            let at = at.index(index);
            if let Value::String(text) = item {
                out.push(Block::text(text));
                continue;
            }
            let item = Value::Object(json::object(item, &at)?);
            let Some(part) = parts::read(item) else { continue };
            let seal = |place: Place, text: String| {
                part.signature.as_deref().map(|signature| parts::sealed(signature, place, text))
            };
            match part.kind {
                Kind::Thought(text) => match seal(Place::Thought, text.clone()) {
                    Some(block) => out.push(block),
                    None => out.push(Block::Reasoning { text, signature: None }),
                },
                Kind::Text(text) => {
                    if !text.is_empty() || part.signature.is_none() {
                        out.push(Block::text(text));
                    }
                    out.extend(seal(Place::Text, String::new()));
                }
                Kind::Call(parts::Call { id, name, arguments, .. }) => {
                    if name.is_empty() {
                        return Err(at.key("functionCall").missing("name"));
                    }
                    out.extend(seal(Place::Call(calls), String::new()));
                    calls += 1;
                    let id = id.unwrap_or_else(|| {
                        self.made += 1;
                        format!("call_{}", self.made - 1)
                    });
                    self.open.push_back((id.clone(), name.clone()));
                    out.push(Block::ToolCall { id, name, arguments, cache_control: None });
                }
                Kind::Response { id, name, response, parts } => {
                    if name.is_empty() && id.is_none() {
                        return Err(at.key("functionResponse").missing("name"));
                    }
                    let call_id = self.answered(id, &name);
                    let (mut content, is_error) = result(response);
                    content.extend(self.blocks(Value::Array(parts), &at.key("functionResponse"))?);
                    out.push(Block::ToolResult { call_id, content, is_error, cache_control: None });
                }
                Kind::Media(block) => out.push(block),
                Kind::Other(value) => out.push(parts::other(value)),
            }
        }
        Ok(out)
    }

    /// The id of the call that a result answers.
    fn answered(&mut self, id: Option<String>, name: &str) -> String {
        let place = self.open.iter().position(|(open, called)| match &id {
            Some(id) => open == id,
            None => called == name,
        });
        match (place.and_then(|place| self.open.remove(place)), id) {
            (_, Some(id)) | (Some((id, _)), None) => id,
            (None, None) => name.to_owned(),
        }
    }
}

/// A tool's answer as text. `{"result": text}` and its like are the text alone: that is how scalars have to be
/// wrapped in this dialect.
fn result(response: Value) -> (Vec<Block>, bool) {
    if let Value::Object(map) = &response
        && map.len() == 1
        && let Some((key, Value::String(text))) = map.iter().next()
        && ["result", "output", "error"].contains(&key.as_str())
    {
        return (vec![Block::text(text.clone())], key == "error");
    }
    match response {
        Value::Object(map) if map.is_empty() => (Vec::new(), false),
        other => (vec![Block::text(other.to_string())], false),
    }
}

fn tools(value: Value, at: &At<'_>) -> Result<Vec<Tool>, Fault> {
    let mut out = Vec::new();
    let items = match value {
        one @ Value::Object(_) => vec![one],
        items => json::array(items, at)?,
    };
    for (index, item) in items.into_iter().enumerate() {
        let at = at.index(index);
        for (key, value) in camel(json::object(item, &at)?) {
            let at = at.key(&key);
            if value.is_null() {
                continue;
            }
            if key != "functionDeclarations" {
                let other = Some((Dialect::Gemini, json!({&key: value})));
                out.push(Tool {
                    name: key,
                    description: None,
                    parameters: None,
                    strict: None,
                    other,
                    cache_control: None,
                });
                continue;
            }
            for (index, item) in json::array(value, &at)?.into_iter().enumerate() {
                out.push(declaration(item, &at.index(index))?);
            }
        }
    }
    Ok(out)
}

fn declaration(value: Value, at: &At<'_>) -> Result<Tool, Fault> {
    let mut map = camel(json::object(value, at)?);
    let name = json::take(&mut map, "name").ok_or_else(|| at.missing("name"))?;
    let written = json::take(&mut map, "parametersJsonSchema").or_else(|| json::take(&mut map, "parameters"));
    Ok(Tool {
        name: json::string(name, &at.key("name"))?,
        description: json::take(&mut map, "description")
            .map(|value| json::string(value, &at.key("description")))
            .transpose()?,
        parameters: written
            .map(|value| json::object(value, &at.key("parameters")).map(Value::Object))
            .transpose()?
            .map(schema::json_schema),
        strict: None,
        other: None,
        cache_control: None,
    })
}

fn tool_config(value: Value, at: &At<'_>, call: &mut ChatCall) -> Result<(), Fault> {
    let mut map = camel(json::object(value, at)?);
    if let Some(value) = json::take(&mut map, "functionCallingConfig") {
        let at = at.key("functionCallingConfig");
        let mut config = camel(json::object(value, &at)?);
        let mut names = match json::take(&mut config, "allowedFunctionNames") {
            Some(names) => json::strings(names, &at.key("allowedFunctionNames"))?,
            None => Vec::new(),
        };
        let mode = match json::take(&mut config, "mode") {
            Some(mode) => json::string(mode, &at.key("mode"))?.to_ascii_uppercase(),
            None => "AUTO".to_owned(),
        };
        call.tool_choice = Some(match (mode.as_str(), names.len()) {
            ("NONE", _) => ToolChoice::None,
            ("ANY", 0) => ToolChoice::Required,
            ("ANY", 1) => ToolChoice::Named(names.remove(0)),
            ("ANY", _) => ToolChoice::Allowed { names, required: true },
            ("AUTO" | "VALIDATED" | "MODE_UNSPECIFIED", 0) => ToolChoice::Auto,
            ("AUTO" | "VALIDATED" | "MODE_UNSPECIFIED", _) => ToolChoice::Allowed { names, required: false },
            _ => return Err(at.key("mode").invalid("`mode` must be AUTO, ANY, NONE or VALIDATED")),
        });
    }
    if !map.is_empty() {
        call.extra.fields.insert("toolConfig".to_owned(), Value::Object(map));
    }
    Ok(())
}

fn generation(value: Value, at: &At<'_>, call: &mut ChatCall) -> Result<(), Fault> {
    let mut rest = Map::new();
    let (mut media_type, mut form) = (None, None);
    let sampling = &mut call.sampling;
    for (key, value) in camel(json::object(value, at)?) {
        if value.is_null() {
            continue;
        }
        let at = at.key(&key);
        match key.as_str() {
            "temperature" => sampling.temperature = Some(json::number(&value, &at, 0.0, 2.0)?),
            "topP" => sampling.top_p = Some(json::number(&value, &at, 0.0, 1.0)?),
            // Google's clients write it as a float.
            "topK" => sampling.top_k = Some(json::number(&value, &at, 0.0, 1e9)? as u64).filter(|k| *k > 0),
            "frequencyPenalty" => sampling.frequency_penalty = Some(json::number(&value, &at, -2.0, 2.0)?),
            "presencePenalty" => sampling.presence_penalty = Some(json::number(&value, &at, -2.0, 2.0)?),
            "stopSequences" => sampling.stop = json::strings(value, &at)?,
            "seed" => sampling.seed = Some(json::signed(&value, &at)?),
            "candidateCount" => sampling.n = Some(json::unsigned(&value, &at, 1, 128)?),
            "maxOutputTokens" => call.max_output_tokens = Some(json::unsigned(&value, &at, 1, u64::MAX)?),
            "responseMimeType" => media_type = Some(json::string(value, &at)?),
            "responseSchema" | "responseJsonSchema" | "_responseJsonSchema" => {
                form = Some(schema::json_schema(Value::Object(json::object(value, &at)?)));
            }
            "thinkingConfig" => {
                let left = thinking(value, &at, &mut call.reasoning)?;
                if !left.is_empty() {
                    rest.insert(key, Value::Object(left));
                }
            }
            _ => drop(rest.insert(key, value)),
        }
    }
    call.response_format = match (media_type.as_deref(), form) {
        (None | Some("application/json"), Some(schema)) => {
            let name = "response".to_owned();
            Some(ResponseFormat::JsonSchema { name, description: None, schema, strict: None })
        }
        (Some("application/json"), None) => Some(ResponseFormat::JsonObject),
        (Some("text/plain"), _) => Some(ResponseFormat::Text),
        (None, None) => None,
        (Some(other), form) => {
            rest.insert("responseMimeType".to_owned(), json!(other));
            rest.extend(form.map(|schema| ("responseJsonSchema".to_owned(), schema)));
            None
        }
    };
    if !rest.is_empty() {
        call.extra.fields.insert("generationConfig".to_owned(), Value::Object(rest));
    }
    Ok(())
}

/// Gives back what has no name of its own.
fn thinking(
    value: Value,
    at: &At<'_>,
    reasoning: &mut Option<Reasoning>,
) -> Result<Map<String, Value>, Fault> {
    let mut map = camel(json::object(value, at)?);
    if let Some(level) = json::take(&mut map, "thinkingLevel") {
        let level = json::string(level, &at.key("thinkingLevel"))?.to_ascii_lowercase();
        if level != "thinking_level_unspecified" {
            reasoning.get_or_insert_default().effort = Some(level);
        }
    }
    if let Some(budget) = json::take(&mut map, "thinkingBudget") {
        let reasoning = reasoning.get_or_insert_default();
        match json::signed(&budget, &at.key("thinkingBudget"))? {
            0 => reasoning.effort = Some("none".to_owned()),
            budget if budget < 0 => reasoning.adaptive = true,
            budget => reasoning.budget_tokens = Some(budget.unsigned_abs()),
        }
    }
    if let Some(reasoning) = reasoning
        && map.get("includeThoughts") == Some(&Value::Bool(true))
    {
        map.shift_remove("includeThoughts");
        reasoning.shown = true;
    }
    Ok(map)
}

// ---- embeddings -------------------------------------------------------------------------------------

fn embedding(body: Map<String, Value>) -> Result<EmbeddingCall, Fault> {
    let mut body = camel(body);
    for key in body.keys() {
        refuse_control_field(key)?;
    }
    let (items, format) = match json::take(&mut body, "requests") {
        Some(requests) => (json::array(requests, &ROOT.key("requests"))?, EmbeddingFormat::Float),
        None => (vec![Value::Object(std::mem::take(&mut body))], EmbeddingFormat::Single),
    };
    if items.is_empty() {
        return Err(ROOT.key("requests").invalid("`requests` must not be empty"));
    }
    let mut texts = Vec::with_capacity(items.len());
    let mut call = EmbeddingCall {
        model: String::new(),
        input: Prompt::Texts(Vec::new()),
        dimensions: None,
        format,
        user: None,
        extra: Extra::none(Dialect::Gemini),
    };
    let requests = ROOT.key("requests");
    for (index, item) in items.into_iter().enumerate() {
        let at = if format == EmbeddingFormat::Single { ROOT } else { requests.index(index) };
        let mut map = camel(json::object(item, &at)?);
        map.shift_remove("model");
        let content = json::take(&mut map, "content").ok_or_else(|| at.missing("content"))?;
        texts.push(embedded_text(content, &at.key("content"))?);
        let dimensions = json::take(&mut map, "outputDimensionality")
            .map(|value| json::unsigned(&value, &at.key("outputDimensionality"), 1, u64::MAX))
            .transpose()?;
        map.retain(|_, value| !value.is_null());
        if index == 0 {
            call.dimensions = dimensions;
            call.extra.fields = map;
        } else if call.dimensions != dimensions || call.extra.fields != map {
            let public = "all `requests` of one call must have the same settings";
            return Err(Fault::client(code::UNSUPPORTED_PARAMETER, public).with_param(at.to_string()));
        }
    }
    call.input = Prompt::Texts(texts);
    Ok(call)
}

fn embedded_text(content: Value, at: &At<'_>) -> Result<String, Fault> {
    let mut text = String::new();
    for block in Reader::default().blocks(
        match content {
            Value::Object(map) => camel(map).shift_remove("parts").unwrap_or_default(),
            other => other,
        },
        &at.key("parts"),
    )? {
        match block {
            Block::Text { text: more, .. } => text.push_str(&more),
            _ => {
                return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "only texts can be embedded")
                    .with_param(at.to_string()));
            }
        }
    }
    Ok(text)
}
