//! The HTTP/1.1 client of the request path. A connection is read and written by the task of the request that
//! uses it: no connection task, no channel, no second wake-up per frame, and no buffer that waits with it for
//! the next bytes. Idle connections are kept per thread, so a checkout takes no lock. Must not know anything
//! of providers or dialects; control-plane calls (registry, webhooks) do not come here.

mod body;
mod client;
mod connection;
mod error;
mod head;
mod origin;
mod outgoing;
mod pool;
mod tls;
mod watchdog;

pub use body::{UpstreamBody, collect};
pub use client::{Client, Deadlines};
pub use error::UpstreamError;
pub use origin::Origin;
pub use outgoing::{Outgoing, Payload, PayloadStream};

/// For fuzzing: what is otherwise behind a socket.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use bytes::{Bytes, BytesMut};
    use http::Method;

    use crate::connection::split_head;

    /// What is read of an answer that comes in pieces of `step` bytes: its status, the data of its body, whether
    /// the body is at its end, and what is wrong with its framing. `None`: no head, or one that is refused.
    #[must_use]
    pub fn answer(
        wire: &Bytes,
        method: &Method,
        step: usize,
    ) -> Option<(u16, Vec<u8>, bool, Option<&'static str>)> {
        let mut gathered = BytesMut::new();
        let mut pieces = wire.chunks(step);
        let (mut head, mut rest) = loop {
            let before = gathered.len();
            gathered.extend_from_slice(pieces.next()?);
            if let Some(found) = split_head(&mut gathered, before, method).ok()? {
                break found;
            }
        };
        let mut data = Vec::new();
        while !rest.is_empty() && !head.framing.is_end() && head.framing.failure().is_none() {
            data.extend_from_slice(&head.framing.take(&mut rest));
        }
        for piece in pieces {
            if !head.framing.is_end() && head.framing.failure().is_none() {
                data.extend_from_slice(&head.framing.read(piece, &mut rest));
            }
        }
        Some((head.status.as_u16(), data, head.framing.is_end(), head.framing.failure()))
    }
}
