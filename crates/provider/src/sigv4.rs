//! AWS Signature Version 4: what a request's headers must say so that AWS knows who sent it. Pure: the time and
//! the keys are handed in (`contracts/providers.md` 7.1).

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use millgate_types::hex;

/// Who signs.
#[derive(Clone, Copy)]
pub struct AwsKeys<'a> {
    /// For example `AKIDEXAMPLE`.
    pub access_key_id: &'a str,
    /// The secret half.
    pub secret_access_key: &'a str,
    /// With temporary keys.
    pub session_token: Option<&'a str>,
}

/// What a signature holds for.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// For example `eu-central-1`.
    pub region: &'a str,
    /// For example `bedrock`.
    pub service: &'a str,
}

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'a> {
    /// In capitals.
    pub method: &'a str,
    /// As it stands in the request line: percent-encoded once.
    pub path: &'a str,
    /// Without the question mark; empty when there is none.
    pub query: &'a str,
    /// Names and values of the headers to sign, `host` among them; `x-amz-date` and `x-amz-security-token` are
    /// added.
    pub headers: &'a [(&'a str, &'a str)],
    /// The whole body.
    pub body: &'a [u8],
    /// Whether `//`, `/./` and `/../` are taken out of the path before it is signed. Every service but S3
    /// does that.
    pub normalize: bool,
}

/// The headers to add.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// `x-amz-date`.
    pub date: String,
    /// `authorization`.
    pub authorization: String,
}

/// Signs a request at a moment, in seconds since 1970.
#[must_use]
pub fn sign(request: &Unsigned<'_>, keys: &AwsKeys<'_>, scope: &Scope<'_>, unix_seconds: u64) -> Signature {
    let date = timestamp(unix_seconds);
    let (canonical, names) = canonical_request(request, keys, &date);
    let day = &date[..8];
    let credential = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{credential}\n{}", sha256(canonical.as_bytes()));
    let mut key = mac(format!("AWS4{}", keys.secret_access_key).as_bytes(), day);
    for part in [scope.region, scope.service, "aws4_request"] {
        key = mac(key.as_ref(), part);
    }
    let signature = hex(mac(key.as_ref(), &to_sign).as_ref());
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{credential}, SignedHeaders={names}, Signature={signature}",
        keys.access_key_id
    );
    Signature { date, authorization }
}

/// The text that stands for the request, and the names of the headers in it.
fn canonical_request(request: &Unsigned<'_>, keys: &AwsKeys<'_>, date: &str) -> (String, String) {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(request.headers.len() + 2);
    let own = [("x-amz-date", date)].into_iter();
    let token = keys.session_token.map(|token| ("x-amz-security-token", token));
    for (name, value) in own.chain(token).chain(request.headers.iter().copied()) {
        let name = name.to_ascii_lowercase();
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        match headers.iter_mut().find(|(known, _)| *known == name) {
            // The date is ours.
            Some(_) if name == "x-amz-date" => {}
            Some((_, values)) => *values = format!("{values},{value}"),
            None => headers.push((name, value)),
        }
    }
    headers.sort();
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let mut pairs: Vec<(String, String)> = request
        .query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(name, b"%"), encoded(value, b"%")))
        .collect();
    pairs.sort();
    let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let path = if request.normalize { normalized(request.path) } else { request.path.to_owned() };
    let mut text = format!("{}\n{}\n{}\n", request.method, encoded(&path, b"/"), query.join("&"));
    for (name, value) in &headers {
        text.push_str(name);
        text.push(':');
        text.push_str(value);
        text.push('\n');
    }
    let hash = sha256(request.body);
    text.extend(["\n", &names, "\n", &hash]);
    (text, names)
}

/// Without empty and dot segments.
fn normalized(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let open = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{open}", kept.join("/"))
}

/// Percent-encodes everything but the unreserved characters and those of `kept`. A path that is encoded already
/// is encoded once more, as AWS wants it.
fn encoded(text: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// `20260115T120000Z`.
fn timestamp(unix_seconds: u64) -> String {
    let (days, rest) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Howard Hinnant's `civil_from_days`, for days after 1970: years begin in March there.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// AWS's own suite, as `aws-sigv4` ships it, and requests for Bedrock that botocore signed. Licences stand
    /// in the file.
    const VECTORS: &str = include_str!("../tests/sigv4-vectors.json");

    fn seconds(text: &str) -> u64 {
        (0..4_000_000_000_u64)
            .step_by(86_400)
            .find(|day| timestamp(*day)[..8] == text.replace('-', "")[..8])
            .map(|day| {
                let number = |at: usize| text[at..at + 2].parse::<u64>().unwrap();
                day + number(11) * 3600 + number(14) * 60 + number(17)
            })
            .unwrap()
    }

    #[test]
    fn moments_are_written_as_aws_does() {
        assert_eq!(timestamp(0), "19700101T000000Z");
        assert_eq!(timestamp(951_782_400), "20000229T000000Z");
        assert_eq!(timestamp(1_767_225_599), "20251231T235959Z");
        assert_eq!(timestamp(1_440_938_160), "20150830T123600Z");
    }

    #[test]
    fn the_published_suite_is_signed_alike() {
        let file: Value = serde_json::from_str(VECTORS).unwrap();
        let mut count = 0;
        for case in file["aws"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let context = &case["context"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let request = text(&case["request"]);
            let (head, body) = request.split_once("\n\n").unwrap_or((&request, ""));
            let mut lines = head.lines();
            let line = lines.next().unwrap();
            let (method, rest) = line.split_once(' ').unwrap();
            let target = rest.strip_suffix(" HTTP/1.1").unwrap();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            // The suite's own cases are of a service that encodes paths once: one space, not `%2520`.
            let path = &if context.is_null() { path.to_owned() } else { path.replace("%20", " ") };
            let mut headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
            let canonical = text(&case["header_canonical_request"]);
            // Where the suite signs the body's hash as a header too.
            let hash = canonical.lines().find_map(|line| line.strip_prefix("x-amz-content-sha256:"));
            headers.extend(hash.map(|hash| ("x-amz-content-sha256", hash)));
            let credentials = &context["credentials"];
            let (id, secret) = (text(&credentials["access_key_id"]), text(&credentials["secret_access_key"]));
            let keys = AwsKeys {
                access_key_id: &id,
                secret_access_key: &secret,
                session_token: credentials["token"].as_str(),
            };
            let unsigned = Unsigned {
                method,
                path,
                query,
                headers: &headers,
                body: body.as_bytes(),
                normalize: context["normalize"] != false,
            };
            // Two cases have no context and another date in the request than in the answer.
            let date = canonical.lines().find_map(|line| line.strip_prefix("x-amz-date:")).unwrap();
            assert_eq!(canonical_request(&unsigned, &keys, date).0, canonical.trim_end(), "{name}");
            if let Some(expected) = case["header_signature"].as_str() {
                let (region, service) = (text(&context["region"]), text(&context["service"]));
                let scope = Scope { region: &region, service: &service };
                let signed = sign(&unsigned, &keys, &scope, seconds(&text(&context["timestamp"])));
                assert!(signed.authorization.ends_with(expected.trim()), "{name}: {}", signed.authorization);
                count += 1;
            }
        }
        assert!(count >= 24, "{count}");
    }

    #[test]
    fn bedrock_requests_are_signed_as_botocore_does() {
        let file: Value = serde_json::from_str(VECTORS).unwrap();
        let cases = file["bedrock"].as_array().unwrap();
        assert!(cases.len() >= 2);
        for case in cases {
            let text = |key: &str| case[key].as_str().unwrap();
            let url = text("url").strip_prefix("https://").unwrap();
            let (host, path) = url.split_at(url.find('/').unwrap());
            let headers = [("host", host), ("content-type", "application/json")];
            let unsigned = Unsigned {
                method: text("method"),
                path,
                query: "",
                headers: &headers,
                body: text("body").as_bytes(),
                normalize: true,
            };
            let keys = AwsKeys {
                access_key_id: text("access_key_id"),
                secret_access_key: text("secret_access_key"),
                session_token: case["session_token"].as_str(),
            };
            let scope = Scope { region: text("region"), service: text("service") };
            let signed = sign(&unsigned, &keys, &scope, seconds(text("timestamp")));
            assert_eq!(signed.authorization, case["headers_out"]["Authorization"], "{path}");
            assert_eq!(signed.date, case["headers_out"]["X-Amz-Date"]);
        }
    }
}
