//! Declared rules as pure code: where requests go ([`Route`]), how much may be used ([`Limit`]) and to what ([`Scope`]), and how upstreams are
//! doing ([`health`]). No IO, no clock of its own: time and chance are handed in.

mod graph;
pub mod health;
mod limit;
mod route;
mod scope;

pub use graph::{ChainStep, Ensemble, Graph, Node, Switch};
pub use limit::{
    Alert, Amounts, Ask, Calendar, Cells, Count, Exceeded, Full, Left, Limit, Measure, Now, Place, Priority,
    Queue, Refused, Reservation, Span, Tally, Terms, admit,
};
pub use route::{Route, Step};
pub use scope::{Glob, Scope};
