//! What tests and benchmarks need around the gateway: a fake provider that misbehaves on demand, a fake OpenID
//! Connect provider, a small HTTP client that shows the bytes, and, with the feature `gateway`, the gateway itself on a free port.

pub mod client;
mod fake;
#[cfg(feature = "gateway")]
mod gateway;
mod oidc;
mod redis;
mod vault;
mod wire;

pub use fake::{FakeProvider, Recorded, serve};
#[cfg(feature = "gateway")]
pub use gateway::{AUDIT_KEY, TestGateway};
pub use oidc::{AUDIENCE, CLIENT, CLIENT_SECRET, FakeIssuer, serve_issuer};
pub use redis::Redis;
pub use vault::{FakeVault, VAULT_ACCOUNT, VAULT_TOKEN};
