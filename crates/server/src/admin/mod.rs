//! The admin API below `/admin/v1`: what runs and why, and how to change it. A path is one row of [`ROUTES`], with the
//! permission that it needs; the document of the API is made from the same rows.

mod audit;
mod config;
mod context;
mod deployments;
mod endpoints;
mod idempotency;
mod keys;
mod limits;
mod models;
mod openapi;
mod page;
mod patch;
mod principals;
mod providers;
mod records;
mod secrets;
mod sessions;
mod tag;
mod usage;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use matchit::Router;
use millgate_types::{Fault, Permission, Principal, code};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

pub(crate) use audit::call;
pub(crate) use context::Context;
use idempotency::{Come, Repeatable};

use crate::body::{self, BodyLimits, RequestBody};
use crate::flight::Flight;
use crate::identity::Identity;
use crate::reply::Reply;
use crate::snapshot::Snapshot;
use crate::{Gateway, surface};

/// Where everything of the API is.
pub(crate) const PREFIX: &str = "/admin/v1";
/// The largest body of a request, in bytes.
const MAX_BODY: usize = 8 << 20;

/// What a handler gives: JSON, and whether it is done or under way.
pub(crate) struct Answer {
    status: StatusCode,
    /// The media type, where it is not JSON.
    media: Option<&'static str>,
    body: Vec<u8>,
    /// The state of what is answered or was changed.
    tag: Option<String>,
    /// It was given before, to the same request.
    replayed: bool,
    /// For the audit log: what was there before a change, and what there is after it, without any secret.
    before: Option<Value>,
    after: Option<Value>,
}

type Handled = Pin<Box<dyn Future<Output = Result<Answer, Fault>> + Send>>;

/// A method on a path.
pub(crate) struct Route {
    method: Method,
    /// Below [`PREFIX`]; `{name}` is one segment.
    path: &'static str,
    needs: Permission,
    /// For the API's document: what it does, in one line.
    summary: &'static str,
    /// Query parameters and what they mean.
    query: &'static [(&'static str, &'static str)],
    request: Option<fn(&mut SchemaGenerator) -> Schema>,
    response: fn(&mut SchemaGenerator) -> Schema,
    manner: Manner,
    handle: fn(Context) -> Handled,
}

/// What sets a path apart from the others; nothing by default.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    /// The state of the object that the path names, as it goes into its `ETag`; `None` where there is no such object.
    tag: Option<fn(&Context) -> Option<String>>,
    /// What the audit log is told of the body, where it is not the body itself.
    told: Option<fn(&Context) -> Value>,
}

/// Every path of the API.
static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let mut routes = Vec::new();
    routes.extend(endpoints::routes());
    routes.extend(config::routes());
    routes.extend(deployments::routes());
    routes.extend(keys::routes());
    routes.extend(secrets::routes());
    routes.extend(sessions::routes());
    routes.extend(records::routes());
    routes.extend(limits::routes());
    routes.extend(models::routes());
    routes.extend(principals::routes());
    routes.extend(providers::routes());
    routes.extend(openapi::routes());
    routes.extend(usage::routes());
    routes
});

/// Indices into [`ROUTES`] by path.
static PATHS: LazyLock<Router<Vec<usize>>> = LazyLock::new(|| {
    let mut paths = Router::new();
    let mut seen: Vec<(&str, Vec<usize>)> = Vec::new();
    for (index, route) in ROUTES.iter().enumerate() {
        match seen.iter_mut().find(|(path, _)| *path == route.path) {
            Some((_, indices)) => indices.push(index),
            None => seen.push((route.path, vec![index])),
        }
    }
    for (path, indices) in seen {
        paths.insert(path, indices).expect("the table's paths do not contradict each other");
    }
    paths
});

impl Answer {
    /// 200 with a body.
    fn ok<T: serde::Serialize>(body: &T) -> Result<Self, Fault> {
        Self::with(StatusCode::OK, body)
    }

    fn with<T: serde::Serialize>(status: StatusCode, body: &T) -> Result<Self, Fault> {
        let body = serde_json::to_vec(body).map_err(|error| {
            Fault::gateway(code::INTERNAL_ERROR, "the answer could not be written").with_cause(error)
        })?;
        Ok(Self { status, media: None, body, tag: None, replayed: false, before: None, after: None })
    }

    /// Says in which state it is.
    fn tagged(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Text of another media type than JSON.
    fn text(status: StatusCode, media: &'static str, text: String) -> Result<Self, Fault> {
        Ok(Self { media: Some(media), body: text.into_bytes(), ..Self::with(status, &())? })
    }

    /// Notes what a change found and what it left.
    fn changing<T: serde::Serialize>(mut self, before: Option<&T>, after: &T) -> Self {
        let value = |view: &T| serde_json::to_value(view).ok();
        (self.before, self.after) = (before.and_then(value), value(after));
        self
    }
}

/// Answers a request whose caller is known.
pub(crate) async fn serve(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    identity: Arc<Identity>,
    head: &Parts,
    body: RequestBody,
    flight: &mut Flight,
) -> Result<Reply, Fault> {
    let path = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let found =
        PATHS.at(path).map_err(|_| Fault::client(code::NOT_FOUND, "the admin API has no such path"))?;
    let routes: Vec<&'static Route> = found.value.iter().map(|index| &ROUTES[*index]).collect();
    let Some(route) = routes.iter().copied().find(|route| route.method == head.method) else {
        let allowed: Vec<_> = routes.iter().map(|route| route.method.as_str()).collect();
        let allow = HeaderValue::from_str(&allowed.join(", ")).map(|allow| (header::ALLOW, allow));
        flight.headers.extend(allow);
        return Err(Fault::client(code::METHOD_NOT_ALLOWED, "this path takes another method"));
    };
    if !identity.permissions.has(route.needs) {
        let text = format!("this needs the role `{}`", route.needs.name());
        return Err(Fault::client(code::PERMISSION_DENIED, text));
    }
    from_elsewhere(&head.headers, &head.uri)?;
    if identity.principal == Principal::Anonymous {
        by_its_own_name(&head.headers, &head.uri)?;
    }
    let limits = BodyLimits { size: MAX_BODY, ..snapshot.body_limits };
    let body = body::read(&head.headers, body, &limits).await?;
    let context = Context {
        gateway: Arc::clone(gateway),
        snapshot: Arc::clone(snapshot),
        identity,
        params: found
            .params
            .iter()
            .map(|(name, value)| (name.to_owned(), surface::decoded(value).into()))
            .collect(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers.clone(),
        body,
    };
    tracing::debug!(path = route.path, caller = context.identity.principal.name(), "admin");
    let change = (route.method != Method::GET).then(|| audit::Change::new(&context, route, head, flight));
    // Registries and stores live on the control runtime, and their waits are no business of a data thread.
    let path = head.uri.path().to_owned();
    let handled = gateway.models().handle().spawn(carry_out(route, path, context, change)).await;
    let answer = handled.unwrap_or_else(|error| {
        let text = "an internal error; the log knows the request id";
        Err(Fault::gateway(code::INTERNAL_ERROR, text).with_cause(error))
    });
    let answer = answer?;
    let mut reply =
        Reply::json(answer.body).with(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.status = answer.status;
    if let Some(media) = answer.media {
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    }
    if answer.replayed {
        reply.headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    if let Some(tag) = answer.tag.as_deref().and_then(|tag| HeaderValue::from_str(&tag::quoted(tag)).ok()) {
        reply.headers.insert(header::ETAG, tag);
    }
    Ok(reply)
}

/// Does what is asked, once however often it comes, and has it in the audit log.
async fn carry_out(
    route: &'static Route,
    path: String,
    context: Context,
    change: Option<audit::Change>,
) -> Result<Answer, Fault> {
    let gateway = Arc::clone(&context.gateway);
    let repeatable = match Repeatable::begin(&route.method, &path, &context).await? {
        Come::Plain => None,
        Come::First(repeatable) => Some(repeatable),
        Come::Again(answer) => return answer,
    };
    let change = change.zip(gateway.audit.as_ref());
    let asked = match &change {
        // What cannot be recorded is not done.
        Some((change, audit)) => change.asked(audit).await,
        None => Ok(()),
    };
    let answer = match asked {
        Ok(()) => {
            let answer = handle(route, context).await;
            if let Some((change, audit)) = &change {
                change.done(audit, &answer).await;
            }
            answer
        }
        Err(fault) => Err(fault),
    };
    if let (Some(repeatable), Some(secrets)) = (repeatable, &gateway.secrets) {
        repeatable.end(secrets, &answer).await;
    }
    answer
}

/// Calls the handler: one change at a time, and only in the state that the caller expects.
async fn handle(route: &'static Route, context: Context) -> Result<Answer, Fault> {
    let tag = route.manner.tag;
    if route.method == Method::GET {
        let tag = tag.and_then(|tag| tag(&context));
        let answer = (route.handle)(context).await?;
        return Ok(match tag {
            Some(tag) if answer.tag.is_none() => answer.tagged(tag),
            _ => answer,
        });
    }
    let gateway = Arc::clone(&context.gateway);
    let _one = gateway.changing.lock().await;
    tag::check(&context, tag)?;
    (route.handle)(context).await
}

/// A page of another site must not act through a browser of somebody whom a gateway without keys trusts: browsers say
/// where a request comes from.
pub(crate) fn from_elsewhere(headers: &HeaderMap, uri: &Uri) -> Result<(), Fault> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    if origin.is_some() && origin == host(headers, uri) {
        return Ok(());
    }
    Err(Fault::client(code::PERMISSION_DENIED, "pages of other sites may not use the admin API"))
}

/// Nor may it give this machine a name of its own: a gateway without keys is administered by its address only.
fn by_its_own_name(headers: &HeaderMap, uri: &Uri) -> Result<(), Fault> {
    let parsed = host(headers, uri).and_then(|host| url::Url::parse(&format!("http://{host}/")).ok());
    match parsed.as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain("localhost") | url::Host::Ipv4(_) | url::Host::Ipv6(_)) => Ok(()),
        _ => {
            let text = "without keys the admin API is served to `localhost` and addresses only";
            Err(Fault::client(code::PERMISSION_DENIED, text))
        }
    }
}

fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| headers.get(header::HOST)?.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_found_and_changes_need_more_than_reading() {
        for route in ROUTES.iter() {
            let found = PATHS.at(route.path).unwrap();
            assert!(found.value.iter().any(|index| ROUTES[*index].method == route.method), "{}", route.path);
            if route.method != Method::GET {
                assert!(!matches!(route.needs, Permission::Invoke | Permission::Read), "{}", route.path);
            }
        }
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let check = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:5000"));
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            from_elsewhere(&headers, &Uri::from_static("/admin/v1/x")).is_ok()
        };
        assert!(check(None) && check(Some("http://127.0.0.1:5000")));
        assert!(!check(Some("http://evil.example")) && !check(Some("null")));
    }

    #[test]
    fn without_keys_only_this_machines_own_names_are_served() {
        let check = |host: &'static str| {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            by_its_own_name(&headers, &Uri::from_static("/admin/v1/x")).is_ok()
        };
        assert!(check("127.0.0.1:5000") && check("localhost") && check("[::1]:5000"));
        assert!(!check("rebound.example:5000") && !check(""));
    }
}
