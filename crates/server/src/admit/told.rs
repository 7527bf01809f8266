//! What callers are told of their limits.

use std::time::Duration;

use http::HeaderName;
use millgate_policy::{Left, Measure, Refused, Span};
use millgate_types::{Fault, code};

use crate::flight::Flight;
use crate::reply::{millis, names, value};

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

    /// Tells `x-ratelimit-*` as OpenAI writes them, and the bound that was put on the answer.
    pub(crate) fn tell(&self, mut to: impl FnMut(HeaderName, &[u8])) {
        let mut digits = itoa::Buffer::new();
        for (left, [limit, remaining, reset]) in [
            (&self.requests, [names::LIMIT, names::REMAINING, names::RESET]),
            (&self.tokens, [names::TOKENS_LIMIT, names::TOKENS_REMAINING, names::TOKENS_RESET]),
        ] {
            let Some(left) = left else { continue };
            to(limit, digits.format(left.amount).as_bytes());
            to(remaining, digits.format(left.remaining).as_bytes());
            millis(left.reset, |text| to(reset, text));
        }
        if let Some(most) = self.capped {
            to(names::MAX_TOKENS, digits.format(most).as_bytes());
        }
    }
}

/// The answer to a call that does not fit.
pub(crate) fn exceeded(refused: &Refused, flight: &mut Flight) -> Fault {
    let limit = &refused.limit;
    let mut none = Allowance::default();
    let (measure, amount, reset) = (limit.measure, refused.amount, refused.reset);
    none.note(Left { measure, amount, remaining: 0, reset, exceeded: true });
    none.tell(|name, text| flight.headers.push((name, value(text))));
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
