//! Who somebody is, out of what others say about them: signed tokens, answers of an introspection endpoint, headers of a
//! trusted proxy, certificates. Pure: keys, time and documents are handed in; fetching them is the server's business.

mod certificate;
mod keys;
mod mapping;
mod proxy;
#[cfg(test)]
mod tests;
mod token;

pub use certificate::subject;
pub use keys::{KeyError, KeySet};
pub use mapping::{Mapping, MappingConfig, Person, RoleRule};
pub use proxy::{Network, client_address};
pub use token::{Claims, Refusal, Rules, Unverified};
