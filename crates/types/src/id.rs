//! Identifiers.

use std::fmt;

use crate::hex::hex_into;

/// The id we give every request: 128 random bits, written as 32 hexadecimal digits in `x-request-id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// A fresh id. Not a secret: the generator is fast, not cryptographic.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u128(..))
    }

    /// The id's 32 lower-case hexadecimal digits, without allocating.
    #[must_use]
    pub fn hex(self) -> [u8; 32] {
        let mut digits = [0; 32];
        hex_into(&self.0.to_be_bytes(), &mut digits);
        digits
    }

    /// The same as a text.
    #[must_use]
    pub fn text(self) -> String {
        std::str::from_utf8(&self.hex()).unwrap_or_default().to_owned()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_as_thirty_two_hex_digits() {
        assert_eq!(RequestId(0xab).to_string(), format!("{:032x}", 0xab));
        let id = RequestId::random();
        assert_eq!(id.to_string(), format!("{:032x}", id.0));
    }
}
