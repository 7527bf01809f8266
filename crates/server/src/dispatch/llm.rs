//! One attempt at a provider's model. Same dialect on both sides: the caller's bytes go out with the model's
//! name spliced in, and the answer's bytes come back (pass lane). Otherwise decode, encode, and back
//! (translate lane).

mod batch;

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header, response};
use http_body::{Body, Frame, SizeHint};
use memchr::memmem;
use millgate_credential::Unauthorized;
use millgate_dialect::{
    Context, StreamEncoder, Watch, chat_as_completion, codec, completion_as_chat, estimate_tokens,
    holds_foreign_thinking, replay, scan, usage_of,
};
use millgate_types::{
    Answer, Call, Dialect, EmbeddingFormat, Event, Fault, Lane, Operation, Retry, Usage, code,
};
use millgate_upstream::{Client, Outgoing, Payload, UpstreamBody, UpstreamError, collect};

use super::chat::{self, ChatBody};
use super::doubt;
use super::estimate::Evidence;
use super::facts::Facts;
use super::life::Alive;
use super::mock::{self, MockBody};
use super::stream;
use crate::flight::Flight;
use crate::pipeline::Planned;
use crate::reply::{Pieces, Reply, names};
use crate::snapshot::known::Known;
use crate::snapshot::{Provider, Transport};
use crate::standing::Lease;

/// Error bodies are read up to here.
pub(super) const MAX_ERROR_BODY: usize = 64 << 10;
/// Headers of Anthropic's callers that their provider needs to see.
const ANTHROPIC_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("anthropic-beta"), HeaderName::from_static("anthropic-version")];

/// The call in canonical form, decoded at the first target that needs it.
#[derive(Default)]
pub(super) struct Translated(Option<Call>);

impl Translated {
    pub(super) fn call(&mut self, planned: &Planned) -> Result<&mut Call, Fault> {
        if self.0.is_none() {
            let call = &planned.call;
            let mut decoded = codec(call.dialect).decode_call(call.operation, &call.body)?;
            if let Some(facts) = &call.facts {
                decoded.set_stream(facts.stream);
            }
            self.0 = Some(decoded);
        }
        self.0.as_mut().ok_or_else(|| Fault::gateway(code::INTERNAL_ERROR, "the call was lost"))
    }

    /// What an answer needs from its call: ranks are put in order and cut to what was asked for.
    fn settle(&self, answer: &mut Answer) -> Result<(), Fault> {
        let (Answer::Rerank(answer), Some(Call::Rerank(call))) = (answer, &self.0) else { return Ok(()) };
        answer.settle(call).map_err(|_| {
            let public = "the provider ranked a document that it was not sent";
            Fault::upstream(code::UPSTREAM_ERROR, Retry::NextTarget, public)
        })
    }
}

/// One try at one target.
pub(super) struct Attempt<'a> {
    pub(super) planned: &'a Planned,
    pub(super) provider: &'a Provider,
    /// The provider's name of the model.
    pub(super) model: &'a str,
    pub(super) known: &'a Known,
    /// The key to call with; `None` where nothing elsewhere is called.
    pub(super) lease: Option<&'a Lease<'a>>,
    pub(super) head: &'a Parts,
    pub(super) max_answer: usize,
    /// Longest silence in a stream.
    pub(super) heartbeat: Duration,
}

/// What the answer needs to be read and written.
struct Way<'a> {
    lane: Lane,
    /// What the provider is spoken to in.
    dialect: Dialect,
    /// The provider's name of the model.
    model: Cow<'a, str>,
    /// The operation towards the provider: completions become chat where it only chats.
    operation: Operation,
    stream: bool,
    hide_usage: bool,
    /// How the caller wants vectors written.
    format: EmbeddingFormat,
    dropped: Vec<String>,
    /// Bodies of further requests that belong to the call.
    rest: Vec<Bytes>,
}

impl Attempt<'_> {
    pub(super) async fn run(&self, translated: &mut Translated, flight: &mut Flight) -> Result<Reply, Fault> {
        let facts = self.planned.call.facts.as_ref();
        let facts = facts.ok_or_else(|| Fault::gateway(code::INTERNAL_ERROR, "a call without its facts"))?;
        let operation = self.operation()?;
        if operation == Operation::CountTokens && !(facts.passes && self.native(operation)) {
            return self.estimate(translated, flight);
        }
        flight.price.clone_from(&self.known.price);
        self.check_able(translated)?;
        let (body, way) = self.encode(facts, operation, translated)?;
        flight.record().lane = Some(way.lane);
        let mut reply = {
            // Pinned here: a future of this size is not moved for nothing.
            let answer = pin!(self.answer(&way, body, translated, flight));
            match self.provider.first_content.filter(|_| way.stream) {
                // The reply to a stream is there when its first content is.
                Some(limit) => {
                    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(slow_start()))?
                }
                None => answer.await?,
            }
        };
        if !way.dropped.is_empty()
            && let Ok(dropped) = HeaderValue::from_str(&way.dropped.join(", "))
        {
            reply.headers.insert(names::DROPPED, dropped);
        }
        Ok(reply)
    }

    async fn answer(
        &self,
        way: &Way<'_>,
        body: Bytes,
        translated: &Translated,
        flight: &mut Flight,
    ) -> Result<Reply, Fault> {
        let response = self.send(way, body).await?;
        flight.first_byte();
        if let Some(lease) = self.lease {
            lease.learn(response.headers());
        }
        if !is_answer(&response) {
            return Err(Box::pin(self.failure(response)).await);
        }
        if way.stream {
            return Box::pin(self.stream(response, way, flight)).await;
        }
        let (head, body) = self.collect(response).await?;
        if way.rest.is_empty() {
            self.whole(&head, &body, way, translated, flight)
        } else {
            Box::pin(self.batched(&head, &body, way, flight)).await
        }
    }

    /// What to ask the provider for.
    fn operation(&self) -> Result<Operation, Fault> {
        let wanted = self.planned.call.operation;
        let own = |operation| self.provider.dialect(operation).is_some();
        if self.native(wanted) || own(wanted) {
            return Ok(wanted);
        }
        if wanted == Operation::Completions && own(Operation::Chat) {
            return Ok(Operation::Chat);
        }
        // What the provider does not count is estimated.
        if wanted == Operation::CountTokens && own(Operation::Chat) {
            return Ok(wanted);
        }
        let public =
            format!("the {} route is not implemented for {} models", wanted.name(), self.provider.kind.name);
        Err(Fault::new(code::NOT_IMPLEMENTED, millgate_types::Source::Gateway, Retry::NextTarget, public))
    }

    /// Whether the provider takes the operation in the caller's own dialect.
    fn native(&self, operation: Operation) -> bool {
        self.provider.has(self.planned.call.dialect, operation)
    }

    /// The answer to "how many tokens?" where the provider does not say.
    fn estimate(&self, translated: &mut Translated, flight: &mut Flight) -> Result<Reply, Fault> {
        let Call::Chat(call) = translated.call(self.planned)? else {
            return Err(Fault::gateway(code::INTERNAL_ERROR, "tokens are counted for chats only"));
        };
        flight.record().lane = Some(Lane::Translate);
        let body = codec(self.planned.call.dialect).encode_count(estimate_tokens(call));
        Ok(Reply::json(body).with(names::ESTIMATED, HeaderValue::from_static("true")))
    }

    fn encode(
        &self,
        facts: &Facts,
        operation: Operation,
        translated: &mut Translated,
    ) -> Result<(Bytes, Way<'_>), Fault> {
        let call = &self.planned.call;
        let quirks = &self.provider.quirks;
        let native = self.native(operation)
            && facts.passes
            && !quirks.omit_model
            && !quirks.translates(operation)
            && !(call.dialect == Dialect::OpenAi && quirks.lacks_form(&call.body))
            && !(operation == Operation::Chat && holds_foreign_thinking(call.dialect, &call.body, quirks));
        let own = self.provider.dialect(operation).unwrap_or(self.provider.kind.dialect);
        let target = if native { call.dialect } else { own };
        let stream = facts.stream && call.operation.streams();
        let mut way = Way {
            lane: Lane::Pass,
            dialect: target,
            model: self.model.into(),
            operation,
            stream,
            hide_usage: false,
            format: EmbeddingFormat::Float,
            dropped: Vec::new(),
            rest: Vec::new(),
        };
        if native && operation == call.operation {
            way.hide_usage = stream
                && target == Dialect::OpenAi
                && quirks.supports_stream_options
                && facts.include_usage != Some(true);
            // The quirks speak of the provider's own dialect.
            let quirks = (target == self.provider.kind.dialect).then_some((quirks, operation));
            let (body, dropped) = facts.splice(&call.body, &way.model, way.hide_usage, quirks);
            way.dropped = dropped;
            return Ok((body, way));
        }
        way.lane = Lane::Translate;
        let canonical = translated.call(self.planned)?;
        canonical.rename(&way.model);
        match canonical {
            Call::Embedding(call) => way.format = call.format,
            Call::Chat(call) => call.include_usage = true,
            Call::Completion(call) => call.include_usage = true,
            Call::Rerank(_) | Call::Moderation(_) => {}
        }
        let as_chat = match canonical {
            Call::Completion(call) if operation == Operation::Chat => {
                Some(Call::Chat(Box::new(completion_as_chat(call)?)))
            }
            _ => None,
        };
        let (first, rest) = batch::split(canonical, target, quirks)?;
        let other = as_chat.or_else(|| first.map(Call::Embedding));
        let encoded = codec(target).encode_call(other.as_ref().unwrap_or(canonical), quirks)?;
        way.dropped = encoded.dropped;
        way.rest = rest;
        Ok((encoded.body.into(), way))
    }

    /// The name that the caller used.
    fn asked(&self) -> Option<&str> {
        self.planned.call.facts.as_ref()?.model.as_ref().map(|model| &*model.name)
    }

    /// What the encoders of answers need to know.
    fn context(&self, way: &Way<'_>, flight: &Flight) -> Context {
        let call = &self.planned.call;
        let is_mlflow = call.dialect == Dialect::Mlflow;
        // MLflow's answers name the provider's model, the others what the caller asked for.
        let shown = if is_mlflow { &*way.model } else { self.asked().unwrap_or(&call.endpoint.name) };
        Context {
            request_id: flight.request_id(),
            model: shown.to_owned(),
            provider: self.provider.kind.name.clone(),
            include_usage: call.facts.as_ref().and_then(|facts| facts.include_usage).unwrap_or(is_mlflow),
            embedding_format: way.format,
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    async fn send(&self, way: &Way<'_>, body: Bytes) -> Result<Response<AnswerBody>, Fault> {
        let provider = self.provider;
        let origin = match &provider.transport {
            Transport::Mock => return mock::answer(way.operation, &body).await,
            Transport::Model(model) => {
                return chat::ask(model, body, way.stream, provider.deadlines.total).await;
            }
            Transport::Http(origin) => origin,
        };
        let target = provider.target(way.dialect, way.operation, way.stream, &way.model);
        let target =
            target.ok_or_else(|| Fault::gateway(code::INTERNAL_ERROR, "the provider has no such path"))?;
        let mut more = Vec::new();
        if provider.kind.dialect == Dialect::Anthropic && self.planned.call.dialect == Dialect::Anthropic {
            for name in ANTHROPIC_HEADERS {
                more.extend(self.head.headers.get(&name).map(|value| (name, value.clone())));
            }
        }
        let asked = Unauthorized {
            method: &Method::POST,
            target: &target,
            host: &origin.authority,
            content_type: provider.headers.get(header::CONTENT_TYPE),
            body: &body,
        };
        provider.credential.authorize(&asked, &mut more).await?;
        more.extend(self.lease.and_then(|lease| lease.key().header.clone()));
        let outgoing = Outgoing {
            method: &Method::POST,
            target: &target,
            headers: &provider.headers,
            more: &more,
            body: Payload::Whole(body),
        };
        match Client.send(origin, outgoing, &provider.deadlines).await {
            Ok(response) => Ok(response.map(AnswerBody::Upstream)),
            Err(error) => Err(error.into_fault()),
        }
    }

    /// What a response says that is no answer.
    async fn failure(&self, response: Response<AnswerBody>) -> Fault {
        let status = response.status();
        let (head, body) = response.into_parts();
        if status.is_success() {
            let public = "the provider's answer is compressed, which nobody asked for";
            return Fault::upstream(code::UPSTREAM_ERROR, Retry::NextTarget, public)
                .with_upstream_status(status.as_u16());
        }
        if status.is_redirection() {
            let public = "the provider answered with a redirect, which is never followed";
            return Fault::upstream(code::UPSTREAM_ERROR, Retry::NextTarget, public)
                .with_upstream_status(status.as_u16());
        }
        let body = collect(body, MAX_ERROR_BODY).await.unwrap_or_default();
        self.provider.credential.refused(status);
        millgate_provider::classify(self.provider.kind, status.as_u16(), &head.headers, &body)
    }

    // ---- whole answers ------------------------------------------------------------------------------

    fn whole(
        &self,
        head: &response::Parts,
        body: &Bytes,
        way: &Way<'_>,
        translated: &Translated,
        flight: &mut Flight,
    ) -> Result<Reply, Fault> {
        if way.lane == Lane::Pass {
            let usage = self.inspect(head, body, Some(codec(way.dialect).usage_member()))?;
            let usage = usage.and_then(|usage| usage_of(way.dialect, usage)).unwrap_or_default();
            return Ok(self.counted(Reply::json(body.clone()), usage, body, way, flight));
        }
        let counted = millgate_provider::counted(&head.headers);
        let mut answer = self.decode_whole(head, body, way)?;
        doubt::check(&mut answer, flight.request_id())?;
        if let Answer::Embedding(answer) = &mut answer {
            answer.usage = answer.usage.or(counted);
        }
        translated.settle(&mut answer)?;
        let usage = answer.usage().unwrap_or_default();
        let text = codec(self.planned.call.dialect).encode_answer(&answer, &self.context(way, flight));
        Ok(self.counted(Reply::json(text), usage, body, way, flight))
    }

    /// Notes what a whole answer consumed. What the provider has not said is counted behind it.
    fn counted(&self, reply: Reply, said: Usage, body: &Bytes, way: &Way<'_>, flight: &mut Flight) -> Reply {
        flight.consumed(said);
        let of_tokens = [Operation::Chat, Operation::Completions, Operation::Embeddings];
        if said.total() > 0 || !of_tokens.contains(&way.operation) {
            return reply;
        }
        let mut evidence = self.evidence(way);
        evidence.keep(body);
        evidence.settle(said, false, flight);
        reply.with(names::ESTIMATED, HeaderValue::from_static("true"))
    }

    fn evidence(&self, way: &Way<'_>) -> Evidence {
        let call = &self.planned.call;
        let asked = (call.dialect, call.operation, &call.body);
        Evidence::new(asked, (way.dialect, way.operation, &way.model))
    }

    async fn collect(&self, response: Response<AnswerBody>) -> Result<(response::Parts, Bytes), Fault> {
        let (head, body) = response.into_parts();
        let body = collect(body, self.max_answer).await.map_err(UpstreamError::into_fault)?;
        Ok((head, body))
    }

    /// An answer must be one JSON object and not an error in disguise. Gives the text of its top-level member
    /// `wanted`.
    fn inspect<'b>(
        &self,
        head: &response::Parts,
        body: &'b Bytes,
        wanted: Option<&str>,
    ) -> Result<Option<&'b [u8]>, Fault> {
        let is_html = is_of_type(&head.headers, "text/html");
        let (mut error, mut answer, mut found) = (false, false, None);
        if !is_html {
            scan::visit(body, |name, kind, text| match name {
                _ if kind == scan::Kind::Null => {}
                b"error" => error = true,
                b"choices" | b"content" | b"data" | b"results" => answer = true,
                name if wanted.is_some_and(|wanted| wanted.as_bytes() == name) => {
                    found = Some(text);
                }
                _ => {}
            })
            .map_err(|fault| not_an_answer(head.status.as_u16(), fault))?;
        }
        if is_html || error && !answer {
            // Some providers report errors under 200.
            return Err(millgate_provider::classify(self.provider.kind, 500, &head.headers, body)
                .with_upstream_status(head.status.as_u16()));
        }
        Ok(found)
    }

    /// The provider's answer. The decoder reads all of it anyway: it is inspected only where it may be no answer.
    fn decode(&self, head: &response::Parts, body: &Bytes, way: &Way<'_>) -> Result<Answer, Fault> {
        let decoded = codec(way.dialect).decode_answer(way.operation, body);
        let odd = is_of_type(&head.headers, "text/html") || memmem::find(body, b"\"error\"").is_some();
        if odd || decoded.is_err() {
            self.inspect(head, body, None)?;
        }
        decoded
    }

    /// The answer to the operation that the caller asked for.
    fn decode_whole(&self, head: &response::Parts, body: &Bytes, way: &Way<'_>) -> Result<Answer, Fault> {
        Ok(match self.decode(head, body, way)? {
            Answer::Chat(chat) if self.planned.call.operation == Operation::Completions => {
                Answer::Completion(chat_as_completion(chat))
            }
            other => other,
        })
    }

    // ---- streams ------------------------------------------------------------------------------------

    async fn stream(
        &self,
        response: Response<AnswerBody>,
        way: &Way<'_>,
        flight: &mut Flight,
    ) -> Result<Reply, Fault> {
        let call = &self.planned.call;
        if !is_of_type(response.headers(), codec(way.dialect).stream_type()) {
            // A provider that does not stream this model answers whole.
            let (head, body) = self.collect(response).await?;
            let mut answer = self.decode(&head, &body, way)?;
            doubt::check(&mut answer, flight.request_id())?;
            flight.consumed(answer.usage().unwrap_or_default());
            let mut encoder = self.encoder(way, flight);
            let mut out = Vec::new();
            for event in replay(answer).into_iter().chain([Event::End]) {
                encoder.push(event, &mut out);
            }
            return Ok(self.stream_reply(Box::new(stream::Replayed::new(out))));
        }
        let body = response.into_body();
        let pieces: Box<dyn Pieces> = if way.lane == Lane::Pass {
            let watch = Watch::new(way.dialect, way.operation, way.hide_usage);
            Box::new(
                stream::Passing::open(body, watch, call.dialect, Some(self.evidence(way)), flight).await?,
            )
        } else {
            let decoder = codec(way.dialect).stream_decoder(way.operation);
            let encoder = self.encoder(way, flight);
            Box::new(stream::Translating::open(body, decoder, encoder, self.evidence(way), flight).await?)
        };
        Ok(self.stream_reply(pieces))
    }

    fn encoder(&self, way: &Way<'_>, flight: &Flight) -> Box<dyn StreamEncoder> {
        let call = &self.planned.call;
        codec(call.dialect).stream_encoder(call.operation, &self.context(way, flight))
    }

    fn stream_reply(&self, pieces: Box<dyn Pieces>) -> Reply {
        if self.planned.call.array {
            let list = Box::new(stream::Listed::new(pieces));
            // White space may stand everywhere between the items.
            return Reply::array(Box::new(Alive::new(list, b" ", self.heartbeat)));
        }
        let beat = codec(self.planned.call.dialect).heartbeat();
        Reply::stream(Box::new(Alive::new(pieces, beat, self.heartbeat)))
    }
}

/// Whether it is neither a failure nor something that cannot be read.
fn is_answer(response: &Response<AnswerBody>) -> bool {
    response.status().is_success() && !is_encoded(response.headers())
}

fn slow_start() -> Fault {
    let public = "the provider's stream did not begin in time";
    Fault::upstream(code::UPSTREAM_TIMEOUT, Retry::NextTarget, public)
}

/// Whether the body is compressed.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Whether the body is of a media type, whatever its parameters.
pub(super) fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let said = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    said.split_at_checked(media_type.len())
        .is_some_and(|(front, _)| front.eq_ignore_ascii_case(media_type.as_bytes()))
}

fn not_an_answer(status: u16, fault: Fault) -> Fault {
    Fault::upstream(
        code::UPSTREAM_ERROR,
        Retry::NextTarget,
        "the provider answered something that is not JSON",
    )
    .with_upstream_status(status)
    .with_cause(fault)
}

/// The body of a provider's answer.
pub(super) enum AnswerBody {
    Upstream(UpstreamBody),
    Mock(MockBody),
    Chat(ChatBody),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match self.get_mut() {
            Self::Upstream(body) => Pin::new(body).poll_frame(context),
            Self::Mock(body) => Pin::new(body).poll_frame(context),
            Self::Chat(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(body) => body.is_end_stream(),
            Self::Mock(body) => body.is_end_stream(),
            Self::Chat(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body) => body.size_hint(),
            Self::Mock(body) => body.size_hint(),
            Self::Chat(body) => body.size_hint(),
        }
    }
}
