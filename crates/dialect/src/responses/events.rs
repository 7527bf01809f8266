//! Events for callers, in the order that OpenAI's clients rely on: each item is added, grows and is done; the
//! first two events and the last one hold the whole response.

use millgate_types::{BlockKind, Delta, Dialect, Event, Fault, FinishReason, RequestId, Usage};
use serde_json::{Value, json};

use super::answer::{State, plain_id, write};
use super::item;
use crate::json::Object;
use crate::{Context, StreamEncoder, sse};

/// A block on its way.
struct Growing {
    block: u32,
    index: usize,
    id: String,
    kind: BlockKind,
    text: String,
    seal: Option<String>,
    citations: Vec<Value>,
    part: bool,
}

/// Writes the events of one response.
pub(super) struct EventOut {
    context: Context,
    id: String,
    created: u64,
    sequence: u64,
    started: bool,
    growing: Vec<Growing>,
    /// Items in their order; those that still grow are null.
    items: Vec<Value>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    done: bool,
}

/// The number of the last event in some frames. Texts cannot hold it: there its quotes are escaped.
pub(super) fn last_number(frames: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"sequence_number\":";
    let at = memchr::memmem::rfind(frames, NAME)? + NAME.len();
    let rest = frames[at..].trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// An error event. `error` makes OpenAI's clients raise it; the plain fields are the documented form.
pub(super) fn fault(fault: &Fault, request_id: RequestId, sequence: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    sse::event(&mut out, "error", |out| {
        let mut top = Object::new(out);
        top.field("type", "error");
        top.field("code", fault.code.name);
        top.field("message", &fault.public);
        top.field("param", &fault.param);
        top.field("sequence_number", &sequence);
        let mut error = top.object("error");
        error.field("message", &fault.public);
        error.field("type", fault.code.openai_type);
        error.field("param", &fault.param);
        error.field("code", fault.code.name);
        error.field("source", fault.source.name());
        error.field("request_id", &request_id.to_string());
        error.end();
        top.end();
    });
    out
}

impl EventOut {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            id: String::new(),
            created: context.created,
            sequence: 0,
            started: false,
            growing: Vec::new(),
            items: Vec::new(),
            finish: None,
            usage: None,
            done: false,
        }
    }

    fn event(&mut self, name: &str, out: &mut Vec<u8>, rest: impl FnOnce(&mut Object<'_>)) {
        let sequence = self.sequence;
        self.sequence += 1;
        sse::event(out, name, |out| {
            let mut top = Object::new(out);
            top.field("type", name);
            top.field("sequence_number", &sequence);
            rest(&mut top);
            top.end();
        });
    }

    fn whole(&mut self, name: &str, out: &mut Vec<u8>) {
        let (id, items) = (std::mem::take(&mut self.id), std::mem::take(&mut self.items));
        let (context, finish, usage) = (self.context.clone(), self.finish.take(), self.usage);
        let state = State {
            id: &id,
            created: self.created,
            finish: finish.as_ref(),
            items: &items,
            usage: usage.as_ref().filter(|_| finish.is_some()),
        };
        self.event(name, out, |top| write(top.key("response"), &state, &context));
        (self.id, self.items, self.finish) = (id, items, finish);
    }

    fn start(&mut self, id: &str, created: Option<u64>, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.id = plain_id(id, &self.context);
        self.created = created.unwrap_or(self.created);
        self.whole("response.created", out);
        self.whole("response.in_progress", out);
    }

    fn block_start(&mut self, block: u32, kind: BlockKind, out: &mut Vec<u8>) {
        let index = self.items.len();
        let prefix = match &kind {
            BlockKind::Text | BlockKind::Refusal => "msg",
            BlockKind::Reasoning | BlockKind::RedactedReasoning { .. } => "rs",
            BlockKind::ToolCall { .. } => "fc",
            BlockKind::Other { dialect: Dialect::Responses, .. } => "",
            BlockKind::Other { .. } => return,
        };
        let id = format!("{prefix}_{}_{index}", self.id);
        let begun = match &kind {
            BlockKind::ToolCall { id: call_id, name } => json!({"id": id, "type": "function_call",
                "status": "in_progress", "arguments": "", "call_id": call_id, "name": name}),
            BlockKind::Reasoning | BlockKind::RedactedReasoning { .. } => {
                json!({"id": id, "type": "reasoning", "summary": []})
            }
            BlockKind::Other { value, .. } => value.clone(),
            _ => {
                json!({"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": []})
            }
        };
        self.items.push(Value::Null);
        self.event("response.output_item.added", out, |top| {
            top.field("output_index", &index);
            top.field("item", &begun);
        });
        let part = match &kind {
            BlockKind::Text => Some(item::text_part("", &[])),
            BlockKind::Refusal => Some(json!({"type": "refusal", "refusal": ""})),
            _ => None,
        };
        if let Some(part) = part {
            self.part_event("response.content_part.added", index, &id, "content_index", &part, out);
        }
        let (text, seal, citations) = (String::new(), None, Vec::new());
        self.growing.push(Growing { block, index, id, kind, text, seal, citations, part: false });
    }

    fn part_event(&mut self, name: &str, index: usize, id: &str, of: &str, part: &Value, out: &mut Vec<u8>) {
        self.event(name, out, |top| {
            top.field("item_id", id);
            top.field("output_index", &index);
            top.field(of, &0);
            top.field("part", part);
        });
    }

    /// An event about text: which member says where, and which holds the text.
    fn text_event(
        &mut self,
        name: &str,
        place: (usize, &str),
        of: Option<&str>,
        key: &str,
        text: &str,
        out: &mut Vec<u8>,
    ) {
        self.event(name, out, |top| {
            top.field("item_id", place.1);
            top.field("output_index", &place.0);
            if let Some(of) = of {
                top.field(of, &0);
            }
            top.field(key, text);
            if name.starts_with("response.output_text") {
                top.field("logprobs", &json!([]));
            }
        });
    }

    fn block_delta(&mut self, block: u32, delta: Delta, out: &mut Vec<u8>) {
        let Some(place) = self.growing.iter().rposition(|growing| growing.block == block) else { return };
        let mut growing = self.growing.swap_remove(place);
        let (index, id) = (growing.index, growing.id.clone());
        let at = (index, id.as_str());
        match (&growing.kind, delta) {
            (BlockKind::Text, Delta::Text(text)) => {
                growing.text.push_str(&text);
                self.text_event("response.output_text.delta", at, Some("content_index"), "delta", &text, out);
            }
            (BlockKind::Refusal, Delta::Text(text)) => {
                growing.text.push_str(&text);
                self.text_event("response.refusal.delta", at, Some("content_index"), "delta", &text, out);
            }
            (BlockKind::Reasoning, Delta::Text(text)) => {
                if !std::mem::replace(&mut growing.part, true) {
                    let part = json!({"type": "summary_text", "text": ""});
                    let name = "response.reasoning_summary_part.added";
                    self.part_event(name, index, &id, "summary_index", &part, out);
                }
                growing.text.push_str(&text);
                let name = "response.reasoning_summary_text.delta";
                self.text_event(name, at, Some("summary_index"), "delta", &text, out);
            }
            (BlockKind::Reasoning, Delta::Signature(piece)) => {
                growing.seal.get_or_insert_default().push_str(&piece);
            }
            (BlockKind::ToolCall { .. }, Delta::Arguments(text)) => {
                growing.text.push_str(&text);
                self.text_event("response.function_call_arguments.delta", at, None, "delta", &text, out);
            }
            (BlockKind::Text, Delta::Citation(citation)) => growing.citations.push(citation),
            _ => {}
        }
        self.growing.push(growing);
    }

    fn block_stop(&mut self, block: u32, out: &mut Vec<u8>) {
        let Some(place) = self.growing.iter().rposition(|growing| growing.block == block) else { return };
        let Growing { index, id, kind, mut text, seal, citations, part, .. } =
            self.growing.swap_remove(place);
        let at = (index, id.as_str());
        let done = match kind {
            BlockKind::Text => {
                let part = item::text_part(&text, &citations);
                self.text_event("response.output_text.done", at, Some("content_index"), "text", &text, out);
                self.part_event("response.content_part.done", index, &id, "content_index", &part, out);
                item::message(&id, &part)
            }
            BlockKind::Refusal => {
                let part = json!({"type": "refusal", "refusal": text});
                self.text_event("response.refusal.done", at, Some("content_index"), "refusal", &text, out);
                self.part_event("response.content_part.done", index, &id, "content_index", &part, out);
                item::message(&id, &part)
            }
            BlockKind::Reasoning => {
                if part {
                    let part = json!({"type": "summary_text", "text": text});
                    let name = "response.reasoning_summary_text.done";
                    self.text_event(name, at, Some("summary_index"), "text", &text, out);
                    let name = "response.reasoning_summary_part.done";
                    self.part_event(name, index, &id, "summary_index", &part, out);
                }
                item::reasoning_value(&id, &text, seal.as_deref())
            }
            BlockKind::RedactedReasoning { data } => item::redacted_value(&id, &data),
            BlockKind::ToolCall { id: call_id, name } => {
                if text.trim().is_empty() {
                    "{}".clone_into(&mut text);
                }
                self.text_event("response.function_call_arguments.done", at, None, "arguments", &text, out);
                json!({"id": id, "type": "function_call", "status": "completed", "arguments": text,
                    "call_id": call_id, "name": name})
            }
            BlockKind::Other { value, .. } => value,
        };
        self.event("response.output_item.done", out, |top| {
            top.field("output_index", &index);
            top.field("item", &done);
        });
        self.items[index] = done;
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.start("", None, out);
        let open: Vec<u32> = self.growing.iter().map(|growing| growing.block).collect();
        for block in open {
            self.block_stop(block, out);
        }
        let finish = self.finish.get_or_insert(FinishReason::Stop);
        let incomplete = matches!(finish, FinishReason::Length | FinishReason::ContentFilter);
        self.usage.get_or_insert_default();
        self.whole(if incomplete { "response.incomplete" } else { "response.completed" }, out);
    }
}

impl StreamEncoder for EventOut {
    fn push(&mut self, event: Event, out: &mut Vec<u8>) {
        if self.done {
            return;
        }
        match event {
            Event::Start { id, created, usage, .. } => {
                self.usage = usage;
                self.start(&id, created, out);
            }
            Event::BlockStart { choice: 0, block, kind } => {
                self.start("", None, out);
                self.block_start(block, kind, out);
            }
            Event::BlockDelta { choice: 0, block, delta } => self.block_delta(block, delta, out),
            Event::BlockStop { choice: 0, block } => self.block_stop(block, out),
            Event::Finish { choice: 0, reason, .. } => {
                // Shown at the end only: until then the response is in progress.
                self.finish.get_or_insert(reason);
            }
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Ping if self.started => out.extend_from_slice(b": ping\n\n"),
            Event::Error(problem) => {
                self.done = true;
                out.extend_from_slice(&fault(&problem, self.context.request_id, self.sequence));
            }
            Event::End => {
                self.done = true;
                self.end(out);
            }
            // Other alternatives have no place here.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_the_last_events_whatever_texts_say() {
        let frames = b"data: {\"sequence_number\":7,\"delta\":\"a\"}\n\n\
            data: {\"sequence_number\": 8,\"delta\":\"\\\"sequence_number\\\":99\"}\n\n";
        assert_eq!(last_number(frames), Some(8));
        assert_eq!(last_number(b"data: {}\n\n"), None);
    }
}
