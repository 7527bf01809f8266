//! The gateway itself: listener, the pipeline a request moves through, dispatch to providers and models,
//! reload. `pipeline.rs` is the place to read first.

mod admin;
mod admit;
mod body;
mod connection;
mod directory;
mod dispatch;
mod documents;
mod flight;
mod gateway;
mod granted;
mod identity;
mod issued;
mod keys;
mod last_known;
mod ledger;
mod limits;
mod listener;
mod listing;
mod native;
mod openapi;
mod pipeline;
mod reload;
mod reply;
mod seal;
mod secrets;
mod shared;
mod sign_on;
mod sinks;
mod snapshot;
mod standing;
mod surface;
mod tls;
mod webhook;

pub use gateway::{ApplyError, Gateway, Kept, Readiness, RouteProblem};
pub use keys::Keys;
pub use last_known::LastKnown;
pub use ledger::Ledger;
pub use listener::{Listener, ListenerLimits};
pub use reload::{ConfigSource, Reloader};
pub use secrets::Secrets;
pub use shared::Counters;
pub use sinks::audit_sinks;
pub use tls::Tls;
