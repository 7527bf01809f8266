//! Watching a provider's stream that passes through as bytes: whole frames go on at once. The first ones, and the few
//! that carry usage, an error or the end, are read by the dialect's own decoder; so are those that are no JSON, which
//! it may refuse. What comes behind the end is not part of the answer.

use bytes::Bytes;
use memchr::memmem::{self, Finder};
use millgate_types::{Dialect, Event, Fault, Operation, Usage, code};
use serde_json::Value;

use crate::find::{finder, has};
use crate::{StreamDecoder, codec, scan};

/// A frame that does not end within this many bytes is not a stream we forward.
const MAX_FRAME: usize = 1 << 20;

/// What may leave after some bytes came in.
#[derive(Debug, Default)]
pub struct Passed {
    /// Whole frames, unchanged.
    pub bytes: Bytes,
    /// The provider reported an error in the stream. Its own frame is not in `bytes`: the caller gets ours.
    pub fault: Option<Fault>,
}

/// Watches one stream.
pub struct Watch {
    dialect: Dialect,
    decoder: Box<dyn StreamDecoder>,
    /// The caller did not ask for the usage frame that we asked the provider for.
    hide_usage: bool,
    /// Bytes of a frame that is not complete.
    held: Vec<u8>,
    usage: Usage,
    begun: bool,
    ended: bool,
    failed: bool,
    events: Vec<Event>,
}

impl Watch {
    /// A watch over a stream of `dialect`. With `hide_usage`, OpenAI's extra frame that carries usage and no
    /// choices is taken out.
    #[must_use]
    pub fn new(dialect: Dialect, operation: Operation, hide_usage: bool) -> Self {
        Self {
            dialect,
            decoder: codec(dialect).stream_decoder(operation),
            hide_usage,
            held: Vec::new(),
            usage: Usage::default(),
            begun: false,
            ended: false,
            failed: false,
            events: Vec::new(),
        }
    }

    /// Takes the next bytes, gives the frames that are complete.
    pub fn push(&mut self, bytes: &Bytes) -> Passed {
        if self.failed || self.ended {
            return Passed::default();
        }
        let (whole, rest) = if self.held.is_empty() {
            let end = end_of_frames(bytes);
            (bytes.slice(..end), bytes.slice(end..))
        } else {
            self.held.extend_from_slice(bytes);
            let end = end_of_frames(&self.held);
            let rest = self.held.split_off(end);
            (Bytes::from(std::mem::take(&mut self.held)), Bytes::from(rest))
        };
        self.held.extend_from_slice(&rest);
        if self.held.len() > MAX_FRAME {
            self.failed = true;
            let fault = Fault::upstream(
                code::UPSTREAM_ERROR,
                millgate_types::Retry::Never,
                "the provider sent a frame that is over the size limit",
            );
            return Passed { bytes: whole, fault: Some(fault) };
        }
        if self.begun && !self.may_matter(&whole) && are_sound(&whole) {
            return Passed { bytes: whole, fault: None };
        }
        self.inspect(&whole)
    }

    /// The provider closed the stream. A fault when it did so without ending it. A last frame that lacks only
    /// its blank line still counts; half a line is dropped.
    pub fn finish(&mut self) -> Passed {
        if self.failed || self.ended {
            return Passed::default();
        }
        let mut last = std::mem::take(&mut self.held);
        let mut passed = Passed::default();
        if last.ends_with(b"\n") || last.trim_ascii_end().ends_with(b"[DONE]") {
            while !last.ends_with(b"\n\n") {
                last.push(b'\n');
            }
            passed = self.inspect(&last.into());
        }
        if passed.fault.is_none() {
            self.decoder.finish(&mut self.events);
            passed.fault = self.drain();
        }
        passed
    }

    /// What was consumed, as far as the provider said.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// There was content, or what takes its place: the frames up to here are more than a beginning.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// The provider ended the stream properly.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Reads frame by frame; takes out the ones the caller must not see.
    fn inspect(&mut self, whole: &Bytes) -> Passed {
        let mut at = 0;
        let mut cuts: Vec<(usize, usize)> = Vec::new();
        while at < whole.len() {
            let end = at + first_frame(&whole[at..]);
            let frame = &whole[at..end];
            if !self.begun || self.may_matter(frame) || !are_sound(frame) {
                // Frames that only carry text are not shown to the decoder.
                self.decoder.push(frame, &mut self.events);
                if let Some(fault) = self.drain() {
                    self.failed = true;
                    let bytes = without(&whole.slice(..at), &cuts);
                    return Passed { bytes, fault: Some(fault) };
                }
                if self.hide_usage && is_usage_only(frame) {
                    cuts.push((at, end));
                }
            }
            at = end;
            if self.ended {
                break;
            }
        }
        Passed { bytes: without(&whole.slice(..at), &cuts), fault: None }
    }

    fn drain(&mut self) -> Option<Fault> {
        let mut fault = None;
        for event in self.events.drain(..) {
            self.begun |= event.is_content();
            match event {
                Event::Start { usage: Some(usage), .. } | Event::Usage(usage) => self.usage = usage,
                Event::End => self.ended = true,
                Event::Error(error) => fault = Some(error),
                _ => {}
            }
        }
        fault
    }

    /// Whether the bytes can hold usage, an error or the end. May say yes in vain, never no in vain.
    fn may_matter(&self, bytes: &[u8]) -> bool {
        match self.dialect {
            Dialect::Anthropic => {
                has(bytes, finder!(b"\"usage\""))
                    || has(bytes, finder!(b"message_stop"))
                    || has(bytes, finder!(b"\"error\""))
            }
            Dialect::Gemini => {
                has(bytes, finder!(b"usageMetadata"))
                    || has(bytes, finder!(b"finishReason"))
                    || has(bytes, finder!(b"\"error\""))
                    || has(bytes, finder!(b"blockReason"))
            }
            Dialect::Responses => {
                has(bytes, finder!(b"\"response.completed\""))
                    || has(bytes, finder!(b"\"response.incomplete\""))
                    || has(bytes, finder!(b"\"response.failed\""))
                    || has_value(bytes, finder!(b"\"error\""))
                    || has(bytes, finder!(b"\"type\":\"error\""))
            }
            _ => {
                has(bytes, finder!(b"[DONE]"))
                    || has_value(bytes, finder!(b"\"finish_reason\""))
                    || has_value(bytes, finder!(b"\"usage\""))
                    || has_value(bytes, finder!(b"\"error\""))
                    || has(bytes, finder!(b"event:"))
            }
        }
    }
}

/// Whether the data of each frame is a JSON object, or an end marker. One that is written on several lines is not
/// looked at closely: it counts as unsound, and the decoder says what it is.
fn are_sound(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, next) = rest.split_at(end);
        rest = next;
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { continue };
        if !scan::is_object(data) && data != b"[DONE]" {
            return false;
        }
    }
    true
}

/// Whether a member of this name has a value other than `null` somewhere.
fn has_value(bytes: &[u8], name: &Finder<'_>) -> bool {
    name.find_iter(bytes).any(|at| {
        let mut rest = bytes[at + name.needle().len()..].trim_ascii_start();
        rest = rest.strip_prefix(b":").unwrap_or(rest).trim_ascii_start();
        !rest.starts_with(b"null")
    })
}

/// Where the last complete frame ends; 0 when none is complete.
fn end_of_frames(bytes: &[u8]) -> usize {
    let unix = memmem::rfind(bytes, b"\n\n").map(|at| at + 2);
    let dos = memmem::rfind(bytes, b"\r\n\r\n").map(|at| at + 4);
    unix.max(dos).unwrap_or(0)
}

/// Where the first frame ends; everything when no end is found.
fn first_frame(bytes: &[u8]) -> usize {
    let unix = memmem::find(bytes, b"\n\n").map(|at| at + 2);
    let dos = memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4);
    match (unix, dos) {
        (Some(unix), Some(dos)) => unix.min(dos),
        (unix, dos) => unix.or(dos).unwrap_or(bytes.len()),
    }
}

fn without(whole: &Bytes, cuts: &[(usize, usize)]) -> Bytes {
    if cuts.is_empty() {
        return whole.clone();
    }
    let mut kept = Vec::with_capacity(whole.len());
    let mut at = 0;
    for (start, end) in cuts {
        kept.extend_from_slice(&whole[at..*start]);
        at = *end;
    }
    kept.extend_from_slice(&whole[at..]);
    kept.into()
}

/// OpenAI's extra frame: usage, and an empty list of choices.
fn is_usage_only(frame: &[u8]) -> bool {
    let Some(data) = frame.strip_prefix(b"data:") else { return false };
    let Ok(value) = serde_json::from_slice::<Value>(data.trim_ascii()) else { return false };
    value.get("usage").is_some_and(Value::is_object)
        && value.get("choices").and_then(Value::as_array).is_some_and(Vec::is_empty)
}

/// Reads the usage member of a whole answer ([`crate::Codec::usage_member`]).
#[must_use]
pub fn usage_of(dialect: Dialect, usage: &[u8]) -> Option<Usage> {
    codec(dialect).read_usage(usage)
}

/// The first model's name in the first bytes of a stream: `model`, or Google's `modelVersion`.
#[must_use]
pub fn model_in(bytes: &[u8]) -> Option<&str> {
    ["\"model\"", "\"modelVersion\""].into_iter().find_map(|member| {
        let at = memmem::find(bytes, member.as_bytes())? + member.len();
        let rest =
            bytes[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
        std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_in_the_first_frames() {
        assert_eq!(model_in(b"data: {\"id\":\"x\",\"model\" : \"gpt-5\",\"a\":1}"), Some("gpt-5"));
        assert_eq!(model_in(b"data: {\"modelVersion\":\"gemini-2.5-pro\""), Some("gemini-2.5-pro"));
        assert_eq!(model_in(b"data: {\"model\":\"gpt"), None);
        assert_eq!(model_in(b"data: {\"model\":null}"), None);
    }

    const STREAM: &str = concat!(
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}],\"usage\":null}\n\n",
        "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"the \\\"usage\\\": [DON\"},\"finish_reason\":null}],\"usage\":null}\n\n",
        "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
        "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"total_tokens\":12}}\n\n",
        "data: [DONE]\n\n",
    );

    fn run(stream: &str, piece: usize, hide_usage: bool) -> (String, Watch, Option<Fault>) {
        let mut watch = Watch::new(Dialect::OpenAi, Operation::Chat, hide_usage);
        let mut out = Vec::new();
        let mut fault = None;
        for part in stream.as_bytes().chunks(piece) {
            let passed = watch.push(&Bytes::copy_from_slice(part));
            out.extend_from_slice(&passed.bytes);
            fault = fault.or(passed.fault);
        }
        let last = watch.finish();
        out.extend_from_slice(&last.bytes);
        let fault = fault.or(last.fault);
        (String::from_utf8(out).unwrap(), watch, fault)
    }

    #[test]
    fn frames_pass_unchanged_in_any_pieces_and_usage_is_read() {
        for piece in 1..=STREAM.len() {
            let (out, watch, fault) = run(STREAM, piece, false);
            assert_eq!(out, STREAM);
            assert!(fault.is_none(), "{fault:?}");
            assert!(watch.ended());
            assert_eq!((watch.usage().input, watch.usage().output), (9, 3));
        }
    }

    #[test]
    fn the_usage_frame_nobody_asked_for_is_taken_out() {
        for piece in [1, 7, 64, STREAM.len()] {
            let (out, watch, _) = run(STREAM, piece, true);
            assert!(!out.contains("prompt_tokens") && out.ends_with("data: [DONE]\n\n"), "{out}");
            assert_eq!(watch.usage().input, 9);
        }
    }

    #[test]
    fn a_stream_that_closes_early_is_a_fault_and_shows_no_half_frame() {
        let cut = STREAM.find("[DON").unwrap();
        let (out, _, fault) = run(&STREAM[..cut], 10, false);
        assert!(out.ends_with("\n\n"));
        assert_eq!(fault.map(|fault| fault.code.name), Some("stream_interrupted"));
        let (out, _, fault) = run(STREAM.trim_end(), 10, false);
        assert_eq!(out, STREAM);
        assert!(fault.is_none());
    }

    #[test]
    fn a_damaged_frame_in_the_middle_is_a_fault_and_does_not_pass() {
        let middle = STREAM.find("data: {\"id\":\"c\",\"model\"").unwrap();
        for damage in
            ["data: {\"id\": oops}\n\n", "data: {\"choices\":[{\n\n", "data: \n1\n\ndata: {\"a\":1}x\n\n"]
        {
            let stream = format!("{}{damage}{}", &STREAM[..middle], &STREAM[middle..]);
            for piece in [1, 9, stream.len()] {
                let (out, watch, fault) = run(&stream, piece, false);
                assert!(!out.contains("oops") && !out.contains("[DONE]"), "{out}");
                assert_eq!(fault.map(|fault| fault.code.name), Some("upstream_error"), "{damage}");
                assert!(!watch.ended());
            }
        }
    }

    #[test]
    fn what_comes_behind_the_end_does_not_pass() {
        let stream = [STREAM, "data: [DONE]\n\n", STREAM].concat();
        for piece in [1, 7, 100, STREAM.len(), stream.len()] {
            let (out, watch, fault) = run(&stream, piece, false);
            assert_eq!(out, STREAM);
            assert!(fault.is_none() && watch.ended());
        }
    }

    #[test]
    fn content_begins_behind_the_frames_that_only_open_the_stream() {
        let mut watch = Watch::new(Dialect::OpenAi, Operation::Chat, false);
        let mut begun = Vec::new();
        for frame in STREAM.split_inclusive("\n\n") {
            watch.push(&Bytes::copy_from_slice(frame.as_bytes()));
            begun.push(watch.begun());
        }
        assert_eq!(begun, [false, true, true, true, true]);
    }

    #[test]
    fn an_error_inside_the_stream_is_a_fault() {
        let first = STREAM.find("\n\n").unwrap() + 2;
        let stream =
            format!("{}data: {{\"error\":{{\"message\":\"boom\",\"code\":500}}}}\n\n", &STREAM[..first]);
        let (out, _, fault) = run(&stream, stream.len(), false);
        assert_eq!(out, STREAM[..first]);
        assert!(fault.is_some());
    }
}
