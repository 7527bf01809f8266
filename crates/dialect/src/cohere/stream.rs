//! Cohere's chat stream.

use millgate_types::{BlockKind, Delta, Event, FinishReason};
use serde_json::Value;

use super::answer::{finish_reason, is_failure, located};
use super::usage;
use crate::stream::Reader;
use crate::{ErrorBody, error};

/// What a block of ours is on Cohere's side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Content(u64),
    Tool(u64),
    Plan,
}

/// Reads the events of a chat stream.
#[derive(Default)]
pub(super) struct ChatReader {
    started: bool,
    blocks: u32,
    open: Vec<(Place, u32)>,
    /// The last block of visible text: citations belong to it.
    text: Option<u32>,
    calls: bool,
}

impl ChatReader {
    fn start(&mut self, id: &str, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.started, true) {
            out.push(Event::Start { id: id.to_owned(), model: String::new(), created: None, usage: None });
        }
    }

    fn begin(&mut self, place: Place, kind: BlockKind, out: &mut Vec<Event>) -> u32 {
        self.start("", out);
        let block = self.blocks;
        self.blocks += 1;
        self.open.push((place, block));
        if kind == BlockKind::Text {
            self.text = Some(block);
        }
        out.push(Event::BlockStart { choice: 0, block, kind });
        block
    }

    fn block(&self, place: Place) -> Option<u32> {
        self.open.iter().rfind(|(known, _)| *known == place).map(|(_, block)| *block)
    }

    fn stop(&mut self, place: Place, out: &mut Vec<Event>) {
        if let Some(at) = self.open.iter().rposition(|(known, _)| *known == place) {
            let (_, block) = self.open.remove(at);
            out.push(Event::BlockStop { choice: 0, block });
        }
    }

    fn content(&mut self, index: u64, content: &Value, out: &mut Vec<Event>) {
        let place = Place::Content(index);
        let text = |key: &str| content.get(key).and_then(Value::as_str).unwrap_or_default();
        let thinking = content["type"] == "thinking" || content.get("thinking").is_some();
        let block = match self.block(place) {
            Some(block) => block,
            None => {
                let kind = if thinking { BlockKind::Reasoning } else { BlockKind::Text };
                self.begin(place, kind, out)
            }
        };
        say(block, text(if thinking { "thinking" } else { "text" }), Delta::Text, out);
    }

    fn plan(&mut self, text: &str, out: &mut Vec<Event>) {
        let block = match self.block(Place::Plan) {
            Some(block) => block,
            None if text.is_empty() => return,
            None => self.begin(Place::Plan, BlockKind::Text, out),
        };
        say(block, text, Delta::Text, out);
    }

    fn call(&mut self, index: u64, call: &Value, out: &mut Vec<Event>) {
        self.stop(Place::Plan, out);
        let place = Place::Tool(index);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let block = match self.block(place) {
            Some(block) => block,
            None => {
                self.calls = true;
                let kind =
                    BlockKind::ToolCall { id: text(&call["id"]), name: text(&call["function"]["name"]) };
                self.begin(place, kind, out)
            }
        };
        say(block, &text(&call["function"]["arguments"]), Delta::Arguments, out);
    }

    fn end(&mut self, delta: &Value, out: &mut Vec<Event>) {
        self.start("", out);
        let word = delta["finish_reason"].as_str().unwrap_or("COMPLETE");
        if let Some(text) = delta["error"].as_str() {
            let body = ErrorBody { message: Some(text.to_owned()), ..ErrorBody::default() };
            out.push(Event::Error(error::in_band(&body, None)));
            return;
        }
        if is_failure(word) {
            out.push(Event::Error(error::nonsense("the provider broke off with an error")));
            return;
        }
        out.extend(self.open.drain(..).map(|(_, block)| Event::BlockStop { choice: 0, block }));
        let reason: FinishReason = finish_reason(word, self.calls);
        out.push(Event::Finish { choice: 0, reason, stop_sequence: None });
        out.extend(delta.get("usage").and_then(usage::read).map(Event::Usage));
        // `[DONE]` may follow, or not.
        out.push(Event::End);
    }
}

fn say(block: u32, text: &str, delta: fn(String) -> Delta, out: &mut Vec<Event>) {
    if !text.is_empty() {
        out.push(Event::BlockDelta { choice: 0, block, delta: delta(text.to_owned()) });
    }
}

impl Reader for ChatReader {
    fn event(&mut self, name: &str, data: &str, out: &mut Vec<Event>) {
        let data = data.trim();
        if data.is_empty() || data == "[DONE]" {
            return;
        }
        let Ok(value) = serde_json::from_str::<Value>(data) else {
            out.push(Event::Error(error::nonsense(
                "the provider's stream holds something that is not an event",
            )));
            return;
        };
        let index = value["index"].as_u64().unwrap_or(0);
        let message = &value["delta"]["message"];
        match value["type"].as_str().unwrap_or(name) {
            "message-start" => self.start(value["id"].as_str().unwrap_or_default(), out),
            "content-start" | "content-delta" => self.content(index, &message["content"], out),
            "content-end" => self.stop(Place::Content(index), out),
            "tool-plan-delta" => self.plan(message["tool_plan"].as_str().unwrap_or_default(), out),
            "tool-call-start" | "tool-call-delta" => self.call(index, &message["tool_calls"], out),
            "tool-call-end" => self.stop(Place::Tool(index), out),
            "citation-start" => {
                let open = self.text.filter(|text| self.open.iter().any(|(_, block)| block == text));
                if let (Some(block), citation @ Value::Object(_)) = (open, &message["citations"]) {
                    let delta = Delta::Citation(located(citation.clone()));
                    out.push(Event::BlockDelta { choice: 0, block, delta });
                }
            }
            "message-end" => self.end(&value["delta"], out),
            // An error's body comes bare.
            "error" | "" | "message" if value.get("message").is_some() => {
                out.push(Event::Error(error::in_band(&error::read_value(&value), None)));
            }
            _ => {}
        }
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        out.push(Event::Error(error::interrupted()));
    }
}
