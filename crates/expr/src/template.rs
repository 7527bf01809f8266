//! JSON with places that are filled in: a text that is exactly `$result`, `$request` or `$rows` stands for that value, and
//! any other text is a Jinja template over the same names.

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value as Jinja, context};
use serde_json::Value;

use crate::{Facts, NAMES};

/// Steps that one text may take.
const FUEL: u64 = 50_000;
/// How deep macros may call one another.
const RECURSION: usize = 64;
/// All texts of one template together, in bytes.
const MAX_LENGTH: usize = 64 << 10;

/// A body that is made from an answer.
#[derive(Debug)]
pub struct BodyTemplate {
    shape: Value,
    /// The texts that are templates, each under its own words.
    texts: Environment<'static>,
}

impl BodyTemplate {
    /// Compiles every text of a body. The error says which and why.
    pub fn compile(shape: &Value) -> Result<Self, String> {
        let mut texts = Environment::new();
        texts.set_undefined_behavior(UndefinedBehavior::Chainable);
        // It shows everything that a template can see.
        texts.remove_global("debug");
        texts.set_fuel(Some(FUEL));
        texts.set_recursion_limit(RECURSION);
        texts.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let mut length = 0;
        add(shape, &mut texts, &mut length)?;
        for (_, template) in texts.templates() {
            // Filters and functions are looked up when they are met. What nothing fills in is no problem here.
            let nothing = context! { result => Jinja::UNDEFINED, request => Jinja::UNDEFINED, rows => 1 };
            match template.render(nothing) {
                Err(error) if is_unknown(&error) => return Err(plain(&error)),
                _ => {}
            }
        }
        texts.set_undefined_behavior(UndefinedBehavior::Strict);
        Ok(Self { shape: shape.clone(), texts })
    }

    /// The body. The error says what cannot be filled in, without any of the values.
    pub fn fill(&self, facts: Facts<'_>) -> Result<Value, String> {
        let values = context! {
            result => Jinja::from(Serde(facts.result)),
            request => Jinja::from(Serde(facts.request)),
            rows => facts.rows,
        };
        self.part(&self.shape, facts, &values)
    }

    fn part(&self, part: &Value, facts: Facts<'_>, values: &Jinja) -> Result<Value, String> {
        Ok(match part {
            Value::String(text) => match text.as_str() {
                "$result" => facts.result.clone(),
                "$request" => facts.request.clone(),
                "$rows" => facts.rows.into(),
                text if is_template(text) => {
                    let template = self.texts.get_template(text).map_err(|error| plain(&error))?;
                    template.render(values).map_err(|error| plain(&error))?.into()
                }
                text => text.into(),
            },
            Value::Array(items) => Value::Array(
                items.iter().map(|item| self.part(item, facts, values)).collect::<Result<_, _>>()?,
            ),
            Value::Object(members) => {
                let member =
                    |(name, value): (&String, _)| Ok((name.clone(), self.part(value, facts, values)?));
                Value::Object(members.iter().map(member).collect::<Result<_, String>>()?)
            }
            other => other.clone(),
        })
    }
}

fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

fn add(part: &Value, texts: &mut Environment<'static>, length: &mut usize) -> Result<(), String> {
    match part {
        Value::String(text) if is_template(text) => {
            *length += text.len();
            if *length > MAX_LENGTH {
                return Err(format!("the template is longer than {MAX_LENGTH} bytes"));
            }
            texts.add_template_owned(text.clone(), text.clone()).map_err(|error| plain(&error))?;
            let template = texts.get_template(text).map_err(|error| plain(&error))?;
            let unknown = template.undeclared_variables(false).into_iter().filter(|name| {
                !NAMES.contains(&name.as_str()) && !texts.globals().any(|(global, _)| global == name)
            });
            match unknown.min() {
                Some(name) => {
                    Err(format!("`{name}` is not known here; there are `result`, `request` and `rows`"))
                }
                None => Ok(()),
            }
        }
        Value::Array(items) => items.iter().try_for_each(|item| add(item, texts, length)),
        Value::Object(members) => members.values().try_for_each(|value| add(value, texts, length)),
        _ => Ok(()),
    }
}

fn is_unknown(error: &minijinja::Error) -> bool {
    use minijinja::ErrorKind::{UnknownFilter, UnknownFunction, UnknownTest};
    matches!(error.kind(), UnknownFilter | UnknownFunction | UnknownTest)
}

/// The kind of error and its line: details may hold values.
fn plain(error: &minijinja::Error) -> String {
    use minijinja::ErrorKind;
    let what = match error.kind() {
        // What the words of the template itself say, no values.
        ErrorKind::SyntaxError
        | ErrorKind::UnknownFilter
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownTest => error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
        ErrorKind::UndefinedError => "it asks for what is not there".to_owned(),
        ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps"),
        kind => kind.to_string(),
    };
    match error.line() {
        Some(line) if line > 1 => format!("the template, line {line}: {what}"),
        _ => format!("the template: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fill(shape: &Value, result: &Value) -> Result<Value, String> {
        let request = json!({ "name": "{{ rows }}" });
        BodyTemplate::compile(shape)?.fill(Facts { result, request: &request, rows: 2 })
    }

    #[test]
    fn values_and_texts_are_filled_in() {
        let shape = json!({
            "messages": [{ "role": "user", "content": "Why {{ result[0].label }}? {{ result | tojson }}" }],
            "inputs": "$result", "asked": ["$request", "$rows"], "plain": "a } b", "n": 3,
        });
        let result = json!([{ "label": "a \"b\" {{ x }}" }]);
        let filled = fill(&shape, &result).unwrap();
        let content = filled["messages"][0]["content"].as_str().unwrap();
        assert!(content.starts_with("Why a \"b\" {{ x }}? [{\"label\":"), "{content}");
        assert_eq!(
            (&filled["inputs"], &filled["n"], &filled["plain"]),
            (&result, &json!(3), &json!("a } b"))
        );
        // What callers and models say is never read as a template.
        assert_eq!(filled["asked"], json!([{ "name": "{{ rows }}" }, 2]));
        let joined = json!("{% for row in result %}{{ loop.index }}={{ row }} {% endfor %}");
        assert_eq!(fill(&joined, &json!([0.5, 1])).unwrap(), "1=0.5 2=1 ");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("{{ result", "the template"),
            ("{{ score }}", "`score` is not known here"),
            ("{{ result | nothing }}", "nothing"),
            ("{% include 'x' %}", "the template"),
        ] {
            let error = BodyTemplate::compile(&json!([text])).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let error = fill(&json!("{{ result.label.deep }}"), &json!({ "secret": 1 })).unwrap_err();
        assert!(error.contains("not there") && !error.contains("secret"), "{error}");
        let endless = json!("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}");
        let error = fill(&endless, &Value::Null).unwrap_err();
        assert!(error.contains("more than 50000 steps"), "{error}");
    }
}
