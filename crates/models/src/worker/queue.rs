//! Jobs of one pool: what waits, in order. A free worker takes one, or several that may share a call.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use millgate_types::Fault;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::columns::Columns;
use super::stream::ChatAsk;

/// Jobs that may wait for one pool.
const LENGTH: usize = 1000;

/// One prediction asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
    /// The body's rows, where they were checked and could be laid out.
    pub(crate) columns: Option<Columns>,
    /// The body is a conversation for a chat model.
    pub(crate) chat: Option<Box<ChatAsk>>,
}

impl Ask {
    /// The same for the same request, within this process.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        (self.content_type, &self.body).hash(&mut hash);
        hash.finish()
    }
}

/// One prediction on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ask: Ask,
    pub(super) deadline: Instant,
    /// It shares no call: it may be what made one fail.
    pub(super) alone: bool,
    /// Workers that died while they had it alone.
    pub(super) deaths: u8,
    pub(super) reply: oneshot::Sender<Result<Reply, Fault>>,
}

impl Job {
    fn is_awaited(&self) -> bool {
        !self.reply.is_closed() && self.deadline > Instant::now()
    }
}

/// What a worker answered.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The answer's JSON.
    Answer(Bytes),
    /// The pieces of a chat model's answer, the first of which is there.
    Stream(mpsc::Receiver<Result<Bytes, Fault>>),
    /// `ERROR`: MLflow's own answer and what we may tell about it.
    Error {
        /// The HTTP status MLflow's scoring server would answer with.
        status: u16,
        /// Whether the input is to blame.
        user: bool,
        /// The exception's class; empty when unknown.
        class: String,
        /// The body MLflow's scoring server would answer with, without its stack trace.
        body: String,
        /// Where the answer holds a number that JSON cannot hold.
        place: Option<String>,
    },
}

/// How much one call may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) rows: u32,
    pub(super) bytes: usize,
}

#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
    arrived: Notify,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the job back when the queue is full or closed.
    pub(super) fn push(&self, job: Job) -> Result<(), Job> {
        let mut inner = self.lock();
        if inner.closed || inner.jobs.len() >= LENGTH {
            return Err(job);
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.wake.notify_one();
        self.arrived.notify_waiters();
        Ok(())
    }

    /// Puts jobs first, in their order. Works on a closed queue too: what was admitted is answered.
    pub(super) fn put_back(&self, jobs: Vec<Job>) {
        let mut inner = self.lock();
        for job in jobs.into_iter().rev() {
            inner.jobs.push_front(job);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// The next job whose caller still waits; `None` when the queue is closed and empty.
    pub(super) async fn pop(&self) -> Option<Job> {
        loop {
            let wake = self.wake.notified();
            {
                let mut inner = self.lock();
                while let Some(job) = inner.jobs.pop_front() {
                    if job.is_awaited() {
                        if !inner.jobs.is_empty() {
                            self.wake.notify_one();
                        }
                        return Some(job);
                    }
                }
                if inner.closed {
                    self.wake.notify_one();
                    return None;
                }
            }
            wake.await;
        }
    }

    /// Adds to `jobs`, which have one layout, what waits with the same one, as far as there is room. What does not fit
    /// keeps its place.
    pub(super) fn gather(&self, jobs: &mut Vec<Job>, room: Room) {
        let Some(first) = jobs.first().filter(|job| !job.alone).and_then(|job| job.ask.columns.clone())
        else {
            return;
        };
        let taken = jobs.iter().filter_map(|job| job.ask.columns.as_ref());
        let (mut rows, mut bytes) =
            taken.fold((0_u32, 0_usize), |(rows, bytes), c| (rows.saturating_add(c.rows), bytes + c.size()));
        let mut inner = self.lock();
        let mut at = 0;
        while let Some(job) = inner.jobs.get(at) {
            if rows >= room.rows {
                break;
            }
            let fitting = job.ask.columns.as_ref().filter(|columns| {
                !job.alone
                    && columns.fits(&first)
                    && columns.rows <= room.rows - rows
                    && columns.size() <= room.bytes.saturating_sub(bytes)
            });
            match fitting {
                Some(columns) => {
                    let (more, size) = (columns.rows, columns.size());
                    let Some(job) = inner.jobs.remove(at) else { break };
                    if job.is_awaited() {
                        (rows, bytes) = (rows + more, bytes + size);
                        jobs.push(job);
                    }
                }
                None => at += 1,
            }
        }
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until a job comes in.
    pub(super) async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Takes everything that waits.
    pub(super) fn drain(&self) -> Vec<Job> {
        self.lock().jobs.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millgate_scoring::{ContentType, Signature, check};
    use std::time::Duration;

    type Answers = Vec<oneshot::Receiver<Result<Reply, Fault>>>;

    fn job(column: &str, rows: usize, answers: &mut Answers) -> Job {
        let text = format!(r#"[{{"name":"{column}","type":"double","required":true}}]"#);
        let signature = Signature::parse(Some(&text), None).unwrap();
        let body = serde_json::json!({ "inputs": { column: vec![0.5; rows] } }).to_string();
        let checked = check(body.as_bytes(), ContentType::Json, &signature).unwrap();
        let columns = Columns::of(checked.data.as_ref().unwrap(), &signature, None);
        let (reply, answer) = oneshot::channel();
        answers.push(answer);
        let ask = Ask { content_type: "application/json", body: body.into(), columns, chat: None };
        Job { ask, deadline: Instant::now() + Duration::from_mins(1), alone: false, deaths: 0, reply }
    }

    fn rows(jobs: &[Job]) -> Vec<u32> {
        jobs.iter().map(|job| job.ask.columns.as_ref().unwrap().rows).collect()
    }

    #[tokio::test]
    async fn only_what_fits_shares_a_call_and_the_rest_keeps_its_order() {
        let (queue, mut answers) = (Queue::default(), Vec::new());
        for (column, count) in [("a", 1), ("a", 2), ("b", 1), ("a", 200), ("a", 60), ("a", 3)] {
            assert!(queue.push(job(column, count, &mut answers)).is_ok());
        }
        let mut lonely = job("a", 1, &mut answers);
        lonely.alone = true;
        assert!(queue.push(lonely).is_ok());
        // A caller who went away takes no room.
        drop(answers.remove(1));
        let mut jobs = vec![queue.pop().await.unwrap()];
        queue.gather(&mut jobs, Room { rows: 256, bytes: 1 << 20 });
        assert_eq!(rows(&jobs), [1, 200, 3]);
        assert_eq!(rows(&queue.drain()), [1, 60, 1]);
    }

    #[tokio::test]
    async fn bytes_bound_a_call_and_a_lonely_job_gathers_nothing() {
        let (queue, mut answers) = (Queue::default(), Vec::new());
        for _ in 0..4 {
            assert!(queue.push(job("a", 10, &mut answers)).is_ok());
        }
        let mut jobs = vec![queue.pop().await.unwrap()];
        queue.gather(&mut jobs, Room { rows: 256, bytes: 250 });
        assert_eq!(jobs.len(), 3);
        for job in &mut jobs {
            job.alone = true;
        }
        queue.put_back(jobs);
        let mut jobs = vec![queue.pop().await.unwrap()];
        queue.gather(&mut jobs, Room { rows: 256, bytes: 1 << 20 });
        assert_eq!(jobs.len(), 1);
    }
}
