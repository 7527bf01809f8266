//! From what is said about somebody to what they may do: CEL expressions over claims, headers or a certificate's names.

use millgate_expr::Expression;
use millgate_policy::Scope;
use millgate_types::{Owner, Permissions};
use serde_json::Value;

/// The longest name of a user, team, app or organisation, in bytes.
const MAX_NAME: usize = 256;

/// A mapping as it is written: each a CEL expression that gives a text.
#[derive(Clone, Debug, Default)]
pub struct MappingConfig {
    /// Who it is; without a name there is nobody.
    pub user: String,
    /// Their team.
    pub team: Option<String>,
    /// The application that calls.
    pub app: Option<String>,
    /// The organisation above the team.
    pub organization: Option<String>,
    /// What they may do: the first rule that holds says it.
    pub roles: Vec<(String, Permissions, Scope)>,
}

/// A mapping, compiled.
#[derive(Debug)]
pub struct Mapping {
    user: Expression,
    team: Option<Expression>,
    app: Option<Expression>,
    organization: Option<Expression>,
    roles: Vec<RoleRule>,
}

/// What those may do for whom a condition holds.
#[derive(Debug)]
pub struct RoleRule {
    when: Expression,
    permissions: Permissions,
    scope: Scope,
}

/// Somebody, as others describe them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Their name, with their team and so on.
    pub owner: Owner,
    /// What the first rule that holds says; `None` where none does.
    pub rights: Option<(Permissions, Scope)>,
}

impl Mapping {
    /// Compiles a mapping over a value that expressions call by `name`. The error names the field.
    pub fn compile(written: &MappingConfig, name: &'static [&'static str; 1]) -> Result<Self, String> {
        let compile = |field: &str, text: &str| {
            Expression::compile(text, name).map_err(|error| format!("{field}: {error}"))
        };
        let maybe =
            |field: &str, text: &Option<String>| text.as_deref().map(|text| compile(field, text)).transpose();
        let rule = |(when, permissions, scope): &(String, Permissions, Scope)| {
            let when = compile("roles.when", when)?;
            Ok(RoleRule { when, permissions: *permissions, scope: scope.clone() })
        };
        Ok(Self {
            user: compile("user", &written.user)?,
            team: maybe("team", &written.team)?,
            app: maybe("app", &written.app)?,
            organization: maybe("organization", &written.organization)?,
            roles: written.roles.iter().map(rule).collect::<Result<_, String>>()?,
        })
    }

    /// Who it is that `value` describes; `None` where it names nobody. What cannot be evaluated for this value (a
    /// claim that is not there) does not hold and gives no name.
    #[must_use]
    pub fn person(&self, value: &Value) -> Option<Person> {
        let name = |expression: &Expression| {
            let text = expression.text(value).ok()?;
            let plain = !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
            plain.then(|| text.into())
        };
        let owner = Owner {
            user: Some(name(&self.user)?),
            team: self.team.as_ref().and_then(name),
            app: self.app.as_ref().and_then(name),
            organization: self.organization.as_ref().and_then(name),
            ..Owner::default()
        };
        let rule = self.roles.iter().find(|rule| rule.when.holds(value) == Ok(true));
        Some(Person { owner, rights: rule.map(|rule| (rule.permissions, rule.scope.clone())) })
    }
}

#[cfg(test)]
mod tests {
    use millgate_types::Permission;
    use serde_json::json;

    use super::*;

    fn mapping() -> Mapping {
        let admin = [Permission::Admin].into_iter().collect();
        let invoke = [Permission::Invoke].into_iter().collect();
        let written = MappingConfig {
            user: "claims.email".to_owned(),
            team: Some("claims.groups[0]".to_owned()),
            roles: vec![
                ("'admins' in claims.groups".to_owned(), admin, Scope::default()),
                ("claims.email_verified".to_owned(), invoke, Scope::default()),
            ],
            ..MappingConfig::default()
        };
        Mapping::compile(&written, &["claims"]).unwrap()
    }

    #[test]
    fn the_first_rule_that_holds_says_what_somebody_may_do() {
        let person = |value: &Value| mapping().person(value);
        let alice = json!({ "email": "a@x", "groups": ["ml", "admins"], "email_verified": true });
        let found = person(&alice).unwrap();
        assert_eq!((found.owner.user.as_deref(), found.owner.team.as_deref()), (Some("a@x"), Some("ml")));
        assert_eq!(found.rights.map(|(permissions, _)| permissions), Some(Permissions::ALL));
        let bob = person(&json!({ "email": "b@x", "email_verified": true })).unwrap();
        assert_eq!(bob.owner.team, None);
        assert!(bob.rights.unwrap().0.has(Permission::Invoke));
        assert_eq!(person(&json!({ "email": "c@x", "email_verified": "true" })).unwrap().rights, None);
    }

    #[test]
    fn who_has_no_name_is_nobody() {
        for value in [json!({}), json!({ "email": 7 }), json!({ "email": "" }), json!({ "email": "a\nb" })] {
            assert_eq!(mapping().person(&value), None, "{value}");
        }
        assert_eq!(mapping().person(&json!({ "email": "x".repeat(300) })), None);
    }
}
