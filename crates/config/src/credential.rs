//! Credentials that are more than a fixed key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{Expanded, Secret};

/// How the gateway proves itself to a provider where one fixed key does not do.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialConfig {
    /// AWS keys: every request is signed with them (Signature Version 4). For Bedrock.
    Aws(AwsConfig),
    /// Google Cloud's access tokens. For Vertex AI.
    Google(GoogleConfig),
    /// Microsoft Entra ID's access tokens. For Azure OpenAI.
    Entra(EntraConfig),
    /// Access tokens for an OAuth client (client credentials). For Databricks' machine-to-machine login, and for
    /// gateways of one's own.
    Oauth(OauthConfig),
}

/// AWS keys. With nothing given they are looked for as AWS's tools do: `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, then the profile `AWS_PROFILE` (or `default`) of the file
/// `AWS_SHARED_CREDENTIALS_FILE` (or `~/.aws/credentials`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AwsConfig {
    /// The key's id, by reference: `env:NAME`, `file:PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<Secret>,
    /// The secret key, by reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// The session token of temporary keys, by reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    /// A profile of the shared credentials file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The shared credentials file. It is read again every few minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<Expanded>,
}

/// Google Cloud's tokens. With nothing given they are looked for as Google's tools do (Application Default
/// Credentials): the file that `GOOGLE_APPLICATION_CREDENTIALS` names, the one that
/// `gcloud auth application-default login` writes, the metadata server of Google's machines.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GoogleConfig {
    /// The key file of a service account, or a user's login (`authorized_user`). It is read again for each token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<Expanded>,
    /// The metadata server's host, with the port where it is not 80. Default: `GCE_METADATA_HOST`, else
    /// `metadata.google.internal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_host: Option<Expanded>,
}

/// An application of Microsoft Entra ID.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntraConfig {
    /// The directory (tenant): its id or its domain.
    pub tenant_id: Expanded,
    /// The application's (client's) id.
    pub client_id: Expanded,
    /// The application's secret, by reference.
    pub client_secret: Secret,
    /// What the token is for. Default `https://cognitiveservices.azure.com/.default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Where tokens come from. Default `https://login.microsoftonline.com`; national clouds have their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Expanded>,
}

/// An OAuth client.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OauthConfig {
    /// The client's id.
    pub client_id: Expanded,
    /// The client's secret, by reference.
    pub client_secret: Secret,
    /// The token endpoint. Default for Databricks: `/oidc/v1/token` of the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_url: Option<Expanded>,
    /// What the token is for. Default for Databricks: `all-apis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Send id and secret as fields of the form instead of basic authentication.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_form: bool,
}
