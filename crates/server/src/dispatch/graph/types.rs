//! Whether what one step answers is what the next one takes, by the signatures of the versions that serve now. Models
//! load and change on their own, so this is asked anew each time.

use std::sync::Arc;

use millgate_policy::{ChainStep, Graph, Node, Route};
use millgate_scoring::Combination;
use millgate_types::{Fault, Retry, Source, code};

use crate::snapshot::{Target, TargetKind};

/// Everything in a route that does not go together now, for the readiness page and `doctor`.
pub(crate) fn mismatches(route: &Route<Target>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for graph in route.graphs() {
        for reason in reasons(&graph) {
            if !found.contains(&reason) {
                found.push(reason);
            }
        }
    }
    found
}

fn reasons(graph: &Graph<Target>) -> Vec<String> {
    match &graph.node {
        Node::Chain(steps) => edges(steps).flat_map(|edge| edge.mismatches().1).collect(),
        Node::Ensemble(ensemble) => {
            let numbers = ensemble.by != Combination::Vote;
            let members: Vec<_> = ensemble.members.iter().map(|(_, route)| route.last()).collect();
            let mut found = Vec::new();
            for (one, others) in members.iter().enumerate() {
                for other in &members[one + 1..] {
                    found.extend(pairs(others, other).filter_map(|(one, other)| unlike(one, other, numbers)));
                }
            }
            found
        }
        Node::Switch(_) => Vec::new(),
    }
}

fn unlike(one: &Target, other: &Target, numbers: bool) -> Option<String> {
    let (first, second) = (live(one)?, live(other)?);
    let reason = millgate_scoring::unlike(first.outputs(), second.outputs(), numbers)?;
    Some(format!("`{}` and `{}` do not go together: {reason}", shown(one), shown(other)))
}

/// Refuses a chain whose steps cannot go together before any of them is asked.
pub(super) fn check(steps: &[ChainStep<Target>]) -> Result<(), Fault> {
    for edge in edges(steps) {
        let (fits, mut reasons) = edge.mismatches();
        if !fits && !reasons.is_empty() {
            let public = reasons.swap_remove(0);
            return Err(Fault::new(code::MODEL_UNAVAILABLE, Source::Gateway, Retry::NextTarget, public));
        }
    }
    Ok(())
}

/// Two steps of which one's answer is the other's input as it is.
struct Edge {
    number: usize,
    from: Vec<Arc<Target>>,
    to: Vec<Arc<Target>>,
}

fn edges(steps: &[ChainStep<Target>]) -> impl Iterator<Item = Edge> + '_ {
    let pairs = steps.windows(2).enumerate();
    pairs.filter_map(|(number, pair)| {
        let [one, next] = pair else { return None };
        let direct = next.body.is_none();
        direct.then(|| Edge { number: number + 2, from: one.route.last(), to: next.route.first() })
    })
}

impl Edge {
    /// Whether any way over it may do, and why the others do not.
    fn mismatches(&self) -> (bool, Vec<String>) {
        let (mut fits, mut found) = (false, Vec::new());
        for (from, to) in pairs(&self.from, &self.to) {
            let known = live(from).zip(live(to));
            let reason =
                known.and_then(|(one, next)| millgate_scoring::mismatch(one.outputs(), next.signature()));
            match reason {
                None => fits = true,
                Some(reason) => found.push(format!(
                    "step {} (`{}`) does not take what `{}` answers: {reason}",
                    self.number,
                    shown(to),
                    shown(from)
                )),
            }
        }
        (fits, found)
    }
}

fn pairs<'a>(
    one: &'a [Arc<Target>],
    other: &'a [Arc<Target>],
) -> impl Iterator<Item = (&'a Target, &'a Target)> {
    one.iter().flat_map(move |first| other.iter().map(move |second| (&**first, &**second)))
}

pub(super) fn live(target: &Target) -> Option<millgate_models::LiveModel> {
    match &target.kind {
        TargetKind::Model(deployment) => deployment.live_model(),
        TargetKind::Provider { .. } | TargetKind::Chat(_) => None,
    }
}

/// A target's name for callers: a path of this machine is nobody else's business.
pub(super) fn shown(target: &Target) -> &str {
    match target.label.strip_prefix("file:") {
        Some(path) => path.rsplit('/').next().unwrap_or_default(),
        None => &target.label,
    }
}
