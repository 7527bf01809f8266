//! Requests for Google's API.

use std::collections::HashMap;

use millgate_types::{
    Block, Call, ChatCall, Dialect, Fault, Message, Reasoning, ResponseFormat, Role, Tool, ToolChoice,
};
use serde_json::{Map, Value, json};

use super::embed;
use super::parts::{self, Turn};
use crate::json::Object;
use crate::quirks::Quirks;
use crate::seal;
use crate::{EncodedCall, completion, not_implemented};

/// Documented for calls whose own signature is lost: Gemini 3 refuses calls without one.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

pub(super) fn call(call: &Call, quirks: &Quirks) -> Result<EncodedCall, Fault> {
    match call {
        Call::Chat(call) => Ok(chat(call, quirks)),
        Call::Completion(call) => Ok(chat(&completion::completion_as_chat(call)?, quirks)),
        Call::Embedding(call) => embed::call(call, quirks.embedding_style),
        Call::Rerank(_) | Call::Moderation(_) => Err(not_implemented(Dialect::Gemini, call.operation())),
    }
}

/// A model's version, as its name tells: `gemini-2.5-flash`, `gemini-3-pro-preview`.
fn version(model: &str) -> Option<(u32, u32)> {
    let (_, rest) = model.split_once("gemini-")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    Some((major, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

struct Writer<'a> {
    /// The caller speaks this dialect too: fields we do not name may go along.
    same: bool,
    dropped: Vec<String>,
    /// The tools' names by the ids of their calls: results refer by name here.
    names: HashMap<&'a str, &'a str>,
    /// For calls without a signature.
    spare: Option<&'static str>,
    /// Media stand inside the results of tools, as newer models have it.
    media_in_results: bool,
}

fn chat(call: &ChatCall, quirks: &Quirks) -> EncodedCall {
    let same = call.extra.dialect == Dialect::Gemini;
    let newer = version(&call.model).is_some_and(|version| version >= (3, 0));
    let mut writer = Writer {
        same,
        dropped: Vec::new(),
        names: HashMap::new(),
        spare: (newer && !same).then_some(NO_SIGNATURE),
        media_in_results: newer || same,
    };
    let mut body = Vec::with_capacity(1024);
    let mut top = Object::new(&mut body);
    writer.conversation(&mut top, &call.messages);
    writer.tools(&mut top, call);
    let generation = writer.generation(call, quirks);
    if !generation.is_empty() {
        top.field("generationConfig", &generation);
    }
    if call.user.is_some() {
        writer.dropped.push("user".to_owned());
    }
    for (key, value) in &call.extra.fields {
        if !same {
            writer.dropped.push(key.clone());
        } else if !["generationConfig", "toolConfig"].contains(&key.as_str()) {
            top.field(key, value);
        }
    }
    top.end();
    EncodedCall { body, dropped: writer.dropped }
}

impl<'a> Writer<'a> {
    fn conversation(&mut self, top: &mut Object<'_>, messages: &'a [Message]) {
        let is_system =
            |message: &&(usize, &Message)| matches!(message.1.role, Role::System | Role::Developer);
        let (system, turns): (Vec<_>, Vec<_>) =
            messages.iter().enumerate().partition(|pair| is_system(&pair));
        let mut instruction = Vec::new();
        for (index, message) in &system {
            for block in &message.content {
                match block {
                    Block::Text { text, .. } => instruction.push(json!({"text": text})),
                    _ => self.dropped.push(format!("messages[{index}].content")),
                }
            }
        }
        let mut contents: Vec<(Role, Value)> = Vec::with_capacity(turns.len());
        for (index, message) in turns {
            let parts = self.turn(index, message);
            match contents.last_mut() {
                // All results of one turn stand in one content.
                Some((Role::Tool, content)) if message.role == Role::Tool => {
                    if let Some(Value::Array(all)) = content.get_mut("parts") {
                        all.extend(parts);
                    }
                }
                _ if parts.is_empty() && !self.same => {}
                _ => {
                    let role = if message.role == Role::Assistant { "model" } else { "user" };
                    contents.push((message.role, json!({"role": role, "parts": parts})));
                }
            }
        }
        if contents.is_empty() && !instruction.is_empty() {
            // Instructions alone are no conversation here: they become the user's turn.
            contents.push((Role::User, json!({"role": "user", "parts": std::mem::take(&mut instruction)})));
        }
        let contents: Vec<Value> = contents.into_iter().map(|(_, content)| content).collect();
        top.field("contents", &contents);
        if !instruction.is_empty() {
            top.field("systemInstruction", &json!({"parts": instruction}));
        }
    }

    fn turn(&mut self, index: usize, message: &'a Message) -> Vec<Value> {
        let assistant = message.role == Role::Assistant;
        let mut turn = Turn::default();
        for (place, block) in message.content.iter().enumerate() {
            self.block(block, assistant, &mut turn, &|| format!("messages[{index}].content[{place}]"));
        }
        if !self.same {
            let name = message.name.is_some().then_some("name");
            for key in message.extra.keys().map(String::as_str).chain(name) {
                self.dropped.push(format!("messages[{index}].{key}"));
            }
        }
        turn.end()
    }

    fn block(&mut self, block: &'a Block, assistant: bool, turn: &mut Turn, path: &dyn Fn() -> String) {
        match block {
            Block::Text { text, .. } | Block::Refusal { text } => {
                if !text.is_empty() || self.same {
                    turn.text(text);
                }
            }
            Block::Image { .. } | Block::Audio { .. } | Block::File { .. } => {
                turn.parts_of(parts::media_value(block));
            }
            Block::Reasoning { text, signature } if assistant => {
                match signature.as_deref().map(seal::as_gemini) {
                    Some(Some((place, signature))) => turn.thought(text, place, signature),
                    None if self.same => turn.push(json!({"text": text, "thought": true})),
                    _ => self.dropped.push(path()),
                }
            }
            Block::ToolCall { id, name, arguments, .. } if assistant => {
                self.names.insert(id, name);
                turn.call(Some(id.as_str()).filter(|id| !super::is_made(id)), name, arguments, self.spare);
            }
            Block::ToolResult { call_id, content, is_error, .. } if !assistant => {
                self.result(call_id, content, *is_error, turn, path);
            }
            Block::Other { dialect: Dialect::Gemini, value } => turn.push(value.clone()),
            _ => self.dropped.push(path()),
        }
    }

    fn result(
        &mut self,
        call_id: &'a str,
        content: &'a [Block],
        is_error: bool,
        turn: &mut Turn,
        path: &dyn Fn() -> String,
    ) {
        let name = self.names.get(call_id).copied().unwrap_or(call_id);
        let text = completion::text_of(content);
        let response = match serde_json::from_str::<Value>(&text) {
            _ if is_error => json!({"error": text}),
            Ok(object @ Value::Object(_)) => object,
            _ if text.is_empty() => json!({}),
            _ => json!({"result": text}),
        };
        let mut inner = Map::new();
        if !super::is_made(call_id) && call_id != name {
            inner.insert("id".to_owned(), json!(call_id));
        }
        inner.insert("name".to_owned(), json!(name));
        inner.insert("response".to_owned(), response);
        let mut media = Vec::new();
        for block in content.iter().filter(|block| !matches!(block, Block::Text { .. })) {
            match (parts::media_value(block), block) {
                (Some(part), _) => media.push(part),
                (None, Block::Other { dialect: Dialect::Gemini, value }) => media.push(value.clone()),
                _ => self.dropped.push(path()),
            }
        }
        if self.media_in_results && !media.is_empty() {
            inner.insert("parts".to_owned(), Value::Array(std::mem::take(&mut media)));
        }
        turn.push(json!({"functionResponse": inner}));
        for part in media {
            turn.push(part);
        }
    }

    fn tools(&mut self, top: &mut Object<'_>, call: &ChatCall) {
        let mut declared = Vec::new();
        let mut others = Vec::new();
        let mut place = 0;
        for (index, tool) in call.tools.iter().enumerate() {
            match &tool.other {
                Some((Dialect::Gemini, value)) => others.push(value.clone()),
                Some(_) => self.dropped.push(format!("tools[{index}]")),
                None => {
                    if declared.is_empty() {
                        place = others.len();
                    }
                    declared.push(declaration(tool));
                }
            }
        }
        let any = !declared.is_empty();
        if any {
            others.insert(place, json!({"functionDeclarations": declared}));
        }
        if !others.is_empty() {
            top.field("tools", &others);
        }
        let mut config = Map::new();
        if let Some(choice) = call.tool_choice.as_ref().filter(|_| any || self.same) {
            let inner = match choice {
                ToolChoice::Auto => json!({"mode": "AUTO"}),
                ToolChoice::None => json!({"mode": "NONE"}),
                ToolChoice::Required => json!({"mode": "ANY"}),
                ToolChoice::Named(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
                ToolChoice::Allowed { names, required: true } => {
                    json!({"mode": "ANY", "allowedFunctionNames": names})
                }
                // Names may only be given with a mode that holds the model to the declarations.
                ToolChoice::Allowed { names, required: false } => {
                    json!({"mode": "VALIDATED", "allowedFunctionNames": names})
                }
            };
            config.insert("functionCallingConfig".to_owned(), inner);
        }
        if let (Some(Value::Object(more)), true) = (call.extra.fields.get("toolConfig"), self.same) {
            config.extend(more.clone());
        }
        if !config.is_empty() {
            top.field("toolConfig", &config);
        }
        if call.parallel_tool_calls == Some(false) {
            self.dropped.push("parallel_tool_calls".to_owned());
        }
    }

    fn generation(&mut self, call: &ChatCall, quirks: &Quirks) -> Map<String, Value> {
        let sampling = &call.sampling;
        let mut out = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(key.to_owned(), value);
            }
        };
        put("temperature", sampling.temperature.filter(|_| quirks.sampling).map(|value| json!(value)));
        put("topP", sampling.top_p.filter(|_| quirks.sampling).map(|value| json!(value)));
        put("topK", sampling.top_k.filter(|_| quirks.sampling).map(Value::from));
        put("frequencyPenalty", sampling.frequency_penalty.map(|value| json!(value)));
        put("presencePenalty", sampling.presence_penalty.map(|value| json!(value)));
        put("stopSequences", (!sampling.stop.is_empty()).then(|| json!(sampling.stop)));
        put("seed", sampling.seed.map(Value::from));
        put("candidateCount", sampling.n.map(Value::from));
        put("maxOutputTokens", call.max_output_tokens.map(Value::from));
        match &call.response_format {
            None => {}
            Some(ResponseFormat::Text) => put("responseMimeType", Some(json!("text/plain"))),
            Some(ResponseFormat::JsonObject) => put("responseMimeType", Some(json!("application/json"))),
            Some(ResponseFormat::JsonSchema { schema, .. }) => {
                put("responseMimeType", Some(json!("application/json")));
                put("responseJsonSchema", Some(schema.clone()));
            }
        }
        let mut thinking = match &call.reasoning {
            None => Map::new(),
            Some(reasoning) if self.same => own_thinking(reasoning),
            Some(reasoning) => {
                let found = thinking(reasoning, &call.model);
                if found.is_empty() {
                    self.dropped.push("reasoning_effort".to_owned());
                }
                found
            }
        };
        if let (Some(Value::Object(more)), true) = (call.extra.fields.get("generationConfig"), self.same) {
            for (key, value) in more {
                match value {
                    Value::Object(inner) if key == "thinkingConfig" => thinking.extend(inner.clone()),
                    _ => drop(out.insert(key.clone(), value.clone())),
                }
            }
        }
        if !thinking.is_empty() {
            out.insert("thinkingConfig".to_owned(), Value::Object(thinking));
        }
        out
    }
}

impl Turn {
    fn parts_of(&mut self, part: Option<Value>) {
        if let Some(part) = part {
            self.push(part);
        }
    }
}

/// The caller's own words.
fn own_thinking(reasoning: &Reasoning) -> Map<String, Value> {
    let mut out = Map::new();
    match reasoning.effort.as_deref() {
        Some("none") => drop(out.insert("thinkingBudget".to_owned(), json!(0))),
        Some(level) => drop(out.insert("thinkingLevel".to_owned(), json!(level.to_ascii_uppercase()))),
        None => {}
    }
    if let Some(budget) = reasoning.budget_tokens {
        out.insert("thinkingBudget".to_owned(), json!(budget));
    } else if reasoning.adaptive {
        out.insert("thinkingBudget".to_owned(), json!(-1));
    }
    if reasoning.shown {
        out.insert("includeThoughts".to_owned(), json!(true));
    }
    out
}

/// Levels from version 3 on, budgets before; empty for models that do not think.
fn thinking(reasoning: &Reasoning, model: &str) -> Map<String, Value> {
    let mut out = Map::new();
    let version = version(model);
    if version.is_some_and(|version| version < (2, 5)) {
        return out;
    }
    let off = reasoning.effort.as_deref() == Some("none");
    let pro = model.contains("pro");
    if version.is_some_and(|version| version >= (3, 0)) {
        let level = match (reasoning.effort.as_deref(), reasoning.budget_tokens) {
            (Some("none" | "minimal"), _) if !pro => Some("minimal"),
            (Some("none" | "minimal" | "low"), _) => Some("low"),
            (Some("medium"), _) => Some("medium"),
            (None, Some(budget)) if budget <= 2048 => Some("low"),
            (None, Some(budget)) if budget <= 16_384 => Some("medium"),
            (None, None) => None,
            _ => Some("high"),
        };
        if let Some(level) = level {
            out.insert("thinkingLevel".to_owned(), json!(level));
        }
    } else {
        // The large model cannot be kept from thinking.
        let budget = match (reasoning.budget_tokens, reasoning.effort.as_deref()) {
            (_, Some("none")) if pro => 128,
            (_, Some("none")) => 0,
            (Some(budget), _) => {
                i64::try_from(budget).unwrap_or(24_576).clamp(if pro { 128 } else { 0 }, 24_576)
            }
            (None, Some("minimal")) => 512,
            (None, Some("low")) => 1024,
            (None, Some("medium")) => 8192,
            (None, Some(_)) => 24_576,
            (None, None) => -1,
        };
        out.insert("thinkingBudget".to_owned(), json!(budget));
    }
    if !off {
        out.insert("includeThoughts".to_owned(), json!(true));
    }
    out
}

fn declaration(tool: &Tool) -> Value {
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        out.insert("description".to_owned(), json!(description));
    }
    if let Some(schema) = &tool.parameters {
        out.insert("parametersJsonSchema".to_owned(), schema.clone());
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_names() {
        for (name, expected) in [
            ("gemini-2.5-flash", Some((2, 5))),
            ("gemini-3-pro-preview", Some((3, 0))),
            ("models/gemini-1.5-pro-002", Some((1, 5))),
            ("gemini-3.1-flash-lite", Some((3, 1))),
            ("gemini-flash-latest", None),
            ("gemma-3-27b-it", None),
        ] {
            assert_eq!(version(name), expected, "{name}");
        }
    }

    #[test]
    fn effort_is_said_as_the_model_wants_it() {
        let effort = |word: &str| Reasoning { effort: Some(word.to_owned()), ..Reasoning::default() };
        let said = |word: &str, model: &str| Value::Object(thinking(&effort(word), model));
        assert_eq!(said("none", "gemini-2.5-flash"), json!({"thinkingBudget": 0}));
        assert_eq!(said("none", "gemini-2.5-pro"), json!({"thinkingBudget": 128}));
        assert_eq!(said("low", "gemini-2.5-flash"), json!({"thinkingBudget": 1024, "includeThoughts": true}));
        assert_eq!(said("high", "gemini-3-pro"), json!({"thinkingLevel": "high", "includeThoughts": true}));
        assert_eq!(said("high", "gemini-2.0-flash"), json!({}));
    }
}
