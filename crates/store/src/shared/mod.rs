//! Counts that hold across replicas, in Redis or Valkey: one script per decision, on the server's clock.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Script};

use crate::StoreError;

/// How long one call may take before the server counts as gone.
const PATIENCE: Duration = Duration::from_millis(500);
/// A replica that was not seen for this long is dead, and what it had reserved is free.
const ALIVE: Duration = Duration::from_secs(30);

/// A limit as the server counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedCell {
    /// Names the cell; the same at all replicas.
    pub key: String,
    /// Over which time.
    pub kind: SharedKind,
    /// How much may be used.
    pub most: u64,
}

/// Over which time a cell counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedKind {
    /// Any stretch of this length, with so much at once.
    Rolling(Duration, u64),
    /// One window, which ends in this time. Its key is that of the window.
    Calendar(Duration),
    /// The same for a budget: a cell that is not there must begin with what the ledger says.
    Budget(Duration),
    /// As long as calls are under way.
    Meanwhile,
}

/// What a call wants of a cell.
#[derive(Clone, Debug)]
pub struct SharedAsk {
    /// The cell.
    pub cell: SharedCell,
    /// So much must fit.
    pub check: u64,
    /// So much is taken.
    pub take: u64,
    /// A call that does not fit is refused; else it is only told.
    pub refuses: bool,
    /// What is taken is used; else it is reserved until [`Shared::settle`].
    pub is_final: bool,
}

/// The server's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedAnswer {
    /// All was taken; per cell what is used and reserved now, and whether it did not fit.
    Taken(Vec<(u64, u64, bool)>),
    /// Nothing was taken: this cell has no room.
    Refused {
        /// Its place in the list.
        at: usize,
        /// Until there is; `None` where that hangs on calls under way.
        retry_after: Option<Duration>,
        /// What is used (rolling: microseconds until all has leaked away).
        used: u64,
        /// What is reserved.
        reserved: u64,
    },
    /// Nothing was taken: this budget's cell has to begin first.
    Unknown(usize),
}

/// Connections to the server, made again by themselves.
#[derive(Clone)]
pub struct Shared {
    client: Client,
    connection: ConnectionManager,
    /// Connections of an earlier number are not used any more.
    epoch: Arc<AtomicU64>,
    replica: String,
    admit: Script,
    settle: Script,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// A thread's connection to one server, with the epoch that it was made in.
type Own = (Weak<AtomicU64>, u64, ConnectionManager);

thread_local! {
    /// A call asks on its own thread's connection: no other thread must be woken for the answer.
    static OWN: RefCell<Vec<Own>> = const { RefCell::new(Vec::new()) };
}

/// A connection that is made in the background: a server that is down now is used as soon as it is there.
fn connect(client: &Client) -> Result<ConnectionManager, StoreError> {
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(PATIENCE))
        .set_connection_timeout(Some(PATIENCE))
        .set_number_of_retries(0);
    ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(|error| failed(&error))
}

fn failed(error: &redis::RedisError) -> StoreError {
    // The text of a connection's error may hold its address.
    StoreError::Database(match error.detail() {
        Some(_) if error.is_io_error() => "Redis cannot be reached".to_owned(),
        Some(detail) => format!("Redis: {detail}"),
        None => format!("Redis: {}", error.category()),
    })
}

impl Shared {
    /// Connects to `redis://...` or `rediss://...`.
    pub fn open(uri: &str, replica: &str) -> Result<Self, StoreError> {
        let client = Client::open(uri)
            .map_err(|_| StoreError::Database("the address of Redis cannot be used".to_owned()))?;
        let shared = Self {
            connection: connect(&client)?,
            client,
            epoch: Arc::default(),
            replica: replica.to_owned(),
            admit: Script::new(include_str!("admit.lua")),
            settle: Script::new(include_str!("settle.lua")),
        };
        Ok(shared)
    }

    /// The server was away: threads that did not notice connect anew too.
    pub fn renew(&self) {
        self.epoch.fetch_add(1, Relaxed);
    }

    /// This thread's connection.
    fn own(&self) -> Result<ConnectionManager, StoreError> {
        let epoch = self.epoch.load(Relaxed);
        OWN.with_borrow_mut(|own| {
            let ours = |of: &Weak<AtomicU64>| std::ptr::eq(of.as_ptr(), Arc::as_ptr(&self.epoch));
            let good = |(of, made, _): &&Own| ours(of) && *made == epoch;
            if let Some((.., connection)) = own.iter().find(good) {
                return Ok(connection.clone());
            }
            let connection = connect(&self.client)?;
            own.retain(|(of, ..)| of.strong_count() > 0 && !ours(of));
            own.push((Arc::downgrade(&self.epoch), epoch, connection.clone()));
            Ok(connection)
        })
    }

    /// Says that this replica lives. Call it every few seconds.
    pub async fn beat(&self) -> Result<(), StoreError> {
        let mut connection = self.connection.clone();
        redis::cmd("SET")
            .arg(format!("{{millgate}}:replica:{}", self.replica))
            .arg(1)
            .arg("PX")
            .arg(ALIVE.as_millis() as u64)
            .query_async(&mut connection)
            .await
            .map_err(|error| failed(&error))
    }

    /// Takes what a call wants of all cells, or nothing.
    pub async fn admit(&self, asks: &[SharedAsk]) -> Result<SharedAnswer, StoreError> {
        let mut call = self.admit.prepare_invoke();
        call.arg(&self.replica);
        for ask in asks {
            let (kind, window, burst) = ask.cell.parts();
            call.key(name(&ask.cell));
            call.arg(kind).arg(ask.check).arg(ask.take).arg(ask.cell.most.max(1)).arg(window).arg(burst);
            call.arg(ask.cell.life()).arg(u8::from(ask.refuses)).arg(u8::from(ask.is_final));
        }
        let mut connection = self.own()?;
        let answer: Vec<i64> = call.invoke_async(&mut connection).await.map_err(|error| failed(&error))?;
        let odd = || StoreError::Database("Redis answered what was not asked".to_owned());
        let number = |at: usize| answer.get(at).copied().ok_or_else(odd);
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        match number(0)? {
            0 => {
                let at = (count(number(1)?) as usize).checked_sub(1).ok_or_else(odd)?;
                let retry_after = match number(2)? {
                    -1 => None,
                    -2 => asks.get(at).and_then(|ask| match ask.cell.kind {
                        SharedKind::Calendar(left) | SharedKind::Budget(left) => Some(left),
                        _ => None,
                    }),
                    micros => Some(Duration::from_micros(count(micros))),
                };
                let (used, reserved) = (count(number(3)?), count(number(4)?));
                Ok(SharedAnswer::Refused { at, retry_after, used, reserved })
            }
            2 => Ok(SharedAnswer::Unknown((count(number(1)?) as usize).checked_sub(1).ok_or_else(odd)?)),
            _ => {
                let cells = answer[1..].as_chunks::<3>().0;
                Ok(SharedAnswer::Taken(
                    cells.iter().map(|cell| (count(cell[0]), count(cell[1]), cell[2] == 1)).collect(),
                ))
            }
        }
    }

    /// Ends reservations of cells: `(cell, reserved, used)`. Gives what is used of each window with that.
    pub async fn settle(&self, cells: &[(SharedCell, u64, u64)]) -> Result<Vec<u64>, StoreError> {
        let mut call = self.settle.prepare_invoke();
        call.arg(&self.replica);
        for (cell, reserved, used) in cells {
            let (kind, window, _) = cell.parts();
            call.key(name(cell));
            call.arg(kind).arg(reserved).arg(used).arg(cell.most.max(1)).arg(window).arg(cell.life());
        }
        let mut connection = self.connection.clone();
        let sums: Vec<i64> = call.invoke_async(&mut connection).await.map_err(|error| failed(&error))?;
        Ok(sums.into_iter().map(|sum| u64::try_from(sum).unwrap_or(0)).collect())
    }

    /// Lets a budget's cell begin with what was spent, unless another replica was faster.
    pub async fn begin(&self, cell: &SharedCell, spent: u64) -> Result<(), StoreError> {
        let mut connection = self.connection.clone();
        let key = name(cell);
        let mut pipe = redis::pipe();
        pipe.cmd("HSETNX").arg(&key).arg("u").arg(spent).ignore();
        pipe.cmd("PEXPIRE").arg(&key).arg(cell.life()).ignore();
        pipe.query_async::<()>(&mut connection).await.map_err(|error| failed(&error))
    }

    /// Raises what a budget's cell holds as spent to a sum, where there is a cell and it holds less.
    pub async fn raise(&self, cell: &SharedCell, spent: u64) -> Result<(), StoreError> {
        let script = Script::new(RAISE);
        let mut call = script.key(name(cell));
        call.arg(spent);
        let mut connection = self.connection.clone();
        call.invoke_async::<()>(&mut connection).await.map_err(|error| failed(&error))
    }
}

/// What [`Shared::raise`] does, in one step.
const RAISE: &str = "local used = tonumber(redis.call('HGET', KEYS[1], 'u') or '-1')
if used >= 0 and used < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'u', ARGV[1]) end";

/// All keys are in one slot of a cluster: a script touches several.
fn name(cell: &SharedCell) -> String {
    format!("{{millgate}}:{}", cell.key)
}

impl SharedCell {
    /// Kind, window in microseconds, burst.
    fn parts(&self) -> (&'static str, u64, u64) {
        match self.kind {
            SharedKind::Rolling(window, burst) => {
                ("r", u64::try_from(window.as_micros()).unwrap_or(u64::MAX).max(1), burst.max(1))
            }
            SharedKind::Calendar(_) => ("c", 1, 1),
            SharedKind::Budget(_) => ("b", 1, 1),
            SharedKind::Meanwhile => ("m", 1, 1),
        }
    }

    /// How long the cell is kept after its last change, in milliseconds: longer than it can matter.
    fn life(&self) -> u64 {
        let matters = match self.kind {
            SharedKind::Rolling(window, _) => window,
            SharedKind::Calendar(left) | SharedKind::Budget(left) => left,
            SharedKind::Meanwhile => Duration::ZERO,
        };
        u64::try_from((matters + Duration::from_secs(3600)).as_millis()).unwrap_or(u64::MAX).min(1 << 45)
    }
}
