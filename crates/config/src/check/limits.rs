//! Rules of limits and budgets.

use jiff::civil::Date;
use millgate_expr::Expression;

use super::{Checker, Step, steps};
use crate::document::EndpointConfig;
use crate::limits::{LimitConfig, OnError, Selector, Sharer, WindowKind};
use crate::value::Period;

/// Lengths of the calendar's windows, in seconds: minute, hour, day, week, month, year.
const CALENDAR: [u64; 6] = [60, 3600, 86_400, 604_800, 30 * 86_400, 365 * 86_400];

impl Checker<'_> {
    /// The limits of all endpoints, and budgets.
    pub(super) fn budgets(&mut self) {
        let config = self.config;
        self.limits(&config.limits, steps!["limits"]);
        for (number, limit) in config.limits.iter().enumerate() {
            self.served(&limit.endpoints, &steps!["limits", number, "endpoints"][..]);
        }
        for (number, budget) in config.budgets.iter().enumerate() {
            let at = |field: &str| steps!["budgets", number, field].to_vec();
            if config.budgets[..number].iter().any(|other| other.name == budget.name) {
                self.error(&at("name"), format!("the name `{}` is taken", budget.name), "");
            }
            if budget.name.is_empty() {
                self.error(&at("name"), "a budget needs a name", "");
            }
            if budget.usd.nanos == 0 {
                self.error(&at("usd"), "a budget is more than nothing", "");
            }
            self.above_zero(&at("per"), Some(budget.per));
            if let Some(starts) = &budget.starts {
                if starts.parse::<Date>().is_err() {
                    self.error(&at("starts"), "expected a day", "for example `2026-01-05`");
                } else if CALENDAR[2..].contains(&budget.per.0.as_secs()) {
                    let reason = "days, weeks, months and years begin where the calendar has them begin";
                    self.error(&at("starts"), reason, "leave it out, or give `per` another length");
                }
            }
            if budget.alerts.iter().any(|percent| !(1..=100).contains(percent)) {
                self.error(&at("alerts"), "expected per cent from 1 to 100", "for example `[50, 80, 100]`");
            }
            if budget.by.0.contains(&Sharer::Ip) || !budget.only.ips.is_empty() {
                let field = if budget.only.ips.is_empty() { "by" } else { "only" };
                self.error(
                    &at(field),
                    "the ledger keeps no addresses",
                    "tell callers apart by `key` or `user`",
                );
            }
            if budget.by.0.iter().any(|by| matches!(by, Sharer::Expression(_))) {
                let hint = "tell callers apart by `key`, `user`, `team` or `tag:NAME`";
                self.error(&at("by"), "the ledger keeps no requests", hint);
            }
            self.served(&budget.endpoints, &at("endpoints"));
            self.selector(&budget.only, &at("only"));
        }
        if let Some(shared) = &config.shared {
            let uri = shared.redis.expose();
            if !uri.starts_with("redis://") && !uri.starts_with("rediss://") {
                self.error(
                    steps!["shared", "redis"],
                    "expected an address of Redis",
                    "for example `redis://cache:6379/0`",
                );
            }
            if shared.replicas == 0 {
                self.error(steps!["shared", "replicas"], "there is at least one replica", "");
            }
            if shared.budgets_on_error == OnError::Allow {
                let hint = "use `deny`, or `local`";
                self.error(steps!["shared", "budgets_on_error"], "a hard budget is never left open", hint);
            }
        }
        for (name, provider) in &config.providers {
            let at = steps!["providers", name.as_str(), "limits"];
            self.limits(&provider.limits, at);
            for (number, limit) in provider.limits.iter().enumerate() {
                let node = |field: &str| [&at[..], steps![number, field]].concat();
                let by = limit.by.0.iter().any(|by| matches!(by, Sharer::Expression(_)));
                for (field, _) in
                    [("by", by), ("when", limit.when.is_some())].into_iter().filter(|(_, is)| *is)
                {
                    let hint = "write the limit at the top level, with `endpoints`";
                    self.error(&node(field), "a provider's limits see no request", hint);
                }
                if limit.cap_output {
                    let reason = "a call that does not fit goes to the next target";
                    self.error(&node("cap_output"), reason, "leave it out");
                }
            }
        }
    }

    pub(super) fn limits(&mut self, limits: &[LimitConfig], at: &[Step]) {
        for (number, limit) in limits.iter().enumerate() {
            let node = |field: &str| [at, steps![number, field]].concat();
            self.above_zero(&node("per"), limit.per);
            let counted = limit.counted();
            for (field, amount) in &counted {
                if *amount == 0 {
                    self.error(&node(field), "a limit admits something", "");
                }
            }
            let whole = [at, steps![number]].concat();
            match &counted[..] {
                [] => {
                    let hint = "add `requests`, `tokens`, `input_tokens`, `output_tokens`, `rows`, `bytes`, `usd` or `concurrent`";
                    self.error(&whole, "the limit counts nothing", hint);
                }
                [(field, _)] => self.window(limit, field, &whole, &node),
                [_, (field, _), ..] => {
                    self.error(&node(field), "a limit counts one thing", "write two limits: both hold");
                }
            }
            if limit.burst == Some(0) {
                self.error(&node("burst"), "a burst is at least one", "");
            }
            self.selector(&limit.only, &node("only"));
            self.chosen(limit, &counted, &node);
        }
    }

    /// What is said about calls, and what becomes of those that do not fit.
    fn chosen(
        &mut self,
        limit: &LimitConfig,
        counted: &[(&'static str, u64)],
        node: &dyn Fn(&str) -> Vec<Step>,
    ) {
        let by = limit.by.0.iter().filter_map(|by| match by {
            Sharer::Expression(text) => Some(("by", text)),
            _ => None,
        });
        for (field, text) in by.chain(limit.when.iter().map(|text| ("when", text))) {
            if let Err(reason) = Expression::compile(text, &["request"]) {
                self.error(&node(field), reason, "for example `request.stream && request.team == 'search'`");
            }
        }
        let capped = ["tokens", "output_tokens", "usd"];
        if limit.cap_output && !counted.iter().any(|(field, _)| capped.contains(field)) {
            let hint = "leave it out, or count `tokens`, `output_tokens` or `usd`";
            self.error(&node("cap_output"), "a shorter answer takes no less of this limit", hint);
        }
        let Some(queue) = &limit.queue else { return };
        let inside = |field: &str| [node("queue"), steps![field].to_vec()].concat();
        self.above_zero(&inside("wait"), Some(queue.wait));
        if queue.size == 0 {
            self.error(&inside("size"), "a queue has a place", "leave `queue` out to refuse at once");
        }
        if limit.shadow {
            self.error(
                &node("queue"),
                "a limit that refuses nobody makes nobody wait",
                "leave one of them out",
            );
        }
        for (field, only) in [("high", &queue.high), ("low", &queue.low)] {
            if let Some(only) = only {
                self.selector(only, &inside(field));
            }
        }
    }

    fn window(&mut self, limit: &LimitConfig, field: &str, whole: &[Step], node: &dyn Fn(&str) -> Vec<Step>) {
        let calendar = limit.window == WindowKind::Calendar;
        match limit.per {
            None if field != "concurrent" => {
                self.error(whole, "the limit has no `per`", "for example `per: minute`");
            }
            Some(_) if field == "concurrent" => {
                self.error(&node("per"), "requests at the same time have no window", "leave it out");
            }
            Some(Period(length)) if calendar && !CALENDAR[..5].contains(&length.as_secs()) => {
                let hint = "`minute`, `hour`, `day`, `week` or `month`";
                self.error(&node("per"), "the calendar has no such window", hint);
            }
            _ => {}
        }
        if limit.burst.is_some() && (calendar || field == "concurrent") {
            self.error(&node("burst"), "only rolling windows have a burst", "leave it out");
        }
    }

    fn selector(&mut self, only: &Selector, at: &[Step]) {
        for (number, network) in only.ips.iter().enumerate() {
            let known =
                network.parse::<ipnet::IpNet>().is_ok() || network.parse::<std::net::IpAddr>().is_ok();
            if !known {
                let at = [at, steps!["ips", number]].concat();
                self.error(&at, "expected a network", "for example `10.0.0.0/8` or `2001:db8::/32`");
            }
        }
    }

    /// A name without `*` is an endpoint's.
    fn served(&mut self, names: &[String], at: &[Step]) {
        let config = self.config;
        for (number, name) in names.iter().enumerate() {
            let is = |endpoint: &EndpointConfig| &endpoint.name == name;
            let native = name.strip_prefix("native/").is_some_and(|name| config.native.contains_key(name));
            if !name.contains('*') && !native && !config.endpoints.iter().any(is) {
                let at = [at, steps![number]].concat();
                let hint = crate::load::nearest(name, config.endpoints.iter().map(|e| e.name.as_str()));
                self.error(&at, format!("no endpoint `{name}` is there"), hint);
            }
        }
    }
}
