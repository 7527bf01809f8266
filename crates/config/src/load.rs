//! From a file's text to a checked [`Config`], with every problem found on the way.

use std::fmt;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Deserialize;

use crate::document::Config;
use crate::mask::Literals;
use crate::node::{ErrorKind, Node, NodeError, Place, Step, Value};
use crate::reference::{self, Values};
use crate::{check, forms};

/// Files larger than this are refused.
const MAX_FILE: usize = 8 << 20;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The document is not used.
    Error,
    /// The document is used; somebody should look.
    Warning,
}

/// Something wrong in the document, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Line, from 1; 0 when the problem has no place.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// The field, in the words of the file: `routes[0].model.name`.
    pub path: String,
    /// What is wrong.
    pub reason: String,
    /// What to do; empty when there is nothing to add.
    pub hint: String,
}

impl Problem {
    /// `file:line:col: path: reason; hint`
    #[must_use]
    pub fn in_file(&self, file: &str) -> String {
        let mut text = format!("{file}:{}:{}: ", self.line, self.column);
        if self.severity == Severity::Warning {
            text.push_str("warning: ");
        }
        if !self.path.is_empty() {
            let _infallible = write!(text, "{}: ", self.path);
        }
        text.push_str(&self.reason);
        if !self.hint.is_empty() {
            let _infallible = write!(text, "; {}", self.hint);
        }
        text
    }
}

/// Which form the document was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Millgate's own.
    Canonical,
    /// `routes:` with `route_type`, and MLflow 2.x.
    Routes,
    /// MLflow 3.x: `endpoints:` with `endpoint_type`, traffic `routes:`.
    Mlflow,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canonical => "millgate",
            Self::Routes => "routes",
            Self::Mlflow => "mlflow",
        })
    }
}

/// A document that was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The canonical document.
    pub config: Config,
    /// The form it was written in.
    pub form: Form,
    /// Warnings only.
    pub warnings: Vec<Problem>,
    literals: Literals,
    references: Vec<String>,
}

impl Loaded {
    /// Whether a secret stands in the document itself.
    #[must_use]
    pub fn has_clear_text(&self) -> bool {
        self.literals.any()
    }

    /// Every reference of the document that may change its value: `file:PATH`, `secret:NAME`, `vault:path#field`.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        self.references.iter().map(String::as_str)
    }

    /// Whether `***` stands where a secret belongs.
    #[must_use]
    pub fn has_mask(&self) -> bool {
        self.literals.any_masked()
    }

    /// The document's text as it may be shown and kept: without the secrets that stand in it. `None` where they cannot
    /// surely be taken out.
    #[must_use]
    pub fn masked(&self, text: &str) -> Option<String> {
        self.literals.mask(text)
    }
}

/// Collects problems.
#[derive(Default)]
pub(crate) struct Problems {
    pub(crate) found: Vec<Problem>,
    /// What was taken out of the tree because it was at fault; that it is missing is no news.
    pub(crate) taken: Vec<Vec<Step>>,
}

impl Problems {
    pub(crate) fn add(
        &mut self,
        severity: Severity,
        place: Place,
        path: &str,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.found.push(Problem {
            severity,
            line: place.line,
            column: place.column,
            path: path.to_owned(),
            reason: reason.into(),
            hint: hint.into(),
        });
    }

    pub(crate) fn error(&mut self, node: &Node, reason: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, node.place, &node.path, reason, hint);
    }

    pub(crate) fn warning(&mut self, node: &Node, reason: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, node.place, &node.path, reason, hint);
    }
}

/// Reads a document in any form. `Err` holds every problem found, warnings included, in the file's order.
pub fn load(text: &str) -> Result<Loaded, Vec<Problem>> {
    load_with(text, &Values::default())
}

/// The same, with the values of references that are kept elsewhere.
pub fn load_with(text: &str, values: &Values) -> Result<Loaded, Vec<Problem>> {
    let (loaded, seen) = reference::reading(values, || read_text(text));
    let mut loaded = loaded?;
    if !seen.is_empty() {
        let mut hasher = DefaultHasher::new();
        seen.hash(&mut hasher);
        // Zero says that there are none.
        loaded.config.fingerprint = hasher.finish().max(1);
    }
    loaded.references = seen.into_iter().map(|(reference, _)| reference).collect();
    Ok(loaded)
}

fn read_text(text: &str) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Problems::default();
    if text.len() > MAX_FILE {
        problems.add(Severity::Error, Place::default(), "", "the file is larger than 8 MiB", "");
        return Err(problems.found);
    }
    let root = match Node::parse(text) {
        Ok(root) => root,
        Err((place, reason)) => {
            problems.add(Severity::Error, place, "", reason, "");
            return Err(problems.found);
        }
    };
    if !matches!(root.value, Value::Map(_)) {
        problems.add(
            Severity::Error,
            Place { line: 1, column: 1 },
            "",
            "the file must hold a mapping",
            "start with `endpoints:`",
        );
        return Err(problems.found);
    }
    let form = forms::detect(&root);
    let mut tree = match form {
        Form::Canonical => root,
        Form::Routes => forms::routes::rewrite(&root, &mut problems),
        Form::Mlflow => forms::mlflow::rewrite(&root, &mut problems),
    };
    let broken = problems.found.iter().any(|problem| problem.severity == Severity::Error);
    let complete = tree.clone();
    let config: Config = read(&mut tree, &mut problems);
    let structural = problems.found.len();
    check::check(&config, &tree, &mut problems);
    if broken || structural > 0 && tree_differs(&complete, &tree) {
        // Parts were taken out above; that something refers to them is no news.
        let mut index = 0;
        problems.found.retain(|problem| {
            index += 1;
            index <= structural || !is_reference(&problem.reason)
        });
    }
    problems.found.sort_by_key(|problem| (problem.line, problem.column));
    if problems.found.iter().any(|problem| problem.severity == Severity::Error) {
        Err(problems.found)
    } else {
        let literals = Literals::of(&config, &tree);
        Ok(Loaded { config, form, warnings: problems.found, literals, references: Vec::new() })
    }
}

fn is_reference(reason: &str) -> bool {
    ["unknown provider ", "unknown endpoint ", "unknown registry "]
        .iter()
        .any(|start| reason.starts_with(start))
}

fn tree_differs(before: &Node, after: &Node) -> bool {
    fn count(node: &Node) -> usize {
        1 + match &node.value {
            Value::List(items) => items.iter().map(count).sum(),
            Value::Map(members) => members.iter().map(|(_, node)| count(node)).sum(),
            _ => 0,
        }
    }
    count(before) != count(after)
}

/// Reads the tree into a type. A node at fault is reported, taken out, and reading starts again, so that one
/// problem does not hide the next.
fn read<T: for<'de> Deserialize<'de> + Default>(tree: &mut Node, problems: &mut Problems) -> T {
    loop {
        let error = match T::deserialize(&*tree) {
            Ok(value) => return value,
            Err(error) => error,
        };
        let steps = error.steps.clone();
        let follows_from_another = matches!(&error.kind, ErrorKind::MissingField(field) if {
            let mut gone = steps.clone();
            gone.push(Step::Member((*field).to_owned()));
            problems.taken.contains(&gone)
        });
        if !follows_from_another {
            report(tree, &error, problems);
        }
        if !tree.remove(&steps) {
            return T::default();
        }
        if let Some(Step::Item(_)) = steps.last() {
            // Later items moved up; what was taken from them keeps no stable address.
            let list = steps.len() - 1;
            problems.taken.retain(|gone| !gone.starts_with(&steps[..list]));
        }
        problems.taken.push(steps);
    }
}

fn report(tree: &Node, error: &NodeError, problems: &mut Problems) {
    let node = tree.at(&error.steps);
    let (mut place, path) = node.map_or((tree.place, String::new()), |node| (node.place, node.path.clone()));
    let last = match error.steps.last() {
        Some(Step::Member(name)) => name.as_str(),
        _ => "",
    };
    let (reason, hint) = match &error.kind {
        ErrorKind::UnknownField { expected } => {
            let outer = tree.at(&error.steps[..error.steps.len().saturating_sub(1)]);
            if let Some((key, _)) =
                outer.and_then(|outer| outer.members().iter().find(|(key, _)| key.name == last))
            {
                place = key.place;
            }
            (format!("unknown field `{last}`"), nearest(last, expected.iter().copied()))
        }
        ErrorKind::UnknownVariant { found, expected } => {
            (format!("unknown value `{found}`"), nearest(found, expected.iter().copied()))
        }
        ErrorKind::MissingField(field) => (format!("the field `{field}` is missing"), String::new()),
        ErrorKind::Other(reason) => (reason.clone(), String::new()),
    };
    problems.add(Severity::Error, place, &path, reason, hint);
}

/// A hint that names the closest of the known words, or all of them when none is close.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let closest = known
        .clone()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance);
    match closest {
        Some((distance, candidate)) if distance <= 2.max(word.len() / 3) => {
            format!("did you mean `{candidate}`?")
        }
        Some(_) => {
            let all: Vec<_> = known.take(16).map(|name| format!("`{name}`")).collect();
            format!("known: {}", all.join(", "))
        }
        None => String::new(),
    }
}

/// The config that the environment alone gives: `OPENAI_API_KEY`, `ANTHROPIC_API_KEY`,
/// `MLFLOW_TRACKING_URI`. `None` when it names nothing to serve.
#[must_use]
pub fn load_environment() -> Option<String> {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let mut text = String::from("version: 1\nproviders:\n");
    let mut any = false;
    for (variable, provider) in [("OPENAI_API_KEY", "openai"), ("ANTHROPIC_API_KEY", "anthropic")] {
        if set(variable) {
            any = true;
            let _infallible = writeln!(text, "  {provider}: {{ kind: {provider}, api_key: env:{variable} }}");
        }
    }
    if !any {
        text.push_str("  {}\n");
    }
    if set("MLFLOW_TRACKING_URI") {
        any = true;
        text.push_str("registries:\n  default:\n    uri: ${env:MLFLOW_TRACKING_URI}\n");
        if set("MLFLOW_TRACKING_TOKEN") {
            text.push_str("    token: env:MLFLOW_TRACKING_TOKEN\n");
        }
        if set("MLFLOW_TRACKING_USERNAME") && set("MLFLOW_TRACKING_PASSWORD") {
            text.push_str(
                "    username: ${env:MLFLOW_TRACKING_USERNAME}\n    password: env:MLFLOW_TRACKING_PASSWORD\n",
            );
        }
    }
    text.push_str("access: { allow_provider_models: true }\n");
    any.then(|| text.replace("providers:\n  {}\n", "providers: {}\n"))
}
