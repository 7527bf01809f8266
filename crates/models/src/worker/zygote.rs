//! The zygote of a pool: a Python that imported what the model's flavour needs and forks workers from itself. It is
//! started as a worker is, with the same user and the same rights, so a fork can do no more than a spawned worker can.
//! Whatever goes wrong here, a worker is spawned instead.

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Pid;
use serde::Deserialize;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{oneshot, watch};

use super::exec::{devices, readable};
use super::frame::{self, kind};
use super::process::{Lines, Plan, drain, write_source};
use crate::artifacts::{private_dir, private_temp};

/// Troubles after which a pool spawns all its workers.
const TROUBLES: u32 = 3;
/// The largest frame a zygote sends.
const FRAME_LIMIT: usize = 1 << 16;
/// Time for a fork.
const FORK: Duration = Duration::from_secs(10);

/// How a forked worker ended.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Ended {
    #[serde(default)]
    pub(super) code: Option<i32>,
    #[serde(default)]
    pub(super) signal: Option<i32>,
}

/// A forked worker's life, as its zygote tells it. The number stays the worker's until this is dropped.
pub(super) struct Forked {
    pub(super) pid: Pid,
    pub(super) ended: watch::Receiver<Option<Ended>>,
    link: Arc<Link>,
}

impl Drop for Forked {
    fn drop(&mut self) {
        let pid = self.pid.as_raw_nonzero().get();
        self.link.workers().remove(&pid);
        // A zygote that cannot take it is gone, and its workers with it.
        let _ = self.link.bury(pid);
    }
}

/// Our end of the socket, and what is waited for.
struct Link {
    socket: StdUnixStream,
    workers: Mutex<HashMap<i32, watch::Sender<Option<Ended>>>>,
    /// The fork that is waited for, by its number.
    forking: Mutex<Option<(u64, oneshot::Sender<Forking>)>>,
    forks: AtomicU64,
}

type Forking = (i32, watch::Receiver<Option<Ended>>);

impl Link {
    fn workers(&self) -> std::sync::MutexGuard<'_, HashMap<i32, watch::Sender<Option<Ended>>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the worker, if it lives, and frees its number.
    fn bury(&self, pid: i32) -> std::io::Result<()> {
        self.send(kind::REAP, 0, format!("{{\"pid\": {pid}}}").as_bytes(), &[])
    }

    /// Frames to a zygote are small: the socket takes one whole, or the zygote is stuck.
    fn send(&self, kind: u8, id: u64, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let frame = frame::small(kind, id, payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(std::io::Error::other("too many descriptors"));
        }
        let sent = sendmsg(&self.socket, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?;
        if sent == frame.len() { Ok(()) } else { Err(std::io::Error::other("the zygote takes nothing")) }
    }
}

/// A running zygote. Its workers die with it.
struct Zygote {
    child: Child,
    link: Arc<Link>,
    private: tempfile::TempDir,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
    }
}

/// Where a pool's workers come from.
#[derive(Default)]
pub(super) struct Nursery {
    zygote: tokio::sync::Mutex<Option<Zygote>>,
    troubles: AtomicU32,
}

impl Nursery {
    /// A worker forked from the zygote, which is started if there is none; its private folder. `None`: spawn one.
    pub(super) async fn fork(
        &self,
        plan: &Plan,
        descriptors: &[OwnedFd; 3],
    ) -> Option<(Forked, tempfile::TempDir)> {
        if !plan.zygote || self.troubles.load(Ordering::Relaxed) >= TROUBLES {
            return None;
        }
        let mut slot = self.zygote.lock().await;
        if slot.as_mut().is_some_and(|zygote| !matches!(zygote.child.try_wait(), Ok(None))) {
            *slot = None;
        }
        let forked = async {
            if slot.is_none() {
                *slot = Some(Zygote::start(plan).await?);
            }
            let zygote = slot.as_ref().ok_or("it is gone")?;
            zygote.fork(plan, descriptors).await
        };
        match forked.await {
            Ok(forked) => Some(forked),
            Err(reason) => {
                // Its workers die with it, so it stays while it has any.
                if slot.as_ref().is_some_and(|zygote| zygote.link.workers().is_empty()) {
                    *slot = None;
                }
                let troubles = self.troubles.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(endpoint = %plan.label, reason, troubles, "a worker is started without its zygote");
                None
            }
        }
    }
}

impl Zygote {
    async fn start(plan: &Plan) -> Result<Self, String> {
        let io = |error: std::io::Error| format!("it cannot be started: {}", error.kind());
        private_dir(&plan.run_dir).map_err(io)?;
        let private = private_temp("zygote-", &plan.run_dir).map_err(io)?;
        let source = write_source(plan, private.path()).map_err(io)?;
        let (ours, theirs) = StdUnixStream::pair().map_err(io)?;
        ours.set_nonblocking(true).map_err(io)?;
        let mut command = plan.command(private.path(), &source, &["zygote"]).map_err(io)?;
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(io)?;
        let lines = Lines::default();
        if let Some(out) = child.stdout.take() {
            tokio::spawn(drain(out, plan.label.clone(), lines.clone()));
        }
        if let Some(out) = child.stderr.take() {
            tokio::spawn(drain(out, plan.label.clone(), lines));
        }
        let socket = ours.try_clone().map_err(io)?;
        let link = Arc::new(Link {
            socket,
            workers: Mutex::default(),
            forking: Mutex::default(),
            forks: AtomicU64::new(0),
        });
        let mut reader = BufReader::new(UnixStream::from_std(ours).map_err(io)?);
        let imports = serde_json::json!({ "imports": plan.imports }).to_string();
        link.send(kind::LOAD, 0, imports.as_bytes(), &[]).map_err(io)?;
        let greeted = async {
            loop {
                match frame::read(&mut reader, FRAME_LIMIT).await {
                    Ok(frame) if frame.kind == kind::HELLO => {}
                    Ok(frame) if frame.kind == kind::READY => return Ok(()),
                    Ok(frame) => return Err(String::from_utf8_lossy(&frame.payload).into_owned()),
                    Err(_) => return Err("it ended at its start".to_owned()),
                }
            }
        };
        tokio::time::timeout(plan.load_timeout, greeted).await.map_err(|_| "it is not ready in time")??;
        tokio::spawn(listen(reader, link.clone()));
        Ok(Self { child, link, private })
    }

    async fn fork(
        &self,
        plan: &Plan,
        descriptors: &[OwnedFd; 3],
    ) -> Result<(Forked, tempfile::TempDir), String> {
        let io = |error: std::io::Error| format!("it does not fork: {}", error.kind());
        let private = private_temp("worker-", self.private.path()).map_err(io)?;
        if let Some(user) = &plan.user {
            user.give(private.path()).map_err(io)?;
        }
        let places: Vec<PathBuf> = readable(&plan.readable, plan.network_allowed);
        let asked = serde_json::json!({ "private": private.path(), "readable": places, "devices": devices(plan.device.is_some()) });
        let (told, tell) = oneshot::channel();
        let id = self.link.forks.fetch_add(1, Ordering::Relaxed);
        *self.link.forking.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, told));
        let borrowed = descriptors.each_ref().map(|descriptor| descriptor.as_fd());
        self.link.send(kind::FORK, id, asked.to_string().as_bytes(), &borrowed).map_err(io)?;
        match tokio::time::timeout(FORK, tell).await {
            Ok(Ok((pid, ended))) => {
                let pid = Pid::from_raw(pid.max(0)).ok_or("no process is left for another worker")?;
                Ok((Forked { pid, ended, link: self.link.clone() }, private))
            }
            _ => Err("it does not fork".to_owned()),
        }
    }
}

#[derive(Deserialize)]
struct Told {
    pid: i32,
    #[serde(flatten)]
    ended: Ended,
}

/// Hands on what the zygote tells, until it is gone; then its workers are gone too.
async fn listen(mut reader: BufReader<UnixStream>, link: Arc<Link>) {
    while let Ok(frame) = frame::read(&mut reader, FRAME_LIMIT).await {
        let Ok(told) = serde_json::from_slice::<Told>(&frame.payload) else { break };
        if frame.kind == kind::FORKED {
            let waiting = link.forking.lock().unwrap_or_else(PoisonError::into_inner).take();
            match waiting {
                Some((id, waiting)) if id == frame.id => {
                    let (sender, receiver) = watch::channel(None);
                    if told.pid > 0 {
                        link.workers().insert(told.pid, sender);
                    }
                    let _ = waiting.send((told.pid, receiver));
                }
                // Nobody waits for it any more; its socket is closed already.
                waiting => {
                    *link.forking.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
                    let _ = link.bury(told.pid);
                }
            }
        } else if let Some(worker) = link.workers().get(&told.pid) {
            worker.send_replace(Some(told.ended));
        }
    }
    link.forking.lock().unwrap_or_else(PoisonError::into_inner).take();
    for (_, worker) in link.workers().drain() {
        worker.send_replace(Some(Ended::default()));
    }
}
