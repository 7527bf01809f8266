//! AWS event streams (`application/vnd.amazon.eventstream`), incrementally: length-prefixed binary frames with
//! checksums, any chunking. Frames are handed out as they complete; nothing here knows JSON.
//!
//! A frame is: total length, headers' length, CRC-32 of those eight bytes, headers, payload, CRC-32 of everything
//! before it. Numbers are big endian (`contracts/providers.md` 7.2).

/// The largest frame that is taken, in bytes.
pub const MAX_FRAME: usize = 4 << 20;
/// The most bytes the headers of a frame may have.
pub const MAX_HEADERS: usize = 128 << 10;

/// Lengths and their checksum.
const PRELUDE: usize = 12;
/// The checksum at the end.
const TRAILER: usize = 4;

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its headers, checked.
    headers: &'a [u8],
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The value of a text header, such as `:event-type`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.headers;
        while let Some(header) = Header::take(&mut rest) {
            if header.name == name.as_bytes() {
                return std::str::from_utf8(header.text?).ok();
            }
        }
        None
    }
}

/// Why a stream is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A frame is larger than [`MAX_FRAME`], or its headers than [`MAX_HEADERS`].
    TooLarge,
    /// Lengths that contradict each other, or headers that are none.
    Malformed,
    /// A checksum does not fit.
    Checksum,
}

/// One header of a frame.
struct Header<'a> {
    name: &'a [u8],
    /// For values of the kind text.
    text: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// Takes the next header off; `None` at the end, or where there is none.
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let length = usize::from(*rest.split_off_first()?);
        let name = rest.split_off(..length).filter(|name| !name.is_empty())?;
        let fixed = match *rest.split_off_first()? {
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4 => 4,
            5 | 8 => 8,
            9 => 16,
            kind @ (6 | 7) => {
                let length = usize::from(u16::from_be_bytes(rest.split_off(..2)?.try_into().ok()?));
                let value = rest.split_off(..length)?;
                return Some(Self { name, text: (kind == 7).then_some(value) });
            }
            _ => return None,
        };
        rest.split_off(..fixed)?;
        Some(Self { name, text: None })
    }
}

/// The parser's state between reads.
#[derive(Debug, Default)]
pub struct Parser {
    held: Vec<u8>,
}

impl Parser {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and hands every frame they complete to `each`, which returns false to stop.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Frame<'_>) -> bool) -> Result<(), Broken> {
        if self.held.is_empty() {
            // Whole frames need not be copied.
            let used = walk(bytes, &mut each)?;
            self.held.extend_from_slice(&bytes[used..]);
        } else {
            self.held.extend_from_slice(bytes);
            let used = walk(&self.held, &mut each)?;
            self.held.drain(..used);
        }
        Ok(())
    }

    /// Whether the stream stands between two frames: where it may close.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.held.is_empty()
    }
}

/// Reads frames off the front; how many bytes they were.
fn walk(bytes: &[u8], each: &mut impl FnMut(Frame<'_>) -> bool) -> Result<usize, Broken> {
    let mut at = 0;
    while let Some(prelude) = bytes[at..].first_chunk::<PRELUDE>() {
        let number = |from: usize| {
            u32::from_be_bytes([prelude[from], prelude[from + 1], prelude[from + 2], prelude[from + 3]])
        };
        let (total, headers) = (number(0) as usize, number(4) as usize);
        if crc32fast::hash(&prelude[..8]) != number(8) {
            return Err(Broken::Checksum);
        }
        if total > MAX_FRAME || headers > MAX_HEADERS {
            return Err(Broken::TooLarge);
        }
        if total < PRELUDE + headers + TRAILER {
            return Err(Broken::Malformed);
        }
        let Some(frame) = bytes.get(at..at + total) else { break };
        let (covered, sum) = frame.split_at(total - TRAILER);
        if crc32fast::hash(covered).to_be_bytes() != sum {
            return Err(Broken::Checksum);
        }
        let (headers, payload) = covered[PRELUDE..].split_at(headers);
        let mut rest = headers;
        while !rest.is_empty() {
            Header::take(&mut rest).ok_or(Broken::Malformed)?;
        }
        at += total;
        if !each(Frame { headers, payload }) {
            break;
        }
    }
    Ok(at)
}

/// Writes a frame with text headers.
pub fn write(out: &mut Vec<u8>, headers: &[(&str, &str)], payload: &[u8]) {
    let start = out.len();
    let length: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let total = PRELUDE + length + payload.len() + TRAILER;
    out.extend_from_slice(&(total as u32).to_be_bytes());
    out.extend_from_slice(&(length as u32).to_be_bytes());
    let sum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&sum.to_be_bytes());
    for (name, value) in headers {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.push(7);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    out.extend_from_slice(payload);
    let sum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of an event and its payload.
    type Event = (Option<String>, Vec<u8>);

    fn frames(bytes: &[u8], piece: usize) -> Result<Vec<Event>, Broken> {
        let mut parser = Parser::new();
        let mut found = Vec::new();
        for part in bytes.chunks(piece.max(1)) {
            parser.push(part, |frame| {
                found.push((frame.text(":event-type").map(str::to_owned), frame.payload.to_vec()));
                true
            })?;
        }
        Ok(found)
    }

    #[test]
    fn frames_are_the_same_in_any_pieces() {
        let mut bytes = Vec::new();
        write(&mut bytes, &[(":event-type", "a"), (":message-type", "event")], b"{}");
        write(&mut bytes, &[(":event-type", "b")], b"");
        write(&mut bytes, &[], &[7; 300]);
        let whole = frames(&bytes, usize::MAX).unwrap();
        assert_eq!(whole[0], (Some("a".to_owned()), b"{}".to_vec()));
        assert_eq!((whole.len(), whole[1].0.as_deref(), whole[2].1.len()), (3, Some("b"), 300));
        for piece in 1..bytes.len() {
            assert_eq!(frames(&bytes, piece).unwrap(), whole, "{piece}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_held() {
        for (total, headers) in [(MAX_FRAME + 1, 0), (MAX_FRAME, MAX_HEADERS + 1)] {
            let mut bytes = (total as u32).to_be_bytes().to_vec();
            bytes.extend_from_slice(&(headers as u32).to_be_bytes());
            let sum = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&sum.to_be_bytes());
            assert_eq!(frames(&bytes, 5), Err(Broken::TooLarge));
        }
    }

    #[test]
    fn damage_is_found() {
        let mut bytes = Vec::new();
        write(&mut bytes, &[(":event-type", "a")], b"payload");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(frames(&damaged, usize::MAX).is_err(), "byte {at}");
        }
    }
}
