//! `millgate teams` and `millgate users`: who bounds the keys and tokens of a running gateway.

use std::process::ExitCode;

use anyhow::bail;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::admin::{Admin, cell, table};
use crate::args::{Bounds, Budget, OnePrincipal, Principals};
use crate::check::print;
use crate::{is_json, pretty};

/// What is kept at a path of the admin API.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Teams,
    Users,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Teams => "teams",
            Self::Users => "users",
        }
    }

    /// The field that names what is above.
    fn parent(self) -> &'static str {
        match self {
            Self::Teams => "organization",
            Self::Users => "team",
        }
    }
}

pub(crate) fn principals(kind: Kind, command: &Principals) -> anyhow::Result<ExitCode> {
    match command {
        Principals::Create { one, parent, bounds, budget } => Admin::run(&one.reach, async |admin| {
            let mut body = said(bounds)?;
            body.extend(parent.iter().map(|parent| (kind.parent().to_owned(), parent.clone().into())));
            body.extend(budget.said());
            body.insert("name".to_owned(), one.name.clone().into());
            show(&admin.post(&[kind.path()], &Value::Object(body)).await?, one)
        }),
        Principals::List { reach } => Admin::run(reach, async |admin| {
            let listed = admin.get(&[kind.path()], &[]).await?;
            if is_json(reach.output.output) {
                print(&(pretty(&listed["principals"]) + "\n"))?;
            } else {
                print(&rows(kind, &listed["principals"]))?;
            }
            Ok(ExitCode::SUCCESS)
        }),
        Principals::Change { one, parent, bounds, budget, no_budget, disable, enable } => {
            Admin::run(&one.reach, async |admin| {
                let mut body = said(bounds)?;
                body.extend(parent.iter().map(|parent| (kind.parent().to_owned(), parent.clone().into())));
                body.extend(budget.said());
                body.extend(no_budget.then(|| ("budget".to_owned(), Value::Null)));
                if *disable || *enable {
                    body.insert("disabled".to_owned(), (*disable).into());
                }
                if body.is_empty() {
                    bail!("nothing is to be changed: see --help");
                }
                let path = [kind.path(), &one.name];
                show(&admin.call(Method::PATCH, &path, &[], Some(&Value::Object(body))).await?, one)
            })
        }
        Principals::Remove { one } => Admin::run(&one.reach, async |admin| {
            show(&admin.call(Method::DELETE, &[kind.path(), &one.name], &[], None).await?, one)
        }),
    }
}

impl Budget {
    /// The field, if it was said.
    pub(crate) fn said(&self) -> Option<(String, Value)> {
        let usd = self.usd.as_ref()?;
        let mut budget = json!({ "usd": usd, "per": self.per });
        if let Some(zone) = &self.zone {
            budget["zone"] = zone.as_str().into();
        }
        Some(("budget".to_owned(), budget))
    }
}

/// What a budget allows, for tables.
pub(crate) fn allowed(budget: &Value) -> String {
    if budget.is_null() {
        "-".to_owned()
    } else {
        format!("{}/{}", cell(&budget["usd"]), cell(&budget["per"]))
    }
}

/// The fields that were said.
pub(crate) fn said(bounds: &Bounds) -> anyhow::Result<Map<String, Value>> {
    let mut body = Map::new();
    let lists = [
        ("roles", &bounds.role),
        ("endpoints", &bounds.endpoint),
        ("targets", &bounds.target),
        ("deny", &bounds.deny),
    ];
    for (name, values) in lists {
        if !values.is_empty() {
            // One empty word empties the list.
            let values: Vec<_> = values.iter().filter(|value| !value.is_empty()).collect();
            body.insert(name.to_owned(), json!(values));
        }
    }
    if !bounds.tag.is_empty() {
        let mut tags = Map::new();
        for tag in &bounds.tag {
            let Some((name, value)) = tag.split_once('=') else {
                bail!("`{tag}` is no tag: write NAME=VALUE")
            };
            tags.insert(name.to_owned(), value.into());
        }
        body.insert("tags".to_owned(), Value::Object(tags));
    }
    Ok(body)
}

fn rows(kind: Kind, listed: &Value) -> String {
    let words = |value: &Value| {
        let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
        if words.is_empty() { "-".to_owned() } else { words.iter().map(cell).collect::<Vec<_>>().join(",") }
    };
    let row = |entry: &Value| {
        [
            cell(&entry["name"]),
            cell(&entry["state"]),
            cell(&entry[kind.parent()]),
            words(&entry["roles"]),
            words(&entry["reach"]["endpoints"]),
            words(&entry["reach"]["targets"]),
            words(&entry["members"]),
            allowed(&entry["budget"]),
        ]
    };
    let rows: Vec<_> = listed.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(row).collect();
    let parent = if matches!(kind, Kind::Teams) { "ORGANIZATION" } else { "TEAM" };
    table(["NAME", "STATE", parent, "ROLES", "ENDPOINTS", "TARGETS", "MEMBERS", "BUDGET"], &rows)
}

fn show(answer: &Value, one: &OnePrincipal) -> anyhow::Result<ExitCode> {
    if is_json(one.reach.output.output) {
        print(&(pretty(answer) + "\n"))?;
    } else {
        print(&format!("{}: {}\n", cell(&answer["name"]), cell(&answer["state"])))?;
    }
    Ok(ExitCode::SUCCESS)
}
