//! Secrets of the gateway's own store: set and listed, never shown. Configurations refer to them as `secret:NAME`.

use http::{Method, StatusCode};
use millgate_config::is_secret_name;
use millgate_store::SecretRow;
use millgate_types::{Fault, Permission, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::page::{self, CURSOR, LIMIT, Page};
use super::{Answer, Context, Manner, Route, tag};
use crate::keys::unavailable;
use crate::secrets::Secrets;

/// The longest value, in bytes.
const LONGEST: usize = 16 << 10;

pub(super) fn routes() -> [Route; 4] {
    let list = Route {
        method: Method::GET,
        path: "/secrets",
        needs: Permission::Read,
        summary: "The names of all stored secrets, and when they were set; values are never shown",
        query: &[LIMIT, CURSOR],
        request: None,
        response: SchemaGenerator::subschema_for::<SecretList>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { list(&context).await }),
    };
    let one = Route {
        path: "/secrets/{name}",
        summary: "One stored secret, without its value",
        query: &[],
        response: SchemaGenerator::subschema_for::<SecretView>,
        handle: |context| Box::pin(async move { show(&context).await }),
        ..list.copy()
    };
    [
        Route {
            method: Method::PUT,
            needs: Permission::Admin,
            summary: "Set a secret; requests use the new value from this answer on",
            request: Some(SchemaGenerator::subschema_for::<NewSecret>),
            manner: Manner { told: Some(|_| json!({ "value": "***" })), ..Manner::default() },
            handle: |context| Box::pin(async move { set(&context).await }),
            ..one.copy()
        },
        Route {
            method: Method::DELETE,
            needs: Permission::Admin,
            summary: "Delete a secret that the configuration does not refer to",
            handle: |context| Box::pin(async move { delete(&context).await }),
            ..one.copy()
        },
        one,
        list,
    ]
}

#[derive(Serialize, JsonSchema)]
struct SecretList {
    secrets: Vec<SecretView>,
    next_cursor: Option<String>,
}

/// A stored secret, without its value.
#[derive(Serialize, JsonSchema)]
struct SecretView {
    name: String,
    /// What configurations write.
    reference: String,
    /// Counts its values, from 1.
    version: i64,
    updated_by: String,
    /// Milliseconds since 1970.
    updated_ms: i64,
    /// The configuration that is served refers to it.
    used: bool,
}

/// A secret's value.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewSecret {
    value: String,
}

impl SecretView {
    fn new(context: &Context, row: &SecretRow) -> Self {
        let reference = format!("secret:{}", row.name);
        Self {
            used: is_used(context, &reference),
            reference,
            name: row.name.clone(),
            version: row.version,
            updated_by: row.updated_by.clone(),
            updated_ms: row.updated_ms,
        }
    }

    /// Everything that a change can change.
    fn tag(&self) -> String {
        tag::of(&(&self.name, self.version, self.updated_ms))
    }
}

/// Whether the canonical form holds the reference: secrets show themselves as they are written.
fn is_used(context: &Context, reference: &str) -> bool {
    fn holds(value: &Value, reference: &str) -> bool {
        match value {
            Value::String(text) => text == reference,
            Value::Array(items) => items.iter().any(|item| holds(item, reference)),
            Value::Object(members) => members.values().any(|member| holds(member, reference)),
            _ => false,
        }
    }
    let config = &context.gateway.snapshot().config;
    serde_json::to_value(&**config).is_ok_and(|config| holds(&config, reference))
}

fn secrets(context: &Context) -> Result<&Secrets, Fault> {
    let none = || Fault::client(code::NOT_IMPLEMENTED, "this gateway keeps no store, and so no secrets");
    context.gateway.secrets.as_deref().ok_or_else(none)
}

async fn find(context: &Context) -> Result<Option<SecretView>, Fault> {
    let name = context.param("name");
    let rows = secrets(context)?.store().secrets().await.map_err(unavailable)?;
    Ok(rows.iter().find(|row| row.name == name).map(|row| SecretView::new(context, row)))
}

fn missing(context: &Context) -> Fault {
    let shown: String = context.param("name").chars().take(64).collect();
    Fault::client(code::NOT_FOUND, format!("no secret `{shown}` is stored"))
}

async fn list(context: &Context) -> Result<Answer, Fault> {
    let page = Page::of(context)?;
    let rows = secrets(context)?.store().secrets().await.map_err(unavailable)?;
    let mut rows: Vec<_> =
        rows.iter().filter(|row| page.after.as_ref().is_none_or(|after| row.name > *after)).collect();
    let more = rows.len() > page.limit;
    rows.truncate(page.limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| page::cursor(&row.name));
    Answer::ok(&SecretList {
        secrets: rows.into_iter().map(|row| SecretView::new(context, row)).collect(),
        next_cursor,
    })
}

async fn show(context: &Context) -> Result<Answer, Fault> {
    let found = find(context).await?.ok_or_else(|| missing(context))?;
    let tag = found.tag();
    Ok(Answer::ok(&found)?.tagged(tag))
}

/// Compares with `If-Match`; changes come one at a time.
fn expected(context: &Context, found: Option<&SecretView>) -> Result<(), Fault> {
    let Some(expected) = tag::expected(&context.headers)? else { return Ok(()) };
    if found.is_some_and(|found| expected.contains(&found.tag())) {
        return Ok(());
    }
    Err(Fault::client(code::PRECONDITION_FAILED, "it was changed meanwhile: read it again"))
}

async fn set(context: &Context) -> Result<Answer, Fault> {
    let name = context.param("name");
    if !is_secret_name(name) {
        return Err(Fault::invalid_value("name", "a name has 1 to 64 letters, digits, `-`, `_`, `.`"));
    }
    let asked: NewSecret = context.body()?;
    if asked.value.is_empty() || asked.value.len() > LONGEST {
        return Err(Fault::invalid_value("value", format!("a value has 1 to {LONGEST} bytes")));
    }
    if asked.value.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Err(Fault::invalid_value("value", "the value holds a control character"));
    }
    let before = find(context).await?;
    expected(context, before.as_ref())?;
    let by = context.identity.principal.name();
    let row = secrets(context)?.set(name, &asked.value, by).await.ok_or_else(|| {
        let text = "set `secrets.master_key`, the same for all replicas: nothing can be encrypted without it";
        Fault::client(code::NOT_IMPLEMENTED, text)
    })?;
    let row = row.map_err(unavailable)?;
    tracing::info!(caller = by, name, version = row.version, "secret set");
    refresh(context).await;
    let view = SecretView::new(context, &row);
    let status = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let tag = view.tag();
    Ok(Answer::with(status, &view)?.tagged(tag).changing(before.as_ref(), &view))
}

/// Puts the new value to use before the answer leaves.
async fn refresh(context: &Context) {
    if let Some(documents) = context.gateway.documents()
        && let Err(fault) = documents.refresh(&context.gateway).await
    {
        tracing::error!(%fault, "the configuration cannot be served with the new value");
    }
}

async fn delete(context: &Context) -> Result<Answer, Fault> {
    let found = find(context).await?.ok_or_else(|| missing(context))?;
    expected(context, Some(&found))?;
    if found.used {
        return Err(Fault::client(code::IN_USE, "the configuration that is served refers to it"));
    }
    secrets(context)?.store().delete_secret(&found.name).await.map_err(unavailable)?;
    tracing::info!(caller = context.identity.principal.name(), name = found.name, "secret deleted");
    Ok(Answer::ok(&found)?.changing(Some(&found), &found))
}
