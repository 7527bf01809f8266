//! The HTTP/1.1 client of the request path. A connection is read and written by the task of the request that
//! uses it: no connection task, no channel, no second wake-up per frame, and no buffer that waits with it for
//! the next bytes. Idle connections are kept per thread, so a checkout takes no lock. Must not know anything
//! of providers or dialects; control-plane calls (registry, webhooks) do not come here.

mod body;
mod chunked;
mod client;
mod connection;
mod error;
mod gather;
mod head;
mod origin;
mod outgoing;
mod pool;
mod tls;

pub use body::{UpstreamBody, collect};
pub use client::{Client, Deadlines};
pub use error::UpstreamError;
pub use gather::poll_write_gathered;
pub use origin::Origin;
pub use outgoing::{Outgoing, Payload, PayloadStream};
