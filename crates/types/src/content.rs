//! What a request and its answer said, for the audit log, where that is asked for.

use bytes::Bytes;

/// How much of it is kept, on each side, in bytes.
const MOST: usize = 256 << 10;

/// What of it goes into the audit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentPolicy {
    /// Nothing.
    #[default]
    None,
    /// A keyed hash.
    Hashed,
    /// The text without what looks private.
    Redacted,
    /// The text.
    Full,
}

impl ContentPolicy {
    /// The word in files and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hashed => "hashed",
            Self::Redacted => "redacted",
            Self::Full => "full",
        }
    }
}

/// The bodies of a request and its answer, as far as they are kept.
pub struct Captured {
    /// What of it may be shown.
    pub policy: ContentPolicy,
    /// The request's body.
    pub request: Bytes,
    /// Its whole length.
    pub request_bytes: u64,
    /// The answer's body.
    pub answer: Vec<u8>,
    /// Its whole length.
    pub answer_bytes: u64,
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Captured {
    /// A request; its answer is still to come.
    #[must_use]
    pub fn new(policy: ContentPolicy, request: &Bytes) -> Self {
        Self {
            policy,
            request: request.slice(..request.len().min(MOST)),
            request_bytes: request.len() as u64,
            answer: Vec::new(),
            answer_bytes: 0,
        }
    }

    /// A piece of the answer.
    pub fn answered(&mut self, piece: &[u8]) {
        self.answer_bytes += piece.len() as u64;
        let room = MOST - self.answer.len();
        self.answer.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}
