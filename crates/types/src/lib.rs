//! The words every other part of Millgate speaks: ids, the canonical `Call` / `Answer` / `Event`, `Usage`,
//! `Money`, `Principal`, `Fault` with its code table, and the `Exchange` record. No IO happens here.

mod answer;
mod call;
mod content;
mod exchange;
mod fault;
mod hex;
mod id;
mod model_ref;
mod moderation;
mod money;
mod principal;
mod rerank;
mod usage;

pub use answer::{
    Answer, BlockKind, ChatAnswer, Choice, CompletionAnswer, CompletionChoice, Delta, Embedding,
    EmbeddingAnswer, Event, FinishReason,
};
pub use call::{
    Block, Call, ChatCall, CompletionCall, Dialect, EmbeddingCall, EmbeddingFormat, Extra, MediaSource,
    Message, Operation, Prompt, Reasoning, ResponseFormat, Role, Sampling, Tool, ToolChoice,
};
pub use content::{Captured, ContentPolicy};
pub use exchange::{Exchange, Lane, Outcome, Settlement, Unsettled};
pub use fault::{BoxError, CODES, Code, Fault, FieldError, Retry, Source, code, pointer};
pub use hex::{hex, hex_into, unhex};
pub use id::RequestId;
pub use model_ref::{ModelRef, ModelRefError, VersionSelector};
pub use moderation::{Judgement, ModerationAnswer, ModerationCall, ModerationInput};
pub use money::Money;
pub use principal::{Owner, Permission, Permissions, Principal};
pub use rerank::{Document, Ranked, RerankAnswer, RerankCall};
pub use usage::{Billed, Usage};
