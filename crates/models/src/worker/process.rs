//! One worker process: started through the launcher, spoken to in frames, ended with its whole group.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use super::exec::{self, Launch};
use super::frame::{self, Frame, kind};
use super::user::User;
use super::zygote::{Ended, Forked, Nursery};
use super::{Batching, Bounds};
use crate::artifacts::{private_dir, private_temp};
use crate::chat::ChatForm;

/// The worker's source, written into its private folder at each start.
const SOURCE: &str = concat!(
    include_str!("python/wire.py"),
    include_str!("python/columns.py"),
    include_str!("python/model.py"),
    include_str!("python/chat.py"),
    include_str!("python/zygote.py"),
    include_str!("python/main.py"),
);
/// Lines kept for start-up failures.
const KEPT_LINES: usize = 20;
/// Lines a second that go to our log; the rest is dropped, and counted.
const LINES_A_SECOND: u32 = 20;
/// The largest answer, in bytes.
const ANSWER_LIMIT: usize = 256 << 20;

/// What every worker of a pool is started with.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) launcher: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) model: PathBuf,
    /// Answers that are not JSON (`NaN`) are an error.
    pub(crate) strict: bool,
    /// How a chat model is asked, where it serves chats.
    pub(crate) chat: Option<ChatForm>,
    /// Private folders are made here.
    pub(crate) run_dir: PathBuf,
    /// Folders the worker may read beside the system's.
    pub(crate) readable: Vec<PathBuf>,
    pub(crate) network_allowed: bool,
    pub(crate) memory_limit: Option<u64>,
    /// A worker that grew over this is replaced between two calls.
    pub(crate) max_rss: Option<u64>,
    /// Threads of its numeric libraries.
    pub(crate) threads: u32,
    /// `cuda` or `cuda:N` for a GPU.
    pub(crate) device: Option<Arc<str>>,
    /// Cores that all of them together may use.
    pub(crate) cpus: Option<usize>,
    pub(crate) instances: Bounds,
    pub(crate) batching: Batching,
    /// Whether a request may be tried again after it reached the model's code; `None`: where the flavour only computes.
    pub(crate) idempotent: Option<bool>,
    pub(crate) isolation_required: bool,
    /// The user that the workers run as, when it is not ours.
    pub(crate) user: Option<Arc<User>>,
    /// Processes and threads that user may have.
    pub(crate) processes: u64,
    /// Workers are forked from a zygote.
    pub(crate) zygote: bool,
    /// What a zygote imports.
    pub(crate) imports: Vec<&'static str>,
    pub(crate) load_timeout: Duration,
    pub(crate) kill_after: Duration,
    /// For log lines.
    pub(crate) label: Arc<str>,
}

/// Where on the machine's cores a model's share begins: anywhere, but always there.
fn spread(label: &str) -> usize {
    label.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

impl Plan {
    /// The launcher's argument.
    fn launch(&self, private: &Path, args: Vec<String>) -> std::io::Result<String> {
        let launch = Launch {
            program: self.python.clone(),
            args,
            private: private.to_owned(),
            writable: Vec::new(),
            readable: self.readable.clone(),
            network_allowed: self.network_allowed,
            memory_limit: self.memory_limit,
            user: self.user.as_ref().map(|user| user.id()),
            processes: Some(self.processes),
            descriptors: 256,
            threads: self.threads,
            device: self.device.as_deref().map(str::to_owned),
            cores: self.cpus.map(|count| (count, spread(&self.label))),
            keep_environment: false,
            required: self.isolation_required,
        };
        serde_json::to_string(&launch).map_err(std::io::Error::other)
    }

    /// The command that becomes a Python with our source, confined.
    pub(super) fn command(&self, private: &Path, source: &Path, more: &[&str]) -> std::io::Result<Command> {
        let mut args: Vec<String> = ["-I", "-X", "faulthandler"].map(str::to_owned).into();
        args.push(source.display().to_string());
        args.extend(more.iter().map(|&word| word.to_owned()));
        self.confined(private, args)
    }

    /// The launcher, which confines itself and becomes the interpreter with `args`.
    pub(super) fn confined(&self, private: &Path, args: Vec<String>) -> std::io::Result<Command> {
        let mut command = Command::new(&self.launcher);
        command
            .arg("worker-exec")
            .arg(self.launch(private, args)?)
            .env_clear()
            .envs(exec::kernels())
            .current_dir(private)
            .kill_on_drop(true);
        Ok(command)
    }

    /// Whether a worker's user can read the interpreter, its packages and the model: seen by trying, as the worker
    /// will be started.
    pub(crate) async fn try_user(&self) -> Result<(), String> {
        let Some(user) = &self.user else { return Ok(()) };
        let io = |error: std::io::Error| format!("the private folder: {}", error.kind());
        let private = private_temp("try-", &self.run_dir).map_err(io)?;
        user.give(private.path()).map_err(io)?;
        let args = ["-I", "-c", TRY].map(str::to_owned).into_iter().chain([self.model.display().to_string()]);
        let output = self.confined(private.path(), args.collect()).map_err(io)?.stdin(Stdio::null()).output();
        match tokio::time::timeout(self.load_timeout, output).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let text = String::from_utf8_lossy(&output.stderr);
                Err(clean(text.lines().last().unwrap_or("no reason was given"), self))
            }
            _ => Err("the interpreter does not answer".to_owned()),
        }
    }
}

/// Reads one file of each kind; imports nothing of the model's.
const TRY: &str = "import sys,os,importlib.util as u
open(os.path.join(sys.argv[1],'MLmodel')).close()
s=u.find_spec('mlflow')
if s and s.origin: open(s.origin).close()";

pub(super) type Lines = Arc<Mutex<VecDeque<String>>>;

/// A running worker with its model loaded.
pub(crate) struct Process {
    body: Body,
    pid: Option<Pid>,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    lines: Lines,
    /// Removed when the process is gone.
    _private: tempfile::TempDir,
}

/// How it came to be, which is how we learn of its end.
enum Body {
    Spawned(Child),
    Forked(Forked),
}

impl Body {
    /// Waits for the end: exit status or signal, where they are known.
    async fn ended(&mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt as _;
        match self {
            Self::Spawned(child) => match child.wait().await {
                Ok(status) => Ended { code: status.code(), signal: status.signal() },
                Err(_) => Ended::default(),
            },
            Self::Forked(forked) => {
                forked.ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended).unwrap_or_default()
            }
        }
    }
}

/// What a worker says of itself when the model is loaded.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Facts {
    /// The version of its MLflow.
    pub(crate) mlflow: Option<String>,
    /// The flavour is one whose rows do not depend on each other, and whose code only computes.
    pub(crate) rowwise: bool,
    /// It takes checked columns.
    pub(crate) columns: bool,
    /// It calls the flavour's own wrapper, without MLflow's second check.
    pub(crate) direct: bool,
    /// Why it takes no columns.
    pub(crate) why: Option<String>,
    /// A chat model that answers piece by piece.
    pub(crate) streams: bool,
}

#[derive(Deserialize)]
struct Failed {
    #[serde(rename = "type")]
    class: String,
    message: String,
}

impl Process {
    /// Starts a worker and loads the model. The error says what happened, without paths of ours.
    pub(crate) async fn start(plan: &Plan, nursery: &Nursery) -> Result<(Self, Facts), String> {
        let mut process = Self::begin(plan, nursery)
            .await
            .map_err(|error| format!("the worker cannot be started: {error}"))?;
        let loaded = tokio::time::timeout(plan.load_timeout, process.load(plan)).await;
        match loaded {
            Ok(Ok(facts)) => Ok((process, facts)),
            Ok(Err(reason)) => Err(clean(&reason, plan)),
            Err(_) => Err(format!("the model was not loaded within {} s", plan.load_timeout.as_secs())),
        }
    }

    /// Forks it, or spawns it where that cannot be.
    async fn begin(plan: &Plan, nursery: &Nursery) -> std::io::Result<Self> {
        private_dir(&plan.run_dir)?;
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let lines = Lines::default();
        let ends = [OwnedFd::from(theirs), Self::listen(plan, &lines)?, Self::listen(plan, &lines)?];
        let (body, private) = match nursery.fork(plan, &ends).await {
            Some((forked, private)) => (Body::Forked(forked), private),
            None => Self::spawn(plan, ends)?,
        };
        let pid = match &body {
            Body::Spawned(child) => child.id().and_then(|id| Pid::from_raw(id as i32)),
            Body::Forked(forked) => Some(forked.pid),
        };
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        let reader = BufReader::with_capacity(1 << 16, reader);
        Ok(Self { body, pid, reader, writer, lines, _private: private })
    }

    /// The end of a pipe whose other end is drained.
    fn listen(plan: &Plan, lines: &Lines) -> std::io::Result<OwnedFd> {
        let (end, out) = tokio::net::unix::pipe::pipe()?;
        tokio::spawn(drain(out, plan.label.clone(), lines.clone()));
        end.into_blocking_fd()
    }

    fn spawn(plan: &Plan, [socket, out, err]: [OwnedFd; 3]) -> std::io::Result<(Body, tempfile::TempDir)> {
        let private = private_temp("worker-", &plan.run_dir)?;
        let source = write_source(plan, private.path())?;
        let child =
            plan.command(private.path(), &source, &[])?.stdin(socket).stdout(out).stderr(err).spawn()?;
        Ok((Body::Spawned(child), private))
    }

    async fn load(&mut self, plan: &Plan) -> Result<Facts, String> {
        let hello = self.receive().await;
        if !matches!(&hello, Ok(frame) if frame.kind == kind::HELLO) {
            return Err(self.epitaph("the worker did not start").await);
        }
        // What MLflow answers itself is never given as columns; of a flavour that is not known, only where it is asked for.
        let columns = plan.strict && plan.batching.wanted == Some(true);
        let chat = plan.chat.map(ChatForm::word);
        let asked = serde_json::json!({ "model": plan.model, "strict": plan.strict, "columns": columns, "chat": chat });
        let asked = asked.to_string();
        let sent = frame::write(&mut self.writer, kind::LOAD, 0, &[asked.as_bytes()]).await;
        if sent.is_err() {
            return Err(self.epitaph("the worker died at its start").await);
        }
        match self.receive().await {
            Ok(frame) if frame.kind == kind::READY => {
                Ok(serde_json::from_slice(&frame.payload).unwrap_or_default())
            }
            Ok(frame) if frame.kind == kind::FAILED => {
                let failed: Result<Failed, _> = serde_json::from_slice(&frame.payload);
                Err(match failed {
                    Ok(Failed { class, message }) => format!("loading the model raised {class}: {message}"),
                    Err(_) => "loading the model failed".to_owned(),
                })
            }
            Ok(_) => {
                Err("the worker sent something that is not an answer while it loaded the model".to_owned())
            }
            Err(_) => Err(self.epitaph("the worker died while it loaded the model").await),
        }
    }

    pub(crate) async fn receive(&mut self) -> std::io::Result<Frame> {
        frame::read(&mut self.reader, ANSWER_LIMIT).await
    }

    pub(crate) async fn send(&mut self, kind: u8, id: u64, parts: &[&[u8]]) -> std::io::Result<()> {
        frame::write(&mut self.writer, kind, id, parts).await
    }

    /// Both directions, for who reads and writes at once.
    pub(super) fn halves(&mut self) -> (&mut BufReader<OwnedReadHalf>, &mut OwnedWriteHalf) {
        (&mut self.reader, &mut self.writer)
    }

    /// How the process ended, with the last line it wrote.
    pub(crate) async fn epitaph(&mut self, what: &str) -> String {
        use std::fmt::Write as _;
        let ended = tokio::time::timeout(Duration::from_secs(2), self.body.ended()).await;
        let mut text = what.to_owned();
        if let Ok(Ended { code, signal }) = ended {
            match (code, signal) {
                (Some(code), _) => {
                    let _ = write!(text, " (exit status {code})");
                }
                (None, Some(signal)) => {
                    let _ = write!(text, " (signal {signal})");
                }
                _ => {}
            }
        }
        // Its last words may still be in the pipe.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let last = self.lines.lock().unwrap_or_else(PoisonError::into_inner).back().cloned();
        if let Some(last) = last {
            text.push_str(": ");
            text.push_str(&last);
        }
        text
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self) {
        self.body.ended().await;
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Asks it to stop, waits a little, then ends the group.
    pub(crate) async fn stop(mut self, patience: Duration) {
        let _ = frame::write(&mut self.writer, kind::STOP, 0, &[]).await;
        let _ = tokio::time::timeout(patience, self.body.ended()).await;
        self.kill();
        // A forked one is buried by its zygote.
        let _ = tokio::time::timeout(patience, self.body.ended()).await;
    }

    fn kill(&mut self) {
        if let Some(pid) = self.pid.take() {
            // Everything the model started is in its session's group.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        if let Body::Spawned(child) = &mut self.body {
            let _ = child.start_kill();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The memory that is a process's own, in bytes: PSS, or what the kernel tells everybody when it does not let us look
/// (root without `CAP_SYS_PTRACE` at another user's process).
pub(crate) fn memory(pid: Option<Pid>) -> Option<u64> {
    let pid = pid?.as_raw_nonzero();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    if let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        return field(&text, "Pss:");
    }
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(field(&text, "RssAnon:")? + field(&text, "RssShmem:").unwrap_or(0))
}

/// Writes the worker's source into its folder, and gives the folder to the worker's user.
pub(super) fn write_source(plan: &Plan, private: &Path) -> std::io::Result<PathBuf> {
    let source = private.join("worker.py");
    std::fs::write(&source, SOURCE)?;
    if let Some(user) = &plan.user {
        std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o644))?;
        user.give(private)?;
    }
    Ok(source)
}

/// Takes our own folders out of a text that callers see, and keeps it short.
pub(super) fn clean(text: &str, plan: &Plan) -> String {
    let mut text = text.to_owned();
    let hide = |text: &mut String, path: &Path, word: &str| {
        if let Some(path) = path.to_str().filter(|path| path.len() > 1) {
            *text = text.replace(path, word);
        }
    };
    hide(&mut text, &plan.model, "<model>");
    hide(&mut text, &plan.run_dir, "<worker>");
    if let Some(environment) = plan.python.parent().and_then(Path::parent) {
        hide(&mut text, environment, "<environment>");
    }
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.chars().take(500).collect()
}

/// Reads what a worker writes to stdout or stderr, so that it never blocks on us.
pub(super) async fn drain(from: impl AsyncRead + Unpin, label: Arc<str>, lines: Lines) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    let mut window = tokio::time::Instant::now();
    let mut shown = 0_u32;
    let mut dropped = 0_u64;
    loop {
        line.clear();
        let mut limited = tokio::io::AsyncReadExt::take(&mut reader, 4096);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        if window.elapsed() >= Duration::from_secs(1) {
            if dropped > 0 {
                tracing::debug!(endpoint = %label, dropped, "lines of a worker were dropped");
            }
            (window, shown, dropped) = (tokio::time::Instant::now(), 0, 0);
        }
        if shown < LINES_A_SECOND {
            shown += 1;
            tracing::debug!(endpoint = %label, line = text, "worker wrote");
        } else {
            dropped += 1;
        }
        let mut kept = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text.chars().take(400).collect());
    }
}
