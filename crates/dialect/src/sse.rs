//! Server-sent events, incrementally: LF, CRLF and CR line ends, comments, several `data:` lines, any
//! chunking. Frames are handed out as they complete; nothing here knows JSON.

/// The longest line that is taken; a longer one ends the stream.
pub const MAX_LINE: usize = 1 << 20;

/// The most data one event may hold, over all its lines.
pub const MAX_EVENT: usize = 4 << 20;

/// One thing the stream said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A comment line: the upstream is still there.
    Comment,
    /// An event with data. `event` is empty when the stream gave no name.
    Event {
        /// The `event:` field.
        event: &'a str,
        /// The `data:` lines, joined with LF.
        data: &'a str,
    },
}

/// A line was longer than [`MAX_LINE`], or an event larger than [`MAX_EVENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTooLong;

/// The parser's state between reads.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: String,
    data: String,
    has_data: bool,
    after_cr: bool,
    started: bool,
}

impl Parser {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and hands every frame they complete to `each`, which returns false to stop.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Frame<'_>) -> bool,
    ) -> Result<(), LineTooLong> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                return if self.line.len() > MAX_LINE { Err(LineTooLong) } else { Ok(()) };
            };
            if self.line.len() + end > MAX_LINE {
                return Err(LineTooLong);
            }
            self.after_cr = bytes[end] == b'\r';
            let go_on = if self.line.is_empty() {
                self.take_line(&bytes[..end], &mut each)
            } else {
                self.line.extend_from_slice(&bytes[..end]);
                let mut line = std::mem::take(&mut self.line);
                let go_on = self.take_line(&line, &mut each);
                line.clear();
                self.line = line;
                go_on
            };
            if self.data.len() > MAX_EVENT {
                return Err(LineTooLong);
            }
            if !go_on {
                return Ok(());
            }
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The stream closed: a last frame without its blank line still counts, some servers forget it.
    pub fn finish(&mut self, mut each: impl FnMut(Frame<'_>) -> bool) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() && !self.take_line(&line, &mut each) {
            return;
        }
        self.take_line(b"", &mut each);
    }

    fn take_line(&mut self, mut line: &[u8], each: &mut impl FnMut(Frame<'_>) -> bool) -> bool {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            let has_data = std::mem::take(&mut self.has_data);
            let go_on = !has_data || each(Frame::Event { event: &self.event, data: &self.data });
            self.event.clear();
            self.data.clear();
            return go_on;
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(0) => return each(Frame::Comment),
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                // No JSON is left where the text is damaged: whoever reads it refuses it.
                self.data.push_str(std::str::from_utf8(value).unwrap_or("\u{fffd}"));
            }
            b"event" => {
                self.event.clear();
                self.event.push_str(&String::from_utf8_lossy(value));
            }
            _ => {}
        }
        true
    }
}

/// Writes `data: {...}` around what `body` writes.
pub(crate) fn data(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"data: ");
    body(out);
    out.extend_from_slice(b"\n\n");
}

/// Writes a named event around what `body` writes.
pub(crate) fn event(out: &mut Vec<u8>, name: &str, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    data(out, body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::new();
        let mut seen = Vec::new();
        let mut each = |frame: Frame<'_>| {
            seen.push(match frame {
                Frame::Comment => ":".to_owned(),
                Frame::Event { event, data } => format!("{event}|{data}"),
            });
            true
        };
        for part in parts {
            parser.push(part, &mut each).unwrap();
        }
        parser.finish(&mut each);
        seen
    }

    #[test]
    fn all_line_ends_mean_the_same() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["\u{feff}event: a", "data: 1", "data:2", "", ": hi", "id: 7", "", "data: x", "", ""]
                .join(end);
            assert_eq!(frames(&[text.as_bytes()]), ["a|1\n2", ":", "|x"]);
        }
    }

    #[test]
    fn any_split_gives_the_same_frames() {
        let text = "event: a\r\ndata: gr\u{fc}\u{df}\r\n\r\n: c\r\rdata: [DONE]\n\ndata: tail".as_bytes();
        let whole = frames(&[text]);
        assert_eq!(whole.len(), 4);
        for at in 0..=text.len() {
            assert_eq!(frames(&[&text[..at], &text[at..]]), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(frames(&bytes), whole);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut parser = Parser::new();
        let chunk = vec![b'x'; MAX_LINE / 2 + 1];
        assert_eq!(parser.push(&chunk, |_| true), Ok(()));
        assert_eq!(parser.push(&chunk, |_| true), Err(LineTooLong));
        let mut parser = Parser::new();
        let line = [b"data: ", vec![b'x'; MAX_LINE / 2].as_slice(), b"\n"].concat();
        assert!((0..10).any(|_| parser.push(&line, |_| true) == Err(LineTooLong)));
    }
}
