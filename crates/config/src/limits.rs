//! Limits and budgets: how much may be used, by whom, over which time.

use std::fmt;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::schedule::Zone;
use crate::value::{ByteSize, Period, Secret};

/// A limit. It counts exactly one thing: `requests`, `tokens`, `input_tokens`, `output_tokens`, `rows`, `bytes`, `usd` or
/// `concurrent`. What a call may use at most (prompt as counted, `max_tokens`) is reserved before it is made, and
/// what it did not use is given back at its end.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitConfig {
    /// For messages, metrics and the admin API. Default: made from what it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Requests per window.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests: Option<u64>,
    /// Tokens of prompts and answers per window.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens: Option<u64>,
    /// Tokens of prompts per window.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub input_tokens: Option<u64>,
    /// Tokens of answers per window.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub output_tokens: Option<u64>,
    /// Rows predicted per window.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rows: Option<u64>,
    /// Bytes of requests and answers per window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteSize>,
    /// USD per window. A budget (`budgets`) does the same and outlives a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd: Option<Usd>,
    /// Requests at the same time. It has no window.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrent: Option<u64>,
    /// The window: `second`, `minute`, `hour`, `day`, `week`, `month`, or a duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per: Option<Period>,
    /// Whether the window rolls on or begins anew with each hour, day, week or month of the calendar.
    #[serde(skip_serializing_if = "is_default")]
    pub window: WindowKind,
    /// The time zone of a calendar's window, for example `Europe/Berlin`. Default: `UTC`.
    #[serde(skip_serializing_if = "is_default")]
    pub zone: Zone,
    /// How much may come at once. Default: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Who has a count of their own: `key` (the default), `user`, `team`, `app`, `organization`, `ip`, `endpoint`, `model`,
    /// `provider`, `tag:NAME`, `cel:EXPRESSION`, or a list of these; `all` share one. Callers without a key are told apart by
    /// their address, those of no user, team, app or organisation share one count. `model` and `provider` are of the target
    /// that is tried first. The expression gives a text of `request`, as in `when`.
    #[serde(skip_serializing_if = "is_default")]
    pub by: Sharers,
    /// Whom it is for. Default: everybody.
    #[serde(skip_serializing_if = "is_default")]
    pub only: Selector,
    /// Which calls it is for, in CEL over `request`: `method`, `path`, `headers` (lower case, without keys), `endpoint`, `target`,
    /// `model`, `stream`, `bulk`, `key`, `user`, `team`, `app`, `organization`, `tags`, `ip`; texts are empty where there is
    /// nothing. Where it cannot be told, the limit holds. Default: all calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The endpoints that it holds for: names, or patterns with `*`. Default: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Count, and refuse nobody: what it would have refused is told by `millgate_limit_exceeded_total`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// Where the longest answer that a call asks for does not fit, it is asked for a shorter one instead of being refused:
    /// `max_tokens` becomes what is left. For limits of tokens or money. `x-millgate-max-tokens` tells callers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cap_output: bool,
    /// Calls that do not fit wait for their turn instead of being refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueConfig>,
}

/// How calls wait that do not fit a limit: by priority, and callers in turns, however many calls each of them sends.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// How long a call waits at most. What would have to wait longer is refused at once.
    pub wait: Period,
    /// How many wait, for each of those that the limit tells apart. Where all places are taken, the last turn gives way.
    #[schemars(range(min = 1, max = 100_000))]
    pub size: u32,
    /// Whose calls are before all others.
    #[serde(skip_serializing_if = "is_default")]
    pub high: Option<Selector>,
    /// Whose calls are behind all others, as bulk scoring is, and what says `x-millgate-priority: low`.
    #[serde(skip_serializing_if = "is_default")]
    pub low: Option<Selector>,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { wait: Period::seconds(10), size: 100, high: None, low: None }
    }
}

/// A budget: money that may be spent in a stretch of the calendar. What was spent stands in the ledger and outlives a
/// restart.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// For messages, metrics and the admin API.
    pub name: String,
    /// How much, for each of those that `by` tells apart.
    pub usd: Usd,
    /// The stretch: `day`, `week` (from Monday), `month`, `year`, or a duration, for example `10d`.
    pub per: Period,
    /// The time zone in which days begin, for example `Europe/Berlin`. Default: `UTC`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub zone: Zone,
    /// With a duration: the day on which one of the stretches begins, for example `2026-01-05`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<String>,
    /// Who has a budget of their own, as in limits. Default: `all` share one.
    #[serde(default = "Sharers::all", skip_serializing_if = "Sharers::is_all")]
    pub by: Sharers,
    /// Whom it is for. Default: everybody.
    #[serde(default, skip_serializing_if = "is_default")]
    pub only: Selector,
    /// The endpoints that it holds for: names, or patterns with `*`. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Other sums for some of those that `by` tells apart: `{ fraud: 500, search: 50 }`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub except: IndexMap<String, Usd>,
    /// `hard`: a call that may not fit is refused. `soft`: it passes, and alerts are raised.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: BudgetKind,
    /// Per cent of the sum at which an alert is raised, once per stretch. Default: `[50, 80, 100]`.
    #[serde(default = "alerts", skip_serializing_if = "is_alerts")]
    pub alerts: Vec<u8>,
    /// What becomes of calls whose price is not known: they pass and cost nothing (`allow`), or are refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unpriced: Unpriced,
    /// Where the longest answer that a call asks for costs more than is left, it is asked for a shorter one instead of being
    /// refused, as in limits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cap_output: bool,
}

fn alerts() -> Vec<u8> {
    vec![50, 80, 100]
}

fn is_alerts(given: &[u8]) -> bool {
    given == [50, 80, 100]
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What predictions of a registered model cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PredictionPrice {
    /// USD for each request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_request: Option<Usd>,
    /// USD for each row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_row: Option<Usd>,
    /// USD for each second that a model computes for a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_second: Option<Usd>,
}

impl PredictionPrice {
    /// Nano-USD for one request of so many rows that took so many microseconds.
    #[must_use]
    pub fn nanos(&self, rows: u64, micros: u64) -> u64 {
        let of = |usd: Option<Usd>| u128::from(usd.map_or(0, |usd| usd.nanos));
        let second = of(self.usd_per_second) * u128::from(micros) / 1_000_000;
        let sum = of(self.usd_per_request) + of(self.usd_per_row) * u128::from(rows) + second;
        u64::try_from(sum).unwrap_or(u64::MAX)
    }
}

/// How what was spent is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// When.
    pub mode: LedgerMode,
}

/// When spending is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LedgerMode {
    /// Five times a second. What ended in the last one of them is lost with a process that is killed.
    #[default]
    Batched,
    /// What a call may cost at most is written before anybody is called, and what it did cost behind its answer: nothing is lost
    /// with a process that is killed. While the store cannot be written, calls with a price are 503 `dependency_unavailable`.
    Durable,
}

/// How a window moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowKind {
    /// What was used leaks away evenly: no stretch of the window's length sees more than the limit and its burst.
    #[default]
    Rolling,
    /// It begins anew with each minute, hour, day, week or month.
    Calendar,
}

/// What a budget does when it is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// It refuses.
    #[default]
    Hard,
    /// It warns.
    Soft,
}

/// What becomes of calls whose price is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unpriced {
    /// They pass, and cost nothing.
    #[default]
    Allow,
    /// They are refused.
    Deny,
}

/// Whom a limit is for. Each list holds names, or patterns with `*`; empty lists are for everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// Names of keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Teams.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub teams: Vec<String>,
    /// Applications.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<String>,
    /// Organisations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<String>,
    /// Addresses, as networks: `10.0.0.0/8`, `2001:db8::/32`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
}

/// Counts that hold across replicas. Read at start only.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedConfig {
    /// The server, Redis or Valkey: `redis://host:6379/0`, `rediss://...` with TLS, by reference.
    pub redis: Secret,
    /// What limits do while it cannot be reached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits_on_error: OnError,
    /// What hard budgets do while it cannot be reached: `deny` (the default) or `local`.
    #[serde(default = "deny", skip_serializing_if = "is_deny")]
    pub budgets_on_error: OnError,
    /// How many replicas there are: what each has of a limit when they cannot ask each other.
    #[serde(default = "two")]
    #[schemars(range(min = 1))]
    pub replicas: u32,
}

fn deny() -> OnError {
    OnError::Deny
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_deny(on_error: &OnError) -> bool {
    *on_error == OnError::Deny
}

fn two() -> u32 {
    2
}

/// What becomes of calls while shared counts cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Each replica has its part of the limit.
    #[default]
    Local,
    /// They pass.
    Allow,
    /// They are refused.
    Deny,
}

/// What tells the counts of a limit apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharer {
    /// Each virtual key; callers without one by their address.
    Key,
    /// Each user.
    User,
    /// Each team.
    Team,
    /// Each application.
    App,
    /// Each organisation.
    Organization,
    /// Each client address.
    Ip,
    /// Each endpoint.
    Endpoint,
    /// Each target that is tried first.
    Model,
    /// The provider of it.
    Provider,
    /// Each value of a tag.
    Tag(String),
    /// Each text that an expression gives.
    Expression(String),
}

impl LimitConfig {
    /// What it counts, by field: exactly one in a document that was checked.
    #[must_use]
    pub fn counted(&self) -> Vec<(&'static str, u64)> {
        let fields = [
            ("requests", self.requests),
            ("tokens", self.tokens),
            ("input_tokens", self.input_tokens),
            ("output_tokens", self.output_tokens),
            ("rows", self.rows),
            ("bytes", self.bytes.map(|bytes| bytes.0)),
            ("usd", self.usd.map(|usd| usd.nanos)),
            ("concurrent", self.concurrent),
        ];
        fields.into_iter().filter_map(|(name, amount)| Some((name, amount?))).collect()
    }
}

impl Sharer {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "key" => Self::Key,
            "user" => Self::User,
            "team" => Self::Team,
            "app" => Self::App,
            "organization" => Self::Organization,
            "ip" => Self::Ip,
            "endpoint" => Self::Endpoint,
            "model" => Self::Model,
            "provider" => Self::Provider,
            other => match other.split_once(':').filter(|(_, rest)| !rest.trim().is_empty()) {
                Some(("tag", name)) => Self::Tag(name.to_owned()),
                Some(("cel", expression)) => Self::Expression(expression.trim().to_owned()),
                _ => {
                    return Err(format!(
                        "`{other}` tells nobody apart; there are `key`, `user`, `team`, `app`, `organization`, `ip`, `endpoint`, \
                         `model`, `provider`, `tag:NAME`, `cel:EXPRESSION` and `all`"
                    ));
                }
            },
        })
    }

    /// The word in files.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Key => "key".to_owned(),
            Self::User => "user".to_owned(),
            Self::Team => "team".to_owned(),
            Self::App => "app".to_owned(),
            Self::Organization => "organization".to_owned(),
            Self::Ip => "ip".to_owned(),
            Self::Endpoint => "endpoint".to_owned(),
            Self::Model => "model".to_owned(),
            Self::Provider => "provider".to_owned(),
            Self::Tag(name) => format!("tag:{name}"),
            Self::Expression(expression) => format!("cel:{expression}"),
        }
    }
}

/// All that tells the counts of a limit apart: one word, or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharers(pub Vec<Sharer>);

impl Default for Sharers {
    fn default() -> Self {
        Self(vec![Sharer::Key])
    }
}

impl Sharers {
    /// Nothing does.
    #[must_use]
    pub fn all() -> Self {
        Self(Vec::new())
    }

    fn is_all(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Sharers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [] => serializer.serialize_str("all"),
            [one] => serializer.serialize_str(&one.name()),
            several => serializer.collect_seq(several.iter().map(Sharer::name)),
        }
    }
}

impl<'de> Deserialize<'de> for Sharers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Sharers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("who shares a limit: `key`, `team`, `[key, endpoint]`, `all`, ...")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Sharers, E> {
                if text == "all" {
                    return Ok(Sharers::all());
                }
                Sharer::parse(text).map(|one| Sharers(vec![one])).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Sharers, A::Error> {
                let mut found = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    found.push(Sharer::parse(&text).map_err(de::Error::custom)?);
                }
                Ok(Sharers(found))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

impl JsonSchema for Sharers {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sharers".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = serde_json::json!({
            "type": "string",
            "pattern": "^(all|key|user|team|app|organization|ip|endpoint|model|provider|tag:.+|cel:.+)$",
        });
        schemars::json_schema!({
            "anyOf": [one.clone(), { "type": "array", "items": one }],
            "description": "who shares a limit",
        })
    }
}

/// A sum in USD, with at most nine decimals: `12.50`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Usd {
    /// In nano-USD.
    pub nanos: u64,
}

impl Usd {
    /// Reads a decimal number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "a sum is a number of USD with at most nine decimals: `12.50`".to_owned();
        let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && part.is_empty()) || !digits(whole) || !digits(part) || part.len() > 9 {
            return Err(wrong());
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
        let part: u64 = format!("{part:0<9}").parse().map_err(|_| wrong())?;
        let nanos = whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(part));
        // Sums of money are signed 64-bit numbers.
        nanos.filter(|nanos| i64::try_from(*nanos).is_ok()).map(|nanos| Self { nanos }).ok_or_else(wrong)
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.nanos / 1_000_000_000, self.nanos % 1_000_000_000);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let part = format!("{part:09}");
        write!(f, "{whole}.{:0<2}", part.trim_end_matches('0'))
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sum;

        impl Visitor<'_> for Sum {
            type Value = Usd;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sum in USD: `12.50`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Usd, E> {
                Usd::parse(text).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Usd, E> {
                Usd::parse(&number.to_string()).map_err(E::custom)
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Usd, E> {
                // The shortest text that means this number: what was written.
                Usd::parse(&number.to_string()).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Sum)
    }
}

impl JsonSchema for Usd {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Usd".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["number", "string"], "minimum": 0, "description": "a sum in USD: `12.50`" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_and_written_exactly() {
        let nanos = |text: &str| Usd::parse(text).map(|usd| usd.nanos);
        assert_eq!(nanos("12.50"), Ok(12_500_000_000));
        assert_eq!(nanos(".000000001"), Ok(1));
        assert_eq!(nanos("3"), Ok(3_000_000_000));
        assert!(nanos("1e3").is_err() && nanos("-1").is_err() && nanos("0.0000000001").is_err());
        assert!(nanos("").is_err() && nanos("99999999999").is_err());
        let usd: Usd = serde_json::from_str("0.1").unwrap();
        assert_eq!((usd.nanos, usd.to_string()), (100_000_000, "0.10".to_owned()));
        assert_eq!(Usd::parse("7.125").unwrap().to_string(), "7.125");
    }
}
