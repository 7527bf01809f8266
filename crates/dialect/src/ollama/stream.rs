//! Ollama's stream: a JSON object on each line.

use millgate_types::{BlockKind, Delta, Event};
use serde_json::{Map, Value};

use super::answer::{finish_reason, tool_call, usage};
use crate::{StreamDecoder, error};

/// A line that does not end within this many bytes is not a stream we read.
const MAX_LINE: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
}

/// Reads lines.
#[derive(Default)]
pub(super) struct Lines {
    held: Vec<u8>,
    started: bool,
    done: bool,
    blocks: u32,
    calls: usize,
    open: Option<(Kind, u32)>,
}

impl Lines {
    fn line(&mut self, line: &[u8], out: &mut Vec<Event>) {
        if self.done {
            return;
        }
        if line.len() > MAX_LINE {
            self.fail(error::nonsense("the provider's stream has a line over the limit"), out);
            return;
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let Ok(Value::Object(map)) = serde_json::from_slice::<Value>(line) else {
            self.fail(error::nonsense("the provider's stream is not made of JSON objects"), out);
            return;
        };
        if map.get("error").is_some_and(|error| !error.is_null()) {
            let fault = error::in_band(&error::read_value(&Value::Object(map)), None);
            self.fail(fault, out);
            return;
        }
        self.object(&map, out);
    }

    fn fail(&mut self, fault: millgate_types::Fault, out: &mut Vec<Event>) {
        self.done = true;
        out.push(Event::Error(fault));
    }

    fn object(&mut self, map: &Map<String, Value>, out: &mut Vec<Event>) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        if !std::mem::replace(&mut self.started, true) {
            let model = text(map.get("model"));
            out.push(Event::Start { id: String::new(), model, created: None, usage: None });
        }
        if let Some(message) = map.get("message") {
            self.grow(Kind::Thinking, text(message.get("thinking")), out);
            self.grow(Kind::Text, text(message.get("content")), out);
            for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
                self.close(out);
                let (id, name, arguments) = tool_call(call, &text(map.get("created_at")), self.calls);
                let (choice, block) = (0, self.next());
                self.calls += 1;
                out.push(Event::BlockStart { choice, block, kind: BlockKind::ToolCall { id, name } });
                out.push(Event::BlockDelta { choice, block, delta: Delta::Arguments(arguments) });
                out.push(Event::BlockStop { choice, block });
            }
        }
        if map.get("done") == Some(&Value::Bool(true)) {
            self.done = true;
            self.close(out);
            let reason = finish_reason(map.get("done_reason"), self.calls > 0);
            out.push(Event::Finish { choice: 0, reason, stop_sequence: None });
            out.extend(usage(map).map(Event::Usage));
            out.push(Event::End);
        }
    }

    fn next(&mut self) -> u32 {
        self.blocks += 1;
        self.blocks - 1
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        if let Some((_, block)) = self.open.take() {
            out.push(Event::BlockStop { choice: 0, block });
        }
    }

    fn grow(&mut self, kind: Kind, text: String, out: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        let block = match self.open {
            Some((open, block)) if open == kind => block,
            _ => {
                self.close(out);
                let block = self.next();
                self.open = Some((kind, block));
                let kind = if kind == Kind::Text { BlockKind::Text } else { BlockKind::Reasoning };
                out.push(Event::BlockStart { choice: 0, block, kind });
                block
            }
        };
        out.push(Event::BlockDelta { choice: 0, block, delta: Delta::Text(text) });
    }
}

impl StreamDecoder for Lines {
    fn push(&mut self, mut bytes: &[u8], out: &mut Vec<Event>) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.held.is_empty() {
                self.line(line, out);
            } else {
                let mut whole = std::mem::take(&mut self.held);
                whole.extend_from_slice(line);
                self.line(&whole, out);
            }
        }
        if self.done {
            return;
        }
        self.held.extend_from_slice(bytes);
        if self.held.len() > MAX_LINE {
            self.fail(error::nonsense("the provider's stream has a line over the limit"), out);
        }
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        let last = std::mem::take(&mut self.held);
        self.line(&last, out);
        if !self.done {
            self.fail(error::interrupted(), out);
        }
    }
}
