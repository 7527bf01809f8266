//! What is served where: the one table from method and path to meaning, and the checks on a request's head
//! that come before everything else.

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Version, header};
use millgate_types::{Dialect, Fault, Operation, code};

/// Longest request target, in bytes.
const MAX_URI: usize = 16 << 10;
/// Longest header field, in bytes.
const MAX_FIELD: usize = 16 << 10;

/// The meaning of a path. Names are slices of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface<'a> {
    /// A call whose body names the endpoint in `model`.
    ByModel(Dialect, Operation),
    /// A call in Google's dialect: the path names the model and the action.
    Action { model: &'a str, operation: Operation, stream: bool },
    /// A call of a named endpoint in MLflow's dialect; the endpoint's type says which operation.
    Invocations(&'a str),
    /// A prediction by the Open Inference Protocol.
    Infer { model: &'a str, version: Option<&'a str> },
    /// What that protocol tells of a model; `ready`: only whether it serves.
    InferenceModel { model: &'a str, version: Option<&'a str>, ready: bool },
    /// What it tells of the server.
    InferenceServer,
    /// A delivery of a registry's webhooks.
    Webhook(&'a str),
    /// The admin API, which has a table of its own.
    Admin,
    /// People sign on with a browser.
    Auth(Auth),
    /// A call at a path that may belong to an endpoint.
    OwnPath,
    /// OpenAI's model list.
    Models,
    /// One entry of it.
    Model(&'a str),
    /// Google's model list.
    GeminiModels,
    /// One entry of it.
    GeminiModel(&'a str),
    /// MLflow's endpoint list; `true` for the legacy spelling with routes.
    MlflowEndpoints { legacy: bool },
    /// One entry of it.
    MlflowEndpoint { name: &'a str, legacy: bool },
    /// An MLflow traffic route.
    MlflowRoute(&'a str),
    /// MLflow's limits API, which has no implementation there either.
    MlflowLimits,
    /// `{"status":"OK"}`
    Health,
    /// The process lives.
    Live,
    /// Requests are welcome.
    Ready,
    /// OpenMetrics.
    Metrics,
    /// What is served, as an OpenAPI document.
    OpenApi,
    /// MLflow scoring server: is there a model?
    Ping,
    /// MLflow scoring server: its version.
    Version,
    /// A word of welcome.
    Root,
}

/// The steps of signing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    Login,
    Callback,
    Logout,
}

impl Surface<'_> {
    /// The methods it answers, for `Allow`.
    pub(crate) fn methods(self) -> &'static [Method] {
        match self {
            Self::ByModel(..)
            | Self::Action { .. }
            | Self::Invocations(_)
            | Self::Infer { .. }
            | Self::Webhook(_)
            | Self::Auth(Auth::Logout)
            | Self::OwnPath => &[Method::POST],
            Self::Auth(_) => &[Method::GET],
            Self::MlflowLimits => &[Method::GET, Method::POST],
            _ => &[Method::GET, Method::HEAD],
        }
    }

    /// Served to everybody, with or without a key.
    pub(crate) fn is_public(self) -> bool {
        matches!(
            self,
            Self::Health | Self::Live | Self::Ready | Self::Metrics | Self::Ping | Self::Version | Self::Root
        )
    }

    /// The dialect of its errors.
    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Self::ByModel(dialect, _) => dialect,
            Self::Action { .. } | Self::GeminiModels | Self::GeminiModel(_) => Dialect::Gemini,
            Self::Invocations(_)
            | Self::MlflowEndpoints { .. }
            | Self::MlflowEndpoint { .. }
            | Self::MlflowRoute(_)
            | Self::MlflowLimits => Dialect::Mlflow,
            Self::Ping | Self::Version => Dialect::Scoring,
            Self::Admin | Self::Auth(_) => Dialect::Problem,
            Self::Infer { .. } | Self::InferenceModel { .. } | Self::InferenceServer => Dialect::Inference,
            _ => Dialect::OpenAi,
        }
    }
}

/// Reads a path. A path nobody knows is [`Surface::OwnPath`]: whether an endpoint has it, the snapshot says.
pub(crate) fn read(path: &str) -> Surface<'_> {
    match path {
        "/v1/chat/completions" => return Surface::ByModel(Dialect::OpenAi, Operation::Chat),
        "/v1/completions" => return Surface::ByModel(Dialect::OpenAi, Operation::Completions),
        "/v1/embeddings" => return Surface::ByModel(Dialect::OpenAi, Operation::Embeddings),
        "/v1/messages" => return Surface::ByModel(Dialect::Anthropic, Operation::Chat),
        "/v1/moderations" => return Surface::ByModel(Dialect::OpenAi, Operation::Moderations),
        "/v1/rerank" | "/v2/rerank" | "/rerank" => {
            return Surface::ByModel(Dialect::Cohere, Operation::Rerank);
        }
        "/v1/responses" => return Surface::ByModel(Dialect::Responses, Operation::Chat),
        "/v1/messages/count_tokens" => {
            return Surface::ByModel(Dialect::Anthropic, Operation::CountTokens);
        }
        "/v1beta/models" => return Surface::GeminiModels,
        "/v1/models" => return Surface::Models,
        "/api/2.0/endpoints" | "/api/2.0/endpoints/" => return Surface::MlflowEndpoints { legacy: false },
        "/api/2.0/gateway/routes" | "/api/2.0/gateway/routes/" => {
            return Surface::MlflowEndpoints { legacy: true };
        }
        "/health" => return Surface::Health,
        "/livez" | "/v2/health/live" => return Surface::Live,
        "/readyz" | "/v2/health/ready" => return Surface::Ready,
        "/v2" | "/v2/" => return Surface::InferenceServer,
        "/metrics" => return Surface::Metrics,
        "/openapi.json" => return Surface::OpenApi,
        "/ping" => return Surface::Ping,
        "/version" => return Surface::Version,
        "/auth/login" => return Surface::Auth(Auth::Login),
        "/auth/callback" => return Surface::Auth(Auth::Callback),
        "/auth/logout" => return Surface::Auth(Auth::Logout),
        "/" => return Surface::Root,
        _ => {}
    }
    if path == "/admin" || path.starts_with("/admin/") {
        return Surface::Admin;
    }
    let name_under = |prefix: &str, suffix: &str| {
        let name = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
        (!name.is_empty() && !name.contains('/')).then_some(name)
    };
    if path.starts_with("/api/2.0/endpoints/limits") || path.starts_with("/api/2.0/gateway/limits") {
        return Surface::MlflowLimits;
    }
    if let Some(name) = name_under("/gateway/", "/invocations").or(name_under("/endpoints/", "/invocations"))
    {
        return Surface::Invocations(name);
    }
    if let Some(name) = name_under("/webhooks/mlflow/", "") {
        return Surface::Webhook(name);
    }
    if let Some(surface) = path.strip_prefix("/v2/models/").and_then(inference) {
        return surface;
    }
    if let Some(surface) = gemini(path) {
        return surface;
    }
    if let Some(name) = path.strip_prefix("/v1/models/").filter(|name| !name.is_empty()) {
        return Surface::Model(name);
    }
    if let Some(name) = name_under("/api/2.0/endpoints/", "").or(name_under("/api/3.0/gateway/endpoint/", ""))
    {
        return Surface::MlflowEndpoint { name, legacy: false };
    }
    if let Some(name) = name_under("/api/2.0/gateway/routes/", "") {
        return Surface::MlflowEndpoint { name, legacy: true };
    }
    if let Some(name) = name_under("/api/3.0/gateway/route/", "") {
        return Surface::MlflowRoute(name);
    }
    Surface::OwnPath
}

/// `{model}[/versions/{version}][/infer|/ready]`.
fn inference(path: &str) -> Option<Surface<'_>> {
    let (path, action) = match path.rsplit_once('/') {
        Some((path, action @ ("infer" | "ready"))) => (path, action),
        _ => (path, ""),
    };
    let (model, version) = match path.split_once("/versions/") {
        Some((model, version)) => (model, Some(version)),
        None => (path, None),
    };
    if [Some(model), version].into_iter().flatten().any(|part| part.is_empty() || part.contains('/')) {
        return None;
    }
    Some(match action {
        "infer" => Surface::Infer { model, version },
        action => Surface::InferenceModel { model, version, ready: action == "ready" },
    })
}

/// `/v1beta/models/{model}:{action}`; the model's name may hold `/` and `:`. Google's stable version of the API
/// shares its prefix with OpenAI's, so there only calls are Google's.
fn gemini(path: &str) -> Option<Surface<'_>> {
    let beta = path.strip_prefix("/v1beta/models/");
    let rest = beta.or_else(|| path.strip_prefix("/v1/models/"))?;
    let call = rest.rsplit_once(':').and_then(|(model, action)| {
        let (operation, stream) = match action {
            "generateContent" => (Operation::Chat, false),
            "streamGenerateContent" => (Operation::Chat, true),
            "embedContent" | "batchEmbedContents" => (Operation::Embeddings, false),
            "countTokens" => (Operation::CountTokens, false),
            _ => return None,
        };
        Some(Surface::Action { model, operation, stream })
    });
    call.or_else(|| beta.filter(|name| !name.is_empty()).map(Surface::GeminiModel))
}

/// A name from the path as it is meant. The check of the path left no encoded separator in it.
pub(crate) fn decoded(name: &str) -> std::borrow::Cow<'_, str> {
    if !name.contains('%') {
        return name.into();
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        let encoded =
            more.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = encoded.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// Refuses heads that no honest client sends (`bad_host`, `bad_path`, `misdirected`, ...).
pub(crate) fn check_head(head: &Parts) -> Result<(), Fault> {
    if head.method == Method::TRACE || head.method == Method::CONNECT {
        return Err(Fault::client(code::METHOD_NOT_ALLOWED, "this method is not served"));
    }
    if head.uri.path_and_query().map_or(0, |target| target.as_str().len()) > MAX_URI {
        return Err(Fault::client(code::URI_TOO_LONG, "the request target is longer than 16 KiB"));
    }
    check_host(head)?;
    check_path(head.uri.path())?;
    if head.headers.values().any(|value| value.len() > MAX_FIELD) {
        return Err(Fault::client(code::HEADERS_TOO_LARGE, "a header field is longer than 16 KiB"));
    }
    if let Some(expect) = head.headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Fault::client(code::BAD_EXPECTATION, "only `Expect: 100-continue` is understood"));
    }
    Ok(())
}

fn check_host(head: &Parts) -> Result<(), Fault> {
    let bad = |what: &'static str| Fault::client(code::BAD_HOST, what);
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("the Host header stands twice"));
    }
    let Some(host) = host else {
        // HTTP/2 has `:authority` instead, HTTP/1.0 nothing.
        return if head.version == Version::HTTP_11 {
            Err(bad("the Host header is missing"))
        } else {
            Ok(())
        };
    };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    if host.is_empty() || !host.as_bytes().iter().all(plain) {
        return Err(bad("the Host header is malformed"));
    }
    if let Some(authority) = head.uri.authority()
        && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    {
        return Err(Fault::client(code::MISDIRECTED, "the request target names another host"));
    }
    Ok(())
}

/// Paths are matched as they are written, so nothing in them may have two readings.
fn check_path(path: &str) -> Result<(), Fault> {
    // Nearly every path is plain.
    if !path.bytes().any(|byte| matches!(byte, b'%' | b'.' | b'\\')) {
        return Ok(());
    }
    let dots = path.split('/').any(|part| part == ".." || part == ".");
    let encoded = path.as_bytes().windows(3).any(|part| {
        part[0] == b'%'
            && [b"2e", b"2f", b"5c", b"00", b"25"].iter().any(|bad| part[1..].eq_ignore_ascii_case(*bad))
    });
    let damaged = path.as_bytes().iter().enumerate().any(|(at, byte)| {
        *byte == b'%'
            && !path
                .as_bytes()
                .get(at + 1..at + 3)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if dots || encoded || damaged || path.contains('\\') {
        return Err(Fault::client(code::BAD_PATH, "the path holds a traversal or an encoded separator"));
    }
    Ok(())
}

/// The value of a query parameter, still encoded.
pub(crate) fn query<'a>(target: Option<&'a PathAndQuery>, name: &str) -> Option<&'a str> {
    target?.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_meaning() {
        assert_eq!(read("/v1/messages"), Surface::ByModel(Dialect::Anthropic, Operation::Chat));
        assert_eq!(read("/v2/rerank"), Surface::ByModel(Dialect::Cohere, Operation::Rerank));
        assert_eq!(read("/gateway/chat/invocations"), Surface::Invocations("chat"));
        assert_eq!(read("/endpoints/chat/invocations"), Surface::Invocations("chat"));
        assert_eq!(read("/endpoints//invocations"), Surface::OwnPath);
        assert_eq!(read("/api/2.0/endpoints/chat"), Surface::MlflowEndpoint { name: "chat", legacy: false });
        assert_eq!(read("/api/2.0/endpoints/limits/chat"), Surface::MlflowLimits);
        assert_eq!(read("/v1/models/openai/gpt-4o"), Surface::Model("openai/gpt-4o"));
        assert_eq!(read("/predict/iris"), Surface::OwnPath);
        let chat = |model, stream| Surface::Action { model, operation: Operation::Chat, stream };
        assert_eq!(
            read("/v1beta/models/gemini/gemini-2.5-pro:generateContent"),
            chat("gemini/gemini-2.5-pro", false)
        );
        assert_eq!(read("/v1beta/models/llama3:8b:streamGenerateContent"), chat("llama3:8b", true));
        assert_eq!(read("/v1/models/m:generateContent"), chat("m", false));
        assert_eq!(read("/v1beta/models/chat"), Surface::GeminiModel("chat"));
        assert_eq!(read("/v1/models/chat"), Surface::Model("chat"));
        assert_eq!(decoded("llama3%3A8b%zz"), "llama3:8b%zz");
        assert_eq!(read("/v2/models/iris/infer"), Surface::Infer { model: "iris", version: None });
        let ready = Surface::InferenceModel { model: "iris", version: Some("3"), ready: true };
        assert_eq!(read("/v2/models/iris/versions/3/ready"), ready);
        assert_eq!(read("/v2/models/iris/versions/"), Surface::OwnPath);
        assert_eq!(read("/v2/models/a/b/infer"), Surface::OwnPath);
    }

    /// The row of the access matrix that a path belongs to. A new meaning does not compile before it has one.
    fn row(surface: Surface<'_>) -> &'static str {
        match surface {
            Surface::ByModel(Dialect::Anthropic, Operation::CountTokens) => "/v1/messages/count_tokens",
            Surface::ByModel(Dialect::Anthropic, _) => "/v1/messages",
            Surface::ByModel(Dialect::Responses, _) => "/v1/responses",
            Surface::ByModel(_, Operation::Completions) => "/v1/completions",
            Surface::ByModel(_, Operation::Embeddings) => "/v1/embeddings",
            Surface::ByModel(_, Operation::Moderations) => "/v1/moderations",
            Surface::ByModel(_, Operation::Rerank) => "/v1/rerank",
            Surface::ByModel(..) => "/v1/chat/completions",
            Surface::Action { .. } => "/v1beta/models/{model}:{action}",
            Surface::Invocations(_) => "/gateway/{endpoint}/invocations",
            Surface::Infer { .. } => "/v2/models/{model}/infer",
            Surface::InferenceModel { .. } => "/v2/models/{model}",
            Surface::InferenceServer => "/v2",
            Surface::Webhook(_) => "/webhooks/mlflow/{registry}",
            Surface::Admin => "/keys/{id}",
            Surface::Auth(Auth::Login) => "/auth/login",
            Surface::Auth(Auth::Callback) => "/auth/callback",
            Surface::Auth(Auth::Logout) => "/auth/logout",
            Surface::OwnPath => "/{path of an endpoint}",
            Surface::Models => "/v1/models",
            Surface::Model(_) => "/v1/models/{model}",
            Surface::GeminiModels => "/v1beta/models",
            Surface::GeminiModel(_) => "/v1beta/models/{model}",
            Surface::MlflowEndpoints { legacy: false } => "/api/2.0/endpoints/",
            Surface::MlflowEndpoints { legacy: true } => "/api/2.0/gateway/routes/",
            Surface::MlflowEndpoint { .. } => "/api/2.0/endpoints/{endpoint}",
            Surface::MlflowRoute(_) => "/api/3.0/gateway/route/{route}",
            Surface::MlflowLimits => "/api/2.0/endpoints/limits",
            Surface::Health => "/health",
            Surface::Live => "/livez",
            Surface::Ready => "/readyz",
            Surface::Metrics => "/metrics",
            Surface::OpenApi => "/openapi.json",
            Surface::Ping => "/ping",
            Surface::Version => "/version",
            Surface::Root => "/",
        }
    }

    #[test]
    fn every_path_has_a_row_in_the_access_matrix() {
        let page = include_str!("../../../docs/reference/access.md");
        let shown: Vec<_> = page.lines().filter_map(|line| line.split('`').nth(1)).collect();
        let source = include_str!("surface.rs");
        // All literal paths of the table above, read as the table reads them.
        let reader = source.split_once("pub(crate) fn read(").map_or("", |(_, rest)| rest);
        let reader = reader.split_once("#[cfg(test)]").map_or(reader, |(table, _)| table);
        let literals = reader.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
        let mut count = 0;
        for path in literals {
            let row = row(read(path));
            assert!(shown.contains(&row), "{path}: no row {row}");
            count += 1;
        }
        assert!(count >= 30, "only {count} paths found");
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        for path in ["/a/../b", "/a/%2e%2E/b", "/a%2fb", "/a%5cb", "/a%00", "/a%252f", "/a%zz", "/a\\b"] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert!(check_path("/v1/models/a%20b").is_ok());
    }
}
