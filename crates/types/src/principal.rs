//! Who calls.

use std::sync::Arc;

/// The caller as established from the request's headers alone, before a body byte is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// No key is asked for (`access.keys: open`).
    Anonymous,
    /// A virtual key, by its configured name.
    Key(Arc<str>),
}

impl Principal {
    /// The name that logs and the usage ledger show: the key's name, or `anonymous`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Key(name) => name,
        }
    }
}
