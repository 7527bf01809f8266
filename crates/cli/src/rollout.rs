//! `millgate rollout`: which versions serve, and going back.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use crate::admin::{Admin, cell, table};
use crate::args::{Reach, Rollout, RolloutStatus, Which};
use crate::check::print;
use crate::{is_json, pretty};

/// How long a version may take to load before waiting for it ends.
const LOAD: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) fn rollout(command: &Rollout) -> anyhow::Result<ExitCode> {
    match command {
        Rollout::Status(asked) => Admin::run(&asked.reach, async |admin| status(&admin, asked).await),
        Rollout::Back(asked) => {
            let to = asked.to.map(|version| version.to_string());
            switch(
                &asked.endpoint,
                "rollback",
                &json!({ "to": to, "model": asked.which.model }),
                &asked.which,
            )
        }
        Rollout::Resume(asked) => {
            switch(&asked.endpoint, "resume", &json!({ "model": asked.which.model }), &asked.which)
        }
    }
}

async fn status(admin: &Admin, asked: &RolloutStatus) -> anyhow::Result<ExitCode> {
    let listed = admin.get(&["deployments"], &[]).await?;
    let all = listed["deployments"].as_array().cloned().unwrap_or_default();
    let wanted =
        |deployment: &Value| asked.endpoint.as_ref().is_none_or(|name| deployment["endpoint"] == **name);
    let found: Vec<Value> = all.into_iter().filter(wanted).collect();
    if let (Some(name), []) = (&asked.endpoint, &*found) {
        bail!("no registered model is served as `{name}`");
    }
    if is_json(asked.reach.output.output) {
        print(&(pretty(&Value::Array(found)) + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |deployment: &Value| {
        let kept = &deployment["kept"];
        let kept = match kept["version"].as_str() {
            Some(version) => format!("{version} ({} s)", kept["seconds_left"]),
            None => "-".to_owned(),
        };
        [
            cell(&deployment["endpoint"]),
            cell(&deployment["model"]),
            cell(&deployment["state"]),
            cell(&deployment["version"]),
            cell(&deployment["runtime"]),
            kept,
            cell(&deployment["held"]["rejected"]),
            cell(&deployment["reason"]),
        ]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    print(&table(["ENDPOINT", "MODEL", "STATE", "SERVES", "RUNTIME", "KEPT", "HELD BACK", "REASON"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn switch(endpoint: &str, action: &str, body: &Value, which: &Which) -> anyhow::Result<ExitCode> {
    Admin::run(&which.reach, async |admin| {
        let switched = admin.post(&["deployments", endpoint, action], body).await?;
        let live = switched["live"].as_bool().unwrap_or(false);
        let told = if live || which.no_wait {
            switched
        } else {
            wait(&admin, endpoint, which.model.as_deref(), switched).await?
        };
        say(&told, &which.reach)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Waits until the version serves.
async fn wait(
    admin: &Admin,
    endpoint: &str,
    model: Option<&str>,
    mut switched: Value,
) -> anyhow::Result<Value> {
    let end = Instant::now() + LOAD;
    loop {
        let listed = admin.get(&["deployments"], &[]).await?;
        let all = listed["deployments"].as_array().map(Vec::as_slice).unwrap_or_default();
        let now = all.iter().find(|deployment| {
            deployment["endpoint"] == *endpoint && model.is_none_or(|model| deployment["model"] == *model)
        });
        let Some(now) = now else { bail!("no registered model is served as `{endpoint}` any more") };
        let idle = now["next"].is_null();
        let done = match switched["to"].as_str() {
            Some(to) => now["version"] == *to,
            // Back to what the registry names, which may be what serves already.
            None => idle && now["held"].is_null() && now["version"] != switched["from"],
        };
        if done {
            switched["to"] = now["version"].clone();
            switched["live"] = true.into();
            return Ok(switched);
        }
        if let Some(reason) = now["reason"].as_str().filter(|_| idle) {
            bail!("the version cannot be served, the one before stays: {reason}");
        }
        if Instant::now() > end {
            bail!("the version is still being loaded; `millgate rollout status {endpoint}` says how it is");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn say(switched: &Value, reach: &Reach) -> anyhow::Result<()> {
    if is_json(reach.output.output) {
        return print(&(pretty(switched) + "\n")).map(drop);
    }
    let live = switched["live"].as_bool().unwrap_or(false);
    let endpoint = cell(&switched["endpoint"]);
    let (from, to) = (cell(&switched["from"]), cell(&switched["to"]));
    print(&match (live, switched["to"].as_str()) {
        (true, _) => format!("{endpoint}: version {to} serves (was {from})\n"),
        (false, Some(_)) => format!("{endpoint}: version {to} is being loaded (serves {from})\n"),
        (false, None) => format!("{endpoint}: follows the registry again (serves {from})\n"),
    })
    .map(drop)
}
