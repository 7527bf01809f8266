//! When a provider says to try again.

use std::time::Duration;

use http::HeaderMap;

/// The longest wait that is believed; a longer one is kept as it is, but reads as "down".
const DAY: u64 = 86_400;

/// The server's hint, in the order of `contracts/providers.md` 1.5: `retry-after-ms`, `retry-after` (seconds or
/// date), Anthropic's and OpenAI's reset headers, and "try again in 1.98s" in the message. Dates are measured
/// against the answer's own `date` header, so no clock is needed.
#[must_use]
pub fn retry_after(headers: &HeaderMap, message: Option<&str>) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let now = text("date").and_then(http_date);
    let until = |then: u64| now.map(|now| Duration::from_secs(then.saturating_sub(now)));
    let millis =
        text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()).and_then(|ms| seconds(ms / 1000.0));
    // Azure sends 0 ms beside a whole second.
    let plain = text("retry-after").and_then(|text| match text.parse::<f64>() {
        Ok(number) => seconds(number),
        Err(_) => http_date(text).and_then(until),
    });
    millis
        .filter(|wait| !wait.is_zero())
        .or(plain)
        .or(millis)
        .or_else(|| {
            ["requests", "tokens", "input-tokens", "output-tokens"]
                .iter()
                .filter(|what| text(&format!("anthropic-ratelimit-{what}-remaining")) == Some("0"))
                .filter_map(|what| {
                    rfc3339(text(&format!("anthropic-ratelimit-{what}-reset"))?).and_then(until)
                })
                .max()
        })
        .or_else(|| {
            ["requests", "tokens"]
                .iter()
                .filter(|what| text(&format!("x-ratelimit-remaining-{what}")) == Some("0"))
                .filter_map(|what| go_duration(text(&format!("x-ratelimit-reset-{what}"))?))
                .max()
        })
        .or_else(|| in_words(message?))
        .map(|wait| wait.min(Duration::from_secs(DAY)))
}

/// What is left of one of a provider's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// How much.
    pub left: u64,
    /// Of how much.
    pub limit: Option<u64>,
    /// Until all of it is there again.
    pub reset: Option<Duration>,
}

/// What an answer says is left of its provider's limits (`contracts/providers.md` 1.6): `x-ratelimit-*` of OpenAI and those
/// like it, Azure, Mistral and Together, `anthropic-ratelimit-*`. First calls, then tokens. Costs a look at the names where
/// nothing is said.
#[must_use]
pub fn remaining(headers: &HeaderMap) -> (Option<Remaining>, Option<Remaining>) {
    let says = |name: &str| name.starts_with("x-ratelimit-") || name.starts_with("anthropic-ratelimit-");
    if !headers.keys().any(|name| says(name.as_str())) {
        return (None, None);
    }
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(left) = number("x-ratelimit-remaining-requests") {
        return (
            Some(plain(headers, left, "-requests")),
            tokens(headers, number("x-ratelimit-remaining-tokens")),
        );
    }
    if let Some(left) = number("x-ratelimit-remaining-tokens") {
        let requests = number("x-ratelimit-remaining").map(|left| plain(headers, left, ""));
        return (requests, tokens(headers, Some(left)));
    }
    if let Some(left) = number("anthropic-ratelimit-requests-remaining") {
        // `tokens` is the tightest of the others, where it is sent.
        let kinds = ["tokens", "input-tokens"];
        let tokens = kinds.iter().find_map(|kind| {
            let left = number(&format!("anthropic-ratelimit-{kind}-remaining"))?;
            Some(dated(headers, left, kind))
        });
        return (Some(dated(headers, left, "requests")), tokens);
    }
    let minute = |what: &str| {
        let left = number(&format!("x-ratelimit-remaining-{what}-minute"))?;
        Some(Remaining { left, limit: number(&format!("x-ratelimit-limit-{what}-minute")), reset: None })
    };
    if headers.contains_key("x-ratelimit-remaining-req-minute")
        || headers.contains_key("x-ratelimit-remaining-tokens-minute")
    {
        return (minute("req"), minute("tokens"));
    }
    (None, None)
}

fn tokens(headers: &HeaderMap, left: Option<u64>) -> Option<Remaining> {
    left.map(|left| plain(headers, left, "-tokens"))
}

fn plain(headers: &HeaderMap, left: u64, what: &str) -> Remaining {
    let text = |part: &str| headers.get(format!("x-ratelimit-{part}{what}"))?.to_str().ok().map(str::trim);
    let limit = text("limit").and_then(|text| text.parse().ok());
    // Azure and Together say seconds without a unit.
    let reset = text("reset").and_then(|text| match text.parse::<f64>() {
        Ok(number) => seconds(number),
        Err(_) => go_duration(text),
    });
    Remaining { left, limit, reset }
}

fn dated(headers: &HeaderMap, left: u64, what: &str) -> Remaining {
    let text = |part: &str| headers.get(format!("anthropic-ratelimit-{what}-{part}"))?.to_str().ok();
    let now = headers.get("date").and_then(|date| date.to_str().ok()).and_then(http_date);
    let reset = text("reset").and_then(rfc3339).zip(now);
    Remaining {
        left,
        limit: text("limit").and_then(|text| text.trim().parse().ok()),
        reset: reset.map(|(then, now)| Duration::from_secs(then.saturating_sub(now).min(DAY))),
    }
}

fn seconds(number: f64) -> Option<Duration> {
    (number.is_finite() && number >= 0.0).then(|| Duration::from_secs_f64(number.min(DAY as f64)))
}

/// `6m0s`, `7.66s`, `120ms`.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                "us" | "\u{b5}s" | "ns" => 0.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    seconds(total)
}

/// "Please try again in 1.98s", "retry after 34 seconds".
fn in_words(message: &str) -> Option<Duration> {
    let lower = message.to_ascii_lowercase();
    let at = ["try again in ", "retry in ", "retry after ", "\"retrydelay\": \""]
        .iter()
        .find_map(|phrase| lower.find(phrase).map(|at| at + phrase.len()))?;
    let rest = &lower[at..];
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
    let word = rest[..end].trim_end_matches('.');
    go_duration(word).or_else(|| {
        let number: f64 = word.parse().ok()?;
        let unit = rest[end..].trim_start();
        seconds(if unit.starts_with("min") { number * 60.0 } else { number })
    })
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, in Unix seconds.
fn http_date(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split([' ', ':']);
    let day: u64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = names.iter().position(|month| *month == name)? as u64 + 1;
    let mut number = || parts.next()?.parse::<u64>().ok();
    unix(number()?, month, day, number()?, number()?, number()?)
}

/// `2026-11-22T10:00:00Z`; fractions and other zones are not sent by anyone.
fn rfc3339(text: &str) -> Option<u64> {
    let mut parts = text.split(['-', 'T', ':', 'Z', '.', '+']);
    let mut number = || parts.next()?.parse::<u64>().ok();
    unix(number()?, number()?, number()?, number()?, number()?, number()?)
}

fn unix(year: u64, month: u64, day: u64, hour: u64, minute: u64, second: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from the civil calendar, years counted from March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)?) * DAY + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(pairs: &[(&'static str, &str)], message: Option<&str>) -> Option<f64> {
        let headers =
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        retry_after(&headers, message).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn hints_are_read_in_order() {
        assert_eq!(hint(&[("retry-after-ms", "250"), ("retry-after", "9")], None), Some(0.25));
        assert_eq!(hint(&[("retry-after-ms", "0"), ("retry-after", "1")], None), Some(1.0));
        assert_eq!(hint(&[("retry-after", "7")], Some("try again in 1s")), Some(7.0));
        let date =
            [("date", "Sun, 22 Nov 2026 10:00:00 GMT"), ("retry-after", "Sun, 22 Nov 2026 10:00:30 GMT")];
        assert_eq!(hint(&date, None), Some(30.0));
        let reset = [
            ("date", "Sun, 22 Nov 2026 10:00:00 GMT"),
            ("anthropic-ratelimit-tokens-remaining", "0"),
            ("anthropic-ratelimit-tokens-reset", "2026-11-22T10:00:12Z"),
        ];
        assert_eq!(hint(&reset, None), Some(12.0));
        assert_eq!(
            hint(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "6m0s")], None),
            Some(360.0)
        );
        assert_eq!(hint(&[], Some("Please try again in 1.98s. Visit")), Some(1.98));
        assert_eq!(hint(&[], Some("Please retry after 26 seconds.")), Some(26.0));
        assert_eq!(hint(&[("retry-after", "soon")], None), None);
        assert_eq!(hint(&[("retry-after", "-1")], None), None);
    }

    fn left(pairs: &[(&'static str, &str)]) -> (Option<Remaining>, Option<Remaining>) {
        let headers =
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        remaining(&headers)
    }

    #[expect(clippy::unnecessary_wraps, reason = "as it is compared with")]
    fn some(left: u64, limit: u64, millis: u64) -> Option<Remaining> {
        Some(Remaining { left, limit: Some(limit), reset: Some(Duration::from_millis(millis)) })
    }

    #[test]
    fn what_is_left_is_read_in_every_providers_words() {
        // OpenAI, Groq.
        let openai = [
            ("x-ratelimit-limit-requests", "500"),
            ("x-ratelimit-remaining-requests", "499"),
            ("x-ratelimit-reset-requests", "120ms"),
            ("x-ratelimit-limit-tokens", "30000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "1m0s"),
        ];
        assert_eq!(left(&openai), (some(499, 500, 120), some(0, 30_000, 60_000)));
        // Azure: seconds.
        let azure = [("x-ratelimit-remaining-tokens", "7"), ("x-ratelimit-reset-tokens", "3")];
        let tokens = Remaining { left: 7, limit: None, reset: Some(Duration::from_secs(3)) };
        assert_eq!(left(&azure), (None, Some(tokens)));
        // Together.
        let together = [
            ("x-ratelimit-limit", "10"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "2"),
            ("x-ratelimit-remaining-tokens", "5"),
        ];
        assert_eq!(left(&together).0, some(0, 10, 2000));
        // xAI says no reset, Mistral neither.
        let silent = Some(Remaining { left: 0, limit: None, reset: None });
        assert_eq!(left(&[("x-ratelimit-remaining-requests", "0")]), (silent, None));
        let mistral = [("x-ratelimit-remaining-req-minute", "0"), ("x-ratelimit-limit-tokens-minute", "9")];
        assert_eq!(left(&mistral), (silent, None));
        let anthropic = [
            ("date", "Sun, 22 Nov 2026 10:00:00 GMT"),
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-11-22T10:00:01Z"),
            ("anthropic-ratelimit-input-tokens-limit", "40000"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-22T10:01:00Z"),
        ];
        assert_eq!(left(&anthropic), (some(49, 50, 1000), some(0, 40_000, 60_000)));
        assert_eq!(left(&[("x-ratelimit-remaining-requests", "many")]), (None, None));
        assert_eq!(left(&[]), (None, None));
    }
}
