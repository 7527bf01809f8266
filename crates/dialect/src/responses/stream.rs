//! Providers' events, read. Where only some of them are shown (the pass lane), the last one tells enough.

use millgate_types::{BlockKind, Delta, Dialect, Event, Fault};
use serde_json::{Map, Value};

use super::answer::{finish_reason, usage};
use super::item;
use crate::stream::Reader;
use crate::{error, seal};

/// What a block on the wire is known by: the item, and the part inside it.
type Key = (u64, u64);

/// Items that are one block.
const WHOLE: u64 = u64::MAX;

/// Reads the events of a response.
#[derive(Default)]
pub(super) struct EventReader {
    started: bool,
    blocks: u32,
    open: Vec<(Key, u32, bool)>,
    has_calls: bool,
}

impl EventReader {
    fn start(&mut self, response: Option<&Value>, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let text = |key: &str| response.and_then(|response| response.get(key)?.as_str()).unwrap_or_default();
        out.push(Event::Start {
            id: text("id").to_owned(),
            model: text("model").to_owned(),
            created: response.and_then(|response| response.get("created_at")?.as_f64()).map(|at| at as u64),
            usage: None,
        });
    }

    fn block(&mut self, key: Key, kind: impl FnOnce() -> BlockKind, out: &mut Vec<Event>) -> u32 {
        if let Some((_, block, _)) = self.open.iter().find(|(known, ..)| *known == key) {
            return *block;
        }
        let block = self.blocks;
        self.blocks += 1;
        self.open.push((key, block, false));
        out.push(Event::BlockStart { choice: 0, block, kind: kind() });
        block
    }

    fn delta(&mut self, key: Key, kind: impl FnOnce() -> BlockKind, delta: Delta, out: &mut Vec<Event>) {
        let block = self.block(key, kind, out);
        if let Some(place) = self.open.iter_mut().find(|(known, ..)| *known == key) {
            place.2 = true;
        }
        match &delta {
            Delta::Text(text) | Delta::Arguments(text) if text.is_empty() => {}
            _ => out.push(Event::BlockDelta { choice: 0, block, delta }),
        }
    }

    fn has_content(&self, key: Key) -> bool {
        self.open.iter().any(|(known, _, content)| *known == key && *content)
    }

    fn stop(&mut self, key: Key, out: &mut Vec<Event>) {
        if let Some(place) = self.open.iter().position(|(known, ..)| *known == key) {
            let (_, block, _) = self.open.remove(place);
            out.push(Event::BlockStop { choice: 0, block });
        }
    }

    fn item_added(&mut self, index: u64, item: &Value, out: &mut Vec<Event>) {
        if item.get("type").is_some_and(|kind| kind == "function_call") {
            self.has_calls = true;
            self.block((index, WHOLE), || call_kind(item), out);
        }
    }

    fn item_done(&mut self, index: u64, item: Value, out: &mut Vec<Event>) {
        let key = (index, WHOLE);
        let kind = item.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        match (kind.as_str(), item) {
            ("message", _) => {
                let parts: Vec<Key> =
                    self.open.iter().map(|(key, ..)| *key).filter(|key| key.0 == index).collect();
                for key in parts {
                    self.stop(key, out);
                }
            }
            ("function_call", item) => {
                self.has_calls = true;
                if !self.has_content(key) {
                    let arguments = item.get("arguments").and_then(Value::as_str).unwrap_or_default();
                    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
                    self.delta(key, || call_kind(&item), Delta::Arguments(arguments.to_owned()), out);
                }
                self.stop(key, out);
            }
            ("reasoning", Value::Object(map)) => {
                if !self.has_content(key) {
                    let text = item::reasoning_text(&map);
                    self.delta(key, || BlockKind::Reasoning, Delta::Text(text), out);
                }
                let encrypted = map.get("encrypted_content").and_then(Value::as_str);
                if let Some(encrypted) = encrypted.filter(|text| !text.is_empty()) {
                    let id = map.get("id").and_then(Value::as_str).unwrap_or_default();
                    let seal = match item::reasoning(&map) {
                        millgate_types::Block::Reasoning { signature: Some(seal), .. } => seal,
                        _ => seal::openai(id, encrypted),
                    };
                    self.delta(key, || BlockKind::Reasoning, Delta::Signature(seal), out);
                }
                self.stop(key, out);
            }
            (_, value) => {
                self.block(key, || BlockKind::Other { dialect: Dialect::Responses, value }, out);
                self.stop(key, out);
            }
        }
    }

    fn end(&mut self, response: &Map<String, Value>, out: &mut Vec<Event>) {
        while let Some((key, ..)) = self.open.first() {
            let key = *key;
            self.stop(key, out);
        }
        let reason = finish_reason(response, self.has_calls);
        out.push(Event::Finish { choice: 0, reason, stop_sequence: None });
        out.extend(response.get("usage").and_then(usage).map(Event::Usage));
        out.push(Event::End);
    }
}

fn call_kind(item: &Value) -> BlockKind {
    let text = |key: &str| item.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let id = text("call_id").or(text("id")).unwrap_or_default().to_owned();
    BlockKind::ToolCall { id, name: text("name").unwrap_or_default().to_owned() }
}

fn failed(value: &Value) -> Fault {
    let inner = value.get("response").unwrap_or(value);
    let inner = inner.get("error").filter(|error| !error.is_null()).unwrap_or(inner);
    error::in_band(&error::read_value(inner), None)
}

impl Reader for EventReader {
    fn event(&mut self, name: &str, data: &str, out: &mut Vec<Event>) {
        if data.trim().is_empty() || data.trim() == "[DONE]" {
            return;
        }
        let Ok(Value::Object(mut map)) = serde_json::from_str::<Value>(data) else {
            out.push(Event::Error(error::nonsense(
                "the provider's stream holds something that is not an event",
            )));
            return;
        };
        let kind = map.get("type").and_then(Value::as_str).unwrap_or(name).to_owned();
        let number = |key: &str| map.get(key).and_then(Value::as_u64).unwrap_or(0);
        let item = number("output_index");
        let part = (item, number("content_index"));
        let whole = (item, WHOLE);
        let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind == "error" || map.get("error").is_some_and(|error| !error.is_null()) {
            out.push(Event::Error(failed(&Value::Object(map))));
            return;
        }
        if kind.starts_with("response.") {
            self.start(map.get("response"), out);
        }
        match kind.as_str() {
            "response.output_item.added" => {
                self.item_added(item, map.get("item").unwrap_or(&Value::Null), out);
            }
            "response.output_text.delta" => {
                self.delta(part, || BlockKind::Text, Delta::Text(text("delta")), out);
            }
            "response.output_text.done" if !self.has_content(part) => {
                self.delta(part, || BlockKind::Text, Delta::Text(text("text")), out);
            }
            "response.output_text.annotation.added" => {
                if let Some(annotation) = map.shift_remove("annotation") {
                    self.delta(part, || BlockKind::Text, Delta::Citation(annotation), out);
                }
            }
            "response.refusal.delta" => {
                self.delta(part, || BlockKind::Refusal, Delta::Text(text("delta")), out);
            }
            "response.content_part.done" => self.stop(part, out),
            "response.reasoning_summary_part.added" if number("summary_index") > 0 => {
                self.delta(whole, || BlockKind::Reasoning, Delta::Text("\n\n".to_owned()), out);
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.delta(whole, || BlockKind::Reasoning, Delta::Text(text("delta")), out);
            }
            "response.function_call_arguments.delta" => {
                let none = || BlockKind::ToolCall { id: text("item_id"), name: String::new() };
                self.delta(whole, none, Delta::Arguments(text("delta")), out);
            }
            "response.output_item.done" => {
                let value = map.shift_remove("item").unwrap_or_default();
                self.item_done(item, value, out);
            }
            "response.completed" | "response.incomplete" => {
                let response = match map.shift_remove("response") {
                    Some(Value::Object(response)) => response,
                    _ => Map::new(),
                };
                self.end(&response, out);
            }
            "response.failed" | "response.cancelled" => out.push(Event::Error(failed(&Value::Object(map)))),
            "keepalive" => out.push(Event::Ping),
            _ => {}
        }
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        out.push(Event::Error(error::interrupted()));
    }
}
