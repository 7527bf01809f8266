//! Rules over routes: targets that exist and can answer, nodes that make sense, no cycles.

use std::collections::HashMap;

use millgate_expr::{BodyTemplate, Condition};
use millgate_types::ModelRef;

use super::{Checker, steps};
use crate::document::{Config, EndpointConfig, EndpointType};
use crate::load::nearest;
use crate::node::Step;
use crate::route::{CombineBy, EnsembleConfig, RouteConfig, StepConfig, SwitchConfig};

/// What a place in a route must be able to answer.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    /// One type of endpoint.
    One(EndpointType),
    /// A step of a chain: predictions or chat.
    Step,
}

impl Expected {
    pub(super) fn of(kind: EndpointType) -> Self {
        Self::One(kind)
    }

    fn takes(self, kind: EndpointType) -> bool {
        match self {
            Self::One(wanted) => wanted == kind,
            Self::Step => matches!(kind, EndpointType::Predict | EndpointType::Chat),
        }
    }

    fn name(self) -> String {
        match self {
            Self::One(kind) => format!("`{}`", kind.name()),
            Self::Step => "`predict` or `llm/v1/chat`".to_owned(),
        }
    }

    /// What a target is asked for here.
    fn kind(self, config: &Config, target: &str) -> EndpointType {
        match self {
            Self::One(kind) => kind,
            Self::Step => config.target_kind(target),
        }
    }
}

impl Config {
    /// What a target of a chain's step answers: an endpoint its own type, a registered model and a model server predictions,
    /// any other provider chats.
    #[must_use]
    pub fn target_kind(&self, target: &str) -> EndpointType {
        if ModelRef::parse(target).is_ok() {
            return EndpointType::Predict;
        }
        if let Some(other) = self.endpoints.iter().find(|other| other.name == target) {
            return other.kind;
        }
        let provider =
            target.split_once('/').and_then(|(name, model)| Some((self.providers.get(name)?, model)));
        let serves = provider.and_then(|(provider, model)| {
            let kind = millgate_provider::kind(&provider.kind)?;
            kind.for_model(model).path(EndpointType::Predict.operation())
        });
        if serves.is_some() { EndpointType::Predict } else { EndpointType::Chat }
    }

    /// What a route inside a chain answers. A node that needs several answers takes and gives predictions.
    #[must_use]
    pub fn route_kind(&self, route: &RouteConfig) -> EndpointType {
        match route {
            RouteConfig::Chain(_) | RouteConfig::Ensemble(_) | RouteConfig::Switch(_) => {
                EndpointType::Predict
            }
            RouteConfig::Fallback(nodes) => {
                nodes.first().map_or(EndpointType::Predict, |node| self.route_kind(node))
            }
            RouteConfig::Target(_) | RouteConfig::Split(_) => {
                route.targets().first().map_or(EndpointType::Predict, |target| self.target_kind(target))
            }
        }
    }
}

impl Checker<'_> {
    pub(super) fn route(
        &mut self,
        endpoint: &EndpointConfig,
        route: &RouteConfig,
        expected: Expected,
        at: &[Step],
    ) {
        let mut inner = expected;
        match route {
            RouteConfig::Target(target) => self.target(endpoint, target, expected, at),
            RouteConfig::Split(split) => {
                if split.0.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>() == 0 {
                    self.error(at, "the weights add up to nothing", "give at least one target a weight");
                }
                for (target, _) in &split.0 {
                    let inner = [at, steps!["split", target.as_str()]].concat();
                    self.target(endpoint, target, expected, &inner);
                }
                self.alike(route, expected, at);
            }
            RouteConfig::Fallback(nodes) => {
                if nodes.is_empty() {
                    self.error(at, "a fallback needs at least one target", "");
                }
                self.alike(route, expected, at);
            }
            RouteConfig::Chain(chain) => {
                self.chain(chain, expected, &[at, steps!["chain"]].concat());
                inner = Expected::Step;
            }
            RouteConfig::Ensemble(ensemble) => {
                self.gives_predictions("an ensemble", expected, at);
                self.ensemble(ensemble, &[at, steps!["ensemble"]].concat());
                inner = Expected::One(EndpointType::Predict);
            }
            RouteConfig::Switch(switch) => {
                self.gives_predictions("a switch", expected, at);
                self.switch(switch, &[at, steps!["switch"]].concat());
                inner = Expected::One(EndpointType::Predict);
            }
        }
        for (place, part) in route.parts() {
            self.route(endpoint, part, inner, &[at, &place].concat());
        }
    }

    fn gives_predictions(&mut self, node: &str, expected: Expected, at: &[Step]) {
        if !expected.takes(EndpointType::Predict) {
            let reason = format!("{node} gives predictions, not {}", expected.name());
            self.error(at, reason, "use `type: predict`, or make it a step of a chain that ends in an LLM");
        }
    }

    /// Whatever a step's split or fallback chooses must take the same body.
    fn alike(&mut self, route: &RouteConfig, expected: Expected, at: &[Step]) {
        let Expected::Step = expected else { return };
        let kind = |part: &RouteConfig| self.config.route_kind(part);
        let differ = match route {
            RouteConfig::Fallback(nodes) => nodes.iter().any(|node| kind(node) != kind(&nodes[0])),
            _ => {
                let targets = route.targets();
                targets
                    .iter()
                    .any(|target| self.config.target_kind(target) != self.config.target_kind(targets[0]))
            }
        };
        if differ {
            let hint = "give each a step, or an endpoint, of its own";
            self.error(at, "some of the targets predict and some chat: they do not take the same body", hint);
        }
    }

    fn chain(&mut self, chain: &[StepConfig], expected: Expected, at: &[Step]) {
        let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
            return self.error(at, "a chain needs at least one step", "");
        };
        let is_chat = |step: &StepConfig| self.config.route_kind(&step.to) == EndpointType::Chat;
        let as_chat = !expected.takes(EndpointType::Predict);
        let reason = match expected {
            Expected::One(EndpointType::Chat) if !is_chat(last) => {
                Some((chain.len() - 1, "the last step of a chain of the type `llm/v1/chat` must be an LLM"))
            }
            Expected::One(kind) if !matches!(kind, EndpointType::Predict | EndpointType::Chat) => {
                let reason = format!("a chain answers `predict` or `llm/v1/chat`, not `{}`", kind.name());
                return self.error(at, reason, "");
            }
            _ if is_chat(first) != as_chat && first.body.is_none() => Some((
                0,
                if as_chat {
                    "what the caller of a chat sends is no input of a model"
                } else {
                    "what the caller of a model sends is no prompt"
                },
            )),
            _ => None,
        };
        if let Some((number, reason)) = reason {
            let hint = if number == 0 { "say what it is sent: `{ to: ..., body: { ... } }`" } else { "" };
            self.error(&[at, steps![number]].concat(), reason, hint);
        }
        for (number, step) in chain.iter().enumerate() {
            let place = [at, steps![number, "body"]].concat();
            match step.body.as_ref().map(BodyTemplate::compile) {
                Some(Err(reason)) => self.error(&place, reason, ""),
                Some(Ok(_)) if !step.body.as_ref().is_some_and(serde_json::Value::is_object) => {
                    self.error(&place, "a body is a map", "for example `body: { inputs: $result }`");
                }
                _ => {}
            }
        }
    }

    fn ensemble(&mut self, ensemble: &EnsembleConfig, at: &[Step]) {
        let field = |name: &str| [at, steps![name]].concat();
        let members = ensemble.of.len();
        if members < 2 {
            self.error(&field("of"), "an ensemble needs at least two members", "");
        }
        if let Some(weights) = &ensemble.weights {
            if !matches!(ensemble.by, CombineBy::Mean | CombineBy::Vote) {
                self.error(&field("weights"), "only `mean` and `vote` have weights", "");
            } else if weights.len() != members {
                let reason = format!("{} weights for {members} members", weights.len());
                self.error(&field("weights"), reason, "");
            } else if weights.iter().any(|weight| !(weight.is_finite() && *weight >= 0.0))
                || weights.iter().sum::<f64>() <= 0.0
            {
                let hint = "give numbers of 0 or more, at least one above 0";
                self.error(&field("weights"), "the weights make no sense", hint);
            }
        }
        if ensemble.at_least.is_some_and(|least| least == 0 || least as usize > members) {
            self.error(&field("at_least"), format!("expected 1 to {members} members"), "");
        }
    }

    fn switch(&mut self, switch: &SwitchConfig, at: &[Step]) {
        if switch.cases.is_empty() {
            self.error(&[at, steps!["cases"]].concat(), "a switch needs at least one case", "");
        }
        for (number, case) in switch.cases.iter().enumerate() {
            if let Err(reason) = Condition::compile(&case.when) {
                let hint = "for example `max(result) < 0.8`";
                self.error(&[at, steps!["cases", number, "when"]].concat(), reason, hint);
            }
        }
    }

    fn target(&mut self, endpoint: &EndpointConfig, target: &str, expected: Expected, at: &[Step]) {
        let config = self.config;
        if target.contains(":/") && !target.starts_with("http") {
            if let Err(error) = ModelRef::parse(target) {
                self.error(
                    at,
                    format!("`{target}` is not a model: {error}"),
                    "for example `models:/Iris@champion`",
                );
            } else if !expected.takes(EndpointType::Predict) && !expected.takes(EndpointType::Chat) {
                let reason = format!("a registered model cannot answer `{}`", endpoint.kind.name());
                self.error(at, reason, "use `type: predict`, or `type: llm/v1/chat` for a model that chats");
            }
            let registry = endpoint.registry.as_deref().unwrap_or("default");
            if !target.starts_with("file:") && !config.registries.contains_key(registry) {
                let hint = if config.registries.is_empty() {
                    "declare one: `registries: { default: { uri: http://mlflow:5000 } }`".to_owned()
                } else {
                    nearest(registry, config.registries.keys().map(String::as_str))
                };
                self.error(at, format!("unknown registry `{registry}`"), hint);
            }
        } else if let Some(other) = config.endpoints.iter().find(|other| other.name == target) {
            if !expected.takes(other.kind) {
                let wanted = expected.name();
                let reason = format!("`{target}` is `{}`, not {wanted}", other.kind.name());
                self.error(at, reason, "an endpoint can only stand in for one of its own type");
            }
            if target.contains('*') && !endpoint.name.contains('*') {
                let hint = "name a target, or an endpoint that is no pattern";
                self.error(at, format!("`{target}` stands for many models"), hint);
            }
        } else if let Some((provider, model)) = target.split_once('/') {
            if model.is_empty() {
                self.error(at, "the model's name is missing", "write `provider/model`");
            }
            if model.contains('*') && !endpoint.name.contains('*') {
                let hint = "only endpoints whose own name holds a `*` have targets with one";
                self.error(at, format!("`{target}` names no model"), hint);
            }
            match config.providers.get(provider) {
                None => {
                    let hint = nearest(provider, config.providers.keys().map(String::as_str));
                    self.error(at, format!("unknown provider `{provider}`"), hint);
                }
                Some(found) => {
                    let kind = millgate_provider::kind(&found.kind);
                    let has =
                        |operation| kind.is_none_or(|kind| kind.for_model(model).path(operation).is_some());
                    let wanted = expected.kind(config, target);
                    let reason = format!("`{}` has no `{}`", found.kind, wanted.name());
                    if !has(wanted.operation()) && wanted == EndpointType::Predict {
                        let hint = "use a `models:/` URI, or a provider of the kind `mlflow-scoring`, \
                                    `open-inference` or `http-scorer`";
                        self.error(at, reason, hint);
                    } else if !has(wanted.operation()) {
                        self.warning(at, reason, "calls will be answered with 501");
                    }
                }
            }
        } else {
            let names = config.endpoints.iter().map(|endpoint| endpoint.name.as_str());
            let hint = nearest(target, names.collect::<Vec<_>>().into_iter());
            self.error(at, format!("unknown endpoint `{target}`"), hint);
        }
    }

    /// Endpoints that lead back to themselves.
    pub(super) fn cycles(&mut self) {
        let by_name: HashMap<&str, usize> =
            self.config.endpoints.iter().enumerate().map(|(index, e)| (e.name.as_str(), index)).collect();
        for start in 0..self.config.endpoints.len() {
            let mut trail = vec![start];
            if let Some(cycle) = self.find_cycle(&by_name, &mut trail)
                && cycle.iter().min() == Some(&start)
            {
                let names: Vec<_> =
                    cycle.iter().map(|index| self.config.endpoints[*index].name.clone()).collect();
                let shown = format!("{} -> {}", names.join(" -> "), names[0]);
                self.error(
                    steps!["endpoints", start, "route"],
                    format!("the route leads back to itself: {shown}"),
                    "",
                );
            }
        }
    }

    /// The cycle through the first endpoint of the trail, if there is one.
    fn find_cycle(&self, by_name: &HashMap<&str, usize>, trail: &mut Vec<usize>) -> Option<Vec<usize>> {
        for target in self.config.endpoints[*trail.last()?].route.targets() {
            let Some(next) = by_name.get(target) else { continue };
            if *next == trail[0] {
                return Some(trail.clone());
            }
            if !trail.contains(next) {
                trail.push(*next);
                if let Some(cycle) = self.find_cycle(by_name, trail) {
                    return Some(cycle);
                }
                trail.pop();
            }
        }
        None
    }
}
