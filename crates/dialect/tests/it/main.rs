//! The wire formats against recorded traffic and properties.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bedrock;
mod calls;
mod cohere;
mod fixtures;
mod goldens;
mod properties;
mod recordings;
mod streams;
