//! `millgate doctor`: every finding with its fix.

use std::process::ExitCode;

use serde::Serialize;

use crate::args::Doctor;
use crate::check::print;
use crate::run::{data_dir, find, model_settings};
use crate::{is_json, pretty};

#[derive(Debug, Serialize)]
struct Finding {
    /// `ok`, `warning` or `error`.
    level: &'static str,
    what: String,
    /// What to do; empty when nothing is wrong.
    fix: String,
}

pub(crate) fn doctor(arguments: &Doctor) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    let mut add = |level, what: String, fix: String| findings.push(Finding { level, what, fix });
    let folder = data_dir(&arguments.data)?;
    let mut config = millgate_config::Config::default();
    match find(arguments.config_path.as_deref()) {
        Ok(None) => add("warning", "no configuration file".to_owned(), "name one with --config-path".to_owned()),
        Err(error) => add("error", format!("{error:#}"), "check the path and its permissions".to_owned()),
        Ok(Some((source, text))) => {
            let file = source.path().display().to_string();
            match millgate_config::load(&text) {
                Ok(loaded) => {
                    add("ok", format!("{file}: {} endpoints", loaded.config.endpoints.len()), String::new());
                    for warning in &loaded.warnings {
                        add("warning", warning.in_file(&file), warning.hint.clone());
                    }
                    config = loaded.config;
                }
                Err(problems) => {
                    for problem in &problems {
                        add("error", problem.in_file(&file), problem.hint.clone());
                    }
                }
            }
        }
    }
    let settings = model_settings(&config, &folder)?;
    let _todo = settings;
    if is_json(arguments.output.output) {
        print(&(pretty(&serde_json::to_value(&findings)?) + "\n"))?;
    } else {
        for finding in &findings {
            let fix = if finding.fix.is_empty() { String::new() } else { format!(" -> {}", finding.fix) };
            print(&format!("{:<8} {}{fix}\n", finding.level, finding.what))?;
        }
    }
    let broken = findings.iter().any(|finding| finding.level == "error");
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
