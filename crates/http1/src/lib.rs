//! HTTP/1.1 on the wire (RFC 9112): how bodies are framed, read strictly, which both sides of the gateway share; and the
//! server's side of a connection. A connection is read and written by its own task: a request that came with its body
//! is one read, its answer one write. Must not know what is served.

mod chunked;
mod framing;
mod gather;
mod incoming;
mod lines;
mod outgoing;
mod request;
mod scratch;
mod serve;
mod wire;

pub use chunked::Chunked;
pub use framing::{Framing, decimal};
pub use gather::poll_write_gathered;
pub use incoming::{Incoming, IncomingError};
pub use lines::Lines;
pub use outgoing::refresh_date;
pub use request::{Head, MAX_FIELDS, MAX_HEAD, Refused, Why, parse};
pub use scratch::poll_read_scratch;
pub use serve::{Answer, Service, serve};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a panic left behind is read on: bytes and counts are whole at every step.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
