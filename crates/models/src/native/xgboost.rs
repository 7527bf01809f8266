//! XGBoost tree models (`model.ubj`, `model.json`), bit for bit as XGBoost predicts: everything in f32, trees added
//! in order. What is not known to be exact is refused with a reason, and a worker serves the model.

use std::collections::HashMap;

use millgate_scoring::Predictions;
use serde_json::Value;

use super::categories::{self, Words};
use super::forest::{Forest, Split};

/// A model's trees and its last step.
#[derive(Debug)]
pub(super) struct Xgboost {
    forest: Forest<f32, f32>,
    margins: Vec<f32>,
    step: Step,
    labels: bool,
    /// The column names the model was trained with; empty when it knows none.
    pub(super) names: Vec<String>,
    /// By feature: those of pandas' categories; empty when there are none.
    pub(super) words: Vec<Option<Words>>,
}

/// Categories of one feature beyond this are not read.
const MOST_CATEGORIES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Identity,
    Sigmoid,
    Softmax,
    /// `multi:softmax`: a booster answers the class itself.
    Class,
    Exponent,
}

/// What the flavour says the Python object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrapper {
    Booster,
    Classifier,
    Regressor,
}

impl Xgboost {
    pub(super) fn read(model: &Value, wrapper: Wrapper) -> Result<Self, String> {
        let learner = model.get("learner").ok_or("there is no `learner`")?;
        let text = |path: &str| learner.pointer(path).and_then(Value::as_str);
        let booster = text("/gradient_booster/name").unwrap_or("unknown");
        if booster != "gbtree" {
            return Err(format!("booster `{booster}`"));
        }
        let objective = text("/objective/name").unwrap_or("unknown");
        let features: usize = text("/learner_model_param/num_feature")
            .and_then(|text| text.parse().ok())
            .ok_or("`num_feature` is missing")?;
        let classes: usize =
            text("/learner_model_param/num_class").and_then(|text| text.parse().ok()).unwrap_or(0);
        if text("/learner_model_param/num_target").is_some_and(|targets| targets != "1") {
            return Err("more than one target".to_owned());
        }
        let (step, outputs) = match objective {
            "reg:squarederror"
            | "reg:linear"
            | "reg:squaredlogerror"
            | "reg:absoluteerror"
            | "reg:pseudohubererror"
            | "binary:logitraw"
            | "rank:pairwise"
            | "rank:ndcg"
            | "rank:map" => (Step::Identity, 1),
            "binary:logistic" | "reg:logistic" => (Step::Sigmoid, 1),
            "multi:softprob" if classes > 1 => (Step::Softmax, classes),
            "multi:softmax" if classes > 1 => (Step::Class, classes),
            "count:poisson" | "reg:gamma" | "reg:tweedie" => (Step::Exponent, 1),
            other => return Err(format!("objective `{other}`")),
        };
        if outputs > 10_000 {
            return Err("more than 10000 classes".to_owned());
        }
        let labels = match (wrapper, step) {
            (Wrapper::Classifier, Step::Sigmoid | Step::Softmax) => true,
            (Wrapper::Classifier, _) => return Err(format!("classifier with objective `{objective}`")),
            (Wrapper::Regressor, Step::Softmax | Step::Class) => {
                return Err(format!("regressor with objective `{objective}`"));
            }
            _ => false,
        };
        let kinds = learner.get("feature_types").and_then(Value::as_array);
        let kinds = kinds.map(Vec::as_slice).unwrap_or_default();
        let encodings = learner.pointer("/gradient_booster/model/cats/enc");
        let words = categories::of_xgboost(encodings, kinds, features)?;
        let margins = margins(text("/learner_model_param/base_score"), step, outputs)?;
        let names =
            learner.get("feature_names").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let names: Vec<String> = names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();

        let trees = learner.pointer("/gradient_booster/model/trees").and_then(Value::as_array);
        let trees = trees.ok_or("there are no trees")?;
        let groups = learner.pointer("/gradient_booster/model/tree_info").map(integers);
        let groups = groups.transpose()?.ok_or("there is no `tree_info`")?;
        if groups.len() != trees.len() {
            return Err("`tree_info` does not fit the trees".to_owned());
        }
        let used = used_trees(learner, wrapper, trees.len())?;
        let mut forest = Forest::new(features, 1)?;
        for (tree, group) in trees.iter().zip(&groups).take(used) {
            let group = usize::try_from(*group).ok().filter(|group| *group < outputs);
            let group = group.ok_or("a tree for an output that does not exist")?;
            add_tree(&mut forest, tree, group, &words)?;
        }
        Ok(Self { forest, margins, step, labels, names, words })
    }

    pub(super) fn trees(&self) -> usize {
        self.forest.trees()
    }

    pub(super) fn features(&self) -> usize {
        self.forest.features()
    }

    /// Rows of as many values as there are features.
    pub(super) fn predict(&self, rows: &[f32]) -> Predictions {
        let outputs = self.margins.len();
        let mut values = self.margins.repeat(rows.len() / self.forest.features());
        self.forest.add_up(rows, &mut values, outputs);
        for sums in values.chunks_exact_mut(outputs) {
            self.finish(sums);
        }
        if self.labels {
            let label = |row: &[f32]| match row {
                [one] => i64::from(*one > 0.5),
                many => first_largest(many) as i64,
            };
            return Predictions::Labels(values.chunks(outputs).map(label).collect());
        }
        if self.step == Step::Class {
            let classes = values.chunks(outputs).map(|row| first_largest(row) as f32).collect();
            return Predictions::Floats { width: 1, values: classes };
        }
        Predictions::Floats { width: outputs, values }
    }

    fn finish(&self, sums: &mut [f32]) {
        match self.step {
            Step::Identity | Step::Class => {}
            Step::Sigmoid => sums.iter_mut().for_each(|value| *value = sigmoid(*value)),
            Step::Exponent => sums.iter_mut().for_each(|value| *value = value.exp()),
            Step::Softmax => softmax(sums),
        }
    }
}

fn add_tree(
    forest: &mut Forest<f32, f32>,
    tree: &Value,
    output: usize,
    words: &[Option<Words>],
) -> Result<(), String> {
    let list = |name: &str| tree.get(name).map(integers).ok_or_else(|| format!("a tree without `{name}`"))?;
    let left = list("left_children")?;
    let right = list("right_children")?;
    let feature = list("split_indices")?;
    let default_left = list("default_left")?;
    let kinds = tree.get("split_type").map(integers).transpose()?.unwrap_or_default();
    let sets = sets(tree, &kinds)?;
    if tree
        .pointer("/tree_param/size_leaf_vector")
        .and_then(Value::as_str)
        .is_some_and(|size| !matches!(size, "0" | "1"))
    {
        return Err("vector leaves".to_owned());
    }
    let conditions = tree.get("split_conditions").and_then(Value::as_array);
    let conditions = conditions.ok_or("a tree without `split_conditions`")?;
    let size = left.len();
    if [right.len(), feature.len(), default_left.len(), conditions.len()].iter().any(|len| *len != size) {
        return Err("a tree whose lists differ in length".to_owned());
    }
    // Exact for both files: UBJSON holds f32, JSON the shortest text of one. A leaf's value stands here too.
    let condition = |value: &Value| {
        let value = value.as_f64().map(|value| value as f32).filter(|value| value.is_finite());
        value.ok_or("a threshold that is not a finite number")
    };
    let conditions = conditions.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    forest.add_tree(size, &conditions, output, |index| {
        if left[index] < 0 {
            return Ok(Split::Leaf(index));
        }
        let child = |child: i64| usize::try_from(child).map_err(|_| "a tree with one child");
        let feature =
            usize::try_from(feature[index]).map_err(|_| "a split on a feature that does not exist")?;
        let (left, right, missing_left) =
            (child(left[index])?, child(right[index])?, default_left[index] != 0);
        let is_category = words.get(feature).is_some_and(Option::is_some);
        match (sets.get(&index).cloned(), is_category) {
            // XGBoost goes left when the value is less.
            (None, false) => {
                let threshold = conditions[index].next_down();
                Ok(Split::AtMost { feature, threshold, missing_left, left, right })
            }
            // And right when the category is in the set.
            (Some(set), true) => {
                Ok(Split::OneOf { feature, set, missing_left: !missing_left, left: right, right: left })
            }
            _ => Err("a categorical split on a feature that has no categories".into()),
        }
    })
}

/// The sets of categories of a tree's splits, by node.
fn sets(tree: &Value, kinds: &[i64]) -> Result<HashMap<usize, Vec<u32>>, String> {
    if kinds.iter().all(|kind| *kind == 0) {
        return Ok(HashMap::new());
    }
    let broken = || "categorical splits that cannot be read".to_owned();
    let list = |name: &str| tree.get(name).map(integers).transpose()?.ok_or_else(broken);
    let size = |number: &i64| usize::try_from(*number).map_err(|_| broken());
    let categories = list("categories")?;
    let (nodes, starts, sizes) =
        (list("categories_nodes")?, list("categories_segments")?, list("categories_sizes")?);
    let mut sets = HashMap::new();
    if nodes.len() != starts.len() || nodes.len() != sizes.len() {
        return Err(broken());
    }
    for ((node, start), length) in nodes.iter().zip(&starts).zip(&sizes) {
        let (node, start, length) = (size(node)?, size(start)?, size(length)?);
        let end = start.checked_add(length).ok_or_else(broken)?;
        let mut set = Vec::new();
        for category in categories.get(start..end).ok_or_else(broken)? {
            let category = size(category).ok().filter(|category| *category < MOST_CATEGORIES);
            let category = category.ok_or_else(broken)?;
            if set.len() <= category / 32 {
                set.resize(category / 32 + 1, 0_u32);
            }
            set[category / 32] |= 1 << (category % 32);
        }
        sets.insert(node, set);
    }
    // Both say which splits are of categories.
    let splits = kinds.iter().enumerate().filter(|(_, kind)| **kind != 0).map(|(node, _)| node);
    let mut count = 0;
    for node in splits {
        count += 1;
        if !sets.contains_key(&node) {
            return Err(broken());
        }
    }
    if count == sets.len() { Ok(sets) } else { Err(broken()) }
}

fn sigmoid(value: f32) -> f32 {
    1.0 / ((-value).min(88.7).exp() + 1.0 + 1e-16)
}

fn softmax(values: &mut [f32]) {
    let largest = values.iter().copied().fold(f32::MIN, f32::max);
    let mut sum = 0.0_f64;
    for value in values.iter_mut() {
        *value = (*value - largest).exp();
        sum += f64::from(*value);
    }
    let sum = sum as f32;
    for value in values.iter_mut() {
        *value /= sum;
    }
}

fn first_largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Numbers or booleans (JSON files write `default_left` as 0 and 1, UBJSON as bytes).
fn integers(value: &Value) -> Result<Vec<i64>, String> {
    let items = value.as_array().ok_or("a list is missing")?;
    items
        .iter()
        .map(|item| {
            item.as_i64().or_else(|| item.as_bool().map(i64::from)).ok_or("a list of other than integers")
        })
        .collect::<Result<_, _>>()
        .map_err(str::to_owned)
}

/// `base_score` as the trees' starting sum: plain `"5E-1"` before XGBoost 3.1, a list in a text since.
fn margins(base: Option<&str>, step: Step, outputs: usize) -> Result<Vec<f32>, String> {
    let text = base.ok_or("there is no `base_score`")?.trim();
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let scores = text.split(',').map(|part| part.trim().parse::<f32>()).collect::<Result<Vec<_>, _>>();
    let mut scores = scores.map_err(|_| "`base_score` is not a number")?;
    if scores.len() == 1 && outputs > 1 {
        scores.resize(outputs, scores[0]);
    }
    if scores.len() != outputs || scores.iter().any(|score| !score.is_finite()) {
        return Err("`base_score` does not fit the outputs".to_owned());
    }
    for score in &mut scores {
        match step {
            Step::Sigmoid => *score = -((1.0 / *score - 1.0).ln()),
            Step::Exponent => *score = score.ln(),
            _ => {}
        }
        if !score.is_finite() {
            return Err("`base_score` is out of range".to_owned());
        }
    }
    Ok(scores)
}

/// The sklearn wrappers stop at `best_iteration`; a booster uses every tree.
fn used_trees(learner: &Value, wrapper: Wrapper, trees: usize) -> Result<usize, String> {
    let best = learner.pointer("/attributes/best_iteration").and_then(Value::as_str);
    let (Some(best), true) = (best, wrapper != Wrapper::Booster) else { return Ok(trees) };
    let best: usize = best.parse().map_err(|_| "`best_iteration` is not a number")?;
    let starts = learner.pointer("/gradient_booster/model/iteration_indptr").map(integers).transpose()?;
    let starts = starts.ok_or("`best_iteration` without `iteration_indptr`")?;
    let end = starts.get(best + 1).and_then(|end| usize::try_from(*end).ok()).filter(|end| *end <= trees);
    end.ok_or_else(|| "`best_iteration` is beyond the trees".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(left: &str, right: &str, feature: &str) -> Result<Xgboost, String> {
        let text = format!(
            r#"{{"learner":{{"learner_model_param":{{"base_score":"[5E-1]","num_class":"0","num_feature":"1"}},
            "objective":{{"name":"binary:logistic"}},"gradient_booster":{{"name":"gbtree","model":{{"tree_info":[0],"trees":[
            {{"left_children":{left},"right_children":{right},"split_indices":{feature},"default_left":[0,1,0],
            "split_conditions":[0.5,-1.0,1.0],"tree_param":{{"size_leaf_vector":"1"}}}}]}}}}}}}}"#
        );
        Xgboost::read(&serde_json::from_str(&text).unwrap(), Wrapper::Classifier)
    }

    #[test]
    fn a_forged_tree_is_refused() {
        let whole = model("[1,-1,-1]", "[2,-1,-1]", "[0,0,0]").unwrap();
        assert_eq!(whole.predict(&[0.4, 0.6, f32::NAN]), Predictions::Labels(vec![0, 1, 1]));
        for (left, right, feature) in [
            ("[0,-1,-1]", "[2,-1,-1]", "[0,0,0]"),
            ("[1,0,-1]", "[2,2,-1]", "[0,0,0]"),
            ("[1,-1,-1]", "[1,-1,-1]", "[0,0,0]"),
            ("[1,-1,-1]", "[7,-1,-1]", "[0,0,0]"),
            ("[1,-1,-1]", "[-1,-1,-1]", "[0,0,0]"),
            ("[1,-1,-1]", "[2,-1,-1]", "[3,0,0]"),
            ("[1,-1,-1]", "[2,-1,-1]", "[-1,0,0]"),
            ("[1,-1]", "[2,-1,-1]", "[0,0,0]"),
        ] {
            assert!(model(left, right, feature).is_err(), "{left} {right} {feature}");
        }
    }
}
