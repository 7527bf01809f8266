//! Connections. One acceptor deals them to data threads in turn; a data thread owns its connections for
//! their whole life and runs them on a single-threaded runtime, so that a request never crosses threads.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::task::AtomicWaker;
use http::Request;
use hyper::server::conn::http2;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use millgate_http1::{Answer, MAX_HEAD, Refused, refresh_date};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::body::RequestBody;
use crate::reply::{BrokenOff, ReplyBody};
use crate::tls::{ClientCertificate, Tls};
use crate::{Gateway, pipeline};

/// HTTP/2 streams of one connection.
const MAX_STREAMS: u32 = 100;
/// A connection that waits for its next request is closed after this.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How often time-outs and idle upstream connections are looked after.
const SWEEP: Duration = Duration::from_secs(1);

/// What a listener allows.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// Data threads.
    pub threads: usize,
    /// Open connections.
    pub connections: u32,
    /// Open connections of one address.
    pub connections_per_ip: u32,
    /// Time for the headers of a request.
    pub header_timeout: Duration,
}

/// A running listener.
pub struct Listener {
    address: SocketAddr,
    stop: watch::Sender<Phase>,
    acceptor: tokio::task::JoinHandle<()>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// No new connections; those there are finish what they began.
    Closing,
    /// Whatever is left is cut.
    Closed,
}

impl Listener {
    /// Binds and starts serving. Must be called on a runtime; the acceptor runs there.
    pub async fn bind(
        gateway: Arc<Gateway>,
        address: SocketAddr,
        limits: ListenerLimits,
        tls: Option<Arc<Tls>>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, phase) = watch::channel(Phase::Open);
        let mut hands = Vec::new();
        let mut threads = Vec::new();
        for index in 0..limits.threads.max(1) {
            let (hand, deal) = mpsc::unbounded_channel();
            let thread =
                DataThread { gateway: Arc::clone(&gateway), phase: phase.clone(), limits, tls: tls.clone() };
            threads.push(
                std::thread::Builder::new().name(format!("data-{index}")).spawn(move || thread.run(deal))?,
            );
            hands.push(hand);
        }
        let acceptor = tokio::spawn(accept(listener, gateway, limits, hands, phase));
        Ok(Self { address, stop, acceptor, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets running requests finish for at most `timeout`, then cuts the rest.
    pub async fn close(self, timeout: Duration) {
        self.stop.send_replace(Phase::Closing);
        let threads = self.threads;
        let mut done = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _panicked = thread.join();
            }
        });
        if tokio::time::timeout(timeout, &mut done).await.is_err() {
            self.stop.send_replace(Phase::Closed);
            let _joined = tokio::time::timeout(Duration::from_secs(1), done).await;
        }
        let _joined = self.acceptor.await;
    }
}

type Dealt = (std::net::TcpStream, Ticket);

/// A connection's place in the counts; gives it back when dropped.
struct Ticket {
    peer: IpAddr,
    counts: Arc<Counts>,
}

struct Counts {
    open: AtomicU32,
    by_ip: Mutex<HashMap<IpAddr, u32>>,
    gateway: Arc<Gateway>,
}

impl Counts {
    fn admit(self: &Arc<Self>, peer: IpAddr, limits: &ListenerLimits) -> Option<Ticket> {
        let mut by_ip = self.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = by_ip.get(&peer).copied().unwrap_or(0);
        if self.open.load(Ordering::Relaxed) >= limits.connections || of_peer >= limits.connections_per_ip {
            self.gateway.metrics.connections_refused.inc();
            return None;
        }
        by_ip.insert(peer, of_peer + 1);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.gateway.metrics.connections.inc();
        Some(Ticket { peer, counts: Arc::clone(self) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut by_ip = self.counts.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_ip.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                by_ip.remove(&self.peer);
            }
        }
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
        self.counts.gateway.metrics.connections.dec();
    }
}

async fn accept(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    limits: ListenerLimits,
    hands: Vec<mpsc::UnboundedSender<Dealt>>,
    mut phase: watch::Receiver<Phase>,
) {
    let counts = Arc::new(Counts { open: AtomicU32::new(0), by_ip: Mutex::default(), gateway });
    let mut turn = 0;
    let mut last_complaint: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase != Phase::Open) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to come back, without spinning.
                if last_complaint.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                    tracing::error!(%error, "connections cannot be accepted");
                    last_complaint = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(ticket) = counts.admit(peer.ip(), &limits) else { continue };
        let Ok(stream) = stream.into_std() else { continue };
        turn = (turn + 1) % hands.len();
        let _thread_gone = hands[turn].send((stream, ticket));
    }
}

thread_local! {
    /// Sweeps of this data thread so far: the clock of its connections, in seconds.
    static TICKS: Cell<u32> = const { Cell::new(0) };
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

struct DataThread {
    gateway: Arc<Gateway>,
    phase: watch::Receiver<Phase>,
    limits: ListenerLimits,
    tls: Option<Arc<Tls>>,
}

impl DataThread {
    fn run(self, deal: mpsc::UnboundedReceiver<Dealt>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a data thread could not start"),
        };
        runtime.block_on(self.serve(deal));
    }

    async fn serve(self, mut deal: mpsc::UnboundedReceiver<Dealt>) {
        let mut live: Vec<Weak<Connection>> = Vec::new();
        let mut tasks = tokio::task::JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        let mut phase = self.phase.clone();
        while open || !tasks.is_empty() {
            tokio::select! {
                dealt = deal.recv(), if open => match dealt {
                    Some((stream, ticket)) => {
                        let order = if *phase.borrow() == Phase::Open { SERVE } else { FINISH };
                        let connection = Arc::new(Connection {
                            state: AtomicU8::new(HEAD),
                            since: AtomicU32::new(TICKS.get()),
                            requests: AtomicU32::new(0),
                            framed: AtomicBool::new(false),
                            order: AtomicU8::new(order),
                            task: AtomicWaker::new(),
                        });
                        live.push(Arc::downgrade(&connection));
                        let gateway = Arc::clone(&self.gateway);
                        match &self.tls {
                            None => tasks.spawn(drive(gateway, stream, ticket, connection)),
                            Some(tls) => {
                                let patience = self.limits.header_timeout;
                                tasks.spawn(drive_tls(gateway, stream, ticket, connection, Arc::clone(tls), patience))
                            }
                        };
                    }
                    None => open = false,
                },
                Some(_) = tasks.join_next() => {}
                _ = sweep.tick() => {
                    TICKS.set(TICKS.get().wrapping_add(1));
                    refresh_date();
                    millgate_upstream::Client.sweep();
                    live.retain(|connection| self.keep(connection));
                }
                changed = phase.changed() => match *phase.borrow_and_update() {
                    Phase::Closing if changed.is_ok() => {
                        live.iter().filter_map(Weak::upgrade).for_each(|connection| connection.order(FINISH));
                    }
                    Phase::Open if changed.is_ok() => {}
                    _ => return,
                },
            }
        }
    }

    /// Closes a connection that takes too long over a request's head or has been silent too long between
    /// requests. False once it is gone.
    fn keep(&self, connection: &Weak<Connection>) -> bool {
        let Some(connection) = connection.upgrade() else { return false };
        let age = TICKS.get().wrapping_sub(connection.since.load(Ordering::Relaxed));
        let limit = match connection.state.load(Ordering::Relaxed) {
            HEAD if !connection.framed.load(Ordering::Relaxed) => self.limits.header_timeout,
            HEAD | IDLE => KEEP_ALIVE,
            _ => return true,
        };
        if Duration::from_secs(age.into()) > limit {
            connection.order(CUT);
        }
        true
    }
}

impl Connection {
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

async fn drive(
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

async fn drive_tls(
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
