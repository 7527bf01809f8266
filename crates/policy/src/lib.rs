//! Declared rules as pure code: where requests go ([`Route`]) and how many may ([`Limiter`]). No IO, no clock
//! of its own: time and chance are handed in.

mod limit;
mod route;

pub use limit::{Admission, Limiter, Rate};
pub use route::Route;
