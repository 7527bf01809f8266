//! What the catalogue says a call cost, held against what vendors said.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use millgate_dialect::codec;
use millgate_types::{Dialect, Event, Operation, Usage};
use serde_json::Value;

/// A recorded call with the vendor's own word of its cost.
struct Billed {
    id: String,
    model: String,
    usage: Usage,
    /// The vendor's raw usage object.
    said: Value,
}

/// The recordings of a vendor: the curated ones always, the whole shared set when it is there.
fn recordings(vendor: &str) -> Vec<Billed> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared =
        std::env::var_os("MILLGATE_SHARED").map_or_else(|| here.join("../../../shared"), PathBuf::from);
    let mut files = Vec::new();
    for root in [here.join("../dialect/tests/golden"), shared.join("fixtures/providers")] {
        for api in ["chat", "responses"] {
            let Ok(folder) = fs::read_dir(root.join(vendor).join(api)) else { continue };
            files.extend(folder.map(|entry| entry.unwrap().path()));
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.iter().filter_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Option<Billed> {
    let file: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let dialect = if file["api"] == "responses" { Dialect::Responses } else { Dialect::OpenAi };
    let response = &file["response"];
    let model = file["model"].as_str().or(file["request"]["body"]["model"].as_str())?.to_owned();
    let id = file["id"].as_str()?.to_owned();
    let (usage, said) = match response["body_file"].as_str() {
        None if response["body"].is_object() => {
            let body = response["body"].to_string();
            let answer = codec(dialect).decode_answer(Operation::Chat, body.as_bytes()).ok()?;
            (answer.usage()?, response["body"]["usage"].clone())
        }
        None => return None,
        Some(name) => {
            let text = fs::read_to_string(path.with_file_name(name)).ok()?;
            let mut decoder = codec(dialect).stream_decoder(Operation::Chat);
            let mut events = Vec::new();
            decoder.push(text.as_bytes(), &mut events);
            decoder.finish(&mut events);
            let last = |event: &Event| if let Event::Usage(usage) = event { Some(*usage) } else { None };
            let said = text.lines().rev().find_map(|line| {
                let value: Value = serde_json::from_str(line.strip_prefix("data:")?.trim()).ok()?;
                let usage = value.get("usage").or(value["response"].get("usage"))?;
                usage.is_object().then(|| usage.clone())
            });
            (events.iter().rev().find_map(last)?, said?)
        }
    };
    usage.reported_cost.map(|_| Billed { id, model, usage, said })
}

fn computed(vendor: &str, call: &Billed) -> Option<i64> {
    let price = millgate_provider::model(millgate_provider::kind(vendor).unwrap(), &call.model)?.price?;
    Some(price.cost(&Usage { reported_cost: None, ..call.usage }).unwrap().0)
}

#[test]
fn xai_is_billed_to_the_nano_dollar() {
    let mut compared = 0;
    for call in recordings("xai") {
        // Searches of the server's own tools are billed beside the tokens.
        if call.said["num_server_side_tools_used"].as_u64().unwrap_or(0) > 0
            || call.said["num_sources_used"] != 0
        {
            continue;
        }
        let Some(ours) = computed("xai", &call) else { continue };
        let ticks = call.said["cost_in_usd_ticks"].as_i64().unwrap_or(0);
        if ticks > 0 {
            assert_eq!(ours, ticks.div_euclid(10) + i64::from(ticks % 10 >= 5), "{}: {}", call.id, call.said);
            compared += 1;
        }
    }
    eprintln!("{compared} calls compared");
    assert!(compared >= 1, "no recording says what it cost");
}

#[test]
fn perplexity_is_billed_as_it_rounds() {
    let mut compared = 0;
    for call in recordings("perplexity") {
        let Some(ours) = computed("perplexity", &call) else { continue };
        let part = |name: &str| call.said["cost"][name].as_f64();
        let (Some(input), Some(output)) = (part("input_tokens_cost"), part("output_tokens_cost")) else {
            continue;
        };
        // Each part is rounded to 10^-5 USD, or to 10^-6.
        let said = (input + output) * 1e9;
        assert!((ours as f64 - said).abs() <= 10_000.0, "{}: {ours} {said} {}", call.id, call.said);
        compared += 1;
    }
    eprintln!("{compared} calls compared");
    assert!(compared >= 1, "no recording says what it cost");
}

#[test]
fn openrouter_is_billed_nearly_the_same() {
    let (mut near, mut all) = (0, 0);
    for call in recordings("openrouter") {
        let Some(ours) = computed("openrouter", &call) else { continue };
        let said = call.usage.reported_cost.unwrap().0;
        if said == 0 || call.said["is_byok"] == true {
            continue;
        }
        all += 1;
        near += i32::from((ours - said).abs() as f64 <= 0.02 * said as f64);
    }
    eprintln!("{near} of {all} calls within 2 %");
    // Prices differ from host to host, and the list is some months older than some calls.
    assert!(all >= 1 && f64::from(near) >= 0.8 * f64::from(all), "{near} of {all}");
}
