//! Tokens that are good, and every way in which one is not.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use aws_lc_rs::{hmac, rsa, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{Claims, KeySet, Refusal, Rules, Unverified};

const NOW: i64 = 1_800_000_000;

enum Signer {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(signature::RsaKeyPair),
}

impl Signer {
    fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ec(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut made = vec![0; key.public_modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut made).unwrap();
                made
            }
        }
    }

    fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| BASE64.encode(bytes);
        match self {
            Self::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": text(&point[..32]), "y": text(&point[32..]) })
            }
            Self::Ed(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": text(key.public_key().as_ref()) })
            }
            Self::Rsa(key) => {
                let public = signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({ "kty": "RSA", "kid": id, "use": "sig", "n": text(&public.n), "e": text(&public.e) })
            }
        }
    }
}

fn token(signer: &Signer, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    format!("{message}.{}", BASE64.encode(signer.sign(message.as_bytes())))
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn rules() -> Rules {
    Rules {
        issuer: "https://issuer.example".to_owned(),
        audience: vec!["millgate".to_owned(), "other".to_owned()],
        algorithms: ["ES256", "RS256", "EdDSA"].map(str::to_owned).to_vec(),
        skew: 60,
    }
}

fn claims() -> Value {
    json!({ "iss": "https://issuer.example", "aud": "millgate", "sub": "alice", "exp": NOW + 300 })
}

fn verify(token: &str, keys: &KeySet) -> Result<Claims, Refusal> {
    Unverified::read(token.as_bytes()).ok_or(Refusal::Malformed)?.verify(keys, &rules(), NOW)
}

#[test]
fn tokens_of_every_kind_of_key_are_verified() {
    let rsa = signature::RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    for (algorithm, signer) in [
        ("ES256", Signer::ec()),
        ("EdDSA", Signer::Ed(Ed25519KeyPair::generate().unwrap())),
        ("RS256", Signer::Rsa(rsa)),
    ] {
        let keys = set(&[Signer::ec().jwk("other"), signer.jwk("k")]);
        for header in [
            json!({ "alg": algorithm, "kid": "k", "typ": "JWT" }),
            json!({ "alg": algorithm, "kid": "k", "typ": "at+jwt" }),
            json!({ "alg": algorithm, "kid": "k", "typ": "application/at+JWT" }),
            json!({ "alg": algorithm }),
        ] {
            let found = verify(&token(&signer, &header, &claims()), &keys).unwrap();
            assert_eq!((found.value["sub"].as_str(), found.expires), (Some("alice"), NOW + 360), "{header}");
        }
    }
}

#[test]
fn what_a_token_must_say_is_checked() {
    let signer = Signer::ec();
    let keys = set(&[signer.jwk("k")]);
    let header = json!({ "alg": "ES256", "kid": "k" });
    let with = |member: &str, value: Value| {
        let mut changed = claims();
        match value {
            Value::Null => drop(changed.as_object_mut().unwrap().remove(member)),
            value => changed[member] = value,
        }
        verify(&token(&signer, &header, &changed), &keys).map(|claims| claims.expires)
    };
    assert_eq!(with("exp", json!(NOW - 59)), Ok(NOW + 1), "within the skew");
    assert_eq!(with("exp", json!(NOW - 60)), Err(Refusal::Expired));
    assert_eq!(with("exp", json!("never")), Err(Refusal::Expired));
    assert_eq!(with("exp", json!(1e300)).map(drop), Ok(()));
    assert_eq!(with("exp", Value::Null), Err(Refusal::Expired));
    assert_eq!(with("nbf", json!(NOW + 60)).map(drop), Ok(()));
    assert_eq!(with("nbf", json!(NOW + 61)), Err(Refusal::NotYet));
    assert_eq!(with("nbf", json!("soon")), Err(Refusal::Malformed));
    assert_eq!(with("iss", json!("https://issuer.example/")), Err(Refusal::Issuer));
    assert_eq!(with("iss", Value::Null), Err(Refusal::Issuer));
    assert_eq!(with("aud", json!(["x", "other"])).map(drop), Ok(()));
    for wrong in [json!("x"), json!([]), json!(["x", 1]), Value::Null, json!({ "millgate": 1 })] {
        assert_eq!(with("aud", wrong), Err(Refusal::Audience));
    }
}

#[test]
fn algorithms_and_keys_are_not_confused() {
    let signer = Signer::ec();
    let jwk = signer.jwk("k");
    let keys = set(std::slice::from_ref(&jwk));
    let unsigned = format!(
        "{}.{}.",
        BASE64.encode(json!({ "alg": "none", "kid": "k" }).to_string()),
        BASE64.encode(claims().to_string())
    );
    assert_eq!(verify(&unsigned, &keys), Err(Refusal::Algorithm));
    for name in ["HS256", "None", "NONE", "", "es256", "RS512"] {
        // Signed with what is public: the key document itself, and the key's coordinate.
        for secret in [jwk.to_string(), jwk["x"].as_str().unwrap().to_owned()] {
            let message = format!(
                "{}.{}",
                BASE64.encode(json!({ "alg": name, "kid": "k" }).to_string()),
                BASE64.encode(claims().to_string())
            );
            let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
            let forged = format!("{message}.{}", BASE64.encode(mac.as_ref()));
            assert_eq!(verify(&forged, &keys), Err(Refusal::Algorithm), "{name}");
        }
    }
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    let of = |header: &Value| verify(&token(&signer, header, &claims()), &keys).map(drop);
    assert_eq!(of(&header("RS256", "k")), Err(Refusal::Signature), "the key is for another algorithm");
    assert_eq!(of(&header("ES256", "unknown")), Err(Refusal::UnknownKey));
    let other = token(&Signer::ec(), &header("ES256", "k"), &claims());
    assert_eq!(verify(&other, &keys), Err(Refusal::Signature));
    // Keys that the token brings along are not looked at, and what must be understood is refused.
    let brought = json!({ "alg": "ES256", "jwk": Signer::ec().jwk("k"), "jku": "https://evil.example" });
    assert_eq!(verify(&token(&Signer::ec(), &brought, &claims()), &keys), Err(Refusal::UnknownKey));
    for refused in [
        json!({ "alg": "ES256", "kid": "k", "crit": ["b64"], "b64": false }),
        json!({ "alg": "ES256", "kid": "k", "typ": "logout+jwt" }),
        json!({ "alg": "ES256", "kid": "k", "typ": "dpop+jwt" }),
    ] {
        assert_eq!(of(&refused), Err(Refusal::Malformed), "{refused}");
    }
}

#[test]
fn keys_for_other_uses_and_small_ones_are_passed_over() {
    let good = Signer::ec().jwk("k");
    let but = |member: &str, value: Value| {
        let mut changed = good.clone();
        changed[member] = value;
        json!({ "keys": [changed] }).to_string()
    };
    for document in [
        but("use", json!("enc")),
        but("key_ops", json!(["sign"])),
        but("crv", json!("secp256k1")),
        but("alg", json!("none")),
        but("x", json!(7)),
        json!({ "keys": [{ "kty": "oct", "kid": "k", "k": "c2VjcmV0" }] }).to_string(),
        json!({ "keys": [{ "kty": "RSA", "n": BASE64.encode([0xc1; 128]), "e": "AQAB" }] }).to_string(),
        json!({ "keys": [] }).to_string(),
    ] {
        assert!(KeySet::read(document.as_bytes()).is_err(), "{document}");
    }
    assert!(KeySet::read(b"[]").is_err() && KeySet::read(b"<html>").is_err());
    let mixed = json!({ "keys": [{ "kty": "new" }, 7, good] }).to_string();
    assert!(KeySet::read(mixed.as_bytes()).unwrap().has("k"), "what is not understood is passed over");
}

#[test]
fn what_is_no_token_is_not_read() {
    let signer = Signer::ec();
    let good = token(&signer, &json!({ "alg": "ES256" }), &claims());
    let list = token(&signer, &json!({ "alg": "ES256" }), &json!([]));
    let huge = token(&signer, &json!({ "alg": "ES256" }), &json!({ "x": "y".repeat(20_000) }));
    for text in ["", "mgk-abc", "eyJ", "eyJ..", "a.b.c", &list, &huge, &format!("{good}.x"), &good[1..]] {
        assert!(Unverified::read(text.as_bytes()).is_none(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_token_that_is_changed_anywhere_is_refused(at in 0usize..1000, letter in "[A-Za-z0-9_.-]") {
        let signer = Signer::ec();
        let keys = set(&[signer.jwk("k")]);
        let good = token(&signer, &json!({ "alg": "ES256", "kid": "k" }), &claims());
        prop_assert!(verify(&good, &keys).is_ok());
        let at = at % good.len();
        let mut changed = good.clone();
        changed.replace_range(at..=at, &letter);
        // The last letter of a part may hold bits that mean nothing; those must be zero.
        prop_assert!(changed == good || verify(&changed, &keys).is_err(), "{}", changed);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Unverified::read(&bytes);
        let _ = Unverified::read(&[b"eyJ", &*bytes].concat());
        let _ = KeySet::read(&bytes);
    }
}
