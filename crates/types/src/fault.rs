//! The one error type that crosses the pipeline, and the table of its codes.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// An error we keep for our own log.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One row of the code table. The same string appears in every dialect, in logs and in metrics.
#[derive(Clone, Copy)]
pub struct Code {
    /// The stable name, for example `model_not_found`.
    pub name: &'static str,
    /// The HTTP status of an answer with this code.
    pub status: u16,
    /// OpenAI's `error.type`.
    pub openai_type: &'static str,
    /// One line for the reference: what happened.
    pub meaning: &'static str,
}

impl PartialEq for Code {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Code {}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! codes {
    ($($ident:ident => $name:literal, $status:literal, $openai:literal, $meaning:literal;)*) => {
        /// The code table's rows as constants.
        pub mod code {
            use super::Code;
            $(
                #[doc = $meaning]
                pub const $ident: Code =
                    Code { name: $name, status: $status, openai_type: $openai, meaning: $meaning };
            )*
        }
        /// Every code, in the order of the table; the reference page is made from it.
        pub const CODES: &[Code] = &[$(code::$ident),*];
    };
}

codes! {
    BAD_HOST => "bad_host", 400, "invalid_request_error", "the Host header is missing, doubled or malformed";
    BAD_PATH => "bad_path", 400, "invalid_request_error", "the path holds a traversal, an encoded separator or invalid UTF-8";
    BAD_FRAMING => "bad_framing", 400, "invalid_request_error", "the request is not proper HTTP, or its body broke off";
    BAD_ENCODING => "bad_encoding", 400, "invalid_request_error", "the compressed body is damaged";
    INVALID_JSON => "invalid_json", 400, "invalid_request_error", "the body is not valid JSON";
    DUPLICATE_MEMBER => "duplicate_member", 400, "invalid_request_error", "a JSON object names a member twice";
    INVALID_VALUE => "invalid_value", 400, "invalid_request_error", "a field is missing, of the wrong type or out of range";
    INVALID_CONFIG => "invalid_config", 400, "invalid_request_error", "the configuration has problems and is not used";
    BAD_IDEMPOTENCY_KEY => "bad_idempotency_key", 400, "invalid_request_error", "the Idempotency-Key is not 1 to 255 printable characters";
    INVALID_MODEL => "invalid_model", 400, "invalid_request_error", "the model's name has characters that names do not have";
    UNSUPPORTED_PARAMETER => "unsupported_parameter", 400, "invalid_request_error", "a parameter that callers may not set, or that the target cannot honour";
    MODEL_LACKS_CAPABILITY => "model_lacks_capability", 400, "invalid_request_error", "the request needs what the target's model cannot do";
    CONTEXT_LENGTH_EXCEEDED => "context_length_exceeded", 400, "invalid_request_error", "the request is longer than the model's context window";
    SCHEMA_MISMATCH => "schema_mismatch", 400, "invalid_request_error", "the input does not fit the model's signature";
    MODEL_REJECTED_INPUT => "model_rejected_input", 400, "invalid_request_error", "the model's own code refused the input";
    UPSTREAM_INVALID_REQUEST => "upstream_invalid_request", 400, "invalid_request_error", "the provider refused the request as invalid";
    INVALID_API_KEY => "invalid_api_key", 401, "invalid_request_error", "the API key is missing or not known";
    PERMISSION_DENIED => "permission_denied", 403, "invalid_request_error", "the key may not do this";
    NOT_FOUND => "not_found", 404, "invalid_request_error", "nothing is served at this path";
    MODEL_NOT_FOUND => "model_not_found", 404, "invalid_request_error", "no endpoint of this name is served";
    UPSTREAM_NOT_FOUND => "upstream_not_found", 404, "invalid_request_error", "the provider does not know the model";
    METHOD_NOT_ALLOWED => "method_not_allowed", 405, "invalid_request_error", "the path exists, the method does not";
    BODY_TIMEOUT => "body_timeout", 408, "invalid_request_error", "the body did not arrive in time";
    CONFIG_NOT_WRITABLE => "config_not_writable", 409, "invalid_request_error", "the configuration cannot be changed by the API here";
    CONFIG_CONFLICT => "config_conflict", 409, "invalid_request_error", "the configuration's file holds something else than what is served";
    IDEMPOTENCY_IN_PROGRESS => "idempotency_in_progress", 409, "invalid_request_error", "a request with this Idempotency-Key is under way, or its end is not known";
    IN_USE => "in_use", 409, "invalid_request_error", "something that is served needs it";
    PRECONDITION_FAILED => "precondition_failed", 412, "invalid_request_error", "the object is not in the state that If-Match names";
    BODY_TOO_LARGE => "body_too_large", 413, "invalid_request_error", "the body is over the limit";
    UPSTREAM_TOO_LARGE => "upstream_too_large", 413, "invalid_request_error", "the provider refused the request as too large";
    URI_TOO_LONG => "uri_too_long", 414, "invalid_request_error", "the request line is over the limit";
    UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type", 415, "invalid_request_error", "the Content-Type is not one this path takes";
    UNSUPPORTED_ENCODING => "unsupported_encoding", 415, "invalid_request_error", "the Content-Encoding is not supported";
    BAD_EXPECTATION => "bad_expectation", 417, "invalid_request_error", "only `Expect: 100-continue` is understood";
    MISDIRECTED => "misdirected", 421, "invalid_request_error", "the absolute request target names another host";
    IDEMPOTENCY_CONFLICT => "idempotency_conflict", 422, "invalid_request_error", "the Idempotency-Key was used with another body";
    HEADERS_TOO_LARGE => "headers_too_large", 431, "invalid_request_error", "the headers are too large or too many";
    RATE_LIMIT_EXCEEDED => "rate_limit_exceeded", 429, "rate_limit_error", "the limit of this window is used up";
    BUDGET_EXCEEDED => "budget_exceeded", 429, "rate_limit_error", "the budget of this time is used up";
    UPSTREAM_RATE_LIMITED => "upstream_rate_limited", 429, "rate_limit_error", "the provider's rate limit is used up";
    UPSTREAM_QUOTA => "upstream_quota", 429, "insufficient_quota", "the provider's account has no credit left";
    CANCELLED => "cancelled", 499, "api_error", "the caller went away before the answer was complete";
    INTERNAL_ERROR => "internal_error", 500, "api_error", "a defect in Millgate; the log holds the cause under the request id";
    MODEL_FAILED => "model_failed", 500, "api_error", "the model's code raised an error that is not the caller's";
    NOT_IMPLEMENTED => "not_implemented", 501, "invalid_request_error", "the target has no such operation";
    GRAPH_FAILED => "graph_failed", 502, "api_error", "the answers inside a chain, ensemble or switch do not go together";
    UPSTREAM_ERROR => "upstream_error", 502, "api_error", "the provider could not be reached or answered badly";
    UPSTREAM_AUTH => "upstream_auth", 502, "api_error", "the provider refused our credential";
    STREAM_INTERRUPTED => "stream_interrupted", 502, "api_error", "the answer broke off in the middle";
    WORKER_CRASHED => "worker_crashed", 502, "api_error", "the model's worker process died";
    WORKER_PROTOCOL => "worker_protocol", 502, "api_error", "the model's worker sent something that is not an answer";
    OVERLOADED => "overloaded", 503, "api_error", "more requests than can be served now";
    DRAINING => "draining", 503, "api_error", "the gateway is shutting down";
    UPSTREAM_OVERLOADED => "upstream_overloaded", 503, "api_error", "the provider is overloaded";
    NO_HEALTHY_TARGET => "no_healthy_target", 503, "api_error", "every target of the route is unhealthy";
    DEPENDENCY_UNAVAILABLE => "dependency_unavailable", 503, "api_error", "a store that this needs cannot be reached";
    REGISTRY_UNAVAILABLE => "registry_unavailable", 503, "api_error", "the model registry cannot be reached and no version is loaded yet";
    MODEL_UNAVAILABLE => "model_unavailable", 503, "api_error", "the model is not loaded yet, or loading it failed";
    UPSTREAM_TIMEOUT => "upstream_timeout", 504, "api_error", "the provider did not answer in time";
    WORKER_TIMEOUT => "worker_timeout", 504, "api_error", "the model did not answer in time";
}

/// Who made the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The caller's request.
    Client,
    /// Millgate itself.
    Gateway,
    /// A provider.
    Upstream,
    /// A model worker.
    Worker,
}

impl Source {
    /// The lower-case word that bodies, logs and metrics show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gateway => "gateway",
            Self::Upstream => "upstream",
            Self::Worker => "worker",
        }
    }
}

/// Whether another attempt can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No.
    Never,
    /// The same target may do, after a pause when one is known.
    SameTarget(Option<Duration>),
    /// Only another target.
    NextTarget,
}

/// What went wrong, in one value: encoded once, by the caller's dialect.
pub struct Fault {
    /// The row of the table.
    pub code: Code,
    /// Who made the error.
    pub source: Source,
    /// Whether another attempt can help.
    pub retry: Retry,
    /// Safe for callers: a lower-case fragment without a full stop, no path, no type name, no secret.
    pub public: Cow<'static, str>,
    /// The request field at fault, for example `messages[2].content`.
    pub param: Option<Cow<'static, str>>,
    /// When the caller may try again; becomes `Retry-After` (whole seconds, rounded up).
    pub retry_after: Option<Duration>,
    /// The status the upstream answered with.
    pub upstream_status: Option<u16>,
    /// Every field at fault, where several were looked at.
    pub errors: Vec<FieldError>,
    /// For our log only; never serialised.
    pub cause: Option<BoxError>,
}

/// A cause that is all that the log says.
#[derive(Debug)]
struct Logged(Box<str>);

impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Logged {}

/// One field at fault, of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The field: `limits[0].requests`.
    pub path: String,
    /// What is wrong.
    pub detail: String,
    /// What to do; empty when there is nothing to add.
    pub hint: String,
    /// Line and column in the text that was sent, where it was one.
    pub place: Option<(u64, u64)>,
}

/// `limits[0].requests` as a JSON pointer in a URI fragment (RFC 6901): `#/limits/0/requests`.
#[must_use]
pub fn pointer(path: &str) -> String {
    let mut out = String::from("#");
    for step in path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty())
    {
        out.push('/');
        out.push_str(&step.replace('~', "~0").replace('/', "~1"));
    }
    out
}

impl Fault {
    /// A fault of the caller's request.
    #[must_use]
    pub fn client(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code, Source::Client, Retry::Never, public)
    }

    /// A fault of ours.
    #[must_use]
    pub fn gateway(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code, Source::Gateway, Retry::Never, public)
    }

    /// A fault of a provider.
    #[must_use]
    pub fn upstream(code: Code, retry: Retry, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code, Source::Upstream, retry, public)
    }

    /// A fault of a model worker.
    #[must_use]
    pub fn worker(code: Code, retry: Retry, public: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code, Source::Worker, retry, public)
    }

    /// A field that is missing, of the wrong type or out of range.
    #[must_use]
    pub fn invalid_value(param: impl Into<Cow<'static, str>>, public: impl Into<Cow<'static, str>>) -> Self {
        Self::client(code::INVALID_VALUE, public).with_param(param)
    }

    /// All parts given.
    #[must_use]
    pub fn new(code: Code, source: Source, retry: Retry, public: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            source,
            retry,
            public: public.into(),
            param: None,
            retry_after: None,
            upstream_status: None,
            errors: Vec::new(),
            cause: None,
        }
    }

    /// Names the request field at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Names every field at fault.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Keeps the upstream's status.
    #[must_use]
    pub fn with_upstream_status(mut self, status: u16) -> Self {
        self.upstream_status = Some(status);
        self
    }

    /// Has our log say `text` instead of the public words and the causes, where these repeat what a caller sent.
    #[must_use]
    pub fn logged_as(self, text: String) -> Self {
        self.with_cause(Logged(text.into()))
    }

    /// What our log says: the public words and the chain of causes.
    #[must_use]
    pub fn detail(&self) -> String {
        if let Some(Logged(text)) = self.cause.as_deref().and_then(|cause| cause.downcast_ref()) {
            return text.to_string();
        }
        let mut text = self.public.to_string();
        let mut cause: Option<&(dyn std::error::Error + 'static)> =
            self.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static));
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// Keeps the cause for our log.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<BoxError>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// `Retry-After` in whole seconds, rounded up; what an upstream says is believed up to a minute.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let most = if self.source == Source::Upstream { 60 } else { u128::from(u64::MAX) };
        self.retry_after.map(|after| after.as_millis().div_ceil(1000).min(most) as u64)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name, self.public)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({}, {}, {:?}", self.code.name, self.source.name(), self.public)?;
        if let Some(cause) = &self.cause {
            write!(f, ", cause: {cause}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| &**cause as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_names_are_unique_and_statuses_are_errors() {
        for (index, code) in CODES.iter().enumerate() {
            assert!((400..600).contains(&code.status), "{code:?}");
            assert!(CODES[index + 1..].iter().all(|other| other != code), "{code:?} stands twice");
        }
    }

    #[test]
    fn retry_after_is_rounded_up_and_that_of_others_is_capped() {
        let seconds =
            |fault: Fault, ms| fault.with_retry_after(Duration::from_millis(ms)).retry_after_seconds();
        let ours = || Fault::client(code::RATE_LIMIT_EXCEEDED, "used up");
        assert_eq!(seconds(ours(), 1), Some(1));
        assert_eq!(seconds(ours(), 86_400_000), Some(86_400), "our own limits say it exactly");
        let theirs = Fault::new(code::UPSTREAM_RATE_LIMITED, Source::Upstream, Retry::NextTarget, "busy");
        assert_eq!(seconds(theirs, 86_400_000), Some(60));
    }
}
