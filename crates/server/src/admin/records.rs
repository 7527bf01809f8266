//! The audit log, looked through.

use http::Method;
use millgate_audit::{Audit, AuditError, Query, search};
use millgate_types::{Fault, Permission, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;

use super::page::{self, CURSOR, LIMIT, Page};
use super::{Answer, Context, Manner, Route};

pub(super) fn routes() -> [Route; 1] {
    [Route {
        method: Method::GET,
        path: "/audit",
        needs: Permission::Read,
        summary: "Records of the audit log, the oldest first",
        query: &[
            ("since", "From this time on: RFC 3339, or milliseconds since 1970"),
            ("until", "Before this time"),
            ("principal", "Who did it"),
            ("kind", "`change` or `call`"),
            ("path", "The path, or its beginning"),
            ("after", "Only records behind this number"),
            LIMIT,
            CURSOR,
        ],
        request: None,
        response: SchemaGenerator::subschema_for::<Records>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { list(&context).await }),
    }]
}

#[derive(Serialize, JsonSchema)]
struct Records {
    /// Each with its number as `seq`.
    records: Vec<Value>,
    /// Gives the next page; a page may be shorter than asked for though more follow.
    next_cursor: Option<String>,
}

/// A time as people and records write it.
fn milliseconds(text: &str) -> Option<i64> {
    let as_number = text.parse().ok();
    as_number.or_else(|| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond))
}

fn time(context: &Context, name: &'static str) -> Result<Option<i64>, Fault> {
    let Some(text) = context.query(name) else { return Ok(None) };
    let wrong = || Fault::invalid_value(name, format!("`{name}` must be a time: `2026-11-26T09:00:00Z`"));
    milliseconds(&text).map(Some).ok_or_else(wrong)
}

async fn list(context: &Context) -> Result<Answer, Fault> {
    let audit: &Audit = context.gateway.audit.as_deref().ok_or_else(|| {
        Fault::client(code::NOT_IMPLEMENTED, "this gateway keeps no data folder, and so no audit log")
    })?;
    let owned = |name: &str| context.query(name).map(std::borrow::Cow::into_owned);
    let page = Page::of(context)?;
    let after = match (page.number()?, owned("after")) {
        (Some(cursor), _) => cursor,
        (None, Some(after)) => {
            after.parse().map_err(|_| Fault::invalid_value("after", "`after` must be a record's number"))?
        }
        (None, None) => 0,
    };
    let kind = owned("kind");
    if kind.as_ref().is_some_and(|kind| !matches!(kind.as_str(), "change" | "call")) {
        return Err(Fault::invalid_value("kind", "`kind` must be `change` or `call`"));
    }
    let query = Query {
        after,
        limit: page.limit,
        since_ms: time(context, "since")?,
        until_ms: time(context, "until")?,
        principal: owned("principal"),
        kind,
        path: owned("path"),
    };
    let folder = audit.folder().to_owned();
    let found = tokio::task::spawn_blocking(move || search(&folder, &query, &milliseconds)).await;
    let failed = |error: AuditError| {
        Fault::gateway(code::DEPENDENCY_UNAVAILABLE, "the audit log cannot be read").with_cause(error)
    };
    let found = match found {
        Ok(found) => found.map_err(failed)?,
        Err(error) => {
            let text = "an internal error; the log knows the request id";
            return Err(Fault::gateway(code::INTERNAL_ERROR, text).with_cause(error));
        }
    };
    let numbered = |(seq, text): (u64, String)| {
        let members = text.strip_prefix('{').unwrap_or(&text);
        serde_json::from_str(&format!("{{\"seq\":{seq},{members}")).unwrap_or_default()
    };
    // Changes are of no endpoint: who does not reach all of them does not see them.
    let seen = |record: &serde_json::Value| match record["endpoint"].as_str() {
        Some(endpoint) => context.sees(endpoint),
        None => context.identity.scope.is_open(),
    };
    Answer::ok(&Records {
        records: found.records.into_iter().map(numbered).filter(seen).collect(),
        next_cursor: found.next.map(|next| page::cursor(&next.to_string())),
    })
}
