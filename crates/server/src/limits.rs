//! Limits and budgets of a snapshot: which of them a call must be within, whom it counts for there, and what it may use
//! at most. Counting is `millgate_policy`'s business.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, OnceLock};

use http::header;
use http::request::Parts;
use ipnet::IpNet;
use jiff::Unit;
use jiff::civil::Date;
use millgate_config::{
    BudgetConfig, BudgetKind, Config, LimitConfig, Period, QueueConfig, Selector, Sharer, Sharers, Unpriced,
    WindowKind, Zone,
};
use millgate_expr::Expression;
use millgate_policy::{Ask, Calendar, Cells, Exceeded, Glob, Limit, Measure, Priority, Queue, Span};
use millgate_store::Whose;
use millgate_types::{Owner, Principal};
use serde_json::{Map, Value, json};

use crate::identity::{Identity, globs};
use crate::pipeline::KEY_HEADERS;

/// Where counts of those stand that are of no team, user, ...
pub(crate) const NOBODY: &str = "-";
/// Where all share one count.
static ALL: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
/// The longest text of an expression that tells counts apart, in bytes.
const LABEL: usize = 128;

/// Per cent of a granted budget at which an alert is raised: a configured one's default.
const ALERTS: [u8; 3] = [50, 80, 100];

/// A limit of an endpoint, and for whom it is.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) limit: Arc<Limit>,
    by: Arc<[By]>,
    only: Arc<Only>,
    when: Option<Arc<Expression>>,
    /// Whose calls are before and behind all others where calls wait.
    first: Option<Arc<Only>>,
    last: Option<Arc<Only>>,
    /// Calls whose price is not known are refused.
    pub(crate) priced_only: bool,
    /// It is for those alone whose amounts are named.
    granted: Option<Whose>,
    /// The endpoints that it is for, where it is not an endpoint's own.
    endpoints: Arc<[Glob]>,
}

/// What tells counts apart.
#[derive(Clone, Debug)]
enum By {
    Plain(Sharer),
    Expression(Arc<Expression>),
}

/// Whom a limit is for.
#[derive(Debug, Default)]
struct Only {
    keys: Vec<Glob>,
    users: Vec<Glob>,
    teams: Vec<Glob>,
    apps: Vec<Glob>,
    organizations: Vec<Glob>,
    ips: Vec<IpNet>,
}

/// Who calls and for what, as limits see it.
#[derive(Debug)]
pub(crate) struct Who<'a> {
    pub(crate) key: Option<&'a Arc<str>>,
    pub(crate) owner: &'a Owner,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) endpoint: &'a Arc<str>,
    /// What is tried first: `provider/model` or a `models:/` URI.
    pub(crate) target: &'a str,
    /// The request, where there is one.
    pub(crate) asked: Option<Asked<'a>>,
    /// What expressions see of it, made when the first one asks.
    seen: OnceLock<Value>,
}

/// A request, as limits see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a Parts,
    /// As the caller names it.
    pub(crate) model: &'a str,
    pub(crate) stream: bool,
    /// Rows that come piece by piece.
    pub(crate) bulk: bool,
}

impl<'a> Who<'a> {
    pub(crate) fn of(identity: &'a Identity, peer: IpAddr, endpoint: &'a Arc<str>) -> Self {
        let key = match &identity.principal {
            Principal::Key(name) => Some(name),
            Principal::Anonymous => None,
        };
        Self { peer: Some(peer), ..Self::known(key, &identity.owner, endpoint) }
    }

    /// Of whom no request is known.
    pub(crate) fn known(key: Option<&'a Arc<str>>, owner: &'a Owner, endpoint: &'a Arc<str>) -> Self {
        Self { key, owner, peer: None, endpoint, target: "", asked: None, seen: OnceLock::new() }
    }

    pub(crate) fn target(self, target: &'a str) -> Self {
        Self { target, ..self }
    }

    pub(crate) fn asked(self, asked: Asked<'a>) -> Self {
        Self { asked: Some(asked), ..self }
    }

    /// Who takes turns with others: the key, or the address.
    pub(crate) fn caller(&self) -> Arc<str> {
        part(&Sharer::Key, self)
    }

    /// `request` in expressions.
    fn seen(&self) -> &Value {
        self.seen.get_or_init(|| {
            let text = |text: Option<&Arc<str>>| text.map_or_else(String::new, ToString::to_string);
            let mut request = json!({
                "endpoint": &**self.endpoint,
                "target": self.target,
                "key": text(self.key),
                "user": text(self.owner.user.as_ref()),
                "team": text(self.owner.team.as_ref()),
                "app": text(self.owner.app.as_ref()),
                "organization": text(self.owner.organization.as_ref()),
                "tags": self.owner.tags,
                "ip": self.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            });
            if let Some(asked) = &self.asked {
                request["method"] = asked.head.method.as_str().into();
                request["path"] = asked.head.uri.path().into();
                request["headers"] = headers(asked.head);
                request["model"] = asked.model.into();
                request["stream"] = asked.stream.into();
                request["bulk"] = asked.bulk.into();
            }
            request
        })
    }
}

/// Headers that hold no key. Of several with one name the last counts.
fn headers(head: &Parts) -> Value {
    let secret = |name: &&http::HeaderName| {
        KEY_HEADERS.contains(*name) || [header::AUTHORIZATION, header::COOKIE].contains(*name)
    };
    let plain = head.headers.iter().filter(|(name, _)| !secret(name));
    let plain =
        plain.filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.into())));
    Value::Object(plain.collect::<Map<_, _>>())
}

impl Only {
    fn new(written: &Selector) -> Self {
        let network =
            |text: &String| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        Self {
            keys: globs(&written.keys),
            users: globs(&written.users),
            teams: globs(&written.teams),
            apps: globs(&written.apps),
            organizations: globs(&written.organizations),
            ips: written.ips.iter().filter_map(network).collect(),
        }
    }

    fn fits(&self, who: &Who<'_>) -> bool {
        let one = |globs: &[Glob], name: Option<&Arc<str>>| {
            globs.is_empty() || name.is_some_and(|name| globs.iter().any(|glob| glob.fits(name)))
        };
        one(&self.keys, who.key)
            && one(&self.users, who.owner.user.as_ref())
            && one(&self.teams, who.owner.team.as_ref())
            && one(&self.apps, who.owner.app.as_ref())
            && one(&self.organizations, who.owner.organization.as_ref())
            && (self.ips.is_empty()
                || who.peer.is_some_and(|peer| self.ips.iter().any(|net| net.contains(&peer))))
    }
}

impl Rule {
    /// What is to be asked for a call; `None`: the limit is not for it.
    pub(crate) fn ask(&self, who: &Who<'_>) -> Option<Ask> {
        // What cannot be told is no way around a limit.
        let chosen = self.when.as_ref().is_none_or(|when| when.holds(who.seen()).unwrap_or(true));
        if !chosen || !self.only.fits(who) {
            return None;
        }
        let label = self.label(who);
        let is_for = self.granted.is_none() || self.limit.amounts.contains_key(&*label);
        is_for.then(|| Ask { limit: Arc::clone(&self.limit), label })
    }

    /// A hard budget for those whose sums are named, by the calendar.
    pub(crate) fn granted(
        whose: Whose,
        name: String,
        key: String,
        calendar: Calendar,
        amounts: HashMap<Box<str>, u64>,
        cells: Arc<Cells>,
    ) -> Self {
        let by = match whose {
            Whose::Key => Sharer::Key,
            Whose::User => Sharer::User,
            Whose::Team => Sharer::Team,
        };
        let limit = Limit {
            name: name.into(),
            measure: Measure::Cost,
            amount: 0,
            amounts,
            span: Span::Calendar(calendar),
            exceeded: Exceeded::Refuse,
            budget: true,
            cap: false,
            queue: None,
            alerts: ALERTS.into(),
            key: key.into(),
            cells,
        };
        Self {
            limit: Arc::new(limit),
            by: Arc::new([By::Plain(by)]),
            only: Arc::default(),
            when: None,
            first: None,
            last: None,
            priced_only: false,
            granted: Some(whose),
            endpoints: Arc::default(),
        }
    }

    /// Of whom it is where it was given to single ones.
    pub(crate) fn whose(&self) -> Option<Whose> {
        self.granted
    }

    /// Whether somebody was given a sum of it.
    pub(crate) fn is_granted_to(&self, whose: Whose, who: &str) -> bool {
        self.granted == Some(whose) && self.limit.amounts.contains_key(who)
    }

    fn label(&self, who: &Who<'_>) -> Arc<str> {
        match &self.by[..] {
            [] => Arc::clone(&ALL),
            [one] => one.part(who),
            several => several.iter().map(|one| one.part(who)).collect::<Vec<_>>().join("/").into(),
        }
    }

    /// Whether it is for an endpoint.
    pub(crate) fn covers(&self, endpoint: &str) -> bool {
        self.endpoints.is_empty() || self.endpoints.iter().any(|glob| glob.fits(endpoint))
    }

    /// Whose turn a call's is where calls wait.
    pub(crate) fn priority(&self, who: &Who<'_>) -> Priority {
        let fits = |only: &Option<Arc<Only>>| only.as_ref().is_some_and(|only| only.fits(who));
        let humble = who.asked.is_some_and(|asked| {
            asked.bulk || asked.head.headers.get("x-millgate-priority").is_some_and(|value| value == "low")
        });
        if humble || fits(&self.last) {
            Priority::Low
        } else if fits(&self.first) {
            Priority::High
        } else {
            Priority::Normal
        }
    }

    /// What tells its counts apart, for the admin API.
    pub(crate) fn by(&self) -> String {
        if self.by.is_empty() {
            return "all".to_owned();
        }
        let name = |by: &By| match by {
            By::Plain(sharer) => sharer.name(),
            By::Expression(expression) => format!("cel:{}", expression.source()),
        };
        self.by.iter().map(name).collect::<Vec<_>>().join("/")
    }
}

impl By {
    fn of(written: &Sharers) -> Arc<[Self]> {
        let by = |sharer: &Sharer| match sharer {
            // One that does not compile never gets here.
            Sharer::Expression(text) => {
                compile(text).map_or_else(|| Self::Plain(sharer.clone()), Self::Expression)
            }
            other => Self::Plain(other.clone()),
        };
        written.0.iter().map(by).collect()
    }

    fn part(&self, who: &Who<'_>) -> Arc<str> {
        match self {
            Self::Plain(sharer) => part(sharer, who),
            Self::Expression(expression) => match expression.text(who.seen()) {
                Ok(text) if !text.is_empty() => {
                    let cut = (0..=LABEL.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
                    text[..cut.unwrap_or(0)].into()
                }
                _ => NOBODY.into(),
            },
        }
    }
}

fn compile(text: &str) -> Option<Arc<Expression>> {
    Expression::compile(text, &["request"]).ok().map(Arc::new)
}

fn part(sharer: &Sharer, who: &Who<'_>) -> Arc<str> {
    let owner = who.owner;
    let known = match sharer {
        Sharer::Endpoint => Some(who.endpoint),
        Sharer::User => owner.user.as_ref(),
        Sharer::Team => owner.team.as_ref(),
        Sharer::App => owner.app.as_ref(),
        Sharer::Organization => owner.organization.as_ref(),
        Sharer::Tag(name) => return owner.tags.get(name).map_or(NOBODY, String::as_str).into(),
        Sharer::Key if who.key.is_some() => who.key,
        Sharer::Key | Sharer::Ip => {
            return who.peer.map_or_else(|| NOBODY.into(), |peer| peer.to_string().into());
        }
        Sharer::Model if !who.target.is_empty() => return who.target.into(),
        Sharer::Provider if !who.target.is_empty() => return provider_of(who.target).into(),
        Sharer::Model | Sharer::Provider | Sharer::Expression(_) => None,
    };
    known.map_or_else(|| NOBODY.into(), Arc::clone)
}

/// `openai` of `openai/gpt-5`; registered models are all of `models:`.
fn provider_of(target: &str) -> &str {
    target.split_once('/').map_or(target, |(provider, _)| provider)
}

/// Counts by what they belong to: they stay when a configuration is read again.
type Kept = HashMap<String, Arc<Cells>>;

/// Makes rules, and keeps what they count from one snapshot to the next.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    kept: Kept,
}

/// Rules under construction for one snapshot.
pub(crate) struct Making<'a> {
    before: &'a Kept,
    now: Kept,
    everywhere: Vec<Rule>,
}

impl Limits {
    /// Begins with those that are for more than one endpoint.
    pub(crate) fn making(&self, config: &Config) -> Making<'_> {
        let mut making = Making { before: &self.kept, now: HashMap::new(), everywhere: Vec::new() };
        for (number, written) in config.limits.iter().enumerate() {
            let rule = making.limit(&format!("limits[{number}]"), "", written, &written.by);
            making.everywhere.push(rule);
        }
        for written in &config.budgets {
            let rule = making.budget(written);
            making.everywhere.push(rule);
        }
        making
    }

    /// Keeps the counts for the next snapshot.
    pub(crate) fn keep(&mut self, counts: Kept) {
        self.kept = counts;
    }
}

impl Making<'_> {
    /// The rules of one endpoint: its own, and those that are for it among others.
    pub(crate) fn endpoint(&mut self, name: &str, written: &[LimitConfig]) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.everywhere.iter().filter(|rule| rule.covers(name)).cloned().collect();
        for (number, limit) in written.iter().enumerate() {
            rules.push(self.limit(&format!("{name}[{number}]"), name, limit, &limit.by));
        }
        rules.sort_by_key(|rule| rule.limit.cells.number());
        rules
    }

    /// The rules of a provider: what it allows, to all callers together unless it is said otherwise.
    pub(crate) fn provider(&mut self, name: &str, written: &[LimitConfig]) -> Vec<Rule> {
        let rule = |(number, limit): (usize, &LimitConfig)| {
            let by = if limit.by == Sharers::default() { Sharers::all() } else { limit.by.clone() };
            self.limit(&format!("providers.{name}[{number}]"), name, limit, &by)
        };
        let mut rules: Vec<Rule> = written.iter().enumerate().map(rule).collect();
        rules.sort_by_key(|rule| rule.limit.cells.number());
        rules
    }

    /// Those that are for more than one endpoint, budgets among them, and what is counted for this snapshot.
    pub(crate) fn finish(self) -> (Vec<Rule>, Kept) {
        (self.everywhere, self.now)
    }

    /// The counts of a place in the file: those of before where they count the same.
    fn cells(&mut self, place: &str, measure: Measure, span: &Span, by: &Sharers) -> (Arc<str>, Arc<Cells>) {
        let counted = match span {
            // Another length or burst leaves what was used as it is.
            Span::Rolling { .. } => "rolling".to_owned(),
            Span::Calendar(Calendar::Civil(unit, zone)) => {
                format!("{unit:?} {}", zone.iana_name().unwrap_or("UTC"))
            }
            span => format!("{span:?}"),
        };
        let key = format!("{place} {measure:?} {counted} {by:?}");
        let cells = self.before.get(&key).cloned().unwrap_or_default();
        self.now.insert(key.clone(), Arc::clone(&cells));
        (key.into(), cells)
    }

    fn limit(&mut self, place: &str, of: &str, written: &LimitConfig, by: &Sharers) -> Rule {
        let (field, amount) = written.counted().first().copied().unwrap_or(("requests", 1));
        let measure = match field {
            "tokens" => Measure::Tokens,
            "input_tokens" => Measure::InputTokens,
            "output_tokens" => Measure::OutputTokens,
            "rows" => Measure::Rows,
            "bytes" => Measure::Bytes,
            "usd" => Measure::Cost,
            "concurrent" => Measure::Concurrent,
            _ => Measure::Requests,
        };
        let per = written.per.unwrap_or(Period::seconds(60));
        let span = match (measure, written.window) {
            (Measure::Concurrent, _) => Span::Meanwhile,
            (_, WindowKind::Rolling) => {
                Span::Rolling { window: per.0, burst: written.burst.unwrap_or(amount) }
            }
            (_, WindowKind::Calendar) => Span::Calendar(calendar(per, &written.zone, None)),
        };
        let name = written.name.clone().unwrap_or_else(|| {
            let of = if of.is_empty() { String::new() } else { format!("{of} ") };
            match measure {
                Measure::Concurrent => format!("{of}concurrent"),
                _ => format!("{of}{field} per {per}"),
            }
        });
        let (key, cells) = self.cells(place, measure, &span, by);
        let exceeded = if written.shadow { Exceeded::Count } else { Exceeded::Refuse };
        let limit = Limit {
            name: name.into(),
            measure,
            amount,
            amounts: HashMap::new(),
            span,
            exceeded,
            budget: false,
            cap: written.cap_output,
            queue: written.queue.as_ref().map(queue),
            alerts: Arc::default(),
            key,
            cells,
        };
        let turn = |of: fn(&QueueConfig) -> &Option<Selector>| {
            let only = written.queue.as_ref().and_then(|queue| of(queue).as_ref());
            only.map(|only| Arc::new(Only::new(only)))
        };
        Rule {
            limit: Arc::new(limit),
            by: By::of(by),
            only: Arc::new(Only::new(&written.only)),
            when: written.when.as_deref().and_then(compile),
            first: turn(|queue| &queue.high),
            last: turn(|queue| &queue.low),
            priced_only: false,
            granted: None,
            endpoints: globs(&written.endpoints).into(),
        }
    }

    fn budget(&mut self, written: &BudgetConfig) -> Rule {
        let span = Span::Calendar(calendar(written.per, &written.zone, written.starts.as_deref()));
        let (key, cells) =
            self.cells(&format!("budgets.{}", written.name), Measure::Cost, &span, &written.by);
        let mut alerts = written.alerts.clone();
        alerts.sort_unstable();
        let hard = written.kind == BudgetKind::Hard;
        let limit = Limit {
            name: written.name.as_str().into(),
            measure: Measure::Cost,
            amount: written.usd.nanos,
            amounts: written.except.iter().map(|(name, usd)| (name.as_str().into(), usd.nanos)).collect(),
            span,
            exceeded: if hard { Exceeded::Refuse } else { Exceeded::Count },
            budget: true,
            cap: written.cap_output,
            queue: None,
            alerts: alerts.into(),
            key,
            cells,
        };
        Rule {
            limit: Arc::new(limit),
            by: By::of(&written.by),
            only: Arc::new(Only::new(&written.only)),
            when: None,
            first: None,
            last: None,
            priced_only: written.unpriced == Unpriced::Deny,
            granted: None,
            endpoints: globs(&written.endpoints).into(),
        }
    }
}

fn queue(written: &QueueConfig) -> Queue {
    Queue { size: written.size as usize, wait: written.wait.0 }
}

/// The calendar's stretches of a length.
fn calendar(per: Period, zone: &Zone, starts: Option<&str>) -> Calendar {
    let zone = zone.0.clone();
    let unit = match per.0.as_secs() {
        60 => Unit::Minute,
        3600 => Unit::Hour,
        86_400 => Unit::Day,
        604_800 => Unit::Week,
        // What `month` and `year` are read as.
        2_592_000 => Unit::Month,
        31_536_000 => Unit::Year,
        _ => {
            let starts = starts.and_then(|day| day.parse::<Date>().ok());
            let anchor = starts.and_then(|day| day.to_zoned_datetime(zone).ok());
            return Calendar::Every {
                length_ms: i64::try_from(per.0.as_millis()).unwrap_or(i64::MAX),
                anchor_ms: anchor.map_or(0, |day| day.timestamp().as_millisecond()),
            };
        }
    };
    Calendar::Civil(unit, zone)
}
