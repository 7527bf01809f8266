//! What tokens cost, in integers.

use std::collections::HashMap;

use millgate_types::{Billed, Money, Usage};
use serde::Deserialize;

/// Prices in pico-USD (10^-12) per token: the cheapest models cost less than a nano-USD per token.
type Pico = u64;

/// What one model's tokens cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    base: Rates,
    /// Of one search, where searches are billed (rerank).
    search: Option<Pico>,
    /// From how many prompt tokens on the whole request is billed at other rates; ascending.
    tiers: Vec<(u64, Rates)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    input: Pico,
    output: Pico,
    cache_read: Pico,
    cache_write: Pico,
    reasoning: Pico,
    audio_input: Pico,
    audio_output: Pico,
    image_input: Pico,
}

/// Rates as a configuration writes them: USD per million tokens; what is not said costs what the plain token of
/// its side costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RatesPerMillion {
    /// Prompt tokens.
    pub input: f64,
    /// Completion tokens.
    pub output: f64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: Option<f64>,
    /// Prompt tokens written to it.
    pub cache_write: Option<f64>,
    /// Reasoning tokens.
    pub reasoning: Option<f64>,
    /// USD for one search of a rerank model.
    pub search: Option<f64>,
}

impl Price {
    /// The price that a configuration sets. `None` when it is negative or no number.
    #[must_use]
    pub fn configured(rates: RatesPerMillion) -> Option<Self> {
        let all =
            [Some(rates.input), Some(rates.output), rates.cache_read, rates.cache_write, rates.reasoning];
        let all = all.into_iter().chain([rates.search]).flatten();
        if !all.into_iter().all(|rate| rate.is_finite() && (0.0..1e9).contains(&rate)) {
            return None;
        }
        let per_token = |usd: f64| Some(usd / 1e6);
        Listed {
            input: per_token(rates.input),
            output: per_token(rates.output),
            cache_read: rates.cache_read.and_then(per_token),
            cache_write: rates.cache_write.and_then(per_token),
            reasoning: rates.reasoning.and_then(per_token),
            input_audio: None,
            output_audio: None,
            input_image_token: None,
            per_query: rates.search,
            tiers: HashMap::new(),
        }
        .price()
    }

    /// USD per million prompt and completion tokens, for people.
    #[must_use]
    pub fn per_million(&self) -> (f64, f64) {
        (self.base.input as f64 / 1e6, self.base.output as f64 / 1e6)
    }

    /// What `usage` costs, rounded half up to a nano-USD. `None` when the sum leaves the range of [`Money`].
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> Option<Money> {
        if let Some(billed) = &usage.billed {
            return self.billed(billed);
        }
        // Tokens say nothing about a bill of searches.
        if self.search.is_some() {
            return None;
        }
        let prompt = usage.prompt_total();
        let tier = self.tiers.iter().rev().find(|(above, _)| prompt > *above);
        let rates = tier.map_or(&self.base, |(_, rates)| rates);
        let parts = [
            (usage.input, rates.input),
            (usage.cache_read, rates.cache_read),
            (usage.cache_write, rates.cache_write),
            (usage.output, rates.output),
            (usage.reasoning, rates.reasoning),
            (usage.audio_input, rates.audio_input),
            (usage.audio_output, rates.audio_output),
            (usage.image_input, rates.image_input),
        ];
        sum(&parts)
    }

    /// What so many tokens cost at most, whatever class they turn out to be of.
    #[must_use]
    pub fn most(&self, input: u64, output: u64) -> Option<Money> {
        if let Some(search) = self.search {
            return sum(&[(1, search)]);
        }
        let all = || self.tiers.iter().map(|(_, rates)| rates).chain([&self.base]);
        let dearest = |of: fn(&Rates) -> Pico| all().map(of).max().unwrap_or(0);
        let prompt =
            dearest(|rates| rates.input.max(rates.cache_write).max(rates.audio_input).max(rates.image_input));
        let answer = dearest(|rates| rates.output.max(rates.reasoning).max(rates.audio_output));
        sum(&[(input, prompt), (output, answer)])
    }

    /// The same where the provider says what it bills.
    fn billed(&self, billed: &Billed) -> Option<Money> {
        let search = match (billed.search_units, self.search) {
            (0, _) => 0,
            (_, price) => price?,
        };
        sum(&[
            (billed.input, self.base.input),
            (billed.output, self.base.output),
            (billed.image_input, self.base.image_input),
            (billed.search_units, search),
        ])
    }
}

/// Counts times rates, in nano-USD.
fn sum(parts: &[(u64, Pico)]) -> Option<Money> {
    let pico: u128 = parts.iter().map(|(count, rate)| u128::from(*count) * u128::from(*rate)).sum();
    i64::try_from((pico + 500) / 1000).ok().map(Money)
}

/// USD per token.
#[derive(Clone, Deserialize)]
pub(crate) struct Listed {
    input: Option<f64>,
    output: Option<f64>,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
    reasoning: Option<f64>,
    input_audio: Option<f64>,
    output_audio: Option<f64>,
    input_image_token: Option<f64>,
    per_query: Option<f64>,
    #[serde(default)]
    tiers: HashMap<String, Listed>,
}

impl Listed {
    /// What is not listed costs what the plain token of its side costs; `outer` are the rates of the tier
    /// below.
    fn rates(&self, outer: Option<&Rates>) -> Rates {
        let pico = |usd: Option<f64>| usd.map(|usd| (usd * 1e12).round() as Pico);
        let input = pico(self.input).or(outer.map(|rates| rates.input)).unwrap_or(0);
        let output = pico(self.output).or(outer.map(|rates| rates.output)).unwrap_or(0);
        let or_outer = |own: Option<f64>, of: fn(&Rates) -> Pico, plain: Pico| {
            pico(own).or(outer.map(of)).unwrap_or(plain)
        };
        Rates {
            input,
            output,
            cache_read: or_outer(self.cache_read, |rates| rates.cache_read, input),
            cache_write: or_outer(self.cache_write, |rates| rates.cache_write, input),
            reasoning: or_outer(self.reasoning, |rates| rates.reasoning, output),
            audio_input: or_outer(self.input_audio, |rates| rates.audio_input, input),
            audio_output: or_outer(self.output_audio, |rates| rates.audio_output, output),
            image_input: or_outer(self.input_image_token, |rates| rates.image_input, input),
        }
    }

    pub(crate) fn price(&self) -> Option<Price> {
        self.input.or(self.output)?;
        let base = self.rates(None);
        let mut tiers: Vec<_> = self
            .tiers
            .iter()
            .filter_map(|(name, listed)| {
                let above = name.strip_prefix("above_")?.parse().ok()?;
                Some((above, listed.rates(Some(&base))))
            })
            .collect();
        tiers.sort_by_key(|(above, _)| *above);
        let search = self.per_query.map(|usd| (usd * 1e12).round() as Pico);
        Some(Price { base, search, tiers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, model: &str) -> Option<Price> {
        crate::model(crate::kind(kind).unwrap(), model)?.price
    }

    #[test]
    fn classes_are_billed_at_their_own_rates() {
        let usage = Usage { input: 1000, cache_read: 400, output: 100, reasoning: 50, ..Usage::default() };
        // 1000 x 0.15 + 400 x 0.075 + 150 x 0.6 micro-USD.
        assert_eq!(of("openai", "gpt-4o-mini").unwrap().cost(&usage), Some(Money(270_000)));
        let usage = Usage { input: 10, cache_write: 100, cache_read: 1000, output: 10, ..Usage::default() };
        assert_eq!(of("anthropic", "claude-haiku-4-5").unwrap().cost(&usage), Some(Money(285_000)));
    }

    #[test]
    fn what_the_provider_bills_is_what_counts() {
        let searches = |search_units| Usage {
            billed: Some(Billed { search_units, ..Billed::default() }),
            ..Usage::default()
        };
        assert_eq!(of("cohere", "rerank-v3.5").unwrap().cost(&searches(3)), Some(Money(6_000_000)));
        // A model whose price is per token has no price of a search, and the other way round.
        assert_eq!(of("voyage", "rerank-2").unwrap().cost(&searches(1)), None);
        let tokens = Usage { input: 100, ..Usage::default() };
        assert_eq!(of("cohere", "rerank-v3.5").unwrap().cost(&tokens), None);
        assert_eq!(of("voyage", "rerank-2").unwrap().cost(&tokens), Some(Money(5_000)));
        // Cohere saw 503 tokens and bills 8 and 10.
        let usage = Usage {
            input: 55,
            cache_read: 448,
            output: 13,
            billed: Some(Billed { input: 8, output: 10, ..Billed::default() }),
            ..Usage::default()
        };
        assert_eq!(of("cohere", "command-a-03-2025").unwrap().cost(&usage), Some(Money(120_000)));
    }

    #[test]
    fn long_prompts_are_billed_whole_at_their_tier() {
        let gemini = crate::kind("gemini").unwrap();
        let prices = crate::models(gemini).filter_map(|model| crate::model(gemini, &model)?.price);
        let price = prices.into_iter().find(|price| !price.tiers.is_empty()).expect("the table holds tiers");
        let (above, rates) = &price.tiers[0];
        let usage = |input| Usage { input, ..Usage::default() };
        let expected = |count: u64, rate: Pico| {
            Some(Money(i64::try_from((u128::from(count) * u128::from(rate) + 500) / 1000).unwrap()))
        };
        assert_eq!(price.cost(&usage(*above)), expected(*above, price.base.input));
        assert_eq!(price.cost(&usage(above + 1)), expected(above + 1, rates.input));
    }
}
