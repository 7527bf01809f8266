//! Where records go beside the files: each sink has a thread and a bounded queue of its own, so that a slow one holds up
//! neither the log nor the others. What finds its queue full is dropped and counted.

mod syslog;
mod webhook;

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use syslog::SyslogAddress;
pub use webhook::Webhook;

use crate::AuditError;

/// Records that may wait for a sink.
const QUEUE: usize = 16_384;
/// How often a pause looks whether the log is being closed.
const STEP: Duration = Duration::from_millis(50);

/// What kind of sink.
#[derive(Clone, Debug)]
pub enum SinkKind {
    /// Standard output, a line each.
    Stdout,
    /// A signed request for some records at a time.
    Webhook(Webhook),
    /// Syslog, RFC 5424.
    Syslog(SyslogAddress),
}

/// A line of the log on its way.
type Line = Arc<[u8]>;

/// What takes lines one by one; gives how many of those it was given are lost.
trait Deliver: Send {
    /// At least one line.
    fn deliver(&mut self, lines: &[Line], patience: &Patience) -> u64;
    /// Lines of one delivery.
    fn batch(&self) -> usize;
}

/// An open sink.
pub struct Sink {
    queue: Mutex<Option<mpsc::SyncSender<Line>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    dropped: Arc<AtomicU64>,
    patience: Arc<Patience>,
}

/// How long a sink may try: as long as it likes, until the log is closed.
#[derive(Default)]
struct Patience(AtomicBool);

impl Patience {
    /// Waits before another try; `false`: there is to be none.
    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while !self.0.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(STEP));
        }
        false
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

struct Stdout;

impl Deliver for Stdout {
    fn deliver(&mut self, lines: &[Line], _: &Patience) -> u64 {
        let mut out = std::io::stdout().lock();
        let written = lines.iter().try_for_each(|line| {
            out.write_all(line)?;
            out.write_all(b"\n")
        });
        if written.and_then(|()| out.flush()).is_ok() { 0 } else { lines.len() as u64 }
    }

    fn batch(&self) -> usize {
        256
    }
}

impl Sink {
    /// Opens a sink. Nothing is connected to yet.
    pub fn open(kind: SinkKind) -> Result<Self, AuditError> {
        let io = |error| AuditError::Io { path: "sink".into(), error };
        let mut deliver: Box<dyn Deliver> = match kind {
            SinkKind::Stdout => Box::new(Stdout),
            SinkKind::Webhook(webhook) => Box::new(webhook::Deliveries::open(webhook).map_err(io)?),
            SinkKind::Syslog(address) => Box::new(syslog::Syslog::new(address)),
        };
        let (queue, waiting) = mpsc::sync_channel::<Line>(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let patience = Arc::new(Patience::default());
        let (lost, ends) = (Arc::clone(&dropped), Arc::clone(&patience));
        let thread = std::thread::Builder::new().name("audit-sink".to_owned()).spawn(move || {
            let mut gave_up = false;
            while let Ok(first) = waiting.recv() {
                let mut lines = vec![first];
                lines.extend(waiting.try_iter().take(deliver.batch() - 1));
                // After the log was closed each delivery has one try, and the first that fails was the last.
                let count = if gave_up { lines.len() as u64 } else { deliver.deliver(&lines, &ends) };
                gave_up |= count > 0 && ends.0.load(Ordering::Relaxed);
                if count > 0 && lost.fetch_add(count, Ordering::Relaxed) == 0 {
                    tracing::error!("a sink of the audit log loses records; the files have them");
                }
            }
        });
        let thread = Mutex::new(Some(thread.map_err(io)?));
        Ok(Self { queue: Mutex::new(Some(queue)), thread, dropped, patience })
    }

    /// Hands a line over without waiting.
    pub(crate) fn push(&self, line: &Line) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(Arc::clone(line)).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that it lost since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sends what waits, as far as that is quick, and ends.
    pub(crate) fn close(&self) {
        self.patience.0.store(true, Ordering::Relaxed);
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _panicked = thread.join();
        }
    }
}
