//! A connection's stream, what was read from it and not used, and the body that is on its way in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::framing::Framing;
use crate::incoming::{Arrive, IncomingError};
use crate::outgoing::Outbox;
use crate::request::{Head, Refused, parse};
use crate::{Service, poll_read_scratch};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

pub(crate) struct Wire<S> {
    stream: S,
    /// Read and not used.
    input: Bytes,
    /// What is to come of the request's body.
    body: Framing,
    /// Requests whose body did not come along whole, so far.
    number: u64,
    /// What is to be said before the body is read.
    interim: &'static [u8],
}

/// A request's head, and its body where that came along whole.
pub(crate) struct Came {
    pub(crate) head: Head,
    pub(crate) whole: Option<Bytes>,
}

#[expect(clippy::large_enum_variant, reason = "matched where it is made")]
enum Read {
    End,
    /// Appended to the input.
    More,
    Head(Result<Came, Refused>),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, input: Bytes::new(), body: Framing::Length(0), number: 0, interim: &[] }
    }

    /// The next request. `None`: the caller closed, broke off, or no more are wanted.
    pub(crate) fn poll_request(
        &mut self,
        context: &mut Context<'_>,
        service: &impl Service,
    ) -> Poll<Option<Result<Came, Refused>>> {
        if !self.input.is_empty() {
            service.speaks();
            if let Some(came) = self.take_request() {
                return Poll::Ready(Some(came));
            }
        }
        loop {
            if self.input.is_empty() && service.is_closing() {
                return Poll::Ready(None);
            }
            let input = &mut self.input;
            let read = ready!(poll_read_scratch(&mut self.stream, context, |bytes| {
                if bytes.is_empty() {
                    return Read::End;
                }
                if !input.is_empty() {
                    *input = [&input[..], bytes].concat().into();
                    return Read::More;
                }
                service.speaks();
                match parse(bytes) {
                    Ok(None) => {
                        *input = Bytes::copy_from_slice(bytes);
                        Read::More
                    }
                    Ok(Some(head)) => {
                        let mut rest = &bytes[head.length..];
                        let whole = whole_length(&head, rest.len()).map(|length| {
                            let (body, behind) = rest.split_at(length);
                            rest = behind;
                            Bytes::copy_from_slice(body)
                        });
                        *input = Bytes::copy_from_slice(rest);
                        Read::Head(Ok(Came { head, whole }))
                    }
                    Err(refused) => Read::Head(Err(refused)),
                }
            }));
            let came = match read {
                Ok(Read::End) | Err(_) => return Poll::Ready(None),
                Ok(Read::More) => self.take_request(),
                Ok(Read::Head(came)) => Some(came),
            };
            if let Some(came) = came {
                return Poll::Ready(Some(came));
            }
        }
    }

    /// Takes a request off the input, if its head is all there.
    fn take_request(&mut self) -> Option<Result<Came, Refused>> {
        let head = match parse(&self.input) {
            Ok(head) => head?,
            Err(refused) => return Some(Err(refused)),
        };
        self.input.advance(head.length);
        let whole = whole_length(&head, self.input.len()).map(|length| self.input.split_to(length));
        Some(Ok(Came { head, whole }))
    }

    /// Begins a body that has not come whole.
    pub(crate) fn expect_body(&mut self, framing: Framing, expects: bool) {
        self.body = framing;
        self.number += 1;
        self.interim = if expects && self.input.is_empty() { CONTINUE } else { &[] };
    }

    /// Nothing more belongs to the request's body.
    pub(crate) fn is_read(&self) -> bool {
        self.body.is_end()
    }

    /// Another request has begun to come.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Reads what there is of a body that nobody reads, without waiting. Whether that is all of it.
    pub(crate) fn skip_body(&mut self, context: &mut Context<'_>) -> bool {
        if self.interim.is_empty() {
            let mut reads = 0..16;
            while reads.next().is_some() && matches!(self.poll_data(context), Poll::Ready(Some(Ok(_)))) {}
        }
        self.is_read()
    }

    /// Whether the caller has gone away while its request is served. What it sends meanwhile is kept, once.
    pub(crate) fn is_gone(&mut self, context: &mut Context<'_>) -> bool {
        if self.has_input() || !self.is_read() {
            return false;
        }
        match poll_read_scratch(&mut self.stream, context, Bytes::copy_from_slice) {
            Poll::Pending => false,
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => {
                self.input = bytes;
                false
            }
            Poll::Ready(_) => true,
        }
    }

    /// Writes all there is.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        outbox: &mut Outbox,
    ) -> Poll<io::Result<()>> {
        ready!(outbox.poll_write(&mut self.stream, context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    /// Reads and forgets what the caller still sends, until it closes or `most` bytes have come.
    pub(crate) fn poll_discard(&mut self, context: &mut Context<'_>, most: &mut usize) -> Poll<()> {
        loop {
            match ready!(poll_read_scratch(&mut self.stream, context, <[u8]>::len)) {
                Ok(read) if read > 0 && *most > read => *most -= read,
                _ => return Poll::Ready(()),
            }
        }
    }

    fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim = &self.interim[written..];
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Reads more of the body.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(context))?;
        self.input = ready!(poll_read_scratch(&mut self.stream, context, Bytes::copy_from_slice))?;
        if self.input.is_empty() {
            Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

/// How long a body is that came along with its head.
fn whole_length(head: &Head, there: usize) -> Option<usize> {
    match head.framing {
        Framing::Length(length) => usize::try_from(length).ok().filter(|length| *length <= there),
        _ => None,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Arrive for Wire<S> {
    fn number(&self) -> u64 {
        self.number
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, IncomingError>>> {
        loop {
            if self.body.is_end() {
                return Poll::Ready(None);
            }
            if let Some(what) = self.body.failure() {
                return Poll::Ready(Some(Err(IncomingError::Framing(what))));
            }
            if self.input.is_empty()
                && let Err(error) = ready!(self.poll_more(context))
            {
                return Poll::Ready(Some(Err(IncomingError::Broken(error))));
            }
            let data = self.body.take(&mut self.input);
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    fn left(&self) -> Option<u64> {
        match &self.body {
            Framing::Length(left) => Some(*left),
            framing => framing.is_end().then_some(0),
        }
    }
}
