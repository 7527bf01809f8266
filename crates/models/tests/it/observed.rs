//! What tests see of runtimes stands in `docs/reference/runtimes.json`, which the reference page is made from. A test that
//! sees something else fails; `UPDATE=1` writes what it sees.

use std::path::Path;
use std::sync::Mutex;

use millgate_models::Deployment;
use serde_json::{Map, Value, json};

/// Two tests may write at once.
static FILE: Mutex<()> = Mutex::new(());

/// One saved model, and how its answers compare with those of MLflow's scoring server.
pub(crate) fn seen(deployment: &Deployment, folder: &Path, beside: &str) -> Value {
    let status = deployment.status();
    let converted = status.runtime_reason.is_some_and(|reason| reason.starts_with("converted"));
    let runtime = status.runtime.unwrap_or_default();
    let described = std::fs::read_to_string(folder.join("MLmodel")).unwrap();
    // The flavours are the members of one mapping, two spaces in.
    let flavours = described.split("flavors:\n").nth(1).unwrap_or_default().lines();
    let flavours = flavours.take_while(|line| line.starts_with(' ')).filter_map(|line| {
        let name = line.strip_prefix("  ")?;
        (!name.starts_with(' ')).then(|| name.split(':').next().unwrap_or_default())
    });
    let flavour = flavours.into_iter().find(|name| *name != "python_function").unwrap_or("python_function");
    json!({
        "model": folder.file_name().unwrap().to_str().unwrap(),
        "flavour": flavour,
        "runtime": if converted { "native, converted" } else { runtime },
        "beside": beside,
    })
}

/// Holds a test's rows against its section of the file.
pub(crate) fn compare(section: &str, mut rows: Vec<Value>) {
    rows.sort_by_key(|row| row["model"].as_str().unwrap().to_owned());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/runtimes.json");
    let _lock = FILE.lock();
    let mut known: Map<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let rows = Value::Array(rows);
    if std::env::var_os("UPDATE").is_some() {
        known.insert(section.to_owned(), rows);
        let mut text = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
        serde::Serialize::serialize(&sorted(Value::Object(known)), &mut writer).unwrap();
        text.push(b'\n');
        std::fs::write(&file, text).unwrap();
        return;
    }
    let hint = "UPDATE=1 writes docs/reference/runtimes.json, then `cargo xtask gen`";
    assert_eq!(known.get(section), Some(&rows), "{hint}");
}

/// Members in the order of their names, as the Python tests write them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<(String, Value)> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            members.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
