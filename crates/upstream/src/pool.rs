//! Idle connections, kept in the thread that made them.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};

use crate::connection::Connection;
use crate::watchdog;

/// Idle connections kept per origin and thread; more are closed.
const MAX_IDLE_PER_ORIGIN: usize = 256;
/// An idle connection older than this is closed rather than used: most servers close theirs at 60 s or more.
const MAX_IDLE_AGE: Duration = Duration::from_secs(55);

thread_local! {
    static IDLE: RefCell<HashMap<u64, Vec<Idle>>> = RefCell::new(HashMap::new());
    /// When the thread last swept: to the second, which is all that ages need.
    static SWEPT: Cell<Instant> = Cell::new(Instant::now());
}

struct Idle {
    connection: Connection,
    /// The last sweep before it came back.
    since: Instant,
}

/// The youngest idle connection to an origin that is still open.
pub(crate) fn check_out(origin: u64) -> Option<Connection> {
    IDLE.with_borrow_mut(|pool| {
        let idle = pool.get_mut(&origin)?;
        loop {
            // The sweep has closed what is too old. Nobody watches an idle connection, so it is asked.
            let mut youngest = idle.pop()?;
            if youngest.connection.is_quiet() {
                return Some(youngest.connection);
            }
        }
    })
}

/// Takes a connection whose answer was read to its end.
pub(crate) fn check_in(connection: Connection) {
    IDLE.with_borrow_mut(|pool| {
        let idle = pool.entry(connection.origin).or_default();
        if idle.len() < MAX_IDLE_PER_ORIGIN {
            idle.push(Idle { connection, since: SWEPT.get() });
        }
    });
}

/// When the thread last swept.
pub(crate) fn swept() -> Instant {
    SWEPT.get()
}

/// Closes what is too old or was closed by the other side.
pub(crate) fn sweep(now: Instant) {
    SWEPT.set(now);
    watchdog::sweep(now);
    IDLE.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain_mut(|idle| {
                now.saturating_duration_since(idle.since) < MAX_IDLE_AGE && idle.connection.is_quiet()
            });
            !idle.is_empty()
        });
    });
}
