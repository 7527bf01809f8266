//! What was used and what it cost, from the ledger's sums: grouped by anything, as JSON, CSV, or the FinOps Foundation's
//! FOCUS columns.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::{Method, StatusCode};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use millgate_store::UsageSum;
use millgate_types::{Fault, Money, Permission, Retry, Source, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

use super::{Answer, Context, Manner, Route};
use crate::keys::now_ms;

/// What sums can be grouped by, beside `tag:NAME`.
const DIMENSIONS: [&str; 13] = [
    "key",
    "user",
    "team",
    "app",
    "organization",
    "endpoint",
    "target",
    "provider",
    "model",
    "model_version",
    "operation",
    "day",
    "month",
];

pub(super) fn routes() -> [Route; 1] {
    [Route {
        method: Method::GET,
        path: "/usage",
        needs: Permission::Read,
        summary: "What was used and what it cost",
        query: &[
            (
                "by",
                "what to group by, comma-separated: `key`, `user`, `team`, `app`, `organization`, `endpoint`, `target`, `provider`, \
                 `model`, `model_version`, `operation`, `day`, `month`, `tag:NAME`; nothing: one sum",
            ),
            (
                "from",
                "the first day or moment: `2026-01-01`, `2026-01-01T06:00:00Z`; default: this month's first day",
            ),
            ("to", "the day or moment before which it ends; default: now"),
            ("zone", "the time zone of days and months; default `UTC`"),
            ("format", "`json` (default), `csv`, or `focus` (FOCUS 1.0, one row per day and target, as CSV)"),
        ],
        request: None,
        response: SchemaGenerator::subschema_for::<UsageReport>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { usage(&context).await }),
    }]
}

/// What was used.
#[derive(Serialize, JsonSchema)]
struct UsageReport {
    /// Milliseconds since 1970, as all times here; rounded down to a quarter of an hour.
    from_ms: i64,
    to_ms: i64,
    /// What it is grouped by.
    by: Vec<String>,
    rows: Vec<UsageRow>,
    total: UsageRow,
}

/// A sum.
#[derive(Clone, Default, Serialize, JsonSchema)]
struct UsageRow {
    /// The values of what it is grouped by.
    group: BTreeMap<String, String>,
    requests: i64,
    failed: i64,
    input_tokens: i64,
    output_tokens: i64,
    /// Rows predicted.
    rows: i64,
    /// As far as prices are known.
    cost_usd: String,
    /// The same in nano-USD.
    cost_nano_usd: i64,
    /// Calls whose price is not known.
    unpriced: i64,
    /// Calls whose tokens were counted here, because the provider did not.
    estimated: i64,
}

impl UsageRow {
    fn new(group: BTreeMap<String, String>, sum: &UsageSum) -> Self {
        Self {
            group,
            requests: sum.requests,
            failed: sum.failed,
            input_tokens: sum.input_tokens,
            output_tokens: sum.output_tokens,
            rows: sum.rows,
            cost_usd: Money(sum.cost).to_string(),
            cost_nano_usd: sum.cost,
            unpriced: sum.unpriced,
            estimated: sum.estimated,
        }
    }
}

async fn usage(context: &Context) -> Result<Answer, Fault> {
    let ledger = context.gateway.ledger.as_ref().ok_or_else(|| {
        Fault::client(code::NOT_IMPLEMENTED, "this gateway keeps no store, and so no ledger")
    })?;
    let zone = match context.query("zone") {
        Some(name) => TimeZone::get(&name).map_err(|_| {
            Fault::invalid_value("zone", "`zone` must be a time zone, for example `Europe/Berlin`")
        })?,
        None => TimeZone::UTC,
    };
    let by: Vec<String> = context
        .query("by")
        .map(|by| by.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect())
        .unwrap_or_default();
    for word in &by {
        if !DIMENSIONS.contains(&word.as_str()) && !word.starts_with("tag:") {
            let known = DIMENSIONS.join("`, `");
            return Err(Fault::invalid_value("by", format!("usage is grouped by `{known}` and `tag:NAME`")));
        }
    }
    let month = || {
        let now = Timestamp::from_millisecond(now_ms()).unwrap_or(Timestamp::UNIX_EPOCH);
        let first = now.to_zoned_datetime(zone.clone()).date().first_of_month();
        first.to_zoned_datetime(zone.clone()).map_or(0, |first| first.timestamp().as_millisecond())
    };
    let from = moment(context, "from", &zone)?.unwrap_or_else(month);
    let to = moment(context, "to", &zone)?.unwrap_or_else(|| now_ms() + 1);
    let from = from - from.rem_euclid(millgate_store::SLOT_MS);
    // Calls whose answers have left are in the ledger, also those of this moment.
    context.gateway.recorder.flush();
    let mut sums = ledger.usage(from, to).await.map_err(|error| {
        let text = "the ledger cannot be read now";
        Fault::new(code::DEPENDENCY_UNAVAILABLE, Source::Gateway, Retry::Never, text)
            .with_retry_after(std::time::Duration::from_secs(5))
            .with_cause(error)
    })?;
    sums.retain(|sum| context.sees(&sum.spender.endpoint));
    match context.query("format").as_deref() {
        None | Some("json") => {
            let rows = grouped(&sums, &by, &zone);
            let rows = rows.into_iter().map(|(group, sum)| UsageRow::new(group, &sum)).collect();
            let mut total = UsageSum::default();
            for sum in &sums {
                total.plus(sum);
            }
            let total = UsageRow::new(BTreeMap::new(), &total);
            Answer::ok(&UsageReport { from_ms: from, to_ms: to, by, rows, total })
        }
        Some("csv") => Answer::text(StatusCode::OK, "text/csv; charset=utf-8", csv(&sums, &by, &zone)),
        Some("focus") => Answer::text(StatusCode::OK, "text/csv; charset=utf-8", focus(&sums, &zone)),
        Some(_) => Err(Fault::invalid_value("format", "`format` must be `json`, `csv` or `focus`")),
    }
}

/// A day or a moment of the query.
fn moment(context: &Context, name: &'static str, zone: &TimeZone) -> Result<Option<i64>, Fault> {
    let Some(text) = context.query(name) else { return Ok(None) };
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Some(at.as_millisecond()));
    }
    let day = text.parse::<Date>().ok().and_then(|day| day.to_zoned_datetime(zone.clone()).ok());
    let wrong = || {
        let public = format!("`{name}` must be a day or a moment: `2026-01-01`, `2026-01-01T06:00:00Z`");
        Fault::invalid_value(name, public)
    };
    day.map(|day| Some(day.timestamp().as_millisecond())).ok_or_else(wrong)
}

fn grouped(sums: &[UsageSum], by: &[String], zone: &TimeZone) -> Vec<(BTreeMap<String, String>, UsageSum)> {
    let mut groups: BTreeMap<Vec<String>, UsageSum> = BTreeMap::new();
    for sum in sums {
        let values = by.iter().map(|word| value(sum, word, zone)).collect();
        groups.entry(values).or_default().plus(sum);
    }
    if groups.is_empty() && by.is_empty() {
        groups.insert(Vec::new(), UsageSum::default());
    }
    groups.into_iter().map(|(values, sum)| (by.iter().cloned().zip(values).collect(), sum)).collect()
}

fn value(sum: &UsageSum, word: &str, zone: &TimeZone) -> String {
    let spender = &sum.spender;
    let day = || {
        let at = Timestamp::from_millisecond(sum.slot_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        at.to_zoned_datetime(zone.clone()).date().to_string()
    };
    let (provider, model) = destination(&spender.target);
    match word {
        "key" => spender.principal.clone(),
        "user" => spender.user.clone(),
        "team" => spender.team.clone(),
        "app" => spender.app.clone(),
        "organization" => spender.organization.clone(),
        "endpoint" => spender.endpoint.clone(),
        "target" => spender.target.clone(),
        "provider" => provider.to_owned(),
        "model" => model.to_owned(),
        "model_version" => spender.model_version.clone(),
        "operation" => spender.operation.clone(),
        "day" => day(),
        "month" => day()[..7].to_owned(),
        tag => tag.strip_prefix("tag:").and_then(|tag| spender.tags.get(tag)).cloned().unwrap_or_default(),
    }
}

/// Provider and model of a target: registered models are ours.
fn destination(target: &str) -> (&str, &str) {
    match target.strip_prefix("models:/") {
        Some(model) => ("mlflow", model),
        None => target.split_once('/').unwrap_or(("", target)),
    }
}

/// A field of a CSV file (RFC 4180). What a spreadsheet would take for a formula is made text.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn csv(sums: &[UsageSum], by: &[String], zone: &TimeZone) -> String {
    let mut out = String::new();
    for word in by {
        out.push_str(&field(word));
        out.push(',');
    }
    out.push_str("requests,failed,input_tokens,output_tokens,rows,cost_usd,unpriced,estimated\r\n");
    for (group, sum) in grouped(sums, by, zone) {
        for word in by {
            out.push_str(&field(&group[word]));
            out.push(',');
        }
        let _written = write!(
            out,
            "{},{},{},{},{},{},{},{}\r\n",
            sum.requests,
            sum.failed,
            sum.input_tokens,
            sum.output_tokens,
            sum.rows,
            Money(sum.cost),
            sum.unpriced,
            sum.estimated
        );
    }
    out
}

/// One row per day, spender and target, in the columns of FOCUS 1.0.
fn focus(sums: &[UsageSum], zone: &TimeZone) -> String {
    let mut days: BTreeMap<(String, millgate_store::Spender), UsageSum> = BTreeMap::new();
    for sum in sums {
        days.entry((value(sum, "day", zone), millgate_store::Spender::clone(&sum.spender)))
            .or_default()
            .plus(sum);
    }
    let mut out = String::from(
        "BilledCost,BillingAccountId,BillingCurrency,BillingPeriodEnd,BillingPeriodStart,ChargeCategory,ChargeDescription,\
         ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,ConsumedQuantity,ConsumedUnit,ContractedCost,EffectiveCost,\
         InvoiceIssuerName,ListCost,PricingQuantity,PricingUnit,ProviderName,PublisherName,ResourceId,ResourceName,\
         ResourceType,ServiceCategory,ServiceName,SkuId,SubAccountId,SubAccountName,Tags\r\n",
    );
    for ((day, spender), sum) in days {
        let Ok(date) = day.parse::<Date>() else { continue };
        let moment = |date: Option<Date>| {
            let at = date.and_then(|date| date.to_zoned_datetime(zone.clone()).ok());
            at.map_or_else(String::new, |at| at.timestamp().to_string())
        };
        let first = date.first_of_month();
        let (provider, model) = destination(&spender.target);
        let tokens = sum.input_tokens + sum.output_tokens;
        let (quantity, unit) =
            if tokens > 0 { (tokens, "Tokens") } else { (sum.rows.max(sum.requests), "Requests") };
        let cost = Money(sum.cost).to_string();
        let account = if spender.organization.is_empty() { "default" } else { &spender.organization };
        let sub = if spender.team.is_empty() { &spender.principal } else { &spender.team };
        let mut tags: BTreeMap<&str, &str> =
            spender.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for (name, value) in [
            ("user", &spender.user),
            ("app", &spender.app),
            ("key", &spender.principal),
            ("endpoint", &spender.endpoint),
        ] {
            if !value.is_empty() {
                tags.insert(name, value);
            }
        }
        let columns = [
            cost.clone(),
            account.to_owned(),
            "USD".to_owned(),
            moment(first.checked_add(1.month()).ok()),
            moment(Some(first)),
            "Usage".to_owned(),
            format!("{} by {}", spender.operation, spender.target),
            "Usage-Based".to_owned(),
            moment(date.checked_add(1.day()).ok()),
            moment(Some(date)),
            quantity.to_string(),
            unit.to_owned(),
            cost.clone(),
            cost.clone(),
            provider.to_owned(),
            cost,
            quantity.to_string(),
            unit.to_owned(),
            provider.to_owned(),
            provider.to_owned(),
            spender.target.clone(),
            model.to_owned(),
            "Model".to_owned(),
            "AI and Machine Learning".to_owned(),
            spender.endpoint.clone(),
            spender.target.clone(),
            sub.clone(),
            sub.clone(),
            serde_json::to_string(&tags).unwrap_or_default(),
        ];
        out.push_str(&columns.iter().map(|column| field(column)).collect::<Vec<_>>().join(","));
        out.push_str("\r\n");
    }
    out
}
