//! A provider's own API, passed through: our key out, the provider's credential in. Bodies go both ways as they are;
//! usage is read out of the answers that carry it, and errors are told as everywhere. No other host is ever called
//! and nothing of the caller's credentials leaves.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use millgate_credential::Unauthorized;
use millgate_dialect::{Watch, codec, model_in, redact, scan, usage_of};
use millgate_provider::ProviderKind;
use millgate_types::{Dialect, Fault, Lane, Operation, Retry, code};
use millgate_upstream::{Client, Outgoing, Payload, UpstreamBody, UpstreamError, collect};
use serde_json::value::RawValue;

use super::life::Alive;
use super::llm::{AnswerBody, MAX_ERROR_BODY, is_encoded, is_of_type};
use super::raw::Raw;
use super::stream;
use super::upload::{Progress, Upload, too_large, too_slow};
use crate::admit;
use crate::body::RequestBody;
use crate::flight::Flight;
use crate::identity::Identity;
use crate::limits::Who;
use crate::native::Native;
use crate::reply::{Content, Pieces, Reply, names};
use crate::snapshot::{Provider, Snapshot, Transport};
use crate::standing::{After, Places, Wanted};

/// Fields of a caller that reach the provider. Everything else stays here: credentials, cookies, the caller's address,
/// what chooses another account, and what belongs to the connection.
const TO_PROVIDER: [HeaderName; 13] = [
    header::ACCEPT,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::USER_AGENT,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("anthropic-beta"),
];
/// Fields of an answer that reach the caller.
const TO_CALLER: [HeaderName; 10] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::CACHE_CONTROL,
    header::ETAG,
    header::LAST_MODIFIED,
    header::RETRY_AFTER,
];
/// So far into a stream its model's name is looked for.
const NAME_WITHIN: usize = 16 << 10;

/// A call of a provider's own API within its limits.
pub(crate) struct NativeCall<'a> {
    pub(crate) native: Arc<Native>,
    pub(crate) identity: Arc<Identity>,
    /// Behind the entry's name.
    pub(crate) path: &'a str,
    pub(crate) body: RequestBody,
    /// `x-ratelimit-*` for the answer.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Answers the call; a fault of the provider is an answer too.
pub(crate) async fn native(
    snapshot: &Snapshot,
    call: NativeCall<'_>,
    head: &Parts,
    flight: &mut Flight,
) -> Reply {
    let native = Arc::clone(&call.native);
    let headers = call.headers.clone();
    let record = flight.record();
    record.target = Some(Arc::clone(&native.target));
    record.lane = Some(Lane::Pass);
    record.attempts = 1;
    let progress = Arc::new(Progress::default());
    let answered = exchange(snapshot, call, head, &progress, flight).await;
    flight.record().bytes_in = progress.bytes();
    let mut reply = answered.unwrap_or_else(|fault| Reply::fault(&fault, flight));
    reply.lines.push(&names::ENDPOINT, native.label.as_bytes());
    reply.lines.push(&names::TARGET, native.target.as_bytes());
    reply.headers.extend(headers);
    reply
}

async fn exchange(
    snapshot: &Snapshot,
    call: NativeCall<'_>,
    head: &Parts,
    progress: &Arc<Progress>,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    let native = &call.native;
    let provider = &native.provider;
    let Transport::Http(origin) = &provider.transport else {
        return Err(Fault::gateway(code::NOT_IMPLEMENTED, "the mock provider has no API of its own"));
    };
    let target = native.target(call.path, head.uri.path_and_query())?;
    let headers = request_headers(&provider.headers, &head.headers);
    if call.body.size_hint().lower() > native.max_body {
        return Err(too_large(native.max_body));
    }
    let mut max_body = native.max_body;
    let upload = |body, most| Upload::new(body, most, snapshot.body_limits.idle, Arc::clone(progress));
    let mut body = if call.body.is_end_stream() {
        Payload::Whole(Bytes::new())
    } else if provider.credential.signs() {
        // A signature is over the whole body.
        max_body = max_body.min(snapshot.body_limits.size as u64);
        if call.body.size_hint().lower() > max_body {
            return Err(too_large(max_body));
        }
        let body =
            tokio::time::timeout(snapshot.body_limits.total, upload(call.body, max_body).collect()).await;
        let body = body.map_err(|_| too_slow())?;
        Payload::Whole(body.map_err(|_| progress.fault(max_body).unwrap_or_else(too_slow))?.to_bytes())
    } else {
        Payload::Stream(Box::pin(upload(call.body, max_body)))
    };
    let mut deadlines = provider.deadlines;
    // The time to the answer's head begins with the upload.
    deadlines.head += snapshot.body_limits.total;
    deadlines.total += snapshot.body_limits.total;
    let gateway = Arc::clone(flight.gateway());
    let peer = flight.record().peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let who = Who::of(&call.identity, peer, &native.label).target(&native.target);
    let mut passed = Places::default();
    let mut last = None;
    loop {
        let held = flight.held();
        // Files and batches are there for the key that made them, and its account's others: no turns are taken.
        let now = gateway.millis();
        let wanted = Wanted { model: "", tokens: 0, spare: false, in_order: true, now };
        let lease = match provider.standing.lease(&gateway, &wanted, passed) {
            Ok(lease) => lease,
            Err(none) => return Err(last.unwrap_or(none)),
        };
        // Each try is a request that the provider counts.
        if let Err(fault) = admit::key(&gateway, &lease.key().rules, &who, flight).await {
            passed.add(lease.place);
            last.get_or_insert(fault);
            continue;
        }
        // What has been read once is not there for another key.
        let again = match &body {
            Payload::Whole(body) => Some(Payload::Whole(body.clone())),
            Payload::Stream(_) => None,
        };
        let mut more = Vec::new();
        let asked = Unauthorized {
            method: &head.method,
            target: &target,
            host: &origin.authority,
            content_type: headers.get(header::CONTENT_TYPE),
            body: if let Payload::Whole(body) = &body { body } else { &[] },
        };
        provider.credential.authorize(&asked, &mut more).await?;
        more.extend(lease.key().header.clone());
        let outgoing =
            Outgoing { method: &head.method, target: &target, headers: &headers, more: &more, body };
        let sent = Client.send(origin, outgoing, &deadlines).await;
        let checked = match sent {
            Ok(response) => {
                flight.first_byte();
                lease.learn(response.headers());
                provider.credential.refused(response.status());
                check(provider.kind, response).await
            }
            Err(error) => Err(progress.fault(max_body).unwrap_or_else(|| error.into_fault())),
        };
        let fault = match checked {
            Ok(response) => {
                lease.answered();
                return answer(snapshot, native, &target, &head.method, response, flight).await;
            }
            Err(fault) => fault,
        };
        flight.let_go(held);
        let place = lease.place;
        let other = lease.failed(&fault) == After::OtherKey;
        match again.filter(|_| other) {
            Some(again) => body = again,
            None => return Err(fault),
        }
        passed.add(place);
        last = Some(fault);
        flight.record().attempts += 1;
    }
}

/// The provider's fields, and those of the caller's that may go along.
fn request_headers(ours: &HeaderMap, theirs: &HeaderMap) -> HeaderMap {
    let mut headers = ours.clone();
    headers.remove(header::CONTENT_TYPE);
    for name in &TO_PROVIDER {
        if let Some(value) = theirs.get(name) {
            headers.insert(name, value.clone());
        }
    }
    headers
}

/// Turns everything that is not an answer into a fault.
async fn check(
    kind: &ProviderKind,
    response: Response<UpstreamBody>,
) -> Result<Response<UpstreamBody>, Fault> {
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    if status.is_redirection() {
        let public = "the provider answered with a redirect, which is never followed";
        return Err(
            Fault::upstream(code::UPSTREAM_ERROR, Retry::Never, public).with_upstream_status(status.as_u16())
        );
    }
    let (head, body) = response.into_parts();
    let body = collect(body, MAX_ERROR_BODY).await.unwrap_or_default();
    let mut fault = millgate_provider::classify(kind, status.as_u16(), &head.headers, &body);
    // Here callers name more than models: what is not found, or in conflict, only the provider can say.
    if status.is_client_error() && fault.code == code::UPSTREAM_ERROR {
        fault.code = code::UPSTREAM_INVALID_REQUEST;
    }
    if [code::UPSTREAM_NOT_FOUND, code::UPSTREAM_INVALID_REQUEST].contains(&fault.code) {
        let said = kind.codec().decode_error(status.as_u16(), &body).message;
        fault.public = match said {
            Some(message) => redact(&message).into(),
            None if fault.code == code::UPSTREAM_NOT_FOUND => "the provider has nothing at this path".into(),
            None => fault.public,
        };
    }
    // What was sent is not known here, and so not what of it the provider repeats.
    Err(fault.logged_as(format!("{} answered {status}", kind.name)))
}

async fn answer(
    snapshot: &Snapshot,
    native: &Native,
    target: &str,
    method: &Method,
    response: Response<UpstreamBody>,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    let kind = native.provider.kind;
    let (head, body) = response.into_parts();
    let mut headers = HeaderMap::with_capacity(12);
    for name in &TO_CALLER {
        if let Some(value) = head.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    let reply = |content: Content| Reply { status: head.status, ..Reply::new(headers.clone(), content) };
    let length = head.headers.get(header::CONTENT_LENGTH).cloned();
    if body.is_end_stream() {
        let mut reply = reply(Content::Whole(Bytes::new()));
        if let Some(length) = length.filter(|_| *method == Method::HEAD) {
            reply.headers.insert(header::CONTENT_LENGTH, length);
        }
        return Ok(reply);
    }
    if is_of_type(&head.headers, "text/event-stream") {
        if is_encoded(&head.headers) {
            let public = "the provider's stream is compressed, which nobody asked for";
            return Err(Fault::upstream(code::UPSTREAM_ERROR, Retry::Never, public));
        }
        let body = AnswerBody::Upstream(body);
        let pieces: Box<dyn Pieces> = match watched(kind.dialect, target) {
            Some((dialect, operation)) => {
                let watch = Watch::new(dialect, operation, false);
                let passing = stream::Passing::open(body, watch, dialect, None, flight).await?;
                Box::new(Alive::new(Box::new(passing), codec(dialect).heartbeat(), snapshot.heartbeat))
            }
            // Where its frames end is not known: no sign of life may stand between them.
            None => Box::new(Raw::events(body, kind.dialect)),
        };
        let provider = Arc::clone(&native.provider);
        let pieces = Box::new(Priced { inner: pieces, provider, seen: Vec::new(), done: false });
        let mut streamed = Reply::stream(pieces);
        streamed.status = head.status;
        return Ok(streamed);
    }
    let declared = body.size_hint().exact();
    let small = declared.is_some_and(|length| length <= snapshot.max_answer as u64);
    let json = is_of_type(&head.headers, "application/json") && !is_encoded(&head.headers);
    if json && small {
        let body = collect(body, snapshot.max_answer).await.map_err(UpstreamError::into_fault)?;
        meter(&native.provider, target, &body, flight);
        return Ok(reply(Content::Whole(body)));
    }
    let raw = Raw::bytes(AnswerBody::Upstream(body));
    let pieces: Box<dyn Pieces> = if json && declared.is_none() {
        let (provider, target) = (Arc::clone(&native.provider), target.to_owned());
        Box::new(Metered { inner: raw, seen: Vec::new(), room: snapshot.max_answer, provider, target })
    } else {
        Box::new(raw)
    };
    let mut reply = reply(Content::Stream(pieces));
    // A body that breaks off shows by its length, or by the connection that breaks with it.
    if let Some(length) = length.filter(|_| declared.is_some()) {
        reply.headers.insert(header::CONTENT_LENGTH, length);
    }
    Ok(reply)
}

/// What a stream at this place is made of, where we know it.
fn watched(dialect: Dialect, target: &str) -> Option<(Dialect, Operation)> {
    let path = target.split('?').next().unwrap_or_default();
    let ends = |end: &str| path.ends_with(end);
    match dialect {
        Dialect::OpenAi if ends("/chat/completions") => Some((dialect, Operation::Chat)),
        Dialect::OpenAi if ends("/completions") => Some((dialect, Operation::Completions)),
        Dialect::OpenAi if ends("/responses") => Some((Dialect::Responses, Operation::Chat)),
        Dialect::Anthropic if ends("/messages") => Some((dialect, Operation::Chat)),
        Dialect::Gemini if ends(":streamGenerateContent") => Some((dialect, Operation::Chat)),
        _ => None,
    }
}

/// Reads usage and model out of a whole answer.
fn meter(provider: &Provider, target: &str, body: &[u8], flight: &mut Flight) {
    let Ok(members) = scan::members(body) else { return };
    let kind = provider.kind;
    let dialect = watched(kind.dialect, target).map_or(kind.dialect, |(dialect, _)| dialect);
    let find = |name: &str| members.iter().find(|member| member.name == name);
    let model = find("model").or_else(|| find("modelVersion")).and_then(scan::Member::string);
    flight.price = model.and_then(|model| provider.known(&model).price.clone());
    let usage = find(codec(dialect).usage_member()).and_then(|member| {
        // Images and transcriptions are counted in the words of Responses.
        let theirs = scan::inner_members(member).ok()?.iter().any(|inner| inner.name == "input_tokens");
        let words = if dialect == Dialect::OpenAi && theirs { Dialect::Responses } else { dialect };
        usage_of(words, member.text)
    });
    flight.consumed(usage.unwrap_or_default());
}

/// JSON without a length, read for its usage when all of it has passed. Of a list, as Google's streams are, the last
/// item counts.
struct Metered {
    inner: Raw,
    seen: Vec<Bytes>,
    /// Bytes that may still be kept.
    room: usize,
    provider: Arc<Provider>,
    target: String,
}

impl Pieces for Metered {
    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        let piece = ready!(self.inner.poll_piece(context, flight));
        match &piece {
            Some(piece) if piece.len() <= self.room => {
                self.room -= piece.len();
                self.seen.push(piece.clone());
            }
            // Half of it tells nothing.
            Some(_) => (self.room, self.seen) = (0, Vec::new()),
            None if !self.inner.broke() => {
                let body = std::mem::take(&mut self.seen).concat();
                let items: Vec<&RawValue> = serde_json::from_slice(&body).unwrap_or_default();
                let last = items.last().map_or(&body[..], |item| item.get().as_bytes());
                meter(&self.provider, &self.target, last, flight);
            }
            None => {}
        }
        Poll::Ready(piece)
    }

    fn broke(&self) -> bool {
        self.inner.broke()
    }
}

/// A stream whose model's name is looked for in its first frames, for the price.
struct Priced {
    inner: Box<dyn Pieces>,
    provider: Arc<Provider>,
    seen: Vec<u8>,
    done: bool,
}

impl Pieces for Priced {
    fn broke(&self) -> bool {
        self.inner.broke()
    }

    fn is_told(&self) -> bool {
        self.inner.is_told()
    }

    fn settle(&mut self, flight: &mut Flight) {
        self.inner.settle(flight);
    }

    fn poll_piece(&mut self, context: &mut Context<'_>, flight: &mut Flight) -> Poll<Option<Bytes>> {
        let piece = ready!(self.inner.poll_piece(context, flight));
        if let Some(piece) = piece.as_ref().filter(|_| !self.done) {
            let room = NAME_WITHIN.saturating_sub(self.seen.len());
            self.seen.extend_from_slice(&piece[..piece.len().min(room)]);
            let name = model_in(&self.seen);
            if name.is_some() || self.seen.len() == NAME_WITHIN {
                flight.priced(name.and_then(|name| self.provider.known(name).price.clone()));
                self.done = true;
                self.seen = Vec::new();
            }
        }
        Poll::Ready(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_accounts_of_a_caller_stay_here() {
        let mut ours = HeaderMap::new();
        ours.insert("authorization", HeaderValue::from_static("Bearer ours"));
        ours.insert("content-type", HeaderValue::from_static("application/json"));
        let mut theirs = HeaderMap::new();
        for name in
            ["authorization", "x-api-key", "cookie", "openai-organization", "x-forwarded-for", "connection"]
        {
            theirs.insert(HeaderName::from_static(name), HeaderValue::from_static("theirs"));
        }
        theirs.insert("content-type", HeaderValue::from_static("multipart/form-data; boundary=x"));
        let sent = request_headers(&ours, &theirs);
        assert_eq!(sent.len(), 2, "{sent:?}");
        assert_eq!(sent["authorization"], "Bearer ours");
        assert_eq!(sent["content-type"], "multipart/form-data; boundary=x");
    }
}
