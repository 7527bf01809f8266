//! How much may be used: limits over requests, tokens, rows, bytes, money and calls under way. What a call will use at
//! most is reserved before it is made and settled when it has ended, so that nothing is ever admitted over a limit and
//! nothing is counted that was not used.

mod admit;
mod cells;
mod queue;
mod sync;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use admit::{Ask, Left, Refused, Reservation, Terms, admit};
pub use cells::{Cells, Count, Tally};
pub use queue::{Full, Place, Priority, Queue};
pub use window::{Calendar, Now, Span};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Calls.
    Requests,
    /// Tokens of prompts.
    InputTokens,
    /// Tokens of answers.
    OutputTokens,
    /// Both.
    Tokens,
    /// Calls at the same time.
    Concurrent,
    /// Bytes of bodies, to and fro.
    Bytes,
    /// Rows predicted.
    Rows,
    /// Money, in nano-USD.
    Cost,
}

impl Measure {
    /// The word in files and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputTokens => "input tokens",
            Self::OutputTokens => "output tokens",
            Self::Tokens => "tokens",
            Self::Concurrent => "concurrent requests",
            Self::Bytes => "bytes",
            Self::Rows => "rows",
            Self::Cost => "nano-USD",
        }
    }

    /// Whether what a call may use is a bound that may be far from what it will.
    #[must_use]
    pub fn is_bounded(self) -> bool {
        matches!(self, Self::InputTokens | Self::OutputTokens | Self::Tokens | Self::Cost)
    }

    /// Whether each call is one of it, whatever it asks for.
    #[must_use]
    pub fn is_one(self) -> bool {
        matches!(self, Self::Requests | Self::Concurrent)
    }

    /// Whether what a call uses is known for good when it is admitted.
    #[must_use]
    pub fn is_final(self) -> bool {
        self == Self::Requests
    }
}

/// What one call uses, or may use at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Bytes of both bodies.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Nano-USD.
    pub cost: u64,
}

impl Amounts {
    /// The amount of one measure.
    #[must_use]
    pub fn of(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Requests | Measure::Concurrent => 1,
            Measure::InputTokens => self.input_tokens,
            Measure::OutputTokens => self.output_tokens,
            Measure::Tokens => self.input_tokens.saturating_add(self.output_tokens),
            Measure::Bytes => self.bytes,
            Measure::Rows => self.rows,
            Measure::Cost => self.cost,
        }
    }
}

/// What becomes of a call that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// It is refused.
    Refuse,
    /// It passes; that it would not have fitted is counted.
    Count,
}

/// A limit or a budget at work. What was used outlives it: [`Cells`] are handed on when its figures change.
#[derive(Debug)]
pub struct Limit {
    /// For messages, metrics and the admin API.
    pub name: Arc<str>,
    /// What is counted.
    pub measure: Measure,
    /// How much of it, per span.
    pub amount: u64,
    /// Other amounts for some of those that it tells apart, by their labels.
    pub amounts: HashMap<Box<str>, u64>,
    /// Over which time.
    pub span: Span,
    /// What becomes of a call that does not fit.
    pub exceeded: Exceeded,
    /// A budget: what it refuses is no matter of patience.
    pub budget: bool,
    /// A call may be given less of an answer than it asks for, where the whole does not fit.
    pub cap: bool,
    /// How calls wait that do not fit. `None`: they do not.
    pub queue: Option<Queue>,
    /// Per cent of the amount at which an alert is raised, ascending.
    pub alerts: Arc<[u8]>,
    /// What names the counts, the same in every process with this configuration.
    pub key: Arc<str>,
    /// What was used.
    pub cells: Arc<Cells>,
}

/// So much of a limit is used for the first time in its window.
#[derive(Clone, Debug)]
pub struct Alert {
    /// The limit.
    pub limit: Arc<Limit>,
    /// Whose part of it.
    pub label: Arc<str>,
    /// The step that was reached.
    pub percent: u8,
    /// What was used.
    pub used: u64,
    /// What may be used.
    pub amount: u64,
}

impl Limit {
    /// What may be used within the span by whom the label names.
    #[must_use]
    pub fn amount_for(&self, label: &str) -> u64 {
        if self.amounts.is_empty() { self.amount } else { *self.amounts.get(label).unwrap_or(&self.amount) }
    }

    /// How much must fit of a limit for a call that uses `amount` at most. Bounds are rough: where a call may be refused, they
    /// must fit `margin` times over.
    #[must_use]
    pub fn wanted(&self, amount: u64, margin: u64) -> u64 {
        let rough = self.measure.is_bounded() && self.exceeded == Exceeded::Refuse;
        if rough { amount.saturating_mul(margin) } else { amount }
    }

    /// What was used so far, for everybody that is known.
    #[must_use]
    pub fn counts(&self, now: Now) -> Vec<Count> {
        self.cells.counts(self, now)
    }

    /// Books what was used before this process began.
    pub fn book(&self, label: &str, amount: u64, now: Now) {
        self.cells.book(self, label, amount, now);
    }
}

/// Nanoseconds in a duration, as far as they fit.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
