//! Virtual keys that are issued at run time. All that are good are held in memory, by a keyed hash; the store is
//! written first and asked only for what other replicas changed.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millgate_store::{KeyRecord, PrincipalRecord, SecretRecord, SecretRow, Store, StoreError};
use millgate_types::{Fault, Permission, Permissions, Retry, Source, code, hex};
use tokio::sync::Mutex;

use crate::directory::Directory;
use crate::granted::Granted;
use crate::identity::Identity;
use crate::issued::{Common, Known};
pub(crate) use crate::issued::{Issued, Reach};
use crate::last_known::{self, LastKnown};

/// How keys begin: found in a place where they should not be, they are known for what they are.
const PREFIX: &str = "mgk-";
/// Characters of a key that may be shown, its beginning among them.
const SHOWN: usize = 10;
/// Pause between two looks at what other replicas changed: a revocation counts everywhere within a second.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Replicas' clocks may differ by this, and a change may be this long in the making.
const OVERLAP_MS: i64 = 10_000;
/// Pause between two notes of when keys were used.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// A store that was read within this time can be reached, in milliseconds.
const FRESH_MS: i64 = 3_000;

/// All keys that were issued.
pub struct Keys {
    store: Store,
    pepper: hmac::Key,
    known: ArcSwap<Known>,
    /// What they, teams and users may spend by themselves.
    granted: Arc<Granted>,
    changes: AtomicU64,
    /// When the store was read last, in milliseconds since 1970.
    read_ms: AtomicI64,
    /// What was read is good for this long.
    max_age_ms: i64,
    /// One change at a time: each makes the next table from the present one.
    changing: Mutex<()>,
    noted: OnceLock<()>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// A store that does not answer. Code: `dependency_unavailable`.
pub(crate) fn unavailable(error: StoreError) -> Fault {
    let text = "the store cannot be reached: nothing was changed";
    Fault::new(code::DEPENDENCY_UNAVAILABLE, Source::Gateway, Retry::Never, text)
        .with_retry_after(Duration::from_secs(5))
        .with_cause(error)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)
        .map_err(|_| Fault::gateway(code::INTERNAL_ERROR, "the machine gives no random numbers"))?;
    Ok(bytes)
}

impl Keys {
    /// Reads all keys of the store; where that is away, begins with what was `last_known` of it. `pepper` is what keys are
    /// hashed with. While the store cannot be read, what is known is good for `max_age`.
    pub async fn load(
        store: Store,
        pepper: &[u8],
        max_age: Duration,
        last_known: Option<&LastKnown>,
    ) -> Result<Arc<Self>, StoreError> {
        let mut known = Known::default();
        if let Some(last) = last_known {
            let mut directory = Directory::default();
            directory.take(last.principals.clone());
            let mut common = Common::default();
            let keys = last.keys.iter().map(|key| Arc::new(Issued::new(key.clone(), &mut common, None)));
            known.put(keys.collect());
            last.shown.iter().for_each(|secret| known.show(secret));
            known.directory = Arc::new(directory);
        }
        let granted = Arc::new(Granted::default());
        granted.put(known.grants(now_ms()));
        let keys = Arc::new(Self {
            store,
            pepper: hmac::Key::new(hmac::HMAC_SHA256, pepper),
            granted,
            known: ArcSwap::from_pointee(known),
            changes: AtomicU64::new(0),
            read_ms: AtomicI64::new(last_known.map_or(0, |last| last.read_ms)),
            max_age_ms: last_known::millis(max_age),
            changing: Mutex::new(()),
            noted: OnceLock::new(),
        });
        if last_known.is_none() {
            keys.refresh(0).await?;
        }
        Ok(keys)
    }

    /// What is known, to be kept for a start without the store.
    pub(crate) fn last_known(&self, secrets: Vec<SecretRow>) -> LastKnown {
        let (read_ms, known) = (self.read_ms.load(Relaxed), self.known.load_full());
        LastKnown {
            read_ms,
            keys: known.all().map(|key| key.record()).collect(),
            shown: known.shown(),
            principals: known.directory.records(),
            secrets,
        }
    }

    /// How often they have changed.
    pub(crate) fn generation(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Whether the store was read just now.
    pub(crate) fn is_fresh(&self) -> bool {
        self.store.kind() == "sqlite" || now_ms() - self.read_ms.load(Relaxed) < FRESH_MS
    }

    /// Whether the store cannot be read for so long that nobody knows any more who may call. Fault: `dependency_unavailable`.
    pub(crate) fn stale(&self) -> Option<Fault> {
        let stale = || now_ms() - self.read_ms.load(Relaxed) > self.max_age_ms;
        let text = "the store cannot be reached: issued keys are not known any more";
        (self.store.kind() != "sqlite" && stale()).then(|| {
            Fault::new(code::DEPENDENCY_UNAVAILABLE, Source::Gateway, Retry::Never, text)
                .with_retry_after(Duration::from_secs(5))
        })
    }

    /// What keys, teams and users may spend by themselves.
    pub(crate) fn granted(&self) -> &Arc<Granted> {
        &self.granted
    }

    /// Where they are kept.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Follows what other replicas change, and notes when keys are used, as long as somebody holds the keys.
    pub fn follow(self: &Arc<Self>) {
        if self.noted.set(()).is_err() {
            return;
        }
        tokio::spawn(look(Arc::downgrade(self)));
        tokio::spawn(note(Arc::downgrade(self)));
    }

    /// Writes down when keys were used, and lets the store go.
    pub async fn close(&self) {
        if let Err(error) = self.note_use().await {
            tracing::warn!(%error, "when keys were used last is not written down");
        }
        self.store.close().await;
    }

    async fn refresh(&self, since_ms: i64) -> Result<(), StoreError> {
        let _one = self.changing.lock().await;
        let began_ms = now_ms();
        let principals = self.store.principals_since(since_ms).await?;
        let before = self.known.load_full();
        let mut directory = Directory::clone(&before.directory);
        let rebound = directory.take(principals);
        let (mut common, mut changed) = (Common::default(), Vec::new());
        let take = |record: KeyRecord| {
            let known = before.find(&record.id);
            if known.is_none_or(|known| known.updated_ms != record.updated_ms) {
                changed.push(Arc::new(Issued::new(record, &mut common, known.map(|known| &**known))));
            }
        };
        self.store.keys_since(since_ms, take).await?;
        drop(common);
        // Also where one loses its budget.
        let budgets = rebound
            || changed.iter().any(|key| {
                key.budget.is_some() || before.find(&key.id).is_some_and(|known| known.budget.is_some())
            });
        if changed.is_empty() && !rebound {
            self.read_ms.store(began_ms, Relaxed);
            return Ok(());
        }
        let mut known = Known::clone(&before);
        if rebound {
            known.bind_all(Arc::new(directory));
        }
        if !changed.is_empty() {
            known.put(changed);
            self.store.secrets_since(since_ms, |secret| known.show(&secret)).await?;
        }
        if budgets {
            // Before a key is good that has one.
            self.granted.put(known.grants(now_ms()));
        }
        self.known.store(Arc::new(known));
        self.changes.fetch_add(1, Relaxed);
        self.read_ms.store(began_ms, Relaxed);
        Ok(())
    }

    fn hash(&self, key: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.pepper, key).as_ref());
        hash
    }

    /// A key for another purpose, the same at all replicas.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        self.hash(purpose.as_bytes())
    }

    /// What the store knows a session by.
    pub(crate) fn session_hash(&self, token: &str) -> String {
        hex(&self.hash(format!("session {token}").as_bytes()))
    }

    /// Whose key it is, if it is good.
    pub(crate) fn identity(&self, key: &[u8]) -> Option<Arc<Identity>> {
        if self.stale().is_some() {
            return None;
        }
        self.known.load().identity(&self.hash(key), now_ms())
    }

    /// Teams and users.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.known.load().directory)
    }

    /// Adds a team or a user. Fault: `dependency_unavailable`.
    pub(crate) async fn add_principal(&self, mut record: PrincipalRecord) -> Result<(), Fault> {
        (record.created_ms, record.updated_ms) = (now_ms(), now_ms());
        self.store.add_principal(&record).await.map_err(unavailable)?;
        self.refresh(record.updated_ms).await.map_err(unavailable)
    }

    /// Changes a team or a user; from now on that counts here, within a second everywhere. `false`: somebody else was
    /// faster. Fault: `dependency_unavailable`.
    pub(crate) async fn change_principal(&self, mut record: PrincipalRecord) -> Result<bool, Fault> {
        let seen_ms = record.updated_ms;
        record.updated_ms = now_ms().max(seen_ms + 1);
        let changed = self.store.change_principal(&record, seen_ms).await.map_err(unavailable)?;
        self.refresh(record.updated_ms.min(now_ms())).await.map_err(unavailable)?;
        Ok(changed)
    }

    /// All of them, revoked ones too, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Issued>> {
        self.known.load().all().cloned().collect()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Issued>> {
        self.known.load().find(id).cloned()
    }

    /// Whether somebody may administer by a key of this store.
    pub fn has_admin(&self) -> bool {
        let now = now_ms();
        self.known
            .load()
            .all()
            .any(|key| key.is_good(now) && key.permissions() == Permissions::ALL && key.scope().is_open())
    }

    /// Issues a key for everything. What is given is shown this once.
    pub async fn issue_admin(&self) -> Result<String, Fault> {
        let record = KeyRecord {
            name: "first-admin".to_owned(),
            roles: vec![Permission::Admin.name().to_owned()],
            scope: serde_json::json!({}),
            created_by: "first start".to_owned(),
            ..KeyRecord::default()
        };
        self.issue(record).await.map(|(key, _)| key)
    }

    /// Issues a key: id, prefix and times are filled in. Gives the key itself, which nobody can ask for again.
    pub(crate) async fn issue(&self, mut record: KeyRecord) -> Result<(String, Arc<Issued>), Fault> {
        let id = random::<9>()?;
        record.id = URL_SAFE_NO_PAD.encode(id);
        let (key, secret) = self.secret(&record.id)?;
        record.prefix = key[..SHOWN].to_owned();
        (record.created_ms, record.updated_ms) = (now_ms(), now_ms());
        self.store.add_key(&record, &secret).await.map_err(unavailable)?;
        let id = record.id.clone();
        self.refresh(record.updated_ms).await.map_err(unavailable)?;
        Ok((key, self.changed(&id)?))
    }

    fn secret(&self, id: &str) -> Result<(String, SecretRecord), Fault> {
        let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
        let hash = hex(&self.hash(key.as_bytes()));
        Ok((key, SecretRecord { hash, key_id: id.to_owned(), until_ms: None }))
    }

    fn changed(&self, id: &str) -> Result<Arc<Issued>, Fault> {
        self.find(id).ok_or_else(|| Fault::gateway(code::INTERNAL_ERROR, "the key was not read back"))
    }

    /// Gives a key a new secret; the one before is good for `grace` more.
    pub(crate) async fn rotate(&self, key: &Issued, grace: Duration) -> Result<(String, Arc<Issued>), Fault> {
        let id = &*key.id;
        let (new, secret) = self.secret(id)?;
        let now = now_ms();
        let until = now.saturating_add(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX));
        self.store.rotate_key(&secret, &new[..SHOWN], now, until).await.map_err(unavailable)?;
        self.refresh(now).await.map_err(unavailable)?;
        Ok((new, self.changed(id)?))
    }

    /// Changes what a key may, until when, its budget and its tags; from now on that counts here, within a second
    /// everywhere. `None`: somebody else was faster. Fault: `dependency_unavailable`.
    pub(crate) async fn change(&self, mut record: KeyRecord) -> Result<Option<Arc<Issued>>, Fault> {
        let seen_ms = record.updated_ms;
        record.updated_ms = now_ms().max(seen_ms + 1);
        let changed = self.store.change_key(&record, seen_ms).await.map_err(unavailable)?;
        self.refresh(record.updated_ms.min(now_ms())).await.map_err(unavailable)?;
        if changed { self.changed(&record.id).map(Some) } else { Ok(None) }
    }

    /// Takes a key back; from now on it is not known here, within a second nowhere.
    pub(crate) async fn revoke(&self, id: &str) -> Result<Arc<Issued>, Fault> {
        let now = now_ms();
        self.store.revoke_key(id, now).await.map_err(unavailable)?;
        self.refresh(now).await.map_err(unavailable)?;
        self.changed(id)
    }

    async fn note_use(&self) -> Result<(), StoreError> {
        let known = self.known.load_full();
        let used = known.all().filter_map(|key| Some((key.id.to_string(), key.newly_used_ms()?)));
        let used: Vec<_> = used.collect();
        if used.is_empty() {
            return Ok(());
        }
        self.store.note_use(&used).await?;
        for (id, at) in &used {
            if let Some(key) = known.find(id) {
                key.noted(*at);
            }
        }
        Ok(())
    }
}

async fn look(keys: Weak<Keys>) {
    // Where the start was without the store.
    let mut failing = keys.upgrade().is_some_and(|keys| !keys.is_fresh());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(keys) = keys.upgrade() else { return };
        if keys.store.kind() == "sqlite" {
            // Nobody else writes.
            return;
        }
        match keys.refresh(now_ms() - OVERLAP_MS).await {
            Ok(()) if failing => {
                failing = false;
                // What was missed meanwhile.
                let _ = keys.refresh(0).await;
                tracing::info!("the store answers again");
            }
            Ok(()) => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "the store does not answer: issued keys are those known so far");
                }
            }
        }
    }
}

async fn note(keys: Weak<Keys>) {
    loop {
        tokio::time::sleep(NOTE_EVERY).await;
        let Some(keys) = keys.upgrade() else { return };
        if let Err(error) = keys.note_use().await {
            tracing::debug!(%error, "when keys were used last is not written down");
        }
    }
}
