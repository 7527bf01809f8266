//! `millgate keys`: virtual keys of a running gateway.

use std::process::ExitCode;

use anyhow::bail;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::admin::{Admin, cell, table};
use crate::args::{ChangeKey, CreateKey, Keys, ListKeys, OneKey, Reach, RotateKey};
use crate::check::print;
use crate::principals::{allowed, said};
use crate::{is_json, pretty};

pub(crate) fn keys(command: &Keys) -> anyhow::Result<ExitCode> {
    match command {
        Keys::Create(asked) => Admin::run(&asked.reach, async |admin| create(&admin, asked).await),
        Keys::List(asked) => Admin::run(&asked.reach, async |admin| list(&admin, asked).await),
        Keys::Change(asked) => Admin::run(&asked.reach, async |admin| change(&admin, asked).await),
        Keys::Rotate(asked) => Admin::run(&asked.reach, async |admin| rotate(&admin, asked).await),
        Keys::Revoke(asked) => Admin::run(&asked.reach, async |admin| revoke(&admin, asked).await),
    }
}

async fn create(admin: &Admin, asked: &CreateKey) -> anyhow::Result<ExitCode> {
    let mut tags = Map::new();
    for tag in &asked.tag {
        let Some((name, value)) = tag.split_once('=') else { bail!("`{tag}` is no tag: write NAME=VALUE") };
        tags.insert(name.to_owned(), value.into());
    }
    let mut body = json!({
        "name": asked.name,
        "roles": asked.role,
        "endpoints": asked.endpoint,
        "targets": asked.target,
        "deny": asked.deny,
        "expires_in": asked.expires_in,
        "tags": tags,
        "user": asked.user,
        "team": asked.team,
        "app": asked.app,
        "organization": asked.organization,
    });
    if let Some((field, budget)) = asked.budget.said() {
        body[field] = budget;
    }
    let answer = admin.post(&["keys"], &body).await?;
    show(&answer, &asked.reach)
}

async fn list(admin: &Admin, asked: &ListKeys) -> anyhow::Result<ExitCode> {
    let query: &[(&str, &str)] = if asked.all { &[("state", "all")] } else { &[] };
    let keys = admin.all(&["keys"], query, "keys").await?;
    if is_json(asked.reach.output.output) {
        print(&(pretty(&Value::Array(keys)) + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let words = |value: &Value| {
        let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
        if words.is_empty() { "-".to_owned() } else { words.iter().map(cell).collect::<Vec<_>>().join(",") }
    };
    let row = |key: &Value| {
        [
            cell(&key["id"]),
            cell(&key["name"]),
            cell(&key["prefix"]),
            cell(&key["origin"]),
            cell(&key["state"]),
            words(&key["roles"]),
            words(&key["reach"]["endpoints"]),
            time(&key["expires_ms"]),
            time(&key["used_ms"]),
            allowed(&key["budget"]),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    let head =
        ["ID", "NAME", "PREFIX", "ORIGIN", "STATE", "ROLES", "ENDPOINTS", "EXPIRES", "LAST USED", "BUDGET"];
    print(&table(head, &rows))?;
    Ok(ExitCode::SUCCESS)
}

async fn change(admin: &Admin, asked: &ChangeKey) -> anyhow::Result<ExitCode> {
    let mut body = said(&asked.bounds)?;
    body.extend(asked.budget.said());
    body.extend(asked.no_budget.then(|| ("budget".to_owned(), Value::Null)));
    body.extend(asked.expires_in.iter().map(|time| ("expires_in".to_owned(), time.clone().into())));
    body.extend(asked.no_expiry.then(|| ("expires_in".to_owned(), Value::Null)));
    if body.is_empty() {
        bail!("nothing is to be changed: see --help");
    }
    let id = id_of(admin, &asked.key).await?;
    let answer = admin.call(Method::PATCH, &["keys", &id], &[], Some(&Value::Object(body))).await?;
    tell(&answer, &asked.reach, "changed")
}

async fn rotate(admin: &Admin, asked: &RotateKey) -> anyhow::Result<ExitCode> {
    let id = id_of(admin, &asked.key).await?;
    let answer = admin.post(&["keys", &id, "rotate"], &json!({ "grace": asked.grace })).await?;
    show(&answer, &asked.reach)
}

async fn revoke(admin: &Admin, asked: &OneKey) -> anyhow::Result<ExitCode> {
    let id = id_of(admin, &asked.key).await?;
    let answer = admin.call(Method::DELETE, &["keys", &id], &[], None).await?;
    tell(&answer, &asked.reach, "revoked")
}

/// What became of a key.
fn tell(answer: &Value, reach: &Reach, what: &str) -> anyhow::Result<ExitCode> {
    if is_json(reach.output.output) {
        print(&(pretty(answer) + "\n"))?;
    } else {
        print(&format!("{}: {what}\n", cell(&answer["name"])))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A key's id, given that or its name.
async fn id_of(admin: &Admin, given: &str) -> anyhow::Result<String> {
    let keys = admin.all(&["keys"], &[("state", "all")], "keys").await?;
    let by_id = keys.iter().find(|key| key["id"] == *given);
    let by_name = || {
        let active = keys.iter().find(|key| key["name"] == *given && key["state"] == "active");
        active.or_else(|| keys.iter().find(|key| key["name"] == *given))
    };
    let Some(found) = by_id.or_else(by_name) else { bail!("no key has the id or the name `{given}`") };
    match found["id"].as_str() {
        Some(id) => Ok(id.to_owned()),
        None => bail!("`{given}` stands in the configuration file: change it there"),
    }
}

/// The key alone on standard output, so that it can be stored by a pipe; what it is on standard error.
fn show(answer: &Value, reach: &Reach) -> anyhow::Result<ExitCode> {
    if is_json(reach.output.output) {
        print(&(pretty(answer) + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let issued = &answer["issued"];
    eprintln!("key `{}`, id {}: it is shown this once", cell(&issued["name"]), cell(&issued["id"]));
    print(&(cell(&answer["key"]) + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Milliseconds since 1970 as people write times, in UTC.
pub(crate) fn time(value: &Value) -> String {
    let Some(ms) = value.as_i64() else { return "-".to_owned() };
    jiff::Timestamp::from_millisecond(ms)
        .map_or("-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
}
