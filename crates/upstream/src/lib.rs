//! The HTTP client of the request path. A connection is driven by the task of the request that uses it: no
//! connection task, no channel hop, no second wake-up per frame. Idle connections are kept per thread, so a
//! checkout takes no lock. Must not know anything of providers or dialects; control-plane calls (registry,
//! webhooks) do not come here.

mod body;
mod connection;
mod error;
mod origin;
mod tls;

pub use body::{UpstreamBody, collect};
pub use connection::{Client, Deadlines};
pub use error::UpstreamError;
pub use origin::Origin;
