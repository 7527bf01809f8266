//! LightGBM boosters (`model.lgb`, text), bit for bit as LightGBM predicts: everything in f64, trees added in
//! order.

use std::collections::HashMap;

use super::categories::{self, Words};
use super::forest::{Forest, Split};

/// A booster's trees and its last step.
#[derive(Debug)]
pub(super) struct Lightgbm {
    forest: Forest<f64, f64>,
    /// Features whose zeros count as missing.
    zeros: Vec<bool>,
    outputs: usize,
    step: Step,
    pub(super) names: Vec<String>,
    /// By feature: those of pandas' categories; empty when there are none.
    pub(super) words: Vec<Option<Words>>,
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

/// What LightGBM takes for zero, of either sign: rows reach its trees without such values.
const ZERO: f64 = 1e-35_f32 as f64;

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
        let words = match categorical {
            None | Some("null" | "[]") => Vec::new(),
            Some(text) => {
                let infos = fields.get("feature_infos").copied().unwrap_or_default();
                categories::of_lightgbm(text, infos, features)?
            }
        };
        let blocks: Vec<&str> = trees.split("\nTree=").collect();
        if !blocks.len().is_multiple_of(outputs) {
            return Err("an incomplete iteration".to_owned());
        }
        let mut forest = Forest::new(features, 1)?;
        // How each feature's missing values are told, from its first split on.
        let mut missing = vec![None; features];
        for (index, block) in blocks.into_iter().enumerate() {
            read_tree(&mut forest, block, index % outputs, &mut missing)?;
        }
        let zeros = missing.iter().map(|kind| *kind == Some(Missing::Zero)).collect();
        Ok(Self { forest, zeros, outputs, step, names, words })
    }

    pub(super) fn trees(&self) -> usize {
        self.forest.trees()
    }

    pub(super) fn features(&self) -> usize {
        self.forest.features()
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Rows of as many values as there are features.
    pub(super) fn predict(&self, mut rows: Vec<f64>) -> (usize, Vec<f64>) {
        let features = self.forest.features();
        for row in rows.chunks_exact_mut(features) {
            for (value, missing) in row.iter_mut().zip(&self.zeros) {
                if value.abs() <= ZERO {
                    *value = if *missing { f64::NAN } else { 0.0 };
                }
            }
        }
        let mut values = vec![0.0; rows.len() / features * self.outputs];
        self.forest.add_up(&rows, &mut values, self.outputs);
        for sums in values.chunks_exact_mut(self.outputs) {
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
        (self.outputs, values)
    }
}

fn fields(block: &str) -> HashMap<&str, &str> {
    block.lines().filter_map(|line| line.split_once('=')).collect()
}

fn read_tree(
    forest: &mut Forest<f64, f64>,
    block: &str,
    output: usize,
    missing: &mut [Option<Missing>],
) -> Result<(), String> {
    let fields = fields(block);
    let one = |name: &str| fields.get(name).copied().unwrap_or_default();
    if one("is_linear") == "1" {
        return Err("linear trees".to_owned());
    }
    let count: usize = one("num_leaves").parse().map_err(|_| "a tree without `num_leaves`")?;
    let leaves = floats(one("leaf_value"))?;
    if count == 0 || leaves.len() != count || leaves.iter().any(|leaf| !leaf.is_finite()) {
        return Err("a tree whose leaves do not fit".to_owned());
    }
    if count == 1 {
        return forest.add_tree(1, &leaves, output, |_| Ok(Split::Leaf(0)));
    }
    let thresholds = floats(one("threshold"))?;
    let features = integers(one("split_feature"))?;
    let kinds = integers(one("decision_type"))?;
    let left = integers(one("left_child"))?;
    let right = integers(one("right_child"))?;
    let lengths = [thresholds.len(), features.len(), kinds.len(), left.len(), right.len()];
    if lengths.iter().any(|length| *length != count - 1) {
        return Err("a tree whose lists differ in length".to_owned());
    }
    for (feature, kind) in features.iter().zip(&kinds).filter(|(_, kind)| *kind & 1 == 0) {
        let slot = usize::try_from(*feature).ok().and_then(|feature| missing.get_mut(feature));
        let slot = slot.ok_or("a split on a feature that does not exist")?;
        let kind = missing_kind(*kind)?;
        if *slot.get_or_insert(kind) != kind {
            return Err("a feature whose missing values are told in two ways".to_owned());
        }
    }
    let bounds = integers(one("cat_boundaries"))?;
    let words = integers(one("cat_threshold"))?;
    // Inner nodes first, then leaves; children below 0 are leaves.
    let child = |child: i64| {
        let place = if child < 0 { (-child - 1).saturating_add(count as i64 - 1) } else { child };
        usize::try_from(place).map_err(|_| "a tree with a wrong child")
    };
    forest.add_tree(2 * count - 1, &leaves, output, |index| {
        if index >= count - 1 {
            return Ok(Split::Leaf(index - (count - 1)));
        }
        let (left, right) = (child(left[index])?, child(right[index])?);
        let feature =
            usize::try_from(features[index]).map_err(|_| "a split on a feature that does not exist")?;
        let (kind, threshold) = (kinds[index], thresholds[index]);
        if kind & 1 != 0 {
            let set =
                category_set(threshold, &bounds, &words).ok_or("a set of categories that does not exist")?;
            return Ok(Split::OneOf { feature, set, missing_left: false, left, right });
        }
        let missing_left = match missing_kind(kind)? {
            // What is missing counts as zero.
            Missing::None => 0.0 <= threshold,
            Missing::Zero | Missing::NotANumber => kind & 2 != 0,
        };
        Ok(Split::AtMost { feature, threshold, missing_left, left, right })
    })
}

fn missing_kind(decision_type: i64) -> Result<Missing, String> {
    match (decision_type >> 2) & 3 {
        0 => Ok(Missing::None),
        1 => Ok(Missing::Zero),
        2 => Ok(Missing::NotANumber),
        _ => Err("an unknown missing type".to_owned()),
    }
}

/// The bits of a set: its number stands where numeric splits have their threshold.
fn category_set(number: f64, bounds: &[i64], words: &[i64]) -> Option<Vec<u32>> {
    let number = (number >= 0.0 && number < bounds.len() as f64).then_some(number as usize)?;
    let start = usize::try_from(*bounds.get(number)?).ok()?;
    let end = usize::try_from(*bounds.get(number + 1)?).ok()?;
    words.get(start..end)?.iter().map(|word| u32::try_from(*word).ok()).collect()
}

fn floats(text: &str) -> Result<Vec<f64>, String> {
    text.split_whitespace()
        .map(|word| word.parse().map_err(|_| "a number that cannot be read".to_owned()))
        .collect()
}

fn integers(text: &str) -> Result<Vec<i64>, String> {
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
            ("left_child=1 -1", "left_child=9 -1"),
            ("right_child=-3 -2", "right_child=-3 -9"),
            ("split_feature=0 0", "split_feature=0 4"),
            ("threshold=1 2", "threshold=1"),
            ("leaf_value=1 2 3", "leaf_value=1 2 nan"),
            ("decision_type=2 2", "decision_type=1 2"),
            ("decision_type=2 2", "decision_type=2 6"),
        ] {
            assert!(read(&whole.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_tree_of_one_leaf_is_a_constant() {
        let model = read("num_leaves=1\nnum_cat=0\nleaf_value=2.5\n").unwrap();
        assert_eq!(model.predict(vec![1.0]), (1, vec![2.5]));
    }
}
