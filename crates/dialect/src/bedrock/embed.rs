//! Embeddings by InvokeModel, in the words of each model's maker.

use millgate_types::{Dialect, Embedding, EmbeddingAnswer, EmbeddingCall, Fault, Prompt, Usage, code};
use serde_json::{Map, Value, json};

use crate::{EncodedCall, error, json as wire};

pub(super) fn encode(call: &EmbeddingCall) -> Result<EncodedCall, Fault> {
    let texts: Vec<&str> = match &call.input {
        Prompt::Text(text) => vec![text],
        Prompt::Texts(texts) => texts.iter().map(String::as_str).collect(),
        Prompt::Tokens(_) | Prompt::TokenLists(_) => {
            return Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target embeds texts, not tokens")
                .with_param("input"));
        }
    };
    let model = call.model.as_str();
    let mut dropped: Vec<String> = call.user.iter().map(|_| "user".to_owned()).collect();
    // Cohere's own word for what the vectors are for; callers may say it.
    let mut purpose = None;
    for (key, value) in &call.extra.fields {
        match value.as_str() {
            Some(word) if key == "input_type" && model.contains("cohere.") => purpose = Some(word),
            _ => dropped.push(key.clone()),
        }
    }
    let body = if model.contains("cohere.") {
        let mut body = json!({"texts": texts, "input_type": purpose.unwrap_or("search_document")});
        if let Some(dimensions) = call.dimensions {
            body["output_dimension"] = json!(dimensions);
        }
        body
    } else if model.contains("amazon.nova") {
        let mut params = json!({"embeddingPurpose": "GENERIC_INDEX",
            "text": {"truncationMode": "END", "value": single(&texts)?}});
        if let Some(dimensions) = call.dimensions {
            params["embeddingDimension"] = json!(dimensions);
        }
        json!({"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": params})
    } else {
        let mut body = json!({"inputText": single(&texts)?});
        if let Some(dimensions) = call.dimensions {
            if model.contains("titan-embed-image") {
                body["embeddingConfig"] = json!({"outputEmbeddingLength": dimensions});
            } else if model.contains("titan-embed-text-v1") || model.contains("titan-embed-g1") {
                dropped.push("dimensions".to_owned());
            } else {
                body["dimensions"] = json!(dimensions);
            }
        }
        body
    };
    Ok(EncodedCall { body: body.to_string().into_bytes(), dropped })
}

/// Amazon's models embed one text a call.
fn single<'a>(texts: &[&'a str]) -> Result<&'a str, Fault> {
    match texts {
        [one] => Ok(one),
        _ => Err(Fault::client(code::UNSUPPORTED_PARAMETER, "the target embeds one text a call")
            .with_param("input")),
    }
}

/// The makers' answers are told apart by their shape.
pub(super) fn decode(body: &[u8]) -> Result<EmbeddingAnswer, Fault> {
    let nonsense = || error::no_answer();
    let value = serde_json::from_slice::<Value>(body).map_err(|cause| nonsense().with_cause(cause))?;
    let vectors: Vec<&Value> = match (&value["embedding"], &value["embeddings"]) {
        // Titan.
        (vector @ Value::Array(_), _) => vec![vector],
        // Cohere, when kinds of numbers are named.
        (_, Value::Object(kinds)) => {
            kinds.get("float").and_then(Value::as_array).ok_or_else(nonsense)?.iter().collect()
        }
        // Cohere, else Nova with a kind of input beside each vector.
        (_, Value::Array(items)) => items.iter().map(|item| item.get("embedding").unwrap_or(item)).collect(),
        _ => return Err(nonsense()),
    };
    let data = vectors.into_iter().enumerate().map(|(index, vector)| {
        let numbers = vector.as_array().ok_or_else(nonsense)?;
        let values: Option<Vec<f32>> =
            numbers.iter().map(|number| number.as_f64().map(|number| number as f32)).collect();
        Ok(Embedding { index: index as u32, values: values.ok_or_else(nonsense)? })
    });
    let data = data.collect::<Result<Vec<_>, Fault>>()?;
    let usage =
        wire::count(value.get("inputTextTokenCount")).map(|input| Usage { input, ..Usage::default() });
    Ok(EmbeddingAnswer { model: String::new(), data, usage, dialect: Dialect::Bedrock, extra: Map::new() })
}
