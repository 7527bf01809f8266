//! One cell: a caller, a provider, a feature. Each check looks at what the provider was sent and at what the caller
//! got, and says how the cell works or, as an error, why it does not.

use std::time::{Duration, Instant};

use millgate_dialect::{ReasoningField, SchemaSupport};
use millgate_testkit::client::{Answer, Connection};
use millgate_testkit::{Recorded, TestGateway};
use millgate_types::{Dialect, Operation};
use serde_json::{Value, json};

use super::super::PROVIDER_KEY;
use super::caller::{Ask, BOUND, Caller, RESULTS, SYSTEM, USER};
use super::page::Mark;
use super::rows::Row;
use super::seen::{self, Counts, End, Seen};
use super::sent::{self, Sent};

const TEXT: &str = "Hello from the fake provider.";
const THOUGHT: &str = "Let me think.";

pub(super) type Checked = Result<Mark, String>;

/// The features of chats, in the page's order.
pub(super) const CHAT: [&str; 18] = [
    "plain",
    "stream",
    "tools",
    "tools, streamed",
    "tool loop",
    "parallel tools",
    "image",
    "JSON schema",
    "thinking asked for",
    "thinking shown",
    "thinking sent back",
    "another's thinking",
    "usage",
    "usage, streamed",
    "errors",
    "error in a stream",
    "length",
    "cancel",
];

/// The features of completions.
pub(super) const COMPLETIONS: [&str; 8] =
    ["plain", "stream", "usage", "usage, streamed", "errors", "error in a stream", "length", "cancel"];

pub(super) struct Cell<'a> {
    pub(super) gateway: &'a TestGateway,
    pub(super) row: &'a Row,
    pub(super) caller: Caller,
}

/// What came of a call.
enum Outcome {
    /// Never sent: the code, and the field at fault.
    Refused(String),
    Answered(Box<Answered>),
}

struct Answered {
    answer: Answer,
    request: Recorded,
    wire: Dialect,
    sent: Sent,
    /// What the gateway says that it left out.
    dropped: Vec<String>,
}

macro_rules! answered {
    ($outcome:expr) => {
        match $outcome? {
            Outcome::Answered(answered) => *answered,
            Outcome::Refused(why) => return Ok(Mark::Refused(why)),
        }
    };
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, not {wanted:?}")) }
}

impl Answered {
    /// How it works: as a whole, or without what was left out.
    fn mark(&self) -> Mark {
        if self.dropped.is_empty() { Mark::Yes } else { Mark::Less(self.dropped.join(", ")) }
    }

    /// The same, where the feature itself must have been sent unless its loss is told.
    fn unless_told(&self, held: bool, what: &str, fields: &[&str]) -> Checked {
        let told = self.dropped.iter().any(|path| fields.iter().any(|field| path.contains(field)));
        if held || told {
            return Ok(self.mark());
        }
        Err(format!("{what} was lost without a word (dropped: {:?}): {}", self.dropped, self.request.body))
    }
}

impl Cell<'_> {
    pub(super) async fn check(&self, feature: &str) -> Checked {
        if !self.exists() {
            return self.lacks().await;
        }
        match feature {
            "plain" => self.plain(false).await,
            "stream" => self.plain(true).await,
            "tools" => self.tools("tool", false).await,
            "tools, streamed" => self.tools("tool", true).await,
            "tool loop" => self.tool_loop("tool").await,
            "parallel tools" => {
                self.tools("parallel", true).await?;
                self.tool_loop("parallel").await
            }
            "image" => self.image().await,
            "JSON schema" => self.schema().await,
            "thinking asked for" => self.thinking_asked().await,
            "thinking shown" => self.thinking_shown().await,
            "thinking sent back" => self.thinking_back().await,
            "another's thinking" => self.thinking_of_others().await,
            "usage" => self.usage(false).await,
            "usage, streamed" => self.usage(true).await,
            "errors" => self.errors().await,
            "error in a stream" => self.error_in_stream().await,
            "length" => self.length().await,
            "cancel" => self.cancel().await,
            other => Err(format!("no check for {other}")),
        }
    }

    fn operation(&self) -> Operation {
        if self.caller.completes() { Operation::Completions } else { Operation::Chat }
    }

    /// Whether the provider has what the caller wants of it: completions also where there are only chats.
    fn exists(&self) -> bool {
        self.row.has(Operation::Chat) || self.caller.completes() && self.row.has(Operation::Completions)
    }

    /// What is not there is refused as such, before anything is sent.
    async fn lacks(&self) -> Checked {
        let (answer, requests) = self.post("ok", &Ask::default()).await;
        equal("status", &answer.status, &501)?;
        equal("requests", &requests.len(), &0)?;
        self.error_body(&answer, "not_implemented")?;
        Ok(Mark::None)
    }

    async fn post(&self, behaviour: &str, ask: &Ask) -> (Answer, Vec<Recorded>) {
        let endpoint = self.row.endpoint(self.operation(), behaviour);
        self.row.fake.forget();
        let body = self.caller.body(&endpoint, ask);
        let answer = self.gateway.post(&self.caller.path(&endpoint, ask.stream), &body).await;
        let mut requests = self.row.fake.requests();
        requests.retain(|request| !request.path.ends_with("/token"));
        (answer, requests)
    }

    async fn ask(&self, behaviour: &str, ask: &Ask) -> Result<Outcome, String> {
        let (answer, mut requests) = self.post(behaviour, ask).await;
        let code = answer.header("x-millgate-error").map(str::to_owned);
        if let Some(code) = &code
            && requests.is_empty()
            && matches!(answer.status, 400 | 501)
        {
            self.error_body(&answer, code)?;
            return Ok(Outcome::Refused(code.clone()));
        }
        if answer.status != 200 || !answer.complete || requests.len() != 1 {
            return Err(format!("{} with {} requests: {}", answer.status, requests.len(), answer.text()));
        }
        let request = requests.remove(0);
        let path = request.path.split('?').next().unwrap_or_default();
        let wire = if path.ends_with("/responses") { Dialect::Responses } else { self.row.kind.dialect };
        let sent = sent::read(wire, &request.json());
        if let Some(field) = self.row.kind.quirks.strip.iter().find(|field| !request.json()[field].is_null())
        {
            return Err(format!("`{field}` was sent, which the provider refuses: {}", request.body));
        }
        let dropped = answer.header("x-millgate-dropped").unwrap_or_default();
        let dropped = dropped.split(", ").filter(|path| !path.is_empty()).map(str::to_owned).collect();
        Ok(Outcome::Answered(Box::new(Answered { answer, request, wire, sent, dropped })))
    }

    fn read(&self, answered: &Answered, stream: bool) -> Result<Seen, String> {
        if !stream {
            return seen::whole(self.caller, &answered.answer.json());
        }
        let text = answered.answer.text();
        match seen::stream(self.caller, &text).map_err(|why| format!("{why}\n{text}"))? {
            (seen, End::Proper) => Ok(seen),
            (_, fault) => Err(format!("{fault:?}")),
        }
    }

    // ---- texts --------------------------------------------------------------------------------------

    async fn plain(&self, stream: bool) -> Checked {
        let answered = answered!(self.ask("ok", &Ask { stream, ..Ask::default() }).await);
        let seen = self.read(&answered, stream)?;
        equal("text", &seen.text.as_str(), &TEXT)?;
        equal("finish", &seen.finish.as_str(), &self.finish("stop"))?;
        if self.caller.completes() {
            let prompt = &answered.request.json()["prompt"];
            let sent = if prompt.is_string() { prompt.clone() } else { json!(answered.sent.user) };
            equal("prompt", &sent, &json!(USER))?;
        } else {
            equal("user", &answered.sent.user.as_str(), &USER)?;
            equal("system", &answered.sent.system.as_str(), &SYSTEM)?;
            equal("bound", &answered.sent.bound, &Some(BOUND))?;
        }
        Ok(answered.mark())
    }

    /// The dialect's word for why the answer ended.
    fn finish(&self, why: &str) -> &'static str {
        match (self.caller, why) {
            (Caller::Anthropic, "length") => "max_tokens",
            (Caller::Anthropic, "tool_calls") => "tool_use",
            (Caller::Anthropic, _) => "end_turn",
            (Caller::Gemini, "length") => "MAX_TOKENS",
            (Caller::Gemini, _) => "STOP",
            (Caller::Responses, "length") => "incomplete: max_output_tokens",
            (Caller::Responses, _) => "completed",
            (_, "length") => "length",
            (_, "tool_calls") => "tool_calls",
            _ => "stop",
        }
    }

    async fn length(&self) -> Checked {
        let mut mark = Mark::Yes;
        for stream in [false, true] {
            let answered = answered!(self.ask("length", &Ask { stream, ..Ask::default() }).await);
            let seen = self.read(&answered, stream)?;
            equal("finish", &seen.finish.as_str(), &self.finish("length"))?;
            equal("text", &seen.text.as_str(), &TEXT)?;
            mark = answered.mark();
        }
        Ok(mark)
    }

    // ---- tools --------------------------------------------------------------------------------------

    async fn tools(&self, behaviour: &str, stream: bool) -> Checked {
        let ask = Ask { tools: true, stream, ..Ask::default() };
        let answered = answered!(self.ask(behaviour, &ask).await);
        let seen = self.read(&answered, stream)?;
        self.calls(&seen, behaviour)?;
        let both = ["get_weather", "get_time"].map(str::to_owned).to_vec();
        answered.unless_told(answered.sent.tools == both, "a tool", &["tools"])
    }

    fn calls(&self, seen: &Seen, behaviour: &str) -> Result<(), String> {
        let wanted = [("get_weather", json!({ "city": "Paris" })), ("get_time", json!({ "zone": "CET" }))];
        let wanted = &wanted[..if behaviour == "tool" { 1 } else { 2 }];
        let got: Vec<(&str, Value)> = seen
            .calls
            .iter()
            .map(|call| (call.name.as_str(), serde_json::from_str(&call.arguments).unwrap_or_default()))
            .collect();
        equal("calls", &got.as_slice(), &wanted)?;
        equal("finish", &seen.finish.as_str(), &self.finish("tool_calls"))?;
        let mut ids: Vec<&str> = seen.calls.iter().map(|call| call.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        // Google's calls need no ids.
        let has_ids = ids.len() == wanted.len() && ids.iter().all(|id| !id.is_empty());
        if has_ids || self.caller == Caller::Gemini { Ok(()) } else { Err(format!("ids: {ids:?}")) }
    }

    /// The answer goes back unchanged, with results; ids and seals arrive where they came from.
    async fn tool_loop(&self, behaviour: &str) -> Checked {
        let ask = Ask { tools: true, ..Ask::default() };
        let first = answered!(self.ask(behaviour, &ask).await);
        let seen = self.read(&first, false)?;
        self.calls(&seen, behaviour)?;
        let ids: Vec<(String, String)> =
            seen.calls.iter().map(|call| (call.id.clone(), call.name.clone())).collect();
        let mut more = self.caller.turn(&first.answer.json());
        more.extend(self.caller.results(&ids));
        let second = answered!(self.ask("ok", &Ask { tools: true, more, ..Ask::default() }).await);
        equal("text", &self.read(&second, false)?.text.as_str(), &TEXT)?;
        let named = matches!(second.wire, Dialect::Gemini | Dialect::Ollama);
        let mut wanted = Vec::new();
        for (place, ((_, name), text)) in ids.iter().zip(RESULTS).enumerate() {
            let key = match second.wire {
                _ if named => name.clone(),
                Dialect::Anthropic => format!("toolu_fake{}", place + 1),
                Dialect::Bedrock => format!("tooluse_fake{}", place + 1),
                Dialect::Cohere => format!("{name}_fake{}", place + 1),
                _ => format!("call_fake{}", place + 1),
            };
            wanted.push((key, text.to_owned()));
        }
        equal("results", &second.sent.results, &wanted)?;
        let called: Vec<String> = second
            .sent
            .calls
            .iter()
            .map(|call| if named { call.name.clone() } else { call.id.clone() })
            .collect();
        let keys: Vec<String> = wanted.into_iter().map(|(key, _)| key).collect();
        equal("calls in the history", &called, &keys)?;
        let arguments: Value = serde_json::from_str(&second.sent.calls[0].arguments).unwrap_or_default();
        equal("arguments in the history", &arguments, &json!({ "city": "Paris" }))?;
        if second.wire == Dialect::Gemini && self.caller.shows_thinking() {
            equal("seals", &second.sent.seals, &vec!["c2lnbmF0dXJl".to_owned()])?;
        }
        Ok(second.mark())
    }

    // ---- what is asked for --------------------------------------------------------------------------

    async fn image(&self) -> Checked {
        let answered = answered!(self.ask("ok", &Ask { image: true, ..Ask::default() }).await);
        answered.unless_told(answered.sent.image, "the picture", &["content"])
    }

    async fn schema(&self) -> Checked {
        let answered = answered!(self.ask("ok", &Ask { schema: true, ..Ask::default() }).await);
        let form = &answered.sent.form;
        let quirks = &self.row.kind.quirks;
        if quirks.schema != SchemaSupport::JsonSchema && !form.is_null() {
            return Err(format!(
                "a schema was sent, which the provider does not take: {}",
                answered.request.body
            ));
        }
        if form["properties"]["answer"]["type"] == "integer" {
            return Ok(answered.mark());
        }
        // Told in words where nothing else is understood.
        if answered.sent.system.contains("\"answer\"") {
            return Ok(Mark::Words);
        }
        answered.unless_told(false, "the schema", &["response_format"])
    }

    // ---- thinking -----------------------------------------------------------------------------------

    async fn thinking_asked(&self) -> Checked {
        if !self.caller.shows_thinking() && self.caller != Caller::Mlflow {
            return Ok(Mark::None);
        }
        let answered = answered!(self.ask("ok", &Ask { thinking: true, ..Ask::default() }).await);
        answered.unless_told(answered.sent.thinks, "the wish for thinking", &["reasoning", "thinking"])
    }

    /// Whether the provider shows thinking in the API that it is spoken to by.
    fn thinks(&self, wire: Dialect) -> bool {
        match wire {
            Dialect::OpenAi => self.row.kind.quirks.reasoning_field != ReasoningField::None,
            Dialect::Mlflow => false,
            _ => true,
        }
    }

    async fn thinking_shown(&self) -> Checked {
        if !self.caller.shows_thinking() {
            return Ok(Mark::None);
        }
        for stream in [false, true] {
            let ask = Ask { thinking: true, stream, ..Ask::default() };
            let answered = answered!(self.ask("reasoning", &ask).await);
            if !self.thinks(answered.wire) {
                return Ok(Mark::None);
            }
            let seen = self.read(&answered, stream)?;
            equal("text", &seen.text.as_str(), &TEXT)?;
            // OpenRouter's callers see it in both of its forms.
            if !seen.thinking.starts_with(THOUGHT) {
                return Err(format!("thinking: {:?}: {}", seen.thinking, answered.answer.text()));
            }
        }
        Ok(Mark::Yes)
    }

    /// The seal that the fake puts on its thinking.
    fn seal(&self, wire: Dialect) -> Option<&'static str> {
        match wire {
            Dialect::Anthropic | Dialect::Bedrock => Some("c2ln"),
            Dialect::Gemini => Some("c2lnbmF0dXJl"),
            Dialect::Responses => Some("c2VhbGVk"),
            Dialect::OpenAi if self.row.kind.quirks.reasoning_field == ReasoningField::ReasoningDetails => {
                Some("c2ln")
            }
            _ => None,
        }
    }

    async fn thinking_back(&self) -> Checked {
        if !self.caller.shows_thinking() {
            return Ok(Mark::None);
        }
        let first = answered!(self.ask("reasoning", &Ask { thinking: true, ..Ask::default() }).await);
        if !self.thinks(first.wire) {
            return Ok(Mark::None);
        }
        let second = answered!(self.continued(&first.answer.json()).await);
        let sent = &second.sent;
        let held = match self.seal(second.wire) {
            Some(seal) => sent.seals.iter().any(|sent| sent == seal),
            None => sent.thinking.contains(THOUGHT),
        };
        second.unless_told(held, "thinking", &["content", "reasoning"])
    }

    /// The answer, and one more question.
    async fn continued(&self, answer: &Value) -> Result<Outcome, String> {
        let mut more = self.caller.turn(answer);
        more.push(self.caller.question("And tomorrow?"));
        let outcome = self.ask("ok", &Ask { thinking: true, more, ..Ask::default() }).await?;
        if let Outcome::Answered(answered) = &outcome {
            equal("text", &self.read(answered, false)?.text.as_str(), &TEXT)?;
        }
        Ok(outcome)
    }

    /// A conversation that another provider began: its thinking goes on as text or is left out by name, and its
    /// seal reaches nobody else.
    async fn thinking_of_others(&self) -> Checked {
        if !self.caller.shows_thinking() {
            return Ok(Mark::None);
        }
        let takes_claudes = self.seal(self.row.wire) == Some("c2ln");
        let maker = if takes_claudes { "maker-gemini" } else { "maker-anthropic" };
        let ask = Ask { thinking: true, ..Ask::default() };
        let path = self.caller.path(maker, false);
        let first = self.gateway.post(&path, &self.caller.body(maker, &ask)).await;
        equal("status of the maker", &first.status, &200)?;
        let second = answered!(self.continued(&first.json()).await);
        let seal = if takes_claudes { "c2lnbmF0dXJl" } else { "c2ln" };
        if second.request.body.contains(seal) {
            return Err(format!("another's seal was sent: {}", second.request.body));
        }
        second.unless_told(second.sent.thinking.contains(THOUGHT), "thinking", &["content", "reasoning"])
    }

    // ---- usage --------------------------------------------------------------------------------------

    async fn usage(&self, stream: bool) -> Checked {
        let answered = answered!(self.ask("ok", &Ask { stream, ..Ask::default() }).await);
        let output = if stream { 5 } else { 7 };
        let path = answered.request.path.split('?').next().unwrap_or_default();
        let completes = path.ends_with("/completions") && !path.ends_with("/chat/completions");
        let (input, cached, output) = match answered.wire {
            Dialect::Responses => (9, 4, 7),
            Dialect::Gemini => (9, 4, output + 3),
            Dialect::Bedrock => (9, 4, output),
            Dialect::Cohere => (70, 0, output),
            _ if completes => (5, 0, output),
            _ => (9, 0, output),
        };
        // Completions of MLflow say no parts.
        let cached = if self.caller == Caller::MlflowCompletions { 0 } else { cached };
        let seen = self.read(&answered, stream)?;
        if answered.answer.header("x-millgate-estimated").is_some() {
            return Err("the usage is an estimate".to_owned());
        }
        equal("usage", &seen.usage, &Some(Counts { input, cached, output }))?;
        Ok(Mark::Yes)
    }

    // ---- errors -------------------------------------------------------------------------------------

    async fn errors(&self) -> Checked {
        for stream in [false, true] {
            let ask = Ask { stream, ..Ask::default() };
            let (answer, _) = self.post("status-429-retry-7", &ask).await;
            equal("status", &answer.status, &429)?;
            equal("Retry-After", &answer.header("retry-after"), &Some("7"))?;
            self.error_body(&answer, "upstream_rate_limited")?;
            let (answer, _) = self.post("status-401", &ask).await;
            equal("status of a refused key", &answer.status, &502)?;
            self.error_body(&answer, "upstream_auth")?;
            let text = answer.text();
            if text.contains(PROVIDER_KEY) || text.contains("sk-fake") {
                return Err(format!("a key is shown: {text}"));
            }
        }
        Ok(Mark::Yes)
    }

    /// The body is an error in the caller's own form.
    fn error_body(&self, answer: &Answer, code: &str) -> Result<(), String> {
        let body = answer.json();
        let status = answer.status;
        let error = &body["error"];
        let words = |limited: &'static str, auth: &'static str| match status {
            429 => Some(limited),
            502 => Some(auth),
            _ => None,
        };
        let (holds, word, wanted) = match self.caller {
            Caller::Anthropic => (
                body["type"] == "error" && error["code"] == code,
                &error["type"],
                words("rate_limit_error", "api_error"),
            ),
            Caller::Gemini => (
                error["code"] == status && error["details"][0]["reason"] == code,
                &error["status"],
                words("RESOURCE_EXHAUSTED", "UNAVAILABLE"),
            ),
            Caller::Mlflow | Caller::MlflowCompletions => {
                (body["detail"].is_string(), &body["error_code"], Some(code))
            }
            _ => (error["code"] == code, &error["type"], words("rate_limit_error", "api_error")),
        };
        let is_told = match self.caller {
            Caller::Mlflow | Caller::MlflowCompletions => true,
            _ => error["message"].as_str().is_some_and(|text| !text.is_empty()),
        };
        equal("error code in the head", &answer.header("x-millgate-error"), &Some(code))?;
        if holds && is_told && wanted.is_none_or(|wanted| word == wanted) {
            return Ok(());
        }
        Err(format!("not the dialect's error: {body}"))
    }

    async fn error_in_stream(&self) -> Checked {
        let (answer, _) = self.post("error-in-stream-250ms", &Ask { stream: true, ..Ask::default() }).await;
        equal("status", &answer.status, &200)?;
        let text = answer.text();
        let (seen, end) = seen::stream(self.caller, &text).map_err(|why| format!("{why}\n{text}"))?;
        equal("text", &seen.text.as_str(), &"Hello from ")?;
        equal("finish", &seen.finish.as_str(), &"")?;
        match end {
            End::Fault(code) if !code.is_empty() => Ok(Mark::Yes),
            other => Err(format!("{other:?}: {text}")),
        }
    }

    /// The caller goes away in the middle, and the provider is told by its connection.
    async fn cancel(&self) -> Checked {
        let endpoint = self.row.endpoint(self.operation(), "chunks-2000-3ms");
        let ask = Ask { stream: true, ..Ask::default() };
        let body = self.caller.body(&endpoint, &ask).to_string();
        let before = self.row.fake.left();
        let failed = |error: std::io::Error| error.to_string();
        let mut connection = Connection::open(self.gateway.address()).await.map_err(failed)?;
        let path = self.caller.path(&endpoint, true);
        connection.request("POST", &path, &[], body.as_bytes()).await.map_err(failed)?;
        let mut opened = connection.answer_head().await.map_err(failed)?;
        equal("status", &opened.status, &200)?;
        let mut came = String::new();
        while !came.contains("w3") {
            let piece = opened.piece().await.map_err(failed)?.ok_or("the stream ended by itself")?;
            came += &String::from_utf8_lossy(&piece);
        }
        drop(connection);
        let since = Instant::now();
        while self.row.fake.left() == before {
            if since.elapsed() > Duration::from_secs(2) {
                return Err("the provider goes on".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Mark::Yes)
    }
}
