//! Teams and users: what bounds the keys and tokens of those who belong to them. Nobody gives rights that they do not
//! have themselves, and nobody changes their own entry or that of their team.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, StatusCode};
use millgate_store::PrincipalRecord;
use millgate_types::{Fault, Permission, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::keys::{begin_budget, granted, keys, permissions, word};
use super::patch::Patch;
use super::{Answer, Context, Manner, Route};
use crate::directory::{Directory, Kind, Member};
use crate::granted::Grant;
use crate::keys::{Reach, now_ms};

/// The longest name, in bytes.
const NAME: usize = 256;

pub(super) fn routes() -> impl Iterator<Item = Route> {
    of_kind(Team).into_iter().chain(of_kind(User))
}

/// One of the two tables of routes: a function pointer cannot hold the kind.
trait Of: Copy {
    const KIND: Kind;
    /// Who may change: a team bounds everybody in it.
    const NEEDS: Permission;
    const PATHS: [&'static str; 2];
    const SUMMARIES: [&'static str; 5];
}

#[derive(Clone, Copy)]
struct Team;

#[derive(Clone, Copy)]
struct User;

impl Of for Team {
    const KIND: Kind = Kind::Team;
    const NEEDS: Permission = Permission::Admin;
    const PATHS: [&'static str; 2] = ["/teams", "/teams/{name}"];
    const SUMMARIES: [&'static str; 5] = [
        "All teams",
        "One team, with its members",
        "Make a team: what its members' keys and tokens cannot exceed",
        "Change a team, on every replica within a second",
        "Remove a team: its keys and its members' tokens are not known any more; its name is not given again",
    ];
}

impl Of for User {
    const KIND: Kind = Kind::User;
    const NEEDS: Permission = Permission::Manage;
    const PATHS: [&'static str; 2] = ["/users", "/users/{name}"];
    const SUMMARIES: [&'static str; 5] = [
        "All users that stand in the directory",
        "One user",
        "Make a user: what their keys and tokens cannot exceed",
        "Change a user, on every replica within a second",
        "Remove a user: their keys and tokens are not known any more; the name is not given again",
    ];
}

fn of_kind<K: Of + 'static>(_: K) -> [Route; 5] {
    let list = Route {
        method: Method::GET,
        path: K::PATHS[0],
        needs: Permission::Read,
        summary: K::SUMMARIES[0],
        query: &[],
        request: None,
        response: SchemaGenerator::subschema_for::<PrincipalList>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { list(&context, K::KIND) }),
    };
    [
        Route {
            path: K::PATHS[1],
            summary: K::SUMMARIES[1],
            response: SchemaGenerator::subschema_for::<PrincipalView>,
            handle: |context| Box::pin(async move { show(&context, K::KIND) }),
            ..list.copy()
        },
        Route {
            method: Method::POST,
            needs: K::NEEDS,
            summary: K::SUMMARIES[2],
            request: Some(SchemaGenerator::subschema_for::<NewPrincipal>),
            response: SchemaGenerator::subschema_for::<PrincipalView>,
            handle: |context| Box::pin(async move { create(&context, K::KIND).await }),
            ..list.copy()
        },
        Route {
            method: Method::PATCH,
            path: K::PATHS[1],
            needs: K::NEEDS,
            summary: K::SUMMARIES[3],
            request: Some(SchemaGenerator::subschema_for::<Change>),
            response: SchemaGenerator::subschema_for::<PrincipalView>,
            handle: |context| Box::pin(async move { change(&context, K::KIND).await }),
            ..list.copy()
        },
        Route {
            method: Method::DELETE,
            path: K::PATHS[1],
            needs: K::NEEDS,
            summary: K::SUMMARIES[4],
            response: SchemaGenerator::subschema_for::<PrincipalView>,
            handle: |context| Box::pin(async move { remove(&context, K::KIND).await }),
            ..list.copy()
        },
        list,
    ]
}

#[derive(Serialize, JsonSchema)]
struct PrincipalList {
    principals: Vec<PrincipalView>,
}

/// A team or a user.
#[derive(Serialize, JsonSchema)]
struct PrincipalView {
    name: String,
    /// `active`, `disabled` or `removed`.
    state: &'static str,
    /// A user's team.
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<String>,
    /// A team's organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    organization: Option<String>,
    /// A team's members.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<String>>,
    /// The most that keys and tokens may do; a user whose token brings no roles has these.
    roles: Vec<String>,
    /// The most that they reach.
    reach: Reach,
    /// Keys and tokens carry these.
    tags: BTreeMap<String, String>,
    /// What may be spent by all its keys and tokens together; `/budgets` says what they have spent.
    budget: Option<Grant>,
    created_by: String,
    /// Milliseconds since 1970, as all times here.
    created_ms: i64,
    updated_ms: i64,
}

impl PrincipalView {
    fn new(kind: Kind, member: &Member, directory: &Directory) -> Self {
        let record = &member.record;
        let state = match record {
            PrincipalRecord { removed_ms: Some(_), .. } => "removed",
            PrincipalRecord { disabled_ms: Some(_), .. } => "disabled",
            _ => "active",
        };
        let is_member = |user: &&Arc<Member>| user.record.parent.as_ref() == Some(&record.name);
        let members = || directory.all(Kind::User).filter(is_member).map(|user| user.record.name.clone());
        Self {
            name: record.name.clone(),
            state,
            team: record.parent.clone().filter(|_| kind == Kind::User),
            organization: record.parent.clone().filter(|_| kind == Kind::Team),
            members: (kind == Kind::Team).then(|| members().collect()),
            roles: record.roles.clone(),
            reach: serde_json::from_value(record.scope.clone()).unwrap_or_default(),
            tags: record.tags.clone(),
            budget: member.budget.clone(),
            created_by: record.created_by.clone(),
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
        }
    }
}

/// A team or a user to be made.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewPrincipal {
    /// A user's name is what `user` of their issuer gives; a team's what `team` gives, or a key's owner says.
    name: String,
    /// The user's team. A user who is made by a team's manager is that team's.
    team: Option<String>,
    /// The team's organisation.
    organization: Option<String>,
    /// The most that keys and tokens may do. Default: `["invoke"]`.
    #[serde(default = "super::keys::invoke")]
    roles: Vec<String>,
    /// Endpoints that may be called: names, or patterns with `*`. Default: all.
    #[serde(default)]
    endpoints: Vec<String>,
    /// Targets at which requests may end. Default: all.
    #[serde(default)]
    targets: Vec<String>,
    /// Endpoints and targets that may not be reached.
    #[serde(default)]
    deny: Vec<String>,
    /// Words of your choice; keys and tokens carry them.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// What may be spent by all its keys and tokens together. Default: as much as other budgets allow.
    budget: Option<Grant>,
}

/// What is to be otherwise; what is not said stays.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Change {
    /// `true`: nobody may call for it until it is `false` again.
    disabled: Option<bool>,
    /// Another team; an empty text: none.
    team: Option<String>,
    /// Another organisation; an empty text: none.
    organization: Option<String>,
    /// Other roles.
    roles: Option<Vec<String>>,
    /// Other endpoints.
    endpoints: Option<Vec<String>>,
    /// Other targets.
    targets: Option<Vec<String>>,
    /// Other denials.
    deny: Option<Vec<String>>,
    /// Other tags.
    tags: Option<BTreeMap<String, String>>,
    /// Another budget; `null`: none of its own.
    budget: Patch<Grant>,
}

fn list(context: &Context, kind: Kind) -> Result<Answer, Fault> {
    let directory = keys(context)?.directory();
    let views = directory.all(kind).map(|member| PrincipalView::new(kind, member, &directory));
    Answer::ok(&PrincipalList { principals: views.collect() })
}

fn show(context: &Context, kind: Kind) -> Result<Answer, Fault> {
    let directory = keys(context)?.directory();
    Answer::ok(&PrincipalView::new(kind, find(context, &directory, kind)?, &directory))
}

async fn create(context: &Context, kind: Kind) -> Result<Answer, Fault> {
    let keys = keys(context)?;
    let asked: NewPrincipal = context.body()?;
    if asked.name.is_empty() || asked.name.len() > NAME || asked.name.chars().any(char::is_control) {
        return Err(Fault::invalid_value("name", format!("a name has 1 to {NAME} bytes")));
    }
    let directory = keys.directory();
    match directory.find(kind, &asked.name).map(|member| member.record.removed_ms) {
        Some(None) => return Err(Fault::invalid_value("name", "the name is taken")),
        Some(Some(_)) => {
            let text = "the name was removed, and is not given again: what belonged to it would come back";
            return Err(Fault::invalid_value("name", text));
        }
        None => {}
    }
    let budget = asked.budget.as_ref();
    budget.map_or(Ok(()), Grant::check)?;
    let reach = Reach { endpoints: asked.endpoints, targets: asked.targets, deny: asked.deny };
    let parent = parent(context, &directory, kind, asked.team, asked.organization)?;
    let record = PrincipalRecord {
        kind: kind.name().to_owned(),
        name: asked.name,
        parent,
        roles: asked.roles,
        scope: serde_json::to_value(&reach).unwrap_or_default(),
        tags: asked.tags,
        budget: budget.map(Grant::row),
        created_by: context.identity.principal.name().to_owned(),
        ..PrincipalRecord::default()
    };
    allowed(context, kind, &record)?;
    let name = record.name.clone();
    keys.add_principal(record).await?;
    begin_budget(context, budget.is_some()).await;
    let view = note(context, kind, &name, "made")?;
    Ok(Answer::with(StatusCode::CREATED, &view)?.changing(None, &view))
}

async fn change(context: &Context, kind: Kind) -> Result<Answer, Fault> {
    let keys = keys(context)?;
    let asked: Change = context.body()?;
    let directory = keys.directory();
    let member = find(context, &directory, kind)?;
    allowed(context, kind, &member.record)?;
    let mut record = member.record.clone();
    let mut reach: Reach = serde_json::from_value(record.scope.clone()).unwrap_or_default();
    if asked.team.is_some() || asked.organization.is_some() {
        record.parent = parent(context, &directory, kind, asked.team, asked.organization)?;
    }
    record.roles = asked.roles.unwrap_or(record.roles);
    reach.endpoints = asked.endpoints.unwrap_or(reach.endpoints);
    reach.targets = asked.targets.unwrap_or(reach.targets);
    reach.deny = asked.deny.unwrap_or(reach.deny);
    record.tags = asked.tags.unwrap_or(record.tags);
    record.scope = serde_json::to_value(&reach).unwrap_or_default();
    let is_other = asked.budget.is_said();
    record.budget = granted(asked.budget, record.budget)?;
    match asked.disabled {
        Some(true) => drop(record.disabled_ms.get_or_insert_with(now_ms)),
        Some(false) => record.disabled_ms = None,
        None => {}
    }
    allowed(context, kind, &record)?;
    let answer = written(context, kind, member, record, &directory, "changed").await?;
    begin_budget(context, is_other).await;
    Ok(answer)
}

async fn remove(context: &Context, kind: Kind) -> Result<Answer, Fault> {
    let directory = keys(context)?.directory();
    let member = find(context, &directory, kind)?;
    allowed(context, kind, &member.record)?;
    let record = PrincipalRecord { removed_ms: Some(now_ms()), ..member.record.clone() };
    written(context, kind, member, record, &directory, "removed").await
}

async fn written(
    context: &Context,
    kind: Kind,
    member: &Member,
    record: PrincipalRecord,
    directory: &Directory,
    what: &'static str,
) -> Result<Answer, Fault> {
    let before = PrincipalView::new(kind, member, directory);
    if !keys(context)?.change_principal(record).await? {
        return Err(Fault::invalid_value("name", "somebody else changed it at the same moment; look again"));
    }
    let after = note(context, kind, &member.record.name, what)?;
    Ok(Answer::ok(&after)?.changing(Some(&before), &after))
}

fn note(context: &Context, kind: Kind, name: &str, what: &'static str) -> Result<PrincipalView, Fault> {
    tracing::info!(caller = context.identity.principal.name(), name, "{} {what}", kind.name());
    let directory = keys(context)?.directory();
    let member = directory.find(kind, name).ok_or_else(|| missing(kind, name))?;
    Ok(PrincipalView::new(kind, member, &directory))
}

fn find<'a>(context: &Context, directory: &'a Directory, kind: Kind) -> Result<&'a Arc<Member>, Fault> {
    let name = context.param("name");
    let there = directory.find(kind, name).filter(|member| member.record.removed_ms.is_none());
    there.ok_or_else(|| missing(kind, name))
}

fn missing(kind: Kind, name: &str) -> Fault {
    let shown: String = name.chars().take(64).collect();
    Fault::client(code::NOT_FOUND, format!("there is no {} `{shown}`", kind.name()))
}

/// The team of a user, the organisation of a team. Nobody but an admin puts a user into a team that is not their own.
fn parent(
    context: &Context,
    directory: &Directory,
    kind: Kind,
    team: Option<String>,
    organization: Option<String>,
) -> Result<Option<String>, Fault> {
    let filled = |name: Option<String>| name.filter(|name| !name.is_empty());
    if kind == Kind::Team {
        if team.is_some() {
            return Err(Fault::invalid_value("team", "a team is in no team"));
        }
        return word(filled(organization), "organization");
    }
    if organization.is_some() {
        return Err(Fault::invalid_value("organization", "a user's organisation is the team's"));
    }
    let team = super::keys::inherited(context, filled(team), context.identity.owner.team.as_deref(), "team")?;
    let there =
        |name: &String| directory.find(Kind::Team, name).is_some_and(|team| team.record.removed_ms.is_none());
    if team.as_ref().is_some_and(|name| !there(name)) {
        return Err(Fault::invalid_value("team", "there is no such team"));
    }
    Ok(team)
}

/// Whether the caller may leave an entry like this: not their own, and none that exceeds them.
fn allowed(context: &Context, kind: Kind, record: &PrincipalRecord) -> Result<(), Fault> {
    let caller = &context.identity;
    let refused = |param: &'static str, text: &'static str| {
        Err(Fault::client(code::PERMISSION_DENIED, text).with_param(param))
    };
    let own = match kind {
        Kind::User => caller.owner.user.as_deref(),
        Kind::Team => caller.owner.team.as_deref(),
    };
    if own == Some(record.name.as_str()) {
        return refused("name", "nobody changes their own entry, or that of their team");
    }
    let is_admin = caller.permissions.has(Permission::Admin);
    if kind == Kind::User && !is_admin && record.parent.as_deref() != caller.owner.team.as_deref() {
        return refused("team", "only an admin changes users of other teams");
    }
    if !permissions(&record.roles)?.are_within(caller.permissions) {
        return refused("roles", "it has roles that your own key has not");
    }
    let reach: Reach = serde_json::from_value(record.scope.clone()).unwrap_or_default();
    if !reach.scope().is_within(&caller.scope) {
        return refused("endpoints", "it would reach what your own key may not");
    }
    Ok(())
}
