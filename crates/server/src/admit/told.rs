//! What callers are told of their limits.

use std::io::Write as _;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use millgate_policy::{Left, Measure, Refused, Span};
use millgate_types::{Fault, code};

use crate::flight::Flight;
use crate::reply::{Values, names, number};

/// The wait that is advised where the room hangs on calls that are under way.
const SOON: Duration = Duration::from_secs(1);

/// What limits still allow: the tightest one of requests, and of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    requests: Option<Left>,
    tokens: Option<Left>,
    /// The answer is asked to be no longer, where a limit has no more.
    pub(super) capped: Option<u64>,
}

impl Allowance {
    pub(super) fn note(&mut self, left: Left) {
        let place = match left.measure {
            Measure::Requests => &mut self.requests,
            Measure::Tokens | Measure::InputTokens | Measure::OutputTokens => &mut self.tokens,
            _ => return,
        };
        if place.is_none_or(|known| left.remaining < known.remaining) {
            *place = Some(left);
        }
    }

    /// `x-ratelimit-*` as OpenAI writes them, and the bound that was put on the answer.
    pub(crate) fn headers(self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let mut values = Values::default();
        let mut of = |left: Option<Left>, names: [HeaderName; 3]| {
            let told = left.map(|left| {
                [values.number(left.amount), values.number(left.remaining), reset(left.reset, &mut values)]
            });
            told.into_iter().flat_map(move |told| names.clone().into_iter().zip(told))
        };
        let requests = of(self.requests, [names::LIMIT, names::REMAINING, names::RESET]);
        let tokens = of(self.tokens, [names::TOKENS_LIMIT, names::TOKENS_REMAINING, names::TOKENS_RESET]);
        requests.chain(tokens).chain(self.capped.map(|most| (names::MAX_TOKENS, number(most))))
    }
}

fn reset(reset: Duration, values: &mut Values) -> HeaderValue {
    let mut space = [0; 22];
    let mut left = &mut space[..];
    let _fits = write!(left, "{}ms", reset.as_millis() as u64);
    let unused = left.len();
    values.add(&space[..space.len() - unused])
}

/// The answer to a call that does not fit.
pub(crate) fn exceeded(refused: &Refused, flight: &mut Flight) -> Fault {
    let limit = &refused.limit;
    let mut none = Allowance::default();
    let (measure, amount, reset) = (limit.measure, refused.amount, refused.reset);
    none.note(Left { measure, amount, remaining: 0, reset, exceeded: true });
    flight.headers.extend(none.headers());
    let whose = if refused.label.is_empty() || limit.budget {
        String::new()
    } else {
        format!(" of `{}`", refused.label)
    };
    let (code, public) = if limit.budget {
        (
            code::BUDGET_EXCEEDED,
            format!("the budget `{}` is used up, or what is left does not cover this call", limit.name),
        )
    } else {
        let over = match &limit.span {
            Span::Rolling { window, .. } => format!(" per {} s", window.as_secs_f64()),
            Span::Calendar(_) => " of this window".to_owned(),
            Span::Meanwhile => String::new(),
        };
        let text = format!(
            "the limit `{}` of {} {}{over}{whose} is used up",
            limit.name,
            refused.amount,
            limit.measure.name()
        );
        (code::RATE_LIMIT_EXCEEDED, text)
    };
    Fault::client(code, public).with_retry_after(refused.retry_after.unwrap_or(SOON))
}
