//! What a call may use at most, before anybody is asked.

use std::sync::Arc;

use millgate_policy::{Amounts, Refused, Step};
use millgate_types::{Billed, Operation, Usage};

use super::nanos;
use crate::Gateway;
use crate::dispatch;
use crate::pipeline::{Decoded, Routed, name_of};
use crate::snapshot::{Target, TargetKind};

/// Tokens of an answer of which nobody says how long it may be. Longer ones are seen when they come.
const ASSUMED_OUTPUT: u64 = 1024;
/// Other vendors' vocabularies need up to a part of this more tokens than the one that we count with.
const INEXACT: u64 = 4;
/// Tokens that providers add to a prompt of their own.
const FRAME: u64 = 8;

/// What a call may use at most.
pub(super) struct Bounds {
    pub(super) amounts: Amounts,
    /// Prompt tokens are counted, or nobody asks for them.
    pub(super) counted: bool,
    /// Tokens of one answer and how many answers there may be.
    most: Option<u64>,
    answers: u64,
}

impl Bounds {
    pub(super) fn of(call: &Decoded) -> Self {
        let bytes = call.body.len() as u64;
        let facts = call.facts.as_ref();
        let writes = matches!(call.operation, Operation::Chat | Operation::Completions);
        let most = facts.and_then(|facts| facts.most);
        let answers = facts.map_or(1, |facts| facts.answers.max(1));
        let output = if writes { most.unwrap_or(ASSUMED_OUTPUT).saturating_mul(answers) } else { 0 };
        let input = if facts.is_some() && call.operation != Operation::CountTokens { bytes } else { 0 };
        let amounts = Amounts {
            input_tokens: input,
            output_tokens: output,
            bytes,
            rows: u64::from(facts.is_none()),
            cost: 0,
        };
        Self { amounts, counted: input == 0, most, answers }
    }

    /// Bounds the cost by the dearest target that may be asked. Gives one whose price is not known.
    pub(super) fn price(&mut self, call: &Routed) -> Option<Arc<str>> {
        let mut unpriced = None;
        let mut dearest = 0;
        for step in &call.steps {
            let cost = match step {
                Step::Target(target) => self.of_target(target, &call.call),
                // Each part may be asked.
                Step::Graph(graph) => graph
                    .parts()
                    .into_iter()
                    .flat_map(millgate_policy::Route::targets)
                    .map(|target| self.of_target(&target, &call.call))
                    .sum::<Option<u64>>(),
            };
            match cost {
                Some(cost) => dearest = dearest.max(cost),
                None => drop(unpriced.get_or_insert_with(|| Arc::clone(name_of(step)))),
            }
        }
        self.amounts.cost = dearest;
        unpriced
    }

    fn of_target(&self, target: &Target, call: &Decoded) -> Option<u64> {
        let tokens = (self.amounts.input_tokens, self.amounts.output_tokens);
        match &target.kind {
            TargetKind::Provider { provider, model } => {
                let asked = call.facts.as_ref().and_then(|facts| facts.model.as_ref());
                let (_, _, known) =
                    model.resolve(provider, &call.endpoint, asked.map(|model| &*model.name))?;
                let output = match (self.most, known.max_output) {
                    (None, Some(most)) => tokens.1.min(most.saturating_mul(self.answers)),
                    _ => tokens.1,
                };
                let price = known.price.as_ref()?;
                if call.operation == Operation::Rerank {
                    let billed = Billed { search_units: 1, ..Billed::default() };
                    return nanos(price.cost(&Usage { billed: Some(billed), ..Usage::default() })?.0);
                }
                nanos(price.most(tokens.0, output)?.0)
            }
            TargetKind::Chat(chat) => match chat.price() {
                Some(price) => nanos(price.most(tokens.0, tokens.1)?.0),
                None => Some(0),
            },
            TargetKind::Model(_) => {
                let serving = &call.endpoint.config.serving;
                Some(serving.price.as_ref().map_or(0, |price| price.nanos(1, 0)))
            }
        }
    }

    /// Counts the tokens of the prompt, off the data thread: the first count loads a vocabulary.
    pub(super) async fn count(&mut self, gateway: &Gateway, call: &Routed) {
        self.counted = true;
        let (dialect, operation) = (call.call.dialect, call.call.operation);
        let body = call.call.body.clone();
        let model = call.call.facts.as_ref().and_then(|facts| facts.model.as_ref());
        let model: Box<str> = model.map_or("", |model| &*model.name).into();
        let count = move || dispatch::count_input(dialect, operation, &body, &model);
        if let Ok(Some(tokens)) = gateway.models().handle().spawn_blocking(count).await {
            let bound = tokens.saturating_add(tokens / INEXACT).saturating_add(FRAME);
            self.amounts.input_tokens = self.amounts.input_tokens.min(bound);
        }
    }

    /// Lowers the bound of the answer to what a limit has room for. `false`: there is room for nothing, or it is no matter of the
    /// answer's length.
    pub(super) fn shorten(&mut self, refused: &Refused, call: &Routed) -> bool {
        let writes = matches!(call.call.operation, Operation::Chat | Operation::Completions);
        let most = self.amounts.output_tokens / self.answers;
        if !refused.limit.cap || !writes || most == 0 {
            return false;
        }
        let asked_for = (self.amounts, self.most);
        let fits = |bounds: &Self| bounds.amounts.of(refused.limit.measure) <= refused.room;
        // What does not fit with one token less than is known not to: by halves.
        let (mut fitting, mut too_long) = (0, most);
        while too_long - fitting > 1 {
            let middle = fitting + (too_long - fitting) / 2;
            self.limit_answers(middle, call);
            if fits(self) { fitting = middle } else { too_long = middle }
        }
        if fitting == 0 {
            // A call that waits instead asks for what it came with.
            (self.amounts, self.most) = asked_for;
            return false;
        }
        self.limit_answers(fitting, call);
        true
    }

    fn limit_answers(&mut self, most: u64, call: &Routed) {
        self.most = Some(most);
        self.amounts.output_tokens = most.saturating_mul(self.answers);
        self.price(call);
    }

    /// The longest that one answer may be.
    pub(super) fn most(&self) -> Option<u64> {
        self.most
    }
}
