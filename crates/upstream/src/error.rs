//! What can go wrong between us and an upstream.

use std::io;

use millgate_types::{Fault, Retry, code};

/// A failed attempt to talk to an upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be made: refused, unreachable, name not found, TLS handshake failed.
    #[error("connecting failed")]
    Connect(#[source] io::Error),
    /// No connection within the connect time-out.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// No response head, or no complete response, within the deadline.
    #[error("the answer took too long")]
    Timeout,
    /// Nothing came for the idle time-out in the middle of a body.
    #[error("the body stalled")]
    Idle,
    /// The connection broke, or was closed before the answer was whole.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// What came was not HTTP; what was wrong with it.
    #[error("the answer is no HTTP: {0}")]
    NotHttp(&'static str),
    /// The body is over the limit for whole answers.
    #[error("the body is over the limit of {0} bytes")]
    TooLarge(usize),
    /// A model of ours in the provider's place says what went wrong.
    #[error("{0}")]
    Model(Fault),
}

impl UpstreamError {
    /// The request surely never reached the upstream, so that another attempt cannot do it twice.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout)
    }

    /// The one conversion into the pipeline's error.
    pub fn into_fault(self) -> Fault {
        if let Self::Model(fault) = self {
            return fault;
        }
        let (code, retry, public) = match &self {
            Self::Connect(_) => {
                (code::UPSTREAM_ERROR, Retry::SameTarget(None), "the provider could not be reached")
            }
            Self::ConnectTimeout => {
                (code::UPSTREAM_TIMEOUT, Retry::NextTarget, "connecting to the provider took too long")
            }
            Self::Timeout => {
                (code::UPSTREAM_TIMEOUT, Retry::NextTarget, "the provider did not answer in time")
            }
            Self::Idle => (code::UPSTREAM_TIMEOUT, Retry::NextTarget, "the provider's answer stalled"),
            Self::NotHttp(_) => {
                (code::UPSTREAM_ERROR, Retry::NextTarget, "the provider answered something that is not HTTP")
            }
            Self::Broken(_) => {
                (code::UPSTREAM_ERROR, Retry::SameTarget(None), "the connection to the provider broke")
            }
            Self::TooLarge(_) => {
                (code::UPSTREAM_ERROR, Retry::NextTarget, "the provider's answer is over the size limit")
            }
            Self::Model(fault) => (fault.code, fault.retry, "the model failed"),
        };
        Fault::upstream(code, retry, public).with_cause(self)
    }
}
