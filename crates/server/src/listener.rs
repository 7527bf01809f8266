//! Connections. One acceptor deals them to data threads in turn; a data thread owns its connections for
//! their whole life and runs them on a single-threaded runtime, so that a request never crosses threads.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::Gateway;
use crate::connection::{self, Connection, drive, drive_tls};
use crate::tls::Tls;

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
pub(crate) struct Ticket {
    pub(crate) peer: IpAddr,
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
                        let connection = Arc::new(Connection::new());
                        if *phase.borrow() != Phase::Open {
                            connection.finish();
                        }
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
                    connection::tick();
                    millgate_upstream::Client.sweep();
                    live.retain(|connection| {
                        let connection = connection.upgrade();
                        connection.inspect(|connection| connection.end_if_late(self.limits.header_timeout)).is_some()
                    });
                }
                changed = phase.changed() => match *phase.borrow_and_update() {
                    Phase::Closing if changed.is_ok() => {
                        live.iter().filter_map(Weak::upgrade).for_each(|connection| connection.finish());
                    }
                    Phase::Open if changed.is_ok() => {}
                    _ => return,
                },
            }
        }
    }
}
