//! `millgate models list` and `show`: the registries of a running gateway.

use std::process::ExitCode;

use serde_json::Value;

use crate::admin::{Admin, cell, table};
use crate::args::{ListModels, ShowModel};
use crate::check::print;
use crate::{is_json, pretty};

pub(crate) fn list(asked: &ListModels) -> anyhow::Result<ExitCode> {
    Admin::run(&asked.reach, async |admin| {
        let given = [
            ("registry", asked.registry.as_deref()),
            ("name", asked.name.as_deref()),
            ("tag", asked.tag.as_deref()),
            ("alias", asked.alias.as_deref()),
        ];
        let query: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let found = admin.all(&["models"], &query, "models").await?;
        if is_json(asked.reach.output.output) {
            print(&(pretty(&Value::Array(found)) + "\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let row = |found: &Value| {
            let model = &found["model"];
            let served = found["served"].as_array().map(Vec::as_slice).unwrap_or_default();
            let places = served.iter().map(|place| {
                format!(
                    "{} ({}, {})",
                    cell(&place["endpoint"]),
                    cell(&place["version"]),
                    cell(&place["runtime"])
                )
            });
            [
                cell(&model["name"]),
                cell(&model["latest_version"]),
                pairs(&model["aliases"]),
                pairs(&model["tags"]),
                none_as_dash(places.collect::<Vec<_>>().join(", ")),
            ]
        };
        let rows: Vec<_> = found.iter().map(row).collect();
        print(&table(["MODEL", "LATEST", "ALIASES", "TAGS", "SERVED AS (VERSION, RUNTIME)"], &rows))?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(crate) fn show(asked: &ShowModel) -> anyhow::Result<ExitCode> {
    Admin::run(&asked.reach, async |admin| {
        let version = asked.version.map(|version| version.to_string());
        let mut path = vec!["models", asked.registry.as_str(), asked.name.as_str()];
        if let Some(version) = &version {
            path.extend(["versions", version.as_str()]);
        }
        let told = admin.get(&path, &[]).await?;
        let text = if is_json(asked.reach.output.output) {
            pretty(&told) + "\n"
        } else if version.is_some() {
            facts(&told)
        } else {
            described(&told)
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn described(told: &Value) -> String {
    let list = |name: &str| told[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let model = &told["model"];
    let mut out = format!("{}\n", cell(&model["name"]));
    if let Some(text) = model["description"].as_str() {
        out.push_str(&format!("{text}\n"));
    }
    let rows: Vec<_> = list("versions")
        .iter()
        .map(|version| {
            let aliases = version["aliases"].as_array().map(Vec::as_slice).unwrap_or_default();
            let aliases: Vec<_> = aliases.iter().map(cell).collect();
            [
                cell(&version["version"]),
                cell(&version["stage"]),
                none_as_dash(aliases.join(", ")),
                cell(&version["status"]),
                pairs(&version["tags"]),
                cell(&version["run_id"]),
                cell(&version["source"]),
            ]
        })
        .collect();
    out.push('\n');
    out.push_str(&table(["VERSION", "STAGE", "ALIASES", "STATUS", "TAGS", "RUN", "SOURCE"], &rows));
    let rows: Vec<_> = list("served")
        .iter()
        .map(|place| {
            ["endpoint", "target", "state", "version", "runtime", "why", "reason"]
                .map(|name| cell(&place[name]))
        })
        .collect();
    out.push('\n');
    out.push_str(&table(["SERVED AS", "TARGET", "STATE", "VERSION", "RUNTIME", "WHY", "REASON"], &rows));
    out
}

fn facts(told: &Value) -> String {
    let flavors = told["flavors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let flavors: Vec<_> = flavors.iter().map(cell).collect();
    let mut out = format!(
        "flavours  {}\nMLflow    {}\nPython    {}\n",
        flavors.join(", "),
        cell(&told["mlflow_version"]),
        cell(&told["python_version"])
    );
    for (name, field) in [("inputs", "inputs"), ("outputs", "outputs"), ("params", "params")] {
        let Some(entries) = told[field].as_array() else { continue };
        out.push_str(&format!("\n{name}\n"));
        for entry in entries {
            let required = entry["required"].as_bool().unwrap_or(true);
            let kind = if entry["tensor-spec"].is_null() {
                cell(&entry["type"])
            } else {
                entry["tensor-spec"].to_string()
            };
            let optional = if required { "" } else { " (optional)" };
            out.push_str(&format!("  {}  {kind}{optional}\n", cell(&entry["name"])));
        }
    }
    out
}

fn pairs(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    none_as_dash(pairs.map(|(key, value)| format!("{key}={}", cell(value))).collect::<Vec<_>>().join(", "))
}

fn none_as_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
