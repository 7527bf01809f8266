//! Envelope encryption: each value has a data key of its own, and the master key encrypts only those. Both by AES-256-GCM,
//! bound to the name of what is encrypted, so that one value cannot stand in for another.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use millgate_types::{hex, unhex};

/// Why something cannot be encrypted or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Another master key encrypted it.
    #[error("it was encrypted with another master key")]
    OtherMaster,
    /// It is not what was written, or stands in another's place.
    #[error("it is damaged, or does not belong here")]
    Damaged,
    /// The machine gives no random numbers.
    #[error("the machine gives no random numbers")]
    NoRandom,
}

/// What is kept of an encrypted value; all of it text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Which master key encrypted the data key.
    pub master: String,
    /// The encrypted data key: nonce and ciphertext, base64.
    pub data_key: String,
    /// The encrypted value, likewise.
    pub value: String,
}

struct Key {
    id: String,
    cipher: RandomizedNonceKey,
    digest: hmac::Key,
}

/// The master key, and those of before.
pub struct Master {
    present: Key,
    before: Vec<Key>,
}

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Master").field("id", &self.present.id).finish_non_exhaustive()
    }
}

fn derived(material: &[u8], label: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, material), label).as_ref());
    out
}

fn aead(bytes: &[u8]) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, bytes).expect("a key of 32 bytes fits AES-256")
}

impl Key {
    fn new(material: &[u8]) -> Self {
        let id = hex(&derived(material, b"millgate master key id")[..8]);
        let digest = hmac::Key::new(hmac::HMAC_SHA256, &derived(material, b"millgate digests"));
        Self { id, cipher: aead(&derived(material, b"millgate master key")), digest }
    }
}

fn encrypt(key: &RandomizedNonceKey, context: &str, plain: &[u8]) -> Result<String, SealError> {
    let mut out = plain.to_vec();
    let sealed = key.seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut out);
    let nonce = sealed.map_err(|_| SealError::NoRandom)?;
    Ok(BASE64.encode([&nonce.as_ref()[..], &out].concat()))
}

fn decrypt(key: &RandomizedNonceKey, context: &str, text: &str) -> Result<Vec<u8>, SealError> {
    let bytes = BASE64.decode(text).map_err(|_| SealError::Damaged)?;
    let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN).ok_or(SealError::Damaged)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Damaged)?;
    let mut sealed = sealed.to_vec();
    let opened = key.open_in_place(nonce, Aad::from(context.as_bytes()), &mut sealed);
    opened.map(|plain| plain.to_vec()).map_err(|_| SealError::Damaged)
}

impl Master {
    /// `material` is any text or bytes of at least 256 bits of chance; `previous` are what it was before.
    #[must_use]
    pub fn new(material: &[u8], previous: &[Vec<u8>]) -> Self {
        Self {
            present: Key::new(material),
            before: previous.iter().map(|material| Key::new(material)).collect(),
        }
    }

    /// Names the present master key; says nothing about it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.present.id
    }

    /// Encrypts `plain`; `context` says what it is, and must be said again to read it.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Sealed, SealError> {
        let mut data = [0; 32];
        rand::fill(&mut data).map_err(|_| SealError::NoRandom)?;
        Ok(Sealed {
            master: self.present.id.clone(),
            data_key: encrypt(&self.present.cipher, context, &data)?,
            value: encrypt(&aead(&data), context, plain)?,
        })
    }

    fn data_key(&self, context: &str, sealed: &Sealed) -> Result<[u8; 32], SealError> {
        let known = std::iter::once(&self.present).chain(&self.before).find(|key| key.id == sealed.master);
        let data = decrypt(&known.ok_or(SealError::OtherMaster)?.cipher, context, &sealed.data_key)?;
        data.try_into().map_err(|_| SealError::Damaged)
    }

    /// Reads what [`Master::seal`] made.
    pub fn open(&self, context: &str, sealed: &Sealed) -> Result<Vec<u8>, SealError> {
        decrypt(&aead(&self.data_key(context, sealed)?), context, &sealed.value)
    }

    /// The same with its data key under the present master key; `None` where it is already. The value stays as it is.
    pub fn rewrap(&self, context: &str, sealed: &Sealed) -> Result<Option<Sealed>, SealError> {
        if sealed.master == self.present.id {
            return Ok(None);
        }
        let data = self.data_key(context, sealed)?;
        let data_key = encrypt(&self.present.cipher, context, &data)?;
        Ok(Some(Sealed { master: self.present.id.clone(), data_key, value: sealed.value.clone() }))
    }

    /// A keyed digest: equal for equal bytes, and of no use to who has not the key.
    #[must_use]
    pub fn digest(&self, bytes: &[u8]) -> String {
        hex(hmac::sign(&self.present.digest, bytes).as_ref())
    }

    /// Whether it is the digest of these bytes, under this master key or one of before.
    #[must_use]
    pub fn is_digest(&self, digest: &str, bytes: &[u8]) -> bool {
        let keys = std::iter::once(&self.present).chain(&self.before);
        let Some(digest) = unhex::<32>(digest) else { return false };
        keys.into_iter().any(|key| hmac::verify(&key.digest, bytes, &digest).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = b"an old master key of enough length";
    const NEW: &[u8] = b"a new master key of enough length..";

    #[test]
    fn what_is_sealed_is_read_in_its_place_only() {
        let master = Master::new(OLD, &[]);
        let sealed = master.seal("secret:a", b"sk-1").unwrap();
        assert_eq!(master.open("secret:a", &sealed), Ok(b"sk-1".to_vec()));
        assert_eq!(master.open("secret:b", &sealed), Err(SealError::Damaged));
        let again = master.seal("secret:a", b"sk-1").unwrap();
        assert!(again.value != sealed.value && again.data_key != sealed.data_key, "never the same twice");
        let mixed = Sealed { value: again.value, ..sealed.clone() };
        assert_eq!(master.open("secret:a", &mixed), Err(SealError::Damaged));
        assert_eq!(Master::new(NEW, &[]).open("secret:a", &sealed), Err(SealError::OtherMaster));
        for broken in ["", "AAAA", "not base64!"] {
            let broken = Sealed { value: broken.to_owned(), ..sealed.clone() };
            assert_eq!(master.open("secret:a", &broken), Err(SealError::Damaged));
        }
    }

    #[test]
    fn a_new_master_key_takes_over_from_the_one_before() {
        let sealed = Master::new(OLD, &[]).seal("secret:a", b"sk-1").unwrap();
        let both = Master::new(NEW, &[OLD.to_vec()]);
        assert_eq!(both.open("secret:a", &sealed), Ok(b"sk-1".to_vec()));
        let rewrapped = both.rewrap("secret:a", &sealed).unwrap().unwrap();
        assert_eq!(rewrapped.value, sealed.value, "the value is not touched");
        let alone = Master::new(NEW, &[]);
        assert_eq!(alone.open("secret:a", &rewrapped), Ok(b"sk-1".to_vec()));
        assert_eq!(alone.rewrap("secret:a", &rewrapped), Ok(None));
        let digest = Master::new(OLD, &[]).digest(b"a");
        assert!(both.is_digest(&digest, b"a") && !both.is_digest(&digest, b"b"));
        assert!(!alone.is_digest(&digest, b"a"));
        assert_eq!(alone.rewrap("secret:a", &sealed), Err(SealError::OtherMaster));
    }
}
