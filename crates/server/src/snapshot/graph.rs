//! Route nodes that need several answers, from the configuration to what runs.

use std::sync::Arc;

use millgate_config::{CombineBy, EndpointConfig, EndpointType, RouteConfig, StepConfig, SwitchPer};
use millgate_expr::{BodyTemplate, Condition};
use millgate_policy::{ChainStep, Ensemble, Graph, Node, Route, Switch};
use millgate_scoring::Combination;

use super::Target;
use super::build::Resolver;

/// Longest label of a graph, in characters.
const MAX_LABEL: usize = 200;

impl<'a> Resolver<'a> {
    pub(super) fn graph(
        &mut self,
        endpoint: &'a EndpointConfig,
        route: &'a RouteConfig,
    ) -> Result<Route<Target>, String> {
        let predict = EndpointType::Predict;
        let node = match route {
            RouteConfig::Chain(steps) => {
                let steps = steps.iter().map(|step| self.step(endpoint, step));
                Node::Chain(steps.collect::<Result<_, String>>()?)
            }
            RouteConfig::Ensemble(written) => {
                let weight = |place| written.weights.as_ref().and_then(|all| all.get(place)).copied();
                let members = written.of.iter().enumerate().map(|(place, member)| {
                    Ok((weight(place).unwrap_or(1.0), self.route(endpoint, member, predict)?))
                });
                Node::Ensemble(Ensemble {
                    members: members.collect::<Result<_, String>>()?,
                    by: match written.by {
                        CombineBy::Mean => Combination::Mean,
                        CombineBy::Vote => Combination::Vote,
                        CombineBy::Max => Combination::Max,
                        CombineBy::Min => Combination::Min,
                        CombineBy::Median => Combination::Median,
                    },
                    at_least: written.at_least.map_or(written.of.len(), |least| least as usize),
                })
            }
            RouteConfig::Switch(written) => {
                let cases = written.cases.iter().map(|case| {
                    Ok((Condition::compile(&case.when)?, self.route(endpoint, &case.to, predict)?))
                });
                let cases = cases.collect::<Result<_, String>>()?;
                let otherwise = match &written.otherwise {
                    millgate_config::Else::Keep => None,
                    millgate_config::Else::To(route) => Some(self.route(endpoint, route, predict)?),
                };
                Node::Switch(Switch {
                    of: self.route(endpoint, &written.of, predict)?,
                    cases,
                    otherwise,
                    by_row: written.per == SwitchPer::Row,
                })
            }
            RouteConfig::Target(_) | RouteConfig::Split(_) | RouteConfig::Fallback(_) => {
                return Err("this route is no graph".to_owned());
            }
        };
        let label: String = label(route).chars().take(MAX_LABEL).collect();
        Ok(Route::Graph(Arc::new(Graph { label: label.into(), node })))
    }

    fn step(
        &mut self,
        endpoint: &'a EndpointConfig,
        step: &'a StepConfig,
    ) -> Result<ChainStep<Target>, String> {
        let kind = self.config.route_kind(&step.to);
        let route = self.route(endpoint, &step.to, kind)?;
        let body = step.body.as_ref().map(BodyTemplate::compile).transpose()?;
        Ok(ChainStep { route, body })
    }
}

/// What a route is made of, for people.
fn label(route: &RouteConfig) -> String {
    let all =
        |routes: &[RouteConfig], between: &str| routes.iter().map(label).collect::<Vec<_>>().join(between);
    match route {
        RouteConfig::Target(target) => match target.strip_prefix("file:") {
            // A path of this machine is nobody else's business.
            Some(path) => path.rsplit('/').next().unwrap_or_default().to_owned(),
            None => target.clone(),
        },
        RouteConfig::Split(_) => format!("split({})", route.targets().join(", ")),
        RouteConfig::Fallback(nodes) => format!("fallback({})", all(nodes, ", ")),
        RouteConfig::Chain(steps) => {
            let steps: Vec<_> = steps.iter().map(|step| label(&step.to)).collect();
            format!("chain({})", steps.join(" -> "))
        }
        RouteConfig::Ensemble(ensemble) => format!("ensemble({})", all(&ensemble.of, ", ")),
        RouteConfig::Switch(switch) => {
            let to: Vec<_> = switch.cases.iter().map(|case| label(&case.to)).collect();
            format!("switch({} -> {})", label(&switch.of), to.join(", "))
        }
    }
}
