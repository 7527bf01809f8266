//! One connection of a caller: which version of HTTP it speaks, what it is at, and how it is told to end.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::task::AtomicWaker;
use http::Request;
use hyper::server::conn::http2;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use millgate_http1::{Answer, MAX_HEAD, Refused, refresh_date};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::body::RequestBody;
use crate::listener::Ticket;
use crate::reply::{BrokenOff, ReplyBody};
use crate::tls::{ClientCertificate, Tls};
use crate::{Gateway, pipeline};

/// HTTP/2 streams of one connection.
const MAX_STREAMS: u32 = 100;
/// A connection that waits for its next request, or for its caller to take an answer, is closed after this.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

thread_local! {
    /// Sweeps of this data thread so far: the clock of its connections, in seconds.
    static TICKS: Cell<u32> = const { Cell::new(0) };
}

/// To be called once a second by each data thread.
pub(crate) fn tick() {
    TICKS.set(TICKS.get().wrapping_add(1));
    refresh_date();
}

/// What the data thread sees of a connection.
pub(crate) struct Connection {
    /// [`IDLE`], [`HEAD`] or [`BUSY`].
    state: AtomicU8,
    /// The tick at which the state began.
    since: AtomicU32,
    requests: AtomicU32,
    /// HTTP/2: bytes that come while no request runs may be any frame, not the beginning of a head.
    framed: AtomicBool,
    /// [`SERVE`], [`FINISH`] or [`CUT`].
    order: AtomicU8,
    /// The connection's task.
    task: AtomicWaker,
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

const SERVE: u8 = 0;
/// Finish the requests there are, then close.
const FINISH: u8 = 1;
/// Close now.
const CUT: u8 = 2;

impl Connection {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU8::new(HEAD),
            since: AtomicU32::new(TICKS.get()),
            requests: AtomicU32::new(0),
            framed: AtomicBool::new(false),
            order: AtomicU8::new(SERVE),
            task: AtomicWaker::new(),
        }
    }

    /// To finish the requests that it has, and take no more.
    pub(crate) fn finish(&self) {
        self.order(FINISH);
    }

    /// Closes a connection that takes too long over a request's head, or has been silent or taken nothing of an answer for
    /// too long.
    pub(crate) fn end_if_late(&self, header_timeout: Duration) {
        let age = TICKS.get().wrapping_sub(self.since.load(Ordering::Relaxed));
        let limit = match self.state.load(Ordering::Relaxed) {
            HEAD if !self.framed.load(Ordering::Relaxed) => header_timeout,
            HEAD | IDLE => KEEP_ALIVE,
            _ => return,
        };
        if Duration::from_secs(age.into()) > limit {
            self.order(CUT);
        }
    }

    fn enter(&self, state: u8) {
        self.since.store(TICKS.get(), Ordering::Relaxed);
        self.state.store(state, Ordering::Relaxed);
    }

    fn order(&self, order: u8) {
        self.order.fetch_max(order, Ordering::Release);
        self.task.wake();
    }

    /// Runs the connection until it ends or is told to.
    async fn run<S: Served>(&self, served: S) {
        let mut served = std::pin::pin!(served);
        let mut finishing = false;
        poll_fn(|context| {
            match self.order.load(Ordering::Acquire) {
                CUT => return Poll::Ready(()),
                FINISH if !finishing => {
                    finishing = true;
                    served.as_mut().finish();
                }
                _ => {}
            }
            // A connection that broke has told its requests already.
            served.as_mut().poll(context).map(drop)
        })
        .await;
    }
}

/// A connection at work, by whichever version of HTTP.
trait Served: Future {
    /// Takes no more requests.
    fn finish(self: Pin<&mut Self>);
}

/// HTTP/1.1, which looks at the order by itself.
impl<F: Future<Output = ()>> Served for Pin<&mut F> {
    fn finish(self: Pin<&mut Self>) {}
}

impl<I, S, B> Served for http2::Connection<I, S, TokioExecutor>
where
    Self: Future,
    S: HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves a connection until it ends.
pub(crate) async fn drive(
    gateway: Arc<Gateway>,
    stream: std::net::TcpStream,
    ticket: Ticket,
    connection: Arc<Connection>,
) {
    let Some(stream) = begin(stream, &connection).await else { return };
    let mut first = [0; 3];
    let Some(seen) = first_bytes(&stream, &connection, &mut first).await else { return };
    // The preface of HTTP/2, which comes in one piece.
    let framed = first[..seen] == *b"PRI";
    speak(gateway, stream, ticket.peer, None, connection, framed).await;
}

/// The same over TLS.
pub(crate) async fn drive_tls(
    gateway: Arc<Gateway>,
    stream: std::net::TcpStream,
    ticket: Ticket,
    connection: Arc<Connection>,
    tls: Arc<Tls>,
    patience: Duration,
) {
    let Some(stream) = begin(stream, &connection).await else { return };
    let mut handshake = std::pin::pin!(tokio::time::timeout(patience, tls.accept(stream)));
    let shaken = poll_fn(|context| {
        if connection.order.load(Ordering::Acquire) != SERVE {
            return Poll::Ready(None);
        }
        handshake.as_mut().poll(context).map(|done| done.ok().flatten())
    });
    let Some((stream, certificate)) = shaken.await else { return };
    let framed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    speak(gateway, stream, ticket.peer, certificate, connection, framed).await;
}

async fn begin(stream: std::net::TcpStream, connection: &Connection) -> Option<TcpStream> {
    let stream = TcpStream::from_std(stream).ok()?;
    let _delayed = stream.set_nodelay(true);
    // A task's waker stays the same for its whole life.
    poll_fn(|context| {
        connection.task.register(context.waker());
        Poll::Ready(())
    })
    .await;
    Some(stream)
}

/// Speaks HTTP until the connection ends; `framed`: HTTP/2.
async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    gateway: Arc<Gateway>,
    stream: S,
    peer: IpAddr,
    certificate: Option<Arc<ClientCertificate>>,
    connection: Arc<Connection>,
    framed: bool,
) {
    if framed {
        connection.framed.store(true, Ordering::Relaxed);
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            connection.enter(BUSY);
            connection.requests.fetch_add(1, Ordering::Relaxed);
            let done = Done { connection: Arc::clone(&connection) };
            let request = request.map(RequestBody::Http2);
            let serving = Box::pin(pipeline::serve(Arc::clone(&gateway), peer, certificate.clone(), request));
            serving.map(|Answer { mut response, lines }| {
                lines.add_to(response.headers_mut());
                Ok::<_, std::convert::Infallible>(response.map(|body| Tracked { body, _done: done }))
            })
        });
        let io = TokioIo::new(Watched { stream, connection: Arc::clone(&connection) });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(Duration::from_secs(30));
        connection.run(builder.serve_connection(io, service)).await;
    } else {
        let serve = |request: Request<millgate_http1::Incoming>| {
            let request = request.map(RequestBody::Http1);
            let (gateway, certificate) = (Arc::clone(&gateway), certificate.clone());
            // Boxed, because room for this future is kept as long as the connection lives: idle connections and open
            // streams should not pay for it. Made in its place: `Box::pin` would copy all of it there, most of which
            // nobody has written to yet.
            let place = Box::new_uninit();
            Box::into_pin(Box::write(place, pipeline::serve(gateway, peer, certificate, request)))
        };
        let refuse = |refused| pipeline::refuse(&gateway, peer, refused);
        let service = OneByOne { connection: &connection, serve, refuse };
        let served = std::pin::pin!(millgate_http1::serve(stream, &service));
        connection.run(served).await;
    }
}

/// The requests of an HTTP/1.1 connection.
struct OneByOne<'a, C, R> {
    connection: &'a Connection,
    serve: C,
    refuse: R,
}

impl<C, R, F> millgate_http1::Service for OneByOne<'_, C, R>
where
    C: Fn(Request<millgate_http1::Incoming>) -> F,
    F: Future<Output = Answer<ReplyBody>> + Unpin,
    R: Fn(Refused) -> Answer<ReplyBody>,
{
    type Body = ReplyBody;
    type Serving = F;

    fn call(&self, request: Request<millgate_http1::Incoming>) -> F {
        self.connection.enter(BUSY);
        (self.serve)(request)
    }

    fn refuse(&self, refused: Refused) -> Answer<ReplyBody> {
        (self.refuse)(refused)
    }

    fn is_closing(&self) -> bool {
        self.connection.order.load(Ordering::Acquire) != SERVE
    }

    fn speaks(&self) {
        if self.connection.state.load(Ordering::Relaxed) != HEAD {
            self.connection.enter(HEAD);
        }
    }

    fn waits(&self) {
        self.connection.enter(IDLE);
    }

    fn works(&self) {
        self.connection.enter(BUSY);
    }
}

/// Waits for the first bytes of a connection without taking them; how many there are. `None`: it closed, or was
/// told to. Until then it has no buffers.
async fn first_bytes(stream: &TcpStream, connection: &Connection, first: &mut [u8; 3]) -> Option<usize> {
    let mut peek = std::pin::pin!(stream.peek(first));
    let seen = poll_fn(|context| {
        if connection.order.load(Ordering::Acquire) != SERVE {
            return Poll::Ready(None);
        }
        peek.as_mut().poll(context).map(Result::ok)
    })
    .await;
    seen.filter(|seen| *seen > 0)
}

/// Marks the connection idle when the answer has left.
struct Done {
    connection: Arc<Connection>,
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.connection.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.connection.enter(IDLE);
        }
    }
}

/// An answer's body together with the mark.
struct Tracked {
    body: ReplyBody,
    _done: Done,
}

impl http_body::Body for Tracked {
    type Data = bytes::Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A client's socket that notes when a silent connection begins to speak.
struct Watched<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = std::pin::Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.connection.state.load(Ordering::Relaxed) == IDLE {
            self.connection.enter(HEAD);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> std::task::Poll<io::Result<usize>> {
        millgate_http1::poll_write_gathered(&mut self.stream, context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
