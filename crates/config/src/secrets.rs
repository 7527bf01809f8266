//! Where secrets are kept that are no variables and no files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{Expanded, Period, Secret};

/// Where secrets are kept that are no variables and no files: `secret:NAME` references lead to the gateway's own store,
/// where the admin API puts them, encrypted; `vault:path#field` to HashiCorp Vault. Read at start, `vault` also later.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// What the data keys of stored secrets are encrypted with, at least 32 characters: `env:MILLGATE_MASTER_KEY`,
    /// `file:/run/secrets/master-key`. All replicas need the same. Default: `<data>/master-key`, made at the first start;
    /// with PostgreSQL no secrets are stored without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key: Option<Secret>,
    /// A command (program and arguments, no shell) that prints the master key, for example one that asks a KMS to decrypt
    /// it. It may take 30 s.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub master_key_command: Vec<String>,
    /// Master keys of before. At start what they encrypted is encrypted with the present one; then they can go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub previous_master_keys: Vec<Secret>,
    /// HashiCorp Vault, or OpenBao.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultConfig>,
}

/// HashiCorp Vault's key-value engine, version 2.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// For example `https://vault.example.com:8200`.
    pub address: Expanded,
    /// A token: `env:VAULT_TOKEN`, `file:/vault/token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// Log in with the pod's service account instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<VaultKubernetes>,
    /// The namespace, where Vault has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How often secrets are read again. Default `60s`. While Vault does not answer, the last ones are used.
    #[serde(default = "minute")]
    pub refresh: Period,
}

fn minute() -> Period {
    Period::seconds(60)
}

/// Vault's Kubernetes authentication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultKubernetes {
    /// The role.
    pub role: String,
    /// Where the method is mounted. Default `kubernetes`.
    #[serde(default = "kubernetes")]
    pub mount: String,
    /// The service account's token. Default `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    #[serde(default = "account")]
    pub token_file: String,
}

fn kubernetes() -> String {
    "kubernetes".to_owned()
}

fn account() -> String {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".to_owned()
}
