//! The JSON Schema of the canonical document.

use schemars::generate::SchemaSettings;

use crate::Config;

/// The schema (draft 2020-12), made from the types; `schema/millgate.schema.json` is its checked-in copy.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), "Millgate configuration".into());
    schema.to_value()
}
