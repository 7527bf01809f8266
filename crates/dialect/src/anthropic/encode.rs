//! Requests for Anthropic's Messages API.

use millgate_types::{
    Block, Call, ChatCall, Dialect, Fault, MediaSource, Message, ResponseFormat, Role, Tool, ToolChoice, code,
};
use serde_json::{Map, Value, json};

use crate::json::{Array, Object};
use crate::quirks::{Quirks, ThinkingStyle};
use crate::{EncodedCall, completion, not_implemented, seal};

pub(super) fn call(call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    match call {
        Call::Chat(call) => chat(call, quirks),
        Call::Completion(call) => chat(&completion::completion_as_chat(call)?, quirks),
        Call::Embedding(_) | Call::Rerank(_) | Call::Moderation(_) => {
            Err(not_implemented(Dialect::Anthropic, call.operation()))
        }
    }
}

/// A model's version, as its name tells: `claude-sonnet-4-5-20250929`, `claude-3-5-haiku`, `claude-opus-4`.
pub(crate) fn version(model: &str) -> Option<(u32, u32)> {
    let (_, rest) = model.split_once("claude")?;
    let mut numbers = rest
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|part| part.parse::<u32>().ok())
        .filter(|number| *number < 100);
    let major = numbers.next()?;
    Some((major, numbers.next().unwrap_or(0)))
}

/// The parts of the body that depend on each other.
pub(crate) struct Plan {
    pub(crate) max_tokens: u64,
    pub(crate) thinking: Option<Value>,
    pub(crate) effort: Option<String>,
}

fn chat(call: &ChatCall, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    if call.sampling.n.is_some_and(|n| n > 1) {
        return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target gives one answer, `n` must be 1")
            .with_param("n"));
    }
    let same = call.extra.dialect == Dialect::Anthropic;
    let mut dropped = Vec::new();
    let plan = plan(call, quirks, same, &mut dropped);
    let mut writer = Writer { same, dropped };
    let mut body = Vec::with_capacity(1024);
    let mut top = Object::new(&mut body);
    top.some("anthropic_version", quirks.anthropic_version.as_ref());
    if !quirks.omit_model && !call.model.is_empty() {
        top.string("model", &call.model);
    }
    top.field("max_tokens", &plan.max_tokens);
    let structured = version(&call.model).is_none_or(|version| version >= (4, 1));
    let words = match &call.response_format {
        Some(ResponseFormat::JsonObject) => Some(completion::OBJECT_SENTENCE.to_owned()),
        Some(ResponseFormat::JsonSchema { schema, .. }) if !structured => {
            Some(completion::schema_sentence(schema))
        }
        _ => None,
    };
    writer.conversation(&mut top, &call.messages, words)?;
    if !call.tools.is_empty() {
        writer.tools(&mut top, call, structured && quirks.strict_tools);
    }
    writer.sampling(&mut top, call, quirks, plan.thinking.is_some());
    if call.stream {
        top.field("stream", &true);
    }
    writer.settings(&mut top, call, &plan, structured);
    top.end();
    Ok(EncodedCall { body, dropped: writer.dropped })
}

/// How the model is told to think, and what its answer's bound must be then.
pub(crate) fn plan(call: &ChatCall, quirks: &Quirks, same: bool, dropped: &mut Vec<String>) -> Plan {
    let limit = call.max_output_tokens;
    let mut plan =
        Plan { max_tokens: limit.unwrap_or(quirks.default_max_tokens), thinking: None, effort: None };
    let Some(reasoning) = &call.reasoning else { return plan };
    let disabled = reasoning.effort.as_deref() == Some("none");
    if same {
        // The caller's own words.
        if let Some(budget) = reasoning.budget_tokens {
            plan.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
        } else if reasoning.adaptive {
            plan.thinking = Some(json!({"type": "adaptive"}));
        } else if disabled {
            plan.thinking = Some(json!({"type": "disabled"}));
        }
        plan.effort = reasoning.effort.clone().filter(|_| !disabled);
        return plan;
    }
    if disabled {
        return plan;
    }
    if matches!(
        call.tool_choice,
        Some(ToolChoice::Required | ToolChoice::Named(_) | ToolChoice::Allowed { required: true, .. })
    ) {
        // Thinking and a forced tool exclude each other; the tool is what the caller's code relies on.
        dropped.push("reasoning_effort".to_owned());
        return plan;
    }
    let adaptive = match quirks.thinking {
        ThinkingStyle::Adaptive => true,
        ThinkingStyle::Budget => false,
        ThinkingStyle::Auto => version(&call.model).is_some_and(|version| version >= (4, 6)),
    };
    if adaptive {
        plan.thinking = Some(json!({"type": "adaptive"}));
        plan.effort = reasoning
            .effort
            .as_deref()
            .map(|effort| if effort == "minimal" { "low" } else { effort }.to_owned());
        return plan;
    }
    if version(&call.model).is_some_and(|version| version < (3, 7)) {
        dropped.push("reasoning_effort".to_owned());
        return plan;
    }
    let budget = reasoning.budget_tokens.unwrap_or(match reasoning.effort.as_deref() {
        Some("minimal" | "low") => 1024,
        Some("high") => 16_384,
        Some("xhigh" | "max") => 32_768,
        _ => 4096,
    });
    match limit {
        Some(limit) if limit <= 1024 => dropped.push("reasoning_effort".to_owned()),
        Some(limit) => {
            let budget = budget.clamp(1024, (limit - 1).max(1024));
            plan.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
        }
        None => {
            plan.max_tokens = plan.max_tokens.saturating_add(budget);
            plan.thinking = Some(json!({"type": "enabled", "budget_tokens": budget.max(1024)}));
        }
    }
    plan
}

/// Anthropic takes ids of letters, digits, `_` and `-`.
fn tool_id(id: &str) -> String {
    let clean: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect();
    if clean.is_empty() { "call".to_owned() } else { clean }
}

struct Writer {
    same: bool,
    dropped: Vec<String>,
}

impl Writer {
    fn sampling(&mut self, top: &mut Object<'_>, call: &ChatCall, quirks: &Quirks, thinking: bool) {
        let sampling = &call.sampling;
        // Thinking forbids a temperature; what a caller of this dialect says stands.
        let allowed = quirks.sampling && (self.same || !thinking);
        let mut maybe = |key: &str, value: Option<Value>, allowed: bool| match value {
            Some(value) if allowed => top.field(key, &value),
            Some(_) => self.dropped.push(key.to_owned()),
            None => {}
        };
        maybe("temperature", sampling.temperature.map(|value| json!(value.clamp(0.0, 1.0))), allowed);
        maybe("top_p", sampling.top_p.map(|value| json!(value)), allowed);
        maybe("top_k", sampling.top_k.map(|value| json!(value)), allowed);
        maybe("frequency_penalty", sampling.frequency_penalty.map(Value::from), false);
        maybe("presence_penalty", sampling.presence_penalty.map(Value::from), false);
        maybe("seed", sampling.seed.map(Value::from), false);
        // Blank stop texts are refused.
        let stop: Vec<&String> =
            sampling.stop.iter().filter(|text| self.same || !text.trim().is_empty()).collect();
        if stop.len() < sampling.stop.len() {
            self.dropped.push("stop".to_owned());
        }
        if !stop.is_empty() {
            top.field("stop_sequences", &stop);
        }
    }

    fn settings(&mut self, top: &mut Object<'_>, call: &ChatCall, plan: &Plan, structured: bool) {
        let fields = &call.extra.fields;
        let own = |key: &str| fields.get(key).filter(|_| self.same);
        if let Some(thinking) = own("thinking").or(plan.thinking.as_ref()) {
            top.field("thinking", thinking);
        }
        let mut config = Map::new();
        if let Some(effort) = &plan.effort {
            config.insert("effort".to_owned(), json!(effort));
        }
        if let (Some(ResponseFormat::JsonSchema { schema, .. }), true) = (&call.response_format, structured) {
            let schema = if self.same { schema.clone() } else { closed(schema.clone()) };
            config.insert("format".to_owned(), json!({"type": "json_schema", "schema": schema}));
        }
        if let Some(Value::Object(more)) = own("output_config") {
            config.extend(more.clone());
        }
        if !config.is_empty() {
            top.field("output_config", &config);
        }
        let mut metadata = Map::new();
        if let Some(user) = &call.user {
            metadata.insert("user_id".to_owned(), json!(user));
        }
        if let Some(Value::Object(more)) = own("metadata") {
            metadata.extend(more.clone());
        }
        if !metadata.is_empty() {
            top.field("metadata", &metadata);
        }
        for (key, value) in fields {
            if !self.same {
                self.dropped.push(key.clone());
            } else if !["thinking", "output_config", "metadata"].contains(&key.as_str()) {
                top.field(key, value);
            }
        }
    }

    fn tools(&mut self, top: &mut Object<'_>, call: &ChatCall, strict: bool) {
        let allowed = |tool: &Tool| match &call.tool_choice {
            Some(ToolChoice::Allowed { names, .. }) => names.contains(&tool.name),
            _ => true,
        };
        let mut list = top.array("tools");
        let mut any = false;
        for (index, tool) in call.tools.iter().enumerate() {
            match &tool.other {
                Some((Dialect::Anthropic, value)) => list.push(value),
                Some(_) => {
                    self.dropped.push(format!("tools[{index}]"));
                    continue;
                }
                None if !allowed(tool) => continue,
                None => {
                    let mut item = list.object();
                    item.field("name", &tool.name);
                    item.some("description", tool.description.as_ref());
                    match &tool.parameters {
                        Some(schema) if schema.get("type").is_some() => item.field("input_schema", schema),
                        Some(Value::Object(schema)) => {
                            let mut typed = Map::new();
                            typed.insert("type".to_owned(), json!("object"));
                            typed.extend(schema.clone());
                            item.field("input_schema", &typed);
                        }
                        _ => item.field("input_schema", &json!({"type": "object", "properties": {}})),
                    }
                    item.some("strict", tool.strict.as_ref().filter(|_| self.same || strict));
                    item.some("cache_control", tool.cache_control.as_ref());
                    item.end();
                }
            }
            any = true;
        }
        list.end();
        if !any {
            return;
        }
        let parallel_off = call.parallel_tool_calls == Some(false);
        let mut choice = match &call.tool_choice {
            Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => json!({"type": "auto"}),
            Some(ToolChoice::None) => json!({"type": "none"}),
            Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) => json!({"type": "any"}),
            Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
            None if parallel_off => json!({"type": "auto"}),
            None => return,
        };
        let takes_switch = !matches!(call.tool_choice, Some(ToolChoice::None));
        if let (Some(parallel), true, Some(map)) =
            (call.parallel_tool_calls.filter(|on| !on || self.same), takes_switch, choice.as_object_mut())
        {
            map.insert("disable_parallel_tool_use".to_owned(), json!(!parallel));
        }
        top.field("tool_choice", &choice);
    }

    fn conversation(
        &mut self,
        top: &mut Object<'_>,
        messages: &[Message],
        words: Option<String>,
    ) -> Result<(), Fault> {
        let is_system =
            |message: &&(usize, &Message)| matches!(message.1.role, Role::System | Role::Developer);
        let (system, turns): (Vec<_>, Vec<_>) =
            messages.iter().enumerate().partition(|pair| is_system(&pair));
        let mut system: Vec<(String, Option<Value>)> = system
            .iter()
            .flat_map(|(index, message)| message.content.iter().map(move |block| (*index, block)))
            .filter_map(|(index, block)| match block {
                Block::Text { text, cache_control, .. } if !text.is_empty() => {
                    Some((text.clone(), cache_control.clone()))
                }
                Block::Text { .. } => None,
                _ => {
                    self.dropped.push(format!("messages[{index}].content"));
                    None
                }
            })
            .collect();
        system.extend(words.map(|words| (words, None)));
        let mut turns = self.turns(&turns)?;
        if turns.is_empty() {
            // Instructions alone are no conversation here: they become the user's turn.
            let content = system.drain(..).map(|(text, mark)| text_block(&text, mark.as_ref())).collect();
            turns.push(("user", content));
        }
        match system.as_slice() {
            [] => {}
            [(text, None)] => top.string("system", text),
            blocks => {
                let blocks: Vec<Value> =
                    blocks.iter().map(|(text, mark)| text_block(text, mark.as_ref())).collect();
                top.field("system", &blocks);
            }
        }
        let mut list = top.array("messages");
        for (role, content) in &turns {
            write_turn(&mut list, role, content);
        }
        list.end();
        Ok(())
    }

    /// Messages as alternating turns; results of tools come first in theirs.
    fn turns(&mut self, messages: &[(usize, &Message)]) -> Result<Vec<(&'static str, Vec<Value>)>, Fault> {
        let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
        for (index, message) in messages {
            let role = if message.role == Role::Assistant { "assistant" } else { "user" };
            let mut content = Vec::with_capacity(message.content.len());
            for (place, block) in message.content.iter().enumerate() {
                let path = || format!("messages[{index}].content[{place}]");
                self.block(block, role == "assistant", &mut content, &path)?;
            }
            if !self.same {
                let name = message.name.is_some().then_some("name");
                for key in message.extra.keys().map(String::as_str).chain(name) {
                    self.dropped.push(format!("messages[{index}].{key}"));
                }
            }
            match turns.last_mut() {
                Some((last, blocks)) if *last == role => blocks.append(&mut content),
                _ if content.is_empty() => {}
                _ => turns.push((role, content)),
            }
        }
        for (role, content) in &mut turns {
            if *role == "user" {
                content.sort_by_key(|block| block.get("type").is_none_or(|kind| kind != "tool_result"));
            }
        }
        // A last assistant turn is a prefill, which may not end in white space.
        if let Some(("assistant", content)) = turns.last_mut()
            && let Some(last) = content.last_mut()
            && let Some(Value::String(text)) = last.get_mut("text")
        {
            text.truncate(text.trim_end().len());
            if text.is_empty() {
                content.pop();
            }
        }
        turns.retain(|(_, content)| !content.is_empty());
        Ok(turns)
    }

    fn block(
        &mut self,
        block: &Block,
        assistant: bool,
        out: &mut Vec<Value>,
        path: &dyn Fn() -> String,
    ) -> Result<(), Fault> {
        let value = match block {
            Block::Text { text, .. } if text.is_empty() => return Ok(()),
            Block::Text { text, cache_control, citations } => {
                let mut value = text_block(text, cache_control.as_ref());
                if !citations.is_empty() && self.same {
                    value["citations"] = json!(citations);
                }
                value
            }
            Block::Refusal { text } => text_block(text, None),
            Block::Image { source, cache_control, .. } => {
                marked(json!({"type": "image", "source": media(source)}), cache_control.as_ref())
            }
            Block::File { source, filename, cache_control, extra } => {
                let mut value = json!({"type": "document", "source": media(source)});
                if let Some(filename) = filename {
                    value["title"] = json!(filename);
                }
                if self.same {
                    for (key, member) in extra {
                        value[key] = member.clone();
                    }
                }
                marked(value, cache_control.as_ref())
            }
            Block::Audio { .. } => {
                return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target does not take audio")
                    .with_param(path()));
            }
            Block::Reasoning { text, signature: Some(signature) }
                if assistant && seal::is_anthropic(signature) =>
            {
                json!({"type": "thinking", "thinking": text, "signature": signature})
            }
            Block::RedactedReasoning { data } if assistant => {
                json!({"type": "redacted_thinking", "data": data})
            }
            Block::ToolCall { id, name, arguments, cache_control } if assistant => {
                let input = super::input(arguments);
                marked(
                    json!({"type": "tool_use", "id": tool_id(id), "name": name, "input": input}),
                    cache_control.as_ref(),
                )
            }
            Block::ToolResult { call_id, content, is_error, cache_control } if !assistant => {
                self.tool_result(call_id, content, *is_error, cache_control.as_ref(), path)?
            }
            Block::Other { dialect: Dialect::Anthropic, value } => value.clone(),
            // Thinking that nobody signed is of no use to the model: nothing to report to callers who never
            // sent such a thing knowingly, but said all the same.
            Block::Reasoning { .. }
            | Block::RedactedReasoning { .. }
            | Block::ToolCall { .. }
            | Block::ToolResult { .. }
            | Block::Other { .. } => {
                self.dropped.push(path());
                return Ok(());
            }
        };
        out.push(value);
        Ok(())
    }

    fn tool_result(
        &mut self,
        call_id: &str,
        content: &[Block],
        is_error: bool,
        mark: Option<&Value>,
        path: &dyn Fn() -> String,
    ) -> Result<Value, Fault> {
        let mut value = json!({"type": "tool_result", "tool_use_id": tool_id(call_id)});
        match content {
            [] => {}
            [Block::Text { text, cache_control: None, citations }] if citations.is_empty() => {
                value["content"] = json!(text);
            }
            blocks => {
                let mut inner = Vec::with_capacity(blocks.len());
                for block in blocks {
                    self.block(block, false, &mut inner, path)?;
                }
                value["content"] = Value::Array(inner);
            }
        }
        if is_error {
            value["is_error"] = json!(true);
        }
        Ok(marked(value, mark))
    }
}

fn write_turn(list: &mut Array<'_>, role: &str, content: &[Value]) {
    let mut item = list.object();
    item.field("role", role);
    match content {
        [only] if only.as_object().is_some_and(|map| map.len() == 2) && only.get("text").is_some() => {
            item.field("content", &only["text"]);
        }
        blocks => item.field("content", blocks),
    }
    item.end();
}

fn text_block(text: &str, mark: Option<&Value>) -> Value {
    marked(json!({"type": "text", "text": text}), mark)
}

fn marked(mut value: Value, mark: Option<&Value>) -> Value {
    if let Some(mark) = mark {
        value["cache_control"] = mark.clone();
    }
    value
}

fn media(source: &MediaSource) -> Value {
    match source {
        MediaSource::Base64 { media_type, data } => {
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
        MediaSource::Url(url) => json!({"type": "url", "url": url}),
        MediaSource::FileId(id) => json!({"type": "file", "file_id": id}),
        MediaSource::Text(text) => json!({"type": "text", "media_type": "text/plain", "data": text}),
    }
}

/// Anthropic demands `additionalProperties: false` on every object of a schema.
pub(crate) fn closed(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(map) => {
            let is_object = map.get("type").is_some_and(|kind| kind == "object");
            if is_object && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".to_owned(), json!(false));
            }
            for (_, value) in map.iter_mut() {
                *value = closed(std::mem::take(value));
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = closed(std::mem::take(item));
            }
        }
        _ => {}
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_names() {
        for (name, expected) in [
            ("claude-sonnet-4-5-20250929", Some((4, 5))),
            ("claude-3-5-haiku-latest", Some((3, 5))),
            ("claude-opus-4-20250514", Some((4, 0))),
            ("claude-haiku-4.5", Some((4, 5))),
            ("anthropic.claude-opus-4-7-v1:0", Some((4, 7))),
            ("gpt-5", None),
        ] {
            assert_eq!(version(name), expected, "{name}");
        }
    }
}
