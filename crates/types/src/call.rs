//! The canonical request: a superset of what the dialects can say, so that N dialects and M providers need
//! N + M translations.

use serde_json::{Map, Value};

use crate::{ModerationCall, RerankCall};

/// A wire format. What a caller speaks, and what a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI chat completions, completions and embeddings, and everything compatible with them.
    OpenAi,
    /// OpenAI Responses.
    Responses,
    /// Anthropic Messages.
    Anthropic,
    /// Google's `generateContent` and its relatives.
    Gemini,
    /// AWS Bedrock's Converse; only providers speak it.
    Bedrock,
    /// Cohere v2: chat, embed and rerank. Rerank is what others that have it speak too, and callers of it.
    Cohere,
    /// Ollama's own API: chat and embed. Providers only.
    Ollama,
    /// MLflow gateway invocations and MLflow's `/v1` paths (`mlflow gateway start`).
    Mlflow,
    /// The MLflow scoring protocol (`mlflow models serve`).
    Scoring,
    /// The Open Inference Protocol, version 2 (KServe, MLServer, Triton).
    Inference,
    /// Problem details (RFC 9457): how the admin API tells what went wrong.
    Problem,
}

impl Dialect {
    /// The name that logs and metrics show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Responses => "responses",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Bedrock => "bedrock",
            Self::Cohere => "cohere",
            Self::Ollama => "ollama",
            Self::Mlflow => "mlflow",
            Self::Scoring => "scoring",
            Self::Inference => "inference",
            Self::Problem => "problem",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A conversation's next turn (`llm/v1/chat`).
    Chat,
    /// A text's continuation (`llm/v1/completions`).
    Completions,
    /// Vectors for texts (`llm/v1/embeddings`).
    Embeddings,
    /// Documents in the order of their relevance to a query (`llm/v1/rerank`).
    Rerank,
    /// Judgements over content (`llm/v1/moderations`).
    Moderations,
    /// How many tokens a chat call's input has.
    CountTokens,
    /// A registered model's prediction.
    Predict,
    /// Whatever a provider's own API does, passed through.
    Native,
}

impl Operation {
    /// The operation whose endpoints serve it: tokens are counted where chats are held.
    #[must_use]
    pub fn served_by(self) -> Self {
        if self == Self::CountTokens { Self::Chat } else { self }
    }

    /// Whether there are answers as streams of events.
    #[must_use]
    pub fn streams(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// The name that logs and metrics show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Moderations => "moderations",
            Self::CountTokens => "count-tokens",
            Self::Predict => "predict",
            Self::Native => "native",
        }
    }
}

/// A request of any operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Boxed: a chat call is several times the size of the others.
    Chat(Box<ChatCall>),
    /// A text to continue.
    Completion(CompletionCall),
    /// Texts to embed.
    Embedding(EmbeddingCall),
    /// Documents to put in order.
    Rerank(RerankCall),
    /// Content to judge.
    Moderation(ModerationCall),
}

/// Top-level fields that the canonical form does not name. They travel to targets of the dialect they came
/// from and are reported as dropped elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Extra {
    /// The dialect whose fields these are.
    pub dialect: Dialect,
    /// The fields as they came.
    pub fields: Map<String, Value>,
}

impl Extra {
    /// No extra fields of this dialect.
    #[must_use]
    pub fn none(dialect: Dialect) -> Self {
        Self { dialect, fields: Map::new() }
    }
}

/// A chat request.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatCall {
    /// The endpoint's or model's name as the caller wrote it; empty when the path names the endpoint.
    pub model: String,
    /// The conversation, in order; system and developer messages stand where the caller put them.
    pub messages: Vec<Message>,
    /// Functions the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it must call.
    pub tool_choice: Option<ToolChoice>,
    /// `Some(false)`: at most one tool call in the answer.
    pub parallel_tool_calls: Option<bool>,
    /// The form the answer's text must have.
    pub response_format: Option<ResponseFormat>,
    /// Upper bound of the answer, reasoning included (`max_tokens`, `max_completion_tokens`).
    pub max_output_tokens: Option<u64>,
    /// Temperature and its relatives.
    pub sampling: Sampling,
    /// How much the model should think.
    pub reasoning: Option<Reasoning>,
    /// Answer as a stream of events.
    pub stream: bool,
    /// The caller asked for usage at the end of the stream (`stream_options.include_usage`).
    pub include_usage: bool,
    /// The caller's own name for its user.
    pub user: Option<String>,
    /// Everything else at the top level.
    pub extra: Extra,
}

/// Parameters of sampling, in OpenAI's ranges (temperature 0..=2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0..=2.
    pub temperature: Option<f64>,
    /// 0..=1.
    pub top_p: Option<f64>,
    /// At least 1.
    pub top_k: Option<u64>,
    /// -2..=2.
    pub frequency_penalty: Option<f64>,
    /// -2..=2.
    pub presence_penalty: Option<f64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// For repeatable answers where the provider can.
    pub seed: Option<i64>,
    /// Number of answers; `None` means one.
    pub n: Option<u64>,
}

/// How much the model should think.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reasoning {
    /// `none`, `minimal`, `low`, `medium`, `high`, ...: an open vocabulary.
    pub effort: Option<String>,
    /// Upper bound of thinking tokens (Anthropic `budget_tokens`).
    pub budget_tokens: Option<u64>,
    /// Anthropic's `adaptive`: the model decides how much.
    pub adaptive: bool,
    /// Google's `includeThoughts`: show it. The other dialects show it always.
    pub shown: bool,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions. OpenAI's `developer` is [`Role::Developer`].
    System,
    /// Instructions, as newer OpenAI models name them.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// Results of tools; its blocks are [`Block::ToolResult`].
    Tool,
}

/// One turn of the conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// OpenAI's `name` of the participant.
    pub name: Option<String>,
    /// What is said, in order.
    pub content: Vec<Block>,
    /// Message fields that the canonical form does not name; kept for targets of the caller's dialect.
    pub extra: Map<String, Value>,
}

/// One piece of a message, in a request or an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
        /// Anthropic's `cache_control`, as it came.
        cache_control: Option<Value>,
        /// Citations, as the provider gave them; empty when there are none.
        citations: Vec<Value>,
    },
    /// A picture.
    Image {
        /// Where its bytes are.
        source: MediaSource,
        /// OpenAI's `detail`: `auto`, `low`, `high`.
        detail: Option<String>,
        /// Anthropic's `cache_control`, as it came.
        cache_control: Option<Value>,
    },
    /// Sound.
    Audio {
        /// Base64.
        data: String,
        /// `wav`, `mp3`, ...
        format: String,
    },
    /// A document, such as a PDF.
    File {
        /// Where its bytes are.
        source: MediaSource,
        /// Its name.
        filename: Option<String>,
        /// Anthropic's `cache_control`, as it came.
        cache_control: Option<Value>,
        /// Members that the canonical form does not name (Anthropic `citations`, `context`).
        extra: Map<String, Value>,
    },
    /// The model's thinking. `signature` is opaque and goes back unchanged to the provider that made it.
    Reasoning {
        /// The visible thinking; may be empty.
        text: String,
        /// The provider's seal over it.
        signature: Option<String>,
    },
    /// Thinking that the provider keeps to itself (Anthropic `redacted_thinking`), as opaque data.
    RedactedReasoning {
        /// Goes back unchanged to the provider that made it.
        data: String,
    },
    /// The model wants a tool to be called.
    ToolCall {
        /// The call's id, byte for byte as it came.
        id: String,
        /// The tool.
        name: String,
        /// Arguments as JSON text. `{}` when there are none; may be invalid JSON if the model wrote so.
        arguments: String,
        /// Anthropic's `cache_control`, as it came.
        cache_control: Option<Value>,
    },
    /// What a tool answered.
    ToolResult {
        /// The id of the call it answers.
        call_id: String,
        /// Text and images.
        content: Vec<Block>,
        /// The tool failed.
        is_error: bool,
        /// Anthropic's `cache_control`, as it came.
        cache_control: Option<Value>,
    },
    /// The model declines.
    Refusal {
        /// Its words.
        text: String,
    },
    /// A block of one dialect that has no counterpart: kept for that dialect, dropped and reported elsewhere.
    Other {
        /// Whose block it is.
        dialect: Dialect,
        /// The block as it came.
        value: Value,
    },
}

impl Block {
    /// A plain text block.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), cache_control: None, citations: Vec::new() }
    }
}

/// Where media bytes are. Millgate never fetches a caller's URL by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaSource {
    /// Inline, base64.
    Base64 {
        /// For example `image/png`.
        media_type: String,
        /// Base64 text.
        data: String,
    },
    /// A URL for the provider to fetch.
    Url(String),
    /// A file that the provider stores (`file_id`).
    FileId(String),
    /// Text given inline (Anthropic's `text` document source).
    Text(String),
}

/// A function the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON Schema of its arguments; `None` when it takes none.
    pub parameters: Option<Value>,
    /// The provider must keep to the schema exactly.
    pub strict: Option<bool>,
    /// A tool that is not a function (server tools), as it came, with the dialect it belongs to.
    /// Then `name` is its type and the other fields are empty.
    pub other: Option<(Dialect, Value)>,
    /// Anthropic's `cache_control`, as it came.
    pub cache_control: Option<Value>,
}

/// Which tool must be called.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// No tool.
    None,
    /// Some tool (`required`, Anthropic `any`).
    Required,
    /// This tool.
    Named(String),
    /// One of these (OpenAI `allowed_tools`), in `auto` or `required` mode.
    Allowed {
        /// The tools' names.
        names: Vec<String>,
        /// One of them must be called.
        required: bool,
    },
}

/// The form the answer's text must have.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseFormat {
    /// Plain text, said explicitly.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// The schema's name; OpenAI demands one.
        name: String,
        /// The schema's purpose.
        description: Option<String>,
        /// The schema.
        schema: Value,
        /// Keep to it exactly.
        strict: Option<bool>,
    },
}

/// A text to continue.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionCall {
    /// As in [`ChatCall::model`].
    pub model: String,
    /// The text or texts.
    pub prompt: Prompt,
    /// Upper bound of the answer.
    pub max_output_tokens: Option<u64>,
    /// Temperature and its relatives.
    pub sampling: Sampling,
    /// Answer as a stream of events.
    pub stream: bool,
    /// As in [`ChatCall::include_usage`].
    pub include_usage: bool,
    /// The caller's own name for its user.
    pub user: Option<String>,
    /// Everything else at the top level.
    pub extra: Extra,
}

/// Text as strings or as tokens of the model's vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One text in tokens.
    Tokens(Vec<u64>),
    /// Several texts in tokens.
    TokenLists(Vec<Vec<u64>>),
}

/// Texts to embed.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingCall {
    /// As in [`ChatCall::model`].
    pub model: String,
    /// What to embed.
    pub input: Prompt,
    /// Length of the vectors, where the model can shorten them.
    pub dimensions: Option<u64>,
    /// How the caller wants the vectors written.
    pub format: EmbeddingFormat,
    /// The caller's own name for its user.
    pub user: Option<String>,
    /// Everything else at the top level.
    pub extra: Extra,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmbeddingFormat {
    /// A JSON array of numbers.
    #[default]
    Float,
    /// Little-endian 32-bit floats in base64, as the official SDKs ask for.
    Base64,
    /// One vector of numbers that stands alone, not in a list (Gemini's `embedContent`).
    Single,
}

impl Call {
    /// The model's or endpoint's name as the caller wrote it.
    #[must_use]
    pub fn model(&self) -> &str {
        match self {
            Self::Chat(call) => &call.model,
            Self::Completion(call) => &call.model,
            Self::Embedding(call) => &call.model,
            Self::Rerank(call) => &call.model,
            Self::Moderation(call) => &call.model,
        }
    }

    /// Writes the name the target knows the model by.
    pub fn rename(&mut self, model: &str) {
        let slot = match self {
            Self::Chat(call) => &mut call.model,
            Self::Completion(call) => &mut call.model,
            Self::Embedding(call) => &mut call.model,
            Self::Rerank(call) => &mut call.model,
            Self::Moderation(call) => &mut call.model,
        };
        model.clone_into(slot);
    }

    /// Says whether the caller wants a stream, for dialects that say so in the path.
    pub fn set_stream(&mut self, stream: bool) {
        match self {
            Self::Chat(call) => call.stream = stream,
            Self::Completion(call) => call.stream = stream,
            Self::Embedding(_) | Self::Rerank(_) | Self::Moderation(_) => {}
        }
    }

    /// Whether the caller wants a stream.
    #[must_use]
    pub fn stream(&self) -> bool {
        match self {
            Self::Chat(call) => call.stream,
            Self::Completion(call) => call.stream,
            Self::Embedding(_) | Self::Rerank(_) | Self::Moderation(_) => false,
        }
    }

    /// What is asked for.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match self {
            Self::Chat(_) => Operation::Chat,
            Self::Completion(_) => Operation::Completions,
            Self::Embedding(_) => Operation::Embeddings,
            Self::Rerank(_) => Operation::Rerank,
            Self::Moderation(_) => Operation::Moderations,
        }
    }
}
