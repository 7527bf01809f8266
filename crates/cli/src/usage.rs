//! `millgate usage`, `millgate limits`, `millgate budgets`: what a running gateway counts.

use std::process::ExitCode;

use serde_json::Value;

use crate::admin::{Admin, cell, columns};
use crate::args::{Reach, Usage, UsageFormat};
use crate::check::print;
use crate::{is_json, pretty};

pub(crate) fn usage(asked: &Usage) -> anyhow::Result<ExitCode> {
    Admin::run(&asked.reach, async |admin| {
        let by = asked.by.join(",");
        let optional = [("from", &asked.from), ("to", &asked.to), ("zone", &asked.zone)];
        let mut query = vec![("by", by.as_str())];
        query.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
        if let Some(format) = asked.format {
            query.push(("format", if format == UsageFormat::Csv { "csv" } else { "focus" }));
            print(&admin.text(&["usage"], &query).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let report = admin.get(&["usage"], &query).await?;
        if is_json(asked.reach.output.output) {
            print(&(pretty(&report) + "\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let facts = ["requests", "failed", "input_tokens", "output_tokens", "rows", "cost_usd", "unpriced"];
        let names = asked.by.iter().map(String::as_str).chain(facts);
        let head: Vec<String> = names.map(|name| name.replace('_', " ").to_uppercase()).collect();
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let row = |row: &Value, first: &str| {
            let group = asked.by.iter().enumerate().map(|(at, name)| match &row["group"][name] {
                Value::Null if at == 0 => first.to_owned(),
                value => cell(value),
            });
            group.chain(facts.map(|fact| cell(&row[fact]))).collect::<Vec<_>>()
        };
        let rows = report["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut lines: Vec<_> = rows.iter().map(|one| row(one, "-")).collect();
        if !asked.by.is_empty() {
            lines.push(row(&report["total"], "total"));
        }
        print(&columns(&head, &lines))?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(crate) fn limits(reach: &Reach) -> anyhow::Result<ExitCode> {
    counted(
        reach,
        "limits",
        "counts",
        &["LIMIT", "OF", "MEASURE", "BY", "WHO", "USED", "RESERVED", "AMOUNT"],
        |limit, count| {
            let amount = if count.is_null() { &limit["amount"] } else { &count["amount"] };
            let measured = [&limit["name"], &limit["of"], &limit["measure"], &limit["by"], &count["who"]];
            let counts = [&count["used"], &count["reserved"], amount];
            measured.into_iter().chain(counts).map(cell).collect()
        },
    )
}

pub(crate) fn budgets(reach: &Reach) -> anyhow::Result<ExitCode> {
    counted(
        reach,
        "budgets",
        "spent",
        &["BUDGET", "BY", "WHO", "SPENT", "RESERVED", "OF", "PERCENT"],
        |budget, spent| {
            let of = if spent.is_null() { &budget["usd"] } else { &spent["usd"] };
            let percent = spent["percent"].as_f64().map_or("-".to_owned(), |percent| format!("{percent:.1}"));
            let cells = [
                &budget["name"],
                &budget["by"],
                &spent["who"],
                &spent["spent_usd"],
                &spent["reserved_usd"],
                of,
            ];
            cells.into_iter().map(cell).chain([percent]).collect()
        },
    )
}

/// A list in which each entry has counts: one line for each count.
fn counted(
    reach: &Reach,
    path: &str,
    inner: &str,
    head: &[&str],
    line: impl Fn(&Value, &Value) -> Vec<String>,
) -> anyhow::Result<ExitCode> {
    Admin::run(reach, async |admin| {
        let answer = admin.get(&[path], &[]).await?;
        if is_json(reach.output.output) {
            print(&(pretty(&answer[path]) + "\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut lines = Vec::new();
        for entry in answer[path].as_array().map(Vec::as_slice).unwrap_or_default() {
            match entry[inner].as_array().map(Vec::as_slice).unwrap_or_default() {
                [] => lines.push(line(entry, &Value::Null)),
                counts => lines.extend(counts.iter().map(|count| line(entry, count))),
            }
        }
        print(&columns(head, &lines))?;
        Ok(ExitCode::SUCCESS)
    })
}
