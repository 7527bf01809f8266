//! One call of a worker: one job, or several that share it. Every job is answered or put back, whatever happens.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use millgate_scoring::{Array, Dtype};
use millgate_types::{Fault, Retry, code};
use rustix::process::Pid;
use serde::Deserialize;

use super::columns::Columns;
use super::frame::{Frame, kind};
use super::process::{self, Process};
use super::queue::{Ask, Job, Reply};
use super::{Inner, crashed, stream, timed_out};

/// Pause between two looks at a worker's memory.
pub(super) const MEMORY_EVERY: Duration = Duration::from_secs(1);

/// Arrays above this size, in bytes, are written as JSON on the blocking pool.
const LARGE_ARRAY: usize = 128 << 10;
/// Why requests share no calls any more.
const LENGTH: &str = "an answer's length was not the sum of the rows";

/// What the gateway cannot go on with: the worker must be replaced, and why.
pub(super) type Broken = String;

pub(super) fn over_memory(limit: Option<u64>, pid: Option<Pid>) -> Result<(), Broken> {
    match (limit, process::memory(pid)) {
        (Some(limit), Some(used)) if used > limit => {
            Err(format!("the worker used more than its {} MiB of memory", limit >> 20))
        }
        _ => Ok(()),
    }
}

/// Asks the worker for the answers of `jobs`, which fit together.
pub(super) async fn call(
    inner: &Inner,
    process: &mut Process,
    jobs: Vec<Job>,
    id: u64,
) -> Result<(), Broken> {
    inner.calls.fetch_add(1, Ordering::Relaxed);
    inner.asked.fetch_add(jobs.len() as u64, Ordering::Relaxed);
    let Some(latest) = jobs.iter().map(|job| job.deadline).max() else { return Ok(()) };
    let hard = latest + inner.plan.kill_after;
    let pid = process.pid();
    let limit = inner.plan.memory_limit;
    let mut reached = false;
    let outcome = {
        let reached = &mut reached;
        let (jobs, process) = (&jobs, &mut *process);
        let exchange = async move {
            send(inner, process, jobs, id).await?;
            // From here on the model's code may have run.
            *reached = true;
            process.receive().await
        };
        let mut exchange = std::pin::pin!(tokio::time::timeout_at(hard, exchange));
        let mut memory = tokio::time::interval(MEMORY_EVERY);
        memory.tick().await;
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
        lost(inner, jobs, "the model's worker used more memory than it may");
        return Err("the worker used more memory than it may".to_owned());
    };
    match outcome {
        Ok(Ok(frame)) if frame.id == id && frame.kind == kind::ITEM => match single(jobs) {
            Ok(job) if job.ask.chat.as_ref().is_some_and(|chat| chat.stream) => {
                stream::hand_on(inner, process, job, frame).await
            }
            Ok(job) => Err(garbage(vec![job])),
            Err(jobs) => Err(garbage(jobs)),
        },
        Ok(Ok(frame)) if frame.id == id => settle(inner, jobs, &frame),
        Ok(Ok(_)) => Err(garbage(jobs)),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => Err(garbage(jobs)),
        Ok(Err(_)) => {
            let reason = process.epitaph("the worker died during a prediction").await;
            if reached {
                lost(inner, jobs, "the model's worker died on this request");
            } else {
                inner.queue.put_back(jobs);
            }
            Err(reason)
        }
        Err(_) => {
            for job in jobs {
                answer(job, Err(timed_out()));
            }
            Err("the worker missed a deadline".to_owned())
        }
    }
}

fn single(mut jobs: Vec<Job>) -> Result<Job, Vec<Job>> {
    if jobs.len() == 1 { jobs.pop().ok_or(jobs) } else { Err(jobs) }
}

async fn send(inner: &Inner, process: &mut Process, jobs: &[Job], id: u64) -> std::io::Result<()> {
    let columns: Option<Vec<&Columns>> = jobs.iter().map(|job| job.ask.columns.as_ref()).collect();
    match (columns.filter(|_| inner.facts().columns), jobs) {
        (Some(parts), _) => process.send(kind::PREDICT_COLUMNS, id, &[&Columns::payload(&parts)]).await,
        (None, [Job { ask: Ask { chat: Some(chat), body, .. }, .. }]) => {
            process.send(kind::CHAT, id, &[&[u8::from(chat.stream)], body]).await
        }
        (None, [job]) => {
            let name = job.ask.content_type.as_bytes();
            let length = (name.len() as u16).to_le_bytes();
            process.send(kind::PREDICT_JSON, id, &[&length, name, &job.ask.body]).await
        }
        (None, _) => Err(std::io::Error::other("jobs without columns share a call")),
    }
}

fn answer(job: Job, reply: Result<Reply, Fault>) {
    let _ = job.reply.send(reply);
}

/// The worker died while the model's code had the jobs. A job that was alone is held responsible.
fn lost(inner: &Inner, mut jobs: Vec<Job>, text: &'static str) {
    let again = inner.is_idempotent();
    if let [job] = jobs.as_mut_slice() {
        job.deaths += 1;
        inner.poison.note(job.ask.fingerprint());
    }
    let (back, done): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| again && job.deaths < 2);
    for job in done {
        answer(job, Err(crashed(text)));
    }
    apart(inner, back);
}

/// Each for itself from now on.
fn apart(inner: &Inner, mut jobs: Vec<Job>) {
    for job in &mut jobs {
        job.alone = true;
    }
    inner.queue.put_back(jobs);
}

fn garbage(jobs: Vec<Job>) -> Broken {
    for job in jobs {
        let text = "the model's worker sent something that is not an answer";
        answer(job, Err(Fault::worker(code::WORKER_PROTOCOL, Retry::NextTarget, text)));
    }
    "the worker sent something that is not an answer".to_owned()
}

#[derive(Deserialize)]
pub(super) struct ErrorDetail {
    pub(super) class: String,
    status: u16,
    #[serde(rename = "type", default)]
    pub(super) exception: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    place: Option<String>,
}

fn settle(inner: &Inner, mut jobs: Vec<Job>, frame: &Frame) -> Result<(), Broken> {
    match (frame.kind, jobs.len()) {
        (kind::RESULT_JSON, 1) => {
            for job in jobs {
                answer(job, Ok(Reply::Answer(frame.payload.clone())));
            }
            Ok(())
        }
        (kind::RESULT_ARRAY, _) => match array(&frame.payload) {
            Some(array) => {
                share(inner, jobs, array);
                Ok(())
            }
            None => Err(garbage(jobs)),
        },
        (kind::RESULT_PARTS, count) => match parts(&frame.payload, count) {
            Some(parts) => {
                for (job, part) in jobs.into_iter().zip(parts) {
                    answer(job, Ok(Reply::Answer(part)));
                }
                Ok(())
            }
            None => Err(garbage(jobs)),
        },
        (kind::ERROR, count) => {
            let Ok(detail) = serde_json::from_slice::<ErrorDetail>(&frame.payload) else {
                return Err(garbage(jobs));
            };
            if count > 1 {
                if detail.class == "batch" && detail.exception == "length" {
                    inner.stop_batching(LENGTH);
                }
                // One bad row fails the whole call in Python: each is asked again by itself, once.
                apart(inner, jobs);
            } else if let Some(job) = jobs.pop() {
                answer(
                    job,
                    Ok(Reply::Error {
                        status: detail.status,
                        user: detail.class == "user",
                        class: detail.exception,
                        body: without_trace(detail.body),
                        place: detail.place,
                    }),
                );
            }
            Ok(())
        }
        _ => Err(garbage(jobs)),
    }
}

/// `u8 type | u32 numbers per row, 0 where a row is a bare number | numbers`
fn array(payload: &Bytes) -> Option<Array> {
    let (head, _) = payload.split_first_chunk::<5>()?;
    let dtype = match head[0] {
        0 => Dtype::Long,
        1 => Dtype::Float,
        2 => Dtype::Double,
        _ => return None,
    };
    let width = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    Array::new(dtype, (width > 0).then_some(width), payload.slice(5..))
}

/// Gives each job its rows.
fn share(inner: &Inner, jobs: Vec<Job>, array: Array) {
    let rows = |job: &Job| job.ask.columns.as_ref().map_or(array.rows(), |columns| columns.rows as usize);
    let wanted: usize = jobs.iter().map(rows).sum();
    if jobs.len() > 1 && wanted != array.rows() {
        inner.stop_batching(LENGTH);
        return apart(inner, jobs);
    }
    let mut start = 0;
    let single = jobs.len() == 1;
    let mut shares = Vec::with_capacity(jobs.len());
    for job in jobs {
        let end = if single { array.rows() } else { start + rows(&job) };
        shares.push((job, start..end));
        start = end;
    }
    let large = array.size() > LARGE_ARRAY;
    let write = move || {
        for (job, rows) in shares {
            let reply = match array.to_json(rows) {
                Ok(text) => Reply::Answer(text.into()),
                Err((row, column)) => not_a_number(row, column),
            };
            answer(job, Ok(reply));
        }
    };
    if large {
        // The worker need not wait for it either.
        tokio::task::spawn_blocking(write);
    } else {
        write();
    }
}

fn not_a_number(row: usize, column: Option<usize>) -> Reply {
    let column = column.map_or(String::new(), |column| format!(", column {column}"));
    let (class, body, place) = (String::new(), String::new(), Some(format!("row {row}{column}")));
    Reply::Error { status: 500, user: false, class, body, place }
}

/// `u32 length of each | texts`
fn parts(payload: &Bytes, count: usize) -> Option<Vec<Bytes>> {
    let mut at = count.checked_mul(4)?;
    let lengths = payload.get(..at)?;
    let mut parts = Vec::with_capacity(count);
    for length in lengths.as_chunks::<4>().0 {
        let end = at.checked_add(u32::from_le_bytes(*length) as usize)?;
        payload.get(at..end)?;
        parts.push(payload.slice(at..end));
        at = end;
    }
    (at == payload.len()).then_some(parts)
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

    #[test]
    fn forged_lengths_are_no_answer() {
        let payload = |lengths: &[u32], text: &[u8]| {
            let mut bytes: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
            bytes.extend(text);
            Bytes::from(bytes)
        };
        assert_eq!(parts(&payload(&[1, 2], b"abc"), 2).unwrap(), [&b"a"[..], &b"bc"[..]]);
        assert!(parts(&payload(&[1, 3], b"abc"), 2).is_none());
        assert!(parts(&payload(&[1, 1], b"abc"), 2).is_none());
        assert!(parts(&payload(&[u32::MAX], b"abc"), 1).is_none());
        assert!(parts(&payload(&[1], b""), 2).is_none());
        assert!(array(&Bytes::from_static(b"\x02\x00\x00")).is_none());
        assert!(array(&Bytes::from_static(b"\x09\x00\x00\x00\x00")).is_none());
        assert!(array(&Bytes::from_static(b"\x02\xff\xff\xff\xff12345678")).is_none());
    }
}
