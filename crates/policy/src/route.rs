//! The route tree and the plan it gives for one request.

use std::sync::Arc;

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
}

impl<T> Route<T> {
    /// The targets to try, in order. A split contributes the branch that chance chose; `draw` gives a number
    /// below its argument.
    pub fn plan(&self, draw: &mut dyn FnMut(u64) -> u64) -> Vec<Arc<T>> {
        let mut plan = Vec::with_capacity(1);
        self.extend(&mut plan, draw);
        plan
    }

    fn extend(&self, plan: &mut Vec<Arc<T>>, draw: &mut dyn FnMut(u64) -> u64) {
        match self {
            Self::Target(target) => plan.push(Arc::clone(target)),
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(name: &str) -> Route<String> {
        Route::Target(Arc::new(name.to_owned()))
    }

    fn names(plan: &[Arc<String>]) -> Vec<&str> {
        plan.iter().map(|target| target.as_str()).collect()
    }

    #[test]
    fn a_split_inside_a_fallback_tries_one_branch_then_the_next_target() {
        let split = Arc::new(Route::Split(vec![(95, leaf("a")), (0, leaf("never")), (5, leaf("b"))]));
        let route = Route::Fallback(vec![Route::Shared(split), leaf("c")]);
        assert_eq!(names(&route.plan(&mut |_| 0)), ["a", "c"]);
        assert_eq!(names(&route.plan(&mut |_| 94)), ["a", "c"]);
        assert_eq!(names(&route.plan(&mut |_| 95)), ["b", "c"]);
        assert_eq!(names(&route.targets()), ["a", "never", "b", "c"]);
    }

    #[test]
    fn shares_converge_on_the_weights() {
        let route = Route::Split(vec![(80, leaf("a")), (20, leaf("b"))]);
        let mut random = fastrand::Rng::with_seed(7);
        let first =
            (0..10_000).filter(|_| route.plan(&mut |below| random.u64(..below))[0].as_str() == "a").count();
        assert!((7_800..8_200).contains(&first), "{first}");
    }
}
