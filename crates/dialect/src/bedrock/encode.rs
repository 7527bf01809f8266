//! Requests for Converse. The model's id stands in the path, whether to stream too.

use std::collections::BTreeSet;

use millgate_types::{
    Block, Call, ChatCall, Dialect, Fault, Message, ResponseFormat, Role, Tool, ToolChoice, code,
};
use serde_json::{Map, Value, json};

use super::content::{Blocks, cache_point};
use super::model::Maker;
use crate::json::Object;
use crate::quirks::Quirks;
use crate::{EncodedCall, anthropic, completion};

/// Top-level members of Converse that callers of other dialects may send as they are: guardrails and what the
/// model's maker alone understands.
const OWN_MEMBERS: [&str; 7] = [
    "guardrailConfig",
    "additionalModelRequestFields",
    "additionalModelResponseFieldPaths",
    "performanceConfig",
    "promptVariables",
    "requestMetadata",
    "serviceTier",
];

pub(super) fn call(call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    match call {
        Call::Chat(call) => chat(call, quirks),
        Call::Completion(call) => chat(&completion::completion_as_chat(call)?, quirks),
        Call::Embedding(_) | Call::Rerank(_) | Call::Moderation(_) => {
            Err(crate::not_implemented(Dialect::Bedrock, call.operation()))
        }
    }
}

fn chat(call: &ChatCall, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    if call.sampling.n.is_some_and(|n| n > 1) {
        return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target gives one answer, `n` must be 1")
            .with_param("n"));
    }
    let maker = Maker::of(&call.model);
    let mut writer = Writer {
        call,
        quirks,
        maker,
        blocks: Blocks::new(quirks.cache_control && maker.caches()),
        fields: Map::new(),
    };
    let plan = writer.thinking();
    let mut body = Vec::with_capacity(1024);
    let mut top = Object::new(&mut body);
    writer.conversation(&mut top)?;
    writer.tools(&mut top);
    writer.inference(&mut top, &plan);
    writer.format(&mut top);
    writer.settings(&mut top);
    top.end();
    Ok(EncodedCall { body, dropped: writer.blocks.dropped })
}

struct Writer<'a> {
    call: &'a ChatCall,
    quirks: &'a Quirks,
    maker: Maker,
    blocks: Blocks,
    /// `additionalModelRequestFields`.
    fields: Map<String, Value>,
}

impl Writer<'_> {
    fn dropped(&mut self, path: impl Into<String>) {
        self.blocks.dropped.push(path.into());
    }

    /// The caller's extra members of this dialect's own.
    fn own(&self, member: &str) -> Option<&Value> {
        self.call.extra.fields.get(member).filter(|value| !value.is_null())
    }

    /// How the maker's models are told to think.
    fn thinking(&mut self) -> anthropic::Plan {
        let none = anthropic::Plan { max_tokens: 0, thinking: None, effort: None };
        let Some(reasoning) = &self.call.reasoning else { return none };
        let effort = reasoning.effort.as_deref();
        match self.maker {
            Maker::Claude(_) => {
                let same = self.call.extra.dialect == Dialect::Anthropic;
                let plan = anthropic::plan(self.call, self.quirks, same, &mut self.blocks.dropped);
                let own = self.own("thinking").filter(|_| same).cloned();
                if let Some(thinking) = own.or_else(|| plan.thinking.clone()) {
                    self.fields.insert("thinking".to_owned(), thinking);
                }
                if let Some(effort) = &plan.effort {
                    self.fields.insert("output_config".to_owned(), json!({"effort": effort}));
                }
                return plan;
            }
            Maker::Nova(2) => match effort {
                Some("none") => {}
                effort => {
                    let level = match effort {
                        Some("minimal" | "low") => "low",
                        Some("high" | "xhigh" | "max") => "high",
                        _ => "medium",
                    };
                    let config = json!({"type": "enabled", "maxReasoningEffort": level});
                    self.fields.insert("reasoningConfig".to_owned(), config);
                }
            },
            Maker::GptOss => {
                let level = match effort {
                    Some("none" | "minimal" | "low") => "low",
                    Some("high" | "xhigh" | "max") => "high",
                    _ => "medium",
                };
                self.fields.insert("reasoning_effort".to_owned(), json!(level));
            }
            Maker::Nova(_) | Maker::Plain | Maker::Other => {
                if effort != Some("none") {
                    self.dropped("reasoning_effort");
                }
            }
        }
        none
    }

    fn conversation(&mut self, top: &mut Object<'_>) -> Result<(), Fault> {
        let is_system = |message: &Message| matches!(message.role, Role::System | Role::Developer);
        let mut system = Vec::new();
        let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
        for (index, message) in self.call.messages.iter().enumerate() {
            if is_system(message) {
                for block in &message.content {
                    match block {
                        Block::Text { .. } => {
                            let path = || format!("messages[{index}]");
                            self.blocks.block(block, false, &mut system, &path)?;
                        }
                        _ => self.blocks.dropped.push(format!("messages[{index}].content")),
                    }
                }
                continue;
            }
            let role = if message.role == Role::Assistant { "assistant" } else { "user" };
            let mut content = Vec::with_capacity(message.content.len());
            for (place, block) in message.content.iter().enumerate() {
                let path = || format!("messages[{index}].content[{place}]");
                self.blocks.block(block, role == "assistant", &mut content, &path)?;
            }
            let name = message.name.is_some().then_some("name");
            for key in message.extra.keys().map(String::as_str).chain(name) {
                self.blocks.dropped.push(format!("messages[{index}].{key}"));
            }
            match turns.last_mut() {
                Some((last, blocks)) if *last == role => blocks.append(&mut content),
                _ if content.is_empty() => {}
                _ => turns.push((role, content)),
            }
        }
        if let Some(words) = self.words() {
            system.push(json!({"text": words}));
        }
        if turns.is_empty() {
            // Instructions alone are no conversation here: they become the user's turn.
            turns.push(("user", std::mem::take(&mut system)));
        }
        for (role, content) in &mut turns {
            if *role == "user" {
                results_first(content);
            }
        }
        trim_prefill(&mut turns);
        let messages: Vec<Value> = turns
            .iter()
            .filter(|(_, content)| !content.is_empty())
            .map(|(role, content)| json!({"role": role, "content": content}))
            .collect();
        top.field("messages", &messages);
        if !system.is_empty() {
            top.field("system", &system);
        }
        Ok(())
    }

    /// The wanted form in words, for models that are not held to one.
    fn words(&self) -> Option<String> {
        match &self.call.response_format {
            Some(ResponseFormat::JsonObject) => Some(completion::OBJECT_SENTENCE.to_owned()),
            Some(ResponseFormat::JsonSchema { schema, .. }) if !self.maker.is_structured() => {
                Some(completion::schema_sentence(schema))
            }
            _ => None,
        }
    }

    fn format(&mut self, top: &mut Object<'_>) {
        let Some(ResponseFormat::JsonSchema { name, description, schema, .. }) = &self.call.response_format
        else {
            return;
        };
        if !self.maker.is_structured() {
            return;
        }
        let schema = match self.maker {
            Maker::Claude(_) => anthropic::closed(schema.clone()),
            _ => schema.clone(),
        };
        let mut inner = json!({"name": name, "schema": schema.to_string()});
        if let Some(description) = description {
            inner["description"] = json!(description);
        }
        let format = json!({"type": "json_schema", "structure": {"jsonSchema": inner}});
        top.field("outputConfig", &json!({"textFormat": format}));
    }

    fn tools(&mut self, top: &mut Object<'_>) {
        let call = self.call;
        let mut tools: Vec<Value> = Vec::with_capacity(call.tools.len());
        let off = matches!(call.tool_choice, Some(ToolChoice::None));
        for (index, tool) in call.tools.iter().enumerate() {
            match &tool.other {
                Some((Dialect::Bedrock, value)) => tools.push(value.clone()),
                Some(_) => self.dropped(format!("tools[{index}]")),
                None => {
                    let allowed = match &call.tool_choice {
                        Some(ToolChoice::Allowed { names, .. }) => names.contains(&tool.name),
                        _ => true,
                    };
                    if allowed {
                        tools.push(self.tool(tool));
                    }
                    let mark = tool.cache_control.as_ref().filter(|_| allowed);
                    match mark {
                        Some(mark) if self.quirks.cache_control && self.maker.caches_tools() => {
                            tools.push(cache_point(mark));
                        }
                        Some(_) => self.dropped(format!("tools[{index}].cache_control")),
                        None => {}
                    }
                }
            }
        }
        // A history with calls is refused without any tools.
        let called = used_tools(&call.messages);
        if (off && called.is_empty()) || (tools.is_empty() && called.is_empty()) {
            return;
        }
        if tools.is_empty() {
            let nothing = json!({"json": {"type": "object", "properties": {}}});
            let spec = |name: &&str| json!({"toolSpec": {"name": name, "inputSchema": nothing}});
            tools = called.iter().map(spec).collect();
        }
        let mut config = json!({"tools": tools});
        let choice = match &call.tool_choice {
            Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => Some(json!({"auto": {}})),
            Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) => {
                Some(json!({"any": {}}))
            }
            Some(ToolChoice::Named(name)) => Some(json!({"tool": {"name": name}})),
            Some(ToolChoice::None) | None => None,
        };
        if let Some(choice) = choice.filter(|_| !call.tools.is_empty()) {
            config["toolChoice"] = choice;
        }
        top.field("toolConfig", &config);
        if call.parallel_tool_calls == Some(false) {
            self.dropped("parallel_tool_calls");
        }
    }

    fn tool(&self, tool: &Tool) -> Value {
        let schema = match &tool.parameters {
            Some(schema) if schema.get("type").is_some() => schema.clone(),
            Some(Value::Object(schema)) => {
                let mut typed = Map::new();
                typed.insert("type".to_owned(), json!("object"));
                typed.extend(schema.clone());
                Value::Object(typed)
            }
            _ => json!({"type": "object", "properties": {}}),
        };
        let mut spec = json!({"name": tool.name});
        if let Some(description) = tool.description.as_ref().filter(|text| !text.is_empty()) {
            spec["description"] = json!(description);
        }
        spec["inputSchema"] = json!({"json": schema});
        if tool.strict == Some(true) && self.quirks.strict_tools && self.maker.is_structured() {
            spec["strict"] = json!(true);
        }
        json!({"toolSpec": spec})
    }

    fn inference(&mut self, top: &mut Object<'_>, plan: &anthropic::Plan) {
        let sampling = &self.call.sampling;
        let mut config = Map::new();
        // Where thinking has a budget the bound must leave room for it.
        let room = plan.thinking.as_ref().map(|_| plan.max_tokens);
        if let Some(limit) = self.call.max_output_tokens.or(room) {
            config.insert("maxTokens".to_owned(), json!(limit));
        }
        // Claude does not take these while it thinks.
        let thinks = plan.thinking.is_some() && self.call.extra.dialect != Dialect::Anthropic;
        let allowed = self.quirks.sampling && !thinks;
        let mut dropped = Vec::new();
        let mut maybe = |key: &str, name: &str, value: Option<f64>| match value {
            Some(value) if allowed => drop(config.insert(key.to_owned(), json!(value))),
            Some(_) => dropped.push(name.to_owned()),
            None => {}
        };
        maybe("temperature", "temperature", sampling.temperature.map(|value| value.clamp(0.0, 1.0)));
        maybe("topP", "top_p", sampling.top_p);
        let stop: Vec<&String> = sampling.stop.iter().filter(|text| !text.trim().is_empty()).collect();
        if stop.len() < sampling.stop.len() {
            dropped.push("stop".to_owned());
        }
        let says_which = !stop.is_empty() && matches!(self.maker, Maker::Claude(_));
        if !stop.is_empty() {
            config.insert("stopSequences".to_owned(), json!(stop));
        }
        match (sampling.top_k, self.maker) {
            (None, _) => {}
            (Some(top_k), Maker::Claude(_)) if allowed => {
                self.fields.insert("top_k".to_owned(), json!(top_k));
            }
            (Some(top_k), Maker::Nova(_)) if allowed => {
                self.fields.insert("inferenceConfig".to_owned(), json!({"topK": top_k}));
            }
            (Some(_), _) => dropped.push("top_k".to_owned()),
        }
        for (name, there) in [
            ("frequency_penalty", sampling.frequency_penalty.is_some()),
            ("presence_penalty", sampling.presence_penalty.is_some()),
            ("seed", sampling.seed.is_some()),
        ] {
            if there {
                dropped.push(name.to_owned());
            }
        }
        self.blocks.dropped.append(&mut dropped);
        if !config.is_empty() {
            top.field("inferenceConfig", &config);
        }
        if says_which && self.own("additionalModelResponseFieldPaths").is_none() {
            // Which of the texts it was is told on demand only.
            top.field("additionalModelResponseFieldPaths", &json!(["/stop_sequence"]));
        }
    }

    fn settings(&mut self, top: &mut Object<'_>) {
        let fields = &self.call.extra.fields;
        let mut more = std::mem::take(&mut self.fields);
        if let Some(Value::Object(own)) = fields.get("additionalModelRequestFields") {
            more.extend(own.clone());
        }
        if !more.is_empty() {
            top.field("additionalModelRequestFields", &more);
        }
        let anthropic =
            self.call.extra.dialect == Dialect::Anthropic && matches!(self.maker, Maker::Claude(_));
        for (key, value) in fields {
            match key.as_str() {
                "additionalModelRequestFields" => {}
                "thinking" if anthropic => {}
                "service_tier" => match value.as_str() {
                    Some(tier @ ("default" | "flex" | "priority")) => {
                        top.field("serviceTier", &json!({"type": tier}));
                    }
                    Some("auto") => {}
                    _ => self.blocks.dropped.push(key.clone()),
                },
                own if OWN_MEMBERS.contains(&own) && (value.is_object() || value.is_array()) => {
                    top.field(own, value);
                }
                _ => self.blocks.dropped.push(key.clone()),
            }
        }
        if let Some(user) = &self.call.user {
            let plain = |c: char| c.is_ascii_alphanumeric() || " :_@$#=/+,-.".contains(c);
            if user.len() <= 256 && user.chars().all(plain) && !fields.contains_key("requestMetadata") {
                top.field("requestMetadata", &json!({"user": user}));
            } else {
                self.dropped("user");
            }
        }
    }
}

/// The names of tools that the history calls or answers.
fn used_tools(messages: &[Message]) -> BTreeSet<&str> {
    let blocks = messages.iter().flat_map(|message| &message.content);
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut answered = false;
    for block in blocks {
        match block {
            Block::ToolCall { name, .. } => drop(found.insert(name.as_str())),
            Block::ToolResult { .. } => answered = true,
            _ => {}
        }
    }
    if found.is_empty() && answered {
        found.insert("tool");
    }
    found
}

/// Results of tools come first in their turn, each with the marks behind it.
fn results_first(content: &mut Vec<Value>) {
    let mut results = Vec::new();
    let mut others = Vec::new();
    let mut in_results = false;
    for block in content.drain(..) {
        if block.get("cachePoint").is_none() {
            in_results = block.get("toolResult").is_some();
        }
        if in_results { results.push(block) } else { others.push(block) }
    }
    content.append(&mut results);
    content.append(&mut others);
}

/// A last assistant turn is a prefill, which may not end in white space.
fn trim_prefill(turns: &mut Vec<(&'static str, Vec<Value>)>) {
    if let Some(("assistant", content)) = turns.last_mut()
        && let Some(Value::String(text)) = content.last_mut().and_then(|block| block.get_mut("text"))
    {
        text.truncate(text.trim_end().len());
    }
}
