//! How upstreams are doing, as their answers tell: a [`Breaker`] that stops calling what does not answer, [`Spare`] keys
//! that are set aside when they are refused, what providers say of their rate limits ([`Told`]), and a [`Budget`] for
//! retries. States outlive configurations; time and chance are handed in.

mod breaker;
mod budget;
mod spare;
mod told;

use std::time::Duration;

pub use breaker::{Breaker, BreakerSettings, BreakerState, Passage};
pub use budget::Budget;
pub use spare::{Reason, Spare, SpareModel};
pub use told::{Left, Told};

/// Milliseconds on a clock that only goes forward, from any zero.
pub type Millis = u64;

fn millis(length: Duration) -> Millis {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2)
}

/// `first` doubled `times` times, at most `longest`.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(20)).min(longest)
}
