//! Usage in OpenAI's shape, into disjoint classes and back (`contracts/providers.md` 1.2).

use millgate_types::{Money, Usage};
use serde_json::{Map, Value};

use crate::json::{Object, count};
use crate::scan;

/// Reads a usage object. `None` when the counts are missing or not to be believed. Who counts how shows in
/// the sums, so no per-provider switch is needed: a total above prompt + completion by exactly the reasoning
/// count (xAI) or the audio count (Mistral) means that those stand beside, and a bare surplus is reasoning
/// that the provider hides (Gemini's compatible path).
pub(crate) fn read(value: &Value) -> Option<Usage> {
    let map = value.as_object()?;
    let get = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Some(None),
        value => count(value).map(Some),
    };
    let details =
        |outer: &str, inner: &str| map.get(outer).and_then(|details| count(details.get(inner))).unwrap_or(0);
    let prompt = get("prompt_tokens")?;
    let completion = get("completion_tokens")?;
    let total = get("total_tokens")?;
    if prompt.is_none() && completion.is_none() && total.is_none() {
        return None;
    }
    let mut completion = completion.unwrap_or(0);
    let mut prompt = prompt.unwrap_or_else(|| total.unwrap_or(0).saturating_sub(completion));
    let cached = details("prompt_tokens_details", "cached_tokens")
        .max(count(map.get("prompt_cache_hit_tokens")).unwrap_or(0))
        .max(count(map.get("cached_tokens")).unwrap_or(0))
        .max(count(map.get("num_cached_tokens")).unwrap_or(0));
    let written = details("prompt_tokens_details", "cache_write_tokens");
    let audio_input = details("prompt_tokens_details", "audio_tokens");
    let mut reasoning = details("completion_tokens_details", "reasoning_tokens")
        .max(count(map.get("reasoning_tokens")).unwrap_or(0));
    let audio_output = details("completion_tokens_details", "audio_tokens");
    let surplus = total.map_or(0, |total| total.saturating_sub(prompt + completion));
    if surplus > 0 {
        if surplus == reasoning {
            completion += reasoning;
        } else if surplus == audio_input {
            prompt += audio_input;
        } else if reasoning == 0 {
            reasoning = surplus;
            completion += surplus;
        }
    }
    // Parts never exceed their whole, whatever the provider says.
    let cache_read = cached.min(prompt);
    let cache_write = written.min(prompt - cache_read);
    let audio_input = audio_input.min(prompt - cache_read - cache_write);
    let reasoning = reasoning.min(completion);
    let audio_output = audio_output.min(completion - reasoning);
    Some(Usage {
        input: prompt - cache_read - cache_write - audio_input,
        cache_read,
        cache_write,
        output: completion - reasoning - audio_output,
        reasoning,
        audio_input,
        audio_output,
        image_input: 0,
        billed: None,
        reported_cost: reported_cost(map),
        estimated: false,
    })
}

/// The vendor's own figure in USD, as OpenRouter writes it.
pub(crate) fn write_cost(object: &mut Object<'_>, usage: &Usage) {
    if let Some(cost) = usage.reported_cost {
        object.field("cost", &(cost.0 as f64 / 1e9));
    }
}

/// What the vendor says the call cost: OpenRouter `cost`, Perplexity `cost.total_cost` (both USD), xAI
/// `cost_in_usd_ticks` (10^-10 USD).
pub(crate) fn reported_cost(usage: &Map<String, Value>) -> Option<Money> {
    let nano =
        |usd: f64| (usd.is_finite() && (0.0..1e6).contains(&usd)).then(|| Money((usd * 1e9).round() as i64));
    // Azure's Grok says zero, which it is not.
    if let Some(ticks) = usage.get("cost_in_usd_ticks").and_then(Value::as_u64).filter(|ticks| *ticks > 0) {
        return i64::try_from(ticks.div_ceil(10)).ok().map(Money);
    }
    match usage.get("cost")? {
        Value::Object(parts) => nano(parts.get("total_cost")?.as_f64()?),
        plain => nano(plain.as_f64()?),
    }
}

/// Reads the text of a usage object, which is known to be JSON. The usual shape is read in place; anything else goes the long way.
pub(crate) fn read_text(text: &[u8]) -> Option<Usage> {
    plain(text).or_else(|| read(&serde_json::from_slice(text).ok()?))
}

/// OpenAI's own shape with sums that add up. `None` for everything that needs [`read`]'s care.
fn plain(text: &[u8]) -> Option<Usage> {
    let (mut prompt, mut completion, mut total) = (None, None, None);
    let (mut cached, mut audio_input, mut reasoning, mut audio_output) = (0, 0, 0, 0);
    let mut usual = true;
    scan::visit_inner(text, |name, kind, value| match name {
        b"prompt_tokens" => prompt = tokens(value),
        b"completion_tokens" => {
            completion = tokens(value);
            usual &= completion.is_some();
        }
        b"total_tokens" => total = tokens(value),
        b"prompt_tokens_details" | b"completion_tokens_details" if kind == scan::Kind::Object => {
            scan::visit_inner(value, |detail, _, value| {
                let place = match (name, detail) {
                    (b"prompt_tokens_details", b"cached_tokens") => &mut cached,
                    (b"prompt_tokens_details", b"audio_tokens") => &mut audio_input,
                    (b"completion_tokens_details", b"reasoning_tokens") => &mut reasoning,
                    (b"completion_tokens_details", b"audio_tokens") => &mut audio_output,
                    (_, b"accepted_prediction_tokens" | b"rejected_prediction_tokens") => return,
                    _ => return usual = false,
                };
                match tokens(value) {
                    Some(count) => *place = count,
                    None => usual = false,
                }
            });
        }
        _ => usual = false,
    });
    let (prompt, completion, total) = (prompt?, completion.unwrap_or(0), total?);
    let sums = prompt + completion == total && total <= MAX_PLAIN;
    let fits = cached + audio_input <= prompt && reasoning + audio_output <= completion;
    (usual && sums && fits).then(|| Usage {
        input: prompt - cached - audio_input,
        cache_read: cached,
        output: completion - reasoning - audio_output,
        reasoning,
        audio_input,
        audio_output,
        ..Usage::default()
    })
}

/// A whole number of at most ten digits.
fn tokens(text: &[u8]) -> Option<u64> {
    if text.len() > 10 {
        return None;
    }
    text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

/// Counts above this are not believed; [`read`] says the same.
const MAX_PLAIN: u64 = 1_000_000_000;

/// Writes a usage object.
pub(crate) fn write(out: &mut Vec<u8>, usage: &Usage) {
    let mut object = Object::new(out);
    object.field("prompt_tokens", &usage.prompt_total());
    object.field("completion_tokens", &usage.completion_total());
    object.field("total_tokens", &usage.total());
    let mut details = object.object("prompt_tokens_details");
    details.field("cached_tokens", &usage.cache_read);
    if usage.cache_write > 0 {
        details.field("cache_write_tokens", &usage.cache_write);
    }
    details.field("audio_tokens", &usage.audio_input);
    details.end();
    let mut details = object.object("completion_tokens_details");
    details.field("reasoning_tokens", &usage.reasoning);
    details.field("audio_tokens", &usage.audio_output);
    details.end();
    write_cost(&mut object, usage);
    if usage.estimated {
        object.field("estimated", &true);
    }
    object.end();
}

/// Takes `usage` out of an answer; some servers nest it under their own name too.
pub(crate) fn take(map: &mut Map<String, Value>) -> Option<Usage> {
    map.shift_remove("usage").as_ref().and_then(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn providers_that_count_beside_come_out_the_same() {
        let xai = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115,
            "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 100}});
        let usage = read(&xai).unwrap();
        assert_eq!((usage.input, usage.cache_read, usage.output, usage.reasoning), (6, 4, 5, 100));
        let hidden = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40});
        assert_eq!(read(&hidden).unwrap().reasoning, 25);
        let audio = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 390,
            "prompt_tokens_details": {"audio_tokens": 375}});
        assert_eq!(read(&audio).unwrap().prompt_total(), 385);
    }

    #[test]
    fn nothing_goes_below_zero_and_nonsense_is_no_usage() {
        let clamped = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 64}, "completion_tokens_details": {"reasoning_tokens": 9}});
        let usage = read(&clamped).unwrap();
        assert_eq!((usage.input, usage.cache_read, usage.output, usage.reasoning), (0, 10, 0, 5));
        for bad in [
            json!(null),
            json!({}),
            json!({"prompt_tokens": -1, "completion_tokens": 2}),
            json!({"prompt_tokens": 1.5}),
            json!({"prompt_tokens": 4_000_000_000_u64}),
            json!({"prompt_tokens": "7"}),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
        assert_eq!(read(&json!({"prompt_tokens": 5.0, "completion_tokens": 2.0})).unwrap().total(), 7);
    }

    #[test]
    fn the_short_way_says_what_the_long_way_says() {
        for text in [
            r#"{"prompt_tokens":19,"completion_tokens":30,"total_tokens":49}"#,
            r#"{"prompt_tokens":19,"total_tokens":19}"#,
            r#"{"prompt_tokens":19,"completion_tokens":30,"total_tokens":49,"prompt_tokens_details":{"cached_tokens":7,"audio_tokens":2},"completion_tokens_details":{"reasoning_tokens":20,"audio_tokens":1,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#,
            r#"{"prompt_tokens":19,"completion_tokens":30,"total_tokens":49,"prompt_tokens_details":null}"#,
            r#"{"prompt_tokens":9,"completion_tokens":3,"total_tokens":15,"completion_tokens_details":{"reasoning_tokens":3}}"#,
            r#"{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":99}}"#,
            r#"{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"cost":0.5}"#,
            r#"{"prompt_tokens":-9,"completion_tokens":3,"total_tokens":12}"#,
            r#"{"prompt_tokens":9000000000,"completion_tokens":0,"total_tokens":9000000000}"#,
        ] {
            let long = read(&serde_json::from_str(text).unwrap());
            assert_eq!(read_text(text.as_bytes()), long, "{text}");
            assert!(plain(text.as_bytes()).is_none_or(|short| Some(short) == long), "{text}");
        }
    }
}
