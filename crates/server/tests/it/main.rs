//! The gateway over real sockets, in front of a provider that records what it was sent and fails on demand.

mod access;
mod access_matrix;
mod admin;
mod audit;
mod bad_input;
mod bedrock;
mod bulk;
mod bulk_forms;
mod cohere;
mod configs;
mod cost;
mod credentials;
mod faults;
mod gemini;
mod granted;
mod graphs;
mod isolation;
mod keys;
mod life;
mod limits;
mod lying;
mod matrix;
mod names;
mod native;
mod ollama;
mod openapi;
mod operations;
mod pass;
mod principals;
mod reload;
mod responses;
mod secrets;
mod shared;
mod sign_on;
mod tls;
mod translate;
mod upkeep;
mod vertex;
mod waiting;

use millgate_testkit::{FakeProvider, TestGateway};

/// The provider's key; it must reach the provider and nobody else.
const PROVIDER_KEY: &str = "sk-canary-provider-0123456789";

/// Every call is sent, once: for tests of what comes of one call.
const SENT: &str = "breaker: { enabled: false }, pacing: off, retries: { attempts: 0 }";

/// A gateway whose endpoints are named after the fake provider's models, once per dialect:
/// `openai-<model>`, `anthropic-<model>` and `gemini-<model>`.
async fn over(fake: &FakeProvider, models: &[&str]) -> TestGateway {
    TestGateway::start(&config(fake, models, "")).await
}

fn config(fake: &FakeProvider, models: &[&str], more: &str) -> String {
    let base = fake.base_url();
    let endpoints: Vec<String> = models
        .iter()
        .flat_map(|model| ["openai", "anthropic", "gemini"].map(|provider| (provider, model)))
        .map(|(provider, model)| {
            format!("  - {{ name: {provider}-{model}, type: llm/v1/chat, route: {provider}/{model} }}\n")
        })
        .collect();
    let endpoints = endpoints.concat();
    format!(
        "version: 1
providers:
  openai: {{ kind: openai, base_url: '{base}', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
  gemini: {{ kind: gemini, base_url: '{base}', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
  anthropic: {{ kind: anthropic, base_url: '{base}', api_key: {PROVIDER_KEY}, timeout: 2s, {SENT} }}
endpoints:
{endpoints}{more}"
    )
}
