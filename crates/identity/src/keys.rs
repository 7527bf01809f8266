//! The public keys of an issuer, as its JWKS document lists them (RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// The most keys of a set; others are not read.
const MAX_KEYS: usize = 100;
/// The smallest RSA modulus, in bytes (RFC 7518, 3.3).
const MIN_MODULUS: usize = 256;

/// Why a document is no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It is no JSON of the right shape.
    Malformed,
    /// None of its keys can be used here.
    Empty,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "its key document is not a JWKS",
            Self::Empty => "its key document holds no key that can check signatures",
        })
    }
}

/// Keys that signatures are checked with.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    /// `None`: each of its family.
    algorithm: Option<Algorithm>,
    family: AlgorithmFamily,
    /// The curve of an elliptic key fixes the algorithm.
    curve: Option<Algorithm>,
    decoding: DecodingKey,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// The members of a JWK that matter for checking signatures.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a JWKS. Keys of other kinds or for other uses are passed over; shared secrets among them: a secret that
    /// is published is none.
    pub fn read(document: &[u8]) -> Result<Self, KeyError> {
        let document: Document = serde_json::from_slice(document).map_err(|_| KeyError::Malformed)?;
        let read = document.keys.into_iter().take(MAX_KEYS);
        let keys: Vec<_> = read.filter_map(|key| Key::read(serde_json::from_value(key).ok()?)).collect();
        if keys.is_empty() { Err(KeyError::Empty) } else { Ok(Self { keys }) }
    }

    /// The keys that a signature may have been made with: those of the id where the token names one.
    pub(crate) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        let named = move |key: &&Key| id.is_none() || key.id.as_deref() == id;
        self.keys.iter().filter(named).filter(move |key| key.fits(algorithm)).map(|key| &key.decoding)
    }

    /// Whether it has a key of this id.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }
}

impl Key {
    fn read(jwk: Jwk) -> Option<Self> {
        let signs = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        let verifies =
            jwk.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|op| op == "verify"));
        if !signs || !verifies {
            return None;
        }
        let algorithm = match jwk.alg.as_deref() {
            Some(name) => Some(name.parse::<Algorithm>().ok()?),
            None => None,
        };
        let (family, curve, decoding) = match (&*jwk.kty, jwk.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (jwk.n?, jwk.e?);
                if URL_SAFE_NO_PAD.decode(&n).ok()?.len() < MIN_MODULUS {
                    return None;
                }
                (AlgorithmFamily::Rsa, None, DecodingKey::from_rsa_components(&n, &e).ok()?)
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let curve = if curve == "P-256" { Algorithm::ES256 } else { Algorithm::ES384 };
                let key = DecodingKey::from_ec_components(&jwk.x?, &jwk.y?).ok()?;
                (AlgorithmFamily::Ec, Some(curve), key)
            }
            ("OKP", Some("Ed25519")) => {
                (AlgorithmFamily::Ed, None, DecodingKey::from_ed_components(&jwk.x?).ok()?)
            }
            _ => return None,
        };
        Some(Self { id: jwk.kid, algorithm, family, curve, decoding })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.family == algorithm.family()
            && self.algorithm.is_none_or(|own| own == algorithm)
            && self.curve.is_none_or(|own| own == algorithm)
    }
}
