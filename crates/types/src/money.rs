//! Money in integers, so that sums are exact and reproducible.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount in nano-USD (1 USD = 10^9). Covers about ±9.2 billion USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Money(pub i64);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, or `None` when it leaves the range.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// What [`Display`](fmt::Display) shows, written into `space`, without its cost.
    pub fn text(self, space: &mut [u8; 21]) -> &[u8] {
        // At most: sign, ten digits, point, nine digits.
        let nanos = self.0.unsigned_abs();
        let (mut dollars, mut fraction) = (nanos / 1_000_000_000, (nanos % 1_000_000_000) as u32);
        for digit in space[12..].iter_mut().rev() {
            *digit = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
        let mut first = 11;
        space[first] = b'.';
        loop {
            first -= 1;
            space[first] = b'0' + (dollars % 10) as u8;
            dollars /= 10;
            if dollars == 0 {
                break;
            }
        }
        if self.0 < 0 {
            first -= 1;
            space[first] = b'-';
        }
        &space[first..]
    }
}

/// Decimal USD with nine places, for example `0.000150000`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(self.text(&mut [0; 21])).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_prints_as_decimal_usd() {
        assert_eq!(Money(150_000).to_string(), "0.000150000");
        assert_eq!(Money(-2_500_000_000).to_string(), "-2.500000000");
        assert_eq!(Money(0).to_string(), "0.000000000");
        assert_eq!(Money(i64::MAX).to_string(), "9223372036.854775807");
        assert_eq!(Money(i64::MIN).to_string(), "-9223372036.854775808");
    }
}
