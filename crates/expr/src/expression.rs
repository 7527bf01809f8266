//! Expressions in the Common Expression Language over one named JSON value: the claims of a token, the headers of a
//! trusted proxy, the names in a certificate.

use std::sync::Arc;

use cel::{Context, Program, Value};
use serde_json::Value as Json;

use crate::condition::{ENV, compile, plain};

/// The most parts that `split` gives.
const MAX_PARTS: usize = 1000;

/// An expression, with the bounds of a [`Condition`](crate::Condition). Beside what CEL has, `split(text, separator)` gives
/// the parts of a text without the space around them.
pub struct Expression {
    text: String,
    name: &'static str,
    program: Program,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl Expression {
    /// Compiles an expression in which the one name of `names` is known. The error says what is wrong with it.
    pub fn compile(text: &str, names: &'static [&'static str; 1]) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), name: names[0], program: compile(text, names)? })
    }

    /// As it is written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.text
    }

    /// Whether it holds for a value. The error says why that cannot be told, without any of the value.
    pub fn holds(&self, value: &Json) -> Result<bool, String> {
        match self.evaluate(value)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(format!("it gives {}, not true or false", other.type_of())),
        }
    }

    /// The text that it gives for a value. The error says why there is none, without any of the value.
    pub fn text(&self, value: &Json) -> Result<String, String> {
        match self.evaluate(value)? {
            Value::String(text) => Ok(text.as_ref().clone()),
            other => Err(format!("it gives {}, not a text", other.type_of())),
        }
    }

    fn evaluate(&self, value: &Json) -> Result<Value, String> {
        let mut context = Context::with_env(Arc::clone(&ENV));
        let value = cel::to_value(value).map_err(|_| "a value has no counterpart in CEL".to_owned())?;
        context.add_variable_from_value(self.name, value);
        let split = |text: Arc<String>, separator: Arc<String>| -> Value {
            let parts = text.split(separator.as_str()).take(MAX_PARTS);
            let parts = parts.map(|part| Value::String(Arc::new(part.trim().to_owned())));
            Value::List(Arc::new(parts.collect()))
        };
        context.add_function("split", split).map_err(|_| "a function is there twice".to_owned())?;
        self.program.execute(&context).map_err(|error| plain(&error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(text: &str) -> Expression {
        Expression::compile(text, &["claims"]).unwrap()
    }

    #[test]
    fn expressions_speak_of_claims() {
        let value = json!({ "sub": "alice", "groups": ["ml", "ops"], "n": 3 });
        for (text, expected) in [
            ("'ml' in claims.groups", Ok(true)),
            ("has(claims.groups) && claims.groups.exists(g, g.startsWith('op'))", Ok(true)),
            ("has(claims.team)", Ok(false)),
            ("'b' in split(claims.sub + ', b ,c', ',')", Ok(true)),
            ("claims.sub.endsWith('@corp')", Ok(false)),
        ] {
            assert_eq!(claims(text).holds(&value), expected, "{text}");
        }
        assert_eq!(claims("claims.sub").text(&value), Ok("alice".to_owned()));
        assert_eq!(claims("claims.groups[0] + '/' + claims.sub").text(&value), Ok("ml/alice".to_owned()));
    }

    #[test]
    fn what_gives_nothing_says_why_without_the_value() {
        let value = json!({ "sub": "secret" });
        for text in ["claims.team", "claims.sub + 1", "size(claims.sub)"] {
            let error = claims(text).text(&value).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(claims("claims.sub").holds(&value).is_err());
        let error = Expression::compile("token.sub", &["claims"]).unwrap_err();
        assert_eq!(error, "`token` is not known here; there is `claims`");
    }
}
