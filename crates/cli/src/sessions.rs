//! `millgate sessions`: browsers that are signed on at a running gateway.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use crate::admin::{Admin, cell, table};
use crate::args::Reach;
use crate::check::print;
use crate::keys::time;
use crate::{is_json, pretty};

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List browsers that are signed on.
    List(List),
    /// Sign a browser off, on every replica at once.
    End(End),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those of this principal, `ISSUER:USER`.
    #[arg(long)]
    principal: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct End {
    /// As `list` shows it.
    id: String,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn sessions(command: &SessionsCommand) -> anyhow::Result<ExitCode> {
    match command {
        SessionsCommand::List(asked) => Admin::run(&asked.reach, async |admin| list(&admin, asked).await),
        SessionsCommand::End(asked) => Admin::run(&asked.reach, async |admin| {
            let answer = admin.call(Method::DELETE, &["sessions", &asked.id], &[], None).await?;
            if is_json(asked.reach.output.output) {
                return print(&(pretty(&answer) + "\n"));
            }
            print(&format!("{}: signed off\n", cell(&answer["principal"])))
        }),
    }
}

async fn list(admin: &Admin, asked: &List) -> anyhow::Result<ExitCode> {
    let query: Vec<_> = asked.principal.iter().map(|name| ("principal", name.as_str())).collect();
    let found = admin.all(&["sessions"], &query, "sessions").await?;
    if is_json(asked.reach.output.output) {
        return print(&(pretty(&Value::Array(found)) + "\n"));
    }
    let row = |session: &Value| {
        [
            cell(&session["id"]),
            cell(&session["principal"]),
            time(&session["created_ms"]),
            time(&session["expires_ms"]),
        ]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    print(&table(["ID", "PRINCIPAL", "SINCE", "UNTIL"], &rows))
}
