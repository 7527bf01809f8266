//! The keyed hashes that bind records.

use aws_lc_rs::hmac;

/// A record's hash.
pub(crate) type Mac = [u8; 32];

/// What the first record is bound to.
pub(crate) const BEGINNING: Mac = [0; 32];

/// Makes and checks hashes.
#[derive(Clone)]
pub(crate) struct Chain(hmac::Key);

impl Chain {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The hash of the record `seq` behind `before`.
    pub(crate) fn next(&self, before: &Mac, seq: u64, record: &[u8]) -> Mac {
        self.over(&[b"record", before, &seq.to_be_bytes(), record])
    }

    /// The hash that seals a place in the chain: where it begins, or how far it came.
    pub(crate) fn seal(&self, what: &str, seq: u64, mac: &Mac) -> Mac {
        self.over(&[what.as_bytes(), &seq.to_be_bytes(), mac])
    }

    /// The hash of a text that is not shown.
    pub(crate) fn text(&self, text: &[u8]) -> Mac {
        self.over(&[b"content", text])
    }

    fn over(&self, parts: &[&[u8]]) -> Mac {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let mut mac = BEGINNING;
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }
}
