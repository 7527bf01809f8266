//! Moderations: OpenAI's shape, and Mistral's, which lacks `flagged` and has categories of its own.

use millgate_types::{Dialect, Extra, Fault, Judgement, ModerationAnswer, ModerationCall, ModerationInput};
use serde_json::{Map, Value};

use super::usage;
use crate::json::{self, At, Object};
use crate::{Context, check_model, error, openai::answer, refuse_control_field};

const ROOT: At<'static> = At::Root;
/// Mistral's categories, and OpenAI's that say the same. Mistral's own stay beside them.
const COUNTERPARTS: &[(&str, &str)] = &[
    ("hate_and_discrimination", "hate"),
    ("violence_and_threats", "violence"),
    ("selfharm", "self-harm"),
    ("dangerous_and_criminal_content", "illicit"),
];

/// Reads a caller's request.
pub(super) fn decode_call(body: Map<String, Value>) -> Result<ModerationCall, Fault> {
    let (mut model, mut input) = (String::new(), None);
    let mut extra = Extra::none(Dialect::OpenAi);
    for (key, value) in body {
        refuse_control_field(&key)?;
        if value.is_null() {
            continue;
        }
        let at = ROOT.key(&key);
        match key.as_str() {
            "model" => {
                model = json::string(value, &at)?;
                check_model(&model)?;
            }
            "input" => input = Some(read_input(value, &at)?),
            _ => drop(extra.fields.insert(key, value)),
        }
    }
    Ok(ModerationCall { model, input: input.ok_or_else(|| ROOT.missing("input"))?, extra })
}

fn read_input(value: Value, at: &At<'_>) -> Result<ModerationInput, Fault> {
    match value {
        Value::String(text) => Ok(ModerationInput::Text(text)),
        Value::Array(items) if items.is_empty() => Err(at.invalid("`input` is empty")),
        Value::Array(items) if items.iter().all(Value::is_object) => Ok(ModerationInput::Parts(items)),
        other => json::strings(other, at).map(ModerationInput::Texts),
    }
}

/// Writes the members of a request after `model`.
pub(super) fn write_input(top: &mut Object<'_>, input: &ModerationInput) {
    match input {
        ModerationInput::Text(text) => top.field("input", text),
        ModerationInput::Texts(texts) => top.field("input", texts),
        ModerationInput::Parts(parts) => top.field("input", parts),
    }
}

/// Reads an answer. Where the provider does not say `flagged`, any category that applies makes it so.
pub(super) fn decode_answer(body: &[u8]) -> Result<ModerationAnswer, Fault> {
    let mut map = error::answer_object(body)?;
    let Some(Value::Array(items)) = map.shift_remove("results") else {
        return Err(if map.contains_key("error") {
            error::in_band(&error::read_value(&Value::Object(map)), None)
        } else {
            error::no_answer()
        });
    };
    let results = items.into_iter().map(judgement).collect::<Option<_>>();
    let usage = usage::take(&mut map);
    Ok(ModerationAnswer {
        id: json::take_string(&mut map, "id").unwrap_or_default(),
        model: json::take_string(&mut map, "model").unwrap_or_default(),
        results: results.ok_or_else(error::no_answer)?,
        usage,
        dialect: Dialect::OpenAi,
        extra: map,
    })
}

fn judgement(item: Value) -> Option<Judgement> {
    let Value::Object(mut map) = item else { return None };
    let mut object = |key: &str| match map.shift_remove(key) {
        Some(Value::Object(object)) => Some(object),
        _ => None,
    };
    let (categories, scores) = (object("categories")?, object("category_scores").unwrap_or_default());
    let flagged = map.shift_remove("flagged").and_then(|flagged| flagged.as_bool());
    let flagged = flagged.unwrap_or_else(|| categories.values().any(|applies| applies == true));
    Some(Judgement {
        flagged,
        categories: with_counterparts(categories),
        scores: with_counterparts(scores),
        extra: map,
    })
}

fn with_counterparts(mut map: Map<String, Value>) -> Map<String, Value> {
    for (theirs, ours) in COUNTERPARTS {
        if let Some(value) = map.get(*theirs).filter(|_| !map.contains_key(*ours)).cloned() {
            map.insert((*ours).to_owned(), value);
        }
    }
    map
}

/// Writes an answer for callers.
pub(super) fn encode_answer(out: &mut Vec<u8>, found: &ModerationAnswer, context: &Context) {
    let mut top = Object::new(out);
    top.field("id", &answer::answer_id(&found.id, "modr-", context));
    top.field("model", &context.model);
    let mut results = top.array("results");
    for judgement in &found.results {
        let mut item = results.object();
        item.field("flagged", &judgement.flagged);
        item.field("categories", &judgement.categories);
        item.field("category_scores", &judgement.scores);
        for (key, value) in &judgement.extra {
            item.field(key, value);
        }
        item.end();
    }
    results.end();
    if let Some(usage) = &found.usage {
        usage::write(top.key("usage"), usage);
    }
    for (key, value) in &found.extra {
        top.field(key, value);
    }
    top.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mistrals_judgement_reads_like_openais() {
        let body = json!({"id": "mod-1", "model": "mistral-moderation-2603", "results": [{
            "categories": {"sexual": false, "hate_and_discrimination": false, "violence_and_threats": true, "pii": false},
            "category_scores": {"sexual": 0.0, "hate_and_discrimination": 0.1, "violence_and_threats": 0.9, "pii": 0.0}}]});
        let found = decode_answer(body.to_string().as_bytes()).unwrap();
        let first = &found.results[0];
        assert!(first.flagged);
        assert_eq!(first.categories["violence"], true);
        assert_eq!(first.categories["violence_and_threats"], true);
        assert_eq!(first.scores["hate"], 0.1);
    }

    #[test]
    fn bad_calls_and_answers_are_refused() {
        for (body, param) in [
            (json!({}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": ["a", 1]}), "input[1]"),
            (json!({"input": 3}), "input"),
            (json!({"input": "a", "base_url": "http://x"}), "base_url"),
        ] {
            let fault = decode_call(body.as_object().unwrap().clone()).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(param), "{body}");
        }
        for body in ["{}", "[]", r#"{"results":[1]}"#, r#"{"results":[{"flagged":true}]}"#] {
            assert!(decode_answer(body.as_bytes()).is_err(), "{body}");
        }
    }
}
