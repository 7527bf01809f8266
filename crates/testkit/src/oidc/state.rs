//! The provider's keys, and the tokens that it makes.

use std::collections::HashMap;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Map, Value, json};

use super::AUDIENCE;

/// A login under way.
pub(super) struct Login {
    pub(super) client: String,
    pub(super) redirect: String,
    pub(super) challenge: String,
    pub(super) nonce: Option<String>,
    pub(super) user: String,
}

pub(super) struct State {
    pub(super) issuer: String,
    key: EcdsaKeyPair,
    keys: usize,
    pub(super) fault: String,
    pub(super) opaque: HashMap<String, Value>,
    pub(super) hits: HashMap<String, usize>,
    pub(super) logins: HashMap<String, Login>,
    /// Claims that each ID token holds beside the usual ones.
    pub(super) claims: Value,
}

fn fresh() -> io::Result<EcdsaKeyPair> {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| io::Error::other("no key"))
}

pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn part(value: &Value) -> String {
    BASE64.encode(value.to_string())
}

fn sign(key: &EcdsaKeyPair, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes());
    let signature = signature.map(|signature| BASE64.encode(signature.as_ref())).unwrap_or_default();
    format!("{message}.{signature}")
}

impl State {
    pub(super) fn new(issuer: String) -> io::Result<Self> {
        Ok(Self {
            issuer,
            key: fresh()?,
            keys: 1,
            fault: String::new(),
            opaque: HashMap::new(),
            hits: HashMap::new(),
            logins: HashMap::new(),
            claims: json!({}),
        })
    }

    pub(super) fn rotate(&mut self) -> io::Result<()> {
        self.key = fresh()?;
        self.keys += 1;
        Ok(())
    }

    pub(super) fn jwks(&self) -> Value {
        let point = &self.key.public_key().as_ref()[1..];
        json!({ "keys": [
            { "kty": "oct", "kid": "shared", "k": BASE64.encode("no secret at all") },
            { "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": format!("key-{}", self.keys),
              "x": BASE64.encode(&point[..32]), "y": BASE64.encode(&point[32..]) },
        ] })
    }

    /// A token that lies as its kind says.
    pub(super) fn token(&self, kind: &str, more: &Value) -> String {
        let now = now();
        let mut claims = json!({
            "iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 3600,
        });
        for (name, value) in more.as_object().unwrap_or(&Map::new()) {
            claims[name] = value.clone();
        }
        let mut header = json!({ "alg": "ES256", "kid": format!("key-{}", self.keys), "typ": "at+jwt" });
        match kind {
            "expired" => claims["exp"] = (now - 3600).into(),
            "not-yet" => claims["nbf"] = (now + 3600).into(),
            "audience" => claims["aud"] = "another".into(),
            "issuer" => claims["iss"] = "https://another.example".into(),
            "no-exp" => drop(claims.as_object_mut().map(|claims| claims.shift_remove("exp"))),
            "unknown-key" => header["kid"] = "key-0".into(),
            "none" => {
                header["alg"] = "none".into();
                return format!("{}.{}.", part(&header), part(&claims));
            }
            "hs" => {
                // The public key as if it were a secret.
                header["alg"] = "HS256".into();
                let message = format!("{}.{}", part(&header), part(&claims));
                let secret = hmac::Key::new(hmac::HMAC_SHA256, self.key.public_key().as_ref());
                let mac = hmac::sign(&secret, message.as_bytes());
                return format!("{message}.{}", BASE64.encode(mac.as_ref()));
            }
            "foreign" => return fresh().map(|key| sign(&key, &header, &claims)).unwrap_or_default(),
            _ => {}
        }
        sign(&self.key, &header, &claims)
    }
}
