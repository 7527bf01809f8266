//! Issued keys in memory: as little as requests and the admin API need, since there may be very many.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use millgate_config::OwnerConfig;
use millgate_policy::{Glob, Scope};
use millgate_store::{KeyRecord, SecretRecord};
use millgate_types::{Owner, Permission, Principal, unhex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::directory::Directory;
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

/// Owners that several keys have are there once.
#[derive(Default)]
pub(crate) struct Owners(HashMap<Owner, Arc<Owner>>);

impl Owners {
    fn share(&mut self, owner: Owner) -> Arc<Owner> {
        Arc::clone(self.0.entry(owner).or_insert_with_key(|owner| Arc::new(owner.clone())))
    }
}

/// A key that was issued.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) id: Arc<str>,
    prefix: Box<str>,
    roles: Box<[Permission]>,
    created_by: Box<str>,
    created_ms: i64,
    /// The last change of anything but its use.
    pub(crate) updated_ms: i64,
    expires_ms: Option<i64>,
    pub(crate) revoked_ms: Option<i64>,
    /// What it may by itself.
    pub(crate) identity: Arc<Identity>,
    /// The same within what its user and team have; `None`: one of them may not call.
    bound: Option<Arc<Identity>>,
    pub(crate) used_ms: Arc<Used>,
}

/// When a key was used last, and what of it the store knows. 0: never.
#[derive(Debug)]
pub(crate) struct Used {
    at: AtomicI64,
    noted: AtomicI64,
}

impl Issued {
    pub(crate) fn new(
        record: KeyRecord,
        directory: &Directory,
        owners: &mut Owners,
        used_ms: Option<Arc<Used>>,
    ) -> Self {
        let roles: Box<[Permission]> =
            record.roles.iter().filter_map(|role| Permission::parse(role)).collect();
        let reach: Reach = serde_json::from_value(record.scope).unwrap_or_default();
        let owner: OwnerConfig = serde_json::from_value(record.owner).unwrap_or_default();
        let mut owner = owner.owner();
        owner.tags = record.tags;
        let identity = Arc::new(Identity {
            principal: Principal::Key(record.name.into()),
            owner: owners.share(owner),
            permissions: roles.iter().copied().collect(),
            scope: reach.scope(),
        });
        let used = || {
            let used = record.used_ms.unwrap_or(0);
            Arc::new(Used { at: AtomicI64::new(used), noted: AtomicI64::new(used) })
        };
        Self {
            id: record.id.into(),
            prefix: record.prefix.into(),
            roles,
            created_by: record.created_by.into(),
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            expires_ms: record.expires_ms,
            revoked_ms: record.revoked_ms,
            bound: bind(&identity, directory),
            identity,
            used_ms: used_ms.unwrap_or_else(used),
        }
    }

    /// The same within another directory.
    fn bound_by(&self, directory: &Directory) -> Self {
        Self {
            id: Arc::clone(&self.id),
            prefix: self.prefix.clone(),
            roles: self.roles.clone(),
            created_by: self.created_by.clone(),
            identity: Arc::clone(&self.identity),
            bound: bind(&self.identity, directory),
            used_ms: Arc::clone(&self.used_ms),
            ..*self
        }
    }

    /// As the store has it.
    pub(crate) fn record(&self) -> KeyRecord {
        let owner = &self.identity.owner;
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
            name: self.name().to_owned(),
            prefix: self.prefix.to_string(),
            roles: self.roles.iter().map(|role| role.name().to_owned()).collect(),
            scope: serde_json::to_value(self.reach()).unwrap_or_default(),
            owner: serde_json::to_value(&config).unwrap_or_default(),
            tags: owner.tags.clone(),
            created_by: self.created_by.to_string(),
            created_ms: self.created_ms,
            updated_ms: self.updated_ms,
            expires_ms: self.expires_ms,
            revoked_ms: self.revoked_ms,
            used_ms: self.used_ms(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.identity.principal.name()
    }

    pub(crate) fn reach(&self) -> Reach {
        Reach::of(&self.identity.scope)
    }

    /// Whether its user and team, where they are in the directory, may call.
    pub(crate) fn is_allowed(&self) -> bool {
        self.bound.is_some()
    }

    /// Whether it is good at this moment.
    pub(crate) fn is_good(&self, now_ms: i64) -> bool {
        self.revoked_ms.is_none() && self.expires_ms.is_none_or(|end| now_ms < end)
    }

    /// The last use, written down or not.
    pub(crate) fn used_ms(&self) -> Option<i64> {
        Some(self.used_ms.at.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// The last use, where the store does not know of it.
    pub(crate) fn newly_used_ms(&self) -> Option<i64> {
        self.used_ms().filter(|at| *at > self.used_ms.noted.load(Ordering::Relaxed))
    }

    /// The store knows of its use at a moment.
    pub(crate) fn noted(&self, at_ms: i64) {
        self.used_ms.noted.fetch_max(at_ms, Ordering::Relaxed);
    }
}

/// What a key may within what its user and team have: most have no more than their own.
fn bind(identity: &Arc<Identity>, directory: &Directory) -> Option<Arc<Identity>> {
    let rights = Some((identity.permissions, identity.scope.clone()));
    let bound = directory.bound(identity.principal.clone(), Owner::clone(&identity.owner), rights)?;
    let same = bound.owner == identity.owner
        && bound.permissions == identity.permissions
        && bound.scope == identity.scope;
    Some(if same { Arc::clone(identity) } else { Arc::new(bound) })
}

/// What is shown for a key, and until when it may be.
#[derive(Clone)]
struct Secret {
    key: Arc<Issued>,
    until_ms: Option<i64>,
}

/// All keys at one moment.
#[derive(Clone, Default)]
pub(crate) struct Known {
    by_hash: HashMap<[u8; 32], Secret>,
    by_id: BTreeMap<Arc<str>, Arc<Issued>>,
    pub(crate) directory: Arc<Directory>,
}

impl Known {
    pub(crate) fn find(&self, id: &str) -> Option<&Arc<Issued>> {
        self.by_id.get(id)
    }

    /// All of them, by id.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Issued>> {
        self.by_id.values()
    }

    /// Whose key has this hash, if it is good; notes that it was used.
    pub(crate) fn identity(&self, hash: &[u8; 32], now_ms: i64) -> Option<Arc<Identity>> {
        let secret = self.by_hash.get(hash)?;
        if !secret.key.is_good(now_ms) || secret.until_ms.is_some_and(|until| now_ms >= until) {
            return None;
        }
        let identity = secret.key.bound.as_ref()?;
        secret.key.used_ms.at.fetch_max(now_ms, Ordering::Relaxed);
        Some(Arc::clone(identity))
    }

    /// Binds every key to what its user and team have now.
    pub(crate) fn bind_all(&mut self, directory: Arc<Directory>) {
        for key in self.by_id.values_mut() {
            *key = Arc::new(key.bound_by(&directory));
        }
        for secret in self.by_hash.values_mut() {
            if let Some(key) = self.by_id.get(&secret.key.id) {
                secret.key = Arc::clone(key);
            }
        }
        self.directory = directory;
    }

    /// Puts keys in the place of those before, and what is shown for them: each is looked at once, however many there are.
    pub(crate) fn put(&mut self, changed: Vec<Arc<Issued>>, secrets: Vec<SecretRecord>) {
        let ids: HashSet<Arc<str>> = changed.iter().map(|key| Arc::clone(&key.id)).collect();
        if changed.iter().any(|key| self.by_id.contains_key(&key.id)) {
            self.by_hash.retain(|_, secret| !ids.contains(&secret.key.id));
        }
        self.by_id.extend(changed.into_iter().map(|key| (Arc::clone(&key.id), key)));
        for secret in secrets.into_iter().filter(|secret| ids.contains(&*secret.key_id)) {
            if let (Some(hash), Some(key)) = (unhex(&secret.hash), self.by_id.get(&*secret.key_id)) {
                self.by_hash.insert(hash, Secret { key: Arc::clone(key), until_ms: secret.until_ms });
            }
        }
    }
}
