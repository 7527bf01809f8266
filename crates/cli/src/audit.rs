//! `millgate audit`: the audit log, read from the data folder; a gateway may be writing to it meanwhile.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::args::{AuditLog, ExportAudit, VerifyAudit};
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
    let found = millgate_audit::verify(&data.join("audit"), &audit_key(&data)?, |_, _| {});
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
    let data = data_dir(&asked.data)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let is_wanted = |record: &str| {
        let Some(kind) = &asked.kind else { return true };
        serde_json::from_str::<Value>(record).is_ok_and(|record| record["kind"] == **kind)
    };
    millgate_audit::verify(&data.join("audit"), &audit_key(&data)?, |seq, record| {
        if seq > asked.after && written.is_ok() && is_wanted(record) {
            let members = record.strip_prefix('{').unwrap_or(record);
            written = writeln!(out, "{{\"seq\":{seq},{members}");
        }
    })?;
    written.and_then(|()| out.flush())?;
    Ok(ExitCode::SUCCESS)
}
