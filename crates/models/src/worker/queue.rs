//! Jobs of one pool: what waits, in order; a job that lost its worker goes back to the front.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use millgate_types::Fault;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Jobs that may wait for one pool.
const LENGTH: usize = 1000;

/// One prediction on its way.
pub(super) struct Job {
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    pub(super) deadline: Instant,
    /// Workers that died while they had it.
    pub(super) deaths: u8,
    pub(super) reply: oneshot::Sender<Result<Reply, Fault>>,
}

/// What a worker answered.
#[derive(Debug)]
pub(crate) enum Reply {
    /// `RESULT_JSON`
    Answer(Bytes),
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

#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
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
        Ok(())
    }

    /// Puts a job first. Works on a closed queue too: what was admitted is answered.
    pub(super) fn put_back(&self, job: Job) {
        self.lock().jobs.push_front(job);
        self.wake.notify_one();
    }

    /// The next job whose caller still waits; `None` when the queue is closed and empty.
    pub(super) async fn pop(&self) -> Option<Job> {
        loop {
            let wake = self.wake.notified();
            {
                let mut inner = self.lock();
                while let Some(job) = inner.jobs.pop_front() {
                    if !job.reply.is_closed() && job.deadline > Instant::now() {
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

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    pub(super) fn is_done(&self) -> bool {
        let inner = self.lock();
        inner.closed && inner.jobs.is_empty()
    }

    /// Takes everything that waits.
    pub(super) fn drain(&self) -> Vec<Job> {
        self.lock().jobs.drain(..).collect()
    }
}
