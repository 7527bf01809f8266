//! Teams and users: what bounds the keys and tokens of those who belong to them. Held in memory whole, with the keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use millgate_policy::Scope;
use millgate_store::{PrincipalRecord, Whose};
use millgate_types::{Owner, Permission, Permissions, Principal};

use crate::granted::Grant;
use crate::identity::Identity;
use crate::keys::Reach;

/// What a member of the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Team,
    User,
}

impl Kind {
    /// The word in the store and in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::User => "user",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Team, Self::User].into_iter().find(|kind| kind.name() == name)
    }
}

/// A team or a user.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) record: PrincipalRecord,
    pub(crate) permissions: Permissions,
    pub(crate) scope: Scope,
    /// What all who belong to it may spend together.
    pub(crate) budget: Option<Grant>,
}

impl Member {
    fn new(record: PrincipalRecord) -> Self {
        let permissions = record.roles.iter().filter_map(|role| Permission::parse(role)).collect();
        let reach: Reach = serde_json::from_value(record.scope.clone()).unwrap_or_default();
        Self { permissions, scope: reach.scope(), budget: Grant::read(record.budget.clone()), record }
    }

    /// Whether anybody may call for it.
    pub(crate) fn is_good(&self) -> bool {
        self.record.disabled_ms.is_none() && self.record.removed_ms.is_none()
    }
}

/// What a caller may do, and for whom they call.
type Rights = (Permissions, Scope);

/// Everybody in it, removed ones too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    /// Another number after each change.
    pub(crate) generation: u64,
    members: BTreeMap<(Kind, String), Arc<Member>>,
}

impl Directory {
    /// Takes what the store says. `false`: nothing of it is new.
    pub(crate) fn take(&mut self, records: Vec<PrincipalRecord>) -> bool {
        let mut changed = false;
        for record in records {
            let Some(kind) = Kind::parse(&record.kind) else { continue };
            let known = self.members.get(&(kind, record.name.clone()));
            if known.is_some_and(|known| known.record == record) {
                continue;
            }
            self.members.insert((kind, record.name.clone()), Arc::new(Member::new(record)));
            changed = true;
        }
        self.generation += u64::from(changed);
        changed
    }

    /// Everybody in it, as the store has them.
    pub(crate) fn records(&self) -> Vec<PrincipalRecord> {
        self.members.values().map(|member| member.record.clone()).collect()
    }

    /// Whoever had this name last.
    pub(crate) fn find(&self, kind: Kind, name: &str) -> Option<&Arc<Member>> {
        self.members.get(&(kind, name.to_owned()))
    }

    /// All of a kind that are there.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Member>> {
        let of_kind = self.members.iter().filter(move |((known, _), _)| *known == kind);
        of_kind.map(|(_, member)| member).filter(|member| member.record.removed_ms.is_none())
    }

    /// What those who are there were granted.
    pub(crate) fn grants(&self) -> impl Iterator<Item = (Whose, &str, &Grant)> {
        let there = self.members.iter().filter(|(_, member)| member.record.removed_ms.is_none());
        there.filter_map(|((kind, name), member)| {
            let whose = match kind {
                Kind::Team => Whose::Team,
                Kind::User => Whose::User,
            };
            Some((whose, name.as_str(), member.budget.as_ref()?))
        })
    }

    /// The user and the team of an owner, as far as they are in it: it knows a user's team better.
    fn members(&self, owner: &Owner) -> (Option<&Arc<Member>>, Option<&Arc<Member>>) {
        let user = owner.user.as_deref().and_then(|name| self.find(Kind::User, name));
        let team = user.and_then(|user| user.record.parent.as_deref()).or(owner.team.as_deref());
        (user, team.and_then(|name| self.find(Kind::Team, name)))
    }

    /// Whether the user and the team, where they are in it, may call.
    pub(crate) fn allows(&self, owner: &Owner) -> bool {
        let (user, team) = self.members(owner);
        [user, team].into_iter().flatten().all(|member| member.is_good())
    }

    /// A caller within what their user and team have. `rights` are their own; without any, a user has those of their
    /// entry here, and others none. `None`: the user or the team may not call, or is gone.
    pub(crate) fn bound(
        &self,
        principal: Principal,
        mut owner: Owner,
        rights: Option<Rights>,
    ) -> Option<Identity> {
        let (user, team) = self.members(&owner);
        if let Some(team) = user.and_then(|user| user.record.parent.as_deref()) {
            owner.team = Some(team.into());
        }
        if let Some(organization) = team.and_then(|team| team.record.parent.as_deref()) {
            owner.organization = Some(organization.into());
        }
        let own = || user.map(|user| (user.permissions, user.scope.clone()));
        let (mut permissions, mut scope) = rights.or_else(own).unwrap_or_default();
        for member in [user, team].into_iter().flatten() {
            if !member.is_good() {
                return None;
            }
            permissions = permissions.and(member.permissions);
            scope = scope.bounded(&member.scope);
            for (name, value) in &member.record.tags {
                owner.tags.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        Some(Identity { principal, owner: Arc::new(owner), permissions, scope })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(
        kind: &str,
        name: &str,
        parent: Option<&str>,
        roles: &[&str],
        endpoints: &[&str],
    ) -> PrincipalRecord {
        PrincipalRecord {
            kind: kind.to_owned(),
            name: name.to_owned(),
            parent: parent.map(str::to_owned),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            scope: json!({ "endpoints": endpoints }),
            tags: [("of".to_owned(), name.to_owned())].into(),
            ..PrincipalRecord::default()
        }
    }

    fn owner(user: Option<&str>, team: Option<&str>) -> Owner {
        Owner { user: user.map(Into::into), team: team.map(Into::into), ..Owner::default() }
    }

    fn bound(directory: &Directory, owner: Owner, rights: Option<Rights>) -> Option<Identity> {
        directory.bound(Principal::Key("x".into()), owner, rights)
    }

    #[test]
    fn nobody_exceeds_their_user_and_their_team() {
        let mut directory = Directory::default();
        let team = record("team", "search", Some("corp"), &["invoke", "read"], &["chat-*"]);
        let user = record("user", "alice", Some("search"), &["manage", "invoke"], &["chat-a", "iris"]);
        assert!(directory.take(vec![team.clone(), user.clone()]) && !directory.take(vec![team.clone()]));

        let all = || Some((Permissions::ALL, Scope::default()));
        let alice = bound(&directory, owner(Some("alice"), Some("other")), all()).unwrap();
        assert_eq!(alice.owner.team.as_deref(), Some("search"), "the directory knows better than the token");
        assert_eq!(alice.owner.organization.as_deref(), Some("corp"));
        assert_eq!(alice.owner.tags["of"], "alice");
        assert!(alice.permissions.has(Permission::Read) && !alice.permissions.has(Permission::Manage));
        assert!(alice.scope.allows_endpoint("chat-a"));
        assert!(!alice.scope.allows_endpoint("iris") && !alice.scope.allows_endpoint("chat-b"));
        // Rights of their own are those of the entry, and who has no entry has none.
        let own = bound(&directory, owner(Some("alice"), None), None).unwrap();
        assert!(own.permissions.has(Permission::Invoke) && own.scope.allows_endpoint("chat-a"));
        let bob = bound(&directory, owner(Some("bob"), Some("search")), None).unwrap();
        assert_eq!(bob.permissions, Permissions::default());
        let free = bound(&directory, owner(None, Some("unknown")), all()).unwrap();
        assert!(free.permissions == Permissions::ALL && free.scope.is_open(), "a word is no entry");

        directory.take(vec![PrincipalRecord { disabled_ms: Some(1), updated_ms: 1, ..team.clone() }]);
        assert!(bound(&directory, owner(Some("alice"), None), all()).is_none());
        assert!(bound(&directory, owner(None, Some("search")), all()).is_none());
        directory.take(vec![team, PrincipalRecord { removed_ms: Some(2), updated_ms: 2, ..user }]);
        assert!(bound(&directory, owner(Some("alice"), None), all()).is_none());
        assert!(bound(&directory, owner(None, Some("search")), all()).is_some());
        assert_eq!(directory.all(Kind::User).count(), 0);
    }
}
