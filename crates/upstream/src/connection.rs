//! Connections: made, driven in the request's task, kept idle per thread, used again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Origin, UpstreamBody, UpstreamError, tls};

/// Idle connections kept per origin and thread; more are closed.
const MAX_IDLE_PER_ORIGIN: usize = 256;
/// An idle connection older than this is closed rather than used: most servers close theirs at 60 s or more.
const MAX_IDLE_AGE: Duration = Duration::from_secs(55);

/// How long an attempt may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Name look-up, TCP and TLS together.
    pub connect: Duration,
    /// From sending the request to the response's head.
    pub head: Duration,
    /// Between two frames of the body.
    pub idle: Duration,
}

/// The client. It has no state of its own: idle connections live in the thread that made them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client;

thread_local! {
    static IDLE: RefCell<HashMap<u64, Vec<Idle>>> = RefCell::new(HashMap::new());
}

struct Idle {
    link: Link,
    since: Instant,
}

/// A live connection: the sender and the half that does the IO.
pub(crate) struct Link {
    origin: u64,
    sender: http1::SendRequest<Full<Bytes>>,
    io: http1::Connection<TokioIo<Socket>, Full<Bytes>>,
    closed: bool,
}

impl Client {
    /// Sends `request` (origin-form URI; `Host` is added) and waits for the response's head. A connection
    /// taken from the pool that turns out dead before the request was written is replaced by a fresh one.
    pub async fn send(
        self,
        origin: &Arc<Origin>,
        mut request: Request<Full<Bytes>>,
        deadlines: &Deadlines,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        request.headers_mut().insert(http::header::HOST, origin.authority.clone());
        let attempt = async {
            while let Some(mut link) = check_out(origin.id).await {
                match link.exchange(request).await {
                    Ok(response) => return Ok((link, response)),
                    Err(mut failure) => match failure.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(UpstreamError::Http(failure.into_error())),
                    },
                }
            }
            let mut link = match tokio::time::timeout(deadlines.connect, connect(origin)).await {
                Ok(link) => link?,
                Err(_) => return Err(UpstreamError::ConnectTimeout),
            };
            match link.exchange(request).await {
                Ok(response) => Ok((link, response)),
                Err(failure) => Err(UpstreamError::Http(failure.into_error())),
            }
        };
        let (link, response) = match tokio::time::timeout(deadlines.head, attempt).await {
            Ok(done) => done?,
            Err(_) => return Err(UpstreamError::Timeout),
        };
        let (head, incoming) = response.into_parts();
        Ok(Response::from_parts(head, UpstreamBody::new(incoming, link, deadlines.idle)))
    }

    /// Closes this thread's idle connections that are too old or that the other side has closed. Each data
    /// thread calls it every few seconds.
    pub fn sweep(self) {
        IDLE.with_borrow_mut(|pool| {
            let mut context = Context::from_waker(Waker::noop());
            pool.retain(|_, idle| {
                idle.retain_mut(|idle| {
                    idle.since.elapsed() < MAX_IDLE_AGE && !idle.link.poll_closed(&mut context)
                });
                !idle.is_empty()
            });
        });
    }
}

/// The youngest idle connection that is still open.
async fn check_out(origin: u64) -> Option<Link> {
    poll_fn(|context| {
        loop {
            let popped = IDLE.with_borrow_mut(|pool| pool.get_mut(&origin).and_then(Vec::pop));
            let Some(mut idle) = popped else { return Poll::Ready(None) };
            let usable = idle.since.elapsed() < MAX_IDLE_AGE && !idle.link.poll_closed(context);
            if usable && idle.link.sender.is_ready() {
                return Poll::Ready(Some(idle.link));
            }
        }
    })
    .await
}

async fn connect(origin: &Origin) -> Result<Link, UpstreamError> {
    let stream =
        TcpStream::connect((origin.host.as_str(), origin.port)).await.map_err(UpstreamError::Connect)?;
    stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
    let socket = if origin.tls {
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|error| UpstreamError::Connect(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream =
            TlsConnector::from(tls::config()).connect(name, stream).await.map_err(UpstreamError::Connect)?;
        Socket::Tls(Box::new(stream))
    } else {
        Socket::Plain(stream)
    };
    let (sender, io) = http1::Builder::new()
        .max_headers(128)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(UpstreamError::Http)?;
    Ok(Link { origin: origin.id, sender, io, closed: false })
}

impl Link {
    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Unsent> {
        let mut response = pin!(self.sender.try_send_request(request));
        let (io, closed) = (&mut self.io, &mut self.closed);
        poll_fn(|context| {
            if let Poll::Ready(done) = response.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            if !*closed && Pin::new(&mut *io).poll(context).is_ready() {
                *closed = true;
            }
            response.as_mut().poll(context)
        })
        .await
    }

    /// Lets the connection read and write. True once it is closed.
    pub(crate) fn poll_closed(&mut self, context: &mut Context<'_>) -> bool {
        if !self.closed && Pin::new(&mut self.io).poll(context).is_ready() {
            self.closed = true;
        }
        self.closed
    }

    /// Gives the connection back once its response is read to the end.
    pub(crate) fn check_in(mut self) {
        if self.poll_closed(&mut Context::from_waker(Waker::noop())) || !self.sender.is_ready() {
            return;
        }
        IDLE.with_borrow_mut(|pool| {
            let idle = pool.entry(self.origin).or_default();
            if idle.len() < MAX_IDLE_PER_ORIGIN {
                idle.push(Idle { link: self, since: Instant::now() });
            }
        });
    }
}

/// A failed send, with the request when it was never written.
type Unsent = hyper::client::conn::TrySendError<Request<Full<Bytes>>>;

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
