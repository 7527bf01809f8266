//! Secrets at rest and secrets elsewhere: envelope encryption for what the gateway's store holds, and HashiCorp Vault.

mod seal;
mod vault;

pub use seal::{Master, SealError, Sealed};
pub use vault::{Vault, VaultError};
