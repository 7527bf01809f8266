//! What an upstream's error means: which code the caller sees, and whether another attempt can help
//! (`contracts/providers.md` 1.5, `contracts/trust.md` 3). The caller never sees what could hold a secret.

use std::time::Duration;

use http::HeaderMap;
use millgate_dialect::{ErrorBody, redact};
use millgate_types::{Code, Fault, Retry, code};

use crate::{ProviderKind, hint};

/// A longer wait than this on the same target is no wait: the target counts as down.
const PATIENCE: Duration = Duration::from_mins(1);

/// The fault of an error answer.
#[must_use]
pub fn classify(kind: &ProviderKind, status: u16, headers: &HeaderMap, body: &[u8]) -> Fault {
    let mut error = kind.codec().decode_error(status, body);
    if error.kind.is_none() {
        // AWS tells the class in a header, with an address behind a colon.
        let class = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
        error.kind = class.and_then(|class| class.split(':').next()).map(str::to_owned);
    }
    let wait = hint::retry_after(headers, None)
        .or_else(|| hint::go_duration(error.wait.as_deref()?))
        .or_else(|| hint::retry_after(&HeaderMap::new(), error.message.as_deref()));
    let (code, retry) = class(status, &error, body, wait);
    let retry = match headers.get("x-should-retry").map(http::HeaderValue::as_bytes) {
        Some(b"true") if retry == Retry::Never => Retry::SameTarget(wait),
        Some(b"false") if matches!(retry, Retry::SameTarget(_)) => Retry::NextTarget,
        _ => retry,
    };
    let public = match &error.message {
        Some(message) if code == code::UPSTREAM_INVALID_REQUEST => redact(message),
        _ => generic(code).to_owned(),
    };
    let mut fault = Fault::upstream(code, retry, public).with_upstream_status(status);
    if let Some(param) =
        error.param.filter(|param| code == code::UPSTREAM_INVALID_REQUEST && param.len() <= 200)
    {
        fault = fault.with_param(redact(&param));
    }
    if let Some(wait) = wait.filter(|_| [429, 503].contains(&code.status)) {
        fault = fault.with_retry_after(wait.min(PATIENCE));
    }
    if let Some(message) = &error.message {
        fault = fault.with_cause(format!("{} answered {status}: {}", kind.name, redact(message)));
    }
    fault
}

fn generic(code: Code) -> &'static str {
    match code.name {
        "upstream_auth" => "the provider refused the gateway's credential",
        "upstream_invalid_request" => "the provider refused the request as invalid",
        "upstream_not_found" => "the provider does not know the model",
        "upstream_too_large" => "the provider refused the request as too large",
        "upstream_rate_limited" => "the provider's rate limit is used up",
        "upstream_quota" => "the provider's account has no credit left",
        "upstream_overloaded" => "the provider is overloaded",
        "upstream_timeout" => "the provider did not answer in time",
        _ => "the provider answered with an error",
    }
}

fn class(status: u16, error: &ErrorBody, body: &[u8], wait: Option<Duration>) -> (Code, Retry) {
    let patient = match wait {
        Some(wait) if wait > PATIENCE => Retry::NextTarget,
        wait => Retry::SameTarget(wait),
    };
    let message = error.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    let words = [error.code.as_deref(), error.kind.as_deref()];
    let word = |needle: &str| {
        words
            .iter()
            .flatten()
            .any(|found| found.to_ascii_lowercase().replace([' ', '-'], "_").contains(needle))
    };
    let html = body.trim_ascii_start().starts_with(b"<");
    match status {
        401 | 403 => (code::UPSTREAM_AUTH, Retry::NextTarget),
        402 => (code::UPSTREAM_QUOTA, Retry::NextTarget),
        400 | 422 if html => (code::UPSTREAM_ERROR, Retry::NextTarget),
        400 | 422 if wrong_key(&message, &word) => (code::UPSTREAM_AUTH, Retry::NextTarget),
        // AWS's quotas of an account: waiting is for days.
        400 if word("servicequotaexceeded") => (code::UPSTREAM_RATE_LIMITED, Retry::NextTarget),
        400 | 422 if unknown_model(&message, &word) => (code::UPSTREAM_NOT_FOUND, Retry::NextTarget),
        // The model's own slip: once more may do.
        400 if word("tool_use_failed") => (code::UPSTREAM_INVALID_REQUEST, Retry::SameTarget(None)),
        400 | 422 | 498 => (code::UPSTREAM_INVALID_REQUEST, Retry::Never),
        404 | 410 => (code::UPSTREAM_NOT_FOUND, Retry::NextTarget),
        413 => (code::UPSTREAM_TOO_LARGE, Retry::Never),
        429 if word("insufficient_quota")
            || word("billing")
            // Google says so of a minute's quota too, and then when it is over.
            || message.contains("exceeded your current quota") && error.wait.is_none() =>
        {
            (code::UPSTREAM_QUOTA, Retry::NextTarget)
        }
        // Over the limit by itself: waiting never helps.
        429 if message.contains("request too large") => (code::UPSTREAM_RATE_LIMITED, Retry::NextTarget),
        429 => (code::UPSTREAM_RATE_LIMITED, patient),
        503 | 529 => (code::UPSTREAM_OVERLOADED, patient),
        408 | 504 => (code::UPSTREAM_TIMEOUT, Retry::SameTarget(None)),
        501 => (code::UPSTREAM_ERROR, Retry::NextTarget),
        500..=599 | 424 | 409 | 425 => (code::UPSTREAM_ERROR, Retry::SameTarget(None)),
        // Redirects, 405, 415 and the like: the address is wrong, not the moment.
        _ => (code::UPSTREAM_ERROR, Retry::NextTarget),
    }
}

/// Gemini and xAI answer a bad key with 400.
fn wrong_key(message: &str, word: &dyn Fn(&str) -> bool) -> bool {
    word("api_key_invalid")
        || word("invalid_api_key")
        || word("authentication")
        || word("expiredtoken")
        || word("unrecognizedclient")
        || ["incorrect api key", "api key not valid", "invalid api key", "api key expired"]
            .iter()
            .any(|phrase| message.contains(phrase))
}

/// OpenAI Responses, Mistral, xAI and others answer an unknown model with 400.
fn unknown_model(message: &str, word: &dyn Fn(&str) -> bool) -> bool {
    word("model_not_found")
        || word("invalid_model")
        || message.starts_with("model not found")
        || message.contains("model identifier is invalid")
        // The model is there, under the name of an inference profile only.
        || message.contains("with on-demand throughput isn")
        || message.contains("supported api model names are")
        || message.starts_with("unable to access non-serverless model")
        || message.starts_with("model ")
            && (message.ends_with("does not exist")
                || message.contains(" is not supported. supported models"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind;

    fn of(provider: &str, status: u16, body: &str) -> Fault {
        classify(kind(provider).unwrap(), status, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn keys_of_ours_that_fail_are_never_shown() {
        for (provider, status, body) in [
            (
                "openai",
                401,
                r#"{"error":{"message":"Incorrect API key provided: sk-secret12345","code":"invalid_api_key"}}"#,
            ),
            (
                "xai",
                400,
                r#"{"code":"invalid-argument","error":"Incorrect API key provided: xai-secret12345"}"#,
            ),
            (
                "openai-compatible",
                400,
                r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]"#,
            ),
            (
                "anthropic",
                403,
                r#"{"type":"error","error":{"type":"permission_error","message":"secret12345"}}"#,
            ),
        ] {
            let fault = of(provider, status, body);
            assert_eq!(fault.code, code::UPSTREAM_AUTH, "{body}");
            assert_eq!(fault.retry, Retry::NextTarget);
            assert!(
                !format!("{fault:?}{fault}").contains("secret12345") || provider == "anthropic",
                "{fault:?}"
            );
            assert_eq!(fault.public, "the provider refused the gateway's credential");
        }
    }

    #[test]
    fn aws_tells_the_class_in_a_header() {
        let of = |status: u16, class: &'static str, message: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-amzn-errortype", http::HeaderValue::from_static(class));
            let body = format!("{{\"message\":\"{message}\"}}");
            classify(kind("bedrock").unwrap(), status, &headers, body.as_bytes())
        };
        let fault = of(400, "ServiceQuotaExceededException:http://internal.amazon.com/", "quota");
        assert_eq!((fault.code, fault.retry), (code::UPSTREAM_RATE_LIMITED, Retry::NextTarget));
        let fault = of(400, "ExpiredTokenException", "the security token is expired");
        assert_eq!(fault.code, code::UPSTREAM_AUTH);
        let fault = of(400, "ValidationException:x", "messages.0: blank text");
        assert_eq!((fault.code, &*fault.public), (code::UPSTREAM_INVALID_REQUEST, "messages.0: blank text"));
        let fault = of(
            400,
            "ValidationException:x",
            "Invocation of model ID m with on-demand throughput isn\u{2019}t supported. Retry with a profile",
        );
        assert_eq!(fault.code, code::UPSTREAM_NOT_FOUND);
        assert_eq!(of(424, "ModelErrorException", "x").code, code::UPSTREAM_ERROR);
        assert_eq!(of(408, "ModelTimeoutException", "x").code, code::UPSTREAM_TIMEOUT);
        assert_eq!(of(429, "ModelNotReadyException", "x").code, code::UPSTREAM_RATE_LIMITED);
        assert_eq!(of(503, "ServiceUnavailableException", "x").code, code::UPSTREAM_OVERLOADED);
    }

    #[test]
    fn the_callers_mistakes_are_explained() {
        let fault = of(
            "openai",
            400,
            r#"{"error":{"message":"Invalid 'temperature': key sk-abcdef123456 no","param":"temperature"}}"#,
        );
        assert_eq!(fault.code, code::UPSTREAM_INVALID_REQUEST);
        assert_eq!(fault.public, "Invalid 'temperature': key [redacted] no");
        assert_eq!(fault.param.as_deref(), Some("temperature"));
        assert_eq!(fault.upstream_status, Some(400));
    }

    #[test]
    fn a_wait_of_a_day_means_another_target() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "86400".parse().unwrap());
        let fault = classify(kind("openai").unwrap(), 429, &headers, b"{}");
        assert_eq!((fault.code, fault.retry), (code::UPSTREAM_RATE_LIMITED, Retry::NextTarget));
        assert_eq!(fault.retry_after_seconds(), Some(60));
        headers.insert("retry-after", "2".parse().unwrap());
        let fault = classify(kind("openai").unwrap(), 429, &headers, b"{}");
        assert_eq!(fault.retry, Retry::SameTarget(Some(Duration::from_secs(2))));
    }

    #[test]
    fn junk_is_an_upstream_error() {
        for (status, body) in [(502, "<html>"), (400, "<!doctype html>"), (500, ""), (302, ""), (405, "{}")] {
            assert_eq!(of("openai", status, body).code, code::UPSTREAM_ERROR, "{status} {body}");
        }
        assert_eq!(of("anthropic", 529, "").code, code::UPSTREAM_OVERLOADED);
        assert_eq!(
            of("openai", 429, r#"{"error":{"code":"insufficient_quota"}}"#).code,
            code::UPSTREAM_QUOTA
        );
        assert_eq!(of("deepseek", 402, "").code, code::UPSTREAM_QUOTA);
        assert_eq!(
            of("mistral", 400, r#"{"type":"invalid_model","message":"Invalid model: x"}"#).code,
            code::UPSTREAM_NOT_FOUND
        );
    }

    /// Every recorded error lands in the class its status and text stand for.
    #[test]
    fn recorded_errors_are_classified() {
        let root = match std::env::var_os("MILLGATE_SHARED") {
            Some(path) => std::path::PathBuf::from(path),
            None => std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        };
        let root = root.join("fixtures/providers");
        let Ok(index) = std::fs::read_to_string(root.join("index.json")) else {
            eprintln!("no shared recordings here: skipped");
            return;
        };
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let mut count = 0;
        for entry in index["fixtures"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "error") {
            let provider = entry["provider"].as_str().unwrap();
            let kind = kind(provider).unwrap_or_else(|| kind("openai-compatible").unwrap());
            let file = std::fs::read_to_string(root.join(entry["file"].as_str().unwrap())).unwrap();
            let file: serde_json::Value = serde_json::from_str(&file).unwrap();
            let status = file["response"]["status"].as_u64().unwrap() as u16;
            if status < 400 {
                continue;
            }
            let body = file["response"]["body"].to_string();
            let fault = classify(kind, status, &HeaderMap::new(), body.as_bytes());
            let allowed: &[u16] = match status {
                400 => &[400, 404, 502],
                401 | 403 => &[502],
                404 => &[404],
                422 => &[400, 404],
                402 | 429 => &[429],
                503 | 529 => &[503],
                408 | 504 => &[504],
                _ => &[400, 404, 413, 502],
            };
            assert!(allowed.contains(&fault.code.status), "{provider} {status} {body}: {fault:?}");
            count += 1;
        }
        assert!(count > 50);
        eprintln!("{count} recorded errors");
    }
}
