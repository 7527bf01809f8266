//! Idle connections, kept in the thread that made them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::connection::Connection;

/// Idle connections kept per origin and thread; more are closed.
const MAX_IDLE_PER_ORIGIN: usize = 256;
/// An idle connection older than this is closed rather than used: most servers close theirs at 60 s or more.
const MAX_IDLE_AGE: Duration = Duration::from_secs(55);

thread_local! {
    static IDLE: RefCell<HashMap<u64, Vec<Idle>>> = RefCell::new(HashMap::new());
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Idle {
    /// Nobody watches an idle connection, so it is asked before it is used.
    fn is_usable(&mut self) -> bool {
        self.since.elapsed() < MAX_IDLE_AGE && self.connection.is_quiet()
    }
}

/// The youngest idle connection to an origin that is still open.
pub(crate) fn check_out(origin: u64) -> Option<Connection> {
    IDLE.with_borrow_mut(|pool| {
        let idle = pool.get_mut(&origin)?;
        loop {
            let mut youngest = idle.pop()?;
            if youngest.is_usable() {
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
            idle.push(Idle { connection, since: Instant::now() });
        }
    });
}

/// Closes what is too old or was closed by the other side.
pub(crate) fn sweep() {
    IDLE.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain_mut(Idle::is_usable);
            !idle.is_empty()
        });
    });
}
