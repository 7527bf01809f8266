//! The one wide record of a request. It gathers facts on the way and is sent once, at the end or on cancel;
//! access log, metrics and ledgers are derived from it off the request path.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::{Captured, Code, Dialect, Money, Operation, Owner, RequestId, Source, Usage};

/// How the body travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Same dialect on both sides: bytes went through.
    Pass,
    /// Decoded to the canonical form and encoded again.
    Translate,
    /// Answered by a model in this machine's care.
    Model,
}

impl Lane {
    /// The name that logs and metrics show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Translate => "translate",
            Self::Model => "model",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer left.
    Completed,
    /// A fault was answered, as a status or as an event in the stream.
    Failed,
    /// The caller went away.
    Cancelled,
}

impl Outcome {
    /// The name that logs and metrics show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is known of a request at its end. Holds no header value and no secret, and
/// no body but for the audit log's `captured`.
#[derive(Debug)]
pub struct Exchange {
    /// The id in `x-request-id`.
    pub request_id: RequestId,
    /// Wall clock at the first byte of the request.
    pub started: SystemTime,
    /// The HTTP method.
    pub method: http::Method,
    /// The path without the query, cut to 256 bytes.
    pub path: Box<str>,
    /// The caller's address.
    pub peer: Option<IpAddr>,
    /// The caller's name; `None` before identification.
    pub principal: Option<Arc<str>>,
    /// For whom the caller calls; `None` before identification and for callers without a key.
    pub owner: Option<Arc<Owner>>,
    /// The endpoint, once known.
    pub endpoint: Option<Arc<str>>,
    /// The last target tried, `provider/model` or a `models:/` URI.
    pub target: Option<Arc<str>>,
    /// The registry version that answered.
    pub model_version: Option<Arc<str>>,
    /// The caller's dialect.
    pub dialect: Option<Dialect>,
    /// What was asked for.
    pub operation: Option<Operation>,
    /// How the body travelled.
    pub lane: Option<Lane>,
    /// The status answered; 0 when the caller left before one was sent.
    pub status: u16,
    /// The fault's code, when there was one.
    pub code: Option<Code>,
    /// Who made the fault.
    pub fault_source: Option<Source>,
    /// The fault's words and cause, for the log; redacted where it was made.
    pub fault_detail: Option<Box<str>>,
    /// The answer was a stream.
    pub stream: bool,
    /// Targets tried.
    pub attempts: u32,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
    /// Rows predicted.
    pub rows: u64,
    /// What was consumed.
    pub usage: Usage,
    /// What that cost; `None` when the price is not known, never zero instead.
    pub cost: Option<Money>,
    /// How long it waited for its limits.
    pub waited: Duration,
    /// From the first byte of the request to the last of the answer.
    pub duration: Duration,
    /// Until the upstream's or model's first byte.
    pub time_to_first_byte: Option<Duration>,
    /// The generation of the config snapshot that served it.
    pub config_generation: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What is still to be done before the record is read: counting what nobody has counted.
    pub unsettled: Option<Unsettled>,
    /// What request and answer said, for the audit log, where that is asked for.
    pub captured: Option<Box<Captured>>,
    /// What waits to be told what was used.
    pub settlement: Option<Settlement>,
    /// The targets that were asked inside a chain, ensemble or switch, each with what it consumed, in the order in which
    /// they ended. Empty for everything else.
    pub hops: Vec<Exchange>,
}

/// Work on a record that waits until the answer has left.
pub struct Unsettled(Box<dyn FnOnce(&mut Exchange) + Send>);

impl Unsettled {
    /// Work to be done off the request path.
    pub fn new(work: impl FnOnce(&mut Exchange) + Send + 'static) -> Self {
        Self(Box::new(work))
    }
}

impl fmt::Debug for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsettled")
    }
}

/// Limits and budgets that wait to be told what was used. Dropped untold, they take it that all was used that might have
/// been.
pub struct Settlement(Box<dyn FnOnce(&Exchange) + Send>);

impl Settlement {
    /// What is to be done with the complete record.
    pub fn new(settle: impl FnOnce(&Exchange) + Send + 'static) -> Self {
        Self(Box::new(settle))
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settlement")
    }
}

impl Exchange {
    /// Does the work that was left for now, sums up what the hops consumed, and tells those who wait for it. Call it once.
    pub fn settle(&mut self) {
        self.complete();
        for hop in &mut self.hops {
            hop.tell();
        }
        self.tell();
    }

    /// Tells those who wait for it what was used.
    pub fn tell(&mut self) {
        if let Some(Settlement(settle)) = self.settlement.take() {
            settle(self);
        }
    }

    fn complete(&mut self) {
        if let Some(Unsettled(work)) = self.unsettled.take() {
            work(self);
        }
        self.hops.iter_mut().for_each(Self::complete);
        (self.usage, self.cost) = self.totals();
    }

    /// What was consumed with all hops, and what that cost: not known as soon as one price is not.
    #[must_use]
    pub fn totals(&self) -> (Usage, Option<Money>) {
        let Some((first, rest)) = self.hops.split_first() else { return (self.usage, self.cost) };
        let usage = rest.iter().fold(first.usage, |sum, hop| sum.plus(&hop.usage));
        let unpriced = self.hops.iter().any(|hop| hop.cost.is_none() && hop.usage.total() > 0);
        let mut costs = self.hops.iter().filter_map(|hop| hop.cost);
        let cost = costs.next().filter(|_| !unpriced);
        (usage, cost.and_then(|first| costs.try_fold(first, Money::checked_add)))
    }
}
