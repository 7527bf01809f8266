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
}

/// Decimal USD with nine places, for example `0.000150000`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_prints_as_decimal_usd() {
        assert_eq!(Money(150_000).to_string(), "0.000150000");
        assert_eq!(Money(-2_500_000_000).to_string(), "-2.500000000");
    }
}
