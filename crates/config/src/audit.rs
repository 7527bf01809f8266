//! The audit log: what is recorded, and where it goes beside the data folder.

use millgate_types::ContentPolicy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{ByteSize, Period, Secret};

/// The audit log in `<data>/audit`: every change by the admin API, and every request where that is asked for. Read at start
/// only, but for `content` and `on_error`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Record every request too: who, when, from where, what, by which target and version, tokens, cost, outcome.
    pub calls: bool,
    /// What of requests and answers is recorded with `calls`, unless the endpoint says otherwise.
    pub content: AuditContent,
    /// What happens to requests while the log cannot be written and `calls` is set. Changes are refused in either case.
    pub on_error: AuditOnError,
    /// Where records go beside the files, once they are in them. A sink that is too slow loses records, which
    /// `millgate_audit_sink_dropped_records_total` counts; the files have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<AuditSink>,
    /// A file that grew over this is followed by another one.
    pub max_segment: ByteSize,
    /// Files whose last record is older are deleted. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Period>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            calls: false,
            content: AuditContent::None,
            on_error: AuditOnError::Allow,
            sinks: Vec::new(),
            max_segment: ByteSize(64 << 20),
            retention: None,
        }
    }
}

/// What of a request and its answer is recorded. At most 256 KiB on each side; bodies of `native` paths and of bulk scoring
/// are never recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditContent {
    /// Nothing.
    #[default]
    None,
    /// A keyed hash of each body: whoever has a text and the log's key can tell that it was this one.
    Hashed,
    /// The bodies without what looks like a secret, an e-mail address, a card, an IBAN or a phone number.
    Redacted,
    /// The bodies.
    Full,
}

impl From<AuditContent> for ContentPolicy {
    fn from(content: AuditContent) -> Self {
        match content {
            AuditContent::None => Self::None,
            AuditContent::Hashed => Self::Hashed,
            AuditContent::Redacted => Self::Redacted,
            AuditContent::Full => Self::Full,
        }
    }
}

/// What happens to requests while the audit log cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOnError {
    /// They are served; their records go to the sinks, and are counted as lost.
    #[default]
    Allow,
    /// 503 `dependency_unavailable` until it can be written again.
    Deny,
}

/// An endpoint's own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointAudit {
    /// What of its requests and answers is recorded.
    pub content: AuditContent,
}

/// Where records go beside the files.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditSink {
    /// Standard output, a line each.
    Stdout(AuditStdout),
    /// Some lines at a time by HTTP, signed.
    Webhook(AuditWebhook),
    /// Syslog, RFC 5424.
    Syslog(AuditSyslog),
}

/// Nothing to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditStdout {}

/// A receiver by HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditWebhook {
    /// Where lines are posted, as NDJSON.
    pub url: crate::Expanded,
    /// What deliveries are signed with: `X-Millgate-Signature: v1,<base64>` is HMAC-SHA256 over
    /// `<delivery id>.<timestamp>.<body>`.
    pub secret: Secret,
}

/// A syslog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditSyslog {
    /// `udp://host:514`, `tcp://host:601` or `unix:///dev/log`.
    pub address: String,
}
