//! Google's streams, both ways: every event is a whole answer with what is new in it, usage is cumulative, and
//! the end of the connection is the end.

use millgate_types::{Block, BlockKind, Delta, Dialect, Event, FinishReason, Usage};
use serde_json::{Map, Value, json};

use super::answer::{answer_id, citations, finish_reason, finish_word, is_blocked, usage, write_usage};
use super::partial;
use super::parts::{self, Kind, Part, Turn};
use crate::json::Object;
use crate::openai::answer::made_id;
use crate::seal::{self, Place};
use crate::stream::Reader;
use crate::{Context, StreamEncoder, error};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thought,
}

/// What is known of one candidate.
#[derive(Default)]
struct Candidate {
    index: u32,
    blocks: u32,
    open: Option<(Open, u32)>,
    calls: usize,
    /// A function call whose arguments come in pieces, and what there is of them.
    partial: Option<(u32, Value)>,
    finish: Option<Value>,
}

/// Reads the chunks of a stream.
#[derive(Default)]
pub(super) struct ChunkReader {
    started: bool,
    id: String,
    candidates: Vec<Candidate>,
    blocked: bool,
}

impl Candidate {
    fn start(&mut self, kind: BlockKind, out: &mut Vec<Event>) -> u32 {
        let block = self.blocks;
        self.blocks += 1;
        out.push(Event::BlockStart { choice: self.index, block, kind });
        block
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        if let Some((block, whole)) = self.partial.take() {
            let delta = Delta::Arguments(whole.to_string());
            out.push(Event::BlockDelta { choice: self.index, block, delta });
            out.push(Event::BlockStop { choice: self.index, block });
        }
        if let Some((_, block)) = self.open.take() {
            out.push(Event::BlockStop { choice: self.index, block });
        }
    }

    /// The block that text of this kind goes to.
    fn block(&mut self, kind: Open, out: &mut Vec<Event>) -> u32 {
        match self.open {
            Some((open, block)) if open == kind => block,
            _ => {
                self.close(out);
                let block =
                    self.start(if kind == Open::Text { BlockKind::Text } else { BlockKind::Reasoning }, out);
                self.open = Some((kind, block));
                block
            }
        }
    }

    fn say(&mut self, kind: Open, text: String, out: &mut Vec<Event>) {
        let block = self.block(kind, out);
        if !text.is_empty() {
            out.push(Event::BlockDelta { choice: self.index, block, delta: Delta::Text(text) });
        }
    }

    /// Puts a signature on the thought that stands open, or on one without words; that block is then over.
    fn sign(&mut self, signature: Option<String>, place: Place, out: &mut Vec<Event>) {
        let Some(signature) = signature else { return };
        let block = self.block(Open::Thought, out);
        let delta = Delta::Signature(seal::gemini(place, &signature));
        out.push(Event::BlockDelta { choice: self.index, block, delta });
        self.close(out);
    }

    fn part(&mut self, part: Part, answer: &str, out: &mut Vec<Event>) {
        let signature = part.signature;
        match part.kind {
            Kind::Thought(text) => {
                self.say(Open::Thought, text, out);
                self.sign(signature, Place::Thought, out);
            }
            Kind::Text(text) => {
                let thinking = matches!(self.open, Some((Open::Thought, _)));
                let writing = matches!(self.open, Some((Open::Text, _)));
                if !text.is_empty() && thinking && signature.is_some() {
                    self.sign(signature, Place::Text, out);
                    self.say(Open::Text, text, out);
                    return;
                }
                if !text.is_empty() || writing {
                    self.say(Open::Text, text, out);
                }
                self.sign(signature, Place::Text, out);
            }
            Kind::Call(call) if self.partial.is_some() && call.name.is_empty() => {
                if let Some((_, whole)) = &mut self.partial {
                    for piece in &call.pieces {
                        partial::apply(whole, piece);
                    }
                }
                if !call.goes_on {
                    self.close(out);
                }
            }
            Kind::Call(parts::Call { id, name, arguments, pieces, goes_on }) => {
                self.sign(signature, Place::Call(self.calls), out);
                self.close(out);
                let id = id.unwrap_or_else(|| made_id(answer, self.calls));
                self.calls += 1;
                let block = self.start(BlockKind::ToolCall { id, name }, out);
                if goes_on {
                    let mut whole = json!({});
                    for piece in &pieces {
                        partial::apply(&mut whole, piece);
                    }
                    self.partial = Some((block, whole));
                    return;
                }
                let delta = Delta::Arguments(arguments);
                out.push(Event::BlockDelta { choice: self.index, block, delta });
                out.push(Event::BlockStop { choice: self.index, block });
            }
            Kind::Media(block) => {
                // Events have no media of their own; callers of this dialect get the part.
                if let Some(value) = parts::media_value(&block) {
                    self.whole(value, out);
                }
            }
            Kind::Other(value) => self.whole(value, out),
            Kind::Response { .. } => {}
        }
    }

    fn whole(&mut self, value: Value, out: &mut Vec<Event>) {
        self.close(out);
        let block = self.start(BlockKind::Other { dialect: Dialect::Gemini, value }, out);
        out.push(Event::BlockStop { choice: self.index, block });
    }
}

impl ChunkReader {
    fn candidate(&mut self, mut item: Map<String, Value>, place: usize, out: &mut Vec<Event>) {
        let index = item.get("index").and_then(Value::as_u64).unwrap_or(place as u64) as u32;
        let place = self.candidates.iter().position(|known| known.index == index).unwrap_or_else(|| {
            self.candidates.push(Candidate { index, ..Candidate::default() });
            self.candidates.len() - 1
        });
        let Self { candidates, id, .. } = self;
        let candidate = &mut candidates[place];
        if let Some(Value::Object(mut content)) = item.shift_remove("content")
            && let Some(Value::Array(items)) = content.shift_remove("parts")
        {
            for part in items.into_iter().filter_map(parts::read) {
                candidate.part(part, id, out);
            }
        }
        if let (Some(grounding), Some((Open::Text, block))) = (item.get("groundingMetadata"), candidate.open)
        {
            out.extend(citations(grounding).into_iter().map(|citation| Event::BlockDelta {
                choice: index,
                block,
                delta: Delta::Citation(citation),
            }));
        }
        if let Some(finish) = item.shift_remove("finishReason").filter(|finish| !finish.is_null()) {
            candidate.finish = Some(finish);
        }
    }
}

impl Reader for ChunkReader {
    fn event(&mut self, _name: &str, data: &str, out: &mut Vec<Event>) {
        if data.trim().is_empty() {
            return;
        }
        let value = match serde_json::from_str::<Value>(data) {
            Ok(Value::Array(mut items)) if items.len() == 1 => items.remove(0),
            Ok(value) => value,
            Err(_) => Value::Null,
        };
        let Value::Object(mut map) = value else {
            out.push(Event::Error(error::nonsense(
                "the provider's stream holds something that is not an event",
            )));
            return;
        };
        if map.get("error").is_some_and(|error| !error.is_null()) {
            out.push(Event::Error(super::error::in_band(&Value::Object(map))));
            return;
        }
        let counts = map.get("usageMetadata");
        let found = counts.and_then(usage);
        // Counts that are not to be believed spoil those before them.
        let has_counts = counts
            .and_then(Value::as_object)
            .is_some_and(|map| map.keys().any(|key| key.ends_with("TokenCount")));
        let spoilt = (self.started && has_counts && found.is_none()).then(Usage::default);
        if !std::mem::replace(&mut self.started, true) {
            let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            self.id = text("responseId");
            out.push(Event::Start {
                id: self.id.clone(),
                model: text("modelVersion"),
                created: None,
                usage: found,
            });
        }
        self.blocked |= map.get("promptFeedback").is_some_and(is_blocked);
        if let Some(Value::Array(items)) = map.shift_remove("candidates") {
            for (place, item) in items.into_iter().enumerate() {
                if let Value::Object(item) = item {
                    self.candidate(item, place, out);
                }
            }
        }
        out.extend(found.or(spoilt).map(Event::Usage));
    }

    /// The connection's end is the stream's, if the model had come to one.
    fn close(&mut self, out: &mut Vec<Event>) {
        let ended = self.candidates.iter().any(|candidate| candidate.finish.is_some());
        if !ended && !self.blocked {
            out.push(Event::Error(error::interrupted()));
            return;
        }
        for candidate in &mut self.candidates {
            candidate.close(out);
            let finish = candidate.finish.take();
            let reason = finish.and_then(|finish| finish_reason(&finish, candidate.calls > 0));
            if let Some(reason) = reason {
                out.push(Event::Finish { choice: candidate.index, reason, stop_sequence: None });
            }
        }
        if !ended {
            out.push(Event::Finish { choice: 0, reason: FinishReason::ContentFilter, stop_sequence: None });
        }
        out.push(Event::End);
    }
}

// ---- writing ----------------------------------------------------------------------------------------

/// A block on its way: text goes out at once, everything else when it is whole.
struct Writing {
    choice: u32,
    block: u32,
    kind: BlockKind,
    text: String,
    seal: String,
}

/// Writes the chunks of a stream.
pub(super) struct ChunkOut {
    context: Context,
    id: String,
    blocks: Vec<Writing>,
    /// Signatures wait here for the part they belong on, per candidate.
    turns: Vec<(u32, Turn)>,
    finish: Vec<(u32, FinishReason)>,
    usage: Option<Usage>,
    done: bool,
}

impl ChunkOut {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            id: answer_id("", context),
            blocks: Vec::new(),
            turns: Vec::new(),
            finish: Vec::new(),
            usage: None,
            done: false,
        }
    }

    fn turn(&mut self, choice: u32) -> &mut Turn {
        let place = self.turns.iter().position(|(known, _)| *known == choice).unwrap_or_else(|| {
            self.turns.push((choice, Turn::default()));
            self.turns.len() - 1
        });
        &mut self.turns[place].1
    }

    fn chunk(&self, choice: u32, parts: &[Value], finish: Option<&FinishReason>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        let mut top = Object::new(out);
        let mut candidates = top.array("candidates");
        let mut item = candidates.object();
        let mut content = item.object("content");
        if !parts.is_empty() {
            content.field("parts", parts);
        }
        content.field("role", "model");
        content.end();
        item.some("finishReason", finish.map(finish_word).as_ref());
        item.field("index", &choice);
        item.end();
        candidates.end();
        if let Some(usage) = &self.usage {
            write_usage(top.key("usageMetadata"), usage);
        }
        top.field("modelVersion", &self.context.model);
        top.field("responseId", &self.id);
        top.end();
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// Writes what the candidate's turn has gathered.
    fn flush(&mut self, choice: u32, out: &mut Vec<u8>) {
        let parts = self.turn(choice).take();
        if !parts.is_empty() {
            self.chunk(choice, &parts, None, out);
        }
    }

    fn delta(&mut self, choice: u32, block: u32, delta: Delta, out: &mut Vec<u8>) {
        let found = self.blocks.iter_mut().rfind(|known| known.choice == choice && known.block == block);
        let Some(writing) = found else { return };
        match (&writing.kind, delta) {
            (BlockKind::Text | BlockKind::Refusal, Delta::Text(text)) => {
                self.turn(choice).text(&text);
                self.flush(choice, out);
            }
            (BlockKind::Reasoning, Delta::Text(text)) => {
                self.chunk(choice, &[json!({"text": text, "thought": true})], None, out);
            }
            (BlockKind::Reasoning, Delta::Signature(piece)) => writing.seal.push_str(&piece),
            (BlockKind::ToolCall { .. }, Delta::Arguments(piece)) => writing.text.push_str(&piece),
            _ => {}
        }
    }

    fn stop(&mut self, choice: u32, block: u32, out: &mut Vec<u8>) {
        let place = self.blocks.iter().rposition(|known| known.choice == choice && known.block == block);
        let Some(place) = place else { return };
        let writing = self.blocks.remove(place);
        let block = match writing.kind {
            BlockKind::ToolCall { id, name } => {
                Block::ToolCall { id, name, arguments: writing.text, cache_control: None }
            }
            BlockKind::Reasoning if !writing.seal.is_empty() => {
                Block::Reasoning { text: String::new(), signature: Some(writing.seal) }
            }
            BlockKind::RedactedReasoning { data } => Block::RedactedReasoning { data },
            BlockKind::Other { dialect, value } => Block::Other { dialect, value },
            _ => return,
        };
        super::answer::add_block(self.turn(choice), &block);
        self.flush(choice, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let open: Vec<(u32, u32)> =
            self.blocks.iter().map(|writing| (writing.choice, writing.block)).collect();
        for (choice, block) in open {
            self.stop(choice, block, out);
        }
        if self.finish.is_empty() {
            self.finish.push((0, FinishReason::Stop));
        }
        for (choice, reason) in std::mem::take(&mut self.finish) {
            let parts = std::mem::take(self.turn(choice)).end();
            self.chunk(choice, &parts, Some(&reason), out);
        }
    }
}

impl StreamEncoder for ChunkOut {
    fn push(&mut self, event: Event, out: &mut Vec<u8>) {
        if self.done {
            return;
        }
        match event {
            Event::Start { id, usage, .. } => {
                self.id = answer_id(&id, &self.context);
                self.usage = usage;
            }
            Event::BlockStart { choice, block, kind } => {
                self.blocks.push(Writing { choice, block, kind, text: String::new(), seal: String::new() });
            }
            Event::BlockDelta { choice, block, delta } => self.delta(choice, block, delta, out),
            Event::BlockStop { choice, block } => self.stop(choice, block, out),
            Event::Finish { choice, reason, .. } => {
                if self.finish.iter().all(|(known, _)| *known != choice) {
                    self.finish.push((choice, reason));
                }
            }
            Event::Usage(usage) => self.usage = Some(usage),
            // Google's clients take every event for a chunk.
            Event::Ping => {}
            Event::Error(fault) => {
                self.done = true;
                out.extend_from_slice(&super::error::event(&fault, self.context.request_id));
            }
            Event::End => {
                self.done = true;
                self.end(out);
            }
        }
    }
}
