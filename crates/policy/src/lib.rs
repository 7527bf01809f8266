//! Declared rules as pure code: where requests go ([`Route`]) and how many may ([`Limiter`]). No IO, no clock
//! of its own: time and chance are handed in.

mod graph;
mod limit;
mod route;

pub use graph::{ChainStep, Ensemble, Graph, Node, Switch};
pub use limit::{Admission, Limiter, Rate};
pub use route::{Route, Step};
