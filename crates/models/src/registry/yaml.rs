//! MLflow's YAML files, read as JSON values with a small budget.

use std::path::Path;

use serde_json::Value;

/// The largest YAML file we read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Reads a YAML file. The error is fit for callers: it holds no path.
pub(crate) fn read_yaml(path: &Path) -> Result<Value, String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let size = std::fs::metadata(path).map_err(|error| format!("`{name}`: {}", error.kind()))?.len();
    if size > LIMIT {
        return Err(format!("`{name}` is larger than {LIMIT} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("`{name}`: {}", error.kind()))?;
    serde_saphyr::from_str(&text).map_err(|_| format!("`{name}` is not valid YAML"))
}

/// A scalar as text: MLflow writes versions as numbers in some files and as strings in others.
pub(crate) fn text_of(value: Option<&Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    }
}
