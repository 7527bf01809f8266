//! Counts that hold across replicas: what a call may use is asked of the shared server in one round trip, and what it
//! used is told there behind it. While the server is away each replica does what the configuration says.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use millgate_config::{OnError, SharedConfig};
use millgate_observe::Metrics;
use millgate_policy::{
    Alert, Amounts, Ask, Calendar, Exceeded, Left, Limit, Measure, Now, Refused, Span, Terms,
};
use millgate_store::{Shared, SharedAnswer, SharedAsk, SharedCell, SharedKind, StoreError};
use millgate_types::RequestId;

use crate::admit;
use crate::ledger::Ledger;

/// Pause between two signs of life.
const BEAT: Duration = Duration::from_secs(5);
/// The same while the server is away: how soon it is noticed that it is back.
const LOOK: Duration = Duration::from_millis(250);
/// Pause between two looks at what is to be settled.
const SETTLE: Duration = Duration::from_millis(5);
/// Reservations of one settlement.
const BATCH: usize = 4096;
/// How often a settlement is tried again. Between two tries the server was seen to be back.
const TRIES: u8 = 8;
/// Settlements that may wait for the server.
const WAITING: usize = 200_000;

/// The shared counts.
pub struct Counters {
    shared: Shared,
    ledger: Arc<Ledger>,
    config: SharedConfig,
    metrics: Arc<Metrics>,
    down: AtomicBool,
    ended: Mutex<Vec<Ended>>,
}

/// A reservation that is over.
#[derive(Debug)]
struct Ended {
    limit: Arc<Limit>,
    label: Arc<str>,
    cell: SharedCell,
    reserved: u64,
    used: u64,
    /// How often it was tried to tell it.
    tries: u8,
}

/// What a call holds at the shared server. Dropped untold, all of it counts as used.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    counters: Option<Arc<Counters>>,
    held: Vec<(Ask, SharedCell, u64)>,
}

/// How a call is to be looked at here.
pub(crate) enum Decision {
    /// The server has taken all of it.
    Taken(Holding, Vec<Left>),
    /// It has not.
    Refused(Refused),
    /// It cannot be asked: this process decides, on these terms.
    Here(Terms),
    /// It cannot be asked, and nobody may decide.
    Nobody,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Counters {
    /// Counts at the server of a configuration.
    pub async fn open(
        config: &SharedConfig,
        ledger: Arc<Ledger>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StoreError> {
        let replica = format!("{}", RequestId::random());
        let shared = Shared::open(config.redis.expose(), &replica)?;
        let down = AtomicBool::new(false);
        let counters =
            Self { shared, ledger, config: config.clone(), metrics, down, ended: Mutex::default() };
        if let Err(error) = counters.shared.beat().await {
            counters.is_gone(&error);
        }
        Ok(Arc::new(counters))
    }

    /// Says that this replica lives, and settles what has ended, as long as somebody holds the counters.
    pub fn follow(self: &Arc<Self>) {
        tokio::spawn(beat(Arc::downgrade(self)));
        tokio::spawn(settle(Arc::downgrade(self)));
    }

    /// Whether the server answers.
    pub(crate) fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    fn is_gone(&self, error: &StoreError) {
        if !self.down.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "shared counts cannot be reached: limits and budgets do what `shared` says");
        }
    }

    /// Asks for a call.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        asks: &[Ask],
        amounts: &Amounts,
        margin: u64,
        now: Now,
    ) -> Decision {
        if self.is_up() {
            match self.ask(asks, amounts, margin, now).await {
                Ok(decision) => return decision,
                Err(error) => self.is_gone(&error),
            }
        }
        let budget = |ask: &Ask| ask.limit.budget && ask.limit.exceeded == Exceeded::Refuse;
        let on_error =
            |ask: &Ask| if budget(ask) { self.config.budgets_on_error } else { self.config.limits_on_error };
        if asks.iter().any(|ask| on_error(ask) == OnError::Deny) {
            return Decision::Nobody;
        }
        let decided = asks.iter().all(|ask| on_error(ask) == OnError::Allow);
        Decision::Here(Terms { margin, share: u64::from(self.config.replicas), decided })
    }

    async fn ask(
        self: &Arc<Self>,
        asks: &[Ask],
        amounts: &Amounts,
        margin: u64,
        now: Now,
    ) -> Result<Decision, StoreError> {
        let wanted: Vec<SharedAsk> = asks
            .iter()
            .map(|ask| {
                let limit = &ask.limit;
                let take = amounts.of(limit.measure);
                SharedAsk {
                    cell: cell(limit, &ask.label, now),
                    check: limit.wanted(take, margin),
                    take,
                    refuses: limit.exceeded == Exceeded::Refuse,
                    is_final: limit.measure.is_final(),
                }
            })
            .collect();
        // Each budget has to begin once per window, whoever asks first.
        for _ in 0..=asks.len() {
            match self.shared.admit(&wanted).await? {
                SharedAnswer::Unknown(at) => {
                    let (Some(ask), Some(wanted)) = (asks.get(at), wanted.get(at)) else { break };
                    let spent = Box::pin(self.ledger.spent(&ask.limit, &ask.label, now)).await?;
                    Box::pin(self.shared.begin(&wanted.cell, spent)).await?;
                }
                SharedAnswer::Refused { at, retry_after, used, reserved } => {
                    let Some(ask) = asks.get(at) else { break };
                    let Left { amount, remaining, reset, .. } =
                        left(ask, &wanted[at].cell, (used, reserved, true));
                    let (limit, label) = (Arc::clone(&ask.limit), Arc::clone(&ask.label));
                    let refused = Refused { limit, label, amount, room: remaining, retry_after, reset };
                    return Ok(Decision::Refused(refused));
                }
                SharedAnswer::Taken(counts) => {
                    let left = asks
                        .iter()
                        .zip(&wanted)
                        .zip(counts)
                        .map(|((ask, wanted), count)| left(ask, &wanted.cell, count));
                    let left = left.collect();
                    let held = asks.iter().zip(wanted).filter(|(_, wanted)| !wanted.is_final);
                    let held = held.map(|(ask, wanted)| (ask.clone(), wanted.cell, wanted.take)).collect();
                    return Ok(Decision::Taken(Holding { counters: Some(Arc::clone(self)), held }, left));
                }
            }
        }
        Err(StoreError::Database("budgets could not begin".to_owned()))
    }

    /// Raises what was spent of a budget to what the ledger says: it may have counted nothing for a while.
    pub(crate) async fn raise(
        &self,
        limit: &Limit,
        label: &str,
        spent: u64,
        now: Now,
    ) -> Result<(), StoreError> {
        self.shared.raise(&cell(limit, label, now), spent).await
    }

    fn end(&self, ended: impl Iterator<Item = Ended>) {
        let mut waiting = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.extend(ended);
        }
    }
}

/// What a limit still allows, as the server counts it.
fn left(ask: &Ask, cell: &SharedCell, (used, reserved, exceeded): (u64, u64, bool)) -> Left {
    let (most, used, reset) = match cell.kind {
        SharedKind::Rolling(window, burst) => {
            let units = u128::from(used) * u128::from(cell.most);
            let units = units.div_ceil(window.as_micros().max(1));
            (burst.min(cell.most), u64::try_from(units).unwrap_or(u64::MAX), Duration::from_micros(used))
        }
        SharedKind::Calendar(left) | SharedKind::Budget(left) => (cell.most, used, left),
        SharedKind::Meanwhile => (cell.most, 0, Duration::ZERO),
    };
    let remaining = most.saturating_sub(used).saturating_sub(reserved);
    Left { measure: ask.limit.measure, amount: cell.most, remaining, reset, exceeded }
}

/// The server's cell of a limit, in the window of this moment.
fn cell(limit: &Limit, label: &str, now: Now) -> SharedCell {
    let (kind, window) = match &limit.span {
        Span::Rolling { window, burst } => (SharedKind::Rolling(*window, *burst), String::new()),
        Span::Meanwhile => (SharedKind::Meanwhile, String::new()),
        Span::Calendar(calendar) => {
            let (start, left) = window(calendar, now);
            let kind = if limit.budget { SharedKind::Budget(left) } else { SharedKind::Calendar(left) };
            (kind, format!(":{start}"))
        }
    };
    SharedCell { key: format!("{}:{label}{window}", limit.key), kind, most: limit.amount_for(label) }
}

fn window(calendar: &Calendar, now: Now) -> (i64, Duration) {
    let (start, end) = calendar.window(now.wall_ms);
    (start, Duration::from_millis(u64::try_from(end - now.wall_ms).unwrap_or(0)))
}

impl Holding {
    /// Takes over what another one holds.
    pub(crate) fn join(&mut self, mut other: Self) {
        if self.counters.is_none() {
            self.counters = other.counters.take();
        }
        self.held.append(&mut other.held);
    }

    /// How much is held: what comes behind can be let go again.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// What was taken over behind the first `at`.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        Self { counters: self.counters.clone(), held: self.held.split_off(at.min(self.held.len())) }
    }

    /// Gives places among calls under way back.
    pub(crate) fn landed(&mut self) {
        let Some(counters) = &self.counters else { return };
        let (over, kept): (Vec<_>, Vec<_>) = mem::take(&mut self.held)
            .into_iter()
            .partition(|(ask, ..)| ask.limit.measure == Measure::Concurrent);
        counters.end(over.into_iter().map(|held| ended(held, 0)));
        self.held = kept;
    }

    /// Tells what was used.
    pub(crate) fn settle(mut self, used: &Amounts) {
        let Some(counters) = self.counters.take() else { return };
        counters.end(mem::take(&mut self.held).into_iter().map(|held| {
            let used = used.of(held.0.limit.measure);
            ended(held, used)
        }));
    }
}

fn ended((ask, cell, reserved): (Ask, SharedCell, u64), used: u64) -> Ended {
    Ended { limit: ask.limit, label: ask.label, cell, reserved, used, tries: 0 }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let Some(counters) = self.counters.take() else { return };
        counters.end(mem::take(&mut self.held).into_iter().map(|held| {
            let reserved = held.2;
            ended(held, reserved)
        }));
    }
}

impl Ended {
    /// The highest step of the alerts that this took all replicas over; `sum` is what they have used with it.
    fn alert(&self, sum: u64) -> Option<Alert> {
        let amount = self.cell.most;
        let reached =
            |used: u64, percent: u8| u128::from(used) * 100 >= u128::from(percent) * u128::from(amount);
        let before = sum.saturating_sub(self.used);
        let steps = self.limit.alerts.iter().rev();
        let step = steps.copied().find(|step| reached(sum, *step) && !reached(before, *step))?;
        let (limit, label) = (Arc::clone(&self.limit), Arc::clone(&self.label));
        Some(Alert { limit, label, percent: step, used: sum, amount })
    }
}

/// What has ended of the same cell as one.
fn merged(mut ended: Vec<Ended>) -> Vec<Ended> {
    ended.sort_unstable_by(|one, other| one.cell.key.cmp(&other.cell.key));
    ended.dedup_by(|next, kept| {
        let same = next.cell.key == kept.cell.key;
        if same {
            kept.reserved += next.reserved;
            kept.used += next.used;
            kept.tries = kept.tries.max(next.tries);
        }
        same
    });
    ended
}

async fn beat(counters: Weak<Counters>) {
    loop {
        let Some(counters) = counters.upgrade() else { return };
        match counters.shared.beat().await {
            Ok(()) => {
                if counters.down.load(Ordering::Relaxed) {
                    counters.shared.renew();
                    counters.down.store(false, Ordering::Relaxed);
                    tracing::info!("shared counts are reached again");
                }
            }
            Err(error) => counters.is_gone(&error),
        }
        let beaten = Instant::now();
        while counters.is_up() && beaten.elapsed() < BEAT {
            tokio::time::sleep(LOOK).await;
        }
        drop(counters);
        tokio::time::sleep(LOOK).await;
    }
}

async fn settle(counters: Weak<Counters>) {
    loop {
        tokio::time::sleep(SETTLE).await;
        let Some(counters) = counters.upgrade() else { return };
        loop {
            let ended: Vec<Ended> = {
                let mut waiting = counters.ended.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.is_empty() || !counters.is_up() {
                    break;
                }
                let count = waiting.len().min(BATCH);
                merged(waiting.drain(..count).collect())
            };
            let cells: Vec<_> =
                ended.iter().map(|ended| (ended.cell.clone(), ended.reserved, ended.used)).collect();
            match counters.shared.settle(&cells).await {
                Ok(sums) => {
                    for alert in ended.iter().zip(sums).filter_map(|(ended, sum)| ended.alert(sum)) {
                        admit::alert(&counters.metrics, &alert);
                    }
                }
                Err(error) => {
                    counters.is_gone(&error);
                    // What the server will never take must not hold up the rest.
                    let again = ended.into_iter().filter(|ended| ended.tries < TRIES);
                    counters.end(again.map(|ended| Ended { tries: ended.tries + 1, ..ended }));
                    break;
                }
            }
        }
    }
}
