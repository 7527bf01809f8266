//! What the fake provider says to rerank and moderation calls. The path tells which vendor it plays: `/v2/rerank` is
//! Cohere's, `/voyage/...` and `/mistral/...` are theirs, anything else the common form.

use serde_json::{Value, json};

/// Ranks documents by their length, shortest best, and answers in no order at all, as providers may. The model
/// `stray` ranks a document that nobody sent.
pub(super) fn reranked(path: &str, model: &str, request: &Value) -> Value {
    let documents = request["documents"].as_array().map_or(0, Vec::len);
    let voyage = path.contains("/voyage/");
    let most = request[if voyage { "top_k" } else { "top_n" }].as_u64().unwrap_or(u64::MAX);
    let mut places: Vec<usize> = (0..documents).collect();
    places.sort_by_key(|place| text_of(&request["documents"][*place]).len());
    places.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    let score = |rank: usize| 1.0 / (rank as f64 + 2.0);
    let mut results: Vec<Value> = places
        .iter()
        .enumerate()
        .map(|(rank, place)| json!({ "index": place, "relevance_score": score(rank) }))
        .collect();
    results.reverse();
    if model == "stray" {
        results[0]["index"] = documents.into();
    }
    if voyage {
        return json!({ "object": "list", "data": results, "model": model, "usage": { "total_tokens": 12 } });
    }
    if path.contains("/v2/") {
        return json!({ "id": "rr-fake", "results": results,
            "meta": { "api_version": { "version": "2" }, "billed_units": { "search_units": 1 } } });
    }
    json!({ "id": "rr-fake", "model": model, "results": results,
        "usage": { "prompt_tokens": 12, "total_tokens": 12 } })
}

fn text_of(document: &Value) -> &str {
    document.as_str().or_else(|| document["text"].as_str()).unwrap_or_default()
}

/// Flags every text that holds `bad`.
pub(super) fn judged(path: &str, model: &str, request: &Value) -> Value {
    let texts: Vec<String> = match &request["input"] {
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
        }
        other => vec![other.to_string()],
    };
    let result = |text: &String| {
        let bad = text.contains("bad");
        let score = if bad { 0.9 } else { 0.1 };
        if path.contains("/mistral/") {
            return json!({ "categories": { "hate_and_discrimination": bad, "pii": false },
                "category_scores": { "hate_and_discrimination": score, "pii": 0.0 } });
        }
        json!({ "flagged": bad, "categories": { "hate": bad, "violence": false },
            "category_scores": { "hate": score, "violence": 0.0 },
            "category_applied_input_types": { "hate": ["text"], "violence": [] } })
    };
    let results: Vec<Value> = texts.iter().map(result).collect();
    json!({ "id": "modr-fake", "model": model, "results": results })
}
