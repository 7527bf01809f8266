//! Issued keys in memory: as little as requests and the admin API need, since there may be very many.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use millgate_config::OwnerConfig;
use millgate_policy::{Glob, Scope};
use millgate_store::{KeyRecord, SecretRecord, Whose};
use millgate_types::{Owner, Permission, Permissions, Principal, hex, unhex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::directory::Directory;
use crate::granted::Grant;
use crate::identity::{Identity, scope};

/// What a key may reach, in a store's row and in the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Reach {
    /// Endpoints: names, or patterns with `*`. Empty: all.
    pub(crate) endpoints: Vec<String>,
    /// Targets at which requests may end. Empty: all.
    pub(crate) targets: Vec<String>,
    /// Endpoints and targets that may not be reached.
    pub(crate) deny: Vec<String>,
}

impl Reach {
    pub(crate) fn scope(&self) -> Scope {
        scope(&self.endpoints, &self.targets, &self.deny)
    }

    fn of(scope: &Scope) -> Self {
        let texts = |globs: &[Glob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect();
        Self { endpoints: texts(&scope.endpoints), targets: texts(&scope.targets), deny: texts(&scope.deny) }
    }
}

/// What several keys have, which is there once.
#[derive(Default)]
pub(crate) struct Common {
    owners: HashSet<Arc<Owner>>,
    names: HashSet<Arc<str>>,
    rights: HashMap<String, Arc<Rights>>,
}

impl Common {
    fn owner(&mut self, mut owner: Owner) -> Arc<Owner> {
        if let Some(known) = self.owners.get(&owner) {
            return Arc::clone(known);
        }
        for name in [&mut owner.team, &mut owner.app, &mut owner.organization].into_iter().flatten() {
            *name = self.name(name);
        }
        let owner = Arc::new(owner);
        self.owners.insert(Arc::clone(&owner));
        owner
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    fn rights(&mut self, roles: &[String], reach: Value) -> Arc<Rights> {
        let text = format!("{roles:?} {reach}");
        let rights = || {
            let roles = roles.iter().filter_map(|role| Permission::parse(role)).collect();
            let reach: Reach = serde_json::from_value(reach).unwrap_or_default();
            Arc::new(Rights { roles, scope: reach.scope() })
        };
        Arc::clone(self.rights.entry(text).or_insert_with(rights))
    }
}

/// What a key may by itself.
#[derive(Debug)]
struct Rights {
    roles: Box<[Permission]>,
    scope: Scope,
}

/// A key that was issued. Most of very many are not used: who calls with it is worked out at its first request.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) id: Box<str>,
    name: Box<str>,
    prefix: Box<str>,
    rights: Arc<Rights>,
    owner: Arc<Owner>,
    /// What it may spend by itself.
    pub(crate) budget: Option<Box<Grant>>,
    created_by: Arc<str>,
    created_ms: i64,
    /// The last change of anything but its use.
    pub(crate) updated_ms: i64,
    expires_ms: Option<i64>,
    pub(crate) revoked_ms: Option<i64>,
    used_ms: Used,
    /// Who calls with it, within what its user and team have; `None`: one of them may not call.
    identity: OnceLock<Option<Arc<Identity>>>,
}

/// When a key was used last, and what of it the store knows. 0: never.
#[derive(Debug)]
struct Used {
    at: AtomicI64,
    noted: AtomicI64,
}

impl Used {
    fn new(at: i64, noted: i64) -> Self {
        Self { at: AtomicI64::new(at), noted: AtomicI64::new(noted) }
    }
}

impl Clone for Used {
    fn clone(&self) -> Self {
        Self::new(self.at.load(Relaxed), self.noted.load(Relaxed))
    }
}

impl Issued {
    /// As a row of the store says; `before` is the same key as it was known.
    pub(crate) fn new(record: KeyRecord, common: &mut Common, before: Option<&Self>) -> Self {
        let owner: OwnerConfig = serde_json::from_value(record.owner).unwrap_or_default();
        let owner = Owner { tags: record.tags, ..owner.owner() };
        let used = record.used_ms.unwrap_or(0);
        Self {
            id: record.id.into(),
            name: record.name.into(),
            prefix: record.prefix.into(),
            rights: common.rights(&record.roles, record.scope),
            owner: common.owner(owner),
            budget: Grant::read(record.budget).map(Box::new),
            created_by: common.name(&record.created_by),
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            expires_ms: record.expires_ms,
            revoked_ms: record.revoked_ms,
            used_ms: before.map_or_else(|| Used::new(used, used), |before| before.used_ms.clone()),
            identity: OnceLock::new(),
        }
    }

    /// The same, for another directory.
    fn again(&self) -> Self {
        Self {
            id: self.id.clone(),
            name: self.name.clone(),
            prefix: self.prefix.clone(),
            rights: Arc::clone(&self.rights),
            owner: Arc::clone(&self.owner),
            budget: self.budget.clone(),
            created_by: Arc::clone(&self.created_by),
            used_ms: self.used_ms.clone(),
            identity: OnceLock::new(),
            ..*self
        }
    }

    /// As the store has it.
    pub(crate) fn record(&self) -> KeyRecord {
        let owner = &self.owner;
        let name = |name: &Option<Arc<str>>| name.as_deref().map(str::to_owned);
        let config = OwnerConfig {
            user: name(&owner.user),
            team: name(&owner.team),
            app: name(&owner.app),
            organization: name(&owner.organization),
            tags: BTreeMap::new(),
        };
        KeyRecord {
            id: self.id.to_string(),
            name: self.name.to_string(),
            prefix: self.prefix.to_string(),
            roles: self.rights.roles.iter().map(|role| role.name().to_owned()).collect(),
            scope: serde_json::to_value(self.reach()).unwrap_or_default(),
            owner: serde_json::to_value(&config).unwrap_or_default(),
            tags: owner.tags.clone(),
            budget: self.budget.as_deref().map(Grant::row),
            created_by: self.created_by.to_string(),
            created_ms: self.created_ms,
            updated_ms: self.updated_ms,
            expires_ms: self.expires_ms,
            revoked_ms: self.revoked_ms,
            used_ms: self.used_ms(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it may by itself.
    pub(crate) fn permissions(&self) -> Permissions {
        self.rights.roles.iter().copied().collect()
    }

    /// What it may reach by itself.
    pub(crate) fn scope(&self) -> &Scope {
        &self.rights.scope
    }

    pub(crate) fn reach(&self) -> Reach {
        Reach::of(self.scope())
    }

    /// Whether its user and team, where they are in the directory, may call.
    pub(crate) fn is_allowed(&self, directory: &Directory) -> bool {
        directory.allows(&self.owner)
    }

    /// Who calls with it: what it may, within what its user and team have. `None`: one of them may not call.
    fn identity(&self, directory: &Directory) -> Option<&Arc<Identity>> {
        let identity = || {
            let principal = Principal::Key((*self.name).into());
            let rights = (self.permissions(), self.scope().clone());
            let mut bound = directory.bound(principal, Owner::clone(&self.owner), Some(rights))?;
            if bound.owner == self.owner {
                bound.owner = Arc::clone(&self.owner);
            }
            Some(Arc::new(bound))
        };
        self.identity.get_or_init(identity).as_ref()
    }

    /// Whether it is good at this moment.
    pub(crate) fn is_good(&self, now_ms: i64) -> bool {
        self.revoked_ms.is_none() && self.expires_ms.is_none_or(|end| now_ms < end)
    }

    /// The last use, written down or not.
    pub(crate) fn used_ms(&self) -> Option<i64> {
        Some(self.used_ms.at.load(Relaxed)).filter(|at| *at > 0)
    }

    /// The last use, where the store does not know of it.
    pub(crate) fn newly_used_ms(&self) -> Option<i64> {
        self.used_ms().filter(|at| *at > self.used_ms.noted.load(Relaxed))
    }

    /// The store knows of its use at a moment.
    pub(crate) fn noted(&self, at_ms: i64) {
        self.used_ms.noted.fetch_max(at_ms, Relaxed);
    }
}

/// A key among others, told apart by its id.
#[derive(Clone)]
struct ById(Arc<Issued>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

/// What is shown for a key, and until when it may be.
#[derive(Clone)]
struct Secret {
    key: Arc<Issued>,
    /// `i64::MAX`: as long as the key is.
    until_ms: i64,
}

/// All keys at one moment.
#[derive(Clone, Default)]
pub(crate) struct Known {
    by_hash: foldhash::HashMap<[u8; 32], Secret>,
    by_id: BTreeSet<ById>,
    pub(crate) directory: Arc<Directory>,
}

impl Known {
    pub(crate) fn find(&self, id: &str) -> Option<&Arc<Issued>> {
        self.by_id.get(id).map(|ById(key)| key)
    }

    /// All of them, by id.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Issued>> {
        self.by_id.iter().map(|ById(key)| key)
    }

    /// Whose key has this hash, if it is good; notes that it was used.
    pub(crate) fn identity(&self, hash: &[u8; 32], now_ms: i64) -> Option<Arc<Identity>> {
        let secret = self.by_hash.get(hash)?;
        if !secret.key.is_good(now_ms) || now_ms >= secret.until_ms {
            return None;
        }
        let identity = secret.key.identity(&self.directory)?;
        secret.key.used_ms.at.fetch_max(now_ms, Relaxed);
        Some(Arc::clone(identity))
    }

    /// Lets every key be bound to what its user and team have now.
    pub(crate) fn bind_all(&mut self, directory: Arc<Directory>) {
        self.by_id = self.all().map(|key| ById(Arc::new(key.again()))).collect();
        for secret in self.by_hash.values_mut() {
            if let Some(ById(key)) = self.by_id.get(&*secret.key.id) {
                secret.key = Arc::clone(key);
            }
        }
        self.directory = directory;
    }

    /// Puts keys in the place of those before. What is shown for them is to be told again, by [`Self::show`].
    pub(crate) fn put(&mut self, changed: Vec<Arc<Issued>>) {
        if changed.iter().any(|key| self.find(&key.id).is_some()) {
            let ids: HashSet<&str> = changed.iter().map(|key| &*key.id).collect();
            self.by_hash.retain(|_, secret| !ids.contains(&*secret.key.id));
        }
        for key in changed {
            self.by_id.replace(ById(key));
        }
    }

    /// What keys that are good, teams and users were granted.
    pub(crate) fn grants(&self, now_ms: i64) -> impl Iterator<Item = (Whose, &str, &Grant)> {
        let keys = self.all().filter(move |key| key.is_good(now_ms));
        let keys = keys.filter_map(|key| Some((Whose::Key, key.name(), key.budget.as_deref()?)));
        keys.chain(self.directory.grants())
    }

    /// What is shown for all of them, as the store has it.
    pub(crate) fn shown(&self) -> Vec<SecretRecord> {
        let record = |(hash, secret): (&[u8; 32], &Secret)| SecretRecord {
            hash: hex(hash),
            key_id: secret.key.id.to_string(),
            until_ms: Some(secret.until_ms).filter(|until| *until < i64::MAX),
        };
        self.by_hash.iter().map(record).collect()
    }

    /// Notes what is shown for a key.
    pub(crate) fn show(&mut self, secret: &SecretRecord) {
        if let (Some(hash), Some(key)) = (unhex(&secret.hash), self.find(&secret.key_id)) {
            let until_ms = secret.until_ms.unwrap_or(i64::MAX);
            self.by_hash.insert(hash, Secret { key: Arc::clone(key), until_ms });
        }
    }
}
