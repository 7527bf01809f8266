//! Virtual keys: issue, list, rotate, take back. Nobody gives rights that they do not have themselves, or gets at a key
//! that has more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use millgate_config::{OwnerConfig, Period};
use millgate_store::KeyRecord;
use millgate_types::{Fault, Permission, Permissions, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::page::{self, CURSOR, LIMIT, Page};
use super::patch::Patch;
use super::{Answer, Context, Manner, Route, tag};
use crate::granted::Grant;
use crate::keys::{Issued, Keys, Reach, now_ms};

/// The longest name, in characters.
const NAME: usize = 64;

pub(super) fn routes() -> [Route; 6] {
    let one = Manner { tag: Some(key_tag), ..Manner::default() };
    let list = Route {
        method: Method::GET,
        path: "/keys",
        needs: Permission::Read,
        summary: "All virtual keys: issued ones, and those of the configuration",
        query: &[("state", "`all` shows expired and revoked keys too"), LIMIT, CURSOR],
        request: None,
        response: SchemaGenerator::subschema_for::<KeyList>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { list(&context) }),
    };
    [
        Route {
            method: Method::POST,
            needs: Permission::Manage,
            summary: "Issue a key; it is shown in this answer and never again",
            query: &[],
            request: Some(SchemaGenerator::subschema_for::<NewKey>),
            response: SchemaGenerator::subschema_for::<NewlyIssued>,
            handle: |context| Box::pin(async move { issue(&context).await }),
            ..list.copy()
        },
        Route {
            path: "/keys/{id}",
            summary: "One issued key",
            query: &[],
            response: SchemaGenerator::subschema_for::<KeyView>,
            manner: one,
            handle: |context| {
                Box::pin(async move {
                    let keys = keys(&context)?;
                    Answer::ok(&KeyView::issued(keys, &*find(keys, &context)?))
                })
            },
            ..list.copy()
        },
        Route {
            method: Method::PATCH,
            path: "/keys/{id}",
            needs: Permission::Manage,
            summary: "Change what a key may, on every replica within a second",
            query: &[],
            request: Some(SchemaGenerator::subschema_for::<Change>),
            response: SchemaGenerator::subschema_for::<KeyView>,
            manner: one,
            handle: |context| Box::pin(async move { change(&context).await }),
        },
        Route {
            method: Method::DELETE,
            path: "/keys/{id}",
            needs: Permission::Manage,
            summary: "Take a key back, on every replica within a second",
            query: &[],
            response: SchemaGenerator::subschema_for::<KeyView>,
            manner: one,
            handle: |context| Box::pin(async move { revoke(&context).await }),
            ..list.copy()
        },
        Route {
            method: Method::POST,
            path: "/keys/{id}/rotate",
            needs: Permission::Manage,
            summary: "Give a key a new secret; the one before is good for `grace` more",
            query: &[],
            request: Some(SchemaGenerator::subschema_for::<Rotation>),
            response: SchemaGenerator::subschema_for::<NewlyIssued>,
            manner: one,
            handle: |context| Box::pin(async move { rotate(&context).await }),
        },
        list,
    ]
}

#[derive(Serialize, JsonSchema)]
struct KeyList {
    keys: Vec<KeyView>,
    next_cursor: Option<String>,
}

/// A virtual key. Nothing here lets anybody call.
#[derive(Serialize, JsonSchema)]
struct KeyView {
    /// Names the key in this API; `null` for keys of the configuration.
    id: Option<String>,
    name: String,
    /// Its first characters.
    prefix: Option<String>,
    /// `issued`, or `configured` in the file.
    origin: &'static str,
    /// `active`, `expired`, `revoked`, or `suspended` while its user or team may not call.
    state: &'static str,
    roles: Vec<String>,
    reach: Reach,
    /// For whom it calls.
    owner: OwnerConfig,
    tags: BTreeMap<String, String>,
    /// What it may spend by itself; `/budgets` says what it has spent.
    budget: Option<Grant>,
    created_by: Option<String>,
    /// Milliseconds since 1970, as all times here.
    created_ms: Option<i64>,
    expires_ms: Option<i64>,
    revoked_ms: Option<i64>,
    /// The last request with it.
    used_ms: Option<i64>,
}

impl KeyView {
    fn issued(keys: &Keys, key: &Issued) -> Self {
        let record = key.record();
        let state = match record {
            KeyRecord { revoked_ms: Some(_), .. } => "revoked",
            _ if key.is_good(now_ms()) && !key.is_allowed(&keys.directory()) => "suspended",
            _ if key.is_good(now_ms()) => "active",
            _ => "expired",
        };
        Self {
            id: Some(record.id),
            name: record.name,
            prefix: Some(record.prefix),
            origin: "issued",
            state,
            roles: record.roles,
            reach: key.reach(),
            owner: serde_json::from_value(record.owner).unwrap_or_default(),
            tags: record.tags,
            budget: key.budget.as_deref().cloned(),
            created_by: Some(record.created_by),
            created_ms: Some(record.created_ms),
            expires_ms: record.expires_ms,
            revoked_ms: record.revoked_ms,
            used_ms: record.used_ms,
        }
    }

    fn configured(key: &millgate_config::KeyConfig) -> Self {
        let roles = key.roles.iter().copied().map(Permission::from);
        Self {
            id: None,
            name: key.name.clone(),
            prefix: None,
            origin: "configured",
            state: "active",
            roles: roles.map(|role| role.name().to_owned()).collect(),
            reach: Reach {
                endpoints: key.endpoints.clone(),
                targets: key.targets.clone(),
                deny: key.deny.clone(),
            },
            owner: OwnerConfig { tags: BTreeMap::new(), ..key.owner.clone() },
            tags: key.owner.tags.clone(),
            budget: None,
            created_by: None,
            created_ms: None,
            expires_ms: None,
            revoked_ms: None,
            used_ms: None,
        }
    }
}

/// A key to be issued.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewKey {
    /// Shown in logs and metrics; unique among the keys that are good.
    name: String,
    /// `invoke`, `read`, `manage`, `admin`. Default: `invoke`.
    #[serde(default = "invoke")]
    roles: Vec<String>,
    /// Endpoints: names, or patterns with `*`. Default: all.
    #[serde(default)]
    endpoints: Vec<String>,
    /// Targets at which requests may end. Default: all.
    #[serde(default)]
    targets: Vec<String>,
    /// Endpoints and targets that may not be reached.
    #[serde(default)]
    deny: Vec<String>,
    /// The person that it is for.
    user: Option<String>,
    /// The team. A key that is issued with a team's key is that team's, unless an admin says otherwise.
    team: Option<String>,
    /// The application.
    app: Option<String>,
    /// The organisation; for it holds what holds for the team.
    organization: Option<String>,
    /// How long it is good: `90d`, `12h`. Default: until it is revoked.
    expires_in: Option<Period>,
    /// What it may spend by itself. Budgets of its user, team and organisation hold beside that. Default: as much as they.
    budget: Option<Grant>,
    /// Words of your choice.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// What is to be otherwise; what is not said stays.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Change {
    /// Other roles.
    roles: Option<Vec<String>>,
    /// Other endpoints.
    endpoints: Option<Vec<String>>,
    /// Other targets.
    targets: Option<Vec<String>>,
    /// Other denials.
    deny: Option<Vec<String>>,
    /// How long it is good from now on: `90d`; `null`: until it is revoked.
    expires_in: Patch<Period>,
    /// Another budget; `null`: none by itself.
    budget: Patch<Grant>,
    /// Other tags.
    tags: Option<BTreeMap<String, String>>,
}

pub(super) fn invoke() -> Vec<String> {
    vec![Permission::Invoke.name().to_owned()]
}

/// How a key changes hands.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    /// How long the secret before stays good: `1h`. Default: not at all.
    grace: Option<Period>,
}

/// A key and, this once, its secret.
#[derive(Serialize, JsonSchema)]
struct NewlyIssued {
    /// What callers show.
    key: String,
    issued: KeyView,
}

pub(super) fn keys(context: &Context) -> Result<&Arc<Keys>, Fault> {
    let none =
        || Fault::client(code::NOT_IMPLEMENTED, "this gateway keeps no store: keys are those of its file");
    context.gateway.keys.as_ref().ok_or_else(none)
}

fn find(keys: &Keys, context: &Context) -> Result<Arc<Issued>, Fault> {
    let id = context.param("id");
    keys.find(id).ok_or_else(|| {
        let shown: String = id.chars().take(64).collect();
        Fault::client(code::NOT_FOUND, format!("no key has the id `{shown}`"))
    })
}

/// Everything about a key that a change can change.
fn state(key: &Issued) -> String {
    tag::of(&KeyRecord { used_ms: None, ..key.record() })
}

fn key_tag(context: &Context) -> Option<String> {
    context.gateway.keys.as_ref()?.find(context.param("id")).map(|key| state(&key))
}

fn list(context: &Context) -> Result<Answer, Fault> {
    let all = match context.query("state").as_deref() {
        None | Some("active") => false,
        Some("all") => true,
        Some(_) => return Err(Fault::invalid_value("state", "`state` must be `active` or `all`")),
    };
    let page = Page::of(context)?;
    // Names are places too: keys of the configuration stand first, each behind a sign that ids do not have.
    let (name, id) = match page.after.as_deref() {
        Some(after) => after.strip_prefix('=').map_or((None, Some(after)), |name| (Some(name), None)),
        None => (None, None),
    };
    let declared = &context.snapshot.config.access.declared;
    let from = match (name, id) {
        (None, None) => 0,
        (Some(name), _) => declared.iter().position(|key| key.name == name).map_or(0, |at| at + 1),
        (None, Some(_)) => declared.len(),
    };
    let now = now_ms();
    let known = context.gateway.keys.as_ref().map(|keys| (keys, keys.all()));
    let issued = known.iter().flat_map(|(keys, all)| all.iter().map(move |key| (keys, key)));
    let issued = issued
        .filter(|(_, key)| id.is_none_or(|after| &*key.id > after) && (all || key.is_good(now)))
        .map(|(keys, key)| KeyView::issued(keys, key));
    let shown = declared[from..].iter().map(KeyView::configured).chain(issued);
    let mut keys: Vec<_> = shown.take(page.limit + 1).collect();
    let more = keys.len() > page.limit;
    keys.truncate(page.limit);
    let place = |view: &KeyView| view.id.clone().unwrap_or_else(|| format!("={}", view.name));
    let next_cursor = keys.last().filter(|_| more).map(|last| page::cursor(&place(last)));
    Answer::ok(&KeyList { keys, next_cursor })
}

async fn issue(context: &Context) -> Result<Answer, Fault> {
    let keys = keys(context)?;
    let asked: NewKey = context.body()?;
    check_name(context, keys, &asked.name)?;
    let reach = Reach { endpoints: asked.endpoints, targets: asked.targets, deny: asked.deny };
    bounded(context, &asked.roles, &reach)?;
    let budget = asked.budget.as_ref();
    budget.map_or(Ok(()), Grant::check)?;
    let user = spends(context, asked.user)?;
    let owner = OwnerConfig {
        user: word(user, "user")?,
        team: inherited(context, asked.team, context.identity.owner.team.as_deref(), "team")?,
        app: word(asked.app, "app")?,
        organization: {
            let own = context.identity.owner.organization.as_deref();
            inherited(context, asked.organization, own, "organization")?
        },
        tags: BTreeMap::new(),
    };
    let expires_ms = asked.expires_in.map(expiry).transpose()?;
    let record = KeyRecord {
        name: asked.name,
        roles: asked.roles,
        scope: serde_json::to_value(&reach).unwrap_or_default(),
        owner: serde_json::to_value(&owner).unwrap_or_default(),
        tags: asked.tags,
        budget: budget.map(Grant::row),
        created_by: context.identity.principal.name().to_owned(),
        expires_ms,
        ..KeyRecord::default()
    };
    let (key, issued) = keys.issue(record).await?;
    begin_budget(context, budget.is_some()).await;
    note(context, "issued", &issued);
    let view = KeyView::issued(keys, &issued);
    let answer =
        Answer::with(StatusCode::CREATED, &NewlyIssued { key, issued: KeyView::issued(keys, &issued) })?;
    Ok(answer.tagged(state(&issued)).changing(None, &view))
}

/// When what is good for so long from now on ends.
fn expiry(period: Period) -> Result<i64, Fault> {
    if period.0.is_zero() {
        return Err(Fault::invalid_value("expires_in", "a key is good for longer than nothing"));
    }
    Ok(now_ms().saturating_add(i64::try_from(period.0.as_millis()).unwrap_or(i64::MAX)))
}

/// What roles allow. Fault: `invalid_value` for one that there is not, at its place.
pub(super) fn permissions(roles: &[String]) -> Result<Permissions, Fault> {
    let known = |(at, role): (usize, &String)| {
        Permission::parse(role).ok_or_else(|| {
            let text = "a role is `invoke`, `read`, `manage` or `admin`";
            Fault::invalid_value(format!("roles[{at}]"), text)
        })
    };
    roles.iter().enumerate().map(known).collect()
}

/// Refuses roles that there are not, and what would exceed the caller's own rights.
fn bounded(context: &Context, roles: &[String], reach: &Reach) -> Result<(), Fault> {
    let permissions = permissions(roles)?;
    if roles.is_empty() {
        return Err(Fault::invalid_value("roles", "a key has at least one role"));
    }
    within(context, permissions, "roles")?;
    if !reach.scope().is_within(&context.identity.scope) {
        let text = "it would reach what your own key may not";
        return Err(Fault::client(code::PERMISSION_DENIED, text).with_param("endpoints"));
    }
    Ok(())
}

/// For which user a key is. Nobody but an admin comes by more money through a key that they issue: not beside their own
/// key's budget, and not beside their own.
fn spends(context: &Context, user: Option<String>) -> Result<Option<String>, Fault> {
    let Some(keys) = &context.gateway.keys else { return Ok(user) };
    let (caller, granted) = (&context.identity, keys.granted());
    if caller.permissions.has(Permission::Admin) {
        return Ok(user);
    }
    if granted.has_key(caller) {
        let text = "your own key has a budget: keys that it issues could spend beside that";
        return Err(Fault::client(code::PERMISSION_DENIED, text).with_param("budget"));
    }
    if !granted.has_user(&caller.owner) {
        return Ok(user);
    }
    inherited(context, user, caller.owner.user.as_deref(), "user")
}

/// A budget as it stands in the store after a change.
pub(super) fn granted(asked: Patch<Grant>, before: Option<Value>) -> Result<Option<Value>, Fault> {
    match asked {
        Patch::Keep => Ok(before),
        Patch::Remove => Ok(None),
        Patch::Set(grant) => grant.check().map(|()| Some(grant.row())),
    }
}

/// A budget that is another now begins with what was spent by whom it is for. The change is made by then: a store that is
/// gone just now is asked again behind it, and a key that was issued is not lost with its answer.
pub(super) async fn begin_budget(context: &Context, is_other: bool) {
    if is_other && let Err(error) = context.gateway.begin_fresh_budgets().await {
        tracing::warn!(%error, "what was spent of a new budget cannot be read yet");
    }
}

async fn change(context: &Context) -> Result<Answer, Fault> {
    let keys = keys(context)?;
    let asked: Change = context.body()?;
    let key = find(keys, context)?;
    changeable(context, &key)?;
    if !key.is_good(now_ms()) {
        return Err(Fault::invalid_value("id", "the key is expired or revoked; issue another one"));
    }
    let mut record = key.record();
    let mut reach = key.reach();
    record.roles = asked.roles.unwrap_or(record.roles);
    reach.endpoints = asked.endpoints.unwrap_or(reach.endpoints);
    reach.targets = asked.targets.unwrap_or(reach.targets);
    reach.deny = asked.deny.unwrap_or(reach.deny);
    bounded(context, &record.roles, &reach)?;
    record.scope = serde_json::to_value(&reach).unwrap_or_default();
    record.tags = asked.tags.unwrap_or(record.tags);
    record.expires_ms = match asked.expires_in {
        Patch::Keep => record.expires_ms,
        Patch::Remove => None,
        Patch::Set(period) => Some(expiry(period)?),
    };
    let is_other = asked.budget.is_said();
    if is_other {
        // Their own budget, among others.
        spends(context, None)?;
        record.budget = granted(asked.budget, record.budget)?;
    }
    let Some(changed) = keys.change(record).await? else {
        return Err(Fault::invalid_value("id", "somebody else changed it at the same moment; look again"));
    };
    begin_budget(context, is_other).await;
    note(context, "changed", &changed);
    let (before, after) = (KeyView::issued(keys, &key), KeyView::issued(keys, &changed));
    Ok(Answer::ok(&after)?.tagged(state(&changed)).changing(Some(&before), &after))
}

/// A name of an owner.
pub(super) fn word(name: Option<String>, param: &'static str) -> Result<Option<String>, Fault> {
    match name {
        Some(name) if name.is_empty() || name.len() > NAME || name.chars().any(char::is_control) => {
            Err(Fault::invalid_value(param, format!("a name has 1 to {NAME} bytes")))
        }
        name => Ok(name),
    }
}

/// What a key belongs to, so do those that are issued with it: nobody but an admin spends another team's money.
pub(super) fn inherited(
    context: &Context,
    asked: Option<String>,
    own: Option<&str>,
    param: &'static str,
) -> Result<Option<String>, Fault> {
    let asked = word(asked, param)?;
    if context.identity.permissions.has(Permission::Admin) {
        return Ok(asked);
    }
    match (asked, own) {
        (None, own) => Ok(own.map(str::to_owned)),
        (Some(asked), Some(own)) if asked == own => Ok(Some(asked)),
        _ => {
            let text = "only an admin issues keys for others";
            Err(Fault::client(code::PERMISSION_DENIED, text).with_param(param))
        }
    }
}

fn check_name(context: &Context, keys: &Keys, name: &str) -> Result<(), Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.len() > NAME || !name.chars().all(plain) {
        let text = format!("a name has 1 to {NAME} letters, digits, `-`, `_`, `.`, `@`");
        return Err(Fault::invalid_value("name", text));
    }
    let configured = context.snapshot.config.access.declared.iter().any(|key| key.name == name);
    let now = now_ms();
    if configured || keys.all().iter().any(|key| key.name() == name && key.is_good(now)) {
        return Err(Fault::invalid_value("name", format!("the name `{name}` is taken")));
    }
    Ok(())
}

/// Refuses what would exceed the caller's own rights.
fn within(context: &Context, permissions: Permissions, param: &'static str) -> Result<(), Fault> {
    if permissions.are_within(context.identity.permissions) {
        return Ok(());
    }
    Err(Fault::client(code::PERMISSION_DENIED, "it has roles that your own key has not").with_param(param))
}

/// Who may change a key may do all that it may.
fn changeable(context: &Context, key: &Issued) -> Result<(), Fault> {
    within(context, key.permissions(), "id")?;
    if key.scope().is_within(&context.identity.scope) {
        return Ok(());
    }
    Err(Fault::client(code::PERMISSION_DENIED, "it reaches what your own key may not").with_param("id"))
}

async fn rotate(context: &Context) -> Result<Answer, Fault> {
    let keys = keys(context)?;
    let asked: Rotation = context.body()?;
    let key = find(keys, context)?;
    changeable(context, &key)?;
    if !key.is_good(now_ms()) {
        return Err(Fault::invalid_value("id", "the key is expired or revoked; issue another one"));
    }
    let (secret, issued) = keys.rotate(&key, asked.grace.map_or(Duration::ZERO, |grace| grace.0)).await?;
    note(context, "rotated", &issued);
    let (before, after) = (KeyView::issued(keys, &key), KeyView::issued(keys, &issued));
    let answer = Answer::ok(&NewlyIssued { key: secret, issued: KeyView::issued(keys, &issued) })?;
    Ok(answer.tagged(state(&issued)).changing(Some(&before), &after))
}

async fn revoke(context: &Context) -> Result<Answer, Fault> {
    let keys = keys(context)?;
    let key = find(keys, context)?;
    changeable(context, &key)?;
    let revoked = keys.revoke(&key.id).await?;
    note(context, "revoked", &revoked);
    let (before, after) = (KeyView::issued(keys, &key), KeyView::issued(keys, &revoked));
    Ok(Answer::ok(&after)?.tagged(state(&revoked)).changing(Some(&before), &after))
}

fn note(context: &Context, what: &'static str, key: &Issued) {
    let caller = context.identity.principal.name();
    tracing::info!(caller, key = key.name(), id = &*key.id, "key {what}");
}
