//! Budgets that one key, team or user was given at run time, beside those of the configuration. All of one kind and one
//! stretch are one limit, with an amount for each.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use jiff::Unit;
use millgate_config::{Usd, Zone};
use millgate_policy::{Calendar, Cells};
use millgate_store::Whose;
use millgate_types::{Fault, Owner, Principal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use crate::identity::Identity;
use crate::limits::Rule;

/// What a key, a team or a user may spend: beyond it their calls are refused until the next stretch begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    /// How much, in USD.
    pub(crate) usd: Usd,
    /// In which time.
    pub(crate) per: Stretch,
    /// The time zone in which days begin, for example `Europe/Berlin`. Default: `UTC`.
    #[serde(default)]
    pub(crate) zone: Zone,
}

/// A stretch of the calendar. They are few, and the names of budgets go by them: nobody makes up labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stretch {
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first.
    Month,
    /// From the first of January.
    Year,
}

impl Stretch {
    fn unit(self) -> Unit {
        match self {
            Self::Day => Unit::Day,
            Self::Week => Unit::Week,
            Self::Month => Unit::Month,
            Self::Year => Unit::Year,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

impl Grant {
    /// As a store's row says.
    pub(crate) fn read(row: Option<Value>) -> Option<Self> {
        row.and_then(|row| serde_json::from_value(row).ok())
    }

    /// As it stands in the store.
    pub(crate) fn row(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Fault: `invalid_value` where nothing could be spent.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        match self.usd.nanos {
            0 => Err(Fault::invalid_value("budget.usd", "a budget is more than nothing")),
            _ => Ok(()),
        }
    }
}

/// The word for whom a budget is.
fn name(whose: Whose) -> &'static str {
    match whose {
        Whose::Key => "key",
        Whose::User => "user",
        Whose::Team => "team",
    }
}

/// Those of whom a budget tells one kind apart.
type Group = (Whose, Stretch, String);

/// All budgets that somebody was given.
#[derive(Default)]
pub(crate) struct Granted {
    rules: ArcSwap<Vec<Rule>>,
    /// What was used outlives the rules.
    cells: Mutex<BTreeMap<Group, Arc<Cells>>>,
    changed: Notify,
}

impl std::fmt::Debug for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Granted").field("rules", &self.rules.load().len()).finish_non_exhaustive()
    }
}

impl Granted {
    /// What calls must be within, in the order of the counts' numbers.
    pub(crate) fn rules(&self) -> Guard<Arc<Vec<Rule>>> {
        self.rules.load()
    }

    /// Ends when others have been given something, or the same ones something else.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Puts all that are there in the place of those before.
    pub(crate) fn put<'a>(&self, all: impl Iterator<Item = (Whose, &'a str, &'a Grant)>) {
        let mut groups: BTreeMap<Group, (Zone, HashMap<Box<str>, u64>)> = BTreeMap::new();
        for (whose, who, grant) in all {
            let group = (whose, grant.per, grant.zone.to_string());
            let (_, amounts) = groups.entry(group).or_insert_with(|| (grant.zone.clone(), HashMap::new()));
            amounts.insert(who.into(), grant.usd.nanos);
        }
        let rule = |(group, (zone, amounts)): (Group, (Zone, HashMap<Box<str>, u64>))| {
            let cells = self.cells(&group);
            let (whose, per, zone_name) = group;
            let word = name(whose);
            let title = format!("{word} per {}", per.name());
            let key = format!("granted.{word} {} {zone_name}", per.name());
            let calendar = Calendar::Civil(per.unit(), zone.0);
            Rule::granted(whose, title, key, calendar, amounts, cells)
        };
        let mut rules: Vec<Rule> = groups.into_iter().map(rule).collect();
        rules.sort_by_key(|rule| rule.limit.cells.number());
        self.rules.store(Arc::new(rules));
        self.changed.notify_one();
    }

    fn cells(&self, group: &Group) -> Arc<Cells> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(cells.entry(group.clone()).or_default())
    }

    /// Whether somebody was given a budget of their own.
    pub(crate) fn has(&self, whose: Whose, who: &str) -> bool {
        self.rules().iter().any(|rule| rule.is_granted_to(whose, who))
    }

    /// Whether a caller's key has one.
    pub(crate) fn has_key(&self, identity: &Identity) -> bool {
        matches!(&identity.principal, Principal::Key(name) if self.has(Whose::Key, name))
    }

    /// Whether the user has one for whom a caller calls.
    pub(crate) fn has_user(&self, owner: &Owner) -> bool {
        owner.user.as_ref().is_some_and(|user| self.has(Whose::User, user))
    }
}
