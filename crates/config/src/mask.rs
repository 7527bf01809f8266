//! Secrets that stand in a document's own text, and the text without them. A text that cannot surely be cleaned is
//! not shown at all.

use serde_json::Value as Json;

use crate::document::Config;
use crate::node::{Node, Step, Value};

/// What stands where a secret was.
pub const MASK: &str = "***";
/// Replacing anything shorter would hit half of the text.
const SHORTEST: usize = 4;

/// The secrets that stand in a document in clear text.
#[derive(Clone, Default)]
pub(crate) struct Literals {
    found: Vec<String>,
    /// One of them was not found again in the document's tree.
    missed: bool,
}

impl std::fmt::Debug for Literals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Literals").field("found", &self.found.len()).finish_non_exhaustive()
    }
}

impl Literals {
    /// What the canonical document shows as `***`, looked up in the tree that it was read from.
    pub(crate) fn of(config: &Config, tree: &Node) -> Self {
        let mut literals = Self::default();
        match serde_json::to_value(config) {
            Ok(shown) => literals.walk(&shown, &mut Vec::new(), tree),
            Err(_) => literals.missed = true,
        }
        // The longest first: one may be the beginning of another.
        literals.found.sort_by_key(|found| std::cmp::Reverse(found.len()));
        literals
    }

    fn walk(&mut self, shown: &Json, steps: &mut Vec<Step>, tree: &Node) {
        match shown {
            Json::String(text) if text == MASK => match tree.at(steps).and_then(Node::text) {
                Some(found) => self.found.push(found.trim().to_owned()),
                None => self.missed = true,
            },
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    steps.push(Step::Item(index));
                    self.walk(item, steps, tree);
                    steps.pop();
                }
            }
            Json::Object(members) => {
                for (name, member) in members {
                    steps.push(Step::Member(name.clone()));
                    self.walk(member, steps, tree);
                    steps.pop();
                }
            }
            _ => {}
        }
    }

    pub(crate) fn any(&self) -> bool {
        self.missed || !self.found.is_empty()
    }

    /// A secret is [`MASK`] itself: the text was shown, and comes back.
    pub(crate) fn any_masked(&self) -> bool {
        self.found.iter().any(|found| found == MASK)
    }

    /// The text with every secret replaced; `None` where that cannot surely be done.
    pub(crate) fn mask(&self, text: &str) -> Option<String> {
        if self.missed || self.found.iter().any(|found| found.len() < SHORTEST && found != MASK) {
            return None;
        }
        let secrets = || self.found.iter().filter(|found| *found != MASK);
        let with = |word| secrets().fold(text.to_owned(), |text, found| text.replace(found.as_str(), word));
        let masked = with(MASK);
        // YAML has more than one way to write a text, and reads the mask itself as an alias.
        let tree = Node::parse(&with("masked")).ok()?;
        let clean = secrets().all(|found| !holds(&tree, found));
        clean.then_some(masked)
    }
}

fn holds(node: &Node, secret: &str) -> bool {
    match &node.value {
        Value::Text(text) => text.contains(secret),
        Value::List(items) => items.iter().any(|item| holds(item, secret)),
        Value::Map(members) => {
            members.iter().any(|(key, node)| key.name.contains(secret) || holds(node, secret))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::load;

    const HEAD: &str = "version: 1\nendpoints: [ { name: chat, type: llm/v1/chat, route: p/m } ]\n";

    #[test]
    fn clear_text_is_masked_wherever_it_stands() {
        let text = format!(
            "{HEAD}# once it was sk-very-secret\nproviders:\n  p: {{ kind: openai, api_key: sk-very-secret, \
             headers: {{ X-Team: \"team-secret\" }} }}\n"
        );
        let loaded = load(&text).unwrap();
        assert!(loaded.has_clear_text());
        let masked = loaded.masked(&text).unwrap();
        assert!(!masked.contains("very") && !masked.contains("team-secret"), "{masked}");
        assert!(masked.contains("api_key: ***") && masked.contains("# once it was ***"), "{masked}");
    }

    #[test]
    fn each_of_several_keys_is_masked_in_either_form() {
        let text = format!(
            "{HEAD}providers:\n  p: {{ kind: openai, api_keys: [ sk-very-one, {{ key: sk-very-two }}, \
             {{ key: sk-very-three, weight: 2 }} ] }}\n"
        );
        let loaded = load(&text).unwrap();
        let masked = loaded.masked(&text).unwrap();
        assert!(!masked.contains("very") && masked.contains("[ ***, { key: *** }"), "{masked}");
        let shown = serde_json::to_string(&loaded.config.providers["p"]).unwrap();
        assert!(!shown.contains("very") && shown.contains(r#"["***",{"key":"***"}"#), "{shown}");
    }

    #[test]
    fn what_is_written_in_another_way_or_too_short_is_not_shown_at_all() {
        for key in ["\"sk-\\u0076ery-secret\"", "abc"] {
            let text = format!("{HEAD}providers:\n  p: {{ kind: openai, api_key: {key} }}\n");
            assert_eq!(load(&text).unwrap().masked(&text), None, "{key}");
        }
    }

    #[test]
    fn references_stay() {
        let text = format!("{HEAD}providers:\n  p: {{ kind: openai, api_key: env:PATH }}\n");
        let loaded = load(&text).unwrap();
        assert!(!loaded.has_clear_text());
        assert_eq!(loaded.masked(&text), Some(text));
    }
}
