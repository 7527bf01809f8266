//! The audit log: lines of JSON in segments, each bound to the one before by a keyed hash, so that an edit, a cut or a
//! change of order is found. A writer of its own gathers what comes, writes it, and has it on the disk before it says so.
//!
//! One line: `{"seq":7,"mac":"<hex>","record":{...}}`. `mac` is HMAC-SHA256 over the `mac` before (32 zero bytes at the
//! beginning), `seq` as eight bytes, and the record's own bytes.

mod chain;
mod content;
mod known;
mod search;
mod segment;
mod sink;
mod verify;
mod writer;

use std::path::PathBuf;

pub use content::{content, redact};
pub use search::{Found, Query, search};
pub use sink::{Sink, SinkKind, SyslogAddress, Webhook};
pub use verify::{Broken, Report, verify};
pub use writer::{Audit, Settings};

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file or folder.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// What is there is not what was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The writer has stopped.
    #[error("the audit log's writer has stopped")]
    Stopped,
}
