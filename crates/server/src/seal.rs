//! Values that others keep for us, a browser or a file, and can neither read nor change.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The length of a nonce, in bytes.
const NONCE: usize = 12;

/// Seals by a key that all replicas derive alike.
pub(crate) struct Seal(RandomizedNonceKey);

impl Seal {
    pub(crate) fn new(key: &[u8; 32]) -> Option<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, key).ok().map(Self)
    }

    /// `None`: the machine gives no random numbers.
    pub(crate) fn close<T: Serialize>(&self, value: &T) -> Option<String> {
        let mut bytes = serde_json::to_vec(value).ok()?;
        let nonce = self.0.seal_in_place_append_tag(Aad::empty(), &mut bytes).ok()?;
        Some(BASE64.encode([nonce.as_ref().as_slice(), &bytes].concat()))
    }

    /// `None`: we did not seal it.
    pub(crate) fn open<T: DeserializeOwned>(&self, text: &str) -> Option<T> {
        let mut bytes = BASE64.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        serde_json::from_slice(self.0.open_in_place(nonce, Aad::empty(), sealed).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_or_foreign_does_not_open() {
        let (own, other) = (Seal::new(&[1; 32]).unwrap(), Seal::new(&[2; 32]).unwrap());
        let sealed = own.close(&("state", 7)).unwrap();
        assert_eq!(own.open(&sealed), Some(("state".to_owned(), 7)));
        assert_ne!(own.close(&("state", 7)).unwrap(), sealed);
        assert_eq!(other.open::<(String, i32)>(&sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last letter may hold bits that say nothing.
            assert!(own.open::<(String, i32)>(&changed).is_none() || at + 1 == sealed.len(), "{at}");
        }
        for text in ["", "x", "AAAA", "not base64!"] {
            assert_eq!(own.open::<(String, i32)>(text), None);
        }
    }
}
