//! Who calls.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The caller as established from the request's headers alone, before a body byte is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// No key is asked for (`access.keys: open`).
    Anonymous,
    /// A virtual key, by its name; or a user, as `ISSUER:USER` by whom they are known here.
    Key(Arc<str>),
}

impl Principal {
    /// The name that logs and the usage ledger show: the key's name, or `anonymous`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Key(name) => name,
        }
    }
}

/// For whom a caller calls: what limits, budgets and records tell callers apart by, beside the principal's own name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The person.
    pub user: Option<Arc<str>>,
    /// The team that the person or the key belongs to.
    pub team: Option<Arc<str>>,
    /// The application.
    pub app: Option<Arc<str>>,
    /// The organisation above the team.
    pub organization: Option<Arc<str>>,
    /// Words of the owner's choice, for grouping what was spent.
    pub tags: BTreeMap<String, String>,
}

/// What a caller may do. Each holds for the whole gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Call endpoints, and see which there are.
    Invoke,
    /// See the state of everything by the admin API.
    Read,
    /// Change what runs: rollouts. Implies `Read`.
    Manage,
    /// Everything.
    Admin,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Invoke, Self::Read, Self::Manage, Self::Admin];

    /// Reads [`Self::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }

    /// The word in files and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Read => "read",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }
}

/// A set of permissions, with all that they imply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// Everything.
    pub const ALL: Self = Self(0b1111);

    /// Whether it may.
    #[must_use]
    pub fn has(self, permission: Permission) -> bool {
        self.0 & Self::bit(permission) != 0
    }

    /// Whether `other` has all of these.
    #[must_use]
    pub fn are_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// What both have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn bit(permission: Permission) -> u8 {
        match permission {
            Permission::Invoke => 0b0001,
            Permission::Read => 0b0010,
            Permission::Manage => 0b0100,
            Permission::Admin => 0b1000,
        }
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().fold(Self::default(), |set, permission| {
            Self(match permission {
                Permission::Admin => Self::ALL.0,
                Permission::Manage => set.0 | Self::bit(Permission::Manage) | Self::bit(Permission::Read),
                permission => set.0 | Self::bit(permission),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::{Admin, Invoke, Manage, Read};

    #[test]
    fn permissions_imply_lesser_ones_and_nothing_else() {
        let of = |given: &[Permission]| {
            let set: Permissions = given.iter().copied().collect();
            [Invoke, Read, Manage, Admin].map(|permission| set.has(permission))
        };
        assert_eq!(of(&[]), [false; 4]);
        assert_eq!(of(&[Invoke]), [true, false, false, false]);
        assert_eq!(of(&[Read]), [false, true, false, false]);
        assert_eq!(of(&[Manage]), [false, true, true, false]);
        assert_eq!(of(&[Admin]), [true; 4]);
        assert_eq!(of(&[Admin, Read]), [true; 4]);
        assert_eq!(of(&[Invoke, Manage]), [true, true, true, false]);
        let set = |given: &[Permission]| given.iter().copied().collect::<Permissions>();
        assert_eq!(set(&[Invoke, Manage]).and(set(&[Admin])), set(&[Invoke, Manage]));
        assert_eq!(set(&[Invoke, Read]).and(set(&[Manage])), set(&[Read]));
    }
}
