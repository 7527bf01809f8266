//! What a principal may reach: names and patterns of endpoints and targets. Denial wins.

use std::sync::Arc;

/// A name, or a pattern in which each `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// Any text is a pattern.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole name fits.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            // The earliest place leaves the most room for what follows.
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// What may be reached. Empty lists of what is allowed allow everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Names of endpoints.
    pub endpoints: Vec<Glob>,
    /// Final targets: `provider/model`, `models:/name@alias`.
    pub targets: Vec<Glob>,
    /// Endpoints or targets that may not be reached, whatever is allowed.
    pub deny: Vec<Glob>,
    /// What bounds all of this: the reach of the team that it belongs to.
    pub within: Option<Arc<Scope>>,
}

impl Scope {
    /// The same, bounded by another one too.
    #[must_use]
    pub fn bounded(&self, by: &Self) -> Self {
        if by.is_open() {
            return self.clone();
        }
        let inner = self.within.as_ref().map_or_else(|| by.clone(), |within| within.bounded(by));
        Self { within: Some(Arc::new(inner)), ..self.clone() }
    }

    fn bounds(&self, allows: impl Fn(&Self) -> bool) -> bool {
        self.within.as_ref().is_none_or(|within| allows(within))
    }

    /// Whether nothing is restricted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.endpoints.is_empty()
            && self.targets.is_empty()
            && self.deny.is_empty()
            && self.bounds(Self::is_open)
    }

    /// Whether an endpoint may be called.
    #[must_use]
    pub fn allows_endpoint(&self, name: &str) -> bool {
        Self::allows(&self.endpoints, name)
            && !Self::any(&self.deny, name)
            && self.bounds(|within| within.allows_endpoint(name))
    }

    /// Whether a request may end at a target.
    #[must_use]
    pub fn allows_target(&self, label: &str) -> bool {
        self.allows_target_of(&[label])
    }

    /// Whether a request may end at a target with several names, as a model has by its alias and by its version: one of
    /// them is allowed and none is denied.
    #[must_use]
    pub fn allows_target_of(&self, names: &[&str]) -> bool {
        names.iter().any(|name| Self::allows(&self.targets, name))
            && !names.iter().any(|name| Self::any(&self.deny, name))
            && self.bounds(|within| within.allows_target_of(names))
    }

    /// Whether an endpoint may be called at which nobody looks at what its requests end: every target of it would have
    /// to be allowed, and no part of it denied. A key that names the endpoint itself is meant to.
    #[must_use]
    pub fn allows_unread(&self, name: &str, target: &str) -> bool {
        let named = self.endpoints.iter().any(|glob| *glob.0 == *name);
        let whole =
            self.targets.is_empty() || self.targets.iter().any(|glob| *glob.0 == *target || *glob.0 == *"*");
        self.allows_endpoint(name)
            && (named || whole && self.deny.is_empty())
            && self.bounds(|within| within.allows_unread(name, target))
    }

    /// Whether everything that this one allows is surely allowed by `other` too: what is issued never exceeds the
    /// issuer's. Patterns are compared by their text, so a narrower pattern that is not the same may be refused, never
    /// the other way round.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let bounded = self.within.as_ref().is_some_and(|within| within.is_within(other));
        (bounded || self.own_is_within(other)) && other.bounds(|bound| self.is_within(bound))
    }

    /// Compares the lists of the two, without what bounds them.
    fn own_is_within(&self, other: &Self) -> bool {
        let covered = |own: &[Glob], wide: &[Glob]| {
            wide.is_empty()
                || !own.is_empty()
                    && own
                        .iter()
                        .all(|glob| wide.contains(glob) || !glob.0.contains('*') && Self::any(wide, &glob.0))
        };
        covered(&self.endpoints, &other.endpoints)
            && covered(&self.targets, &other.targets)
            && other.deny.iter().all(|denied| self.deny.contains(denied))
    }

    fn allows(globs: &[Glob], name: &str) -> bool {
        globs.is_empty() || Self::any(globs, name)
    }

    fn any(globs: &[Glob], name: &str) -> bool {
        globs.iter().any(|glob| glob.fits(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| Glob::new(*text)).collect()
    }

    fn scope(endpoints: &[&str], targets: &[&str], deny: &[&str]) -> Scope {
        Scope { endpoints: globs(endpoints), targets: globs(targets), deny: globs(deny), within: None }
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, fits) in [
            ("chat", "chat", true),
            ("chat", "chat-2", false),
            ("chat*", "chat-2", true),
            ("*chat", "my-chat", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("openai/*", "openai/gpt-4o", true),
            ("openai/*", "azure/openai/x", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(Glob::new(pattern).fits(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn denial_wins_and_nothing_said_allows_all() {
        assert!(scope(&[], &[], &[]).allows_endpoint("x"));
        let scope = scope(&["chat-*"], &["openai/*"], &["chat-secret", "openai/o1*"]);
        assert!(scope.allows_endpoint("chat-a") && !scope.allows_endpoint("chat-secret"));
        assert!(!scope.allows_endpoint("other"));
        assert!(scope.allows_target("openai/gpt-4o") && !scope.allows_target("openai/o1-pro"));
        assert!(!scope.allows_target("claude/x"));
        assert!(!scope.allows_unread("native/openai", "openai/*"));
        let native = |endpoints: &[&str], targets: &[&str], deny: &[&str]| {
            self::scope(endpoints, targets, deny).allows_unread("native/openai", "openai/*")
        };
        assert!(
            native(&[], &[], &[])
                && native(&[], &["openai/*"], &[])
                && native(&["native/openai"], &[], &["x"])
        );
        assert!(!native(&[], &["openai/gpt-*"], &[]) && !native(&[], &[], &["openai/o1"]));
    }

    #[test]
    fn what_is_issued_stays_within_the_issuers() {
        let wide = scope(&["chat-*", "iris"], &[], &["chat-secret"]);
        assert!(scope(&["chat-a"], &[], &["chat-secret"]).is_within(&wide));
        assert!(scope(&["chat-*"], &["openai/*"], &["chat-secret", "more"]).is_within(&wide));
        assert!(!scope(&["chat-a"], &[], &[]).is_within(&wide), "it would drop the denial");
        assert!(!scope(&[], &[], &["chat-secret"]).is_within(&wide), "everything is more");
        assert!(!scope(&["*"], &[], &["chat-secret"]).is_within(&wide));
        assert!(scope(&["*"], &[], &[]).is_within(&Scope::default()));
    }

    #[test]
    fn a_bound_holds_for_all_that_is_inside_it() {
        let team = scope(&["chat-*"], &["openai/*"], &["chat-secret"]);
        let key = scope(&[], &[], &[]).bounded(&team);
        assert!(key.allows_endpoint("chat-a") && !key.allows_endpoint("iris") && !key.is_open());
        assert!(!key.allows_endpoint("chat-secret") && !key.allows_target("claude/x"));
        assert!(!key.allows_unread("native/openai", "openai/*"));
        let user = key.bounded(&scope(&["chat-a", "iris"], &[], &[]));
        assert!(
            user.allows_endpoint("chat-a")
                && !user.allows_endpoint("chat-b")
                && !user.allows_endpoint("iris")
        );
        // What is issued under a bound is within it, and not the other way round.
        assert!(
            key.is_within(&team) && user.is_within(&team) && user.is_within(&key) && user.is_within(&user)
        );
        assert!(!scope(&[], &[], &[]).is_within(&key) && !key.is_within(&user));
        assert!(scope(&["chat-a"], &["openai/*"], &["chat-secret"]).is_within(&user));
        assert_eq!(team.bounded(&Scope::default()), team);
    }

    proptest! {
        #[test]
        fn a_scope_within_another_allows_no_more(
            own in proptest::collection::vec("[ab*]{0,4}", 0..3),
            wide in proptest::collection::vec("[ab*]{0,4}", 0..3),
            deny in proptest::collection::vec("[ab*]{1,3}", 0..2),
            name in "[ab]{0,5}",
        ) {
            let list = |texts: &[String]| texts.iter().map(|text| Glob::new(text.as_str())).collect::<Vec<_>>();
            let inner = Scope { endpoints: list(&own), targets: Vec::new(), deny: list(&deny), within: None };
            let outer = Scope { endpoints: list(&wide), targets: Vec::new(), deny: list(&deny[..deny.len().min(1)]), within: None };
            if inner.is_within(&outer) && inner.allows_endpoint(&name) {
                prop_assert!(outer.allows_endpoint(&name));
            }
        }

        #[test]
        fn a_pattern_fits_as_a_regular_expression_would(pattern in "[ab*]{0,5}", name in "[ab]{0,6}") {
            fn slow(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => {
                        slow(rest, name) || !name.is_empty() && slow(pattern, &name[1..])
                    }
                    ([p, rest @ ..], [n, more @ ..]) => p == n && slow(rest, more),
                    _ => false,
                }
            }
            prop_assert_eq!(Glob::new(pattern.as_str()).fits(&name), slow(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
