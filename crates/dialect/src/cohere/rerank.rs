//! Rerank: one shape for callers and for providers. Where a provider says it otherwise, `rename` and `strip` of
//! its quirks say so, and answers are read in all the shapes there are.

use millgate_types::{Dialect, Document, Extra, Fault, Ranked, RerankAnswer, RerankCall};
use serde::Serialize;
use serde_json::{Map, Value};

use super::usage;
use crate::json::{self, At, Object};
use crate::{Context, EncodedCall, Quirks, check_model, error, openai, refuse_control_field};

const ROOT: At<'static> = At::Root;
/// Reads a caller's request. `top_k` is Voyage's word for `top_n` and taken too.
pub(super) fn decode_call(body: Map<String, Value>) -> Result<RerankCall, Fault> {
    let (mut query, mut documents) = (None, None);
    let mut call = RerankCall {
        model: String::new(),
        query: String::new(),
        documents: Vec::new(),
        top_n: None,
        return_documents: false,
        max_tokens_per_doc: None,
        extra: Extra::none(Dialect::Cohere),
    };
    for (key, value) in body {
        refuse_control_field(&key)?;
        if value.is_null() {
            continue;
        }
        let at = ROOT.key(&key);
        match key.as_str() {
            "model" => {
                call.model = json::string(value, &at)?;
                check_model(&call.model)?;
            }
            "query" => query = Some(json::string(value, &at)?),
            "documents" => documents = Some(read_documents(value, &at)?),
            "top_n" | "top_k" => call.top_n = Some(json::unsigned(&value, &at, 1, u64::MAX)?),
            "return_documents" => call.return_documents = json::boolean(&value, &at)?,
            "max_tokens_per_doc" => {
                call.max_tokens_per_doc = Some(json::unsigned(&value, &at, 1, u64::MAX)?);
            }
            _ => drop(call.extra.fields.insert(key, value)),
        }
    }
    call.query = query.ok_or_else(|| ROOT.missing("query"))?;
    call.documents = documents.ok_or_else(|| ROOT.missing("documents"))?;
    Ok(call)
}

fn read_documents(value: Value, at: &At<'_>) -> Result<Vec<Document>, Fault> {
    let items = json::array(value, at)?;
    if items.is_empty() {
        return Err(at.invalid("`documents` is empty"));
    }
    let document = |(index, item)| match item {
        Value::String(text) => Ok(Document::Text(text)),
        other => json::object(other, &at.index(index)).map(Document::Fields),
    };
    items.into_iter().enumerate().map(document).collect()
}

/// Writes the request. A document that is an object with `text` goes as that text, which every reranker takes;
/// with `rank_fields`, and without `text`, it goes as it came.
pub(super) fn encode_call(call: &RerankCall, quirks: &Quirks) -> EncodedCall {
    let mut body = Vec::with_capacity(1024);
    let mut top = Top { object: Object::new(&mut body), quirks, dropped: Vec::new() };
    if !quirks.omit_model && !call.model.is_empty() {
        top.object.field("model", &call.model);
    }
    top.object.field("query", &call.query);
    let whole = call.extra.fields.contains_key("rank_fields");
    let mut list = top.object.array("documents");
    for document in &call.documents {
        match document {
            Document::Text(text) => list.push(text),
            Document::Fields(fields) => match fields.get("text") {
                Some(Value::String(text)) if !whole => list.push(text),
                _ => list.push(fields),
            },
        }
    }
    list.end();
    top.some("top_n", call.top_n.as_ref());
    top.some("max_tokens_per_doc", call.max_tokens_per_doc.as_ref());
    for (key, value) in &call.extra.fields {
        top.some(key, Some(value));
    }
    let Top { object, dropped, .. } = top;
    object.end();
    EncodedCall { body, dropped }
}

struct Top<'a> {
    object: Object<'a>,
    quirks: &'a Quirks,
    dropped: Vec<String>,
}

impl Top<'_> {
    fn some<T: Serialize>(&mut self, key: &str, value: Option<&T>) {
        let Some(value) = value else { return };
        match self.quirks.name_of(key) {
            Some(name) => self.object.field(name, value),
            None => self.dropped.push(key.to_owned()),
        }
    }
}

/// Reads `results` (Cohere, Jina, Together, vLLM, llama.cpp, OpenRouter) or `data` (Voyage), and `meta` or `usage`.
pub(super) fn decode_answer(body: &[u8]) -> Result<RerankAnswer, Fault> {
    let mut map = error::answer_object(body)?;
    let items = match (map.shift_remove("results"), map.shift_remove("data")) {
        (Some(Value::Array(items)), _) | (_, Some(Value::Array(items))) => items,
        _ if map.contains_key("error") => {
            return Err(error::in_band(&error::read_value(&Value::Object(map)), None));
        }
        _ => return Err(error::no_answer()),
    };
    let results = items.iter().map(ranked).collect::<Option<_>>();
    let counted = map.shift_remove("usage").as_ref().and_then(openai::usage::read);
    let billed = map.shift_remove("meta").as_ref().and_then(usage::read);
    map.shift_remove("object");
    Ok(RerankAnswer {
        id: json::take_string(&mut map, "id").unwrap_or_default(),
        model: json::take_string(&mut map, "model").unwrap_or_default(),
        results: results.ok_or_else(error::no_answer)?,
        usage: match (counted, billed) {
            (Some(counted), Some(billed)) => Some(millgate_types::Usage { billed: billed.billed, ..counted }),
            (counted, billed) => counted.or(billed),
        },
        dialect: Dialect::Cohere,
        extra: map,
    })
}

fn ranked(item: &Value) -> Option<Ranked> {
    Some(Ranked {
        index: item.get("index")?.as_u64()?,
        relevance_score: item.get("relevance_score")?.as_f64()?,
        document: item.get("document").filter(|document| !document.is_null()).cloned(),
    })
}

/// Writes the answer: Cohere's v2 shape with the model's name, and with `usage` where tokens were counted.
pub(super) fn encode_answer(answer: &RerankAnswer, context: &Context) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut top = Object::new(&mut out);
    top.field("id", &openai::answer::answer_id(&answer.id, "rerank-", context));
    top.field("model", &context.model);
    let mut results = top.array("results");
    for result in &answer.results {
        let mut item = results.object();
        item.field("index", &result.index);
        item.field("relevance_score", &result.relevance_score);
        item.some("document", result.document.as_ref());
        item.end();
    }
    results.end();
    usage::write(&mut top, answer.usage.as_ref());
    for (key, value) in answer.extra.iter().filter(|_| answer.dialect == Dialect::Cohere) {
        top.field(key, value);
    }
    top.end();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(body: &Value) -> Result<RerankCall, Fault> {
        decode_call(body.as_object().unwrap().clone())
    }

    #[test]
    fn a_providers_own_words_are_used() {
        let call =
            call(&json!({"model": "m", "query": "q", "documents": ["a", {"text": "b"}, {"title": "c"}],
            "top_n": 2, "max_tokens_per_doc": 9, "truncation": true}))
            .unwrap();
        let quirks = Quirks {
            rename: vec![("top_n".to_owned(), "top_k".to_owned())],
            strip: vec!["max_tokens_per_doc".to_owned()],
            ..Quirks::default()
        };
        let encoded = encode_call(&call, &quirks);
        assert_eq!(
            serde_json::from_slice::<Value>(&encoded.body).unwrap(),
            json!({"model": "m", "query": "q", "documents": ["a", "b", {"title": "c"}], "top_k": 2,
                "truncation": true})
        );
        assert_eq!(encoded.dropped, ["max_tokens_per_doc"]);
    }

    #[test]
    fn bad_calls_are_refused_by_name() {
        for (body, param) in [
            (json!({"documents": ["a"]}), "query"),
            (json!({"query": "q"}), "documents"),
            (json!({"query": "q", "documents": []}), "documents"),
            (json!({"query": "q", "documents": ["a", 1]}), "documents[1]"),
            (json!({"query": ["q"], "documents": ["a"]}), "query"),
            (json!({"query": "q", "documents": ["a"], "top_n": 0}), "top_n"),
            (json!({"query": "q", "documents": ["a"], "api_key": "x"}), "api_key"),
        ] {
            assert_eq!(call(&body).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }

    #[test]
    fn answers_that_rank_nothing_are_upstream_errors() {
        for body in
            ["{}", "[1]", "7", r#"{"results":[{"index":-1,"relevance_score":0.5}]}"#, r#"{"data":"x"}"#]
        {
            assert!(decode_answer(body.as_bytes()).is_err(), "{body}");
        }
    }
}
