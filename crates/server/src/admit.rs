//! Whether a call is within its limits and budgets. What it may use at most is reserved in one step in all of them, before
//! anything is called; what it used is settled when its record is complete.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use millgate_observe::Metrics;
use millgate_policy::{
    Alert, Amounts, Ask, Exceeded, Left, Measure, Refused, Reservation, Span, Step, Terms,
};
use millgate_types::{Exchange, Fault, Money, Operation, Retry, Source, Usage, code};

use crate::Gateway;
use crate::dispatch;
use crate::flight::Flight;
use crate::limits::{Rule, Who};
use crate::pipeline::{Decoded, Planned, Routed};
use crate::reply::{names, number};
use crate::shared::{Decision, Holding};
use crate::snapshot::known::Known;
use crate::snapshot::{Target, TargetKind};

/// Tokens of an answer of which nobody says how long it may be. Longer ones are seen when they come.
const ASSUMED_OUTPUT: u64 = 1024;
/// A prompt has fewer tokens than bytes. Where this many times as much fits, they are not counted.
const ROOMY: u64 = 8;
/// Other vendors' vocabularies need up to a part of this more tokens than the one that we count with.
const INEXACT: u64 = 4;
/// Tokens that providers add to a prompt of their own.
const FRAME: u64 = 8;
/// The wait that is advised where the room hangs on calls that are under way.
const SOON: Duration = Duration::from_secs(1);

/// What limits still allow: the tightest one of requests, and of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    requests: Option<Left>,
    tokens: Option<Left>,
}

impl Allowance {
    fn note(&mut self, left: Left) {
        let place = match left.measure {
            Measure::Requests => &mut self.requests,
            Measure::Tokens | Measure::InputTokens | Measure::OutputTokens => &mut self.tokens,
            _ => return,
        };
        if place.is_none_or(|known| left.remaining < known.remaining) {
            *place = Some(left);
        }
    }

    /// `x-ratelimit-*` as OpenAI writes them.
    pub(crate) fn headers(self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let of = |left: Option<Left>, names: [HeaderName; 3]| {
            let values = left.map(|left| [number(left.amount), number(left.remaining), reset(left.reset)]);
            values.into_iter().flat_map(move |values| names.clone().into_iter().zip(values))
        };
        of(self.requests, [names::LIMIT, names::REMAINING, names::RESET])
            .chain(of(self.tokens, [names::TOKENS_LIMIT, names::TOKENS_REMAINING, names::TOKENS_RESET]))
    }
}

fn reset(reset: Duration) -> HeaderValue {
    let mut space = [0; 22];
    let mut left = &mut space[..];
    let _fits = write!(left, "{}ms", reset.as_millis() as u64);
    let unused = left.len();
    let reset = HeaderValue::from_bytes(&space[..space.len() - unused]);
    reset.unwrap_or(HeaderValue::from_static("0ms"))
}

/// Admits a call of an endpoint.
pub(crate) async fn endpoint(
    gateway: &Arc<Gateway>,
    call: &Routed,
    peer: IpAddr,
    flight: &mut Flight,
) -> Result<Allowance, Fault> {
    let endpoint = &call.call.endpoint;
    if endpoint.rules.is_empty() {
        return Ok(Allowance::default());
    }
    let who = Who::of(&call.call.identity, peer, &endpoint.name);
    let asks = asks(&endpoint.rules, &who);
    let Some(mut bounds) = Bounds::of(&asks, &call.call) else {
        return admit(gateway, &asks, &Amounts::default(), 1, flight).await;
    };
    let unpriced = bounds.price(call);
    if let Some(target) = unpriced
        && let Some(rule) = endpoint.rules.iter().find(|rule| rule.priced_only && rule.ask(&who).is_some())
    {
        let public = format!(
            "what `{target}` costs is not known, and the budget `{}` wants it known",
            rule.limit.name
        );
        return Err(Fault::client(code::BUDGET_EXCEEDED, public));
    }
    let hard = |ask: &Ask| ask.limit.budget && ask.limit.exceeded == Exceeded::Refuse;
    if asks.iter().any(hard) && gateway.ledger.as_ref().is_some_and(|ledger| ledger.is_full()) {
        return Err(unknown("what is spent cannot be written down, and a budget wants it to be"));
    }
    if !bounds.counted {
        match try_admit(gateway, &asks, &bounds.amounts, ROOMY, flight).await {
            Ok(allowance) => return Ok(allowance),
            // What was refused because of a rough bound may fit; everything else is refused as it is.
            Err(Some(refused)) if refused.limit.measure.is_bounded() => {
                bounds.count(gateway, call).await;
                bounds.price(call);
            }
            Err(_) => {}
        }
    }
    admit(gateway, &asks, &bounds.amounts, 1, flight).await
}

/// Admits a call of which nothing is known but that it is one.
pub(crate) async fn unread(
    gateway: &Arc<Gateway>,
    rules: &[Rule],
    who: &Who<'_>,
    flight: &mut Flight,
) -> Result<Allowance, Fault> {
    if rules.is_empty() {
        return Ok(Allowance::default());
    }
    admit(gateway, &asks(rules, who), &Amounts::default(), 1, flight).await
}

/// Admits one try at a provider to what that provider allows. A call that does not fit goes to the next target.
pub(crate) async fn provider(
    rules: &[Rule],
    planned: &Planned,
    known: &Known,
    flight: &mut Flight,
) -> Result<(), Fault> {
    let call = &planned.call;
    let peer = flight.record().peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let asks = asks(rules, &Who::of(&call.identity, peer, &call.endpoint.name));
    let mut amounts = Amounts::default();
    if let Some(bounds) = Bounds::of(&asks, call) {
        amounts = bounds.amounts;
        let price = known.price.as_ref();
        let cost = price.and_then(|price| price.most(amounts.input_tokens, amounts.output_tokens));
        amounts.cost = cost.and_then(|cost| nanos(cost.0)).unwrap_or(0);
    }
    let gateway = Arc::clone(flight.gateway());
    let admitted = admit(&gateway, &asks, &amounts, 1, flight).await;
    admitted.map(drop).map_err(|fault| Fault { retry: Retry::NextTarget, ..fault })
}

fn asks(rules: &[Rule], who: &Who<'_>) -> Vec<Ask> {
    rules.iter().filter_map(|rule| rule.ask(who)).collect()
}

async fn admit(
    gateway: &Arc<Gateway>,
    asks: &[Ask],
    amounts: &Amounts,
    margin: u64,
    flight: &mut Flight,
) -> Result<Allowance, Fault> {
    match try_admit(gateway, asks, amounts, margin, flight).await {
        Ok(allowance) => Ok(allowance),
        Err(Some(refused)) => {
            gateway.metrics.limit_exceeded(&refused.limit.name, true);
            Err(exceeded(&refused, flight))
        }
        Err(None) => Err(unknown("what is used cannot be asked for, and a limit or budget wants it to be")),
    }
}

fn unknown(public: &'static str) -> Fault {
    let fault = Fault::new(code::DEPENDENCY_UNAVAILABLE, Source::Gateway, Retry::Never, public);
    fault.with_retry_after(Duration::from_secs(5))
}

/// Takes what a call wants of all limits, or nothing; `None` where nobody can tell whether it fits.
async fn try_admit(
    gateway: &Arc<Gateway>,
    asks: &[Ask],
    amounts: &Amounts,
    margin: u64,
    flight: &mut Flight,
) -> Result<Allowance, Option<Refused>> {
    let now = gateway.clock();
    let mut allowance = Allowance::default();
    let mut note = |ask: &Ask, left: Left| {
        // One that refuses nobody is nothing to reckon with.
        if ask.limit.exceeded == Exceeded::Refuse {
            allowance.note(left);
        }
        if left.exceeded {
            gateway.metrics.limit_exceeded(&ask.limit.name, false);
        }
    };
    let Some(counters) = &gateway.shared else {
        let held = millgate_policy::admit(asks, amounts, Terms::alone(margin), now, &mut note)?;
        flight.reserve(held, Holding::default(), amounts);
        return Ok(allowance);
    };
    let (terms, holding, told) = match counters.admit(asks, amounts, margin, now).await {
        Decision::Taken(holding, told) => (Terms { margin, share: 1, decided: true }, holding, Some(told)),
        Decision::Refused(refused) => return Err(Some(refused)),
        Decision::Here(terms) => (terms, Holding::default(), None),
        Decision::Nobody => return Err(None),
    };
    // What this replica has used is counted here too: it is what there is when the others cannot be asked.
    let held = match &told {
        Some(told) => {
            asks.iter().zip(told).for_each(|(ask, left)| note(ask, *left));
            millgate_policy::admit(asks, amounts, terms, now, &mut |_, _| {})
        }
        None => millgate_policy::admit(asks, amounts, terms, now, &mut note),
    };
    flight.reserve(held?, holding, amounts);
    Ok(allowance)
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

/// What a call may use at most, as far as its limits ask for it.
struct Bounds {
    amounts: Amounts,
    /// Prompt tokens are counted, or nobody asks for them.
    counted: bool,
    /// Tokens of one answer and how many answers there may be.
    most: Option<u64>,
    answers: u64,
}

impl Bounds {
    /// `None`: nothing but the call itself is counted.
    fn of(asks: &[Ask], call: &Decoded) -> Option<Self> {
        let final_ = |ask: &Ask| matches!(ask.limit.measure, Measure::Requests | Measure::Concurrent);
        if asks.iter().all(final_) {
            return None;
        }
        let bytes = call.body.len() as u64;
        let facts = call.facts.as_ref();
        let writes = matches!(call.operation, Operation::Chat | Operation::Completions);
        let most = facts.and_then(|facts| facts.most);
        let answers = facts.map_or(1, |facts| facts.answers.max(1));
        let output = if writes { most.unwrap_or(ASSUMED_OUTPUT).saturating_mul(answers) } else { 0 };
        let input = if facts.is_some() && call.operation != Operation::CountTokens { bytes } else { 0 };
        let amounts = Amounts {
            input_tokens: input,
            output_tokens: output,
            bytes,
            rows: u64::from(facts.is_none()),
            cost: 0,
        };
        Some(Self { amounts, counted: input == 0, most, answers })
    }

    /// Bounds the cost by the dearest target that may be asked. Gives one whose price is not known.
    fn price(&mut self, call: &Routed) -> Option<Arc<str>> {
        let mut unpriced = None;
        let mut dearest = 0;
        for step in &call.steps {
            let cost = match step {
                Step::Target(target) => self.of_target(target, &call.call),
                // Each part may be asked.
                Step::Graph(graph) => graph
                    .parts()
                    .into_iter()
                    .flat_map(millgate_policy::Route::targets)
                    .map(|target| self.of_target(&target, &call.call))
                    .sum::<Option<u64>>(),
            };
            match cost {
                Some(cost) => dearest = dearest.max(cost),
                None => drop(unpriced.get_or_insert_with(|| Arc::clone(crate::pipeline::name_of(step)))),
            }
        }
        self.amounts.cost = dearest;
        unpriced
    }

    fn of_target(&self, target: &Target, call: &Decoded) -> Option<u64> {
        let tokens = (self.amounts.input_tokens, self.amounts.output_tokens);
        match &target.kind {
            TargetKind::Provider { provider, model } => {
                let asked = call.facts.as_ref().and_then(|facts| facts.model.as_ref());
                let (_, _, known) =
                    model.resolve(provider, &call.endpoint, asked.map(|model| &*model.name))?;
                let output = match (self.most, known.max_output) {
                    (None, Some(most)) => tokens.1.min(most.saturating_mul(self.answers)),
                    _ => tokens.1,
                };
                let price = known.price.as_ref()?;
                if call.operation == Operation::Rerank {
                    let billed = millgate_types::Billed { search_units: 1, ..Default::default() };
                    let usage = Usage { billed: Some(billed), ..Usage::default() };
                    return nanos(price.cost(&usage)?.0);
                }
                nanos(price.most(tokens.0, output)?.0)
            }
            TargetKind::Chat(chat) => match chat.price() {
                Some(price) => nanos(price.most(tokens.0, tokens.1)?.0),
                None => Some(0),
            },
            TargetKind::Model(_) => {
                let serving = &call.endpoint.config.serving;
                Some(serving.price.as_ref().map_or(0, |price| price.nanos(1, 0)))
            }
        }
    }

    /// Counts the tokens of the prompt, off the data thread: the first count loads a vocabulary.
    async fn count(&mut self, gateway: &Gateway, call: &Routed) {
        self.counted = true;
        let (dialect, operation) = (call.call.dialect, call.call.operation);
        let body = call.call.body.clone();
        let model = call.call.facts.as_ref().and_then(|facts| facts.model.as_ref());
        let model: Box<str> = model.map_or("", |model| &*model.name).into();
        let count = move || dispatch::count_input(dialect, operation, &body, &model);
        if let Ok(Some(tokens)) = gateway.models().handle().spawn_blocking(count).await {
            let bound = tokens.saturating_add(tokens / INEXACT).saturating_add(FRAME);
            self.amounts.input_tokens = self.amounts.input_tokens.min(bound);
        }
    }
}

fn nanos(cost: i64) -> Option<u64> {
    u64::try_from(cost).ok()
}

/// Books what a complete record says that was used, and raises the alerts that come of it.
pub(crate) fn settle(gateway: &Gateway, held: Reservation, holding: Holding, record: &Exchange) {
    let used = used(record);
    holding.settle(&used);
    let alerts = held.settle(&used, gateway.clock());
    // Where others spend too, the shared counts know better.
    if gateway.shared.as_ref().is_none_or(|counters| !counters.is_up()) {
        for raised in &alerts {
            alert(&gateway.metrics, raised);
        }
    }
}

/// Tells that a step of a budget was reached.
pub(crate) fn alert(metrics: &Metrics, alert: &Alert) {
    let usd = |nanos: u64| Money(i64::try_from(nanos).unwrap_or(i64::MAX)).to_string();
    metrics.budget_alert(&alert.limit.name, alert.percent);
    tracing::warn!(
        budget = %alert.limit.name,
        whose = %alert.label,
        percent = alert.percent,
        spent_usd = usd(alert.used),
        of_usd = usd(alert.amount),
        "a budget is used up to this part"
    );
}

/// What a complete record says that was used.
fn used(record: &Exchange) -> Amounts {
    Amounts {
        input_tokens: record.usage.prompt_total(),
        output_tokens: record.usage.completion_total(),
        bytes: record.bytes_in.saturating_add(record.bytes_out),
        rows: record.rows,
        cost: record.cost.and_then(|cost| nanos(cost.0)).unwrap_or(0),
    }
}
