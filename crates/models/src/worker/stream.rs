//! Answers that come piece by piece. The worker's pieces go to one caller through a short channel: a caller that reads
//! slowly makes the worker wait, and one that leaves makes it stop.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use millgate_types::{Fault, Retry, Source, code};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::call::{Broken, ErrorDetail, MEMORY_EVERY, over_memory};
use super::frame::{self, Frame, kind};
use super::process::Process;
use super::queue::{Job, Reply};
use super::{Inner, crashed, timed_out};

/// Pieces that may wait for a caller.
const WAITING: usize = 8;
/// The largest piece, in bytes: no reader of streams takes more.
const PIECE: usize = 1 << 20;

/// How a chat model is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChatAsk {
    /// Piece by piece, where the model can.
    pub(crate) stream: bool,
    /// Longest wait for the next piece, and for the caller to take one.
    pub(crate) patience: Duration,
    /// When the whole answer must be there.
    pub(crate) end: std::time::Instant,
}

/// The model's own refusal or failure. Only the exception's class is told: its text may hold the caller's data, or the
/// model's.
pub(crate) fn refusal(user: bool, class: &str) -> Fault {
    let class = if class.is_empty() { String::new() } else { format!(" ({class})") };
    if user {
        let text = format!("the model refused the input{class}");
        Fault::new(code::MODEL_REJECTED_INPUT, Source::Worker, Retry::Never, text)
    } else {
        Fault::worker(code::MODEL_FAILED, Retry::NextTarget, format!("the model failed{class}"))
    }
}

fn garbage() -> Fault {
    let text = "the model's worker sent something that is not an answer";
    Fault::worker(code::WORKER_PROTOCOL, Retry::NextTarget, text)
}

/// Hands on a stream whose first piece is there. An error says that the worker must be replaced.
pub(super) async fn hand_on(
    inner: &Inner,
    process: &mut Process,
    job: Job,
    first: Frame,
) -> Result<(), Broken> {
    let id = first.id;
    let (patience, end) = match &job.ask.chat {
        Some(chat) => (chat.patience, Instant::from_std(chat.end)),
        None => (Duration::ZERO, Instant::now()),
    };
    let (pieces, taken) = mpsc::channel(WAITING);
    let _ = job.reply.send(Ok(Reply::Stream(taken)));
    let mut caller = Caller { pieces, gone: false };
    let pid = process.pid();
    let limit = inner.plan.memory_limit;
    let mut memory = tokio::time::interval(MEMORY_EVERY);
    let (reader, writer) = process.halves();
    let mut cancelled = false;
    let mut frame = first;
    loop {
        match frame.kind {
            kind::ITEM if frame.id == id => caller.give(Ok(frame.payload), patience.min(left(end))).await,
            kind::DONE if frame.id == id => return Ok(()),
            kind::ERROR if frame.id == id => {
                let Ok(detail) = serde_json::from_slice::<ErrorDetail>(&frame.payload) else {
                    caller.give(Err(garbage()), patience).await;
                    return Err("the worker sent something that is not an answer".to_owned());
                };
                caller.give(Err(refusal(detail.class == "user", &detail.exception)), patience).await;
                return Ok(());
            }
            _ => {
                caller.give(Err(garbage()), patience).await;
                return Err("the worker sent something that is not an answer".to_owned());
            }
        }
        let mut next = pin!(frame::read(reader, PIECE));
        let mut until = (Instant::now() + patience).min(end);
        frame = loop {
            if caller.gone && !cancelled {
                cancelled = true;
                // What is still in work may take as long as a piece may.
                until = Instant::now() + patience;
                if frame::write(writer, kind::CANCEL, id, &[]).await.is_err() {
                    return Err("the worker died during a stream".to_owned());
                }
            }
            tokio::select! {
                biased;
                read = &mut next => match read {
                    Ok(frame) => break frame,
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                        caller.give(Err(garbage()), patience).await;
                        return Err("the worker sent something that is not an answer".to_owned());
                    }
                    Err(_) => {
                        caller.give(Err(crashed("the model's worker died on this request")), patience).await;
                        return Err("the worker died during a stream".to_owned());
                    }
                },
                () = caller.pieces.closed(), if !cancelled => caller.gone = true,
                _ = memory.tick(), if limit.is_some() => if over_memory(limit, pid).is_err() {
                    let text = "the model's worker used more memory than it may";
                    caller.give(Err(crashed(text)), patience).await;
                    return Err("the worker used more memory than it may".to_owned());
                },
                () = tokio::time::sleep_until(until) => {
                    caller.give(Err(timed_out()), patience).await;
                    return Err("the worker missed a deadline".to_owned());
                }
            }
        };
    }
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// Who reads the stream.
struct Caller {
    pieces: mpsc::Sender<Result<Bytes, Fault>>,
    /// It left, or it takes nothing any more.
    gone: bool,
}

impl Caller {
    async fn give(&mut self, piece: Result<Bytes, Fault>, patience: Duration) {
        if !self.gone {
            let given = tokio::time::timeout(patience, self.pieces.send(piece)).await;
            self.gone = !matches!(given, Ok(Ok(())));
        }
    }
}
