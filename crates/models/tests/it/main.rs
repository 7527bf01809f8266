//! Deployments through the public API: real stores, real sockets, real processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod chat;
mod columns;
mod converted;
mod demo;
mod environments;
mod exact;
mod failures;
mod http;
mod observed;
mod onnx;
mod real;
mod rollout;
mod support;
mod users;
mod zygote;
