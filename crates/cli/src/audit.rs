//! `millgate audit`: the audit log, read from the data folder (a gateway may be writing to it meanwhile) or asked from a
//! running gateway.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use millgate_audit::Query;
use serde_json::json;

use crate::admin::Admin;
use crate::args::{AuditLog, ExportAudit, Format, Output, Reach, VerifyAudit};
use crate::check::print;
use crate::run::data_dir;
use crate::store::audit_key;
use crate::{is_json, pretty};

pub(crate) fn audit(command: &AuditLog) -> anyhow::Result<ExitCode> {
    match command {
        AuditLog::Verify(asked) => verify(asked),
        AuditLog::Export(asked) => export(asked),
    }
}

fn verify(asked: &VerifyAudit) -> anyhow::Result<ExitCode> {
    let data = data_dir(&asked.data)?;
    let found = millgate_audit::verify(&data.join("audit"), &key(&data)?, |_, _| {});
    let as_json = is_json(asked.output.output);
    let text = match &found {
        Ok(report) if as_json => pretty(&json!({ "whole": true, "report": report })) + "\n",
        Ok(report) => {
            let torn = match report.torn {
                0 => String::new(),
                torn => format!("; {torn} bytes of a record that nobody was told of"),
            };
            let (first, last) = (report.first.unwrap_or(0), report.last.unwrap_or(0));
            let (records, files) = (report.records, report.segments);
            format!("whole: {records} records ({first} to {last}) in {files} files{torn}\n")
        }
        Err(error) if as_json => pretty(&json!({ "whole": false, "reason": error.to_string() })) + "\n",
        Err(error) => format!("NOT WHOLE: {error}\n"),
    };
    print(&text)?;
    Ok(if found.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn export(asked: &ExportAudit) -> anyhow::Result<ExitCode> {
    if let Some(url) = &asked.url {
        let reach = Reach { url: url.clone(), output: Output { output: Format::Text } };
        return Admin::run(&reach, async |admin| ask(&admin, asked).await);
    }
    let data = data_dir(&asked.data)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let query = Query {
        after: asked.after,
        limit: usize::MAX,
        since_ms: asked.since.map(jiff::Timestamp::as_millisecond),
        until_ms: asked.until.map(jiff::Timestamp::as_millisecond),
        principal: asked.principal.clone(),
        kind: asked.kind.clone(),
        path: asked.path.clone(),
    };
    let clock = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
    millgate_audit::verify(&data.join("audit"), &key(&data)?, |seq, record| {
        if seq > asked.after && written.is_ok() && query.wants(record, &clock) {
            let members = record.strip_prefix('{').unwrap_or(record);
            written = writeln!(out, "{{\"seq\":{seq},{members}");
        }
    })?;
    written.and_then(|()| out.flush())?;
    Ok(ExitCode::SUCCESS)
}

/// The same from a running gateway, page by page.
async fn ask(admin: &Admin, asked: &ExportAudit) -> anyhow::Result<ExitCode> {
    let (since, until) = (asked.since.map(|at| at.to_string()), asked.until.map(|at| at.to_string()));
    let mut cursor: Option<String> = None;
    let after = asked.after.to_string();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    loop {
        let given = [
            ("kind", asked.kind.as_deref()),
            ("since", since.as_deref()),
            ("until", until.as_deref()),
            ("principal", asked.principal.as_deref()),
            ("path", asked.path.as_deref()),
            ("after", Some(after.as_str())),
            ("limit", Some("1000")),
            ("cursor", cursor.as_deref()),
        ];
        let query: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let page = admin.get(&["audit"], &query).await?;
        for record in page["records"].as_array().into_iter().flatten() {
            writeln!(out, "{record}")?;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The key that the log was bound with. A missing one is said: a new one would make the log look changed.
fn key(data: &Path) -> anyhow::Result<Vec<u8>> {
    let file = data.join("audit-key");
    if !file.exists() {
        let what = if data.join("audit").is_dir() {
            "the log cannot be checked without it"
        } else {
            "there is no audit log"
        };
        bail!("{} is gone: {what}; restore it from a backup, or name the data folder", file.display());
    }
    audit_key(data)
}
