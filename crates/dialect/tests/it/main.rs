//! The wire formats against recorded traffic and properties.

mod calls;
mod fixtures;
mod properties;
mod recordings;
