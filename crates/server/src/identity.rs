//! Who calls, and what they may do.

use std::sync::Arc;

use millgate_policy::{Glob, Scope};
use millgate_types::{Owner, Permissions, Principal};

/// A caller, as established from the request's head. Made once per key, not per request.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) principal: Principal,
    /// For whom it calls.
    pub(crate) owner: Arc<Owner>,
    pub(crate) permissions: Permissions,
    /// What it may reach.
    pub(crate) scope: Scope,
}

impl Identity {
    /// Where no keys are asked for.
    pub(crate) fn anonymous(permissions: Permissions) -> Arc<Self> {
        Arc::new(Self {
            principal: Principal::Anonymous,
            owner: Arc::default(),
            permissions,
            scope: Scope::default(),
        })
    }
}

/// Patterns as written.
pub(crate) fn globs(texts: &[String]) -> Vec<Glob> {
    texts.iter().map(|text| Glob::new(text.as_str())).collect()
}

/// What may be reached, by patterns as written.
pub(crate) fn scope(endpoints: &[String], targets: &[String], deny: &[String]) -> Scope {
    Scope { endpoints: globs(endpoints), targets: globs(targets), deny: globs(deny), within: None }
}
