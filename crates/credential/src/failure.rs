//! Why there is no credential. The text is for our log: it holds no secret, and callers never see it.

use std::fmt;

use millgate_types::{Fault, Retry, code};

/// A fetch that did not bring a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Who gives tokens does not know us, or what we have is not valid.
    Refused(String),
    /// Who gives tokens cannot be reached, or answers badly.
    Unreachable(String),
    /// What should be on this machine is not.
    Missing(String),
}

impl Failure {
    pub(crate) fn unreachable(reason: impl Into<String>) -> Self {
        Self::Unreachable(reason.into())
    }

    pub(crate) fn missing(reason: impl Into<String>) -> Self {
        Self::Missing(reason.into())
    }

    /// What the caller is told. Another target may do; this one will not until somebody mends it.
    pub(crate) fn fault(&self) -> Fault {
        let (code, public) = match self {
            Self::Refused(_) => {
                (code::UPSTREAM_AUTH, "the gateway's credential for the provider was refused")
            }
            Self::Unreachable(_) => (
                code::UPSTREAM_ERROR,
                "the service that gives access tokens for the provider cannot be reached",
            ),
            Self::Missing(_) => (code::UPSTREAM_AUTH, "the gateway has no valid credential for the provider"),
        };
        Fault::upstream(code, Retry::NextTarget, public).with_cause(self.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "the token endpoint refused: {reason}"),
            Self::Unreachable(reason) => write!(f, "the token endpoint cannot be used: {reason}"),
            Self::Missing(reason) => f.write_str(reason),
        }
    }
}
