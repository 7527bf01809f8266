//! Who may call: keys, and for whom they are.

use std::collections::BTreeMap;

use millgate_types::{Owner, Permission};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::{
    CertificatesConfig, IntrospectionConfig, IssuerConfig, SignOnConfig, TrustedProxiesConfig,
};
use crate::value::{Period, Secret};

/// Who may call.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Whether callers need a key.
    pub keys: KeyMode,
    /// Keys declared here; others are issued by the admin API and `millgate keys`.
    #[serde(rename = "static")]
    pub declared: Vec<KeyConfig>,
    /// What issued keys are hashed with, the same for all replicas: 32 characters or more, by reference. Default: a
    /// random one in the data folder. Another one makes all issued keys unknown. Read at start only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_pepper: Option<Secret>,
    /// For how long issued keys are good while the store (PostgreSQL) cannot be reached, and how old what was last known of it
    /// may be for a start without it. Read at start only.
    pub last_known_max_age: Period,
    /// Issuers whose signed tokens (JWT) are good in place of a key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerConfig>,
    /// Where other tokens are asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection: Option<IntrospectionConfig>,
    /// Clients whose certificates say who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesConfig>,
    /// How people sign on with a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_on: Option<SignOnConfig>,
    /// Proxies that say where requests come from, and whose they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<TrustedProxiesConfig>,
    /// Serve without keys on an address other than loopback. Without it such a start is refused.
    pub allow_open_on_network: bool,
    /// Callers may name `provider/model` as the model, beside the endpoints. Default `false`.
    pub allow_provider_models: bool,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            keys: KeyMode::default(),
            declared: Vec::new(),
            key_pepper: None,
            last_known_max_age: Period::seconds(86_400),
            issuers: Vec::new(),
            introspection: None,
            certificates: None,
            sign_on: None,
            trusted_proxies: None,
            allow_open_on_network: false,
            allow_provider_models: false,
        }
    }
}

/// Whether callers need a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyMode {
    /// Anybody who reaches the listener may call.
    #[default]
    Open,
    /// Only callers with a key.
    Required,
}

/// A virtual key.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Shown in logs and metrics.
    pub name: String,
    /// The key, by reference. At least 16 characters, and none that everybody would try (`changeme`, `sk-1234`, ...).
    pub key: Secret,
    /// What it may do. Default: `[invoke]`.
    #[serde(default = "invoke", skip_serializing_if = "only_invoke")]
    pub roles: Vec<Role>,
    /// Endpoints that it may call: names, or patterns with `*`. Default: all. Others are as good as not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Targets at which its requests may end (`openai/gpt-5-*`, `models:/iris@champion`). Default: all. A route passes
    /// over others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Endpoints and targets that it may not reach, whatever is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// For whom it calls.
    #[serde(default, skip_serializing_if = "OwnerConfig::is_nobody")]
    pub owner: OwnerConfig,
}

/// For whom a key calls. Limits and budgets can be by these, and what was spent is told apart by them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OwnerConfig {
    /// A person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// An application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The organisation above the team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Words of your choice.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

impl OwnerConfig {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        *self == Self::default()
    }

    /// The same as requests carry it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        let name = |name: &Option<String>| name.as_deref().map(Into::into);
        Owner {
            user: name(&self.user),
            team: name(&self.team),
            app: name(&self.app),
            organization: name(&self.organization),
            tags: self.tags.clone(),
        }
    }
}

fn invoke() -> Vec<Role> {
    vec![Role::Invoke]
}

fn only_invoke(roles: &[Role]) -> bool {
    roles == [Role::Invoke]
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Call endpoints, and list them.
    Invoke,
    /// See by the admin API what runs.
    Read,
    /// Change what runs, for example roll a model back. Implies `read`.
    Manage,
    /// Everything.
    Admin,
}

impl From<Role> for Permission {
    fn from(role: Role) -> Self {
        match role {
            Role::Invoke => Self::Invoke,
            Role::Read => Self::Read,
            Role::Manage => Self::Manage,
            Role::Admin => Self::Admin,
        }
    }
}
