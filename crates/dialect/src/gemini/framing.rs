//! Google's streams come as server-sent events, and without `alt=sse` as one JSON array whose items arrive one
//! after the other. The first byte tells which.

use millgate_types::Event;

use super::stream::ChunkReader;
use crate::stream::{Reader as _, SseDecoder};
use crate::{StreamDecoder, error, sse};

/// Reads either framing.
#[derive(Default)]
pub(super) struct EitherDecoder {
    mode: Option<Mode>,
}

enum Mode {
    Events(SseDecoder<ChunkReader>),
    List(ListDecoder),
}

impl StreamDecoder for EitherDecoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        if self.mode.is_none() {
            let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) else { return };
            self.mode = Some(if *first == b'[' {
                Mode::List(ListDecoder::default())
            } else {
                Mode::Events(SseDecoder::new(ChunkReader::default()))
            });
        }
        match &mut self.mode {
            Some(Mode::Events(decoder)) => decoder.push(bytes, out),
            Some(Mode::List(decoder)) => decoder.push(bytes, out),
            None => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        match &mut self.mode {
            Some(Mode::Events(decoder)) => decoder.finish(out),
            Some(Mode::List(decoder)) => decoder.finish(out),
            None => out.push(Event::Error(error::interrupted())),
        }
    }
}

/// Cuts the items out of a JSON array.
#[derive(Default)]
struct ListDecoder {
    reader: ChunkReader,
    item: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    done: bool,
}

impl ListDecoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        for byte in bytes {
            if self.done {
                return;
            }
            if self.depth == 0 && *byte != b'{' {
                continue;
            }
            self.item.push(*byte);
            if self.item.len() > sse::MAX_EVENT {
                self.done = true;
                out.push(Event::Error(error::nonsense("the provider's stream has an item over the limit")));
                return;
            }
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' => self.depth += 1,
                b'}' => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                let item = std::mem::take(&mut self.item);
                self.reader.event("", &String::from_utf8_lossy(&item), out);
                self.done = matches!(out.last(), Some(Event::Error(_)));
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if self.depth > 0 {
            out.push(Event::Error(error::interrupted()));
        } else {
            self.reader.close(out);
        }
    }
}
