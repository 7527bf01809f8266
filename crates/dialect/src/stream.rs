//! What the streaming codecs share: a decoder shell over SSE, and the step from events to chunks that
//! OpenAI's and MLflow's encoders have in common.

use millgate_types::{BlockKind, Delta, Dialect, Event, Fault, FinishReason, Operation, RequestId, Usage};
use serde_json::Value;

use crate::sse::{Frame, Parser};
use crate::{StreamDecoder, StreamEncoder, codec, error, not_implemented, scan};

/// Reads one dialect's events out of SSE frames.
pub(crate) trait Reader: Send {
    /// One frame.
    fn event(&mut self, name: &str, data: &str, out: &mut Vec<Event>);
    /// The stream closed without a terminal event: says whether that was its end all the same.
    fn close(&mut self, out: &mut Vec<Event>);
}

/// Frames to a [`Reader`], until it says `End` or `Error`.
pub(crate) struct SseDecoder<R> {
    parser: Parser,
    reader: R,
    done: bool,
}

impl<R: Reader> SseDecoder<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { parser: Parser::new(), reader, done: false }
    }
}

fn take(reader: &mut impl Reader, done: &mut bool, frame: Frame<'_>, out: &mut Vec<Event>) -> bool {
    match frame {
        Frame::Comment => out.push(Event::Ping),
        Frame::Event { event, data } => reader.event(event, data, out),
    }
    *done = matches!(out.last(), Some(Event::End | Event::Error(_)));
    !*done
}

impl<R: Reader> StreamDecoder for SseDecoder<R> {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        if self.done {
            return;
        }
        let Self { parser, reader, done } = self;
        if parser.push(bytes, |frame| take(reader, done, frame, out)).is_err() {
            self.done = true;
            out.push(Event::Error(error::nonsense("the provider's stream has a line over the limit")));
        }
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        if self.done {
            return;
        }
        let Self { parser, reader, done } = self;
        parser.finish(|frame| match frame {
            // The connection broke off inside the frame.
            Frame::Event { data, .. } if !is_whole(data.trim()) => true,
            frame => take(reader, done, frame, out),
        });
        if !self.done {
            self.done = true;
            self.reader.close(out);
        }
    }
}

fn is_whole(data: &str) -> bool {
    data == "[DONE]" || scan::is_object(data.as_bytes())
}

/// The stream encoder of a dialect that no caller streams in: one fault, and nothing after it.
pub(crate) struct Refusing {
    dialect: Dialect,
    operation: Operation,
    request_id: RequestId,
    done: bool,
}

impl Refusing {
    pub(crate) fn new(dialect: Dialect, operation: Operation, request_id: RequestId) -> Self {
        Self { dialect, operation, request_id, done: false }
    }
}

impl StreamEncoder for Refusing {
    fn push(&mut self, event: Event, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let fault = match event {
            Event::Error(fault) => fault,
            _ => not_implemented(self.dialect, self.operation),
        };
        out.extend_from_slice(&codec(self.dialect).fault_event(&fault, self.request_id));
    }
}

/// The stream decoder of a dialect that is not read from providers: one fault, and nothing after it.
pub(crate) struct NoStream {
    dialect: Dialect,
    operation: Operation,
    done: bool,
}

impl NoStream {
    pub(crate) fn new(dialect: Dialect, operation: Operation) -> Self {
        Self { dialect, operation, done: false }
    }
}

impl StreamDecoder for NoStream {
    fn push(&mut self, _bytes: &[u8], out: &mut Vec<Event>) {
        self.finish(out);
    }
    fn finish(&mut self, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.done, true) {
            out.push(Event::Error(not_implemented(self.dialect, self.operation)));
        }
    }
}

/// What one chunk of an OpenAI-like stream adds to a choice.
pub(crate) enum Piece<'a> {
    /// The first of a choice.
    Role,
    Text(&'a str),
    Refusal(&'a str),
    Reasoning(&'a str),
    /// Entries of `reasoning_details`.
    Details(&'a Value),
    Tool {
        index: u32,
        id: &'a str,
        name: &'a str,
    },
    Arguments {
        index: u32,
        text: &'a str,
    },
    /// A citation of the text between two places, in characters.
    Citation {
        citation: &'a Value,
        start: usize,
        end: usize,
    },
    Finish(&'a FinishReason),
}

/// Writes the chunks of one dialect.
pub(crate) trait ChunkWriter: Send {
    fn start(&mut self, id: &str, created: Option<u64>);
    fn chunk(&mut self, choice: u32, piece: &Piece<'_>, logprobs: Option<&Value>, out: &mut Vec<u8>);
    fn usage(&mut self, usage: &Usage, out: &mut Vec<u8>);
    fn ping(&mut self, out: &mut Vec<u8>);
    fn fault(&mut self, fault: &Fault, out: &mut Vec<u8>);
    fn done(&mut self, out: &mut Vec<u8>);
}

enum Kind {
    /// Where it began in the choice's text, in characters.
    Text(usize),
    Refusal,
    Reasoning {
        text: String,
        signature: Option<String>,
    },
    /// Its number, and whether arguments came.
    Tool(u32, bool),
    Other,
}

struct Part {
    choice: u32,
    block: u32,
    kind: Kind,
}

#[derive(Default)]
struct ChoiceState {
    index: u32,
    tools: u32,
    details: usize,
    /// Characters of text so far.
    text: usize,
    finished: bool,
    logprobs: Option<Value>,
}

/// Events to chunks.
pub(crate) struct ChunkEncoder<W> {
    writer: W,
    choices: Vec<ChoiceState>,
    parts: Vec<Part>,
    usage: Option<Usage>,
    done: bool,
}

impl<W: ChunkWriter> ChunkEncoder<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, choices: Vec::new(), parts: Vec::new(), usage: None, done: false }
    }

    fn choice(&mut self, index: u32, out: &mut Vec<u8>) -> usize {
        if let Some(place) = self.choices.iter().position(|choice| choice.index == index) {
            return place;
        }
        self.writer.chunk(index, &Piece::Role, None, out);
        self.choices.push(ChoiceState { index, ..ChoiceState::default() });
        self.choices.len() - 1
    }

    fn block_start(&mut self, choice: u32, block: u32, kind: BlockKind, out: &mut Vec<u8>) {
        let place = self.choice(choice, out);
        let state = &mut self.choices[place];
        let kind = match kind {
            BlockKind::Text => Kind::Text(state.text),
            BlockKind::Refusal => Kind::Refusal,
            BlockKind::Reasoning => Kind::Reasoning { text: String::new(), signature: None },
            BlockKind::RedactedReasoning { data } => {
                let detail = crate::openai::reasoning_detail(state.details, true, &data, None);
                state.details += 1;
                self.writer.chunk(choice, &Piece::Details(&Value::Array(vec![detail])), None, out);
                Kind::Other
            }
            BlockKind::ToolCall { id, name } => {
                let index = state.tools;
                state.tools += 1;
                self.writer.chunk(choice, &Piece::Tool { index, id: &id, name: &name }, None, out);
                Kind::Tool(index, false)
            }
            BlockKind::Other { .. } => Kind::Other,
        };
        self.parts.push(Part { choice, block, kind });
    }

    fn block_delta(&mut self, choice: u32, block: u32, delta: Delta, out: &mut Vec<u8>) {
        let place = self.choice(choice, out);
        let Some(part) = self.parts.iter_mut().rfind(|part| part.choice == choice && part.block == block)
        else {
            return;
        };
        match (&mut part.kind, delta) {
            (Kind::Text(_), Delta::Text(text)) => {
                self.choices[place].text += text.chars().count();
                let logprobs = self.choices[place].logprobs.take();
                self.writer.chunk(choice, &Piece::Text(&text), logprobs.as_ref(), out);
            }
            (Kind::Text(start), Delta::Citation(citation)) => {
                let (start, end) = (*start, self.choices[place].text);
                self.writer.chunk(choice, &Piece::Citation { citation: &citation, start, end }, None, out);
            }
            (Kind::Refusal, Delta::Text(text)) => {
                let logprobs = self.choices[place].logprobs.take();
                self.writer.chunk(choice, &Piece::Refusal(&text), logprobs.as_ref(), out);
            }
            (Kind::Reasoning { text: whole, .. }, Delta::Text(text)) => {
                whole.push_str(&text);
                self.writer.chunk(choice, &Piece::Reasoning(&text), None, out);
            }
            (Kind::Reasoning { signature, .. }, Delta::Signature(piece)) => {
                signature.get_or_insert_default().push_str(&piece);
            }
            (Kind::Tool(index, has_arguments), Delta::Arguments(text)) => {
                *has_arguments = true;
                self.writer.chunk(choice, &Piece::Arguments { index: *index, text: &text }, None, out);
            }
            (_, Delta::Other { dialect: Dialect::OpenAi, value }) => {
                if let Some(logprobs) = value.get("logprobs") {
                    self.choices[place].logprobs = Some(logprobs.clone());
                }
                if let Some(details) = value.get("reasoning_details") {
                    self.writer.chunk(choice, &Piece::Details(details), None, out);
                }
            }
            _ => {}
        }
    }

    fn block_stop(&mut self, choice: u32, block: u32, out: &mut Vec<u8>) {
        let Some(place) = self.parts.iter().rposition(|part| part.choice == choice && part.block == block)
        else {
            return;
        };
        match self.parts.swap_remove(place).kind {
            Kind::Reasoning { text, signature: Some(signature) } => {
                let place = self.choice(choice, out);
                let state = &mut self.choices[place];
                let detail = crate::openai::reasoning_detail(state.details, false, &text, Some(&signature));
                state.details += 1;
                self.writer.chunk(choice, &Piece::Details(&Value::Array(vec![detail])), None, out);
            }
            // No arguments are an empty object, never an empty text.
            Kind::Tool(index, false) => {
                self.writer.chunk(choice, &Piece::Arguments { index, text: "{}" }, None, out);
            }
            _ => {}
        }
    }

    fn finish(&mut self, choice: u32, reason: &FinishReason, out: &mut Vec<u8>) {
        let place = self.choice(choice, out);
        if !std::mem::replace(&mut self.choices[place].finished, true) {
            let logprobs = self.choices[place].logprobs.take();
            self.writer.chunk(choice, &Piece::Finish(reason), logprobs.as_ref(), out);
        }
    }
}

impl<W: ChunkWriter> StreamEncoder for ChunkEncoder<W> {
    fn push(&mut self, event: Event, out: &mut Vec<u8>) {
        if self.done {
            return;
        }
        match event {
            Event::Start { id, created, usage, .. } => {
                self.usage = usage.or(self.usage);
                self.writer.start(&id, created);
                self.choice(0, out);
            }
            Event::BlockStart { choice, block, kind } => self.block_start(choice, block, kind, out),
            Event::BlockDelta { choice, block, delta } => self.block_delta(choice, block, delta, out),
            Event::BlockStop { choice, block } => self.block_stop(choice, block, out),
            Event::Finish { choice, reason, .. } => self.finish(choice, &reason, out),
            // Counts of zero are counts that nobody believes.
            Event::Usage(usage) => self.usage = Some(usage).filter(|usage| usage.total() > 0),
            Event::Ping => self.writer.ping(out),
            Event::Error(fault) => {
                self.done = true;
                self.writer.fault(&fault, out);
            }
            Event::End => {
                self.done = true;
                let open: Vec<u32> = self
                    .choices
                    .iter()
                    .filter(|choice| !choice.finished)
                    .map(|choice| choice.index)
                    .collect();
                for choice in open {
                    self.finish(choice, &FinishReason::Stop, out);
                }
                if let Some(usage) = self.usage {
                    self.writer.usage(&usage, out);
                }
                self.writer.done(out);
            }
        }
    }
}
