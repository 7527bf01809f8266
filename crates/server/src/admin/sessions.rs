//! Browsers that are signed on: who, since when, and how to sign one off.

use http::{Method, StatusCode};
use millgate_store::{SessionRecord, Store};
use millgate_types::{Fault, Permission, code};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

use super::page::{self, CURSOR, LIMIT, Page};
use super::{Answer, Context, Manner, Route};
use crate::keys::{now_ms, unavailable};

/// Characters of a session's hash that name it. Nobody signs on with it.
const ID: usize = 24;

pub(super) fn routes() -> [Route; 2] {
    let list = Route {
        method: Method::GET,
        path: "/sessions",
        needs: Permission::Read,
        summary: "Browsers that are signed on",
        query: &[("principal", "Only those of this principal"), LIMIT, CURSOR],
        request: None,
        response: SchemaGenerator::subschema_for::<SessionList>,
        manner: Manner::default(),
        handle: |context| Box::pin(async move { list(&context).await }),
    };
    [
        Route {
            method: Method::DELETE,
            path: "/sessions/{id}",
            needs: Permission::Manage,
            summary: "Sign a browser off, on every replica at once",
            query: &[],
            response: SchemaGenerator::subschema_for::<SessionView>,
            handle: |context| Box::pin(async move { end(&context).await }),
            ..list.copy()
        },
        list,
    ]
}

#[derive(Serialize, JsonSchema)]
struct SessionList {
    sessions: Vec<SessionView>,
    next_cursor: Option<String>,
}

/// A browser that is signed on.
#[derive(Serialize, JsonSchema)]
struct SessionView {
    /// Names the session in this API.
    id: String,
    /// `ISSUER:USER`.
    principal: String,
    /// Milliseconds since 1970, as all times here.
    created_ms: i64,
    expires_ms: i64,
}

impl SessionView {
    fn new(record: &SessionRecord) -> Self {
        Self {
            id: record.hash.get(..ID).unwrap_or_default().to_owned(),
            principal: record.principal.clone(),
            created_ms: record.created_ms,
            expires_ms: record.expires_ms,
        }
    }
}

fn store(context: &Context) -> Result<&Store, Fault> {
    let none = || Fault::client(code::NOT_IMPLEMENTED, "this gateway keeps no store, and so no sessions");
    context.gateway.store.as_ref().ok_or_else(none)
}

async fn list(context: &Context) -> Result<Answer, Fault> {
    let page = Page::of(context)?;
    let principal = context.query("principal");
    let records = store(context)?.sessions(now_ms()).await.map_err(unavailable)?;
    let wanted = |record: &&SessionRecord| {
        page.after.as_ref().is_none_or(|after| *record.hash > **after)
            && principal.as_ref().is_none_or(|name| record.principal == **name)
    };
    let mut sessions: Vec<_> =
        records.iter().filter(wanted).take(page.limit + 1).map(SessionView::new).collect();
    let more = sessions.len() > page.limit;
    sessions.truncate(page.limit);
    // Whatever begins with it stands before the next.
    let next_cursor = sessions.last().filter(|_| more).map(|last| page::cursor(&format!("{}~", last.id)));
    Answer::ok(&SessionList { sessions, next_cursor })
}

async fn end(context: &Context) -> Result<Answer, Fault> {
    let (store, id) = (store(context)?, context.param("id"));
    let missing = || {
        let shown: String = id.chars().take(64).collect();
        Fault::client(code::NOT_FOUND, format!("no session has the id `{shown}`"))
    };
    let records = store.sessions(now_ms()).await.map_err(unavailable)?;
    let record = records.iter().find(|record| id.len() == ID && record.hash.starts_with(id));
    let record = record.ok_or_else(missing)?;
    store.end_session(&record.hash).await.map_err(unavailable)?;
    let view = SessionView::new(record);
    tracing::info!(caller = context.identity.principal.name(), id, principal = view.principal, "signed off");
    Ok(Answer::with(StatusCode::OK, &view)?.changing(Some(&view), &view))
}
