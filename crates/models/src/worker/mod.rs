//! Python workers: a pool of processes for one model version. A worker has one request at a time; what waits,
//! waits here.

pub(crate) mod exec;
mod frame;
pub(crate) mod job;
mod process;
mod queue;
pub(crate) mod user;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use millgate_types::{Fault, Retry, code};
use rustix::process::Pid;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use frame::kind;
pub(crate) use process::Plan;
use process::Process;
pub(crate) use queue::Reply;
use queue::{Job, Queue};

/// Back-off between two starts of a worker that died.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Deaths in a row after which callers are turned away at once instead of waiting.
const BREAKER: usize = 5;
/// A worker that lived this long starts again with a clean record.
const CLEAN_AFTER: Duration = Duration::from_mins(1);
/// Pause between two looks at an idle worker.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Pause between two looks at a worker's memory.
const MEMORY_EVERY: Duration = Duration::from_secs(1);

/// The workers of one model version. Dropping it lets what was admitted finish, then stops them.
pub(crate) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Plan,
    queue: Queue,
    ready: watch::Sender<usize>,
    deaths_in_a_row: AtomicUsize,
    restarts: AtomicU64,
    failure: Mutex<Option<String>>,
    mlflow_version: Mutex<Option<String>>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner.queue.close();
    }
}

impl Pool {
    /// Starts `workers` processes on `handle` and waits until all have the model loaded, or one could not.
    /// `alive` is held by each until it is gone.
    pub(crate) async fn start(
        plan: Plan,
        workers: usize,
        handle: &Handle,
        alive: &mpsc::Sender<()>,
    ) -> Result<Self, String> {
        let pool = Self {
            inner: Arc::new(Inner {
                plan,
                queue: Queue::default(),
                ready: watch::Sender::new(0),
                deaths_in_a_row: AtomicUsize::new(0),
                restarts: AtomicU64::new(0),
                failure: Mutex::new(None),
                mlflow_version: Mutex::new(None),
            }),
        };
        let (first, mut firsts) = mpsc::channel(workers.max(1));
        for _ in 0..workers.max(1) {
            let (inner, alive, first) = (pool.inner.clone(), alive.clone(), first.clone());
            handle.spawn(async move {
                run_slot(inner, first).await;
                drop(alive);
            });
        }
        drop(first);
        while let Some(started) = firsts.recv().await {
            started?;
        }
        Ok(pool)
    }

    /// Deaths of workers since the pool began.
    pub(crate) fn restarts(&self) -> u64 {
        self.inner.restarts.load(Ordering::Relaxed)
    }

    /// Workers that have the model loaded.
    pub(crate) fn ready(&self) -> usize {
        *self.inner.ready.borrow()
    }

    /// Why the last worker could not start, while none is ready.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.ready() > 0 {
            return None;
        }
        self.inner.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The MLflow the workers run.
    pub(crate) fn mlflow_version(&self) -> Option<String> {
        self.inner.mlflow_version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One prediction. Faults: `overloaded`, `model_unavailable`, `worker_timeout`, `worker_crashed`,
    /// `worker_protocol`. May be awaited on any runtime that has timers.
    pub(crate) async fn predict(
        &self,
        content_type: &'static str,
        body: Bytes,
        deadline: std::time::Instant,
    ) -> Result<Reply, Fault> {
        let broken = self.inner.deaths_in_a_row.load(Ordering::Relaxed) >= BREAKER;
        if broken && self.ready() == 0 {
            let why = self.failure().unwrap_or_else(|| "its workers keep dying".to_owned());
            let text = format!("the model's workers are down: {why}");
            return Err(Fault::worker(code::MODEL_UNAVAILABLE, Retry::NextTarget, text)
                .with_retry_after(Duration::from_secs(5)));
        }
        let deadline = Instant::from_std(deadline);
        let (reply, answer) = oneshot::channel();
        let job = Job { content_type, body, deadline, deaths: 0, reply };
        if self.inner.queue.push(job).is_err() {
            let text = "too many predictions wait for this model";
            return Err(Fault::gateway(code::OVERLOADED, text).with_retry_after(Duration::from_secs(1)));
        }
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(crashed("the worker was stopped")),
            Err(_) => Err(timed_out()),
        }
    }
}

fn timed_out() -> Fault {
    Fault::worker(code::WORKER_TIMEOUT, Retry::NextTarget, "the model did not answer in time")
}

fn crashed(text: impl Into<String>) -> Fault {
    Fault::worker(code::WORKER_CRASHED, Retry::NextTarget, text.into())
}

/// Keeps one worker running for as long as the pool lives.
async fn run_slot(inner: Arc<Inner>, first: mpsc::Sender<Result<(), String>>) {
    let mut first = Some(first);
    let mut pause = BACKOFF.0;
    while !inner.queue.is_done() {
        let started = Instant::now();
        let reason = match Process::start(&inner.plan).await {
            Ok(process) => {
                if let Ok(mut version) = inner.mlflow_version.lock() {
                    version.clone_from(&process.mlflow_version);
                }
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(())).await;
                }
                inner.ready.send_modify(|ready| *ready += 1);
                let end = serve(&inner, process).await;
                inner.ready.send_modify(|ready| *ready -= 1);
                match end {
                    None => return,
                    Some(reason) => reason,
                }
            }
            Err(reason) => reason,
        };
        tracing::warn!(endpoint = %inner.plan.label, reason, "worker ended");
        if let Ok(mut failure) = inner.failure.lock() {
            *failure = Some(reason.clone());
        }
        if let Some(first) = first.take() {
            // The version never came up: the deployment decides when to try again.
            let _ = first.send(Err(reason)).await;
            return;
        }
        inner.restarts.fetch_add(1, Ordering::Relaxed);
        if started.elapsed() > CLEAN_AFTER {
            pause = BACKOFF.0;
        }
        let deaths = inner.deaths_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if deaths >= BREAKER && *inner.ready.borrow() == 0 {
            for job in inner.queue.drain() {
                let _ = job.reply.send(Err(crashed("the model's workers keep dying")));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Serves jobs until the pool closes (`None`) or the worker must be replaced (why).
async fn serve(inner: &Inner, mut process: Process) -> Option<String> {
    let mut id = 0_u64;
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.tick().await;
    loop {
        let job = tokio::select! {
            job = inner.queue.pop() => job,
            () = process.ended() => return Some(process.epitaph("the worker died while idle").await),
            _ = ping.tick() => {
                id += 1;
                match check_idle(inner, &mut process, id).await {
                    Ok(()) => continue,
                    Err(reason) => return Some(reason),
                }
            }
        };
        let Some(job) = job else {
            process.stop(inner.plan.kill_after).await;
            return None;
        };
        id += 1;
        match run_job(inner, &mut process, job, id).await {
            Ok(()) => inner.deaths_in_a_row.store(0, Ordering::Relaxed),
            Err(reason) => return Some(reason),
        }
    }
}

async fn check_idle(inner: &Inner, process: &mut Process, id: u64) -> Result<(), String> {
    over_memory(inner.plan.memory_limit, process.pid())?;
    let answer = async {
        process.send(kind::PING, id, &[]).await?;
        process.receive().await
    };
    match tokio::time::timeout(PING_EVERY, answer).await {
        Ok(Ok(frame)) if frame.kind == kind::PONG && frame.id == id => Ok(()),
        Ok(_) => Err("the worker sent something unasked".to_owned()),
        Err(_) => Err("the idle worker does not answer".to_owned()),
    }
}

fn over_memory(limit: Option<u64>, pid: Option<Pid>) -> Result<(), String> {
    match (limit, process::memory(pid)) {
        (Some(limit), Some(used)) if used > limit => {
            Err(format!("the worker used more than its {} MiB of memory", limit >> 20))
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct ErrorDetail {
    class: String,
    status: u16,
    #[serde(rename = "type", default)]
    exception: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    place: Option<String>,
}

/// One prediction. `Err` says why the worker must be replaced; the job has then been answered or put back.
async fn run_job(inner: &Inner, process: &mut Process, job: Job, id: u64) -> Result<(), String> {
    let name = job.content_type.as_bytes();
    let length = (name.len() as u16).to_le_bytes();
    let hard = job.deadline + inner.plan.kill_after;
    let body = job.body.clone();
    let pid = process.pid();
    let limit = inner.plan.memory_limit;
    let outcome = {
        let exchange = async {
            process.send(kind::PREDICT_JSON, id, &[&length, name, &body]).await?;
            process.receive().await
        };
        let mut exchange = std::pin::pin!(tokio::time::timeout_at(hard, exchange));
        let mut memory = tokio::time::interval(MEMORY_EVERY);
        loop {
            tokio::select! {
                biased;
                outcome = &mut exchange => break Some(outcome),
                _ = memory.tick(), if limit.is_some() => {
                    if over_memory(limit, pid).is_err() {
                        break None;
                    }
                }
            }
        }
    };
    let Some(outcome) = outcome else {
        let text = "the model's worker used more memory than it may";
        let _ = job.reply.send(Err(crashed(text)));
        return Err(text.to_owned());
    };
    match outcome {
        Ok(Ok(frame)) if frame.id == id && frame.kind == kind::RESULT_JSON => {
            let _ = job.reply.send(Ok(Reply::Answer(frame.payload)));
            Ok(())
        }
        Ok(Ok(frame)) if frame.id == id && frame.kind == kind::ERROR => {
            match serde_json::from_slice::<ErrorDetail>(&frame.payload) {
                Ok(detail) => {
                    let _ = job.reply.send(Ok(Reply::Error {
                        status: detail.status,
                        user: detail.class == "user",
                        class: detail.exception,
                        body: without_trace(detail.body),
                        place: detail.place,
                    }));
                    Ok(())
                }
                Err(_) => Err(garbage(job)),
            }
        }
        Ok(Ok(_)) => Err(garbage(job)),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => Err(garbage(job)),
        Ok(Err(_)) => Err(died(inner, process, job).await),
        Err(_) => {
            let _ = job.reply.send(Err(timed_out()));
            Err("the worker missed a deadline".to_owned())
        }
    }
}

/// MLflow's error body without what only a log may hold. The worker leaves it out already, but model code runs there.
fn without_trace(body: String) -> String {
    const MARK: &str = "Traceback (most recent call last)";
    if !body.contains("stack_trace") && !body.contains(MARK) {
        return body;
    }
    let cut = |text: &str| text.split(MARK).next().unwrap_or_default().trim_end().to_owned();
    match serde_json::from_str(&body) {
        Ok(serde_json::Value::Object(mut fields)) => {
            fields.remove("stack_trace");
            for value in fields.values_mut() {
                if let serde_json::Value::String(text) = value
                    && text.contains(MARK)
                {
                    *text = cut(text);
                }
            }
            serde_json::Value::Object(fields).to_string()
        }
        _ => cut(&body),
    }
}

fn garbage(job: Job) -> String {
    let text = "the model's worker sent something that is not an answer";
    let _ = job.reply.send(Err(Fault::worker(code::WORKER_PROTOCOL, Retry::NextTarget, text)));
    "the worker sent something that is not an answer".to_owned()
}

/// A death in mid-request: another worker tries once; the second death is the answer.
async fn died(inner: &Inner, process: &mut Process, mut job: Job) -> String {
    let reason = process.epitaph("the worker died during a prediction").await;
    job.deaths += 1;
    if job.deaths < 2 {
        inner.queue.put_back(job);
    } else {
        let _ = job.reply.send(Err(crashed("the model's worker died twice on this request")));
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stack_trace_is_left_in_an_error_body() {
        let kept = r#"{"error_code": "BAD_REQUEST", "message": "no"}"#;
        assert_eq!(without_trace(kept.to_owned()), kept);
        let body = r#"{"error_code":"X","message":"no\nTraceback (most recent call last):\n  File","stack_trace":"s"}"#;
        assert_eq!(without_trace(body.to_owned()), r#"{"error_code":"X","message":"no"}"#);
        assert_eq!(without_trace("no\nTraceback (most recent call last):\n x".to_owned()), "no");
    }
}
