//! The mailbox between request path and observer thread.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use millgate_types::Exchange;

use crate::{Metrics, access_log};

/// Records held before new ones are dropped and counted.
const CAPACITY: usize = 65_536;
/// The observer gathers for this long before it works: what it costs to wake it comes by the time, not by the record.
const GATHER: Duration = Duration::from_millis(50);

/// Where access log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Nowhere.
    Off,
}

#[derive(Default)]
struct Mailbox {
    #[expect(
        clippy::vec_box,
        reason = "records come boxed and are large; growing the list moves pointers only"
    )]
    records: Vec<Box<Exchange>>,
    closed: bool,
}

struct Shared {
    mailbox: Mutex<Mailbox>,
    filled: Condvar,
    dropped: AtomicU64,
    metrics: Arc<Metrics>,
    sink: LogSink,
    /// Who else is given the line of each request.
    copy: OnceLock<Copy>,
    /// Who else is given the record itself.
    told: OnceLock<Told>,
    /// Held while a batch is worked on, so that [`Recorder::flush`] can wait for it.
    working: Mutex<Vec<u8>>,
}

/// Takes a finished request and its JSON object.
type Copy = Box<dyn Fn(&Exchange, &[u8]) + Send + Sync>;

/// Takes the complete record of a finished request.
type Told = Box<dyn Fn(&Exchange) + Send + Sync>;

/// Takes records of finished requests.
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Starts the observer thread.
    pub fn start(metrics: Arc<Metrics>, sink: LogSink) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            mailbox: Mutex::default(),
            filled: Condvar::new(),
            dropped: AtomicU64::new(0),
            metrics,
            sink,
            copy: OnceLock::new(),
            told: OnceLock::new(),
            working: Mutex::default(),
        });
        let observer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("observer".to_owned()).spawn(move || observer.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Gives every request with its JSON object from now on to `copy` too, on the observer's thread. Only the first call
    /// counts.
    pub fn copy_to(&self, copy: impl Fn(&Exchange, &[u8]) + Send + Sync + 'static) {
        let _first = self.shared.copy.set(Box::new(copy));
    }

    /// Gives the complete record of every request from now on to `told` too, on the observer's thread. Only the first call
    /// counts.
    pub fn tell(&self, told: impl Fn(&Exchange) + Send + Sync + 'static) {
        let _first = self.shared.told.set(Box::new(told));
    }

    /// Hands a record over. Never waits for the observer; a record that finds the mailbox full is dropped and
    /// counted.
    pub fn send(&self, record: Box<Exchange>) {
        let mut mailbox = lock(&self.shared.mailbox);
        if mailbox.records.len() >= CAPACITY {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        mailbox.records.push(record);
        let first = mailbox.records.len() == 1;
        drop(mailbox);
        if first {
            self.shared.filled.notify_one();
        }
    }

    /// Works on everything sent so far, before it returns.
    pub fn flush(&self) {
        self.shared.work();
    }

    /// Flushes and stops the thread.
    pub fn stop(&self) {
        lock(&self.shared.mailbox).closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _panicked = thread.join();
        }
        self.flush();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut mailbox = lock(&self.mailbox);
            while mailbox.records.is_empty() && !mailbox.closed {
                mailbox = self.filled.wait(mailbox).unwrap_or_else(PoisonError::into_inner);
            }
            let closed = mailbox.closed;
            drop(mailbox);
            if closed {
                return;
            }
            std::thread::sleep(GATHER);
            self.work();
        }
    }

    fn work(&self) {
        let mut lines = lock(&self.working);
        let mut records = std::mem::take(&mut lock(&self.mailbox).records);
        self.metrics.records_dropped(self.dropped.swap(0, Ordering::Relaxed));
        for record in &mut records {
            record.settle();
            self.metrics.observe(record);
            if let Some(told) = self.told.get() {
                told(record);
            }
            let begin = lines.len();
            let copy = self.copy.get();
            if self.sink != LogSink::Off || copy.is_some() {
                access_log::write(record, &mut lines);
            }
            if let Some(copy) = copy {
                copy(record, lines[begin..].trim_ascii_end());
            }
            if self.sink == LogSink::Off {
                lines.truncate(begin);
            }
        }
        if lines.is_empty() {
            return;
        }
        // A log that cannot be written must not stop the gateway.
        let _written = match self.sink {
            LogSink::Stdout => std::io::stdout().lock().write_all(&lines),
            LogSink::Stderr => std::io::stderr().lock().write_all(&lines),
            LogSink::Off => Ok(()),
        };
        lines.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
