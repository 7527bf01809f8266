//! The route tree and the plan it gives for one request.

use std::sync::Arc;

use crate::graph::{Graph, Node};

/// Where requests of an endpoint go. `T` is a resolved target.
#[derive(Debug)]
pub enum Route<T> {
    /// One target.
    Target(Arc<T>),
    /// A share of the traffic for each; the weights' sum is positive.
    Split(Vec<(u32, Route<T>)>),
    /// The next one when one fails.
    Fallback(Vec<Route<T>>),
    /// Another endpoint's route.
    Shared(Arc<Route<T>>),
    /// Several answers that become one.
    Graph(Arc<Graph<T>>),
}

/// One thing to try.
#[derive(Debug)]
pub enum Step<T> {
    /// A target.
    Target(Arc<T>),
    /// A graph, whose parts have plans of their own.
    Graph(Arc<Graph<T>>),
}

impl<T> Route<T> {
    /// What to try, in order. A split contributes the branch that chance chose; `draw` gives a number below its
    /// argument.
    pub fn plan(&self, draw: &mut dyn FnMut(u64) -> u64) -> Vec<Step<T>> {
        let mut plan = Vec::with_capacity(1);
        self.extend(&mut plan, draw);
        plan
    }

    fn extend(&self, plan: &mut Vec<Step<T>>, draw: &mut dyn FnMut(u64) -> u64) {
        match self {
            Self::Target(target) => plan.push(Step::Target(Arc::clone(target))),
            Self::Graph(graph) => plan.push(Step::Graph(Arc::clone(graph))),
            Self::Shared(route) => route.extend(plan, draw),
            Self::Fallback(nodes) => nodes.iter().for_each(|node| node.extend(plan, draw)),
            Self::Split(branches) => {
                let sum: u64 = branches.iter().map(|(weight, _)| u64::from(*weight)).sum();
                let mut left = if sum == 0 { 0 } else { draw(sum) };
                for (weight, branch) in branches {
                    let weight = u64::from(*weight);
                    if left < weight {
                        return branch.extend(plan, draw);
                    }
                    left -= weight;
                }
            }
        }
    }

    /// Every target of the tree.
    pub fn targets(&self) -> Vec<Arc<T>> {
        match self {
            Self::Target(target) => vec![Arc::clone(target)],
            Self::Shared(route) => route.targets(),
            Self::Fallback(nodes) => nodes.iter().flat_map(Self::targets).collect(),
            Self::Split(branches) => branches.iter().flat_map(|(_, branch)| branch.targets()).collect(),
            Self::Graph(graph) => graph.parts().into_iter().flat_map(Self::targets).collect(),
        }
    }

    /// The targets that what is asked may reach first.
    pub fn first(&self) -> Vec<Arc<T>> {
        self.ends(true)
    }

    /// The targets whose answers may be the route's.
    pub fn last(&self) -> Vec<Arc<T>> {
        self.ends(false)
    }

    fn ends(&self, first: bool) -> Vec<Arc<T>> {
        match self {
            Self::Target(target) => vec![Arc::clone(target)],
            Self::Shared(route) => route.ends(first),
            Self::Fallback(nodes) => nodes.iter().flat_map(|node| node.ends(first)).collect(),
            Self::Split(branches) => branches.iter().flat_map(|(_, branch)| branch.ends(first)).collect(),
            Self::Graph(graph) => match &graph.node {
                Node::Chain(steps) => {
                    let end = if first { steps.first() } else { steps.last() };
                    end.map_or_else(Vec::new, |step| step.route.ends(first))
                }
                Node::Ensemble(_) | Node::Switch(_) => {
                    graph.parts().into_iter().flat_map(|part| part.ends(first)).collect()
                }
            },
        }
    }

    /// Every graph of the tree, those inside others too.
    pub fn graphs(&self) -> Vec<Arc<Graph<T>>> {
        match self {
            Self::Target(_) => Vec::new(),
            Self::Shared(route) => route.graphs(),
            Self::Fallback(nodes) => nodes.iter().flat_map(Self::graphs).collect(),
            Self::Split(branches) => branches.iter().flat_map(|(_, branch)| branch.graphs()).collect(),
            Self::Graph(graph) => {
                let inner = graph.parts().into_iter().flat_map(Self::graphs);
                std::iter::once(Arc::clone(graph)).chain(inner).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millgate_scoring::Combination;

    use crate::graph::{ChainStep, Ensemble};

    fn leaf(name: &str) -> Route<String> {
        Route::Target(Arc::new(name.to_owned()))
    }

    fn names(plan: &[Step<String>]) -> Vec<&str> {
        plan.iter()
            .map(|step| match step {
                Step::Target(target) => target.as_str(),
                Step::Graph(graph) => &graph.label,
            })
            .collect()
    }

    fn all(targets: &[Arc<String>]) -> Vec<&str> {
        targets.iter().map(|target| target.as_str()).collect()
    }

    #[test]
    fn a_graph_is_one_thing_to_try_and_has_ends() {
        let step = |route| ChainStep { route, body: None };
        let inner = Graph {
            label: "inner".into(),
            node: Node::Ensemble(Ensemble {
                members: vec![(1.0, leaf("b")), (1.0, leaf("c"))],
                by: Combination::Mean,
                at_least: 2,
            }),
        };
        let steps = vec![step(leaf("a")), step(Route::Graph(Arc::new(inner)))];
        let chain = Graph { label: "chain".into(), node: Node::Chain(steps) };
        let route = Route::Fallback(vec![Route::Graph(Arc::new(chain)), leaf("d")]);
        assert_eq!(names(&route.plan(&mut |_| 0)), ["chain", "d"]);
        assert_eq!(all(&route.targets()), ["a", "b", "c", "d"]);
        assert_eq!(all(&route.first()), ["a", "d"]);
        assert_eq!(all(&route.last()), ["b", "c", "d"]);
        let graphs = route.graphs();
        assert_eq!(graphs.iter().map(|graph| &*graph.label).collect::<Vec<_>>(), ["chain", "inner"]);
    }

    #[test]
    fn a_split_inside_a_fallback_tries_one_branch_then_the_next_target() {
        let split = Arc::new(Route::Split(vec![(95, leaf("a")), (0, leaf("never")), (5, leaf("b"))]));
        let route = Route::Fallback(vec![Route::Shared(split), leaf("c")]);
        assert_eq!(names(&route.plan(&mut |_| 0)), ["a", "c"]);
        assert_eq!(names(&route.plan(&mut |_| 94)), ["a", "c"]);
        assert_eq!(names(&route.plan(&mut |_| 95)), ["b", "c"]);
        assert_eq!(all(&route.targets()), ["a", "never", "b", "c"]);
    }

    #[test]
    fn shares_converge_on_the_weights() {
        let route = Route::Split(vec![(80, leaf("a")), (20, leaf("b"))]);
        let mut random = fastrand::Rng::with_seed(7);
        let first =
            (0..10_000).filter(|_| names(&route.plan(&mut |below| random.u64(..below))) == ["a"]).count();
        assert!((7_800..8_200).contains(&first), "{first}");
    }
}
