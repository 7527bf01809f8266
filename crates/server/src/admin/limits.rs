//! Limits and budgets: what they allow, and what is used of them now.

use http::Method;
use millgate_config::Usd;
use millgate_policy::{Calendar, Count, Exceeded, Measure, Span};
use millgate_types::{Fault, Permission};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

use super::{Answer, Context, Manner, Route};
use crate::limits::Rule;

pub(super) fn routes() -> [Route; 2] {
    let limits = Route {
        method: Method::GET,
        path: "/limits",
        needs: Permission::Read,
        summary: "All limits, with what is used of them now",
        query: &[],
        request: None,
        response: SchemaGenerator::subschema_for::<LimitList>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { limits(&context) }),
    };
    [
        Route {
            path: "/budgets",
            summary: "All budgets, with what was spent and what is reserved",
            response: SchemaGenerator::subschema_for::<BudgetList>,
            handle: |context| Box::pin(async move { budgets(&context) }),
            ..limits.copy()
        },
        limits,
    ]
}

#[derive(Serialize, JsonSchema)]
struct LimitList {
    limits: Vec<LimitView>,
}

/// A limit.
#[derive(Serialize, JsonSchema)]
struct LimitView {
    name: String,
    /// The endpoint or provider that it stands at; `null` for those of the top level.
    of: Option<String>,
    /// `requests`, `tokens`, `input tokens`, `output tokens`, `rows`, `bytes`, `nano-USD` or `concurrent requests`.
    measure: &'static str,
    /// How much of it.
    amount: u64,
    /// `rolling`, `calendar`, or `meanwhile` for requests at the same time.
    window: &'static str,
    /// The length of a rolling window, in seconds.
    seconds: Option<f64>,
    /// What tells counts apart.
    by: String,
    /// It counts and refuses nobody.
    shadow: bool,
    /// Who has used something; nobody else is told apart yet.
    counts: Vec<CountView>,
}

/// What one of those that a limit tells apart has used.
#[derive(Serialize, JsonSchema)]
struct CountView {
    /// Who: empty where all share one count, `-` for those without what tells them apart.
    who: String,
    /// How much may be used.
    amount: u64,
    /// Used within the window.
    used: u64,
    /// Reserved by calls that are under way.
    reserved: u64,
    /// Seconds until all of it may be used again.
    reset: f64,
}

#[derive(Serialize, JsonSchema)]
struct BudgetList {
    budgets: Vec<BudgetView>,
}

/// A budget.
#[derive(Serialize, JsonSchema)]
struct BudgetView {
    name: String,
    /// `configured` in the file, or `granted` to single keys, users or teams, of which each has a sum of its own.
    origin: &'static str,
    /// For each of those that `by` tells apart; `null` where each was granted another one.
    usd: Option<String>,
    /// What tells them apart.
    by: String,
    /// It refuses what does not fit.
    hard: bool,
    spent: Vec<SpentView>,
}

/// What one of those that a budget tells apart has spent.
#[derive(Serialize, JsonSchema)]
struct SpentView {
    /// Who: empty where all share one budget, `-` for those without what tells them apart.
    who: String,
    usd: String,
    spent_usd: String,
    /// By calls that are under way, at most.
    reserved_usd: String,
    /// Of the budget, in per cent.
    percent: f64,
    /// When the next stretch begins, in milliseconds since 1970.
    resets_ms: Option<i64>,
}

fn limits(context: &Context) -> Result<Answer, Fault> {
    context.gateway.recorder.flush();
    let snapshot = &context.snapshot;
    let now = context.gateway.clock();
    let everywhere = snapshot.rules.iter().filter(|rule| !rule.limit.budget).map(|rule| (None, rule));
    let known: Vec<u64> = snapshot.rules.iter().map(|rule| rule.limit.cells.number()).collect();
    let own = snapshot
        .endpoints
        .iter()
        .flat_map(|endpoint| endpoint.rules.iter().map(move |rule| (Some(endpoint.name.to_string()), rule)));
    let own = own.filter(|(_, rule)| !known.contains(&rule.limit.cells.number()));
    let providers = snapshot.provider_rules.iter().map(|(name, rule)| (Some(name.to_string()), rule));
    let view = |(of, rule): (Option<String>, &Rule)| {
        let limit = &rule.limit;
        let (window, seconds) = match &limit.span {
            Span::Rolling { window, .. } => ("rolling", Some(window.as_secs_f64())),
            Span::Calendar(Calendar::Every { .. } | Calendar::Civil(..)) => ("calendar", None),
            Span::Meanwhile => ("meanwhile", None),
        };
        LimitView {
            name: limit.name.to_string(),
            of,
            measure: limit.measure.name(),
            amount: limit.amount,
            window,
            seconds,
            by: rule.by(),
            shadow: limit.exceeded == Exceeded::Count,
            counts: limit.counts(now).into_iter().map(CountView::from).collect(),
        }
    };
    Answer::ok(&LimitList { limits: everywhere.chain(own).chain(providers).map(view).collect() })
}

impl From<Count> for CountView {
    fn from(Count { label, tally }: Count) -> Self {
        Self {
            who: label.into(),
            amount: tally.amount,
            used: tally.used,
            reserved: tally.reserved,
            reset: tally.reset.as_secs_f64(),
        }
    }
}

fn usd(nanos: u64) -> String {
    Usd { nanos }.to_string()
}

fn budgets(context: &Context) -> Result<Answer, Fault> {
    // What calls have used whose answers have left is settled.
    context.gateway.recorder.flush();
    let now = context.gateway.clock();
    let configured = context.snapshot.rules.iter().filter(|rule| rule.limit.budget);
    let granted = context.gateway.granted();
    let granted = granted.iter().flat_map(|granted| granted.iter());
    let view = |rule: &Rule| {
        let limit = &rule.limit;
        debug_assert_eq!(limit.measure, Measure::Cost);
        // Who had a sum of their own once is none of them any more.
        let is_for = |count: &Count| rule.whose().is_none() || limit.amounts.contains_key(&count.label);
        let spent = limit.counts(now).into_iter().filter(is_for).map(|Count { label, tally }| SpentView {
            usd: usd(tally.amount),
            spent_usd: usd(tally.used),
            reserved_usd: usd(tally.reserved),
            percent: tally.used as f64 * 100.0 / tally.amount.max(1) as f64,
            resets_ms: tally.ends_ms,
            who: label.into(),
        });
        BudgetView {
            name: limit.name.to_string(),
            origin: if rule.whose().is_some() { "granted" } else { "configured" },
            usd: rule.whose().is_none().then(|| usd(limit.amount)),
            by: rule.by(),
            hard: limit.exceeded == Exceeded::Refuse,
            spent: spent.collect(),
        }
    };
    Answer::ok(&BudgetList { budgets: configured.chain(granted).map(view).collect() })
}
