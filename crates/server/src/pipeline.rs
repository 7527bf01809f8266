//! Read this first. A request moves down this list and nowhere else; each stage takes what the one before
//! gives, so that a check that is left out does not compile.
//!
//! ```text
//! identify -> address -> decode -> plan -> admit -> dispatch
//! (headers    (path)     (body,    (route) (limits, (provider or model; the answer
//!  only)                  endpoint)         budgets) settles the record at its last byte)
//! ```

use std::future::{Future as _, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use millgate_config::{AuditContent, AuditOnError, EndpointType};
use millgate_http1::{Answer, MAX_FIELDS, MAX_HEAD, Refused, Why};
use millgate_policy::Step;
use millgate_types::{Captured, Dialect, Fault, Operation, Permission, Principal, code};

use crate::body::RequestBody;
use crate::dispatch::{self, Facts, Pins};
use crate::flight::Flight;
use crate::identity::Identity;
use crate::keys::{Keys, now_ms};
use crate::limits::{Asked, Who};
use crate::native::Native;
use crate::reply::{Reply, ReplyBody, names, value};
use crate::snapshot::{Endpoint, Shown, Snapshot, Target};
use crate::surface::{self, Surface};
use crate::tls::ClientCertificate;
use crate::{Gateway, admin, admit, body, listing, sign_on, webhook};
use admit::Allowance;

/// Serves one request; never fails, a fault is an answer too.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    peer: IpAddr,
    certificate: Option<Arc<ClientCertificate>>,
    request: Request<RequestBody>,
) -> Answer<ReplyBody> {
    let snapshot = gateway.snapshot();
    let (head, body) = request.into_parts();
    let link = peer;
    let peer = snapshot.sign_on.as_ref().map_or(link, |sign_on| sign_on.client(link, &head.headers));
    let mut flight = Flight::begin(&gateway, &head, peer, snapshot.generation);
    let peer = Peer { link, client: peer, certificate: certificate.as_deref() };
    // Pinned here and not wrapped: the future is large, and every wrapper would move it.
    let handled = {
        let mut handled = pin!(handle(&gateway, &snapshot, &head, body, peer, &mut flight));
        poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| handled.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
            Err(panic) => Poll::Ready(Err(panic)),
        })
        .await
    };
    let reply = match handled {
        Ok(Ok(reply)) => reply,
        Ok(Err(fault)) => Reply::fault(&fault, &mut flight),
        Err(panic) => {
            gateway.metrics.panics.inc();
            let what = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(request_id = %flight.request_id(), %what, "a handler panicked");
            let fault =
                Fault::gateway(code::INTERNAL_ERROR, "an internal error; the log knows the request id");
            Reply::fault(&fault, &mut flight)
        }
    };
    reply.into_answer(flight)
}

/// Answers what could not be read as a request.
pub(crate) fn refuse(gateway: &Arc<Gateway>, peer: IpAddr, refused: Refused) -> Answer<ReplyBody> {
    let (mut head, ()) = Request::new(()).into_parts();
    let named = refused.line.is_some();
    if let Some((method, target)) = refused.line {
        (head.method, head.uri) = (method, target);
    }
    let mut flight = Flight::begin(gateway, &head, peer, gateway.snapshot().generation);
    let record = flight.record();
    if named {
        record.dialect = Some(surface::read(head.uri.path()).dialect());
    } else {
        record.method = Method::from_bytes(b"-").unwrap_or_default();
        record.path = "-".into();
    }
    let fault = match refused.why {
        Why::Malformed(what) => Fault::client(code::BAD_FRAMING, what),
        Why::TooLarge => Fault::client(
            code::HEADERS_TOO_LARGE,
            format!("a request's headers may have {} KiB and {MAX_FIELDS} fields", MAX_HEAD >> 10),
        ),
    };
    Reply::fault(&fault, &mut flight).into_answer(flight)
}

async fn handle(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    head: &Parts,
    body: RequestBody,
    peer: Peer<'_>,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    surface::check_head(head)?;
    let surface = surface::read(head.uri.path());
    flight.record().dialect = Some(surface.dialect());
    if surface.is_public() {
        check_method(surface, head, flight)?;
        return listing::public(gateway, snapshot, surface);
    }
    if let Surface::Webhook(registry) = surface {
        check_method(surface, head, flight)?;
        // Signed with the registry's secret, which stands in for a key.
        return Box::pin(webhook::receive(snapshot, registry, head, body)).await;
    }
    if let Surface::Auth(step) = surface {
        check_method(surface, head, flight)?;
        return Box::pin(sign_on::auth(gateway, snapshot, step, head)).await;
    }
    // Before any look-up: who has no key does not learn which endpoints there are.
    let identity = identify(gateway, snapshot, surface, head, peer, flight).await?;
    let peer = peer.client;
    if surface == Surface::Admin {
        return Box::pin(admin::serve(gateway, snapshot, identity, head, body, flight)).await;
    }
    recordable(gateway, snapshot)?;
    if !identity.permissions.has(Permission::Invoke) {
        return Err(Fault::client(code::PERMISSION_DENIED, "the key has not the role `invoke`"));
    }
    let addressed = match address(snapshot, head, flight)? {
        To::Call(addressed) => addressed,
        To::Listing(surface) => return listing::listing(snapshot, &identity.scope, surface, head),
        To::Native(native, path) => {
            // Its bodies are not read: a key that may use some models of the provider only may use none so.
            if !identity.scope.allows_unread(&native.label, &native.target) {
                return Err(Fault::client(code::NOT_FOUND, "nothing is served at this path"));
            }
            let asked = Asked { head, model: "", stream: false, bulk: false };
            let who = Who::of(&identity, peer, &native.label).target(&native.target).asked(asked);
            let allowance = admit::unread(gateway, &native.rules, &who, flight).await?;
            let mut headers = Vec::new();
            allowance.tell(|name, text| headers.push((name, value(text))));
            let call = dispatch::NativeCall { native, identity: Arc::clone(&identity), path, body, headers };
            return Ok(Box::pin(dispatch::native(snapshot, call, head, flight)).await);
        }
    };
    if let Some(form) = dispatch::bulk_form(addressed.dialect, head) {
        let routed = plan(unread(addressed, identity, flight)?, flight)?;
        let planned = admit(gateway, routed, peer, head, flight).await?;
        return Box::pin(dispatch::bulk(gateway, snapshot, planned, form, head, body, flight)).await;
    }
    let decoded = decode(snapshot, addressed, identity, head, body, flight).await?;
    capture(gateway, snapshot, &decoded, flight);
    let routed = plan(decoded, flight)?;
    // Pinned here, both: futures of this size are not moved for nothing.
    let planned = {
        let admitted = pin!(admit(gateway, routed, peer, head, flight));
        admitted.await?
    };
    pin!(dispatch::dispatch(snapshot, planned, head, flight)).await
}

/// Refuses what could not be recorded, where that is wanted.
fn recordable(gateway: &Gateway, snapshot: &Snapshot) -> Result<(), Fault> {
    let audit = &snapshot.config.audit;
    let failing = || gateway.audit.as_ref().is_some_and(|audit| !audit.is_healthy());
    if audit.calls && audit.on_error == AuditOnError::Deny && failing() {
        let text = "the audit log cannot be written, and nothing is done without it";
        return Err(
            Fault::gateway(code::DEPENDENCY_UNAVAILABLE, text).with_retry_after(Duration::from_secs(5))
        );
    }
    Ok(())
}

/// Keeps the bodies for the audit log, where that is asked for.
fn capture(gateway: &Gateway, snapshot: &Snapshot, decoded: &Decoded, flight: &mut Flight) {
    let audit = &snapshot.config.audit;
    let policy = decoded.endpoint.config.audit.map_or(audit.content, |own| own.content);
    if audit.calls && policy != AuditContent::None && gateway.audit.is_some() {
        flight.record().captured = Some(Box::new(Captured::new(policy.into(), &decoded.body)));
    }
}

// ---- address ----------------------------------------------------------------------------------------

enum To<'a> {
    /// A call of an endpoint.
    Call(Addressed),
    /// For callers: lists of what there is.
    Listing(Surface<'a>),
    /// A provider's own API, at this path.
    Native(Arc<Native>, &'a str),
}

/// A call, and what its path says about it.
struct Addressed {
    dialect: Dialect,
    /// `None`: the body's `model` names it, or `named`.
    endpoint: Option<Arc<Endpoint>>,
    /// The model's name and whether to stream, where the path says so.
    named: Option<(Arc<str>, bool)>,
    /// A stream goes out as one JSON array.
    array: bool,
    /// `None`: the endpoint's own.
    operation: Option<Operation>,
    /// MLflow refuses `model` beside a path that names the endpoint.
    model_refused: bool,
}

impl Addressed {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, endpoint: None, named: None, array: false, operation: None, model_refused: false }
    }
}

fn address<'a>(snapshot: &Snapshot, head: &'a Parts, flight: &mut Flight) -> Result<To<'a>, Fault> {
    let path = head.uri.path();
    // `models serve` puts its endpoint at a path that has no other meaning, and so does an endpoint's own.
    let own = snapshot.by_path(path);
    let surface = if own.is_some() { Surface::OwnPath } else { surface::read(path) };
    if surface == Surface::OwnPath && own.is_none() {
        if let Some((native, path)) = snapshot.native(path) {
            let record = flight.record();
            record.dialect = Some(native.provider.kind.dialect);
            record.endpoint = Some(Arc::clone(&native.label));
            record.operation = Some(Operation::Native);
            return Ok(To::Native(Arc::clone(native), path));
        }
        return Err(Fault::client(code::NOT_FOUND, "nothing is served at this path"));
    }
    flight.record().dialect = Some(surface.dialect());
    check_method(surface, head, flight)?;
    let addressed = match surface {
        Surface::ByModel(dialect, operation) => {
            Addressed { operation: Some(operation), ..Addressed::new(dialect) }
        }
        Surface::Action { model, operation, stream } => {
            let model = surface::decoded(model);
            millgate_dialect::check_model(&model)?;
            let sse = surface::query(head.uri.path_and_query(), "alt") == Some("sse");
            Addressed {
                operation: Some(operation),
                named: Some((model.into(), stream)),
                array: stream && !sse,
                ..Addressed::new(Dialect::Gemini)
            }
        }
        Surface::Invocations(name) => {
            let endpoint = snapshot.by_name(name).ok_or_else(|| unknown_endpoint(name))?;
            let dialect = natural(endpoint.kind, Dialect::Mlflow);
            Addressed { endpoint: Some(Arc::clone(endpoint)), model_refused: true, ..Addressed::new(dialect) }
        }
        Surface::Infer { model, .. } => {
            let name = surface::decoded(model);
            let endpoint = snapshot.by_name(&name).ok_or_else(|| unknown_endpoint(&name))?;
            if endpoint.kind != EndpointType::Predict {
                let public =
                    format!("`{name}` is a {} endpoint, not a registered model", endpoint.kind.name());
                return Err(Fault::invalid_value("model", public));
            }
            Addressed { endpoint: Some(Arc::clone(endpoint)), ..Addressed::new(Dialect::Inference) }
        }
        Surface::OwnPath => {
            let endpoint = own.map(Arc::clone);
            let kind = endpoint.as_ref().map_or(EndpointType::Chat, |endpoint| endpoint.kind);
            let dialect = natural(kind, Dialect::OpenAi);
            Addressed { endpoint, ..Addressed::new(dialect) }
        }
        _ => return Ok(To::Listing(surface)),
    };
    flight.record().dialect = Some(addressed.dialect);
    Ok(To::Call(addressed))
}

fn check_method(surface: Surface<'_>, head: &Parts, flight: &mut Flight) -> Result<(), Fault> {
    if surface.methods().contains(&head.method) {
        return Ok(());
    }
    let names: Vec<_> = surface.methods().iter().map(http::Method::as_str).collect();
    flight.headers.extend(HeaderValue::from_str(&names.join(", ")).map(|allow| (header::ALLOW, allow)));
    Err(Fault::client(code::METHOD_NOT_ALLOWED, "this path takes another method"))
}

/// Registered models are asked in the scoring protocol, wherever they are called; rerank and moderations have one
/// shape each.
fn natural(kind: EndpointType, llm: Dialect) -> Dialect {
    match kind {
        EndpointType::Predict => Dialect::Scoring,
        EndpointType::Rerank => Dialect::Cohere,
        EndpointType::Moderations => Dialect::OpenAi,
        _ => llm,
    }
}

fn unknown_endpoint(name: &str) -> Fault {
    let shown: String = name.chars().take(128).collect();
    Fault::client(code::MODEL_NOT_FOUND, format!("no endpoint `{shown}` is served")).with_param("model")
}

// ---- identify ---------------------------------------------------------------------------------------

/// Headers that carry a key, in the dialects' own ways.
pub(crate) const KEY_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Where a request comes from.
#[derive(Clone, Copy)]
struct Peer<'a> {
    /// The other end of the connection.
    link: IpAddr,
    /// The same, or whom a trusted proxy there speaks for.
    client: IpAddr,
    /// What the other end of the connection showed.
    certificate: Option<&'a ClientCertificate>,
}

/// Who calls, from headers alone: not a byte of the body is read before this.
async fn identify(
    gateway: &Gateway,
    snapshot: &Snapshot,
    surface: Surface<'_>,
    head: &Parts,
    peer: Peer<'_>,
    flight: &mut Flight,
) -> Result<Arc<Identity>, Fault> {
    let refused = || gateway.keys.as_deref().and_then(Keys::stale).unwrap_or_else(sign_on::unknown);
    let mut authorizations = head.headers.get_all(header::AUTHORIZATION).iter();
    let authorization = authorizations.next();
    if authorizations.next().is_some() {
        return Err(refused());
    }
    let bearer = authorization.and_then(|value| bearer(value.as_bytes()));
    let key = bearer
        .or_else(|| KEY_HEADERS.iter().find_map(|name| head.headers.get(name).map(HeaderValue::as_bytes)));
    let shown = key.filter(|_| snapshot.asks_for_keys()).map(Shown::new);
    let directory = || gateway.keys.as_deref().map(Keys::directory);
    let known = snapshot.identity(gateway.keys.as_deref(), shown.as_ref(), peer.client);
    let identity = match (known, &snapshot.sign_on, &shown) {
        (Some(identity), ..) => identity,
        (None, Some(sign_on), Some(shown)) => {
            // The first request with a token: it is checked, and perhaps asked about.
            let directory = directory();
            let found = sign_on.identify(shown.bytes, shown.digest, directory.as_deref(), now_ms());
            Box::pin(found).await.map_err(|reason| refused().with_cause(reason))?
        }
        (None, Some(sign_on), None) => {
            let directory = directory();
            let certified =
                peer.certificate.and_then(|shown| sign_on.certified(shown, directory.as_deref(), now_ms()));
            match certified.or_else(|| sign_on.vouched(peer.link, &head.headers, directory.as_deref())) {
                Some(identity) => identity,
                // A browser says who it is without being asked: only where that is meant, and of changes only its own.
                None if surface == Surface::Admin => Box::pin(sign_on.signed_on(gateway, head)).await?,
                None => return Err(refused()),
            }
        }
        (None, None, _) => return Err(refused()),
    };
    if let Principal::Key(name) = &identity.principal {
        let record = flight.record();
        record.principal = Some(Arc::clone(name));
        record.owner = Some(Arc::clone(&identity.owner));
    }
    Ok(identity)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

// ---- decode -----------------------------------------------------------------------------------------

/// A call whose body is read and checked, and whose endpoint is known.
pub(crate) struct Decoded {
    pub(crate) identity: Arc<Identity>,
    pub(crate) dialect: Dialect,
    pub(crate) operation: Operation,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) body: Bytes,
    /// What the body's top level says; `None` for predictions, whose bodies are the scoring protocol's.
    pub(crate) facts: Option<Facts>,
    /// A stream goes out as one JSON array.
    pub(crate) array: bool,
    /// The versions that answer, where one request asks models more than once.
    pub(crate) pins: Option<Arc<Pins>>,
}

impl Decoded {
    /// Bounds each answer to `most` tokens: in the body, which is what everybody behind reads.
    pub(crate) fn cap_output(&mut self, most: u64) -> Result<(), Fault> {
        let Some(facts) = &mut self.facts else { return Ok(()) };
        self.body = facts.cap_output(&self.body, self.dialect, self.operation, most)?;
        Ok(())
    }
}

/// A call whose rows are read while they are scored.
fn unread(addressed: Addressed, identity: Arc<Identity>, flight: &mut Flight) -> Result<Decoded, Fault> {
    let missing = || Fault::client(code::NOT_FOUND, "nothing is served at this path");
    let endpoint = addressed.endpoint.ok_or_else(missing)?;
    if !identity.scope.allows_endpoint(&endpoint.name) {
        return Err(unknown_endpoint(&endpoint.name));
    }
    let record = flight.record();
    record.endpoint = Some(Arc::clone(&endpoint.name));
    record.operation = Some(Operation::Predict);
    let (dialect, operation) = (addressed.dialect, Operation::Predict);
    let (body, pins) = (Bytes::new(), Some(Arc::default()));
    Ok(Decoded { identity, dialect, operation, endpoint, body, facts: None, array: false, pins })
}

async fn decode(
    snapshot: &Snapshot,
    addressed: Addressed,
    identity: Arc<Identity>,
    head: &Parts,
    body: RequestBody,
    flight: &mut Flight,
) -> Result<Decoded, Fault> {
    let predict = addressed.endpoint.as_ref().is_some_and(|endpoint| endpoint.kind == EndpointType::Predict);
    if !predict {
        check_content_type(&head.headers)?;
    }
    let body = body::read(&head.headers, body, &snapshot.body_limits).await?;
    flight.record().bytes_in = body.len() as u64;
    let operation = addressed.operation.or(addressed.endpoint.as_ref().map(|e| e.kind.operation()));
    let operation = operation.unwrap_or(Operation::Chat);
    let mut facts = if predict { None } else { Some(Facts::read(&body, addressed.dialect, operation)?) };
    if let (Some(facts), Some((model, stream))) = (&mut facts, addressed.named) {
        facts.name(model, stream);
    }
    let model = facts.as_ref().and_then(|facts| facts.model.as_ref());
    let endpoint = match (addressed.endpoint, model) {
        (Some(_), Some(_)) if addressed.model_refused => {
            let public = "`model` may not be set here: the path names the endpoint";
            return Err(Fault::invalid_value("model", public));
        }
        (Some(endpoint), _) => endpoint,
        (None, None) => {
            let only = snapshot.moderations.as_ref().filter(|_| operation == Operation::Moderations);
            let missing = || Fault::invalid_value("model", "`model` is missing");
            Arc::clone(only.ok_or_else(missing)?)
        }
        (None, Some(model)) => {
            let direct = || snapshot.direct(&model.name, operation.served_by());
            let found = snapshot.by_name(&model.name).or_else(direct);
            Arc::clone(found.ok_or_else(|| unknown_endpoint(&model.name))?)
        }
    };
    if !identity.scope.allows_endpoint(&endpoint.name) {
        // As good as not there.
        return Err(unknown_endpoint(model.map_or(&*endpoint.name, |model| &*model.name)));
    }
    if endpoint.kind.operation() != operation.served_by() {
        let public = format!("`{}` is a {} endpoint", endpoint.name, endpoint.kind.name());
        return Err(Fault::invalid_value("model", public));
    }
    let record = flight.record();
    record.endpoint = Some(Arc::clone(&endpoint.name));
    record.operation = Some(operation);
    let (dialect, array) = (addressed.dialect, addressed.array);
    Ok(Decoded { identity, dialect, operation, endpoint, body, facts, array, pins: None })
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Fault> {
    let given = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let media_type = given.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let json = media_type.eq_ignore_ascii_case(b"application/json")
        || media_type.len() > 5 && media_type[media_type.len() - 5..].eq_ignore_ascii_case(b"+json");
    if json {
        return Ok(());
    }
    Err(Fault::client(code::UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json"))
}

// ---- plan -------------------------------------------------------------------------------------------

/// A call and what to try, in order.
pub(crate) struct Routed {
    pub(crate) call: Decoded,
    pub(crate) steps: Vec<Step<Target>>,
}

fn plan(call: Decoded, flight: &mut Flight) -> Result<Routed, Fault> {
    let mut steps = call.endpoint.route.plan(&mut |below| fastrand::u64(..below));
    // The final target is authorised, not the endpoint alone: one that is denied is passed over. Those inside a graph are
    // asked for when their turn comes.
    steps.retain(|step| match step {
        Step::Target(target) => dispatch::allowed(target, &call),
        Step::Graph(_) => true,
    });
    if steps.is_empty() && !call.identity.scope.is_open() {
        return Err(Fault::client(
            code::PERMISSION_DENIED,
            "the key may not use what this endpoint leads to",
        ));
    }
    flight.record().target = steps.first().map(|step| Arc::clone(name_of(step)));
    Ok(Routed { call, steps })
}

// ---- admit ------------------------------------------------------------------------------------------

/// A call within its limits, and what to try, in order.
pub(crate) struct Planned {
    pub(crate) call: Decoded,
    pub(crate) steps: Vec<Step<Target>>,
    pub(crate) allowance: Allowance,
}

async fn admit(
    gateway: &Arc<Gateway>,
    mut routed: Routed,
    peer: IpAddr,
    head: &Parts,
    flight: &mut Flight,
) -> Result<Planned, Fault> {
    let call = &routed.call;
    let endpoint = Arc::clone(&call.endpoint);
    if endpoint.rules.is_empty() && !gateway.is_durable() && gateway.granted().is_none() {
        return Ok(Planned { call: routed.call, steps: routed.steps, allowance: Allowance::default() });
    }
    let model = call.facts.as_ref().and_then(|facts| facts.model.as_ref()).map(|model| model.name.clone());
    let asked = Asked {
        head,
        model: model.as_deref().unwrap_or(&endpoint.name),
        stream: call.facts.as_ref().is_some_and(|facts| facts.stream),
        bulk: call.facts.is_none() && call.pins.is_some(),
    };
    let allowance = admit::endpoint(gateway, &mut routed, peer, asked, flight).await?;
    Ok(Planned { call: routed.call, steps: routed.steps, allowance })
}

/// The name of what is tried, for headers, logs and metrics.
pub(crate) fn name_of(step: &Step<Target>) -> &Arc<str> {
    match step {
        Step::Target(target) => &target.label,
        Step::Graph(graph) => &graph.label,
    }
}

/// Adds what every answer of an endpoint says about itself.
pub(crate) fn label(mut reply: Reply, planned: &Planned, step: &Step<Target>) -> Reply {
    let Reply { headers, lines, .. } = &mut reply;
    lines.push(&names::ENDPOINT, planned.call.endpoint.name.as_bytes());
    lines.push(&names::TARGET, name_of(step).as_bytes());
    // A refusal says itself which limit it was.
    let refusal = headers.contains_key(names::ERROR);
    planned.allowance.tell(|name, value| {
        if !refusal || !headers.contains_key(&name) {
            lines.push(&name, value);
        }
    });
    reply
}
