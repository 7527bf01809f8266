//! How one target differs from the dialect it speaks, as data; `millgate-provider` fills it from its catalogue.

use millgate_types::Operation;
use serde::Deserialize;

use crate::scan;

/// Switches of an encoder. The default is a well-behaved OpenAI-compatible server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quirks {
    /// How the answer's bound is called.
    pub max_tokens_name: MaxTokensName,
    /// Top-level fields the target refuses; left out and reported.
    pub strip: Vec<String>,
    /// Top-level fields the target names otherwise, as `[ours, theirs]`.
    pub rename: Vec<(String, String)>,
    /// Operations (`chat`, `moderations`) whose answers the target gives in its own way: they are translated for
    /// callers of the same dialect too.
    pub translate: Vec<String>,
    /// Takes `stream_options.include_usage`.
    pub supports_stream_options: bool,
    /// Takes the `developer` role; otherwise it becomes `system`.
    pub supports_developer_role: bool,
    /// The word for "some tool must be called".
    pub tool_choice_required: String,
    /// Which structured output the target has.
    pub schema: SchemaSupport,
    /// Where an assistant message that goes back carries its thinking.
    pub reasoning_field: ReasoningField,
    /// How thinking is asked for.
    pub reasoning_parameter: ReasoningParameter,
    /// An assistant message must have `content`, empty if need be, also beside tool calls.
    pub needs_content: bool,
    /// Content of several text parts is written as one string.
    pub flatten_text: bool,
    /// Sound and documents stand bare in their parts, `input_audio: BASE64` and `document_url: URL` (Mistral).
    pub bare_media: bool,
    /// Takes `cache_control` marks (OpenRouter, Anthropic).
    pub cache_control: bool,
    /// Takes `temperature`, `top_p` and `top_k`.
    pub sampling: bool,
    /// Takes `strict` on tools.
    pub strict_tools: bool,
    /// What vectors are for, where the target asks and the caller does not say (Cohere).
    pub input_type: String,
    /// Most texts in one embedding request; more are sent in several.
    pub max_inputs: Option<usize>,
    /// The model's name is not part of the body (Azure deployments, Bedrock, Vertex).
    pub omit_model: bool,
    /// Stands in the body of Anthropic's dialect where no header says it (Vertex AI).
    pub anthropic_version: Option<String>,
    /// In which of Google's shapes texts are embedded.
    pub embedding_style: EmbeddingStyle,
    /// The bound to send when the caller gave none and the dialect demands one (Anthropic).
    pub default_max_tokens: u64,
    /// How Anthropic models are told to think.
    pub thinking: ThinkingStyle,
}

impl Default for Quirks {
    fn default() -> Self {
        Self {
            max_tokens_name: MaxTokensName::MaxTokens,
            strip: Vec::new(),
            rename: Vec::new(),
            translate: Vec::new(),
            supports_stream_options: true,
            supports_developer_role: false,
            tool_choice_required: "required".to_owned(),
            schema: SchemaSupport::JsonSchema,
            reasoning_field: ReasoningField::None,
            reasoning_parameter: ReasoningParameter::Effort,
            needs_content: false,
            flatten_text: false,
            bare_media: false,
            cache_control: false,
            sampling: true,
            strict_tools: true,
            input_type: "search_document".to_owned(),
            max_inputs: None,
            omit_model: false,
            anthropic_version: None,
            embedding_style: EmbeddingStyle::Batch,
            default_max_tokens: 8192,
            thinking: ThinkingStyle::Auto,
        }
    }
}

/// In which of Google's shapes texts are embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingStyle {
    /// `batchEmbedContents` (Gemini API).
    Batch,
    /// `predict` (Vertex AI).
    Predict,
    /// `embedContent`, one text a call (Vertex AI's newer models).
    Single,
}

impl Quirks {
    /// What the target calls a top-level field; `None` when it refuses it.
    #[must_use]
    pub fn name_of<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        if self.strip.iter().any(|stripped| stripped == key) {
            return None;
        }
        Some(self.rename.iter().find(|(ours, _)| ours == key).map_or(key, |(_, theirs)| theirs))
    }

    /// Whether a body of the target's own dialect asks for a form that the target does not take: then the body is
    /// translated, and the form told in words. Only targets that lack forms are looked at.
    #[must_use]
    pub fn lacks_form(&self, body: &[u8]) -> bool {
        if self.schema == SchemaSupport::JsonSchema {
            return false;
        }
        let mut lacks = false;
        let told = scan::visit(body, |name, _, text| {
            let schema = || memchr::memmem::find(text, b"\"json_schema\"").is_some();
            lacks |= name == b"response_format" && (self.schema == SchemaSupport::None || schema());
        });
        told.is_ok() && lacks
    }

    /// What the target calls a top-level field of a caller who speaks its dialect; `None` when it refuses it.
    #[must_use]
    pub fn passing_name<'a>(&'a self, operation: Operation, key: &'a str) -> Option<&'a str> {
        let bound = key == "max_tokens" && operation == Operation::Chat;
        if bound && self.max_tokens_name == MaxTokensName::MaxCompletionTokens {
            return Some("max_completion_tokens");
        }
        self.name_of(key)
    }

    /// Whether every top-level field of such a caller may stay what it is.
    #[must_use]
    pub fn passes_all(&self) -> bool {
        self.strip.is_empty() && self.rename.is_empty() && self.max_tokens_name == MaxTokensName::MaxTokens
    }

    /// Whether answers of the operation are translated though caller and target speak the same dialect.
    #[must_use]
    pub fn translates(&self, operation: Operation) -> bool {
        self.translate.iter().any(|name| name == operation.name())
    }
}

/// How the answer's bound is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensName {
    /// `max_tokens`.
    MaxTokens,
    /// `max_completion_tokens`.
    MaxCompletionTokens,
}

/// Structured output of an OpenAI-like target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaSupport {
    /// `json_schema` and `json_object`.
    JsonSchema,
    /// `json_object` only; a schema is put into words.
    JsonObject,
    /// Neither; both are put into words.
    None,
}

/// Where an assistant message that goes back carries its thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningField {
    /// Nowhere: it is left out.
    None,
    /// Inside the content, as its first part (Mistral).
    Content,
    /// `reasoning_content`.
    ReasoningContent,
    /// `reasoning`.
    Reasoning,
    /// `reasoning` and `reasoning_details` with signatures (OpenRouter).
    ReasoningDetails,
}

impl ReasoningField {
    /// Thinking goes back as text and nothing else.
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::ReasoningContent | Self::Reasoning)
    }
}

/// How thinking is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningParameter {
    /// Not at all.
    None,
    /// `reasoning_effort`.
    Effort,
    /// `reasoning: {effort | max_tokens}` (OpenRouter).
    Object,
    /// `thinking: {type}` and `reasoning_effort` (DeepSeek, Z.ai).
    Thinking,
}

/// How Anthropic models are told to think when the caller gave an effort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingStyle {
    /// By the model's version, as its name tells.
    Auto,
    /// `thinking: {type: enabled, budget_tokens}`.
    Budget,
    /// `thinking: {type: adaptive}` with `output_config.effort`.
    Adaptive,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_lacking_only_where_the_target_lacks_it() {
        let with = |schema| Quirks { schema, ..Quirks::default() };
        let schema = br#"{"response_format":{"type":"json_schema","json_schema":{}},"messages":[]}"#;
        let object = br#"{"response_format":{"type":"json_object"},"messages":[]}"#;
        let talk = br#"{"messages":[{"role":"user","content":"a \"json_schema\" is what?"}]}"#;
        for (support, lacking) in [
            (SchemaSupport::JsonSchema, [false, false, false]),
            (SchemaSupport::JsonObject, [true, false, false]),
            (SchemaSupport::None, [true, true, false]),
        ] {
            let quirks = with(support);
            assert_eq!([&schema[..], object, talk].map(|body| quirks.lacks_form(body)), lacking);
        }
    }
}
