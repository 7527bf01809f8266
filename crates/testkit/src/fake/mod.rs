//! The fake provider: an OpenAI, Anthropic, Google and Bedrock server on loopback. The model's name says how it behaves, so a
//! test drives it through the gateway without any other channel.
//!
//! | model | behaviour |
//! |---|---|
//! | `ok` and every other name | a short answer, whole or streamed |
//! | `chunks-N-Dms` | a stream of N content chunks, D ms apart |
//! | `tool`, `parallel`, `reasoning`, `json` | an answer with a tool call; with two; with reasoning; whose text is JSON |
//! | `length` | an answer that ends at its bound |
//! | `status-NNN`, `status-NNN-retry-S` | that status with the dialect's error body, and `Retry-After: S` |
//! | `html-NNN` | that status with an HTML page |
//! | `error-200` | an error body under 200 |
//! | `reset`, `hang`, `slow-head-Dms` | the connection is reset; nothing ever comes; it comes late |
//! | `cut-stream` | the body breaks off (whole answers too) |
//! | `error-in-stream`, `error-first` | an error event after, or before, the first content |
//! | `error-in-stream-Dms` | D ms after it |
//! | `empty-stream`, `no-done`, `bad-json` | no events; no end marker; damaged JSON |
//! | `redirect`, `huge` | 302 to `/__stolen`; an answer of 8 MiB |
//! | `lie-...` | see `lies.rs` |
//! | `left-N-of-M-Ss`, `tokens-N-of-M-Ss` | a whole answer that says N of M calls, or tokens, are left, and S seconds to the reset |
//!
//! A key `as-BEHAVIOUR`, or `as-BEHAVIOUR~anything`, has every model behave like that, and [`FakeProvider::behave`] does from outside.
//!
//! Of a name with `@`, what stands behind the last one counts: `claude-sonnet-4-5@tool`. Segments of the path say
//! which vendor is played, where vendors differ: `/mistral/`, `/voyage/`, `/v2/rerank` (Cohere), and
//! `/thinks-in-reasoning/`, `/thinks-in-details/`, `/thinks-in-content/` for where thinking stands in OpenAI's API, `/always-counts/` for usage in
//! streams that nobody asked for.
//!
//! Paths that end in `/token` are token endpoints. Tokens are numbered, `token-1` being the first; a segment of the
//! path says how the endpoint behaves: `lives-N` (seconds), `slow-Dms`, `status-NNN`, `fails-N` (the first N times),
//! `html`.
//! Files, images and audio have no model; there the path tells.

mod anthropic;
mod bedrock;
mod behaviour;
mod bodies;
mod cohere;
mod lies;
mod native;
mod ollama;
mod openai;
mod operations;
mod other;
mod server;
mod token;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Requests that are kept.
const KEPT: usize = 1000;

/// A request as it came.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// The method.
    pub method: String,
    /// The request target.
    pub path: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
}

impl Recorded {
    /// The first value of a header, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `null` when it is not.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// What is remembered.
#[derive(Debug, Default)]
struct Kept {
    requests: Mutex<VecDeque<Recorded>>,
    seen: AtomicUsize,
    behaviour: Mutex<Option<String>>,
    gone: Mutex<Vec<Instant>>,
}

/// The last requests; `None`: nothing is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Option<Arc<Kept>>);

impl Log {
    fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, VecDeque<Recorded>>> {
        self.0.as_ref().map(|kept| kept.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A client closed its connection before its answer was whole.
    pub(crate) fn note_gone(&self) {
        if let Some(kept) = &self.0 {
            kept.gone.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        }
    }

    /// What every model does, whatever its name.
    pub(crate) fn behaviour(&self) -> Option<String> {
        let kept = self.0.as_ref()?;
        kept.behaviour.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn push(&self, request: Recorded) {
        if let Some(kept) = &self.0 {
            kept.seen.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(mut log) = self.lock() {
            if log.len() == KEPT {
                log.pop_front();
            }
            log.push_back(request);
        }
    }
}

/// Serves on `listener` until the future is dropped. Without `record` requests are not kept, for benchmarks.
pub async fn serve(listener: TcpListener, record: bool) {
    server::run(listener, if record { Log::kept() } else { Log::default() }).await;
}

/// A fake provider on a thread of its own; stopped when dropped.
pub struct FakeProvider {
    address: SocketAddr,
    log: Log,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeProvider {
    /// Starts on a free port of loopback.
    pub fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let log = Log::kept();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kept = log.clone();
        let thread = std::thread::Builder::new().name("fake-provider".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = server::run(listener, kept) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, log, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base address of its OpenAI and Anthropic APIs.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.log.lock().map(|log| log.iter().cloned().collect()).unwrap_or_default()
    }

    /// How many requests there were, since it began.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.log.0.as_ref().map_or(0, |kept| kept.seen.load(Ordering::Relaxed))
    }

    /// Has every model behave like the one of that name from now on; `None`: like their own names.
    pub fn behave(&self, behaviour: Option<&str>) {
        if let Some(kept) = &self.log.0 {
            *kept.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour.map(str::to_owned);
        }
    }

    /// The last request.
    ///
    /// # Panics
    /// When there was none.
    #[must_use]
    pub fn last(&self) -> Recorded {
        self.requests().pop().expect("the provider was called")
    }

    /// How many answers their clients went away from.
    #[must_use]
    pub fn left(&self) -> usize {
        let kept = self.log.0.as_ref();
        kept.map_or(0, |kept| kept.gone.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        if let Some(mut log) = self.log.lock() {
            log.clear();
        }
    }

    /// Waits until `count` clients have gone before their answer was whole; when the last of them did. `None` after
    /// five seconds without.
    pub async fn wait_for_gone(&self, count: usize) -> Option<Instant> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let gone =
                self.log.0.as_ref().map(|kept| kept.gone.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(at) = gone.and_then(|gone| gone.get(count - 1).copied()) {
                return Some(at);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        None
    }

    /// Waits until `count` requests have come; false after five seconds without.
    pub async fn wait_for(&self, count: usize) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if self.log.lock().is_some_and(|log| log.len() >= count) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
