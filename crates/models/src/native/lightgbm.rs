//! LightGBM boosters (`model.lgb`, text), bit for bit as LightGBM predicts: everything in f64, trees added in
//! order.

use std::collections::HashMap;

use millgate_scoring::Predictions;

/// A booster's trees and its last step.
#[derive(Debug)]
pub(super) struct Lightgbm {
    trees: Vec<Tree>,
    outputs: usize,
    step: Step,
    pub(super) features: usize,
    pub(super) names: Vec<String>,
}

#[derive(Debug)]
struct Tree {
    nodes: Vec<Node>,
    leaves: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    threshold: f64,
    feature: u32,
    missing: Missing,
    default_left: bool,
    /// Below 0: leaf `-child - 1`.
    left: i32,
    right: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    None,
    Zero,
    NotANumber,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Identity,
    Sigmoid(f64),
    Softmax,
    Exponent,
}

/// What LightGBM takes for zero.
const ZERO: f64 = 1e-35;

impl Lightgbm {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (head, rest) = text.split_once("\nTree=").ok_or("no trees")?;
        if !head.starts_with("tree\n") {
            return Err("a file that does not begin with `tree`".to_owned());
        }
        let fields = fields(head);
        let number = |name: &str| fields.get(name).and_then(|text| text.parse::<usize>().ok());
        if head.lines().any(|line| line == "average_output") {
            return Err("averaged output".to_owned());
        }
        let outputs = number("num_tree_per_iteration").ok_or("no `num_tree_per_iteration`")?;
        let features = number("max_feature_idx").ok_or("no `max_feature_idx`")? + 1;
        if outputs == 0 || outputs > 10_000 || features > 1_000_000 {
            return Err("sizes out of range".to_owned());
        }
        let objective = fields.get("objective").copied().unwrap_or_default();
        let mut words = objective.split_whitespace();
        let step = match words.next().unwrap_or_default() {
            "regression" if words.clone().any(|word| word == "sqrt") => {
                return Err("objective `regression sqrt`".to_owned());
            }
            "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" | "lambdarank"
            | "rank_xendcg" => Step::Identity,
            "binary" => {
                let scale = words.find_map(|word| word.strip_prefix("sigmoid:")?.parse().ok());
                Step::Sigmoid(scale.ok_or("objective `binary` without its sigmoid")?)
            }
            "multiclass" => Step::Softmax,
            "poisson" | "gamma" | "tweedie" => Step::Exponent,
            other => return Err(format!("objective `{other}`")),
        };
        if (step == Step::Softmax) == (outputs == 1) {
            return Err(format!("objective `{objective}` with {outputs} outputs"));
        }
        let names = fields.get("feature_names").copied().unwrap_or_default();
        let names: Vec<String> = names.split(' ').map(str::to_owned).collect();
        if names.len() != features {
            return Err("`feature_names` do not fit `max_feature_idx`".to_owned());
        }
        let (trees, tail) = rest.split_once("\nend of trees").ok_or("no end of trees")?;
        let categorical = tail.lines().find_map(|line| line.strip_prefix("pandas_categorical:"));
        if !matches!(categorical, None | Some("null" | "[]")) {
            return Err("categorical columns".to_owned());
        }
        let trees =
            trees.split("\nTree=").map(|block| read_tree(block, features)).collect::<Result<Vec<_>, _>>()?;
        if trees.len() % outputs != 0 {
            return Err("an incomplete iteration".to_owned());
        }
        Ok(Self { trees, outputs, step, features, names })
    }

    pub(super) fn trees(&self) -> usize {
        self.trees.len()
    }

    /// Rows of `features` values each.
    pub(super) fn predict(&self, rows: &[f64]) -> Predictions {
        let mut values = Vec::new();
        for row in rows.chunks_exact(self.features) {
            let start = values.len();
            values.resize(start + self.outputs, 0.0_f64);
            let Some(sums) = values.get_mut(start..) else { continue };
            for (index, tree) in self.trees.iter().enumerate() {
                if let Some(sum) = sums.get_mut(index % self.outputs) {
                    *sum += tree.leaf(row);
                }
            }
            match self.step {
                Step::Identity => {}
                Step::Sigmoid(scale) => {
                    for value in sums.iter_mut() {
                        *value = 1.0 / (1.0 + (-scale * *value).exp());
                    }
                }
                Step::Exponent => sums.iter_mut().for_each(|value| *value = value.exp()),
                Step::Softmax => {
                    let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let mut total = 0.0;
                    for value in sums.iter_mut() {
                        *value = (*value - largest).exp();
                        total += *value;
                    }
                    for value in sums.iter_mut() {
                        *value /= total;
                    }
                }
            }
        }
        Predictions::Doubles { width: self.outputs, values }
    }
}

impl Tree {
    fn leaf(&self, row: &[f64]) -> f64 {
        let mut at = if self.nodes.is_empty() { -1 } else { 0 };
        while let Ok(index) = usize::try_from(at) {
            let Some(node) = self.nodes.get(index) else { return 0.0 };
            let value = row.get(node.feature as usize).copied().unwrap_or(f64::NAN);
            let value = if value.is_nan() && node.missing != Missing::NotANumber { 0.0 } else { value };
            let missing = match node.missing {
                Missing::None => false,
                Missing::Zero => value.abs() <= ZERO,
                Missing::NotANumber => value.is_nan(),
            };
            let left = if missing { node.default_left } else { value <= node.threshold };
            at = if left { node.left } else { node.right };
        }
        self.leaves.get((-at - 1) as usize).copied().unwrap_or(0.0)
    }
}

fn fields(block: &str) -> HashMap<&str, &str> {
    block.lines().filter_map(|line| line.split_once('=')).collect()
}

fn read_tree(block: &str, features: usize) -> Result<Tree, String> {
    let fields = fields(block);
    let one = |name: &str| fields.get(name).copied().unwrap_or_default();
    if one("is_linear") == "1" {
        return Err("linear trees".to_owned());
    }
    if !matches!(one("num_cat"), "" | "0") {
        return Err("categorical splits".to_owned());
    }
    let count: usize = one("num_leaves").parse().map_err(|_| "a tree without `num_leaves`")?;
    let leaves = floats(one("leaf_value"))?;
    if count == 0 || leaves.len() != count || leaves.iter().any(|leaf| !leaf.is_finite()) {
        return Err("a tree whose leaves do not fit".to_owned());
    }
    if count == 1 {
        return Ok(Tree { nodes: Vec::new(), leaves });
    }
    let thresholds = floats(one("threshold"))?;
    let features_used = integers(one("split_feature"))?;
    let kinds = integers(one("decision_type"))?;
    let left = integers(one("left_child"))?;
    let right = integers(one("right_child"))?;
    let lengths = [thresholds.len(), features_used.len(), kinds.len(), left.len(), right.len()];
    if lengths.iter().any(|length| *length != count - 1) {
        return Err("a tree whose lists differ in length".to_owned());
    }
    let mut nodes = Vec::with_capacity(count - 1);
    // Every child but the root is reached exactly once: then there is no cycle.
    let mut seen_nodes = vec![false; count - 1];
    let mut seen_leaves = vec![false; count];
    for index in 0..count - 1 {
        for child in [left[index], right[index]] {
            let slot = if child < 0 {
                seen_leaves.get_mut((-child - 1) as usize)
            } else {
                seen_nodes.get_mut(child as usize).filter(|_| child != 0)
            };
            match slot {
                Some(seen) if !*seen => *seen = true,
                _ => return Err("a tree with a wrong child".to_owned()),
            }
        }
        let feature =
            u32::try_from(features_used[index]).ok().filter(|feature| (*feature as usize) < features);
        let kind = kinds[index];
        if kind & 1 != 0 {
            return Err("categorical splits".to_owned());
        }
        let missing = match (kind >> 2) & 3 {
            0 => Missing::None,
            1 => Missing::Zero,
            2 => Missing::NotANumber,
            _ => return Err("an unknown missing type".to_owned()),
        };
        if thresholds[index].is_nan() {
            return Err("a threshold that is not a number".to_owned());
        }
        nodes.push(Node {
            threshold: thresholds[index],
            feature: feature.ok_or("a split on a feature that does not exist")?,
            missing,
            default_left: kind & 2 != 0,
            left: left[index],
            right: right[index],
        });
    }
    // A cycle that never touches the root would pass the count above, so the tree is walked once.
    let mut open = vec![0_usize];
    let mut reached = 0;
    while let Some(index) = open.pop() {
        reached += 1;
        let Some(node) = nodes.get(index) else { continue };
        open.extend([node.left, node.right].iter().filter_map(|child| usize::try_from(*child).ok()));
    }
    if reached == count - 1 { Ok(Tree { nodes, leaves }) } else { Err("a tree that is not whole".to_owned()) }
}

fn floats(text: &str) -> Result<Vec<f64>, String> {
    text.split_whitespace()
        .map(|word| word.parse().map_err(|_| "a number that cannot be read".to_owned()))
        .collect()
}

fn integers(text: &str) -> Result<Vec<i32>, String> {
    text.split_whitespace()
        .map(|word| word.parse().map_err(|_| "a number that cannot be read".to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "tree\nnum_tree_per_iteration=1\nmax_feature_idx=0\nobjective=regression\nfeature_names=a\n";
    const TAIL: &str = "\n\nend of trees\n\npandas_categorical:null\n";

    fn read(tree: &str) -> Result<Lightgbm, String> {
        Lightgbm::read(&format!("{HEAD}\nTree=0\n{tree}{TAIL}"))
    }

    #[test]
    fn a_forged_tree_is_refused() {
        let whole = "num_leaves=3\nnum_cat=0\nsplit_feature=0 0\nthreshold=1 2\ndecision_type=2 2\nleft_child=1 -1\n\
                     right_child=-3 -2\nleaf_value=1 2 3\n";
        assert!(read(whole).is_ok());
        for (from, to) in [
            ("left_child=1 -1", "left_child=0 -1"),
            ("left_child=1 -1", "left_child=1 1"),
            ("left_child=1 -1", "left_child=-1 1"),
            ("left_child=1 -1", "left_child=9 -1"),
            ("right_child=-3 -2", "right_child=-3 -9"),
            ("split_feature=0 0", "split_feature=0 4"),
            ("threshold=1 2", "threshold=1"),
            ("leaf_value=1 2 3", "leaf_value=1 2 nan"),
            ("num_cat=0", "num_cat=1"),
        ] {
            assert!(read(&whole.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_tree_of_one_leaf_is_a_constant() {
        let model = read("num_leaves=1\nnum_cat=0\nleaf_value=2.5\n").unwrap();
        assert_eq!(model.predict(&[1.0]), Predictions::Doubles { width: 1, values: vec![2.5] });
    }
}
