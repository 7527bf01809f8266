//! How budgets begin: with what the ledger says was spent in their windows before.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use millgate_policy::{Limit, Now, Span};
use millgate_store::{StoreError, UsageSum};
use millgate_types::Owner;

use super::{Ledger, lock};
use crate::granted::Granted;
use crate::keys::Keys;
use crate::limits::{Rule, Who};

/// A granted budget that has begun just now, with what was spent before.
pub(crate) struct Begun {
    pub(crate) limit: Arc<Limit>,
    pub(crate) label: Arc<str>,
    pub(crate) spent: u64,
}

/// The budgets, and which of them have begun.
pub(super) struct Budgets {
    /// Those of the present configuration.
    configured: Mutex<Vec<Rule>>,
    /// Those whose counts hold what was spent before this process began, by the numbers of the counts.
    begun: Mutex<HashSet<u64>>,
    /// Those that were given at run time.
    granted: Arc<Granted>,
    /// Whose of them have begun, by the numbers of the counts.
    begun_by: Mutex<HashMap<u64, HashSet<Box<str>>>>,
    /// What was spent before could not be read so far.
    pub(super) unread: AtomicBool,
    /// They begin one after the other: one that is still being read is not taken for one that has begun.
    beginning: tokio::sync::Mutex<()>,
}

impl Budgets {
    pub(super) fn of(keys: &Keys) -> Self {
        Self {
            configured: Mutex::default(),
            begun: Mutex::default(),
            granted: Arc::clone(keys.granted()),
            begun_by: Mutex::default(),
            unread: AtomicBool::new(false),
            beginning: tokio::sync::Mutex::default(),
        }
    }
}

impl Ledger {
    /// Tells what the configuration's budgets are, before a call meets them.
    pub(crate) fn know_budgets(&self, rules: &[Rule]) {
        *lock(&self.budgets.configured) = rules.iter().filter(|rule| rule.limit.budget).cloned().collect();
    }

    /// Lets budgets begin with what was spent in their windows before: those of the configuration, and those that were
    /// granted, which it gives.
    pub(crate) async fn begin_budgets(&self, rules: &[Rule], now: Now) -> Result<Vec<Begun>, StoreError> {
        let _one = self.budgets.beginning.lock().await;
        self.begin_configured(rules, now).await?;
        let granted = self.budgets.granted.rules();
        let mut begun = Vec::new();
        for rule in granted.iter() {
            self.begin_granted(rule, now, &mut begun).await?;
        }
        // Who loses theirs and is granted one again begins again.
        let is_there = |number: u64| granted.iter().any(|rule| rule.limit.cells.number() == number);
        lock(&self.budgets.begun_by).retain(|number, _| is_there(*number));
        self.budgets.unread.store(false, Relaxed);
        Ok(begun)
    }

    async fn begin_configured(&self, rules: &[Rule], now: Now) -> Result<(), StoreError> {
        let fresh: Vec<&Rule> = {
            let mut begun = lock(&self.budgets.begun);
            rules.iter().filter(|rule| rule.limit.budget && begun.insert(rule.limit.cells.number())).collect()
        };
        let start = |rule: &&Rule| window_start(&rule.limit, now);
        let Some(from) = fresh.iter().filter_map(start).min() else { return Ok(()) };
        let sums = match self.usage(from, i64::MAX).await {
            Ok(sums) => sums,
            Err(error) => {
                let mut begun = lock(&self.budgets.begun);
                for rule in fresh {
                    begun.remove(&rule.limit.cells.number());
                }
                return Err(error);
            }
        };
        for rule in fresh {
            let from = start(&rule).unwrap_or(i64::MAX);
            let mut by_label: HashMap<Arc<str>, u64> = HashMap::new();
            for (label, cost) in spent(rule, &sums, from) {
                *by_label.entry(label).or_default() += cost;
            }
            book(&rule.limit, by_label, now);
        }
        Ok(())
    }

    /// Those that were granted something since the last time begin with what they spent.
    async fn begin_granted(&self, rule: &Rule, now: Now, begun: &mut Vec<Begun>) -> Result<(), StoreError> {
        let (Some(whose), Some(from)) = (rule.whose(), window_start(&rule.limit, now)) else { return Ok(()) };
        let number = rule.limit.cells.number();
        let all: HashSet<Box<str>> = rule.limit.amounts.keys().cloned().collect();
        let fresh: HashSet<Box<str>> = match lock(&self.budgets.begun_by).get(&number) {
            Some(begun) => all.difference(begun).cloned().collect(),
            None => all.clone(),
        };
        if !fresh.is_empty() {
            self.write().await?;
            let one = if fresh.len() == 1 { fresh.iter().next() } else { None };
            let spent = self.store.spent(whose, from, one.map(|one| &**one)).await?;
            let spent = spent.into_iter().filter(|(who, _)| fresh.contains(&**who));
            let positive = |(who, cost): (String, i64)| Some((Arc::from(who), u64::try_from(cost).ok()?));
            let spent: Vec<(Arc<str>, u64)> = spent.filter_map(positive).collect();
            let of = |(label, spent): &(Arc<str>, u64)| Begun {
                limit: Arc::clone(&rule.limit),
                label: Arc::clone(label),
                spent: *spent,
            };
            begun.extend(spent.iter().map(of));
            book(&rule.limit, spent, now);
        }
        lock(&self.budgets.begun_by).insert(number, all);
        Ok(())
    }

    /// What was spent of a budget in the present window by whom the label names, at all replicas.
    pub(crate) async fn spent(&self, limit: &Limit, label: &str, now: Now) -> Result<u64, StoreError> {
        let Some(from) = window_start(limit, now) else { return Ok(0) };
        let granted = self
            .budgets
            .granted
            .rules()
            .iter()
            .find(|rule| rule.limit.key == limit.key)
            .and_then(Rule::whose);
        if let Some(whose) = granted {
            self.write().await?;
            let spent = self.store.spent(whose, from, Some(label)).await?;
            return Ok(spent.into_iter().filter_map(|(_, cost)| u64::try_from(cost).ok()).sum());
        }
        let rule = lock(&self.budgets.configured).iter().find(|rule| rule.limit.key == limit.key).cloned();
        let Some(rule) = rule else { return Ok(0) };
        let sums = self.usage(from, i64::MAX).await?;
        Ok(spent(&rule, &sums, from).filter(|(whose, _)| &**whose == label).map(|(_, cost)| cost).sum())
    }
}

/// The beginning of a budget's present window, in milliseconds since 1970.
fn window_start(limit: &Limit, now: Now) -> Option<i64> {
    match &limit.span {
        Span::Calendar(calendar) => Some(calendar.window(now.wall_ms).0),
        _ => None,
    }
}

/// Books what the ledger says that was spent. What was counted here meanwhile is in the ledger too.
fn book(limit: &Limit, spent: impl IntoIterator<Item = (Arc<str>, u64)>, now: Now) {
    let counts = limit.counts(now);
    let counted: HashMap<&str, u64> = counts.iter().map(|count| (&*count.label, count.tally.used)).collect();
    for (label, cost) in spent {
        let known = counted.get(&*label).copied().unwrap_or(0);
        limit.book(&label, cost.saturating_sub(known), now);
    }
}

/// What sums say was spent of a budget since `from`, and by whom.
fn spent<'a>(rule: &'a Rule, sums: &'a [UsageSum], from: i64) -> impl Iterator<Item = (Arc<str>, u64)> + 'a {
    let counts = move |sum: &&UsageSum| sum.slot_ms >= from && rule.covers(&sum.spender.endpoint);
    sums.iter().filter(counts).filter_map(|sum| {
        let spender = &sum.spender;
        let name = |name: &String| (!name.is_empty()).then(|| name.as_str().into());
        let owner = Owner {
            user: name(&spender.user),
            team: name(&spender.team),
            app: name(&spender.app),
            organization: name(&spender.organization),
            tags: spender.tags.clone(),
        };
        let (key, endpoint) = (name(&spender.principal), spender.endpoint.as_str().into());
        let who = Who::known(key.as_ref(), &owner, &endpoint).target(&spender.target);
        Some((rule.ask(&who)?.label, u64::try_from(sum.cost).ok()?))
    })
}
