//! OpenAI's chunks, read.

use millgate_types::{Block, BlockKind, Delta, Dialect, Event, FinishReason, Operation, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{answer, reasoning, usage};
use crate::error;
use crate::stream::Reader;

/// A lying upstream may not make us keep more than this of either.
const MOST_CHOICES: usize = 128;
const MOST_TOOLS: usize = 1024;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    created: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Vec<ChunkChoice<'a>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    x_groq: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    delta: Option<Fields<'a>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    logprobs: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolFields<'a>>>,
}

#[derive(Deserialize)]
struct ToolFields<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function: Option<FunctionFields<'a>>,
}

#[derive(Deserialize)]
struct FunctionFields<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

/// Text arrives in JSON strings that may end in the middle of a surrogate pair; the half waits for the rest.
#[derive(Default)]
struct Joiner {
    half: String,
}

impl Joiner {
    /// The text of a JSON string; `None` when the value is not a string.
    fn text(&mut self, raw: &RawValue) -> Option<String> {
        let raw = raw.get();
        if self.half.is_empty()
            && let Ok(text) = serde_json::from_str::<String>(raw)
        {
            return Some(text);
        }
        let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
        let joined = format!("{}{inner}", std::mem::take(&mut self.half));
        if let Ok(text) = serde_json::from_str(&format!("\"{joined}\"")) {
            return Some(text);
        }
        if joined.len() >= 6 && joined.is_char_boundary(joined.len() - 6) {
            let (head, tail) = joined.split_at(joined.len() - 6);
            if tail.starts_with("\\u")
                && let Ok(text) = serde_json::from_str(&format!("\"{head}\""))
            {
                tail.clone_into(&mut self.half);
                return Some(text);
            }
        }
        Some(joined)
    }
}

fn plain(raw: Option<&RawValue>) -> Option<String> {
    serde_json::from_str::<String>(raw?.get()).ok().filter(|text| !text.is_empty())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
    Refusal,
}

struct Tool {
    index: Option<u32>,
    id: String,
    name: String,
    block: u32,
    /// Arguments that came before the name did.
    held: String,
    started: bool,
    joiner: Joiner,
}

#[derive(Default)]
struct ChoiceState {
    index: u32,
    blocks: u32,
    open: Option<(Kind, u32)>,
    tools: Vec<Tool>,
    finished: bool,
    joiner: Joiner,
    thinking: Joiner,
}

/// Reads chunks of chat and completion streams.
pub(crate) struct ChunkReader {
    operation: Operation,
    started: bool,
    id: String,
    choices: Vec<ChoiceState>,
    usage: Option<Usage>,
}

impl ChunkReader {
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation, started: false, id: String::new(), choices: Vec::new(), usage: None }
    }

    fn start(&mut self, chunk: Option<&Chunk<'_>>, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.id = chunk.and_then(|chunk| plain(chunk.id)).unwrap_or_default();
        out.push(Event::Start {
            id: self.id.clone(),
            model: chunk.and_then(|chunk| plain(chunk.model)).unwrap_or_default(),
            created: chunk
                .and_then(|chunk| serde_json::from_str::<f64>(chunk.created?.get()).ok())
                .filter(|created| *created > 0.0)
                .map(|created| created as u64),
            usage: None,
        });
    }

    fn chunk(&mut self, chunk: &Chunk<'_>, out: &mut Vec<Event>) {
        let choices = chunk.choices.as_deref().unwrap_or_default();
        if !choices.is_empty() {
            self.start(Some(chunk), out);
        }
        for fields in choices {
            self.choice(fields, out);
        }
        self.count(chunk, out);
    }

    fn count(&mut self, chunk: &Chunk<'_>, out: &mut Vec<Event>) {
        let groq =
            || serde_json::from_str::<Value>(chunk.x_groq?.get()).ok()?.get("usage").and_then(usage::read);
        let found = chunk
            .usage
            .and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok())
            .and_then(|value| usage::read(&value))
            .or_else(groq);
        // Counts that are not to be believed spoil those before them.
        let broken = chunk.usage.is_some_and(|raw| raw.get().contains("tokens")) && self.usage.is_some();
        let found = found.or_else(|| broken.then(Usage::default));
        if found.is_some() && found != self.usage {
            self.usage = found;
            out.extend(found.map(Event::Usage));
        }
    }

    fn choice(&mut self, fields: &ChunkChoice<'_>, out: &mut Vec<Event>) {
        let index = fields.index.unwrap_or(0);
        let known = self.choices.iter().position(|choice| choice.index == index);
        if known.is_none() && self.choices.len() >= MOST_CHOICES {
            return;
        }
        let place = known.unwrap_or_else(|| {
            self.choices.push(ChoiceState { index, ..ChoiceState::default() });
            self.choices.len() - 1
        });
        let choice = &mut self.choices[place];
        if choice.finished {
            return;
        }
        let says = |raw: Option<&RawValue>| raw.is_some_and(|raw| raw.get().len() > 2);
        let delta = fields.delta.as_ref();
        let has_text = says(fields.text) || delta.is_some_and(|delta| says(delta.content));
        if let Some(raw) = fields.logprobs.filter(|_| has_text)
            && let Ok(value) = serde_json::from_str::<Value>(raw.get())
        {
            let block = choice.open(Kind::Text, out);
            let value = json!({"logprobs": value});
            let delta = Delta::Other { dialect: Dialect::OpenAi, value };
            out.push(Event::BlockDelta { choice: index, block, delta });
        }
        if self.operation == Operation::Completions {
            if let Some(text) = fields.text.and_then(|raw| choice.joiner.text(raw)) {
                choice.grow(Kind::Text, text, out);
            }
        } else if let Some(delta) = &fields.delta {
            choice.delta(delta, &self.id, out);
        }
        if let Some(word) = plain(fields.finish_reason) {
            choice.finish(answer::finish_reason(&word), &self.id, out);
        }
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        self.start(None, out);
        for choice in &mut self.choices {
            choice.finish(FinishReason::Stop, &self.id, out);
        }
        out.push(Event::End);
    }
}

impl ChoiceState {
    /// The block of this kind that is open, or a new one.
    fn open(&mut self, kind: Kind, out: &mut Vec<Event>) -> u32 {
        if let Some((open, block)) = self.open
            && open == kind
        {
            return block;
        }
        self.close(out);
        let block = self.next_block();
        self.open = Some((kind, block));
        let kind = match kind {
            Kind::Text => BlockKind::Text,
            Kind::Reasoning => BlockKind::Reasoning,
            Kind::Refusal => BlockKind::Refusal,
        };
        out.push(Event::BlockStart { choice: self.index, block, kind });
        block
    }

    fn next_block(&mut self) -> u32 {
        self.blocks += 1;
        self.blocks - 1
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        if let Some((_, block)) = self.open.take() {
            out.push(Event::BlockStop { choice: self.index, block });
        }
    }

    fn grow(&mut self, kind: Kind, text: String, out: &mut Vec<Event>) {
        if !text.is_empty() {
            let block = self.open(kind, out);
            out.push(Event::BlockDelta { choice: self.index, block, delta: Delta::Text(text) });
        }
    }

    fn delta(&mut self, fields: &Fields<'_>, answer: &str, out: &mut Vec<Event>) {
        let thinking = [fields.reasoning_content, fields.reasoning]
            .into_iter()
            .flatten()
            .find(|raw| raw.get().len() > 2 && raw.get().starts_with('"'))
            .and_then(|raw| self.thinking.text(raw));
        let has_thinking = thinking.is_some();
        if let Some(text) = thinking {
            self.grow(Kind::Reasoning, text, out);
        }
        if let Some(raw) = fields.reasoning_details
            && let Ok(details) = serde_json::from_str::<Value>(raw.get())
        {
            self.details(details, has_thinking, out);
        }
        if let Some(raw) = fields.content {
            if raw.get().starts_with('[') {
                self.parts(raw, out);
            } else if let Some(text) = self.joiner.text(raw) {
                self.grow(Kind::Text, text, out);
            }
        }
        if let Some(text) = plain(fields.refusal) {
            self.grow(Kind::Refusal, text, out);
        }
        for tool in fields.tool_calls.as_deref().unwrap_or_default() {
            self.tool(tool, answer, out);
        }
    }

    /// Content as a list, as Mistral's reasoning models send it.
    fn parts(&mut self, raw: &RawValue, out: &mut Vec<Event>) {
        let mut blocks = Vec::new();
        answer::visible(serde_json::from_str(raw.get()).ok(), &mut blocks);
        for block in blocks {
            match block {
                Block::Text { text, citations, .. } => {
                    self.grow(Kind::Text, text, out);
                    for citation in citations {
                        let block = self.open(Kind::Text, out);
                        let delta = Delta::Citation(citation);
                        out.push(Event::BlockDelta { choice: self.index, block, delta });
                    }
                }
                Block::Reasoning { text, .. } => self.grow(Kind::Reasoning, text, out),
                Block::Refusal { text } => self.grow(Kind::Refusal, text, out),
                Block::Other { dialect, value } => {
                    self.close(out);
                    let block = self.next_block();
                    let kind = BlockKind::Other { dialect, value };
                    out.push(Event::BlockStart { choice: self.index, block, kind });
                    out.push(Event::BlockStop { choice: self.index, block });
                }
                _ => {}
            }
        }
    }

    fn details(&mut self, details: Value, has_text: bool, out: &mut Vec<Event>) {
        let choice = self.index;
        let mut foreign = Vec::new();
        let Value::Array(items) = details else { return };
        for detail in items {
            let field = |key: &str| detail.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
            let ours = field("format").is_some_and(|format| format.starts_with("anthropic"));
            match field("type") {
                Some("reasoning.text") if ours => {
                    if let Some(text) = field("text").filter(|_| !has_text) {
                        // Our own streams repeat the whole text beside its signature, under the open block.
                        if field("signature").is_none()
                            || self.open.is_none_or(|(kind, _)| kind != Kind::Reasoning)
                        {
                            self.grow(Kind::Reasoning, text.to_owned(), out);
                        }
                    }
                    if let Some(signature) = field("signature") {
                        let block = self.open(Kind::Reasoning, out);
                        let delta = Delta::Signature(signature.to_owned());
                        out.push(Event::BlockDelta { choice, block, delta });
                        self.close(out);
                    }
                }
                Some("reasoning.encrypted") if ours => {
                    self.close(out);
                    let block = self.next_block();
                    let data = field("data").unwrap_or_default().to_owned();
                    out.push(Event::BlockStart {
                        choice,
                        block,
                        kind: BlockKind::RedactedReasoning { data },
                    });
                    out.push(Event::BlockStop { choice, block });
                }
                _ => foreign.push(detail),
            }
        }
        if foreign.is_empty() {
            return;
        }
        let foreign = Value::Array(foreign);
        if !has_text && let Some(text) = reasoning::plain(&foreign) {
            self.grow(Kind::Reasoning, text, out);
        }
        let block = match self.open {
            Some((_, block)) => block,
            None => self.open(Kind::Reasoning, out),
        };
        let value = json!({"reasoning_details": foreign});
        out.push(Event::BlockDelta {
            choice,
            block,
            delta: Delta::Other { dialect: Dialect::OpenAi, value },
        });
    }

    fn tool(&mut self, fields: &ToolFields<'_>, answer: &str, out: &mut Vec<Event>) {
        let id = plain(fields.id);
        let name = fields.function.as_ref().and_then(|function| plain(function.name));
        let known = match fields.index {
            Some(index) => self.tools.iter().rposition(|tool| tool.index == Some(index)),
            None => match &id {
                Some(id) => self.tools.iter().rposition(|tool| tool.id == *id),
                None if name.is_some() => None,
                None => self.tools.len().checked_sub(1),
            },
        };
        // A new id under an index in use is a new call: some servers number every call 0.
        let known = known.filter(|place| {
            let tool = &self.tools[*place];
            id.as_ref().is_none_or(|id| {
                tool.id.is_empty() || *id == tool.id || (name.is_none() && fields.index.is_some())
            })
        });
        if known.is_none() && self.tools.len() >= MOST_TOOLS {
            return;
        }
        let place = known.unwrap_or_else(|| {
            self.close(out);
            let block = self.next_block();
            self.tools.push(Tool {
                index: fields.index,
                id: String::new(),
                name: String::new(),
                block,
                held: String::new(),
                started: false,
                joiner: Joiner::default(),
            });
            self.tools.len() - 1
        });
        let choice = self.index;
        let tool = &mut self.tools[place];
        if !tool.started {
            tool.id = id.unwrap_or_else(|| std::mem::take(&mut tool.id));
            tool.name = name.unwrap_or_else(|| std::mem::take(&mut tool.name));
            if !tool.name.is_empty() {
                tool.begin(choice, place, answer, out);
            }
        }
        let Some(raw) = fields.function.as_ref().and_then(|function| function.arguments) else { return };
        let text =
            if raw.get().starts_with('{') { Some(raw.get().to_owned()) } else { tool.joiner.text(raw) };
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            if tool.started {
                out.push(Event::BlockDelta { choice, block: tool.block, delta: Delta::Arguments(text) });
            } else {
                tool.held.push_str(&text);
            }
        }
    }

    fn finish(&mut self, reason: FinishReason, answer: &str, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.close(out);
        let choice = self.index;
        for (place, tool) in self.tools.iter_mut().enumerate() {
            if !tool.started {
                tool.begin(choice, place, answer, out);
            }
            out.push(Event::BlockStop { choice, block: tool.block });
        }
        let reason = match reason {
            FinishReason::Stop if !self.tools.is_empty() => FinishReason::ToolCalls,
            reason => reason,
        };
        out.push(Event::Finish { choice, reason, stop_sequence: None });
    }
}

impl Tool {
    fn begin(&mut self, choice: u32, place: usize, answer: &str, out: &mut Vec<Event>) {
        self.started = true;
        if self.id.is_empty() {
            self.id = answer::made_id(answer, place);
        }
        let kind = BlockKind::ToolCall { id: self.id.clone(), name: self.name.clone() };
        out.push(Event::BlockStart { choice, block: self.block, kind });
        if !self.held.is_empty() {
            let delta = Delta::Arguments(std::mem::take(&mut self.held));
            out.push(Event::BlockDelta { choice, block: self.block, delta });
        }
    }
}

impl Reader for ChunkReader {
    fn event(&mut self, name: &str, data: &str, out: &mut Vec<Event>) {
        let data = data.trim();
        if data == "[DONE]" {
            return self.end(out);
        }
        if data.is_empty() {
            return;
        }
        // A chunk that names a member twice, or has an odd type, gets a second and slower chance.
        let mended;
        let mut chunk = serde_json::from_str::<Chunk<'_>>(data).ok();
        if chunk.is_none() {
            mended = serde_json::from_str::<Value>(data).map(|value| value.to_string()).unwrap_or_default();
            chunk = serde_json::from_str(&mended).ok();
        }
        let Some(chunk) = chunk else {
            out.push(Event::Error(error::nonsense(
                "the provider's stream holds something that is not a chunk",
            )));
            return;
        };
        let odd = chunk.object.is_some_and(|object| object.get() == "\"error\"");
        if chunk.error.is_some() || name == "error" || odd {
            // What was consumed until then is billed all the same.
            self.count(&chunk, out);
            let value = serde_json::from_str::<Value>(data).unwrap_or_default();
            let status = value.get("status_code").and_then(Value::as_u64).map(|status| status as u16);
            out.push(Event::Error(error::in_band(&error::read_value(&value), status)));
            return;
        }
        self.chunk(&chunk, out);
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        // Perplexity and others send no `[DONE]`: a finish reason for every choice is an end too.
        if !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finished) {
            return self.end(out);
        }
        out.push(Event::Error(error::interrupted()));
    }
}
