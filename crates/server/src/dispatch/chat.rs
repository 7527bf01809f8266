//! Registered models that chat. To the translate lane such a model is a provider that speaks OpenAI's chat, or OpenAI's
//! Responses, with a worker where HTTP is otherwise; so every caller's dialect reaches it, and it may stand beside
//! providers in a route.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use millgate_models::{ChatForm, ChatModel, ChatReply, ChatStream, Deployment};
use millgate_provider::Price;
use millgate_types::Fault;
use millgate_upstream::UpstreamError;

use super::llm::{AnswerBody, Attempt, Translated};
use crate::flight::Flight;
use crate::pipeline::Planned;
use crate::reply::{Reply, names};
use crate::snapshot::known::Known;
use crate::snapshot::{Provider, Transport};

/// A model that chats, and what stands for it where providers stand.
pub(crate) struct ChatTarget {
    pub(crate) deployment: Arc<Deployment>,
    /// The model's name to show.
    pub(crate) name: Box<str>,
    /// Its price, where the configuration sets one.
    pub(crate) known: Known,
    /// As a provider that takes OpenAI's chat; its transport is set for each call.
    pub(crate) messages: Provider,
    /// As one that takes OpenAI's Responses.
    pub(crate) responses: Provider,
}

impl ChatTarget {
    /// What its tokens cost, where that is said.
    pub(crate) fn price(&self) -> Option<&Price> {
        self.known.price.as_deref()
    }

    /// One try. The version that is live when it begins answers to its end.
    pub(super) async fn run(
        &self,
        planned: &Planned,
        (head, max_answer, heartbeat): (&Parts, usize, Duration),
        call: &mut Translated,
        flight: &mut Flight,
    ) -> Result<Reply, Fault> {
        let model = self.deployment.chat_model()?;
        let version = Arc::clone(model.version());
        super::authorize(&planned.call, &self.deployment, &version)?;
        flight.record().model_version = Some(Arc::clone(&version));
        let template = match model.form() {
            ChatForm::Messages | ChatForm::Completion => &self.messages,
            ChatForm::Responses => &self.responses,
        };
        let provider = template.by(Transport::Model(Arc::new(model)));
        let attempt = Attempt {
            planned,
            provider: &provider,
            model: &self.name,
            known: &self.known,
            lease: None,
            head,
            max_answer,
            heartbeat,
        };
        let reply = Box::pin(attempt.run(call, flight)).await?;
        let mut reply = reply.with(names::RUNTIME, HeaderValue::from_static("worker"));
        if let Ok(version) = HeaderValue::from_str(&version) {
            reply.headers.insert(names::MODEL_VERSION, version);
        }
        Ok(reply)
    }
}

/// Asks the model as a provider is asked.
pub(super) async fn ask(
    model: &ChatModel,
    body: Bytes,
    stream: bool,
    longest: Duration,
) -> Result<Response<AnswerBody>, Fault> {
    let (media, body) = match model.ask(body, stream, longest).await? {
        ChatReply::Whole(body) => ("application/json", ChatBody::Whole(Some(body))),
        ChatReply::Stream(stream) => ("text/event-stream", ChatBody::Stream(stream)),
    };
    let mut response = Response::new(AnswerBody::Chat(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    Ok(response)
}

/// The body of a model's answer.
pub(super) enum ChatBody {
    Whole(Option<Bytes>),
    Stream(ChatStream),
}

impl Body for ChatBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        Poll::Ready(match self.get_mut() {
            Self::Whole(body) => body.take().map(|body| Ok(Frame::data(body))),
            Self::Stream(stream) => ready!(stream.poll_part(context))
                .map(|part| part.map(Frame::data).map_err(UpstreamError::Model)),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(Some(body)) => SizeHint::with_exact(body.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
