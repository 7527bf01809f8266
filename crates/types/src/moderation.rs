//! Moderation: texts in, judgements by category out. The canonical form is OpenAI's shape.

use serde_json::{Map, Value};

use crate::{Dialect, Extra, Usage};

/// Content to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct ModerationCall {
    /// The endpoint's or model's name as the caller wrote it; empty when the path names the endpoint.
    pub model: String,
    /// What to judge.
    pub input: ModerationInput,
    /// Everything else at the top level.
    pub extra: Extra,
}

/// What to judge.
#[derive(Clone, Debug, PartialEq)]
pub enum ModerationInput {
    /// One text.
    Text(String),
    /// Several texts, judged one by one.
    Texts(Vec<String>),
    /// Text and picture parts, judged together, as they came.
    Parts(Vec<Value>),
}

/// Judgements.
#[derive(Clone, Debug, PartialEq)]
pub struct ModerationAnswer {
    /// The provider's id of the answer.
    pub id: String,
    /// The model as the provider names it.
    pub model: String,
    /// One per text, in the order of the input.
    pub results: Vec<Judgement>,
    /// What was consumed, where the provider counts.
    pub usage: Option<Usage>,
    /// The dialect `extra` belongs to.
    pub dialect: Dialect,
    /// Top-level fields that the canonical form does not name.
    pub extra: Map<String, Value>,
}

/// One text's judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Some category applies.
    pub flagged: bool,
    /// Whether each category applies.
    pub categories: Map<String, Value>,
    /// How sure the model is, 0 to 1.
    pub scores: Map<String, Value>,
    /// Further members, as they came (`category_applied_input_types`).
    pub extra: Map<String, Value>,
}
