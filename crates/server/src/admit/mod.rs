//! Whether a call is within its limits and budgets. What it may use at most is reserved in one step in all of them, before
//! anything is called; what it used is settled when its record is complete.

mod bounds;
mod told;
mod wait;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use millgate_observe::{LimitOutcome, Metrics};
use millgate_policy::{Alert, Amounts, Ask, Exceeded, Left, Refused, Reservation, Terms};
use millgate_types::{Exchange, Fault, Money, Retry, Source, code};

use crate::Gateway;
use crate::flight::Flight;
use crate::limits::{Asked, Rule, Who};
use crate::pipeline::{self, Planned, Routed};
use crate::shared::{Decision, Holding};
use crate::snapshot::known::Known;

use bounds::Bounds;
pub(crate) use told::{Allowance, exceeded};

/// A prompt has fewer tokens than bytes. Where this many times as much fits, they are not counted.
const ROOMY: u64 = 8;

/// Admits a call of an endpoint. Where limits say so, it waits for its turn, or its answer is bounded.
pub(crate) async fn endpoint(
    gateway: &Arc<Gateway>,
    routed: &mut Routed,
    peer: IpAddr,
    asked: Asked<'_>,
    flight: &mut Flight,
) -> Result<Allowance, Fault> {
    let (endpoint, identity) = (Arc::clone(&routed.call.endpoint), Arc::clone(&routed.call.identity));
    let target = routed.steps.first().map(|step| Arc::clone(pipeline::name_of(step)));
    let who = Who::of(&identity, peer, &endpoint.name).target(target.as_deref().unwrap_or("")).asked(asked);
    let admission = Admission::of_caller(gateway, &endpoint.rules, &who);
    if !gateway.is_durable() && admission.asks.iter().all(|ask| ask.limit.measure.is_one()) {
        return admission.admit(Amounts::default(), flight).await;
    }
    let mut bounds = Bounds::of(&routed.call);
    if let Some(target) = bounds.price(routed)
        && let Some(rule) = endpoint.rules.iter().find(|rule| rule.priced_only && rule.ask(&who).is_some())
    {
        let public = format!(
            "what `{target}` costs is not known, and the budget `{}` wants it known",
            rule.limit.name
        );
        return Err(Fault::client(code::BUDGET_EXCEEDED, public));
    }
    admission.knows_what_was_spent()?;
    let allowance = admission.within(&mut bounds, routed, flight).await?;
    // What nobody may lose stands in the store before it is spent.
    let (cost, assumed) = (bounds.amounts.cost, bounds.most().is_none());
    if gateway.is_durable() && cost > 0 && !flight.announce(cost, assumed).await {
        return Err(unknown("what is spent cannot be written down, and the ledger is to lose nothing"));
    }
    Ok(allowance)
}

/// Admits a call of which nothing is known but that it is one.
pub(crate) async fn unread(
    gateway: &Arc<Gateway>,
    rules: &[Rule],
    who: &Who<'_>,
    flight: &mut Flight,
) -> Result<Allowance, Fault> {
    let admission = Admission::of_caller(gateway, rules, who);
    if admission.asks.is_empty() {
        return Ok(Allowance::default());
    }
    admission.knows_what_was_spent()?;
    admission.admit(Amounts::default(), flight).await
}

/// Admits one try with a key of a provider, of which nothing more is known.
pub(crate) async fn key(
    gateway: &Arc<Gateway>,
    rules: &[Rule],
    who: &Who<'_>,
    flight: &mut Flight,
) -> Result<(), Fault> {
    if rules.is_empty() {
        return Ok(());
    }
    Admission::new(gateway, rules, who).admit(Amounts::default(), flight).await.map(drop)
}

/// Admits one try at a provider to what that provider allows. A call that does not fit goes to the next target.
pub(crate) async fn provider(
    rules: &[Rule],
    target: &str,
    planned: &Planned,
    known: &Known,
    flight: &mut Flight,
) -> Result<(), Fault> {
    let call = &planned.call;
    let peer = flight.record().peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let who = Who::of(&call.identity, peer, &call.endpoint.name).target(target);
    let gateway = Arc::clone(flight.gateway());
    let admission = Admission::new(&gateway, rules, &who);
    let mut amounts = Amounts::default();
    if !admission.asks.iter().all(|ask| ask.limit.measure.is_one()) {
        amounts = Bounds::of(call).amounts;
        let price = known.price.as_ref();
        let cost = price.and_then(|price| price.most(amounts.input_tokens, amounts.output_tokens));
        amounts.cost = cost.and_then(|cost| nanos(cost.0)).unwrap_or(0);
    }
    let admitted = admission.admit(amounts, flight).await;
    admitted.map(drop).map_err(|fault| Fault { retry: Retry::NextTarget, ..fault })
}

/// One call, and the limits that it must be within.
struct Admission<'a> {
    gateway: &'a Arc<Gateway>,
    rules: &'a [Rule],
    who: &'a Who<'a>,
    asks: Vec<Ask>,
}

/// Bounds a call to what a limit has room for. `None`: it cannot be.
type Shorten<'a> = dyn FnMut(&Refused) -> Option<Amounts> + Send + 'a;

impl<'a> Admission<'a> {
    fn new(gateway: &'a Arc<Gateway>, rules: &'a [Rule], who: &'a Who<'a>) -> Self {
        let asks = rules.iter().filter_map(|rule| rule.ask(who)).collect();
        Self { gateway, rules, who, asks }
    }

    /// Also what was granted to those for whom the call counts.
    fn of_caller(gateway: &'a Arc<Gateway>, rules: &'a [Rule], who: &'a Who<'a>) -> Self {
        let mut admission = Self::new(gateway, rules, who);
        if let Some(granted) = gateway.granted() {
            admission.asks.extend(granted.iter().filter_map(|rule| rule.ask(who)));
            admission.asks.sort_by_key(|ask| ask.limit.cells.number());
        }
        admission
    }

    /// Fault: `dependency_unavailable` where a budget refuses calls and nobody can tell which.
    fn knows_what_was_spent(&self) -> Result<(), Fault> {
        let hard = |ask: &Ask| ask.limit.budget && ask.limit.exceeded == Exceeded::Refuse;
        let lost = || self.gateway.ledger.as_ref().is_some_and(|ledger| ledger.is_at_a_loss());
        if self.asks.iter().any(hard) && lost() {
            let text = "what was spent is not known or cannot be written down, and a budget wants it to be";
            return Err(unknown(text));
        }
        Ok(())
    }

    /// Admits a call that uses `bounds` at most; bounds that are rough are made better where that may matter.
    async fn within(
        &self,
        bounds: &mut Bounds,
        routed: &mut Routed,
        flight: &mut Flight,
    ) -> Result<Allowance, Fault> {
        if !bounds.counted && !self.asks.is_empty() {
            // Nobody passes those who wait already.
            let tried = match self.line() {
                Some(refused) => Err(Some(refused)),
                None => self.attempt(&bounds.amounts, ROOMY, flight).await,
            };
            match tried {
                Ok(allowance) => return Ok(allowance),
                // What was refused because of a rough bound may fit; everything else is refused as it is.
                Err(Some(refused)) if refused.limit.measure.is_bounded() || refused.limit.queue.is_some() => {
                    bounds.count(self.gateway, routed).await;
                    bounds.price(routed);
                }
                Err(_) => {}
            }
        }
        let (amounts, before) = (bounds.amounts, bounds.most());
        let call = &*routed;
        let mut shorten = |refused: &Refused| bounds.shorten(refused, call).then_some(bounds.amounts);
        let mut allowance = self.fit_or_wait(amounts, &mut shorten, flight).await?;
        if let Some(most) = bounds.most().filter(|most| before != Some(*most)) {
            routed.call.cap_output(most)?;
            allowance.capped = Some(most);
        }
        Ok(allowance)
    }

    async fn admit(&self, amounts: Amounts, flight: &mut Flight) -> Result<Allowance, Fault> {
        self.fit_or_wait(amounts, &mut |_| None, flight).await
    }

    async fn fit_or_wait(
        &self,
        mut amounts: Amounts,
        shorten: &mut Shorten<'_>,
        flight: &mut Flight,
    ) -> Result<Allowance, Fault> {
        let mut tried = match self.line() {
            Some(refused) => Err(Some(refused)),
            None => self.fit(&mut amounts, shorten, flight).await,
        };
        if let Err(Some(refused)) = &tried
            && refused.limit.queue.is_some()
        {
            let refused = refused.clone();
            tried = Box::pin(self.wait(refused, &mut amounts, shorten, flight)).await;
        }
        tried.map_err(|refused| match refused {
            Some(refused) => {
                self.gateway.metrics.limit_exceeded(&refused.limit.name, LimitOutcome::Refused);
                exceeded(&refused, flight)
            }
            None => unknown("what is used cannot be asked for, and a limit or budget wants it to be"),
        })
    }

    /// One try, bounded to what there is room for.
    async fn fit(
        &self,
        amounts: &mut Amounts,
        shorten: &mut Shorten<'_>,
        flight: &mut Flight,
    ) -> Result<Allowance, Option<Refused>> {
        loop {
            match self.attempt(amounts, 1, flight).await {
                Err(Some(refused)) => match shorten(&refused) {
                    Some(less) => *amounts = less,
                    None => return Err(Some(refused)),
                },
                other => return other,
            }
        }
    }

    /// Takes what a call wants of all limits, or nothing; `None` where nobody can tell whether it fits.
    async fn attempt(
        &self,
        amounts: &Amounts,
        margin: u64,
        flight: &mut Flight,
    ) -> Result<Allowance, Option<Refused>> {
        let (gateway, asks) = (self.gateway, &self.asks[..]);
        let now = flight.clock();
        let mut allowance = Allowance::default();
        let mut note = |ask: &Ask, left: Left| {
            // One that refuses nobody is nothing to reckon with.
            if ask.limit.exceeded == Exceeded::Refuse {
                allowance.note(left);
            }
            if left.exceeded {
                gateway.metrics.limit_exceeded(&ask.limit.name, LimitOutcome::Counted);
            }
        };
        let Some(counters) = &gateway.shared else {
            let held = millgate_policy::admit(asks, amounts, Terms::alone(margin), now, &mut note)?;
            flight.reserve(held, Holding::default(), amounts);
            return Ok(allowance);
        };
        // Boxed, because every future around this one would have to have room for it, and be moved with that.
        let (terms, holding, told) = match Box::pin(counters.admit(asks, amounts, margin, now)).await {
            Decision::Taken(holding, told) => {
                (Terms { margin, share: 1, decided: true }, holding, Some(told))
            }
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
}

fn unknown(public: &'static str) -> Fault {
    let fault = Fault::new(code::DEPENDENCY_UNAVAILABLE, Source::Gateway, Retry::Never, public);
    fault.with_retry_after(Duration::from_secs(5))
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
