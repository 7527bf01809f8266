//! `millgate secrets`: what a running gateway keeps for `secret:NAME` references.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::admin::{Admin, cell, table};
use crate::args::Reach;
use crate::check::print;
use crate::keys::time;
use crate::{is_json, pretty};

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// List names; values are never shown.
    List(List),
    /// Set a secret; its value comes from a file or from standard input.
    Set(Set),
    /// Delete a secret that the configuration does not refer to.
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// What references say: `secret:NAME`.
    name: String,
    /// The file that holds the value. Default: standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The secret.
    name: String,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn secrets(command: &SecretsCommand) -> anyhow::Result<ExitCode> {
    match command {
        SecretsCommand::List(asked) => Admin::run(&asked.reach, async |admin| list(&admin, asked).await),
        SecretsCommand::Set(asked) => {
            let value = value(asked)?;
            Admin::run(&asked.reach, async |admin| set(&admin, asked, &value).await)
        }
        SecretsCommand::Delete(asked) => Admin::run(&asked.reach, async |admin| {
            let answer = admin.call(Method::DELETE, &["secrets", &asked.name], &[], None).await?;
            told(&asked.reach, &answer, "deleted")
        }),
    }
}

/// Never from the command line: everybody on the machine sees that.
fn value(asked: &Set) -> anyhow::Result<String> {
    let mut text = String::new();
    match &asked.file {
        Some(file) => {
            text = std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
        }
        None => {
            if std::io::stdin().is_terminal() {
                eprintln!("the value, then Ctrl-D:");
            }
            std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
        }
    }
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        bail!("the value is empty");
    }
    Ok(text.to_owned())
}

async fn set(admin: &Admin, asked: &Set, value: &str) -> anyhow::Result<ExitCode> {
    let body = json!({ "value": value });
    let answer = admin.call(Method::PUT, &["secrets", &asked.name], &[], Some(&body)).await?;
    told(&asked.reach, &answer, "set")
}

fn told(reach: &Reach, answer: &Value, what: &str) -> anyhow::Result<ExitCode> {
    if is_json(reach.output.output) {
        return print(&(pretty(answer) + "\n"));
    }
    print(&format!("{}: {what} (version {})\n", cell(&answer["name"]), cell(&answer["version"])))
}

async fn list(admin: &Admin, asked: &List) -> anyhow::Result<ExitCode> {
    let found = admin.all(&["secrets"], &[], "secrets").await?;
    if is_json(asked.reach.output.output) {
        return print(&(pretty(&Value::Array(found)) + "\n"));
    }
    let row = |secret: &Value| {
        [
            cell(&secret["name"]),
            cell(&secret["version"]),
            time(&secret["updated_ms"]),
            cell(&secret["updated_by"]),
            if secret["used"] == true { "yes" } else { "no" }.to_owned(),
        ]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    print(&table(["NAME", "VERSION", "SET", "BY", "USED"], &rows))
}
