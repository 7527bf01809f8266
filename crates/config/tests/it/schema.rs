use super::loaded;

/// `UPDATE=1 cargo test -p millgate-config` rewrites the checked-in schema.
#[test]
fn the_checked_in_schema_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schema/millgate.schema.json");
    let made = serde_json::to_string_pretty(&millgate_config::json_schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == made, "schema/millgate.schema.json is out of date: run `cargo xtask gen`");
}

/// The schema is made from the types, but routes, durations and sizes describe themselves by hand.
#[test]
fn the_schema_accepts_what_the_loader_accepts() {
    let schema = jsonschema::validator_for(&millgate_config::json_schema()).unwrap();
    let accepted = super::forms::CANONICAL;
    let canonical = serde_json::to_value(&loaded(accepted).config).unwrap();
    let errors: Vec<_> = schema.iter_errors(&canonical).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    for broken in [
        serde_json::json!({ "endpoints": [{ "name": "a", "type": "predict" }] }),
        serde_json::json!({ "endpoints": [{ "name": "a", "type": "llm/v1/chat", "route": { "spilt": {} } }] }),
        serde_json::json!({ "server": { "max_body": "ten" } }),
        serde_json::json!({ "colour": "red" }),
    ] {
        assert!(!schema.is_valid(&broken), "{broken}");
    }
}
