//! Reranking: a query and documents in, the documents' places by relevance out. The canonical form is Cohere's
//! v2 shape, which most providers of rerankers share.

use serde_json::{Map, Value};

use crate::{Dialect, Extra, Usage};

/// Documents to put in order.
#[derive(Clone, Debug, PartialEq)]
pub struct RerankCall {
    /// The endpoint's or model's name as the caller wrote it; empty when the path names the endpoint.
    pub model: String,
    /// What the documents are compared with.
    pub query: String,
    /// At least one.
    pub documents: Vec<Document>,
    /// How many results the caller wants; `None` means all.
    pub top_n: Option<u64>,
    /// The answer repeats the documents.
    pub return_documents: bool,
    /// Longer documents are cut by the provider (Cohere).
    pub max_tokens_per_doc: Option<u64>,
    /// Everything else at the top level.
    pub extra: Extra,
}

/// A document as the caller wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// Plain text.
    Text(String),
    /// An object: `{"text": ...}` of Cohere v1 and Jina, or fields that only some providers understand.
    Fields(Map<String, Value>),
}

impl Document {
    /// The document as an answer repeats it: an object with `text`, or the caller's own object.
    #[must_use]
    pub fn shown(&self) -> Value {
        match self {
            Self::Text(text) => serde_json::json!({ "text": text }),
            Self::Fields(fields) => Value::Object(fields.clone()),
        }
    }
}

/// The documents' order.
#[derive(Clone, Debug, PartialEq)]
pub struct RerankAnswer {
    /// The provider's id of the answer; empty where it gives none.
    pub id: String,
    /// The model as the provider names it; empty where it does not.
    pub model: String,
    /// The most relevant first.
    pub results: Vec<Ranked>,
    /// What was consumed.
    pub usage: Option<Usage>,
    /// The dialect `extra` belongs to.
    pub dialect: Dialect,
    /// Top-level fields that the canonical form does not name.
    pub extra: Map<String, Value>,
}

/// One document's place.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Which of the call's documents, from 0.
    pub index: u64,
    /// How relevant it is; higher is more. The scale is the model's own.
    pub relevance_score: f64,
    /// The document, where the caller asked for it.
    pub document: Option<Value>,
}

impl RerankAnswer {
    /// Puts the results in order, cuts them to what `call` wants and adds its documents where it wants them.
    /// The index of a result that `call` has no document for, when there is one.
    pub fn settle(&mut self, call: &RerankCall) -> Result<(), u64> {
        let count = call.documents.len() as u64;
        if let Some(stray) = self.results.iter().find(|result| result.index >= count) {
            return Err(stray.index);
        }
        // Stable: equal scores stay in the provider's order.
        self.results.sort_by(|one, other| other.relevance_score.total_cmp(&one.relevance_score));
        let mut seen = vec![false; call.documents.len()];
        self.results.retain(|result| {
            seen.get_mut(result.index as usize).is_some_and(|seen| !std::mem::replace(seen, true))
        });
        if let Some(most) = call.top_n {
            self.results.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        }
        for result in &mut self.results {
            let document = call.documents.get(result.index as usize).filter(|_| call.return_documents);
            result.document = document.map(Document::shown);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(count: usize, top_n: Option<u64>, return_documents: bool) -> RerankCall {
        RerankCall {
            model: "m".to_owned(),
            query: "q".to_owned(),
            documents: (0..count).map(|index| Document::Text(format!("d{index}"))).collect(),
            top_n,
            return_documents,
            max_tokens_per_doc: None,
            extra: Extra::none(Dialect::Cohere),
        }
    }

    fn answer(results: &[(u64, f64)]) -> RerankAnswer {
        let ranked =
            |(index, score): &(u64, f64)| Ranked { index: *index, relevance_score: *score, document: None };
        RerankAnswer {
            id: String::new(),
            model: String::new(),
            results: results.iter().map(ranked).collect(),
            usage: None,
            dialect: Dialect::Cohere,
            extra: Map::new(),
        }
    }

    #[test]
    fn results_come_sorted_cut_and_with_the_callers_documents() {
        let mut found = answer(&[(0, 0.1), (2, 0.9), (1, 0.5), (2, 0.4)]);
        found.settle(&call(3, Some(2), true)).unwrap();
        let shown: Vec<_> = found.results.iter().map(|r| (r.index, r.document.clone().unwrap())).collect();
        assert_eq!(shown, [(2, serde_json::json!({"text": "d2"})), (1, serde_json::json!({"text": "d1"}))]);
        let mut found = answer(&[(0, 0.1), (1, 0.9)]);
        found.settle(&call(2, None, false)).unwrap();
        assert!(found.results.iter().all(|result| result.document.is_none()));
    }

    #[test]
    fn a_place_that_no_document_has_is_told() {
        assert_eq!(answer(&[(0, 0.1), (7, 0.9)]).settle(&call(2, None, false)), Err(7));
    }
}
