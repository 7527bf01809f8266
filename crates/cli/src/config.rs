//! `millgate config`: the configuration of a running gateway, its changes and the way back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use similar::TextDiff;

use crate::admin::{Admin, cell, table};
use crate::args::Reach;
use crate::check::print;
use crate::keys::time;
use crate::{is_json, pretty, wrong_usage};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration that is served, or a version of the history. Secrets are references.
    Show(Show),
    /// Report every problem that a file would have on the gateway's machine; changes nothing.
    Validate(Validate),
    /// Serve a file's content, and write it to the gateway's file; on an error nothing changes.
    Apply(Apply),
    /// List the configurations that were served: when, by whom, why.
    History(History),
    /// Serve the configuration before again, or an older one.
    Undo(Undo),
    /// Show the difference between what is served and a file, or between versions of the history.
    Diff(Diff),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A number of the history. Default: what is served.
    #[arg(long = "id", value_name = "ID")]
    id: Option<u64>,
    /// The file's text instead of the canonical form.
    #[arg(long)]
    text: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The file.
    file: PathBuf,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The file.
    file: PathBuf,
    /// Only if the configuration with this digest is served (`config show --output json` tells it).
    #[arg(long, value_name = "DIGEST")]
    if_match: Option<String>,
    #[command(flatten)]
    change: Change,
}

/// What every change may say.
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// Why, for the history.
    #[arg(long, default_value = "")]
    reason: String,
    /// Replace the gateway's file also if it was changed by hand and its content is not served.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// A number of the history. Default: the configuration before.
    #[arg(long, value_name = "ID")]
    to: Option<u64>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The file to compare with what is served.
    file: Option<PathBuf>,
    /// A number of the history. Default: what is served.
    #[arg(long, value_name = "ID")]
    from: Option<u64>,
    /// A number of the history, instead of a file.
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    to: Option<u64>,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn config(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Show(asked) => Admin::run(&asked.reach, async |admin| show(&admin, asked).await),
        ConfigCommand::Validate(asked) => {
            Admin::run(&asked.reach, async |admin| validate(&admin, asked).await)
        }
        ConfigCommand::Apply(asked) => {
            Admin::run(&asked.change.reach, async |admin| apply(&admin, asked).await)
        }
        ConfigCommand::History(asked) => Admin::run(&asked.reach, async |admin| history(&admin, asked).await),
        ConfigCommand::Undo(asked) => {
            Admin::run(&asked.change.reach, async |admin| undo(&admin, asked).await)
        }
        ConfigCommand::Diff(asked) => Admin::run(&asked.reach, async |admin| diff(&admin, asked).await),
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// The text of a version, or of what is served.
async fn text(admin: &Admin, id: Option<u64>) -> anyhow::Result<String> {
    let found = match id {
        Some(id) => admin.get(&["config", "history", &id.to_string()], &[]).await?,
        None => admin.get(&["config"], &[]).await?,
    };
    match found["text"].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!(
            "its text is not shown: it needs the role `admin`, and a text with secrets in clear text is not kept"
        ),
    }
}

async fn show(admin: &Admin, asked: &Show) -> anyhow::Result<ExitCode> {
    if asked.text || (asked.id.is_some() && !is_json(asked.reach.output.output)) {
        return print(&text(admin, asked.id).await?);
    }
    let found = match asked.id {
        Some(id) => admin.get(&["config", "history", &id.to_string()], &[]).await?,
        None => admin.get(&["config"], &[]).await?,
    };
    let shown = if is_json(asked.reach.output.output) { &found } else { &found["config"] };
    print(&(pretty(shown) + "\n"))
}

async fn validate(admin: &Admin, asked: &Validate) -> anyhow::Result<ExitCode> {
    let answer = admin.post(&["config", "validate"], &json!({ "text": read(&asked.file)? })).await?;
    if is_json(asked.reach.output.output) {
        print(&(pretty(&answer) + "\n"))?;
    } else {
        warn(&asked.file, &answer["problems"]);
    }
    Ok(if answer["valid"] == true { ExitCode::SUCCESS } else { wrong_usage() })
}

/// Problems as `millgate check` writes them.
fn warn(file: &Path, problems: &Value) {
    for problem in problems.as_array().into_iter().flatten() {
        let text = |name: &str| problem[name].as_str().unwrap_or_default();
        let kind = if text("severity") == "warning" { "warning: " } else { "" };
        let path = if text("path").is_empty() { String::new() } else { format!("{}: ", text("path")) };
        let hint = if text("hint").is_empty() { String::new() } else { format!("; {}", text("hint")) };
        let (line, column) = (&problem["line"], &problem["column"]);
        eprintln!("{}:{line}:{column}: {kind}{path}{}{hint}", file.display(), text("reason"));
    }
}

async fn apply(admin: &Admin, asked: &Apply) -> anyhow::Result<ExitCode> {
    let change = &asked.change;
    let body = json!({ "text": read(&asked.file)?, "reason": change.reason, "overwrite": change.overwrite });
    let expected = asked.if_match.as_ref().map(|digest| format!("\"{}\"", digest.trim_matches('"')));
    let answer = admin.change(&["config", "apply"], &body, expected.as_deref()).await?;
    warn(&asked.file, &answer["warnings"]);
    told(&answer, &change.reach)
}

async fn undo(admin: &Admin, asked: &Undo) -> anyhow::Result<ExitCode> {
    let change = &asked.change;
    let mut body = Map::new();
    body.insert("reason".to_owned(), change.reason.as_str().into());
    body.insert("overwrite".to_owned(), change.overwrite.into());
    if let Some(to) = asked.to {
        body.insert("to".to_owned(), to.into());
    }
    let answer = admin.post(&["config", "undo"], &body.into()).await?;
    told(&answer, &change.reach)
}

fn told(answer: &Value, reach: &Reach) -> anyhow::Result<ExitCode> {
    if is_json(reach.output.output) {
        return print(&(pretty(answer) + "\n"));
    }
    let later = answer["needs_restart"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !later.is_empty() {
        let names: Vec<_> = later.iter().map(cell).collect();
        eprintln!("from the next start on: {}", names.join(", "));
    }
    print(&format!(
        "serving version {} (generation {})\n",
        cell(&answer["version"]),
        cell(&answer["generation"])
    ))
}

async fn history(admin: &Admin, asked: &History) -> anyhow::Result<ExitCode> {
    let versions = admin.all(&["config", "history"], &[], "versions").await?;
    if is_json(asked.reach.output.output) {
        return print(&(pretty(&Value::Array(versions)) + "\n"));
    }
    let row = |version: &Value| {
        let restored = version["restored"].as_i64().map(|id| format!(" of {id}")).unwrap_or_default();
        [
            if version["served"] == true { "*".to_owned() } else { String::new() },
            cell(&version["id"]),
            time(&version["applied_ms"]),
            format!("{}{restored}", cell(&version["origin"])),
            cell(&version["principal"]),
            version["digest"].as_str().unwrap_or_default().chars().take(12).collect(),
            cell(&version["reason"]).replace('\n', " "),
        ]
    };
    let rows: Vec<_> = versions.iter().map(row).collect();
    print(&table(["", "ID", "WHEN", "ORIGIN", "BY", "DIGEST", "REASON"], &rows))
}

/// Ends with 1 where there is a difference, as `diff` does.
async fn diff(admin: &Admin, asked: &Diff) -> anyhow::Result<ExitCode> {
    let name = |id: Option<u64>| id.map_or("served".to_owned(), |id| format!("version {id}"));
    let old = text(admin, asked.from).await?;
    let (new, to) = match (&asked.file, asked.to) {
        (Some(file), _) => (read(file)?, file.display().to_string()),
        (None, Some(id)) => (text(admin, Some(id)).await?, name(Some(id))),
        (None, None) if asked.from.is_some() => (text(admin, None).await?, name(None)),
        (None, None) => bail!("name a file, `--from` or `--to`"),
    };
    let diff = TextDiff::from_lines(&old, &new);
    let shown = diff.unified_diff().context_radius(3).header(&name(asked.from), &to).to_string();
    print(&shown)?;
    Ok(if old == new { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
