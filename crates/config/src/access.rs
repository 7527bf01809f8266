//! Who may call beside the holders of keys: users of identity providers, and those for whom a trusted proxy vouches.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::keys::Role;
use crate::value::{Expanded, Period, Secret};

/// The algorithms that tokens may be signed with.
pub(crate) const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// An issuer of signed tokens: an OpenID Connect provider, or anything else that publishes a JWKS.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// A name of your choice. Logs, records and limits know a user by `NAME:USER`.
    pub name: String,
    /// What `iss` must be, letter by letter. The provider's addresses are read from
    /// `<issuer>/.well-known/openid-configuration`. `https://`, on this machine also `http://`.
    pub issuer: Expanded,
    /// `aud` must hold one of these.
    pub audience: Vec<String>,
    /// Where the provider's keys are. Default: what its discovery document says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<Expanded>,
    /// The algorithms that are allowed: `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, `EdDSA`.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<String>,
    /// How far the provider's clock and ours may differ.
    #[serde(default = "skew")]
    pub clock_skew: Period,
    /// Who it is: a CEL expression over `claims`. A token that gives no text here is refused.
    #[serde(default = "subject")]
    pub user: String,
    /// The user's team, over `claims`. A user of the admin API's `/users` belongs to the team that stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The application, over `claims`, for example `claims.azp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The organisation, over `claims`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// What its users may do: the first rule that holds says it. Where none does, a user has what the admin API's
    /// `/users` gives them, and others may do nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleRuleConfig>,
}

/// What those may do for whom a condition holds.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleRuleConfig {
    /// A condition in CEL: `'ml-admins' in claims.groups`. What cannot be told (a claim that is not there) does not hold.
    pub when: String,
    /// What they may do.
    pub roles: Vec<Role>,
    /// Endpoints that they may call: names, or patterns with `*`. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Targets at which their requests may end. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Endpoints and targets that they may not reach, whatever is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// An introspection endpoint (RFC 7662) for tokens that say nothing by themselves.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// The endpoint. `https://`, on this machine also `http://`.
    pub url: Expanded,
    /// Who asks there.
    pub client_id: Expanded,
    /// Their secret, by reference.
    pub client_secret: Secret,
    /// `aud` of an answer must hold one of these, where there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// How long an answer is used, at most until the token's `exp`. So long a revoked token may still be good.
    #[serde(default = "answers")]
    pub cache: Period,
    /// Who it is: a CEL expression over `claims`, the members of the answer. Logs, records and limits know a user by
    /// `introspection:USER`.
    #[serde(default = "subject")]
    pub user: String,
    /// See `access.issuers.team`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The application, over `claims`, for example `claims.client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The organisation, over `claims`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// See `access.issuers.roles`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleRuleConfig>,
}

/// Proxies in front of the gateway that say whose request it is.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedProxiesConfig {
    /// The proxies' addresses: `10.0.0.0/8`, `192.0.2.7`. From them alone headers are believed: `X-Forwarded-For` says
    /// which address a request comes from (records, limits by address), and the rest of this section who sends it.
    pub from: Vec<String>,
    /// Who it is: a CEL expression over `headers`, whose names are in lower case: `headers['x-forwarded-user']`. Default:
    /// the proxies say nothing of users. A key or token in the same request counts before it. Logs, records and limits
    /// know a user by `proxy:USER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// See `access.issuers.team`; over `headers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The application, over `headers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The organisation, over `headers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// See `access.issuers.roles`; over `headers`: `'ml' in split(headers['x-forwarded-groups'], ',')`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleRuleConfig>,
}

/// How people sign on with a browser: OpenID Connect, authorization code with PKCE. They may use the admin API then, as far
/// as their roles go.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignOnConfig {
    /// The name of the issuer in `access.issuers`, whose discovery document says where to sign on.
    pub issuer: String,
    /// What the provider knows this gateway by.
    pub client_id: Expanded,
    /// The client's secret, by reference. Default: the client has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
    /// What browsers reach this gateway by, for example `https://gateway.example`. Register `<public_url>/auth/callback`
    /// at the provider. With `https://` the cookies are `Secure`.
    pub public_url: Expanded,
    /// What is asked of the provider; `openid` is among it.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// How long somebody stays signed on.
    #[serde(default = "working_day")]
    pub session: Period,
}

/// TLS at the listener. The files are looked at every second; new ones count for the next connection.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The file of the certificate and those between it and its authority, PEM.
    pub cert: Expanded,
    /// The file of its private key, PEM.
    pub key: Expanded,
    /// The file of the authorities whose certificates clients may show, PEM. Default: clients are not asked for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<Expanded>,
    /// The file of the authorities' lists of revoked certificates (CRL), PEM: one of each authority that signs for clients, or
    /// none of its certificates is good. A list that is out of date is as good as none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_crl: Option<Expanded>,
    /// Whether clients must show a certificate.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// They may; others show a key or a token.
    #[default]
    Optional,
    /// Who shows none is not spoken with.
    Required,
}

/// Clients whose certificates say who they are, in place of a key. They are good when an authority of `server.tls.client_ca`
/// has signed them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatesConfig {
    /// Who it is: a CEL expression over `certificate`, which has `cn`, `organization`, `unit` and `serial`, and the lists
    /// `dns`, `email` and `uri`. Logs, records and limits know a client by `certificate:USER`.
    #[serde(default = "common_name")]
    pub user: String,
    /// See `access.issuers.team`; over `certificate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The application, over `certificate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The organisation, over `certificate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// See `access.issuers.roles`; over `certificate`: `'spiffe://corp/ns/ml' in certificate.uri`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleRuleConfig>,
}

fn common_name() -> String {
    "certificate.cn".to_owned()
}

fn scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).to_vec()
}

fn working_day() -> Period {
    Period::seconds(8 * 3600)
}

fn algorithms() -> Vec<String> {
    ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec()
}

fn skew() -> Period {
    Period::seconds(60)
}

fn answers() -> Period {
    Period::seconds(60)
}

fn subject() -> String {
    "claims.sub".to_owned()
}
