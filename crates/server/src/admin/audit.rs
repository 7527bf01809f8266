//! Changes by the admin API in the audit log: twice each, before they are done and after, so that a crash in between is
//! seen, and a change that cannot be recorded is not done.

use std::time::Duration;

use http::request::Parts;
use millgate_audit::Audit;
use millgate_types::{Exchange, Fault, Retry, Source, code};
use serde_json::{Value, json};

use super::{Answer, Context, Route};
use crate::flight::Flight;
use crate::keys::now_ms;

/// A change that is asked for.
pub(super) struct Change(Value);

impl Change {
    pub(super) fn new(context: &Context, route: &Route, head: &Parts, flight: &mut Flight) -> Self {
        let whole = |context: &Context| serde_json::from_slice::<Value>(&context.body).unwrap_or_default();
        let told = route.manner.told.unwrap_or(whole)(context);
        let record = flight.record();
        Self(json!({
            "kind": "change",
            "phase": "asked",
            "time_ms": now_ms(),
            "request_id": record.request_id.to_string(),
            "principal": context.identity.principal.name(),
            "peer": record.peer.map(|peer| peer.to_string()),
            "method": head.method.as_str(),
            "path": head.uri.path(),
            "change": told,
        }))
    }

    /// Has it on the disk that somebody asked. Fault: `dependency_unavailable`.
    pub(super) async fn asked(&self, audit: &Audit) -> Result<(), Fault> {
        audit.record(self.0.to_string().into_bytes()).await.map_err(|error| {
            let text = "the audit log cannot be written: nothing was changed";
            Fault::new(code::DEPENDENCY_UNAVAILABLE, Source::Gateway, Retry::Never, text)
                .with_retry_after(Duration::from_secs(5))
                .with_cause(error)
        })
    }

    /// Has it on the disk what became of it.
    pub(super) async fn done(&self, audit: &Audit, answer: &Result<Answer, Fault>) {
        let mut record = self.0.clone();
        if let Some(members) = record.as_object_mut() {
            members.shift_remove("change");
        }
        record["phase"] = "done".into();
        record["time_ms"] = now_ms().into();
        match answer {
            Ok(answer) => {
                record["status"] = answer.status.as_u16().into();
                record["before"] = answer.before.clone().unwrap_or_default();
                record["after"] = answer.after.clone().unwrap_or_default();
            }
            Err(fault) => {
                record["status"] = fault.status().as_u16().into();
                record["code"] = fault.code.name.into();
            }
        }
        if let Err(error) = audit.record(record.to_string().into_bytes()).await {
            // That it was asked for is on record.
            tracing::error!(%error, "what became of an admin change is not in the audit log");
        }
    }
}

/// The record of a request, from its line of the access log, with what it said where that is asked for.
pub(crate) fn call(exchange: &Exchange, line: &[u8], audit: &Audit) -> Vec<u8> {
    let members = line.strip_prefix(b"{").unwrap_or(line);
    let Some(captured) = &exchange.captured else {
        return [b"{\"kind\":\"call\",", members].concat();
    };
    let content = millgate_audit::content(captured, audit).to_string();
    let members = members.strip_suffix(b"}").unwrap_or(members);
    [b"{\"kind\":\"call\",", members, b",\"content\":", content.as_bytes(), b"}"].concat()
}
