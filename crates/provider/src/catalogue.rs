//! What is known of models: price, context window, capabilities, from the embedded table
//! (`data/model_prices.json`, one row a line, rows of a vendor together). The table stays text: a row is
//! found and read when a configuration or a caller names its model, so that the thousands that nobody uses
//! cost nothing. A model that is not in the table is unknown, which is something else than free or incapable.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::ProviderKind;
use crate::price::{Listed, Price};

/// The table. `crates/provider/data/README.md` tells its fields and sources.
const TABLE: &str = include_str!("../data/model_prices.json");

/// What the catalogue says of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// What it is for, in the table's words: `chat`, `responses`, `completion`, `embedding`, `rerank`,
    /// `moderation`, `image_generation`, ...
    pub mode: Option<String>,
    /// Tokens of prompt and answer together.
    pub context: Option<u64>,
    /// Tokens of one answer.
    pub max_output: Option<u64>,
    /// Length of an embedding.
    pub dimensions: Option<u64>,
    /// What it can do, in the table's words: `tools`, `vision`, `json_schema`, `reasoning`, ... What is not
    /// listed is not stated; it may still be there.
    pub capabilities: Vec<String>,
    /// The day on which the vendor shuts it down, as `YYYY-MM-DD`.
    pub deprecation: Option<String>,
    /// What its tokens cost.
    pub price: Option<Price>,
}

/// What the catalogue says of a provider's model. `None`: nothing.
#[must_use]
pub fn model(kind: &ProviderKind, model: &str) -> Option<ModelInfo> {
    let vendor = kind.prices.as_deref().unwrap_or(&kind.name);
    let row = find(SECTIONS.get(vendor)?, model)?;
    Some(ModelInfo {
        mode: Some(row.mode),
        context: row.context,
        max_output: row.max_output,
        // Some rows write whole numbers as floats.
        dimensions: row.dimensions.map(|length| length as u64),
        capabilities: row.caps,
        deprecation: row.deprecation,
        price: row.price.as_ref().and_then(Listed::price),
    })
}

/// The names of a provider's models in the catalogue, in its order.
pub fn models(kind: &ProviderKind) -> impl Iterator<Item = String> {
    let vendor = kind.prices.as_deref().unwrap_or(&kind.name);
    let section = SECTIONS.get(vendor).copied().unwrap_or_default();
    section.lines().filter_map(|line| Some(row(line)?.model))
}

/// The month the embedded table was read, for example `2026-11`.
#[must_use]
pub fn catalogue_date() -> &'static str {
    let date = TABLE.split_once("\"as_of\":\"").and_then(|(_, rest)| rest.split_once('"'));
    date.map_or("", |(date, _)| date)
}

#[derive(Deserialize)]
struct Row {
    model: String,
    mode: String,
    #[serde(default)]
    context: Option<u64>,
    #[serde(default)]
    max_output: Option<u64>,
    #[serde(default)]
    dimensions: Option<f64>,
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    deprecation: Option<String>,
    #[serde(default)]
    price: Option<Listed>,
}

/// Each vendor's lines.
static SECTIONS: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    let mut sections = HashMap::new();
    let (mut vendor, mut start, mut at) = ("", 0, 0);
    for line in TABLE.split_inclusive('\n') {
        let named = line.split_once("\"provider\":\"").and_then(|(_, rest)| rest.split_once('"'));
        let here = named.map_or("", |(name, _)| name);
        if here != vendor {
            sections.insert(vendor, &TABLE[start..at]);
            (vendor, start) = (here, at);
        }
        at += line.len();
    }
    sections.insert(vendor, &TABLE[start..]);
    sections.remove("");
    sections
});

fn find(section: &str, model: &str) -> Option<Row> {
    let needle = format!("\"model\":{}", serde_json::to_string(model).ok()?);
    let at = section.find(&needle)?;
    let start = section[..at].rfind('\n').map_or(0, |newline| newline + 1);
    row(section[start..].lines().next()?)
}

fn row(line: &str) -> Option<Row> {
    serde_json::from_str(line.trim_end_matches(',')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind;

    #[test]
    fn every_line_of_the_table_is_read() {
        let rows = TABLE.lines().filter(|line| line.starts_with("{\"id\"")).count();
        let read: usize = SECTIONS.values().flat_map(|section| section.lines()).filter_map(row).count();
        assert_eq!((read, SECTIONS.len() > 30), (rows, true));
        for (vendor, section) in SECTIONS.iter() {
            assert!(
                section.lines().all(|line| line.contains(&format!("\"provider\":\"{vendor}\""))),
                "{vendor}"
            );
        }
        assert_eq!(catalogue_date().len(), "2026-11".len());
    }

    #[test]
    fn a_model_is_found_by_its_whole_name() {
        let mini = model(kind("openai").unwrap(), "gpt-4o-mini").unwrap();
        assert_eq!((mini.context, mini.mode.as_deref()), (Some(128_000), Some("chat")));
        assert!(mini.capabilities.iter().any(|capability| capability == "tools"));
        assert!(mini.price.is_some());
        for unknown in ["gpt-4o-min", "4o-mini", "gpt-4o-mini\",", ""] {
            assert_eq!(model(kind("openai").unwrap(), unknown), None, "{unknown}");
        }
        assert_eq!(model(kind("mock").unwrap(), "echo"), None);
        assert!(models(kind("anthropic").unwrap()).any(|name| name == "claude-haiku-4-5"));
    }
}
