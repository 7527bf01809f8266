//! Answers as they leave: the head, and the framing of the body (RFC 9112, 6).

use std::cell::RefCell;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, Bytes};
use http::{Method, StatusCode, header, response};
use http_body::SizeHint;
use tokio::io::AsyncWrite;

use crate::framing::decimal;
use crate::{Lines, poll_write_gathered};

/// Pieces of a body up to this size are copied behind each other, to leave together.
const SMALL: usize = 8 << 10;

/// How a body is framed on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// There is none, whatever the fields say.
    None,
    /// This many bytes are left.
    Length(u64),
    Chunked,
    /// The connection closes behind it.
    Close,
}

/// What the request says of how it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) is_head: bool,
    pub(crate) is_1_1: bool,
    /// Another request may follow.
    pub(crate) keep_alive: bool,
}

impl Asked {
    pub(crate) fn new(method: &Method, is_1_1: bool, keep_alive: bool) -> Self {
        Self { is_head: method == Method::HEAD, is_1_1, keep_alive }
    }
}

/// Bytes on their way out.
#[derive(Default)]
pub(crate) struct Outbox {
    front: Vec<u8>,
    /// How much of `front` has left.
    at: usize,
    /// What stands behind it.
    piece: Bytes,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.front.len() && self.piece.is_empty()
    }

    /// Room for more without writing.
    pub(crate) fn has_room(&self) -> bool {
        self.piece.is_empty() && self.front.len() - self.at < SMALL
    }

    /// Writes the head of an answer, and says how its body is to be framed and whether the connection goes on.
    pub(crate) fn head(
        &mut self,
        parts: &response::Parts,
        lines: &Lines,
        body: &SizeHint,
        asked: Asked,
    ) -> (Coding, bool) {
        let out = &mut self.front;
        out.reserve(1024);
        status_line(parts.status, out);
        out.extend_from_slice(lines.as_bytes());
        let headers = &parts.headers;
        debug_assert!(
            lines
                .fields()
                .all(|(name, _)| std::str::from_utf8(name).is_ok_and(|name| !headers.contains_key(name))),
            "{headers:?} says what stands in {lines:?}"
        );
        let mut keep_alive = asked.keep_alive;
        for (name, value) in headers {
            if name == header::CONNECTION {
                keep_alive &= !value.as_bytes().eq_ignore_ascii_case(b"close");
            }
            if [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
                // These are ours to say.
                continue;
            }
            field(name.as_str(), value.as_bytes(), out);
        }
        let said = headers.get(header::CONTENT_LENGTH).and_then(|value| decimal(value.as_bytes()));
        let bodiless = parts.status.is_informational()
            || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&parts.status);
        let length = if asked.is_head { said.or(body.exact()) } else { body.exact().or(said) };
        let coding = match length {
            _ if bodiless => Coding::None,
            Some(length) => {
                field("content-length", itoa::Buffer::new().format(length).as_bytes(), out);
                Coding::Length(length)
            }
            None if asked.is_1_1 => {
                field("transfer-encoding", b"chunked", out);
                Coding::Chunked
            }
            None => Coding::Close,
        };
        keep_alive &= coding != Coding::Close;
        match (keep_alive, asked.is_1_1) {
            (false, _) => field("connection", b"close", out),
            (true, false) => field("connection", b"keep-alive", out),
            (true, true) => {}
        }
        if !headers.contains_key(header::DATE) {
            DATE.with_borrow(|date| field("date", date, out));
        }
        out.extend_from_slice(b"\r\n");
        (if asked.is_head { Coding::None } else { coding }, keep_alive)
    }

    /// Appends a piece of a body. False: it is longer than was said.
    pub(crate) fn push(&mut self, coding: &mut Coding, data: Bytes) -> bool {
        match coding {
            Coding::None => return true,
            Coding::Length(left) => {
                let Some(rest) = left.checked_sub(data.len() as u64) else { return false };
                *left = rest;
            }
            Coding::Chunked if data.is_empty() => return true,
            Coding::Chunked => {
                let _infallible = write!(self.front, "{:x}\r\n", data.len());
                self.front.extend_from_slice(&data);
                self.front.extend_from_slice(b"\r\n");
                return true;
            }
            Coding::Close => {}
        }
        if data.len() < SMALL || !self.piece.is_empty() {
            self.front.extend_from_slice(&std::mem::take(&mut self.piece));
            self.front.extend_from_slice(&data);
        } else {
            self.piece = data;
        }
        true
    }

    /// Ends a body. False: it is shorter than was said.
    pub(crate) fn end(&mut self, coding: Coding) -> bool {
        if coding == Coding::Chunked {
            self.front.extend_from_slice(b"0\r\n\r\n");
        }
        !matches!(coding, Coding::Length(1..))
    }

    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let front = &self.front[self.at..];
            let written = if self.piece.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(context, front))?
            } else {
                let slices = [IoSlice::new(front), IoSlice::new(&self.piece)];
                ready!(poll_write_gathered(stream, context, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_front = written.min(front.len());
            self.at += of_front;
            self.piece.advance(written - of_front);
        }
        self.front.clear();
        self.at = 0;
        Poll::Ready(Ok(()))
    }
}

fn status_line(status: StatusCode, out: &mut Vec<u8>) {
    if status == StatusCode::OK {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

thread_local! {
    static DATE: RefCell<[u8; 29]> = RefCell::new(imf_fixdate(SystemTime::now()));
}

/// Reads the clock for the `Date` of this thread's answers. To be called once a second: no answer reads it by itself.
pub fn refresh_date() {
    DATE.set(imf_fixdate(SystemTime::now()));
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
fn imf_fixdate(time: SystemTime) -> [u8; 29] {
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let _fits = write!(&mut text[..], "{}", httpdate::HttpDate::from(time.max(UNIX_EPOCH)));
    text
}
