//! Python workers: a pool of processes for one model version. A worker makes one call at a time; what waits,
//! waits here, and shares the next call where the model's rows are independent.

mod call;
mod columns;
pub(crate) mod exec;
mod frame;
pub(crate) mod job;
mod load;
mod poison;
mod process;
mod queue;
mod scale;
mod slot;
mod stream;
pub(crate) mod user;
mod zygote;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use millgate_types::{Fault, Retry, code};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub(crate) use columns::Columns;
pub(crate) use process::{Facts, Plan};
pub(crate) use queue::{Ask, Reply};
use queue::{Job, Queue, Room};
pub(crate) use scale::Bounds;
pub(crate) use stream::{ChatAsk, refusal};

/// Deaths in a row after which callers are turned away at once instead of waiting.
const BREAKER: usize = 5;
/// Pause between two looks at the load.
const SCALE_EVERY: Duration = Duration::from_secs(1);

/// Which requests may share a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Batching {
    /// `None`: where the flavour's rows are independent and a check at load agrees.
    pub wanted: Option<bool>,
    /// The most rows of one call.
    pub max_rows: u32,
    /// The most bytes of input of one call.
    pub max_bytes: usize,
    /// How long a free worker waits for more requests. Zero: not at all.
    pub max_wait: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self { wanted: None, max_rows: 256, max_bytes: 4 << 20, max_wait: Duration::ZERO }
    }
}

/// The workers of one model version. Dropping it lets what was admitted finish, then stops them.
pub(crate) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Plan,
    queue: Queue,
    nursery: zygote::Nursery,
    /// Instances there should be.
    wanted: watch::Sender<usize>,
    ready: watch::Sender<usize>,
    meter: load::Meter,
    poison: poison::Poison,
    deaths_in_a_row: AtomicUsize,
    restarts: AtomicU64,
    recycled: AtomicU64,
    /// One worker at a time is replaced because it grew.
    recycling: AtomicBool,
    /// Calls of the model, and requests in them.
    calls: AtomicU64,
    asked: AtomicU64,
    failure: Mutex<Option<String>>,
    /// What the workers said of themselves when they were ready; all say the same.
    facts: Mutex<Facts>,
    batches: AtomicBool,
    /// Why requests share no calls.
    unbatched: Mutex<String>,
}

impl Inner {
    fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, facts: Facts) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// Whether a request may be tried again after it reached the model's code: said so, or a flavour that only computes.
    fn is_idempotent(&self) -> bool {
        self.plan.idempotent.unwrap_or_else(|| self.facts().rowwise)
    }

    /// How much a call may hold, where requests share calls.
    fn room(&self) -> Option<Room> {
        let batching = &self.plan.batching;
        let room = Room { rows: batching.max_rows, bytes: batching.max_bytes };
        self.batches.load(Ordering::Relaxed).then_some(room)
    }

    fn stop_batching(&self, why: &str) {
        let mut unbatched = self.unbatched.lock().unwrap_or_else(PoisonError::into_inner);
        if self.batches.swap(false, Ordering::Relaxed) {
            tracing::warn!(endpoint = %self.plan.label, why, "requests share no calls of this version any more");
        }
        why.clone_into(&mut unbatched);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner.queue.close();
        self.inner.wanted.send_modify(|_| {});
    }
}

impl Pool {
    /// Starts the first workers on `handle` and waits until all have the model loaded, or one could not. Requests share
    /// no calls until [`Pool::batch`]. `alive` is held by each instance until it is gone.
    pub(crate) async fn start(plan: Plan, handle: &Handle, alive: &mpsc::Sender<()>) -> Result<Self, String> {
        let bounds = plan.instances.clone();
        let at_first = bounds.min_now().max(1);
        let pool = Self {
            inner: Arc::new(Inner {
                plan,
                queue: Queue::default(),
                nursery: zygote::Nursery::default(),
                wanted: watch::Sender::new(at_first),
                ready: watch::Sender::new(0),
                meter: load::Meter::default(),
                poison: poison::Poison::default(),
                deaths_in_a_row: AtomicUsize::new(0),
                restarts: AtomicU64::new(0),
                recycled: AtomicU64::new(0),
                recycling: AtomicBool::new(false),
                calls: AtomicU64::new(0),
                asked: AtomicU64::new(0),
                failure: Mutex::new(None),
                facts: Mutex::default(),
                batches: AtomicBool::new(false),
                unbatched: Mutex::new("not decided yet".to_owned()),
            }),
        };
        let (first, mut firsts) = mpsc::channel(at_first);
        for index in 0..bounds.max.max(at_first) {
            let (inner, alive) = (pool.inner.clone(), alive.clone());
            let first = (index < at_first).then(|| first.clone());
            handle.spawn(async move {
                slot::run(inner, index, first).await;
                drop(alive);
            });
        }
        drop(first);
        while let Some(started) = firsts.recv().await {
            started?;
        }
        if !bounds.are_fixed() {
            handle.spawn(follow_load(Arc::downgrade(&pool.inner), bounds));
        }
        Ok(pool)
    }

    /// What the workers are able to do.
    pub(crate) fn facts(&self) -> Facts {
        self.inner.facts()
    }

    /// From now on requests share calls, or they do not, and why.
    pub(crate) fn batch(&self, decided: Result<(), String>) {
        match decided {
            Ok(()) => self.inner.batches.store(true, Ordering::Relaxed),
            Err(why) => self.inner.stop_batching(&why),
        }
    }

    /// For the status: whether requests share calls.
    pub(crate) fn batching(&self) -> String {
        match self.inner.room() {
            Some(room) => format!("on: up to {} rows", room.rows),
            None => format!("off: {}", self.inner.unbatched.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Deaths of workers since the pool began.
    pub(crate) fn restarts(&self) -> u64 {
        self.inner.restarts.load(Ordering::Relaxed)
    }

    /// Workers that were replaced because they grew.
    pub(crate) fn recycled(&self) -> u64 {
        self.inner.recycled.load(Ordering::Relaxed)
    }

    /// Calls of the model, and how many requests they held together.
    pub(crate) fn calls(&self) -> (u64, u64) {
        (self.inner.calls.load(Ordering::Relaxed), self.inner.asked.load(Ordering::Relaxed))
    }

    /// Workers that have the model loaded.
    pub(crate) fn ready(&self) -> usize {
        *self.inner.ready.borrow()
    }

    /// Instances that there should be.
    pub(crate) fn wanted(&self) -> usize {
        *self.inner.wanted.borrow()
    }

    /// Whether a request will be answered: by a worker, or by one that is started for it.
    pub(crate) fn can_answer(&self) -> bool {
        self.ready() > 0 || self.wanted() == 0
    }

    /// Whether workers die as often as they are started.
    pub(crate) fn is_broken(&self) -> bool {
        self.inner.deaths_in_a_row.load(Ordering::Relaxed) >= BREAKER && self.ready() == 0
    }

    /// Why the last worker could not start, while none is ready.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.can_answer() {
            return None;
        }
        self.inner.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One prediction. Faults: `overloaded`, `model_unavailable`, `worker_timeout`, `worker_crashed`,
    /// `worker_protocol`. May be awaited on any runtime that has timers.
    pub(crate) async fn predict(&self, ask: Ask, deadline: std::time::Instant) -> Result<Reply, Fault> {
        if self.is_broken() {
            let why = self.failure().unwrap_or_else(|| "its workers keep dying".to_owned());
            let text = format!("the model's workers are down: {why}");
            return Err(Fault::worker(code::MODEL_UNAVAILABLE, Retry::NextTarget, text)
                .with_retry_after(Duration::from_secs(5)));
        }
        if self.inner.poison.is_known(|| ask.fingerprint()) {
            return Err(crashed("this request killed the model's workers before"));
        }
        let deadline = Instant::from_std(deadline);
        let (reply, answer) = oneshot::channel();
        let job = Job { ask, deadline, alone: false, deaths: 0, reply };
        if self.inner.queue.push(job).is_err() {
            let text = "too many predictions wait for this model";
            return Err(Fault::gateway(code::OVERLOADED, text).with_retry_after(Duration::from_secs(1)));
        }
        // Asleep: the request waits for the worker that it wakes.
        self.inner.wanted.send_if_modified(|wanted| {
            let asleep = *wanted == 0;
            *wanted = (*wanted).max(1);
            asleep
        });
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(crashed("the worker was stopped")),
            Err(_) if self.ready() == 0 => {
                let text = "the model's worker is being started";
                Err(Fault::worker(code::MODEL_UNAVAILABLE, Retry::NextTarget, text)
                    .with_retry_after(Duration::from_secs(1)))
            }
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

/// Keeps the number of instances near what the load asks for.
async fn follow_load(inner: Weak<Inner>, bounds: Bounds) {
    let began = Instant::now();
    let mut scale = scale::Scale::new(bounds.clone(), Duration::ZERO);
    let mut tick = tokio::time::interval(SCALE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade().filter(|inner| !inner.queue.is_closed()) else { return };
        // What shares a call waits for one call.
        let waiting = inner.queue.len();
        let calls = inner.room().map_or(waiting, |room| waiting.div_ceil(room.rows.max(1) as usize));
        let load = inner.meter.take() + calls as f64;
        let current = *inner.wanted.borrow();
        let wanted = scale.step(began.elapsed(), load, current, bounds.min_now());
        if wanted != current {
            tracing::info!(endpoint = %inner.plan.label, from = current, to = wanted, "instances");
            // A request may have woken the pool meanwhile: its one stays.
            inner.wanted.send_if_modified(|now| {
                let same = *now == current;
                if same {
                    *now = wanted;
                }
                same
            });
        }
    }
}
