//! HTTP/1.1 as far as tests and benchmarks need it: heads are found and split, bodies are measured. Written by
//! hand because faults need the raw socket and a load generator must cost little.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The start line and the fields of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
}

/// How a body's end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Known(usize),
    Chunked,
    Close,
}

impl Head {
    /// The first value of a field, by its lower-case name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn length(&self) -> Option<Length> {
        if self.field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Some(Length::Chunked);
        }
        self.field("content-length").and_then(|value| value.parse().ok()).map(Length::Known)
    }
}

/// Bytes that were read and not yet used.
pub(crate) struct Buffered<S> {
    pub(crate) stream: S,
    pub(crate) buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Buffered<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::with_capacity(16 << 10) }
    }

    /// Reads more; false at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.capacity() - self.buffer.len() < 4 << 10 {
            self.buffer.reserve(64 << 10);
        }
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// The length of the head, its blank line included; `None` at a clean end.
    pub(crate) async fn head_length(&mut self) -> io::Result<Option<usize>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                return Ok(Some(at + 4));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(broken("inside a head")) };
            }
        }
    }

    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        let Some(length) = self.head_length().await? else { return Ok(None) };
        let text = String::from_utf8_lossy(&self.buffer[..length - 4]).into_owned();
        self.buffer.drain(..length);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Ok(Some(Head { line, fields: fields.collect() }))
    }

    pub(crate) async fn body(&mut self, length: Length) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(length, body.len()).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The next piece of a body of which `had` bytes are known; `None` at its proper end.
    pub(crate) async fn piece(&mut self, length: Length, had: usize) -> io::Result<Option<Vec<u8>>> {
        match length {
            Length::Known(whole) => {
                if had >= whole {
                    return Ok(None);
                }
                if self.buffer.is_empty() && !self.fill().await? {
                    return Err(broken("inside a body"));
                }
                let take = self.buffer.len().min(whole - had);
                Ok(Some(self.buffer.drain(..take).collect()))
            }
            Length::Close => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.buffer)))
            }
            Length::Chunked => loop {
                if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                    let digits = std::str::from_utf8(&self.buffer[..end]).unwrap_or_default();
                    let digits = digits.split(';').next().unwrap_or_default();
                    let size = usize::from_str_radix(digits.trim(), 16).map_err(|_| broken("in a chunk"))?;
                    if self.buffer.len() >= end + 2 + size + 2 {
                        let piece = self.buffer[end + 2..end + 2 + size].to_vec();
                        self.buffer.drain(..end + 2 + size + 2);
                        return Ok((size > 0).then_some(piece));
                    }
                }
                if !self.fill().await? {
                    return Err(broken("inside a chunk"));
                }
            },
        }
    }
}

pub(crate) fn broken(place: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended {place}"))
}
