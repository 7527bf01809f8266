//! `millgate check`, `providers`, and printing.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use millgate_config::{Problem, Severity};
use serde_json::{Value, json};

use crate::args::{Check, Format};
use crate::{is_json, pretty, wrong_usage};

/// Standard output is data.
pub(crate) fn print(text: &str) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output cannot be written")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn check(arguments: &Check) -> anyhow::Result<ExitCode> {
    let file = arguments.file.display().to_string();
    let text = match std::fs::read_to_string(&arguments.file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{file}: cannot be read: {error}");
            return Ok(wrong_usage());
        }
    };
    let (loaded, problems) = match millgate_config::load_with(&text, &millgate_config::Values::placeholders())
    {
        Ok(loaded) => {
            let warnings = loaded.warnings.clone();
            (Some(loaded), warnings)
        }
        Err(problems) => (None, problems),
    };
    if is_json(arguments.output.output) {
        let shown: Vec<_> = problems.iter().map(as_json).collect();
        print(&(pretty(&json!({ "valid": loaded.is_some(), "problems": shown })) + "\n"))?;
    } else {
        report(&file, &problems);
    }
    let Some(loaded) = loaded else { return Ok(wrong_usage()) };
    if arguments.print {
        // JSON is YAML too, and needs no second writer.
        print(&(pretty(&serde_json::to_value(&loaded.config)?) + "\n"))?;
    } else if !is_json(arguments.output.output) {
        let count = loaded.config.endpoints.len();
        eprintln!("{file}: fine ({} form, {count} endpoints)", loaded.form);
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes problems to standard error, one a line.
pub(crate) fn report(file: &str, problems: &[Problem]) {
    for problem in problems {
        eprintln!("{}", problem.in_file(file));
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    if errors > 0 {
        eprintln!("{file}: {errors} {}", if errors == 1 { "error" } else { "errors" });
    }
}

fn as_json(problem: &Problem) -> Value {
    json!({
        "severity": if problem.severity == Severity::Error { "error" } else { "warning" },
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "reason": problem.reason,
        "hint": problem.hint,
    })
}

pub(crate) fn providers(format: Format) -> anyhow::Result<ExitCode> {
    let kinds = millgate_provider::kinds();
    if is_json(format) {
        let list: Vec<_> = kinds
            .iter()
            .map(|kind| {
                json!({ "kind": kind.name, "title": kind.title, "base_url": kind.base_url, "key": kind.key_env })
            })
            .collect();
        return print(&(pretty(&list.into()) + "\n"));
    }
    let mut text = String::new();
    for kind in kinds {
        let base = kind.base_url.as_deref().unwrap_or("(base_url needed)");
        text.push_str(&format!("{:<20} {}\n", kind.name, base));
    }
    print(&text)
}
