//! Rules of limits and budgets.

use jiff::civil::Date;

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
            self.limits(&provider.limits, steps!["providers", name.as_str(), "limits"]);
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
