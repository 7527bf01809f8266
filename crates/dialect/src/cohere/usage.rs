//! What Cohere counts and what it bills (`contracts/providers.md` 1.2): `tokens` is what the model saw, with a
//! prompt of Cohere's own around the caller's; `billed_units` is what the account pays.

use millgate_types::{Billed, Usage};
use serde_json::{Map, Value};

use crate::json::{Object, count};
use crate::openai;

/// Reads `usage` of a chat, or `meta` of an embedding or a rerank. `None` when there is nothing to believe.
pub(super) fn read(value: &Value) -> Option<Usage> {
    let map = value.as_object()?;
    let group = |name: &str| map.get(name).and_then(Value::as_object);
    let billed = group("billed_units").and_then(billed);
    let Some(tokens) = group("tokens") else {
        // Vectors and reranks are billed and not counted.
        let billed = billed?;
        return Some(Usage {
            input: billed.input,
            output: billed.output,
            image_input: billed.image_input,
            billed: Some(billed),
            ..Usage::default()
        });
    };
    let get = |key: &str| count(tokens.get(key));
    let (input, output) = (get("input_tokens")?, get("output_tokens").unwrap_or(0));
    let cache_read = count(map.get("cached_tokens")).unwrap_or(0).min(input);
    let reasoning = get("reasoning_tokens").unwrap_or(0).min(output);
    Some(Usage {
        input: input - cache_read,
        cache_read,
        output: output - reasoning,
        reasoning,
        image_input: get("image_tokens").unwrap_or(0),
        billed,
        ..Usage::default()
    })
}

fn billed(units: &Map<String, Value>) -> Option<Billed> {
    let get = |key: &str| count(units.get(key)).unwrap_or(0);
    let billed = Billed {
        input: get("input_tokens"),
        output: get("output_tokens"),
        image_input: get("image_tokens"),
        search_units: get("search_units"),
    };
    (billed != Billed::default()).then_some(billed)
}

/// Writes `meta` and, where tokens were counted, `usage` in OpenAI's words, as the other rerankers do.
pub(super) fn write(top: &mut Object<'_>, usage: Option<&Usage>) {
    let mut meta = top.object("meta");
    meta.field("api_version", &serde_json::json!({ "version": "2" }));
    if let Some(billed) = usage.and_then(|usage| usage.billed) {
        let mut units = meta.object("billed_units");
        for (key, value) in [
            ("search_units", billed.search_units),
            ("input_tokens", billed.input),
            ("output_tokens", billed.output),
        ] {
            if value > 0 {
                units.field(key, &value);
            }
        }
        units.end();
    }
    meta.end();
    if let Some(usage) = usage.filter(|usage| usage.total() > 0) {
        let mut object = top.object("usage");
        object.field("prompt_tokens", &usage.prompt_total());
        object.field("total_tokens", &usage.total());
        openai::usage::write_cost(&mut object, usage);
        object.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_billed_stands_beside_what_was_counted() {
        let usage = read(&json!({"billed_units": {"input_tokens": 65, "output_tokens": 63},
            "tokens": {"input_tokens": 508.0, "output_tokens": 86, "reasoning_tokens": 28}, "cached_tokens": 144}))
        .unwrap();
        assert_eq!((usage.input, usage.cache_read, usage.output, usage.reasoning), (364, 144, 58, 28));
        assert_eq!(usage.billed, Some(Billed { input: 65, output: 63, ..Billed::default() }));
        let rerank = read(&json!({"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}));
        assert_eq!(rerank.unwrap().billed.unwrap().search_units, 1);
    }

    #[test]
    fn nonsense_is_no_usage_and_no_part_exceeds_its_whole() {
        assert_eq!(read(&json!({"api_version": {"version": "2"}})), None);
        assert_eq!(read(&json!({"tokens": {"input_tokens": -3}})), None);
        let usage = read(&json!({"tokens": {"input_tokens": 10, "output_tokens": 2, "reasoning_tokens": 9},
            "cached_tokens": 99}));
        let usage = usage.unwrap();
        assert_eq!((usage.input, usage.cache_read, usage.output, usage.reasoning), (0, 10, 0, 2));
    }
}
