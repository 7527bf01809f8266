//! Signed tokens (JWT, RFC 7519 and 8725): what they say before anybody looked at the signature, and what they prove.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, crypto};
use serde::Deserialize;
use serde_json::Value;

use crate::keys::KeySet;

/// The longest token, in bytes: the longest header field.
const MAX_LENGTH: usize = 16 << 10;
/// Signatures that are tried where a token names no key.
const MAX_TRIES: usize = 8;

/// Why a token proves nothing. For our log; callers learn only that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no token, or one of another kind.
    Malformed,
    /// Its algorithm is not allowed for the issuer.
    Algorithm,
    /// No key is known by its key id. Asking the issuer again may help.
    UnknownKey,
    /// The signature is not the key's.
    Signature,
    /// `iss` is another.
    Issuer,
    /// `aud` does not name us.
    Audience,
    /// There is no `exp`, or it is over.
    Expired,
    /// `nbf` is to come.
    NotYet,
}

impl Refusal {
    /// For the log.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Malformed => "it is no signed token",
            Self::Algorithm => "its algorithm is not allowed",
            Self::UnknownKey => "no key is known by its key id",
            Self::Signature => "the signature is not the issuer's",
            Self::Issuer => "its issuer is another",
            Self::Audience => "it is for another audience",
            Self::Expired => "it has expired, or says not when it does",
            Self::NotYet => "it is not valid yet",
        }
    }
}

/// What a token must say.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `iss`, letter by letter.
    pub issuer: String,
    /// `aud` must hold one of these.
    pub audience: Vec<String>,
    /// Names of algorithms, `RS256` for example.
    pub algorithms: Vec<String>,
    /// How far clocks may differ, in seconds.
    pub skew: i64,
}

/// What a token proves.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// All of them.
    pub value: Value,
    /// Until when it is good, in seconds since 1970; the skew is in it.
    pub expires: i64,
}

/// A token that nobody has checked.
pub struct Unverified<'a> {
    algorithm: &'static str,
    header: Header,
    claims: Value,
    /// What is signed.
    message: &'a [u8],
    signature: &'a str,
}

impl std::fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unverified").field("header", &self.header).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// Whether it looks like a signed token: three parts, the first a JSON object.
pub(crate) fn looks_signed(token: &[u8]) -> bool {
    token.starts_with(b"eyJ") && token.split(|byte| *byte == b'.').count() == 3
}

impl<'a> Unverified<'a> {
    /// Reads a token. `None`: it is none, or of a kind that is not for calling.
    #[must_use]
    pub fn read(token: &'a [u8]) -> Option<Self> {
        if token.len() > MAX_LENGTH || !looks_signed(token) {
            return None;
        }
        let text = std::str::from_utf8(token).ok()?;
        let (message, signature) = text.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        // Tokens for other purposes (logout, proofs of possession) say so.
        let usual = header.typ.as_deref().is_none_or(|kind| {
            let kind = kind.to_ascii_lowercase();
            matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
        });
        if !usual || header.crit.is_some() {
            return None;
        }
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        claims.is_object().then_some(())?;
        Some(Self { algorithm: known(&header.alg), header, claims, message: message.as_bytes(), signature })
    }

    /// The issuer that it names; nothing is proven by that.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// The key that it names.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// Checks the signature and what it must say. `now` is in seconds since 1970.
    pub fn verify(self, keys: &KeySet, rules: &Rules, now: i64) -> Result<Claims, Refusal> {
        if !rules.algorithms.iter().any(|allowed| allowed == self.algorithm) {
            return Err(Refusal::Algorithm);
        }
        let algorithm: Algorithm = self.algorithm.parse().map_err(|_| Refusal::Algorithm)?;
        let mut known = false;
        let good = keys.candidates(self.key_id(), algorithm).take(MAX_TRIES).any(|key| {
            known = true;
            crypto::verify(self.signature, self.message, key, algorithm).unwrap_or(false)
        });
        match (good, known, self.key_id()) {
            (true, ..) => {}
            (false, false, Some(id)) if !keys.has(id) => return Err(Refusal::UnknownKey),
            (false, _, None) => return Err(Refusal::UnknownKey),
            _ => return Err(Refusal::Signature),
        }
        check(self.claims, rules, now)
    }
}

/// The algorithm's name, where it is one that can ever be allowed.
fn known(name: &str) -> &'static str {
    const KNOWN: [&str; 9] =
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    KNOWN.into_iter().find(|known| *known == name).unwrap_or_default()
}

fn check(claims: Value, rules: &Rules, now: i64) -> Result<Claims, Refusal> {
    if claims.get("iss").and_then(Value::as_str) != Some(&rules.issuer) {
        return Err(Refusal::Issuer);
    }
    let ours = |name: &Value| name.as_str().is_some_and(|name| rules.audience.iter().any(|own| own == name));
    let named = match claims.get("aud") {
        Some(Value::Array(names)) => names.iter().any(ours),
        Some(name) => ours(name),
        None => false,
    };
    if !named {
        return Err(Refusal::Audience);
    }
    let expires = claims.get("exp").and_then(seconds).ok_or(Refusal::Expired)?.saturating_add(rules.skew);
    if now >= expires {
        return Err(Refusal::Expired);
    }
    match claims.get("nbf").map(seconds) {
        Some(Some(from)) if from > now.saturating_add(rules.skew) => Err(Refusal::NotYet),
        Some(None) => Err(Refusal::Malformed),
        _ => Ok(Claims { value: claims, expires }),
    }
}

/// A NumericDate, which may have a fraction.
fn seconds(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().filter(|seconds| seconds.is_finite()).map(|seconds| seconds as i64))
}
