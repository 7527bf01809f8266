//! One connection: opened, asked, read. It owns no buffer: bytes are read into the thread's scratch memory and
//! copied out as far as they came, so that a stream that waits weighs next to nothing.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use millgate_http1::poll_read_scratch;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::head::{self, Head, MAX_HEAD};
use crate::outgoing::Outbox;
use crate::watchdog::Watchdog;
use crate::{Origin, UpstreamError, tls};

/// A live connection.
pub(crate) struct Connection {
    pub(crate) origin: u64,
    pub(crate) watchdog: Arc<Watchdog>,
    socket: Socket,
}

/// Why an exchange failed.
pub(crate) enum Failure {
    /// Nothing of the request has left: another connection may take it.
    Unsent(UpstreamError),
    /// It may have been acted upon.
    Sent(UpstreamError),
}

impl Connection {
    pub(crate) async fn open(origin: &Origin) -> Result<Self, UpstreamError> {
        let stream =
            TcpStream::connect((origin.host.as_str(), origin.port)).await.map_err(UpstreamError::Connect)?;
        stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
        let socket = if origin.tls {
            let name = ServerName::try_from(origin.host.clone()).map_err(|error| {
                UpstreamError::Connect(io::Error::new(io::ErrorKind::InvalidInput, error))
            })?;
            let connector = TlsConnector::from(tls::config());
            let stream = connector.connect(name, stream).await.map_err(UpstreamError::Connect)?;
            Socket::Tls(Box::new(stream))
        } else {
            Socket::Plain(stream)
        };
        Ok(Self { origin: origin.id, watchdog: Watchdog::new(), socket })
    }

    /// Whether the connection is silent and open, as one that waits for its next request should be.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.poll_read(&mut Context::from_waker(Waker::noop()), <[u8]>::len).is_pending()
    }

    /// Reads once and lets `take` see what came; nothing at the end.
    pub(crate) fn poll_read<T>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        poll_read_scratch(&mut self.socket, context, take)
    }

    /// Writes the request and reads the head of its answer, with the bytes that came behind it. An answer that
    /// comes before the request is written whole is taken; the connection is not used again then.
    pub(crate) async fn exchange(
        &mut self,
        outbox: &mut Outbox,
        method: &Method,
    ) -> Result<(Head, Bytes), Failure> {
        let mut sent = false;
        let mut broken: Option<io::Error> = None;
        let mut gathered = BytesMut::new();
        poll_fn(|context| {
            if !sent && broken.is_none() {
                match outbox.poll_write(&mut self.socket, context) {
                    Poll::Ready(Ok(())) => sent = true,
                    Poll::Ready(Err(error)) if !outbox.begun() => {
                        return Poll::Ready(Err(Failure::Unsent(UpstreamError::Broken(error))));
                    }
                    // The upstream may have said why before it closed.
                    Poll::Ready(Err(error)) => broken = Some(error),
                    Poll::Pending => {}
                }
            }
            loop {
                let before = gathered.len();
                let read = self.poll_read(context, |bytes| gathered.extend_from_slice(bytes));
                match (read, broken.take()) {
                    (Poll::Pending, None) => return Poll::Pending,
                    (Poll::Pending | Poll::Ready(Err(_)), Some(error)) | (Poll::Ready(Err(error)), None) => {
                        return Poll::Ready(Err(Failure::Sent(UpstreamError::Broken(error))));
                    }
                    (Poll::Ready(Ok(())), writing) => broken = writing,
                }
                if gathered.len() == before {
                    let closed = broken.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Err(Failure::Sent(UpstreamError::Broken(closed))));
                }
                match split_head(&mut gathered, before, method) {
                    Ok(None) => {}
                    Ok(Some((mut head, rest))) => {
                        head.keep_alive &= sent;
                        return Poll::Ready(Ok((head, rest)));
                    }
                    Err(what) => return Poll::Ready(Err(Failure::Sent(UpstreamError::NotHttp(what)))),
                }
            }
        })
        .await
    }
}

/// Takes the final response's head off `gathered`, of which the first `before` bytes were looked at already.
pub(crate) fn split_head(
    gathered: &mut BytesMut,
    before: usize,
    method: &Method,
) -> Result<Option<(Head, Bytes)>, &'static str> {
    let mut looked_at = before;
    loop {
        // Looked at again only when it may be whole: a head that drips in is not parsed once per byte.
        if looked_at > 0
            && gathered.len() < MAX_HEAD
            && !has_blank_line(&gathered[looked_at.saturating_sub(3)..])
        {
            return Ok(None);
        }
        let bytes = std::mem::take(gathered).freeze();
        let Some(head) = head::parse(&bytes, method)? else {
            *gathered = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            return Ok(None);
        };
        let rest = bytes.slice(head.length..);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("the answer switches to another protocol");
        }
        if !head.status.is_informational() {
            return Ok(Some((head, rest)));
        }
        *gathered = BytesMut::from(&rest[..]);
        looked_at = 0;
        if gathered.is_empty() {
            return Ok(None);
        }
    }
}

fn has_blank_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// A plain or TLS stream. Vectored writes are passed on, so that head and body leave in one call.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Socket::Tls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(context, data))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(context, data))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
