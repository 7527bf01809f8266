//! The writer: one thread that owns the files.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use millgate_types::hex;
use tokio::sync::oneshot;

use crate::chain::{Chain, Mac};
use crate::segment::{HEAD, START, create, path, segments, write_line, write_place};
use crate::verify::walk;
use crate::{AuditError, Sink, known};

/// Bytes of records that nobody waits for and that may wait for the disk.
const QUEUE: usize = 16 << 20;
/// Records of one write.
const BATCH: usize = 4096;
/// Records that nobody waits for are gathered for this long: each write costs two waits for the disk.
const GATHER: Duration = Duration::from_millis(200);
/// Pause after a write that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Where and how the log is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A folder of its own.
    pub folder: PathBuf,
    /// A segment that grew over this is followed by another one.
    pub segment_bytes: u64,
    /// Segments whose last record is older are deleted. `None`: never.
    pub retention: Option<Duration>,
}

struct Message {
    record: Vec<u8>,
    done: Option<oneshot::Sender<()>>,
}

/// What waits for the writer.
#[derive(Default)]
struct Queue {
    inner: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    /// Somebody waits for one of them.
    urgent: bool,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Err`: the writer has ended.
    fn push(&self, message: Message) -> Result<(), AuditError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(AuditError::Stopped);
        }
        let (first, urgent) = (waiting.messages.is_empty(), message.done.is_some());
        waiting.urgent |= urgent;
        waiting.messages.push_back(message);
        drop(waiting);
        if first || urgent {
            self.filled.notify_one();
        }
        Ok(())
    }

    fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// The next records to write, once there are some; `None`: there are no more.
    fn next(&self) -> Option<Vec<Message>> {
        let idle = |waiting: &mut Waiting| waiting.messages.is_empty() && !waiting.closed;
        // What the last write left is not made to wait again where it fills another one.
        let early =
            |waiting: &mut Waiting| !waiting.urgent && !waiting.closed && waiting.messages.len() < BATCH;
        let waiting = self.filled.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let gathered = self.filled.wait_timeout_while(waiting, GATHER, early);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        let count = waiting.messages.len().min(BATCH);
        let batch: Vec<_> = waiting.messages.drain(..count).collect();
        waiting.urgent &= !waiting.messages.is_empty();
        (!batch.is_empty()).then_some(batch)
    }
}

/// Held by the writer's thread: however that ends, nobody waits for it any more.
struct Ends(Arc<Queue>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.closed = true;
        waiting.messages.clear();
    }
}

/// An open log.
pub struct Audit {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    state: Arc<State>,
    folder: PathBuf,
    chain: Chain,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("healthy", &self.is_healthy()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    sinks: OnceLock<Vec<Sink>>,
    failing: AtomicBool,
    waiting: AtomicUsize,
    lost: AtomicU64,
}

impl Audit {
    /// Opens the log and checks all of it; a piece that a crash left of its last line is cut off. A log that is not what was
    /// written is refused: nothing may be written behind it as if nothing had happened.
    pub fn open(settings: Settings, key: &[u8]) -> Result<Arc<Self>, AuditError> {
        let io = |error| AuditError::Io { path: settings.folder.clone(), error };
        private(&settings.folder).map_err(io)?;
        let chain = Chain::new(key);
        let end = walk(&settings.folder, &chain, &known::read(&settings.folder, &chain), &mut |_, _| {})?;
        if end.report.torn > 0 {
            tracing::warn!(bytes = end.report.torn, "a crash left a piece of an audit record; it is cut off");
            end.cut()?;
        }
        known::write(&settings.folder, &chain, &end.complete)?;
        let state = Arc::new(State::default());
        let folder = settings.folder.clone();
        let hashes = chain.clone();
        let mut writer =
            Writer { settings, chain, seq: end.seq, mac: end.mac, file: None, buffer: Vec::new() };
        let queue = Arc::new(Queue::default());
        let (shared, read) = (Arc::clone(&state), Arc::clone(&queue));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread
            .spawn(move || {
                let ends = Ends(read);
                writer.run(&ends.0, &shared);
            })
            .map_err(|error| AuditError::Io { path: PathBuf::from("audit"), error })?;
        Ok(Arc::new(Self { queue, thread: Mutex::new(Some(thread)), state, folder, chain: hashes }))
    }

    /// Writes a record (a JSON object) and waits until it is on the disk.
    pub async fn record(&self, record: Vec<u8>) -> Result<(), AuditError> {
        if !self.is_healthy() {
            return Err(AuditError::Stopped);
        }
        let (done, told) = oneshot::channel();
        self.queue.push(Message { record, done: Some(done) })?;
        told.await.map_err(|_| AuditError::Stopped)
    }

    /// Hands a record over without waiting. It is lost, and counted, when more wait for the disk than may.
    pub fn submit(&self, record: Vec<u8>) {
        let length = record.len();
        if self.state.waiting.fetch_add(length, Ordering::Relaxed) + length > QUEUE
            || self.queue.push(Message { record, done: None }).is_err()
        {
            self.state.waiting.fetch_sub(length, Ordering::Relaxed);
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where it lies.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Whether the last write succeeded.
    pub fn is_healthy(&self) -> bool {
        !self.state.failing.load(Ordering::Relaxed)
    }

    /// Records that were lost since the start.
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }

    /// Gives every record from now on to these too, once it is on the disk. Only the first call counts.
    pub fn send_to(&self, sinks: Vec<Sink>) {
        let _first = self.state.sinks.set(sinks);
    }

    /// Records that sinks lost since the start.
    pub fn dropped(&self) -> u64 {
        self.state.sinks.get().into_iter().flatten().map(Sink::dropped).sum()
    }

    /// A keyed digest: equal for equal texts, and of no use to who has not the log's key.
    pub fn digest(&self, text: &[u8]) -> String {
        hex(&self.chain.text(text))
    }

    /// Writes what waits, and ends.
    pub fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _panicked = thread.join();
        }
        self.state.sinks.get().into_iter().flatten().for_each(Sink::close);
    }
}

struct Writer {
    settings: Settings,
    chain: Chain,
    seq: u64,
    mac: Mac,
    file: Option<Open>,
    buffer: Vec<u8>,
}

/// The segment that is written to.
struct Open {
    file: File,
    length: u64,
    path: PathBuf,
    /// Its first record.
    first: u64,
    /// The hash before that, where we began it.
    before: Option<Mac>,
}

impl Open {
    /// Whether the file is still the one at its path: somebody may have moved the log aside.
    fn is_there(&self) -> bool {
        let inode = |meta: std::io::Result<std::fs::Metadata>| meta.ok().map(|meta| (meta.dev(), meta.ino()));
        let open = inode(self.file.metadata());
        open.is_some() && open == inode(self.path.metadata())
    }
}

impl Writer {
    fn run(&mut self, queue: &Queue, state: &State) {
        // Whatever came meanwhile shares the write: one wait for the disk for all of them.
        while let Some(batch) = queue.next() {
            let outcome = self.write(&batch);
            let bytes =
                batch.iter().filter(|message| message.done.is_none()).map(|message| message.record.len());
            state.waiting.fetch_sub(bytes.sum(), Ordering::Relaxed);
            match outcome {
                Ok(()) => {
                    self.send(state);
                    if state.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("the audit log is written again");
                    }
                    batch.into_iter().filter_map(|message| message.done).for_each(|done| {
                        let _gone = done.send(());
                    });
                }
                Err(error) => {
                    // Who waits hears of it by the end of its channel.
                    // What nobody waits for is still told to the sinks, unbound.
                    for message in batch.iter().filter(|message| message.done.is_none()) {
                        let line = [b"{\"seq\":null,\"record\":", &*message.record, b"}"].concat();
                        let line: Arc<[u8]> = line.into();
                        state.sinks.get().into_iter().flatten().for_each(|sink| sink.push(&line));
                    }
                    let lost = batch.iter().filter(|message| message.done.is_none()).count();
                    state.lost.fetch_add(lost as u64, Ordering::Relaxed);
                    if !state.failing.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "the audit log cannot be written: admin changes are refused");
                    }
                    drop(batch);
                    std::thread::sleep(PAUSE);
                    // The next change finds out whether it works again.
                    state.failing.store(self.heal().is_err(), Ordering::Relaxed);
                }
            }
        }
    }

    /// Hands the lines that were just written to the sinks.
    fn send(&self, state: &State) {
        let Some(sinks) = state.sinks.get().filter(|sinks| !sinks.is_empty()) else { return };
        for line in self.buffer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Arc<[u8]> = line.into();
            for sink in sinks {
                sink.push(&line);
            }
        }
    }

    /// What was written of a batch that failed is taken back, so that the chain has no gap.
    fn heal(&mut self) -> Result<(), AuditError> {
        self.file = None;
        let folder = &self.settings.folder;
        let end = walk(folder, &self.chain, &known::read(folder, &self.chain), &mut |_, _| {})?;
        end.cut()?;
        (self.seq, self.mac) = (end.seq, end.mac);
        Ok(())
    }

    fn write(&mut self, batch: &[Message]) -> Result<(), AuditError> {
        self.buffer.clear();
        let (mut seq, mut mac) = (self.seq, self.mac);
        for message in batch {
            seq += 1;
            mac = self.chain.next(&mac, seq, &message.record);
            write_line(seq, &mac, &message.record, &mut self.buffer);
        }
        let mut open = self.segment()?;
        let written = open.file.write_all(&self.buffer).and_then(|()| open.file.sync_data());
        written.map_err(|error| AuditError::Io { path: open.path.clone(), error })?;
        open.length += self.buffer.len() as u64;
        self.file = Some(open);
        (self.seq, self.mac) = (seq, mac);
        write_place(&self.settings.folder, HEAD, &self.chain, seq, &mac)
    }

    /// Takes out the segment to write to; a full one, or one that is not there any more, is followed by the next.
    fn segment(&mut self) -> Result<Open, AuditError> {
        let room = self.settings.segment_bytes;
        let taken = self.file.take();
        if let Some(open) = taken.filter(Open::is_there) {
            if open.length < room {
                return Ok(open);
            }
            self.complete(&open)?;
        }
        let folder = self.settings.folder.clone();
        let last = segments(&folder)?.pop();
        let continued = last.filter(|(_, path)| path.metadata().is_ok_and(|meta| meta.len() < room));
        let (path, first) = match continued {
            Some((first, path)) => (path, first),
            None => (path(&folder, self.seq + 1), self.seq + 1),
        };
        let failed = |error| AuditError::Io { path: path.clone(), error };
        let file = create(&path, false).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        // The folder's entry too must be on the disk.
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        if length == 0 {
            self.let_go()?;
        }
        // A segment that others began may be continued; what stood before it is known to them.
        let before = (length == 0).then_some(self.mac);
        Ok(Open { file, length, path, first, before })
    }

    /// Notes that a segment is whole, so that a start need not read it.
    fn complete(&self, open: &Open) -> Result<(), AuditError> {
        let (Some(before), Ok(on_disk)) = (&open.before, open.path.metadata()) else { return Ok(()) };
        let folder = &self.settings.folder;
        let mut known = known::read(folder, &self.chain);
        known.push(known::Segment::new(open.first, self.seq, before, &self.mac, &on_disk));
        known::write(folder, &self.chain, &known)
    }

    /// Deletes segments that are too old, the oldest first, and writes down where the chain begins now.
    fn let_go(&self) -> Result<(), AuditError> {
        let Some(retention) = self.settings.retention else { return Ok(()) };
        let folder = &self.settings.folder;
        let all = segments(folder)?;
        for pair in all.windows(2) {
            let (path, next) = (&pair[0].1, pair[1].0);
            let age = path.metadata().and_then(|meta| meta.modified());
            let age = age.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_none_or(|age| age < retention) {
                break;
            }
            let failed = |error| AuditError::Io { path: path.clone(), error };
            let text = std::fs::read_to_string(path).map_err(failed)?;
            let last = text.lines().next_back().and_then(crate::segment::read_line);
            let Some(last) = last.filter(|last| last.seq + 1 == next) else { break };
            write_place(folder, START, &self.chain, last.seq, &last.mac)?;
            std::fs::remove_file(path).map_err(failed)?;
            tracing::info!(records = last.seq, "audit records up to here are over their time and deleted");
        }
        Ok(())
    }
}

fn private(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
