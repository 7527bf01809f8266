//! Who calls, and what they may do.

use std::sync::Arc;

use millgate_policy::{Glob, Scope};
use millgate_types::{Permissions, Principal};

/// A caller, as established from the request's head.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) principal: Principal,
    pub(crate) permissions: Permissions,
    /// What it may reach.
    pub(crate) scope: Arc<Scope>,
}

/// Patterns as written.
pub(crate) fn globs(texts: &[String]) -> Vec<Glob> {
    texts.iter().map(|text| Glob::new(text.as_str())).collect()
}
