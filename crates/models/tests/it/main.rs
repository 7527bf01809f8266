//! Deployments through the public API: real stores, real sockets, real processes.

mod demo;
mod exact;
mod failures;
mod real;
mod support;
