//! The wire formats against recorded traffic and properties.

mod calls;
mod fixtures;
mod goldens;
mod properties;
mod recordings;
mod streams;
