//! Chat models: registered models that take a conversation and answer it, whole or piece by piece. What they are
//! asked in and answer in is OpenAI's chat form, or that of OpenAI's Responses; callers' dialects are the server's.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millgate_types::{Fault, Retry, code};
use tokio::sync::mpsc;

use crate::deployment::Deployment;
use crate::live::{Live, Runtime};
use crate::model_file::ModelFile;
use crate::worker::{Ask, ChatAsk, Reply, refusal};

/// What a chat model is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatForm {
    /// `messages`, by MLflow's `ChatModel` or `ChatAgent`.
    Messages,
    /// `messages`, by whatever says that its task is `llm/v1/chat`.
    Completion,
    /// `input`, by MLflow's `ResponsesAgent`.
    Responses,
}

impl ChatForm {
    /// What the model's own description says it is; `None` for a model that does not chat.
    pub(crate) fn of(model: &ModelFile) -> Option<Self> {
        match model.task.as_deref()? {
            "agent/v1/chat" | "agent/v2/chat" => Some(Self::Messages),
            "agent/v1/responses" => Some(Self::Responses),
            "llm/v1/chat" => Some(Self::Completion),
            _ => None,
        }
    }

    /// The worker's word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Completion => "completion",
            Self::Responses => "responses",
        }
    }
}

/// Why a model cannot serve an endpoint for chats.
pub(crate) fn no_chat_model(model: &ModelFile) -> String {
    let task = model.task.as_deref().map_or_else(
        || "names no task".to_owned(),
        |task| format!("names the task `{}`", task.chars().take(60).collect::<String>()),
    );
    format!(
        "it is no chat model: its MLmodel {task}. An endpoint of the type `llm/v1/chat` needs a ChatModel, ChatAgent or \
         ResponsesAgent, or a model saved with `metadata={{\"task\": \"llm/v1/chat\"}}`; others are `type: predict`"
    )
}

/// The version of a chat model that was live when it was asked for.
pub struct ChatModel {
    live: Arc<Live>,
    form: ChatForm,
    timeout: Duration,
}

impl std::fmt::Debug for ChatModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatModel").field("form", &self.form).finish_non_exhaustive()
    }
}

/// A chat model's answer.
#[derive(Debug)]
pub enum ChatReply {
    /// The whole answer's JSON.
    Whole(Bytes),
    /// Server-sent events.
    Stream(ChatStream),
}

impl Deployment {
    /// The chat model that is live now. Faults: `registry_unavailable`, `model_unavailable`.
    pub fn chat_model(&self) -> Result<ChatModel, Fault> {
        let live = self.live()?;
        let form = ChatForm::of(&live.model).ok_or_else(|| {
            Fault::worker(code::MODEL_UNAVAILABLE, Retry::NextTarget, no_chat_model(&live.model))
        })?;
        Ok(ChatModel { live, form, timeout: self.spec.timeout })
    }
}

impl ChatModel {
    /// What it is asked in.
    #[must_use]
    pub fn form(&self) -> ChatForm {
        self.form
    }

    /// The version that will answer.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.live.version
    }

    /// Asks with a body of its form. A model that does not stream answers whole. No answer takes longer than `longest`;
    /// each part of it comes within the deployment's own time-out. Faults: `model_rejected_input`, `model_failed`,
    /// `worker_timeout`, `worker_crashed`, `worker_protocol`, `overloaded`, `model_unavailable`.
    pub async fn ask(&self, body: Bytes, stream: bool, longest: Duration) -> Result<ChatReply, Fault> {
        let Runtime::Worker(pool) = &self.live.runtime else {
            return Err(Fault::gateway(code::INTERNAL_ERROR, "a chat model runs in a worker"));
        };
        let now = Instant::now();
        let chat = ChatAsk { stream, patience: self.timeout, end: now + longest };
        let ask = Ask { content_type: "application/json", body, columns: None, chat: Some(Box::new(chat)) };
        match pool.predict(ask, now + self.timeout.min(longest)).await? {
            Reply::Answer(body) => Ok(ChatReply::Whole(body)),
            Reply::Stream(items) => Ok(ChatReply::Stream(ChatStream { items, live: Arc::clone(&self.live) })),
            Reply::Error { user, class, .. } => Err(refusal(user, &class)),
        }
    }
}

/// A chat model's stream. Dropping it ends the model's work; the version stays until then.
pub struct ChatStream {
    items: mpsc::Receiver<Result<Bytes, Fault>>,
    live: Arc<Live>,
}

impl std::fmt::Debug for ChatStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatStream").field("version", &self.live.version).finish_non_exhaustive()
    }
}

impl ChatStream {
    /// The next part; `None` at the end.
    pub fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        self.items.poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str) -> ModelFile {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("MLmodel"), text).unwrap();
        ModelFile::read(folder.path()).unwrap()
    }

    #[test]
    fn the_task_says_what_a_chat_model_is_asked_in() {
        let of = |task: &str| ChatForm::of(&model(&format!("flavors: {{}}\nmetadata: {{ task: {task} }}\n")));
        assert_eq!(of("agent/v1/chat"), Some(ChatForm::Messages));
        assert_eq!(of("agent/v2/chat"), Some(ChatForm::Messages));
        assert_eq!(of("agent/v1/responses"), Some(ChatForm::Responses));
        assert_eq!(of("llm/v1/chat"), Some(ChatForm::Completion));
        assert_eq!(of("llm/v1/embeddings"), None);
        let transformers = model("flavors: { transformers: { inference_task: llm/v1/chat } }\n");
        assert_eq!(ChatForm::of(&transformers), Some(ChatForm::Completion));
        let plain = model("flavors: {}\n");
        assert!(ChatForm::of(&plain).is_none() && no_chat_model(&plain).contains("names no task"));
    }
}
