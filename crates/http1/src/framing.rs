//! Where a body ends (RFC 9112, 6.3).

use bytes::{Buf as _, Bytes};

use crate::chunked::Chunked;

/// How the end of a body is known.
#[derive(Clone, Debug)]
pub enum Framing {
    /// This many bytes are left.
    Length(u64),
    /// By its coding.
    Chunked(Chunked),
    /// The connection closes.
    Close,
}

impl Framing {
    /// Nothing more belongs to the body.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_end(),
            Self::Close => false,
        }
    }

    /// What is wrong with the framing. The data before it was given out.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        if let Self::Chunked(chunked) = self { chunked.failure() } else { None }
    }

    /// Takes what belongs to the body off `bytes` and gives its data.
    pub fn take(&mut self, bytes: &mut Bytes) -> Bytes {
        match self {
            Self::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                bytes.split_to(take)
            }
            Self::Chunked(chunked) => {
                let mut data = Vec::with_capacity(bytes.len());
                let taken = chunked.push(bytes, &mut data);
                bytes.advance(taken);
                data.into()
            }
            Self::Close => std::mem::take(bytes),
        }
    }

    /// The same for bytes in borrowed memory; those behind the body's end go to `rest`.
    pub fn read(&mut self, bytes: &[u8], rest: &mut Bytes) -> Bytes {
        let Self::Chunked(chunked) = self else {
            *rest = Bytes::copy_from_slice(bytes);
            return self.take(rest);
        };
        let mut data = Vec::with_capacity(bytes.len());
        let taken = chunked.push(bytes, &mut data);
        *rest = Bytes::copy_from_slice(&bytes[taken..]);
        data.into()
    }
}

/// A length as fields write it: digits and nothing else (RFC 9110, 8.6). `None` for everything else.
#[must_use]
pub fn decimal(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}
