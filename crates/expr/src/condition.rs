//! Conditions in the Common Expression Language.

use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::{Context, Env, ExecutionError, Program, Value};

use crate::{Facts, NAMES};

/// The longest expression, in bytes.
const MAX_LENGTH: usize = 4 << 10;
/// How deep an expression may nest: evaluation recurses.
const MAX_DEPTH: usize = 64;
/// The stack of the thread that reads an expression, in bytes: reading recurses before anything can be counted.
const STACK: usize = 128 << 20;
/// How deep macros (`all`, `exists`, `map`, `filter`) may stand inside one another: each level multiplies the work.
const MAX_NESTING: usize = 2;

pub(crate) static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A condition over [`Facts`]. Beside what CEL has, `max`, `min` and `sum` take a list of numbers and `index_of_max`
/// says where the largest stands.
pub struct Condition {
    text: String,
    program: Program,
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Condition").field(&self.text).finish()
    }
}

impl Condition {
    /// Compiles an expression. The error says what is wrong with it.
    pub fn compile(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), program: compile(text, &NAMES)? })
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it holds. The error says why that cannot be told, without any of the values.
    pub fn holds(&self, facts: Facts<'_>) -> Result<bool, String> {
        let mut context = Context::with_env(Arc::clone(&ENV));
        add_functions(&mut context)?;
        let unfit = |_| "a value has no counterpart in CEL".to_owned();
        context.add_variable_from_value("result", cel::to_value(facts.result).map_err(unfit)?);
        context.add_variable_from_value("request", cel::to_value(facts.request).map_err(unfit)?);
        context.add_variable_from_value("rows", i64::try_from(facts.rows).unwrap_or(i64::MAX));
        match self.program.execute(&context).map_err(|error| plain(&error))? {
            Value::Bool(holds) => Ok(holds),
            other => Err(format!("it gives {}, not true or false", other.type_of())),
        }
    }
}

/// Compiles an expression in which `names` are known, within the bounds above.
pub(crate) fn compile(text: &str, names: &'static [&'static str]) -> Result<Program, String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("the expression is longer than {MAX_LENGTH} bytes"));
    }
    let reader = std::thread::Builder::new().stack_size(STACK);
    let owned = text.to_owned();
    let read =
        reader.spawn(move || read(&owned, names)).map_err(|_| "no thread can be started".to_owned())?;
    read.join().unwrap_or_else(|_| Err("the expression cannot be read".to_owned()))
}

fn read(text: &str, names: &'static [&'static str]) -> Result<Program, String> {
    let program = ENV.compile(text).map_err(|errors| {
        errors.errors.first().map_or_else(
            || "the expression cannot be read".to_owned(),
            |error| format!("the expression cannot be read at character {}: {}", error.pos.1, error.msg),
        )
    })?;
    let mut reader = Reader { names, bound: Vec::new(), unknown: None, depth: 0, deepest: 0 };
    if reader.nesting(program.expression()) > MAX_NESTING {
        return Err(format!("macros stand more than {MAX_NESTING} deep inside one another"));
    }
    if reader.deepest > MAX_DEPTH {
        return Err(format!("the expression is nested more than {MAX_DEPTH} deep"));
    }
    match reader.unknown {
        Some(name) => Err(format!("`{name}` is not known here; there {}", listed(names))),
        None => Ok(program),
    }
}

fn listed(names: &[&str]) -> String {
    match names {
        [name] => format!("is `{name}`"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|name| format!("`{name}`")).collect();
            format!("are {} and `{last}`", first.join(", "))
        }
        [] => "is nothing".to_owned(),
    }
}

fn add_functions(context: &mut Context<'_, '_>) -> Result<(), String> {
    let taken = |_| "a function is there twice".to_owned();
    let extreme = |name: &'static str, pick: fn(f64, f64) -> f64| {
        move |list: Arc<Vec<Value>>| numbers(name, &list)?.into_iter().reduce(pick).ok_or_else(|| empty(name))
    };
    context.add_function("max", extreme("max", f64::max)).map_err(taken)?;
    context.add_function("min", extreme("min", f64::min)).map_err(taken)?;
    context
        .add_function("sum", |list: Arc<Vec<Value>>| -> Result<f64, ExecutionError> {
            Ok(numbers("sum", &list)?.into_iter().sum())
        })
        .map_err(taken)?;
    context
        .add_function("index_of_max", |list: Arc<Vec<Value>>| -> Result<i64, ExecutionError> {
            let numbers = numbers("index_of_max", &list)?;
            let mut best = 0;
            for (index, number) in numbers.iter().enumerate() {
                if *number > numbers[best] {
                    best = index;
                }
            }
            if numbers.is_empty() { Err(empty("index_of_max")) } else { Ok(best as i64) }
        })
        .map_err(taken)
}

fn numbers(function: &str, list: &[Value]) -> Result<Vec<f64>, ExecutionError> {
    list.iter()
        .map(|value| match value {
            Value::Int(number) => Ok(*number as f64),
            Value::UInt(number) => Ok(*number as f64),
            Value::Float(number) => Ok(*number),
            _ => Err(ExecutionError::function_error(function, "the list holds what is no number")),
        })
        .collect()
}

fn empty(function: &str) -> ExecutionError {
    ExecutionError::function_error(function, "the list is empty")
}

/// What went wrong, without the values that CEL's own messages hold.
pub(crate) fn plain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(_) => "it asks for a member that is not there".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "it asks for an item that is not there".to_owned(),
        ExecutionError::NoSuchOverload(overload) => format!(
            "`{}` does not go with {}",
            overload.function().trim_matches(['_', '@']),
            overload.argument_types().join(" and ")
        ),
        ExecutionError::UndeclaredReference(name) => format!("there is no `{name}`"),
        ExecutionError::FunctionError { function, message } => format!("`{function}`: {message}"),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "it divides by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "a number is out of range".to_owned(),
        ExecutionError::ValuesNotComparable(..) => "it compares what cannot be compared".to_owned(),
        ExecutionError::UnexpectedType { got, want } => format!("it has {got} where {want} is due"),
        _ => "it does not fit the values".to_owned(),
    }
}

/// Walks an expression: how deep its macros nest, and the first name that nothing has.
struct Reader<'a> {
    names: &'static [&'static str],
    bound: Vec<&'a str>,
    unknown: Option<String>,
    depth: usize,
    deepest: usize,
}

impl<'a> Reader<'a> {
    fn nesting(&mut self, expression: &'a IdedExpr) -> usize {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        let nesting = self.inside(expression);
        self.depth -= 1;
        nesting
    }

    fn inside(&mut self, expression: &'a IdedExpr) -> usize {
        match &expression.expr {
            Expr::Ident(name) => {
                let known = self.names.contains(&name.as_str()) || self.bound.contains(&name.as_str());
                if !known && !TYPES.contains(&name.as_str()) {
                    self.unknown.get_or_insert_with(|| name.clone());
                }
                0
            }
            Expr::Call(call) => {
                let target = call.target.as_deref().map_or(0, |target| self.nesting(target));
                call.args.iter().fold(target, |most, argument| most.max(self.nesting(argument)))
            }
            Expr::Select(select) => self.nesting(&select.operand),
            Expr::List(list) => list.elements.iter().fold(0, |most, item| most.max(self.nesting(item))),
            Expr::Map(map) => map.entries.iter().fold(0, |most, entry| most.max(self.entry(&entry.expr))),
            Expr::Struct(made) => {
                made.entries.iter().fold(0, |most, entry| most.max(self.entry(&entry.expr)))
            }
            Expr::Comprehension(macro_) => {
                let outside = self.nesting(&macro_.iter_range).max(self.nesting(&macro_.accu_init));
                let before = self.bound.len();
                self.bound.extend([macro_.iter_var.as_str(), macro_.accu_var.as_str()]);
                self.bound.extend(macro_.iter_var2.as_deref());
                let parts = [&macro_.loop_cond, &macro_.loop_step, &macro_.result];
                let inside = parts.into_iter().fold(0, |most, part| most.max(self.nesting(part)));
                self.bound.truncate(before);
                outside.max(inside + 1)
            }
            Expr::Unspecified | Expr::Literal(_) => 0,
        }
    }

    fn entry(&mut self, entry: &'a EntryExpr) -> usize {
        match entry {
            EntryExpr::MapEntry(entry) => self.nesting(&entry.key).max(self.nesting(&entry.value)),
            EntryExpr::StructField(field) => self.nesting(&field.value),
        }
    }
}

/// CEL's own names of types.
const TYPES: [&str; 9] = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type"];

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn holds(text: &str, result: &Json) -> Result<bool, String> {
        let request = json!({ "country": "de", "amount": 12 });
        Condition::compile(text)?.holds(Facts { result, request: &request, rows: 3 })
    }

    #[test]
    fn conditions_speak_of_result_request_and_rows() {
        for (text, result, expected) in [
            ("result < 0.8", json!(0.5), true),
            ("result < 0.8", json!(1), false),
            ("max(result) < 0.8", json!([0.1, 0.7, 0.2]), true),
            ("max(result) < 0.8", json!([0, 1]), false),
            ("result.score > 0.5 && request.country == 'de'", json!({ "score": 0.6 }), true),
            ("result == 'spam' || rows > 2", json!("ham"), true),
            ("result.exists(p, p > 0.4 && p < 0.6)", json!([0.45, 0.55]), true),
            ("index_of_max(result) == 1", json!([0.45, 0.55]), true),
            ("sum(result) < 1.0", json!([0.25, 0.25]), true),
            ("request.amount >= 10 && type(result) == double", json!(0.5), true),
        ] {
            assert_eq!(holds(text, &result), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_at_load() {
        for (text, reason) in [
            ("result <", "cannot be read at character"),
            ("score < 0.8", "`score` is not known here"),
            ("result.all(a, a.all(b, b.all(c, c > 0)))", "more than 2 deep"),
            (&"x".repeat(5000), "longer than 4096 bytes"),
        ] {
            let error = Condition::compile(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(Condition::compile("result.all(a, a.all(b, b > 0))").is_ok());
        for deep in [
            format!("{}result{}", "(".repeat(2000), ")".repeat(2000)),
            format!("rows > 1{}", " + rows".repeat(500)),
            "rows > 1 ? true : ".repeat(200) + "false",
        ] {
            assert!(Condition::compile(&deep).is_err(), "{deep}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_says_why_without_the_data() {
        for (text, result, reason) in [
            ("result.score > 1", json!({ "secret": 1 }), "a member that is not there"),
            ("result[5] > 1", json!([1]), "not there"),
            ("result > 1", json!("secret"), "does not go with"),
            ("max(result) > 1", json!(["secret"]), "no number"),
            ("max(result) > 1", json!([]), "the list is empty"),
            ("result", json!(0.5), "not true or false"),
        ] {
            let error = holds(text, &result).unwrap_err();
            assert!(error.contains(reason) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
