//! Where an upstream lives.

use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

/// Scheme, host and port of an upstream. Connections are pooled per origin; a clone of the `Arc` it lives in
/// shares the pool.
#[derive(Debug)]
pub struct Origin {
    pub(crate) id: u64,
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What goes into the `Host` header: the port only where it is not the scheme's own.
    pub authority: HeaderValue,
}

impl Origin {
    /// An origin. `host` is a name or an address; IPv6 addresses may stand in brackets. `None` when the host
    /// cannot stand in a header.
    #[must_use]
    pub fn new(tls: bool, host: &str, port: u16) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let default_port = if tls { 443 } else { 80 };
        let authority = if port == default_port { host.to_owned() } else { format!("{host}:{port}") };
        Some(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            authority: HeaderValue::from_str(&authority).ok()?,
        })
    }
}
