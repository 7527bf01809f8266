//! Requests for vectors, in the three shapes that Google's models take.

use millgate_types::{Dialect, EmbeddingCall, Fault, Prompt, code};
use serde_json::{Map, Value, json};

use crate::EncodedCall;
use crate::json::Object;
use crate::quirks::EmbeddingStyle;

pub(super) fn call(call: &EmbeddingCall, style: EmbeddingStyle) -> Result<EncodedCall, Fault> {
    let refused =
        |public: &'static str| Err(Fault::client(code::UNSUPPORTED_PARAMETER, public).with_param("input"));
    let texts = match &call.input {
        Prompt::Text(text) => std::slice::from_ref(text),
        Prompt::Texts(texts) => texts.as_slice(),
        Prompt::Tokens(_) | Prompt::TokenLists(_) => return refused("the target takes texts, not tokens"),
    };
    let same = call.extra.dialect == Dialect::Gemini;
    let mut dropped = Vec::new();
    if call.user.is_some() {
        dropped.push("user".to_owned());
    }
    let none = Map::new();
    let own = if same {
        &call.extra.fields
    } else {
        dropped.extend(call.extra.fields.keys().cloned());
        &none
    };
    let body = match style {
        EmbeddingStyle::Batch => batch(call, texts, own),
        EmbeddingStyle::Predict => predict(call, texts, own, &mut dropped),
        EmbeddingStyle::Single => match texts {
            [text] => single(call, text, own),
            _ => return refused("the target embeds one text a call"),
        },
    };
    Ok(EncodedCall { body, dropped })
}

fn batch(call: &EmbeddingCall, texts: &[String], own: &Map<String, Value>) -> Vec<u8> {
    let model =
        if call.model.starts_with("models/") { call.model.clone() } else { format!("models/{}", call.model) };
    let mut body = Vec::with_capacity(256);
    let mut top = Object::new(&mut body);
    let mut requests = top.array("requests");
    for text in texts {
        let mut request = requests.object();
        request.field("model", &model);
        content(&mut request, call, text, own);
        request.end();
    }
    requests.end();
    top.end();
    body
}

fn single(call: &EmbeddingCall, text: &str, own: &Map<String, Value>) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    let mut top = Object::new(&mut body);
    content(&mut top, call, text, own);
    top.end();
    body
}

fn content(out: &mut Object<'_>, call: &EmbeddingCall, text: &str, own: &Map<String, Value>) {
    out.field("content", &json!({"parts": [{"text": text}]}));
    out.some("outputDimensionality", call.dimensions.as_ref());
    for (key, value) in own {
        out.field(key, value);
    }
}

/// Vertex AI's older shape: what a text is for stands beside it, in another spelling.
fn predict(
    call: &EmbeddingCall,
    texts: &[String],
    own: &Map<String, Value>,
    dropped: &mut Vec<String>,
) -> Vec<u8> {
    let mut beside = Map::new();
    let mut parameters = Map::new();
    for (key, value) in own {
        match key.as_str() {
            "taskType" => drop(beside.insert("task_type".to_owned(), value.clone())),
            "title" => drop(beside.insert("title".to_owned(), value.clone())),
            "autoTruncate" => drop(parameters.insert(key.clone(), value.clone())),
            _ => dropped.push(key.clone()),
        }
    }
    if let Some(dimensions) = call.dimensions {
        parameters.insert("outputDimensionality".to_owned(), json!(dimensions));
    }
    let instances: Vec<Value> = texts
        .iter()
        .map(|text| {
            let mut instance = Map::new();
            instance.insert("content".to_owned(), json!(text));
            instance.extend(beside.clone());
            Value::Object(instance)
        })
        .collect();
    let mut body = Vec::with_capacity(256);
    let mut top = Object::new(&mut body);
    top.field("instances", &instances);
    if !parameters.is_empty() {
        top.field("parameters", &parameters);
    }
    top.end();
    body
}
