//! A request on its way out: its bytes, and how far they have been written.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body::Body;
use millgate_http1::poll_write_gathered;
use tokio::io::AsyncWrite;

use crate::Origin;

/// A request to an upstream. `Host` and the framing of the body are added.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target in origin form: path and query.
    pub target: &'a str,
    /// Fields that every request to the upstream carries.
    pub headers: &'a HeaderMap,
    /// Fields of this request alone. They stand beside those of `headers`, not in their place.
    pub more: &'a [(HeaderName, HeaderValue)],
    /// The body.
    pub body: Payload,
}

/// The body of a request.
pub enum Payload {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece. Goes out with its length when it knows it, otherwise chunked.
    Stream(PayloadStream),
}

/// A body that is made while it is sent.
pub type PayloadStream = Pin<Box<dyn Body<Data = Bytes, Error = io::Error> + Send>>;

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream(_) => f.write_str("a stream"),
        }
    }
}

/// A request being written.
pub(crate) struct Outbox {
    /// The request's head, later the line before a chunk.
    front: Vec<u8>,
    /// The whole body, or the piece that is being written.
    piece: Bytes,
    /// The end of a chunk.
    back: &'static [u8],
    /// How much of `front` is written.
    at: usize,
    source: Option<PayloadStream>,
    chunked: bool,
    /// Something has left.
    begun: bool,
}

impl Outbox {
    pub(crate) fn new(origin: &Origin, outgoing: Outgoing<'_>) -> Self {
        let Outgoing { method, target, headers, more, body } = outgoing;
        let mut front = Vec::with_capacity(512);
        for part in [method.as_str(), " ", target, " HTTP/1.1\r\nhost: "] {
            front.extend_from_slice(part.as_bytes());
        }
        front.extend_from_slice(origin.authority.as_bytes());
        front.extend_from_slice(b"\r\n");
        for (name, value) in headers.iter().chain(more.iter().map(|(name, value)| (name, value))) {
            // These are ours to say.
            if [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
                continue;
            }
            front.extend_from_slice(name.as_str().as_bytes());
            front.extend_from_slice(b": ");
            front.extend_from_slice(value.as_bytes());
            front.extend_from_slice(b"\r\n");
        }
        let (piece, source) = match body {
            Payload::Whole(bytes) => (bytes, None),
            Payload::Stream(stream) => (Bytes::new(), Some(stream)),
        };
        let length = match &source {
            None => Some(piece.len() as u64),
            Some(stream) => stream.size_hint().exact(),
        };
        match length {
            Some(0) if source.is_none() && (method == Method::GET || method == Method::HEAD) => {}
            Some(length) => {
                front.extend_from_slice(b"content-length: ");
                front.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                front.extend_from_slice(b"\r\n");
            }
            None => front.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        front.extend_from_slice(b"\r\n");
        Self { front, piece, back: b"", at: 0, source, chunked: length.is_none(), begun: false }
    }

    /// Whether anything of it has left.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Writes until all has left and is flushed.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.at < self.front.len() || !self.piece.is_empty() || !self.back.is_empty() {
                let slices = [
                    IoSlice::new(&self.front[self.at..]),
                    IoSlice::new(&self.piece),
                    IoSlice::new(self.back),
                ];
                let written = ready!(poll_write_gathered(socket, context, &slices))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.advance(written);
            }
            let Some(source) = &mut self.source else {
                return Pin::new(socket).poll_flush(context);
            };
            match ready!(source.as_mut().poll_frame(context)) {
                Some(frame) => {
                    // Trailers of a caller are not passed on.
                    let Ok(data) = frame?.into_data() else { continue };
                    self.fill(data);
                }
                None => {
                    self.source = None;
                    self.back = if self.chunked { b"0\r\n\r\n" } else { b"" };
                }
            }
        }
    }

    fn fill(&mut self, data: Bytes) {
        // A chunk of no bytes would be the last one.
        if data.is_empty() {
            return;
        }
        if self.chunked {
            self.front.clear();
            self.at = 0;
            let _never_fails = write!(self.front, "{:x}\r\n", data.len());
            self.back = b"\r\n";
        }
        self.piece = data;
    }

    fn advance(&mut self, mut written: usize) {
        self.begun = true;
        let head = written.min(self.front.len() - self.at);
        self.at += head;
        written -= head;
        let body = written.min(self.piece.len());
        self.piece.advance(body);
        self.back = &self.back[written - body..];
    }
}
