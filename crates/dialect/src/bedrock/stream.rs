//! ConverseStream's events, out of AWS's event-stream frames.

use millgate_types::{BlockKind, Delta, Event, Fault, FinishReason};
use serde_json::Value;

use super::answer::{citation, finish_reason, stop_sequence, usage};
use crate::eventstream::{Broken, Frame, Parser};
use crate::{ErrorBody, StreamDecoder, error};

/// Reads the frames of one stream.
#[derive(Default)]
pub(super) struct ConverseReader {
    parser: Parser,
    state: State,
}

#[derive(Default)]
struct State {
    started: bool,
    blocks: u32,
    /// Blocks that are open: the provider's index and what we made of them.
    open: Vec<(u64, Open)>,
    finished: bool,
    done: bool,
}

/// What an open block is.
enum Open {
    /// Begun under our number.
    Begun(u32),
    /// Sealed thinking, which is shown when it is whole.
    Sealed(String),
    /// Not shown.
    Hidden,
}

impl State {
    fn start(&mut self, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.started, true) {
            out.push(Event::Start { id: String::new(), model: String::new(), created: None, usage: None });
        }
    }

    fn begin(&mut self, kind: BlockKind, out: &mut Vec<Event>) -> u32 {
        let block = self.blocks;
        self.blocks += 1;
        out.push(Event::BlockStart { choice: 0, block, kind });
        block
    }

    fn frame(&mut self, frame: Frame<'_>, out: &mut Vec<Event>) {
        match frame.text(":message-type") {
            Some("exception") => {
                let kind = frame.text(":exception-type").unwrap_or_default();
                out.push(Event::Error(exception(kind, frame.payload)));
            }
            Some("error") => {
                let text = |name: &str| frame.text(name).map(str::to_owned);
                let body = ErrorBody {
                    message: text(":error-message"),
                    kind: text(":error-code"),
                    ..ErrorBody::default()
                };
                out.push(Event::Error(error::in_band(&body, Some(500))));
            }
            _ => {
                let Some(kind) = frame.text(":event-type") else { return };
                match serde_json::from_slice::<Value>(frame.payload) {
                    Ok(value) => self.event(kind, &value, out),
                    Err(_) => out.push(Event::Error(error::nonsense(
                        "the provider's stream holds something that is not an event",
                    ))),
                }
            }
        }
        self.done = matches!(out.last(), Some(Event::End | Event::Error(_)));
    }

    fn event(&mut self, kind: &str, value: &Value, out: &mut Vec<Event>) {
        let index = value["contentBlockIndex"].as_u64().unwrap_or(0);
        match kind {
            "messageStart" => self.start(out),
            "contentBlockStart" => {
                self.start(out);
                let call = &value["start"]["toolUse"];
                // Tools that the provider runs itself, and their results, are none of the caller's.
                let open = if call.is_object() && call["type"] != "server_tool_use" {
                    let text = |key: &str| call[key].as_str().unwrap_or_default().to_owned();
                    let kind = BlockKind::ToolCall { id: text("toolUseId"), name: text("name") };
                    Open::Begun(self.begin(kind, out))
                } else {
                    Open::Hidden
                };
                self.open.push((index, open));
            }
            "contentBlockDelta" => {
                self.start(out);
                self.delta(index, &value["delta"], out);
            }
            "contentBlockStop" => {
                if let Some(place) = self.open.iter().rposition(|(theirs, _)| *theirs == index) {
                    let (_, open) = self.open.remove(place);
                    self.close(open, out);
                }
            }
            "messageStop" => {
                self.start(out);
                self.close_all(out);
                match finish_reason(value["stopReason"].as_str().unwrap_or("end_turn")) {
                    Err(fault) => out.push(Event::Error(fault)),
                    Ok(reason) => {
                        let stop_sequence = stop_sequence(value.get("additionalModelResponseFields"));
                        self.finish(reason, stop_sequence, out);
                    }
                }
            }
            // Usage comes after the end of the message, and nothing after it.
            "metadata" => {
                self.start(out);
                self.close_all(out);
                self.finish(FinishReason::Stop, None, out);
                out.extend(usage(&value["usage"]).map(Event::Usage));
                out.push(Event::End);
            }
            // InvokeModel's name of exceptions in some regions, without the message type.
            kind if kind.ends_with("Exception") => {
                out.push(Event::Error(exception(kind, value.to_string().as_bytes())));
            }
            _ => {}
        }
    }

    fn finish(&mut self, reason: FinishReason, stop_sequence: Option<String>, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.finished, true) {
            out.push(Event::Finish { choice: 0, reason, stop_sequence });
        }
    }

    fn delta(&mut self, index: u64, delta: &Value, out: &mut Vec<Event>) {
        let (kind, found) = if let Some(text) = delta["text"].as_str() {
            (BlockKind::Text, Delta::Text(text.to_owned()))
        } else if let Some(piece) = delta["toolUse"]["input"].as_str() {
            let kind = BlockKind::ToolCall { id: String::new(), name: String::new() };
            (kind, Delta::Arguments(piece.to_owned()))
        } else if let Some(text) = delta["reasoningContent"]["text"].as_str() {
            (BlockKind::Reasoning, Delta::Text(text.to_owned()))
        } else if let Some(seal) = delta["reasoningContent"]["signature"].as_str() {
            (BlockKind::Reasoning, Delta::Signature(seal.to_owned()))
        } else if let Some(data) = delta["reasoningContent"]["redactedContent"].as_str() {
            match self.open.iter_mut().rfind(|(theirs, _)| *theirs == index) {
                Some((_, Open::Sealed(known))) => known.push_str(data),
                Some(_) => {}
                None => self.open.push((index, Open::Sealed(data.to_owned()))),
            }
            return;
        } else if let Some(cited) = citation(&delta["citation"]) {
            (BlockKind::Text, Delta::Citation(cited))
        } else {
            return;
        };
        let block = match self.open.iter().rfind(|(theirs, _)| *theirs == index) {
            Some((_, Open::Begun(block))) => *block,
            Some(_) => return,
            // Only tools announce themselves.
            None => {
                let block = self.begin(kind, out);
                self.open.push((index, Open::Begun(block)));
                block
            }
        };
        match &found {
            Delta::Text(text) | Delta::Arguments(text) | Delta::Signature(text) if text.is_empty() => {}
            _ => out.push(Event::BlockDelta { choice: 0, block, delta: found }),
        }
    }

    fn close(&mut self, open: Open, out: &mut Vec<Event>) {
        match open {
            Open::Begun(block) => out.push(Event::BlockStop { choice: 0, block }),
            Open::Sealed(data) => {
                let block = self.begin(BlockKind::RedactedReasoning { data }, out);
                out.push(Event::BlockStop { choice: 0, block });
            }
            Open::Hidden => {}
        }
    }

    fn close_all(&mut self, out: &mut Vec<Event>) {
        for (_, open) in std::mem::take(&mut self.open) {
            self.close(open, out);
        }
    }
}

/// The fault of an exception inside a stream, by the status that the same exception has outside.
fn exception(kind: &str, payload: &[u8]) -> Fault {
    let kind = kind.to_ascii_lowercase();
    let has = |word: &str| kind.contains(word);
    let status = if has("throttling") || has("modelnotready") {
        429
    } else if has("validation") {
        400
    } else if has("serviceunavailable") {
        503
    } else if has("modeltimeout") {
        408
    } else if has("accessdenied") || has("expiredtoken") {
        403
    } else if has("resourcenotfound") {
        404
    } else {
        500
    };
    let mut body = error::read(payload);
    // The model's own status, where it tells one.
    body.kind = Some(kind);
    error::in_band(&body, Some(status))
}

impl StreamDecoder for ConverseReader {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        let Self { parser, state } = self;
        if state.done {
            return;
        }
        let read = parser.push(bytes, |frame| {
            state.frame(frame, out);
            !state.done
        });
        if let Err(broken) = read {
            state.done = true;
            out.push(Event::Error(error::nonsense(match broken {
                Broken::TooLarge => "the provider's stream has a frame over the limit",
                Broken::Malformed => "the provider's stream is not made of frames",
                Broken::Checksum => "the provider's stream is damaged",
            })));
        }
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.state.done, true) {
            return;
        }
        // A message that ended counts, even where its usage did not come any more.
        let ended = self.state.finished && self.parser.is_between();
        out.push(if ended { Event::End } else { Event::Error(error::interrupted()) });
    }
}
