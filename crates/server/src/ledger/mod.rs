//! The spend ledger's writer. Records of calls come in from the observer's thread and are written to the store some times
//! a second, together with which calls are under way and what they have reserved: a process that dies leaves word of it.

mod budgets;

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use millgate_config::LedgerMode;
use millgate_store::{LedgerBatch, LedgerRow, SLOT_MS, Spender, Store, StoreError, UsageSum};
use millgate_types::{Exchange, Operation, Outcome, Owner, RequestId};
use tokio::sync::{Notify, oneshot};

use crate::keys::{Keys, now_ms, unix_ms};

pub(crate) use budgets::Begun;
use budgets::Budgets;

/// Pause between two writes: with what the observer gathers, less than half of the second that a process which dies may lose.
const PAUSE: Duration = Duration::from_millis(400);
/// Pause between two looks at what dead writers left.
const LOOK: Duration = Duration::from_secs(20);
/// A writer that was not seen for this long is dead.
const DEAD_AFTER_MS: i64 = 60_000;
/// A writer that has nothing to write says that it lives this often.
const SEEN_MS: i64 = 15_000;
/// Rows that may wait for the store. More go to a file of their own in the data folder.
const WAITING: usize = 100_000;
/// Rows of one transaction.
const BATCH: usize = 8_192;
/// The largest spill file, in bytes: beyond it hard budgets admit nothing.
const SPILL: u64 = 256 << 20;

/// The ledger, open for writing.
pub struct Ledger {
    /// No call is made before the store knows what it may cost.
    pub(crate) durable: bool,
    store: Store,
    /// Names this process among all that ever wrote.
    replica: String,
    /// Rows that the store would not take.
    spill: PathBuf,
    state: Mutex<State>,
    budgets: Budgets,
    /// One write at a time.
    writing: tokio::sync::Mutex<()>,
    /// A call waits for a write.
    wanted: Notify,
}

#[derive(Default)]
struct State {
    /// Of calls that cost something.
    rows: Vec<LedgerRow>,
    /// Of all calls, by where their names stand.
    sums: foldhash::HashMap<Same, (Names, UsageSum)>,
    /// A batch that was made and could be put nowhere.
    stuck: Option<LedgerBatch>,
    /// Calls under way that have reserved something.
    open: foldhash::HashMap<RequestId, Open>,
    closed: Vec<String>,
    /// Calls that begin when the store knows of them.
    awaiting: Vec<oneshot::Sender<()>>,
    failing: bool,
    /// When the store was last written to.
    seen_ms: i64,
    /// Bytes in the spill file.
    spilled: u64,
    /// Rows that found no place anywhere.
    lost: u64,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the ledger of the store that the keys are in. `folder` is this process's own; what an earlier one left there is written now, and what
    /// dead ones had reserved counts as spent. All of that waits where the store is `away`, and hard budgets admit nothing
    /// until it is known what was spent.
    pub async fn open(
        keys: &Keys,
        folder: &Path,
        mode: LedgerMode,
        away: bool,
    ) -> Result<Arc<Self>, StoreError> {
        let replica = RequestId::random().text();
        let store = keys.store().clone();
        let ledger = Self {
            durable: mode == LedgerMode::Durable,
            spill: folder.join("ledger-spill.jsonl"),
            store,
            replica,
            state: Mutex::default(),
            budgets: Budgets::of(keys),
            writing: tokio::sync::Mutex::default(),
            wanted: Notify::new(),
        };
        if away {
            ledger.budgets.unread.store(true, Relaxed);
            ledger.state().failing = true;
            return Ok(Arc::new(ledger));
        }
        ledger.bring_back().await?;
        // SQLite has one writer: whoever else is there is dead.
        let dead = if ledger.store.kind() == "sqlite" { 0 } else { DEAD_AFTER_MS };
        let lost = ledger.store.settle_the_dead(now_ms() - dead, now_ms()).await?;
        if lost > 0 {
            tracing::warn!(
                calls = lost,
                "a process died with calls under way; what they had reserved counts as spent"
            );
        }
        ledger.store.forget_batches(now_ms() - 86_400_000).await?;
        ledger.write().await?;
        Ok(Arc::new(ledger))
    }

    /// Writes what comes, as long as somebody holds the ledger.
    pub fn follow(self: &Arc<Self>) {
        tokio::spawn(follow(Arc::downgrade(self)));
    }

    /// Writes what is left, and leaves nothing open.
    pub async fn close(&self) {
        if let Err(error) = self.write().await {
            tracing::error!(%error, "the ledger cannot be written; its rows wait in the data folder");
        }
        let open = lock(&self.state).open.is_empty();
        if open && let Err(error) = self.store.end_writer(&self.replica).await {
            tracing::warn!(%error, "the ledger was not closed");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether what was spent before could not be read so far.
    pub(crate) fn is_unread(&self) -> bool {
        self.budgets.unread.load(Relaxed)
    }

    /// Whether spending cannot be written down any more, anywhere, or nobody knows what was spent before.
    pub(crate) fn is_at_a_loss(&self) -> bool {
        self.is_unread() || self.state().spilled > SPILL
    }

    /// Notes a call under way and what it has reserved, in nano-USD.
    pub(crate) fn begin(&self, record: &Exchange, reserved: u64) {
        let at_ms = unix_ms(record.started);
        let open = || {
            let names = Names::of(record, record);
            Open { names, at_ms, reserved, known: false, told: false }
        };
        self.state().open.entry(record.request_id).or_insert_with(open);
    }

    /// Notes that a call under way may cost more than it had reserved, and has the store know of that soon.
    pub(crate) fn raise(&self, id: RequestId, reserved: u64) {
        if let Some(open) = self.state().open.get_mut(&id).filter(|open| open.reserved < reserved) {
            (open.reserved, open.known) = (reserved, false);
            self.wanted.notify_one();
        }
    }

    /// Waits until the store knows of all calls that have begun so far. `false`: it cannot be written.
    pub(crate) async fn known(&self) -> bool {
        let (written, known) = oneshot::channel();
        self.state().awaiting.push(written);
        self.wanted.notify_one();
        known.await.is_ok()
    }

    /// Notes what a finished call used.
    pub(crate) fn record(&self, exchange: &Exchange) {
        let at_ms = unix_ms(exchange.started + exchange.duration);
        let mut state = self.state();
        if state.open.remove(&exchange.request_id).is_some_and(|open| open.told) {
            state.closed.push(exchange.request_id.text());
        }
        if exchange.attempts == 0 || exchange.endpoint.is_none() {
            return;
        }
        if exchange.hops.is_empty() {
            state.note(exchange, exchange, at_ms, 0);
        }
        for (number, hop) in exchange.hops.iter().enumerate() {
            state.note(exchange, hop, at_ms, number);
        }
    }

    /// Writes what waits.
    pub(crate) async fn write(&self) -> Result<(), StoreError> {
        let _one = self.writing.lock().await;
        loop {
            let (batch, opened, closed, awaiting, more) = {
                let mut state = self.state();
                let mut opened = Vec::new();
                for (id, open) in state.open.iter_mut().filter(|(_, open)| !open.known) {
                    (open.known, open.told) = (true, true);
                    opened.push(open.row(*id));
                }
                let batch = state.batch();
                let awaiting = mem::take(&mut state.awaiting);
                (batch, opened, mem::take(&mut state.closed), awaiting, !state.rows.is_empty())
            };
            let idle = batch.is_empty() && opened.is_empty() && closed.is_empty() && awaiting.is_empty();
            if idle && now_ms() < self.state().seen_ms + SEEN_MS {
                return Ok(());
            }
            match self.store.write_ledger(&self.replica, now_ms(), &batch, &opened, &closed).await {
                Ok(_) => {
                    for written in awaiting {
                        let _gone_meanwhile = written.send(());
                    }
                    self.state().seen_ms = now_ms();
                    if mem::take(&mut self.state().failing) {
                        tracing::info!("the ledger is written again");
                        self.bring_back().await?;
                    }
                }
                Err(error) => {
                    self.put_aside(batch, &opened, closed, &error);
                    return Err(error);
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Puts a batch that the store would not take into a file: it outlives this process there.
    fn put_aside(&self, batch: LedgerBatch, opened: &[LedgerRow], closed: Vec<String>, error: &StoreError) {
        let mut state = self.state();
        // The store hears of calls under way with the next write.
        let unknown: HashSet<&str> = opened.iter().map(|row| row.id.as_str()).collect();
        for (id, open) in &mut state.open {
            open.known &= !unknown.contains(&*format!("{id}"));
        }
        if !mem::replace(&mut state.failing, true) {
            tracing::error!(%error, "the ledger cannot be written; its rows wait in the data folder");
        }
        state.closed.extend(closed);
        if batch.is_empty() {
            return;
        }
        let mut line = serde_json::to_vec(&batch).unwrap_or_default();
        line.push(b'\n');
        let written = File::options().append(true).create(true).open(&self.spill).and_then(|mut file| {
            file.write_all(&line)?;
            file.sync_data()
        });
        match written {
            Ok(()) => state.spilled += line.len() as u64,
            Err(error) => {
                tracing::error!(%error, "rows of the ledger can be put nowhere; they wait in memory");
                state.stuck = Some(batch);
                state.spilled = SPILL + 1;
            }
        }
    }

    /// Writes what was put aside.
    async fn bring_back(&self) -> Result<(), StoreError> {
        let Ok(file) = File::open(&self.spill) else {
            self.state().spilled = 0;
            return Ok(());
        };
        let mut batches = 0;
        // A line that a crash cut short was never acknowledged.
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            let Ok(batch) = serde_json::from_str::<LedgerBatch>(&line) else { continue };
            self.store.write_ledger(&self.replica, now_ms(), &batch, &[], &[]).await?;
            batches += 1;
        }
        let _gone = std::fs::remove_file(&self.spill);
        self.state().spilled = 0;
        tracing::info!(batches, "what the ledger had put aside is written");
        Ok(())
    }

    /// Sums from `from_ms` to before `to_ms`, with what waits to be written.
    pub(crate) async fn usage(&self, from_ms: i64, to_ms: i64) -> Result<Vec<UsageSum>, StoreError> {
        self.write().await?;
        self.store.usage(from_ms, to_ms).await
    }
}

impl State {
    fn note(&mut self, exchange: &Exchange, hop: &Exchange, at_ms: i64, number: usize) {
        let same = Same::of(exchange, hop, at_ms);
        let used = used(hop, at_ms);
        let (_, sum) = self.sums.entry(same).or_insert_with(|| {
            let slot_ms = at_ms - at_ms.rem_euclid(SLOT_MS);
            let names = Names::of(exchange, hop);
            let spender = Arc::new(names.spender());
            (names, UsageSum { slot_ms, spender, ..UsageSum::default() })
        });
        sum.add(&used);
        sum.failed += i64::from(hop.outcome == Outcome::Failed);
        // Without a cost there is nothing to account for but that it was used.
        if used.cost.is_none_or(|cost| cost == 0) {
            return;
        }
        let id = exchange.request_id;
        let id = if number == 0 { id.text() } else { format!("{id}.{number}") };
        let outcome = hop.outcome.name().into();
        let row = LedgerRow { id, spender: Arc::clone(&sum.spender), outcome, ..used };
        if self.rows.len() < WAITING { self.rows.push(row) } else { self.lost += 1 }
    }

    /// What is to be written now.
    fn batch(&mut self) -> LedgerBatch {
        if let Some(stuck) = self.stuck.take() {
            return stuck;
        }
        let count = self.rows.len().min(BATCH);
        LedgerBatch {
            id: RequestId::random().text(),
            rows: self.rows.drain(..count).collect(),
            sums: self.sums.drain().map(|(_, (_, sum))| sum).collect(),
        }
    }
}

/// Where the names of a call stand, which tells most calls apart without comparing a letter. What is the same and stands
/// elsewhere becomes one sum in the store.
#[derive(PartialEq, Eq, Hash)]
struct Same {
    slot: i64,
    names: [usize; 5],
    operation: Option<Operation>,
}

impl Same {
    fn of(exchange: &Exchange, hop: &Exchange, at_ms: i64) -> Self {
        let name = |name: &Option<Arc<str>>| name.as_ref().map_or(0, |name| name.as_ptr() as usize);
        let owner = exchange.owner.as_ref().map_or(0, |owner| Arc::as_ptr(owner) as usize);
        let names = [
            name(&exchange.principal),
            owner,
            name(&exchange.endpoint),
            name(&hop.target),
            name(&hop.model_version),
        ];
        Self { slot: at_ms.div_euclid(SLOT_MS), names, operation: hop.operation.or(exchange.operation) }
    }
}

/// For whom a call is, and where it goes: as its record has the names, which keeps them where they stand as long as
/// [`Same`] goes by that.
struct Names {
    principal: Option<Arc<str>>,
    owner: Option<Arc<Owner>>,
    endpoint: Option<Arc<str>>,
    target: Option<Arc<str>>,
    model_version: Option<Arc<str>>,
    operation: Option<Operation>,
}

impl Names {
    fn of(exchange: &Exchange, hop: &Exchange) -> Self {
        Self {
            principal: exchange.principal.clone(),
            owner: exchange.owner.clone(),
            endpoint: exchange.endpoint.clone(),
            target: hop.target.clone(),
            model_version: hop.model_version.clone(),
            operation: hop.operation.or(exchange.operation),
        }
    }

    /// As the store writes them.
    fn spender(&self) -> Spender {
        let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
        let nobody = Owner::default();
        let owner = self.owner.as_deref().unwrap_or(&nobody);
        Spender {
            principal: name(&self.principal),
            user: name(&owner.user),
            team: name(&owner.team),
            app: name(&owner.app),
            organization: name(&owner.organization),
            tags: owner.tags.clone(),
            endpoint: name(&self.endpoint),
            target: name(&self.target),
            model_version: name(&self.model_version),
            operation: self.operation.map_or("", Operation::name).to_owned(),
        }
    }
}

/// A call under way. Its row is only made when it outlives a write: most do not.
struct Open {
    names: Names,
    at_ms: i64,
    /// Nano-USD.
    reserved: u64,
    /// The store knows of it, and how much it has reserved.
    known: bool,
    /// The store may have a row of it, perhaps of what it had reserved before: that row must go with the call.
    told: bool,
}

impl Open {
    /// What becomes of it if nobody ends it.
    fn row(&self, id: RequestId) -> LedgerRow {
        LedgerRow {
            id: id.text(),
            at_ms: self.at_ms,
            spender: Arc::new(self.names.spender()),
            outcome: "lost".into(),
            cost: i64::try_from(self.reserved).ok(),
            ..LedgerRow::default()
        }
    }
}

/// What a call used, or one of its hops.
fn used(hop: &Exchange, at_ms: i64) -> LedgerRow {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    LedgerRow {
        at_ms,
        input_tokens: count(hop.usage.prompt_total()),
        output_tokens: count(hop.usage.completion_total()),
        rows: count(hop.rows),
        cost: hop.cost.map(|cost| cost.0),
        estimated: hop.usage.estimated,
        ..LedgerRow::default()
    }
}

async fn follow(ledger: Weak<Ledger>) {
    let mut looked = Instant::now();
    loop {
        let Some(ledger) = waited(&ledger).await else { return };
        if ledger.write().await.is_err() {
            tokio::time::sleep(2 * PAUSE).await;
            continue;
        }
        let lost = mem::take(&mut ledger.state().lost);
        if lost > 0 {
            tracing::error!(rows = lost, "the ledger is behind; rows are lost");
        }
        if looked.elapsed() < LOOK {
            continue;
        }
        looked = Instant::now();
        if let Err(error) = ledger.store.forget_batches(now_ms() - 86_400_000).await {
            tracing::debug!(%error, "batches of the ledger are not forgotten");
        }
        if ledger.store.kind() == "sqlite" {
            continue;
        }
        if let Err(error) = ledger.store.settle_the_dead(now_ms() - DEAD_AFTER_MS, now_ms()).await {
            tracing::warn!(%error, "what dead processes left could not be settled");
        }
    }
}

/// The ledger, when it is time to write or a call wants it.
async fn waited(ledger: &Weak<Ledger>) -> Option<Arc<Ledger>> {
    let ledger = ledger.upgrade()?;
    let _either = tokio::time::timeout(PAUSE, ledger.wanted.notified()).await;
    // Nobody else may hold it by now: then there is nothing to write for.
    (Arc::strong_count(&ledger) > 1).then_some(ledger)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
