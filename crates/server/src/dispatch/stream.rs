//! Streams on their way to the caller. Before the first content an error becomes a real status; after it, the
//! caller's dialect has an event for it, and nothing looks like success that was not.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use millgate_dialect::{StreamDecoder, StreamEncoder, Watch, codec, sse};
use millgate_types::{Delta, Dialect, Event, Fault, Retry, Usage, code};
use millgate_upstream::UpstreamError;

use super::doubt;
use super::estimate::Evidence;
use super::llm::AnswerBody;
use crate::flight::Flight;
use crate::reply::Pieces;

/// The next bytes of the provider; `None` at the end of its body.
async fn next(body: &mut AnswerBody) -> Result<Option<Bytes>, Fault> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(error.into_fault()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn poll_next(body: &mut AnswerBody, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
    loop {
        match ready!(Pin::new(&mut *body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(Some(Ok(data)));
                }
            }
        }
    }
}

fn empty() -> Fault {
    Fault::upstream(code::UPSTREAM_ERROR, Retry::NextTarget, "the provider sent an empty stream")
}

/// A fault before the first content. There is no middle yet to break off in: another target may be asked.
fn before_content(fault: Fault) -> Fault {
    if fault.code == code::STREAM_INTERRUPTED { empty() } else { fault }
}

/// A break in the middle: nothing may be tried again, whatever the cause.
fn interrupted(error: UpstreamError) -> Fault {
    if let UpstreamError::Model(mut fault) = error {
        fault.retry = Retry::Never;
        return fault;
    }
    let (code, public) = match error {
        UpstreamError::Timeout => (code::UPSTREAM_TIMEOUT, "the provider's answer took too long"),
        _ => (code::STREAM_INTERRUPTED, "the provider's stream broke off"),
    };
    Fault::upstream(code, Retry::Never, public).with_cause(error)
}

/// What a provider sends behind the end of its answer is read for the sake of its connection only.
struct Rest(usize);

impl Rest {
    /// More is not read.
    const MOST: usize = 64 << 10;

    /// Ends with the body, or where it is not worth more reading.
    fn poll(&mut self, body: &mut AnswerBody, context: &mut Context<'_>) -> Poll<()> {
        while self.0 < Self::MOST {
            match ready!(poll_next(body, context)) {
                Some(Ok(bytes)) => self.0 += bytes.len(),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

// ---- pass lane --------------------------------------------------------------------------------------

/// Frames go on as they came; a watch reads usage, errors and the end.
pub(super) struct Passing {
    body: AnswerBody,
    watch: Watch,
    dialect: Dialect,
    first: Option<Bytes>,
    /// The frames that went on last, where events are numbered: an error that follows continues their count.
    last: Bytes,
    over: bool,
    rest: Rest,
    evidence: Option<Evidence>,
    /// Frames that went by: of an answer in text, each holds a token at least.
    frames: u64,
}

/// Frames before the first content are held back up to here, in bytes.
const HELD_BACK: usize = 64 << 10;

impl Passing {
    /// Waits for the first content; an error up to there is a fault.
    pub(super) async fn open(
        mut body: AnswerBody,
        mut watch: Watch,
        dialect: Dialect,
        mut evidence: Option<Evidence>,
        flight: &mut Flight,
    ) -> Result<Self, Fault> {
        let mut held = Vec::new();
        loop {
            let (passed, last) = match next(&mut body).await? {
                Some(bytes) => {
                    if let Some(evidence) = &mut evidence {
                        evidence.keep(&bytes);
                    }
                    (watch.push(&bytes), false)
                }
                None => (watch.finish(), true),
            };
            flight.consumed(watch.usage());
            if let Some(fault) = passed.fault {
                return Err(before_content(fault));
            }
            let only = held.is_empty() && watch.begun();
            if !only {
                held.extend_from_slice(&passed.bytes);
            }
            if watch.begun() || held.len() > HELD_BACK {
                let first = Some(if only { passed.bytes } else { held.into() });
                let first = first.filter(|bytes: &Bytes| !bytes.is_empty());
                let (rest, over) = (Rest(0), last);
                let mut passing = Self {
                    body,
                    watch,
                    dialect,
                    first: None,
                    last: Bytes::new(),
                    over,
                    rest,
                    evidence,
                    frames: 0,
                };
                if let Some(first) = &first {
                    passing.keep(first);
                }
                passing.first = first;
                return Ok(passing);
            }
            if last {
                return Err(empty());
            }
        }
    }

    fn keep(&mut self, sent: &Bytes) {
        if self.dialect == Dialect::Responses {
            self.last = sent.clone();
        }
    }

    fn fail(&mut self, sent: &[u8], fault: &Fault, flight: &mut Flight) -> Bytes {
        self.over = true;
        flight.fail(fault);
        let before = if sent.is_empty() { &self.last[..] } else { sent };
        let event = codec(self.dialect).fault_event_behind(before, fault, flight.request_id());
        if sent.is_empty() { event.into() } else { [sent, &event].concat().into() }
    }
}

impl Pieces for Passing {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        while !self.over {
            if self.watch.ended() {
                ready!(self.rest.poll(&mut self.body, context));
                self.over = true;
                break;
            }
            let passed = match ready!(poll_next(&mut self.body, context)) {
                Some(Ok(bytes)) => {
                    if let Some(evidence) = &mut self.evidence {
                        evidence.keep(&bytes);
                    }
                    self.watch.push(&bytes)
                }
                Some(Err(error)) => {
                    return Poll::Ready(Some(self.fail(&[], &interrupted(error), flight)));
                }
                None => {
                    self.over = true;
                    self.watch.finish()
                }
            };
            flight.consumed(self.watch.usage());
            if let Some(fault) = passed.fault {
                return Poll::Ready(Some(self.fail(&passed.bytes, &fault, flight)));
            }
            if !passed.bytes.is_empty() {
                self.frames += memchr::memmem::find_iter(&passed.bytes, b"\n\n").count() as u64;
                if let Err(fault) = flight.streamed(self.frames) {
                    return Poll::Ready(Some(self.fail(&passed.bytes, &fault, flight)));
                }
                self.keep(&passed.bytes);
                return Poll::Ready(Some(passed.bytes));
            }
        }
        Poll::Ready(None)
    }

    fn is_told(&self) -> bool {
        self.first.is_none() && self.watch.ended()
    }

    fn settle(&mut self, flight: &mut Flight) {
        let said = self.watch.usage();
        if let Some(evidence) = self.evidence.take().filter(|_| !self.watch.ended() || said.total() == 0) {
            evidence.settle(said, true, flight);
        }
    }
}

// ---- translate lane ---------------------------------------------------------------------------------

/// Events are decoded from the provider's bytes and encoded for the caller.
pub(super) struct Translating {
    body: AnswerBody,
    decoder: Box<dyn StreamDecoder>,
    encoder: Box<dyn StreamEncoder>,
    events: Vec<Event>,
    usage: Usage,
    over: bool,
    /// The provider's end was read.
    ended: bool,
    rest: Rest,
    /// Tool calls so far.
    calls: usize,
    /// Bytes of text so far; a token has four, more or less.
    text: u64,
    evidence: Option<Evidence>,
}

/// A stream that has this many events and no content in them has none.
const OPENING: usize = 4096;

impl Translating {
    /// Waits for the first content; an error up to there is a fault.
    pub(super) async fn open(
        mut body: AnswerBody,
        mut decoder: Box<dyn StreamDecoder>,
        encoder: Box<dyn StreamEncoder>,
        mut evidence: Evidence,
        flight: &mut Flight,
    ) -> Result<Self, Fault> {
        let mut events = Vec::new();
        let mut calls = 0;
        loop {
            let bytes = next(&mut body).await?;
            match &bytes {
                Some(bytes) => {
                    evidence.keep(bytes);
                    decoder.push(bytes, &mut events);
                }
                None => decoder.finish(&mut events),
            }
            doubt::check_events(&mut events, &mut calls, flight.request_id());
            // Before the content nobody is told that the provider is still there.
            events.retain(|event| !matches!(event, Event::Ping));
            let content = events.iter().position(Event::is_content);
            let error = events.iter().position(|event| matches!(event, Event::Error(_)));
            if let Some(at) = error.filter(|at| content.is_none_or(|content| *at < content)) {
                let Event::Error(fault) = events.swap_remove(at) else { return Err(empty()) };
                return Err(before_content(fault));
            }
            if content.is_some() {
                flight.first_byte();
                let over = bytes.is_none();
                let (usage, evidence, rest) = (Usage::default(), Some(evidence), Rest(0));
                let ended = false;
                return Ok(Self {
                    body,
                    decoder,
                    encoder,
                    events,
                    usage,
                    over,
                    ended,
                    rest,
                    calls,
                    text: 0,
                    evidence,
                });
            }
            if bytes.is_none() || events.len() > OPENING {
                return Err(empty());
            }
        }
    }

    /// Encodes what was decoded.
    fn encode(&mut self, flight: &mut Flight) -> Bytes {
        let mut out = Vec::with_capacity(256);
        for event in std::mem::take(&mut self.events) {
            match &event {
                Event::Start { usage: Some(usage), .. } | Event::Usage(usage) => self.usage = *usage,
                Event::Error(fault) => {
                    flight.fail(fault);
                    self.over = true;
                }
                Event::End => self.ended = true,
                Event::BlockDelta { delta: Delta::Text(piece) | Delta::Arguments(piece), .. } => {
                    self.text += piece.len() as u64;
                }
                _ => {}
            }
            self.encoder.push(event, &mut out);
        }
        if let (false, Err(fault)) = (self.over || self.ended, flight.streamed(self.text / 4)) {
            flight.fail(&fault);
            self.over = true;
            self.encoder.push(Event::Error(fault), &mut out);
        }
        flight.consumed(self.usage);
        out.into()
    }
}

impl Pieces for Translating {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        loop {
            if !self.events.is_empty() {
                let piece = self.encode(flight);
                if !piece.is_empty() {
                    return Poll::Ready(Some(piece));
                }
            }
            if self.over {
                return Poll::Ready(None);
            }
            if self.ended {
                ready!(self.rest.poll(&mut self.body, context));
                self.over = true;
                continue;
            }
            match ready!(poll_next(&mut self.body, context)) {
                Some(Ok(bytes)) => {
                    if let Some(evidence) = &mut self.evidence {
                        evidence.keep(&bytes);
                    }
                    self.decoder.push(&bytes, &mut self.events);
                }
                Some(Err(error)) => {
                    self.over = true;
                    self.events.push(Event::Error(interrupted(error)));
                }
                None => {
                    self.over = true;
                    self.decoder.finish(&mut self.events);
                }
            }
            doubt::check_events(&mut self.events, &mut self.calls, flight.request_id());
        }
    }

    fn is_told(&self) -> bool {
        self.events.is_empty() && self.ended
    }

    fn settle(&mut self, flight: &mut Flight) {
        if let Some(evidence) = self.evidence.take().filter(|_| !self.ended || self.usage.total() == 0) {
            evidence.settle(self.usage, true, flight);
        }
    }
}

// ---- whole answers where a stream was asked for -----------------------------------------------------

/// A stream that was there at once.
pub(super) struct Replayed(Option<Bytes>);

impl Replayed {
    pub(super) fn new(stream: Vec<u8>) -> Self {
        Self(Some(stream.into()))
    }
}

impl Pieces for Replayed {
    fn poll_piece(&mut self, _: &mut Context<'_>, _: &mut Flight) -> Poll<Option<Bytes>> {
        Poll::Ready(self.0.take())
    }
}

// ---- streams as one JSON array ----------------------------------------------------------------------

/// Google's streams without `alt=sse`: the same events, as the items of a list.
pub(super) struct Listed {
    inner: Box<dyn Pieces>,
    parser: sse::Parser,
    begun: bool,
    /// The bracket that closes the list is out.
    closed: bool,
}

impl Listed {
    pub(super) fn new(inner: Box<dyn Pieces>) -> Self {
        Self { inner, parser: sse::Parser::new(), begun: false, closed: false }
    }
}

impl Pieces for Listed {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        loop {
            let piece = match self.inner.poll_piece(context, flight) {
                Poll::Ready(piece) => piece,
                Poll::Pending if self.inner.is_told() && !self.closed => None,
                Poll::Pending => return Poll::Pending,
            };
            if self.closed {
                return Poll::Ready(None);
            }
            let Self { parser, begun, .. } = self;
            let mut out = Vec::new();
            let mut item = |frame: sse::Frame<'_>| {
                if let sse::Frame::Event { data, .. } = frame {
                    let first = !std::mem::replace(begun, true);
                    out.extend_from_slice(if first { b"[" } else { b",\r\n" });
                    out.extend_from_slice(data.as_bytes());
                }
                true
            };
            match &piece {
                // Frames over the limit do not come from our own encoders and watches.
                Some(bytes) => drop(parser.push(bytes, &mut item)),
                None => parser.finish(&mut item),
            }
            if piece.is_none() {
                self.closed = true;
                out.extend_from_slice(if self.begun { b"]" } else { b"[]" });
            }
            if !out.is_empty() {
                return Poll::Ready(Some(out.into()));
            }
        }
    }

    fn is_told(&self) -> bool {
        self.closed
    }

    fn settle(&mut self, flight: &mut Flight) {
        self.inner.settle(flight);
    }
}
