//! Which model runs where, and how exactly: made from what tests saw (`docs/reference/runtimes.json`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::NOTE;
use crate::shell::root;

/// What one test saw of one saved model.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    model: String,
    flavour: String,
    runtime: String,
    /// How its answers compare with those of MLflow's scoring server.
    beside: String,
}

/// The sections of the file, the tests that write them, and what they are about.
const SECTIONS: [(&str, &str, &str); 6] = [
    ("read", "crates/models/tests/it/exact.rs", "Files that are read as data; no Python at all."),
    (
        "converted",
        "crates/models/tests/it/converted.rs",
        "Described once by Python, then computed in process. Where numbers may differ in their last bits this is done only with a \
         `tolerance` (here 1e-9); without one a worker serves.",
    ),
    ("onnx", "crates/models/tests/it/onnx.rs", "Run in process by the ONNX Runtime library."),
    (
        "workers",
        "crates/models/tests/it/columns.rs",
        "The same flavours with `runtime: worker`: rows handed over as columns, alone in their call. Shared with other requests, sums \
         may differ by rounding.",
    ),
    (
        "flavours",
        "tests/e2e/test_flavours.py",
        "Everything else is Python itself, asked through the gateway.",
    ),
    (
        "chat",
        "tests/e2e/test_chat_models.py",
        "Models that chat, on endpoints of the type `llm/v1/chat`: their words, in the caller's dialect.",
    ),
];

pub(super) fn page() -> Result<String> {
    let text = std::fs::read_to_string(root().join("docs/reference/runtimes.json"))
        .context("docs/reference/runtimes.json cannot be read")?;
    let mut known: BTreeMap<String, Vec<Seen>> = serde_json::from_str(&text)?;
    let mut out = format!(
        "{NOTE}# Which model runs where, and how exactly\n\n\
         `runtime: auto` takes the first runtime that can serve a model: in process where that is exact, else a Python worker. See \
         [serving models](../serving-models.md#runtimes).\n\n\
         Everything here was seen by tests: each model was saved by MLflow itself, served, and asked beside MLflow's own scoring \
         functions. They keep what they see in `docs/reference/runtimes.json`, and fail when they see something else \
         (`UPDATE=1 cargo xtask test` writes it anew).\n\n\
         | flavour | runtime | beside MLflow's scoring server | models seen |\n|---|---|---|---|\n"
    );
    let mut sums: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for seen in known.values().flatten() {
        *sums.entry((&seen.flavour, &seen.runtime, &seen.beside)).or_default() += 1;
    }
    for ((flavour, runtime, beside), count) in sums {
        writeln!(out, "| `{flavour}` | {} | {beside} | {count} |", shown(runtime))?;
    }
    for (section, test, about) in SECTIONS {
        let rows = known.remove(section).with_context(|| format!("`{section}` is missing"))?;
        let exact: BTreeSet<&str> = rows.iter().map(|seen| seen.beside.as_str()).collect();
        write!(out, "\n## {section}\n\n{about} Seen by `{test}`")?;
        if let (1, Some(beside)) = (exact.len(), exact.first()) {
            write!(out, "; all: {beside}")?;
        }
        out.push_str(
            ".\n\n| saved model | flavour | runtime | beside MLflow's scoring server |\n|---|---|---|---|\n",
        );
        for seen in rows {
            let Seen { model, flavour, runtime, beside } = seen;
            writeln!(out, "| `{model}` | `{flavour}` | {} | {beside} |", shown(&runtime))?;
        }
    }
    anyhow::ensure!(
        known.is_empty(),
        "docs/reference/runtimes.json has sections that the page does not show"
    );
    Ok(out)
}

/// `native, converted` as a name and what belongs to it.
fn shown(runtime: &str) -> String {
    match runtime.split_once(',') {
        Some((name, more)) => format!("`{name}`,{more}"),
        None => format!("`{runtime}`"),
    }
}
