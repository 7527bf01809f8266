//! The canonical answer, whole or as a stream of events.

use serde_json::{Map, Value};

use crate::{Block, Dialect, Fault, ModerationAnswer, RerankAnswer, Usage};

/// A whole answer of any operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To a chat call.
    Chat(ChatAnswer),
    /// To a completion call.
    Completion(CompletionAnswer),
    /// To an embedding call.
    Embedding(EmbeddingAnswer),
    /// To a rerank call.
    Rerank(RerankAnswer),
    /// To a moderation call.
    Moderation(ModerationAnswer),
}

impl Answer {
    /// What the provider says was consumed.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Chat(answer) => answer.usage,
            Self::Completion(answer) => answer.usage,
            Self::Embedding(answer) => answer.usage,
            Self::Rerank(answer) => answer.usage,
            Self::Moderation(answer) => answer.usage,
        }
    }
}

/// A chat answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatAnswer {
    /// The provider's id of the answer.
    pub id: String,
    /// Unix seconds; `None` where the dialect has no such field.
    pub created: Option<u64>,
    /// The model as the provider names it.
    pub model: String,
    /// One per requested answer; only OpenAI-like providers give more than one.
    pub choices: Vec<Choice>,
    /// What was consumed.
    pub usage: Option<Usage>,
    /// The dialect `extra` belongs to.
    pub dialect: Dialect,
    /// Top-level fields that the canonical form does not name.
    pub extra: Map<String, Value>,
}

/// One alternative answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its place among the alternatives, from 0.
    pub index: u32,
    /// What the model said: text, reasoning, tool calls, refusals in the order given.
    pub content: Vec<Block>,
    /// Why it ended; `None` when the provider did not say.
    pub finish: Option<FinishReason>,
    /// The stop text that ended it, where the provider says which.
    pub stop_sequence: Option<String>,
    /// OpenAI's `logprobs`, as they came.
    pub logprobs: Option<Value>,
    /// Message fields that the canonical form does not name (`annotations`, `audio`, ...).
    pub extra: Map<String, Value>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model was done.
    Stop,
    /// A stop text came up (Anthropic `stop_sequence`).
    StopSequence,
    /// The token limit was reached.
    Length,
    /// Tools are to be called.
    ToolCalls,
    /// Filtered or refused.
    ContentFilter,
    /// Anthropic `pause_turn`: send the conversation again to go on.
    Pause,
    /// A value we do not know, as it came: shown as `stop`.
    Other(String),
}

/// A completion answer.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionAnswer {
    /// The provider's id of the answer.
    pub id: String,
    /// Unix seconds.
    pub created: Option<u64>,
    /// The model as the provider names it.
    pub model: String,
    /// One per prompt and alternative.
    pub choices: Vec<CompletionChoice>,
    /// What was consumed.
    pub usage: Option<Usage>,
    /// The dialect `extra` belongs to.
    pub dialect: Dialect,
    /// Top-level fields that the canonical form does not name.
    pub extra: Map<String, Value>,
}

/// One continued text.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionChoice {
    /// Its place, from 0.
    pub index: u32,
    /// The continuation.
    pub text: String,
    /// Why it ended.
    pub finish: Option<FinishReason>,
    /// OpenAI's `logprobs`, as they came.
    pub logprobs: Option<Value>,
}

/// An embedding answer.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingAnswer {
    /// The model as the provider names it.
    pub model: String,
    /// In the order of the input.
    pub data: Vec<Embedding>,
    /// What was consumed.
    pub usage: Option<Usage>,
    /// The dialect `extra` belongs to.
    pub dialect: Dialect,
    /// Top-level fields that the canonical form does not name.
    pub extra: Map<String, Value>,
}

/// One vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The input's place, from 0.
    pub index: u32,
    /// The vector.
    pub values: Vec<f32>,
}

/// One step of a streamed chat or completion answer. Blocks are numbered per choice from 0 in the order they
/// start; blocks of one choice may interleave (OpenAI's parallel tool calls), an encoder whose dialect
/// forbids that must hold back.
#[derive(Debug)]
pub enum Event {
    /// The answer begins. Comes once, first.
    Start {
        /// The provider's id of the answer.
        id: String,
        /// The model as the provider names it.
        model: String,
        /// Unix seconds.
        created: Option<u64>,
        /// What is known of the prompt already (Anthropic says so at the start).
        usage: Option<Usage>,
    },
    /// A block begins.
    BlockStart {
        /// The alternative it belongs to.
        choice: u32,
        /// Its number.
        block: u32,
        /// What it is.
        kind: BlockKind,
    },
    /// A block grows.
    BlockDelta {
        /// The alternative it belongs to.
        choice: u32,
        /// Its number.
        block: u32,
        /// By what.
        delta: Delta,
    },
    /// A block is complete.
    BlockStop {
        /// The alternative it belongs to.
        choice: u32,
        /// Its number.
        block: u32,
    },
    /// An alternative is complete.
    Finish {
        /// Which.
        choice: u32,
        /// Why.
        reason: FinishReason,
        /// The stop text that ended it, where the provider says which.
        stop_sequence: Option<String>,
    },
    /// What was consumed so far, cumulative: the last one counts.
    Usage(Usage),
    /// The provider is still there.
    Ping,
    /// The provider reports an error inside the stream. Nothing follows.
    Error(Fault),
    /// The provider ended the stream properly. A stream that closes without it was cut off.
    End,
}

impl Event {
    /// Whether there is something in it for the caller, or the answer is over without: not what only opens an answer
    /// or a block, counts, or says that the provider is still there. An error is no content.
    #[must_use]
    pub fn is_content(&self) -> bool {
        match self {
            Self::Start { .. } | Self::BlockStop { .. } | Self::Usage(_) | Self::Ping | Self::Error(_) => {
                false
            }
            Self::BlockStart { kind, .. } => {
                !matches!(kind, BlockKind::Text | BlockKind::Reasoning | BlockKind::Refusal)
            }
            Self::BlockDelta { .. } | Self::Finish { .. } | Self::End => true,
        }
    }
}

/// What kind of block begins.
#[derive(Clone, Debug, PartialEq)]
pub enum BlockKind {
    /// Visible text.
    Text,
    /// Thinking.
    Reasoning,
    /// Sealed thinking, whole.
    RedactedReasoning {
        /// Opaque.
        data: String,
    },
    /// A tool call; arguments follow as deltas.
    ToolCall {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
    },
    /// A refusal's text.
    Refusal,
    /// A block of one dialect that has no counterpart.
    Other {
        /// Whose block it is.
        dialect: Dialect,
        /// As it came.
        value: Value,
    },
}

/// How a block grows.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// Text, thinking or refusal, by the block's kind.
    Text(String),
    /// A piece of a tool call's argument JSON; pieces need not be valid on their own.
    Arguments(String),
    /// The seal over a reasoning block.
    Signature(String),
    /// A citation, as the provider gave it.
    Citation(Value),
    /// A delta of one dialect that has no counterpart.
    Other {
        /// Whose delta it is.
        dialect: Dialect,
        /// As it came.
        value: Value,
    },
}
