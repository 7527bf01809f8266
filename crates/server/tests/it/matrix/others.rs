//! The operations beside chats and completions: vectors, ranks, judgements, counts of tokens.

use millgate_testkit::client::Answer;
use millgate_testkit::{Recorded, TestGateway};
use millgate_types::Operation;
use serde_json::{Value, json};

use super::checks::Checked;
use super::page::Mark;
use super::rows::Row;

/// Columns of the page: an operation in a caller's dialect.
pub(super) const COLUMNS: [&str; 7] = [
    "embeddings (OpenAI)",
    "embeddings (Gemini)",
    "embeddings (MLflow)",
    "rerank",
    "moderations",
    "count tokens (Anthropic)",
    "count tokens (Gemini)",
];

const TEXTS: [&str; 2] = ["first text", "the second text"];

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, not {wanted:?}")) }
}

struct Call<'a> {
    gateway: &'a TestGateway,
    row: &'a Row,
}

pub(super) async fn check(gateway: &TestGateway, row: &Row, column: &str) -> Checked {
    let call = Call { gateway, row };
    match column {
        "embeddings (OpenAI)" => call.embeddings(openai_vectors, "/v1/embeddings").await,
        "embeddings (Gemini)" => call.embeddings(gemini_vectors, "").await,
        "embeddings (MLflow)" => call.embeddings(openai_vectors, "/gateway").await,
        "rerank" => call.rerank().await,
        "moderations" => call.moderations().await,
        "count tokens (Anthropic)" => call.count(false).await,
        "count tokens (Gemini)" => call.count(true).await,
        other => Err(format!("no check for {other}")),
    }
}

/// Vectors of an answer in OpenAI's shape, and the input's tokens.
fn openai_vectors(body: &Value) -> (Vec<Value>, u64) {
    let data = body["data"].as_array().cloned().unwrap_or_default();
    let in_order = data.iter().enumerate().all(|(place, item)| item["index"] == place);
    let vectors = data.iter().filter(|_| in_order).map(|item| item["embedding"].clone());
    (vectors.collect(), body["usage"]["prompt_tokens"].as_u64().unwrap_or(0))
}

fn gemini_vectors(body: &Value) -> (Vec<Value>, u64) {
    let data = body["embeddings"].as_array().cloned().unwrap_or_default();
    (data.iter().map(|item| item["values"].clone()).collect(), 1)
}

/// The texts that the provider was asked to embed, in whichever shape.
fn embedded(body: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let of = |value: &Value| value.as_str().map(str::to_owned);
    let parts = |value: &Value| of(&value["content"]["parts"][0]["text"]);
    let found: Vec<Option<String>> = if body["input"].is_null() {
        [
            list(&body["requests"]).iter().map(parts).collect::<Vec<_>>(),
            list(&body["instances"]).iter().map(|instance| of(&instance["content"])).collect(),
            list(&body["texts"]).iter().map(of).collect(),
            vec![of(&body["inputText"]), parts(body)],
        ]
        .concat()
    } else {
        list(&body["input"]).iter().map(of).collect()
    };
    found.into_iter().flatten().collect()
}

impl Call<'_> {
    async fn post(&self, path: &str, body: &Value) -> (Answer, Vec<Recorded>) {
        self.row.fake.forget();
        let answer = self.gateway.post(path, body).await;
        let mut requests = self.row.fake.requests();
        requests.retain(|request| !request.path.ends_with("/token"));
        (answer, requests)
    }

    /// What the provider does not have is refused as such, before anything is sent.
    fn lacks(&self, operation: Operation, answer: &Answer, requests: &[Recorded]) -> Option<Checked> {
        if self.row.has(operation) {
            return None;
        }
        let code = answer.header("x-millgate-error");
        let refused = (answer.status, code, requests.len()) == (501, Some("not_implemented"), 0);
        Some(if refused { Ok(Mark::None) } else { Err(format!("{}: {}", answer.status, answer.text())) })
    }

    async fn embeddings(&self, read: fn(&Value) -> (Vec<Value>, u64), style: &str) -> Checked {
        let mut mark = Mark::Yes;
        let endpoint = |behaviour: &str| self.row.endpoint(Operation::Embeddings, behaviour);
        let request = |behaviour: &str, texts: &[&str]| {
            let name = endpoint(behaviour);
            let parts = |text: &&str| json!({ "model": format!("models/{name}"), "content": { "parts": [{ "text": text }] } });
            match style {
                "" => (
                    format!("/v1beta/models/{name}:batchEmbedContents"),
                    json!({ "requests": texts.iter().map(parts).collect::<Vec<_>>() }),
                ),
                "/gateway" => (format!("/gateway/{name}/invocations"), json!({ "input": texts })),
                path => {
                    (path.to_owned(), json!({ "model": name, "input": texts, "encoding_format": "float" }))
                }
            }
        };
        let mut texts = &TEXTS[..];
        let (path, body) = request("ok", texts);
        let (mut answer, mut requests) = self.post(&path, &body).await;
        if let Some(told) = self.lacks(Operation::Embeddings, &answer, &requests) {
            return told;
        }
        if answer.header("x-millgate-error") == Some("unsupported_parameter") && requests.is_empty() {
            // Some models embed one text a call.
            mark = Mark::OneText;
            texts = &TEXTS[..1];
            let (path, body) = request("ok", texts);
            (answer, requests) = self.post(&path, &body).await;
        }
        equal("status", &(answer.status, requests.len()), &(200, 1)).map_err(|why| why + &answer.text())?;
        equal(
            "texts",
            &embedded(&requests[0].json()),
            &texts.iter().map(|text| (*text).to_owned()).collect(),
        )?;
        let (vectors, tokens) = read(&answer.json());
        let sound = vectors.iter().all(|vector| vector.as_array().is_some_and(|numbers| numbers.len() > 1));
        if vectors.len() != texts.len() || !sound {
            return Err(format!("vectors: {}", answer.text()));
        }
        let estimated = answer.header("x-millgate-estimated").is_some();
        if tokens == 0 && !estimated {
            return Err(format!("no tokens: {}", answer.text()));
        }
        if let Some(dropped) = answer.header("x-millgate-dropped") {
            mark = Mark::Less(dropped.to_owned());
        }
        let (path, body) = request("status-429-retry-7", texts);
        let (answer, _) = self.post(&path, &body).await;
        equal("error", &(answer.status, answer.header("retry-after")), &(429, Some("7")))?;
        Ok(mark)
    }

    async fn rerank(&self) -> Checked {
        let body = |behaviour: &str| {
            json!({ "model": self.row.endpoint(Operation::Rerank, behaviour), "query": "q",
                "documents": ["a long text", "a", "a text"], "top_n": 2 })
        };
        let (answer, requests) = self.post("/v1/rerank", &body("ok")).await;
        if let Some(told) = self.lacks(Operation::Rerank, &answer, &requests) {
            return told;
        }
        equal("status", &(answer.status, requests.len()), &(200, 1)).map_err(|why| why + &answer.text())?;
        let sent = requests[0].json();
        equal("documents", &sent["documents"], &body("ok")["documents"])?;
        let most = if sent["top_k"].is_null() { &sent["top_n"] } else { &sent["top_k"] };
        equal("most", most, &json!(2))?;
        let got = answer.json();
        let order: Vec<&Value> =
            got["results"].as_array().into_iter().flatten().map(|result| &result["index"]).collect();
        equal("order", &order, &vec![&json!(1), &json!(2)])?;
        let (answer, _) = self.post("/v1/rerank", &body("status-429-retry-7")).await;
        equal("error", &(answer.status, &answer.json()["code"]), &(429, &json!("upstream_rate_limited")))?;
        Ok(Mark::Yes)
    }

    async fn moderations(&self) -> Checked {
        let body = |behaviour: &str| json!({ "model": self.row.endpoint(Operation::Moderations, behaviour), "input": ["good", "bad"] });
        let (answer, requests) = self.post("/v1/moderations", &body("ok")).await;
        if let Some(told) = self.lacks(Operation::Moderations, &answer, &requests) {
            return told;
        }
        equal("status", &(answer.status, requests.len()), &(200, 1)).map_err(|why| why + &answer.text())?;
        equal("texts", &requests[0].json()["input"], &json!(["good", "bad"]))?;
        let got = answer.json();
        let flagged = (&got["results"][0]["flagged"], &got["results"][1]["flagged"]);
        equal("flagged", &flagged, &(&json!(false), &json!(true)))?;
        let (answer, _) = self.post("/v1/moderations", &body("status-429-retry-7")).await;
        let code = &answer.json()["error"]["code"];
        equal("error", &(answer.status, code), &(429, &json!("upstream_rate_limited")))?;
        Ok(Mark::Yes)
    }

    async fn count(&self, google: bool) -> Checked {
        let name = self.row.endpoint(Operation::Chat, "ok");
        let (path, body, field) = if google {
            let contents = json!({ "contents": [{ "role": "user", "parts": [{ "text": "123456789" }] }] });
            (format!("/v1beta/models/{name}:countTokens"), contents, "totalTokens")
        } else {
            let body = json!({ "model": name, "messages": [{ "role": "user", "content": "123456789" }] });
            ("/v1/messages/count_tokens".to_owned(), body, "input_tokens")
        };
        let (answer, requests) = self.post(&path, &body).await;
        if let Some(told) = self.lacks(Operation::Chat, &answer, &requests) {
            return told;
        }
        let counted = answer.json()[field].as_u64();
        match (answer.header("x-millgate-estimated"), requests.len()) {
            (None, 1) => equal("tokens", &counted, &Some(42)).map(|()| Mark::Yes),
            (Some("true"), 0) => equal("tokens", &counted, &Some(3)).map(|()| Mark::Estimated),
            _ => Err(format!("{} with {} requests: {}", answer.status, requests.len(), answer.text())),
        }
    }
}
