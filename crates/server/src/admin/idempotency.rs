//! Requests that may come twice and are done once: an `Idempotency-Key` holds for a day, for one caller and one path. The
//! answer is kept encrypted, so that a key that was issued is not lost with the connection, nor found in the store.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use millgate_secret::Sealed;
use millgate_store::StoreError;
use millgate_types::{CODES, Fault, FieldError, code};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Answer, Context};
use crate::keys::{now_ms, unavailable};
use crate::secrets::Secrets;

/// How long a key holds.
const DAY_MS: i64 = 86_400_000;
/// The longest key, in bytes.
const LONGEST: usize = 255;

/// A request with a key.
pub(super) struct Repeatable {
    id: String,
    body: String,
}

/// What is kept of an answer.
#[derive(Serialize, Deserialize)]
struct Kept {
    status: u16,
    body: String,
    tag: Option<String>,
    /// In place of a body: the code, the text and the field of a fault, and every field at fault.
    fault: Option<(String, String, Option<String>)>,
    errors: Vec<FieldError>,
}

/// Whether the request came before.
pub(super) enum Come {
    /// It has no key.
    Plain,
    /// It is done now.
    First(Repeatable),
    /// It was done; this was the answer.
    Again(Result<Answer, Fault>),
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let wrong = || {
        let text = format!("`Idempotency-Key` is given once and has 1 to {LONGEST} printable characters");
        Fault::client(code::BAD_IDEMPOTENCY_KEY, text)
    };
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().map_err(|_| wrong())?;
    // The draft of the standard writes it as a string in quotes, most clients without.
    let plain = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let printable = plain.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'"');
    if values.next().is_some() || plain.is_empty() || plain.len() > LONGEST || !printable {
        return Err(wrong());
    }
    Ok(Some(plain.to_owned()))
}

fn place(id: &str) -> String {
    format!("millgate answer {id}")
}

impl Repeatable {
    /// Looks whether the request came before. Faults: `bad_idempotency_key`, `idempotency_conflict`,
    /// `idempotency_in_progress`.
    pub(super) async fn begin(method: &Method, path: &str, context: &Context) -> Result<Come, Fault> {
        let Some(key) = key(&context.headers)? else { return Ok(Come::Plain) };
        if *method != Method::POST {
            // The others may be repeated as they are.
            return Ok(Come::Plain);
        }
        let (secrets, master) = kept(context)?;
        let caller = context.identity.principal.name();
        let query = &context.query;
        let id = format!("{caller}\n{path}?{query}\n{key}");
        let id = millgate_types::hex(&Sha256::digest(id));
        let expected = context.headers.get(http::header::IF_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
        let whole = [expected, b"\n", &context.body].concat();
        let body = master.digest(&whole);
        let now = now_ms();
        let began = secrets.store().begin(&id, &body, now, now - DAY_MS).await.map_err(unavailable)?;
        let Some(began) = began else { return Ok(Come::First(Self { id, body })) };
        if !master.is_digest(&began.body, &whole) {
            let text = "this `Idempotency-Key` was used with another body";
            return Err(Fault::client(code::IDEMPOTENCY_CONFLICT, text));
        }
        let Some([sealed_by, data_key, value]) = began.answer else {
            let text = "the same request is under way, or it was cut off: look at what it was to change";
            return Err(
                Fault::client(code::IDEMPOTENCY_IN_PROGRESS, text).with_retry_after(Duration::from_secs(1))
            );
        };
        let sealed = Sealed { master: sealed_by, data_key, value };
        let opened = master.open(&place(&id), &sealed).ok();
        let kept: Option<Kept> = opened.and_then(|plain| serde_json::from_slice(&plain).ok());
        let kept = kept.ok_or_else(|| {
            let text = "the request was done; its answer was kept under another master key";
            Fault::gateway(code::IDEMPOTENCY_IN_PROGRESS, text)
        })?;
        Ok(Come::Again(kept.answer()))
    }

    /// Keeps the answer; one that says that nothing was tried is not kept.
    pub(super) async fn end(self, context_secrets: &Secrets, answer: &Result<Answer, Fault>) {
        let Some(master) = context_secrets.master() else { return };
        let store = context_secrets.store();
        let ended = match Kept::of(answer) {
            None => store.forget(&self.id).await,
            Some(kept) => {
                let plain = serde_json::to_vec(&kept).unwrap_or_default();
                match master.seal(&place(&self.id), &plain) {
                    Ok(sealed) => {
                        store.ended(&self.id, &[sealed.master, sealed.data_key, sealed.value]).await
                    }
                    Err(error) => Err(StoreError::Database(error.to_string())),
                }
            }
        };
        if let Err(error) = ended {
            tracing::warn!(%error, body = self.body, "the answer to a request with an idempotency key is not kept");
        }
    }
}

/// What keeps answers. Fault: `not_implemented`.
fn kept(context: &Context) -> Result<(&Secrets, &millgate_secret::Master), Fault> {
    let secrets = context.gateway.secrets.as_deref();
    secrets.and_then(|secrets| Some((secrets, secrets.master()?))).ok_or_else(|| {
        let text =
            "answers for `Idempotency-Key` are kept in the store under `secrets.master_key`: there is none";
        Fault::client(code::NOT_IMPLEMENTED, text)
    })
}

impl Kept {
    fn of(answer: &Result<Answer, Fault>) -> Option<Self> {
        match answer {
            Ok(answer) => Some(Self {
                status: answer.status.as_u16(),
                body: String::from_utf8(answer.body.clone()).ok()?,
                tag: answer.tag.clone(),
                fault: None,
                errors: Vec::new(),
            }),
            // Another try may do better.
            Err(fault) if fault.status().is_server_error() => None,
            Err(fault) => Some(Self {
                status: fault.status().as_u16(),
                body: String::new(),
                tag: None,
                fault: Some((
                    fault.code.name.to_owned(),
                    fault.public.to_string(),
                    fault.param.as_ref().map(ToString::to_string),
                )),
                errors: fault.errors.clone(),
            }),
        }
    }

    fn answer(self) -> Result<Answer, Fault> {
        let Some((name, public, param)) = self.fault else {
            let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
            let body = self.body.into_bytes();
            return Ok(Answer {
                status,
                media: None,
                body,
                tag: self.tag,
                replayed: true,
                before: None,
                after: None,
            });
        };
        let known = CODES.iter().find(|known| known.name == name).copied();
        let mut fault = Fault::client(known.unwrap_or(code::INVALID_VALUE), public);
        fault.param = param.map(Into::into);
        fault.errors = self.errors;
        Err(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_printable_with_or_without_quotes() {
        let read = |text: &'static str| {
            let headers =
                HeaderMap::from_iter([("idempotency-key".parse().unwrap(), HeaderValue::from_static(text))]);
            key(&headers).map_err(|fault| fault.code.name)
        };
        assert_eq!(read("abc-1"), Ok(Some("abc-1".to_owned())));
        assert_eq!(read("\"abc-1\""), Ok(Some("abc-1".to_owned())));
        for wrong in ["", "\"\"", "a b", "a\"b"] {
            assert_eq!(read(wrong), Err("bad_idempotency_key"), "{wrong}");
        }
        assert_eq!(key(&HeaderMap::new()).unwrap(), None);
    }
}
