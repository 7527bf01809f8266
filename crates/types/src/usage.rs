//! What a call consumed, in classes that never overlap.

use serde::{Deserialize, Serialize};

use crate::Money;

/// Token counts in disjoint classes: their plain sum is the total. Providers count in overlapping ways
/// (OpenAI's `prompt_tokens` includes cached tokens, Anthropic's `input_tokens` does not); each dialect
/// subtracts once, here nothing is ever counted twice. Derived parts are clamped at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Prompt tokens neither read from nor written to a cache.
    pub input: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: u64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write: u64,
    /// Visible completion tokens.
    pub output: u64,
    /// Reasoning tokens, where the provider breaks them out; otherwise they are inside `output`.
    pub reasoning: u64,
    /// Audio tokens of the prompt.
    pub audio_input: u64,
    /// Audio tokens of the answer.
    pub audio_output: u64,
    /// Image tokens of the prompt, where counted apart.
    pub image_input: u64,
    /// What the provider itself says the call cost; preferred over our price book.
    pub reported_cost: Option<Money>,
    /// What the provider bills, where it says that it is not what it counted (Cohere).
    pub billed: Option<Billed>,
    /// True when we counted because the provider did not say.
    pub estimated: bool,
}

/// What a provider bills, where that is something else than the tokens it saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Billed {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Image tokens of the prompt.
    pub image_input: u64,
    /// Searches (Cohere's rerank: a query with up to 100 documents).
    pub search_units: u64,
}

impl Usage {
    /// All prompt tokens: what OpenAI calls `prompt_tokens`.
    #[must_use]
    pub fn prompt_total(&self) -> u64 {
        self.input + self.cache_read + self.cache_write + self.audio_input + self.image_input
    }

    /// All completion tokens, reasoning included: what OpenAI calls `completion_tokens`.
    #[must_use]
    pub fn completion_total(&self) -> u64 {
        self.output + self.reasoning + self.audio_output
    }

    /// Both together, of two requests for one call.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let cost = |one: Money, other: Money| one.checked_add(other);
        let billed = |one: Billed, other: Billed| Billed {
            input: one.input + other.input,
            output: one.output + other.output,
            image_input: one.image_input + other.image_input,
            search_units: one.search_units + other.search_units,
        };
        Self {
            input: self.input + other.input,
            cache_read: self.cache_read + other.cache_read,
            cache_write: self.cache_write + other.cache_write,
            output: self.output + other.output,
            reasoning: self.reasoning + other.reasoning,
            audio_input: self.audio_input + other.audio_input,
            audio_output: self.audio_output + other.audio_output,
            image_input: self.image_input + other.image_input,
            // What only one of them says is no sum.
            reported_cost: self
                .reported_cost
                .zip(other.reported_cost)
                .and_then(|(one, other)| cost(one, other)),
            billed: self.billed.zip(other.billed).map(|(one, other)| billed(one, other)),
            estimated: self.estimated || other.estimated,
        }
    }

    /// Prompt and completion together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.prompt_total() + self.completion_total()
    }
}
