//! Anthropic's events, both ways.

use millgate_types::{BlockKind, Delta, Dialect, Event, FinishReason, Usage};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Counts, finish_reason, message_id, stop_word, write_usage};
use super::error as faults;
use crate::json::Object;
use crate::stream::Reader;
use crate::{Context, StreamEncoder, error, sse};

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Option<Fields>,
    #[serde(default)]
    message: Option<Value>,
    #[serde(default)]
    content_block: Option<Value>,
    #[serde(default)]
    usage: Option<Value>,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    partial_json: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    signature: Option<String>,
    #[serde(default)]
    citation: Option<Value>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    stop_sequence: Option<String>,
}

/// Reads the events of a message stream.
#[derive(Default)]
pub(super) struct MessageReader {
    started: bool,
    blocks: u32,
    /// Blocks that are open: the provider's index and ours.
    open: Vec<(u32, u32)>,
    counts: Counts,
    finished: bool,
}

impl MessageReader {
    fn block(&self, index: u32) -> Option<u32> {
        self.open.iter().rfind(|(theirs, _)| *theirs == index).map(|(_, ours)| *ours)
    }

    fn count(&mut self, usage: Option<&Value>) {
        if let Some(usage) = usage.filter(|usage| usage.is_object()) {
            self.counts.update(Counts::read(usage));
        }
    }

    fn start(&mut self, message: Option<&Value>, out: &mut Vec<Event>) {
        self.count(message.and_then(|message| message.get("usage")));
        if std::mem::replace(&mut self.started, true) {
            // A fallback model took over in the middle: its message goes on with the same answer.
            return;
        }
        let text =
            |key: &str| message.and_then(|message| message.get(key)?.as_str()).unwrap_or_default().to_owned();
        out.push(Event::Start {
            id: text("id"),
            model: text("model"),
            created: None,
            usage: self.counts.usage(),
        });
    }

    fn block_start(&mut self, index: u32, value: Value, out: &mut Vec<Event>) {
        self.start_if_needed(out);
        let block = self.blocks;
        self.blocks += 1;
        self.open.push((index, block));
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut first = Vec::new();
        let mut say = |delta: Delta| first.push(Event::BlockDelta { choice: 0, block, delta });
        let kind = match text("type").as_str() {
            "text" => {
                if !text("text").is_empty() {
                    say(Delta::Text(text("text")));
                }
                for citation in value.get("citations").and_then(Value::as_array).into_iter().flatten() {
                    say(Delta::Citation(citation.clone()));
                }
                BlockKind::Text
            }
            "thinking" => {
                if !text("thinking").is_empty() {
                    say(Delta::Text(text("thinking")));
                }
                if !text("signature").is_empty() {
                    say(Delta::Signature(text("signature")));
                }
                BlockKind::Reasoning
            }
            "redacted_thinking" => BlockKind::RedactedReasoning { data: text("data") },
            "tool_use" => {
                if let Some(input) =
                    value.get("input").and_then(Value::as_object).filter(|input| !input.is_empty())
                {
                    say(Delta::Arguments(json!(input).to_string()));
                }
                BlockKind::ToolCall { id: text("id"), name: text("name") }
            }
            _ => BlockKind::Other { dialect: Dialect::Anthropic, value },
        };
        out.push(Event::BlockStart { choice: 0, block, kind });
        out.append(&mut first);
    }

    fn start_if_needed(&mut self, out: &mut Vec<Event>) {
        if !self.started {
            self.start(None, out);
        }
    }

    fn block_delta(&self, index: u32, fields: Fields, raw: &str, out: &mut Vec<Event>) {
        let Some(block) = self.block(index) else { return };
        let delta = match fields.kind.as_deref() {
            Some("text_delta") => Delta::Text(fields.text.unwrap_or_default()),
            Some("thinking_delta") => Delta::Text(fields.thinking.unwrap_or_default()),
            Some("input_json_delta") => Delta::Arguments(fields.partial_json.unwrap_or_default()),
            Some("signature_delta") => Delta::Signature(fields.signature.unwrap_or_default()),
            Some("citations_delta") => Delta::Citation(fields.citation.unwrap_or_default()),
            _ => {
                let value = serde_json::from_str::<Value>(raw)
                    .ok()
                    .and_then(|mut value| value.get_mut("delta").map(Value::take))
                    .unwrap_or_default();
                Delta::Other { dialect: Dialect::Anthropic, value }
            }
        };
        match &delta {
            Delta::Text(text) | Delta::Arguments(text) | Delta::Signature(text) if text.is_empty() => {}
            _ => out.push(Event::BlockDelta { choice: 0, block, delta }),
        }
    }

    fn message_delta(&mut self, fields: Option<Fields>, out: &mut Vec<Event>) {
        let Some(fields) = fields else { return };
        if let Some(word) = fields.stop_reason
            && !std::mem::replace(&mut self.finished, true)
        {
            self.close_blocks(out);
            let reason = finish_reason(&word);
            out.push(Event::Finish { choice: 0, reason, stop_sequence: fields.stop_sequence });
        }
    }

    fn close_blocks(&mut self, out: &mut Vec<Event>) {
        out.extend(self.open.drain(..).map(|(_, block)| Event::BlockStop { choice: 0, block }));
    }
}

impl Reader for MessageReader {
    fn event(&mut self, name: &str, data: &str, out: &mut Vec<Event>) {
        if data.trim().is_empty() {
            return;
        }
        let Ok(frame) = serde_json::from_str::<Frame>(data) else {
            // Unknown events may hold anything; known ones must be what they are.
            if ["", "message", "error"].contains(&name)
                || name.starts_with("message_")
                || name.starts_with("content_")
            {
                out.push(Event::Error(error::nonsense(
                    "the provider's stream holds something that is not an event",
                )));
            }
            return;
        };
        let kind = if frame.kind.is_empty() { name } else { frame.kind.as_str() };
        match kind {
            "message_start" => self.start(frame.message.as_ref(), out),
            "content_block_start" => {
                self.block_start(frame.index, frame.content_block.unwrap_or_default(), out);
            }
            "content_block_delta" => {
                if let Some(fields) = frame.delta {
                    self.block_delta(frame.index, fields, data, out);
                }
            }
            "content_block_stop" => {
                if let Some(place) = self.open.iter().rposition(|(theirs, _)| *theirs == frame.index) {
                    let (_, block) = self.open.remove(place);
                    out.push(Event::BlockStop { choice: 0, block });
                }
            }
            "message_delta" => {
                self.start_if_needed(out);
                let before = self.counts.usage();
                self.count(frame.usage.as_ref());
                self.message_delta(frame.delta, out);
                // Counts that are not to be believed spoil those before them.
                let now = self.counts.usage().or_else(|| before.map(|_| Usage::default()));
                if now.is_some() && (now != before || frame.usage.is_some()) {
                    out.extend(now.map(Event::Usage));
                }
            }
            "message_stop" => {
                self.start_if_needed(out);
                self.close_blocks(out);
                if !std::mem::replace(&mut self.finished, true) {
                    out.push(Event::Finish { choice: 0, reason: FinishReason::Stop, stop_sequence: None });
                }
                out.push(Event::End);
            }
            "ping" => out.push(Event::Ping),
            "error" => {
                let value = serde_json::from_str::<Value>(data).unwrap_or_default();
                out.push(Event::Error(error::in_band(&error::read_value(&value), None)));
            }
            _ => {}
        }
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        out.push(Event::Error(error::interrupted()));
    }
}

/// Writes message events: blocks strictly one after the other, so deltas of a block that may not begin yet
/// wait until the one before it is complete.
pub(super) struct MessageOut {
    context: Context,
    usage: Usage,
    /// The block being written: ours, and the index on the wire.
    current: Option<(u32, u32, Shape)>,
    next_index: u32,
    waiting: Vec<Event>,
    finish: Option<(FinishReason, Option<String>)>,
    started: bool,
    done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Thinking,
    Tool,
    /// Not shown in this dialect.
    Hidden,
}

impl MessageOut {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            usage: Usage::default(),
            current: None,
            next_index: 0,
            waiting: Vec::new(),
            finish: None,
            started: false,
            done: false,
        }
    }

    fn start(&mut self, id: &str, usage: Option<Usage>, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.usage = usage.unwrap_or_default();
        sse::event(out, "message_start", |out| {
            let mut top = Object::new(out);
            top.field("type", "message_start");
            let mut message = top.object("message");
            message.field("id", &message_id(id, &self.context));
            message.field("type", "message");
            message.field("role", "assistant");
            message.string("model", &self.context.model);
            message.array("content").end();
            message.field("stop_reason", &Value::Null);
            message.field("stop_sequence", &Value::Null);
            write_usage(message.key("usage"), &self.usage, true);
            message.end();
            top.end();
        });
    }

    fn block_event(&mut self, event: Event, out: &mut Vec<u8>) {
        let block = match &event {
            Event::BlockStart { choice: 0, block, .. }
            | Event::BlockDelta { choice: 0, block, .. }
            | Event::BlockStop { choice: 0, block } => *block,
            // Other alternatives have no place here.
            _ => return,
        };
        match (&self.current, &event) {
            (Some((current, ..)), _) if *current == block => self.write(event, out),
            (None, Event::BlockStart { .. }) => self.write(event, out),
            _ => return self.waiting.push(event),
        }
        // A block that ended lets the next one begin, and that may be complete already.
        while self.current.is_none()
            && let Some(first) = self.waiting.iter().find_map(|event| match event {
                Event::BlockStart { block, .. } => Some(*block),
                _ => None,
            })
        {
            let of_first = |event: &mut Event| match event {
                Event::BlockStart { block, .. }
                | Event::BlockDelta { block, .. }
                | Event::BlockStop { block, .. } => *block == first,
                _ => false,
            };
            let ready: Vec<Event> = self.waiting.extract_if(.., of_first).collect();
            for event in ready {
                self.write(event, out);
            }
        }
    }

    fn write(&mut self, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::BlockStart { block, kind, .. } => self.write_start(block, kind, out),
            Event::BlockDelta { delta, .. } => self.write_delta(delta, out),
            Event::BlockStop { .. } => {
                if let Some((_, index, shape)) = self.current.take()
                    && shape != Shape::Hidden
                {
                    frame(out, "content_block_stop", index, |_| {});
                }
            }
            _ => {}
        }
    }

    fn write_start(&mut self, block: u32, kind: BlockKind, out: &mut Vec<u8>) {
        let (shape, value) = match kind {
            BlockKind::Text | BlockKind::Refusal => (Shape::Text, json!({"type": "text", "text": ""})),
            BlockKind::Reasoning => {
                (Shape::Thinking, json!({"type": "thinking", "thinking": "", "signature": ""}))
            }
            BlockKind::RedactedReasoning { data } => {
                (Shape::Thinking, json!({"type": "redacted_thinking", "data": data}))
            }
            BlockKind::ToolCall { id, name } => {
                (Shape::Tool, json!({"type": "tool_use", "id": id, "name": name, "input": {}}))
            }
            BlockKind::Other { dialect: Dialect::Anthropic, value } => (Shape::Tool, value),
            BlockKind::Other { .. } => (Shape::Hidden, Value::Null),
        };
        self.current = Some((block, self.next_index, shape));
        if shape != Shape::Hidden {
            let index = self.next_index;
            self.next_index += 1;
            frame(out, "content_block_start", index, |top| top.field("content_block", &value));
        }
    }

    fn write_delta(&self, delta: Delta, out: &mut Vec<u8>) {
        let Some((_, index, shape)) = &self.current else { return };
        let value = match (shape, delta) {
            (Shape::Text, Delta::Text(text)) => json!({"type": "text_delta", "text": text}),
            (Shape::Thinking, Delta::Text(text)) => json!({"type": "thinking_delta", "thinking": text}),
            (Shape::Thinking, Delta::Signature(text)) => {
                json!({"type": "signature_delta", "signature": text})
            }
            (Shape::Tool, Delta::Arguments(text)) => {
                json!({"type": "input_json_delta", "partial_json": text})
            }
            (Shape::Text, Delta::Citation(citation)) => {
                json!({"type": "citations_delta", "citation": citation})
            }
            (_, Delta::Other { dialect: Dialect::Anthropic, value }) => value,
            _ => return,
        };
        frame(out, "content_block_delta", *index, |top| top.field("delta", &value));
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.start("", None, out);
        // Blocks that nobody closed, and what waited for them.
        while let Some((block, ..)) = self.current {
            self.block_event(Event::BlockStop { choice: 0, block }, out);
        }
        let (reason, stop_sequence) = self.finish.take().unwrap_or((FinishReason::Stop, None));
        sse::event(out, "message_delta", |out| {
            let mut top = Object::new(out);
            top.field("type", "message_delta");
            let mut delta = top.object("delta");
            delta.field("stop_reason", stop_word(&reason, stop_sequence.is_some()));
            delta.field("stop_sequence", &stop_sequence);
            delta.end();
            write_usage(top.key("usage"), &self.usage, true);
            top.end();
        });
        sse::event(out, "message_stop", |out| out.extend_from_slice(br#"{"type":"message_stop"}"#));
    }
}

fn frame(out: &mut Vec<u8>, name: &str, index: u32, rest: impl FnOnce(&mut Object<'_>)) {
    sse::event(out, name, |out| {
        let mut top = Object::new(out);
        top.string("type", name);
        top.field("index", &index);
        rest(&mut top);
        top.end();
    });
}

impl StreamEncoder for MessageOut {
    fn push(&mut self, event: Event, out: &mut Vec<u8>) {
        if self.done {
            return;
        }
        match event {
            Event::Start { id, usage, .. } => self.start(&id, usage, out),
            Event::BlockStart { .. } | Event::BlockDelta { .. } | Event::BlockStop { .. } => {
                self.start("", None, out);
                self.block_event(event, out);
            }
            Event::Finish { choice: 0, reason, stop_sequence } => {
                self.finish.get_or_insert((reason, stop_sequence));
            }
            Event::Usage(usage) => self.usage = usage,
            Event::Ping if self.started => {
                sse::event(out, "ping", |out| out.extend_from_slice(br#"{"type":"ping"}"#));
            }
            Event::Finish { .. } | Event::Ping => {}
            Event::Error(fault) => {
                self.done = true;
                out.extend_from_slice(&faults::event(&fault, self.context.request_id));
            }
            Event::End => {
                self.done = true;
                self.end(out);
            }
        }
    }
}
