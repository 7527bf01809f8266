//! A converted model's description as the conversion job writes it (`worker/convert.py`), and what is built from it. The
//! job ran the model's own code, so nothing here is believed: sizes, places and numbers are checked before use.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use serde::{Deserialize, Deserializer};

use super::estimator::{Answer, Classes, Estimator, Input, Linear, Link, Rule, TreeModel};
use super::forest::{Forest, Number, Split};
use super::lightgbm::Lightgbm;
use super::pipeline::{Nulls, Pipeline};
use super::scorer::Scorer;
use super::transform::{Absent, Atom, Categories, Scale, Step};
use super::words::{Norm, Weights, Words};
use super::xgboost::{Wrapper, Xgboost};

/// Features between two steps.
const MOST_FEATURES: u32 = 4_000_000;
/// Features that trees look at: rows for them are spread out.
const MOST_TREE_FEATURES: u32 = 65_536;
const MOST_OUTPUTS: usize = 10_000;
/// Steps inside each other.
const MOST_DEPTH: usize = 16;

/// Doubles, little-endian, in base64.
struct Doubles(Vec<f64>);
/// Bytes, in base64.
struct Bytes(Vec<u8>);
/// 32-bit integers, likewise.
struct Integers(Vec<i32>);

fn packed<const N: usize, T>(text: &str, read: fn([u8; N]) -> T) -> Option<Vec<T>> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let (chunks, rest) = bytes.as_chunks::<N>();
    rest.is_empty().then(|| chunks.iter().map(|chunk| read(*chunk)).collect())
}

impl<'de> Deserialize<'de> for Doubles {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        packed(&text, f64::from_le_bytes).map(Self).ok_or_else(|| serde::de::Error::custom("not doubles"))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(&*text);
        bytes.map(Self).map_err(|_| serde::de::Error::custom("not bytes"))
    }
}

impl<'de> Deserialize<'de> for Integers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        packed(&text, i32::from_le_bytes).map(Self).ok_or_else(|| serde::de::Error::custom("not integers"))
    }
}

#[derive(Deserialize)]
pub(super) struct Described {
    width: u32,
    steps: Vec<StepText>,
    estimator: EstimatorText,
    answer: AnswerText,
    text_null: Nulls,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AtomText {
    Number(f64),
    Text(String),
    Nothing(String),
}

#[derive(Deserialize)]
struct Part {
    columns: Vec<u32>,
    step: StepText,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum StepText {
    Identity(Nothing),
    Pipeline(Vec<StepText>),
    Columns(Vec<Part>),
    Scale {
        subtract: Option<Doubles>,
        divide: Option<Doubles>,
        multiply: Option<Doubles>,
        add: Option<Doubles>,
        clip: Option<(f64, f64)>,
    },
    Impute {
        missing: AtomText,
        fills: Vec<AtomText>,
    },
    OneHot {
        categories: Vec<Vec<AtomText>>,
        drop: Vec<Option<u32>>,
        unknown: String,
    },
    Ordinal {
        categories: Vec<Vec<AtomText>>,
        unknown: Option<AtomText>,
        missing: AtomText,
    },
    Words {
        lowercase: bool,
        grams: (usize, usize),
        stop: Vec<String>,
        terms: Vec<String>,
        binary: bool,
        letters: Integers,
        idf: Option<Doubles>,
        #[serde(default)]
        sublinear: bool,
        norm: Option<String>,
    },
    Weigh {
        idf: Option<Doubles>,
        sublinear: bool,
        norm: Option<String>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum EstimatorText {
    Trees(Box<TreesText>),
    Linear {
        features: u32,
        outputs: usize,
        coefficients: Doubles,
        intercept: Doubles,
    },
    Lightgbm {
        text: String,
        features: u32,
    },
    Xgboost {
        json: String,
        classifier: bool,
        features: u32,
    },
    /// `kind` is the estimator's name.
    Graph {
        bytes: Bytes,
        output: String,
        features: u32,
        kind: String,
    },
}

#[derive(Deserialize)]
struct TreesText {
    sizes: Integers,
    outputs_of: Integers,
    left: Integers,
    right: Integers,
    feature: Integers,
    threshold: Doubles,
    missing_left: Integers,
    set: Option<Integers>,
    sets: Vec<Vec<u32>>,
    values: Doubles,
    wide: bool,
    width: usize,
    features: u32,
    outputs: usize,
    start: Doubles,
    divide: Option<u32>,
    missing: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerText {
    Values { link: String },
    Labels { rule: String, classes: ClassesText },
    Probabilities { link: String },
    Own(Nothing),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClassesText {
    Integers(Vec<i64>),
    Truths(Vec<bool>),
    Doubles(Doubles),
    Texts(Vec<Arc<str>>),
}

impl Described {
    /// What an ONNX graph stands for, where it has one.
    pub(super) fn graph(&self) -> Option<String> {
        let EstimatorText::Graph { kind, .. } = &self.estimator else { return None };
        Some(kind.chars().filter(|c| !c.is_control()).take(100).collect())
    }

    /// Builds the model, for input of `columns` columns. `library`: the ONNX Runtime, where there is one.
    pub(super) fn build(self, columns: usize, library: Option<&Path>) -> Result<Pipeline, String> {
        if self.width as usize != columns {
            return Err("the description does not fit the signature".to_owned());
        }
        let mut width = self.width;
        let mut steps = Vec::with_capacity(self.steps.len());
        for step in self.steps {
            let step = step.build(width, 0)?;
            width = step.width(width)?;
            steps.push((step, width));
        }
        let estimator = self.estimator.build(width, library)?;
        let answer = self.answer.build(&estimator)?;
        Ok(Pipeline { width: self.width, steps, estimator, answer, nulls: self.text_null })
    }
}

impl AtomText {
    fn build(self) -> Atom {
        match self {
            Self::Number(number) => Atom::Number(number),
            Self::Text(text) => Atom::Text(text),
            Self::Nothing(kind) if kind == "none" => Atom::Nothing(Absent::None),
            Self::Nothing(_) => Atom::Nothing(Absent::Nan),
        }
    }

    fn number(self) -> Result<f64, String> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Nothing(kind) if kind == "nan" => Ok(f64::NAN),
            _ => Err("a code that is not a number".to_owned()),
        }
    }
}

fn categories(
    lists: Vec<Vec<AtomText>>,
    drop: impl IntoIterator<Item = Option<u32>>,
) -> Result<Vec<Categories>, String> {
    let lists = lists.into_iter().zip(drop).map(|(list, drop)| {
        let atoms: Vec<Atom> = list.into_iter().map(AtomText::build).collect();
        Categories::new(&atoms, drop)
    });
    lists.collect()
}

fn weights(idf: Option<Doubles>, sublinear: bool, norm: Option<&str>, width: u32) -> Result<Weights, String> {
    let norm = match norm {
        None => None,
        Some("l1") => Some(Norm::Sum),
        Some("l2") => Some(Norm::Euclid),
        Some(_) => return Err("an unknown norm".to_owned()),
    };
    if idf.as_ref().is_some_and(|idf| idf.0.len() != width as usize) {
        return Err("weights that do not fit the terms".to_owned());
    }
    Ok(Weights { idf: idf.map(|idf| idf.0), sublinear, norm })
}

impl StepText {
    fn build(self, width: u32, depth: usize) -> Result<Step, String> {
        if depth > MOST_DEPTH {
            return Err("steps nested too deeply".to_owned());
        }
        let step = match self {
            Self::Identity(_) => Step::Identity,
            Self::Pipeline(steps) => {
                let mut width = width;
                let mut built = Vec::with_capacity(steps.len());
                for step in steps {
                    let step = step.build(width, depth + 1)?;
                    width = step.width(width)?;
                    built.push((step, width));
                }
                Step::Pipeline(built)
            }
            Self::Columns(parts) => {
                let built = parts.into_iter().map(|Part { columns, step }| {
                    let width = u32::try_from(columns.len()).map_err(|_| "too many columns")?;
                    let step = step.build(width, depth + 1)?;
                    let made = step.width(width)?;
                    Ok::<_, String>((columns, step, made))
                });
                Step::Columns(built.collect::<Result<_, _>>()?)
            }
            Self::Scale { subtract, divide, multiply, add, clip } => {
                let list = |doubles: Option<Doubles>| doubles.map(|doubles| doubles.0);
                let scale = Scale {
                    subtract: list(subtract),
                    divide: list(divide),
                    multiply: list(multiply),
                    add: list(add),
                    clip,
                };
                Step::Scale(scale)
            }
            Self::Impute { missing, fills } => Step::Impute {
                missing: missing.build(),
                fills: fills.into_iter().map(AtomText::build).collect(),
            },
            Self::OneHot { categories: lists, drop, unknown } => {
                if drop.len() != lists.len() {
                    return Err("an encoder whose lists differ in length".to_owned());
                }
                Step::OneHot { columns: categories(lists, drop)?, strict: unknown != "ignore" }
            }
            Self::Ordinal { categories: lists, unknown, missing } => Step::Ordinal {
                columns: categories(lists, std::iter::repeat(None))?,
                unknown: unknown.map(AtomText::number).transpose()?,
                missing: missing.number()?,
            },
            Self::Words { lowercase, grams, stop, terms, binary, letters, idf, sublinear, norm } => {
                if grams.0 == 0 || grams.0 > grams.1 || grams.1 > 16 {
                    return Err("terms of an odd length".to_owned());
                }
                let count = u32::try_from(terms.len()).map_err(|_| "too many terms")?;
                let known: HashMap<String, u32> = terms.into_iter().zip(0..).collect();
                if known.len() != count as usize {
                    return Err("a term that stands twice".to_owned());
                }
                let (pairs, _) = letters.0.as_chunks::<2>();
                let letters = pairs.iter().map(|[start, end]| (*start as u32, *end as u32));
                let plain = idf.is_none() && !sublinear && norm.is_none();
                let weights = weights(idf, sublinear, norm.as_deref(), count)?;
                Step::Words(Box::new(Words {
                    lowercase,
                    grams,
                    stop: stop.into_iter().collect::<HashSet<_>>(),
                    terms: known,
                    binary,
                    letters: letters.collect(),
                    weights: (!plain).then_some(weights),
                }))
            }
            Self::Weigh { idf, sublinear, norm } => {
                Step::Weigh(weights(idf, sublinear, norm.as_deref(), width)?)
            }
        };
        if step.width(width)? > MOST_FEATURES {
            return Err("too many features".to_owned());
        }
        Ok(step)
    }
}

impl EstimatorText {
    fn build(self, width: u32, library: Option<&Path>) -> Result<Estimator, String> {
        let fits = |features: u32, most: u32| {
            if features == width && features > 0 && features <= most {
                Ok(features as usize)
            } else {
                Err("an estimator that does not fit its features".to_owned())
            }
        };
        Ok(match self {
            Self::Trees(trees) => {
                fits(trees.features, MOST_TREE_FEATURES)?;
                trees.build()?
            }
            Self::Linear { features, outputs, coefficients, intercept } => {
                let features = fits(features, MOST_FEATURES)?;
                let cells = features.checked_mul(outputs);
                let finite = |list: &Doubles| list.0.iter().all(|value| value.is_finite());
                if outputs == 0
                    || outputs > MOST_OUTPUTS
                    || cells != Some(coefficients.0.len())
                    || intercept.0.len() != outputs
                    || !finite(&coefficients)
                    || !finite(&intercept)
                {
                    return Err("coefficients that do not fit".to_owned());
                }
                Estimator::Linear(Linear { coefficients: coefficients.0, intercept: intercept.0 })
            }
            Self::Lightgbm { text, features } => {
                let trees = Lightgbm::read(&text).map_err(|why| format!("lightgbm model with {why}"))?;
                if fits(features, MOST_TREE_FEATURES)? != trees.features() {
                    return Err("trees that do not fit their features".to_owned());
                }
                if !trees.words.is_empty() {
                    return Err("lightgbm model with categorical columns".to_owned());
                }
                Estimator::Lightgbm(trees)
            }
            Self::Xgboost { json, classifier, features } => {
                let model = serde_json::from_str(&json).map_err(|_| "the XGBoost model is not JSON")?;
                let wrapper = if classifier { Wrapper::Classifier } else { Wrapper::Regressor };
                let trees =
                    Xgboost::read(&model, wrapper).map_err(|why| format!("xgboost model with {why}"))?;
                if fits(features, MOST_TREE_FEATURES)? != trees.features() {
                    return Err("trees that do not fit their features".to_owned());
                }
                if !trees.words.is_empty() {
                    return Err("xgboost model with categorical columns".to_owned());
                }
                Estimator::Xgboost(trees)
            }
            Self::Graph { bytes, output, features, .. } => {
                let features = fits(features, MOST_TREE_FEATURES)?;
                let library = library.ok_or("a graph without the ONNX Runtime")?;
                Estimator::Graph(Scorer::open(library, &bytes.0, output, features)?)
            }
        })
    }
}

impl TreesText {
    fn build(self) -> Result<Estimator, String> {
        let outputs = self.outputs;
        if outputs == 0
            || outputs > MOST_OUTPUTS
            || self.start.0.len() != outputs
            || !(self.width == 1 || self.width == outputs)
            || self.divide == Some(0)
        {
            return Err("outputs that do not fit".to_owned());
        }
        // scikit-learn compares a 32-bit value with a 64-bit threshold: rounding that down changes no comparison.
        let input = if self.wide {
            Input::Wide(self.forest(|threshold| threshold)?)
        } else {
            Input::Narrow(self.forest(round_down)?)
        };
        let divide = self.divide.map(f64::from);
        Ok(Estimator::Trees(TreeModel { input, start: self.start.0, divide, missing: self.missing }))
    }

    fn forest<T: Number>(&self, narrow: fn(f64) -> T) -> Result<Forest<T, f64>, String> {
        let mut forest = Forest::new(self.features as usize, self.width)?;
        let nodes = self.left.0.len();
        let lengths =
            [self.right.0.len(), self.feature.0.len(), self.threshold.0.len(), self.missing_left.0.len()];
        let sets = self.set.as_ref().map_or(nodes, |set| set.0.len());
        if lengths.iter().any(|length| *length != nodes) || sets != nodes {
            return Err("trees whose lists differ in length".to_owned());
        }
        if self.outputs_of.0.len() != self.sizes.0.len() || self.sets.iter().any(|set| set.len() > 64) {
            return Err("trees whose lists differ in length".to_owned());
        }
        if self.values.0.iter().any(|value| !value.is_finite()) {
            return Err("a leaf that is not a finite number".to_owned());
        }
        let (mut start, mut first_value) = (0_usize, 0_usize);
        for (size, output) in self.sizes.0.iter().zip(&self.outputs_of.0) {
            let size = usize::try_from(*size).ok().filter(|size| *size <= nodes - start);
            let size = size.ok_or("a tree that is cut off")?;
            let output = usize::try_from(*output).ok().filter(|output| *output < self.outputs);
            let output = output.ok_or("a tree for an output that does not exist")?;
            let leaves = self.left.0[start..start + size].iter().filter(|left| **left < 0).count();
            let values = self.values.0.get(first_value..first_value + leaves * self.width);
            forest.add_tree(size, values.ok_or("a tree without its leaves")?, output, |index| {
                let node = start + index;
                let place =
                    |value: i32| usize::try_from(value).map_err(|_| "a tree with a wrong child".to_owned());
                let right = place(self.right.0[node])?;
                if self.left.0[node] < 0 {
                    return Ok(Split::Leaf(right));
                }
                let left = place(self.left.0[node])?;
                let feature = place(self.feature.0[node])?;
                let missing_left = self.missing_left.0[node] != 0;
                match self.set.as_ref().map_or(-1, |set| set.0[node]) {
                    set if set < 0 => {
                        let threshold = self.threshold.0[node];
                        if threshold.is_nan() {
                            return Err("a threshold that is not a number".to_owned());
                        }
                        let threshold = narrow(threshold);
                        Ok(Split::AtMost { feature, threshold, missing_left, left, right })
                    }
                    set => {
                        let set = self.sets.get(set as usize).cloned().ok_or("a set that does not exist")?;
                        Ok(Split::OneOf { feature, set, missing_left, left, right })
                    }
                }
            })?;
            start += size;
            first_value += leaves * self.width;
        }
        if start != nodes || first_value != self.values.0.len() || forest.trees() == 0 {
            return Err("nodes that belong to no tree".to_owned());
        }
        Ok(forest)
    }
}

/// The largest 32-bit number that is not above.
fn round_down(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) > value { near.next_down() } else { near }
}

impl AnswerText {
    fn build(self, estimator: &Estimator) -> Result<Answer, String> {
        let outputs = estimator.outputs();
        let answer = match self {
            Self::Own(_) if matches!(estimator, Estimator::Xgboost(_) | Estimator::Graph(_)) => Answer::Own,
            _ if matches!(estimator, Estimator::Xgboost(_) | Estimator::Graph(_)) => {
                return Err("an answer that does not fit its estimator".to_owned());
            }
            Self::Own(_) => return Err("an estimator without an answer".to_owned()),
            Self::Values { link } => Answer::Values(match link.as_str() {
                "identity" => Link::None,
                "exp" => Link::Exponent,
                _ => return Err("an unknown link".to_owned()),
            }),
            Self::Probabilities { link } => {
                let link = match (link.as_str(), outputs) {
                    ("none", _) => Link::None,
                    ("expit", 1) => Link::Logistic,
                    ("pair", 1) => Link::Pair,
                    ("softmax_pair", 1) => Link::SoftmaxPair,
                    ("softmax", 2..) => Link::Softmax,
                    ("shares", 2..) => Link::Shares,
                    _ => return Err("an unknown link".to_owned()),
                };
                Answer::Values(link)
            }
            Self::Labels { rule, classes } => {
                let rule = match (rule.as_str(), outputs) {
                    ("largest", _) => Rule::Largest,
                    ("positive", 1) => Rule::Positive,
                    ("not_negative", 1) => Rule::NotNegative,
                    ("half", 1) => Rule::Half,
                    _ => return Err("an unknown rule".to_owned()),
                };
                let classes = match classes {
                    ClassesText::Integers(list) => Classes::Integers(list),
                    ClassesText::Truths(list) => Classes::Truths(list),
                    ClassesText::Doubles(list) => Classes::Doubles(list.0),
                    ClassesText::Texts(list) => Classes::Texts(list),
                };
                let wanted = if rule == Rule::Largest { outputs } else { 2 };
                if classes.len() != wanted {
                    return Err("classes that do not fit the outputs".to_owned());
                }
                Answer::Labels(rule, classes)
            }
        };
        Ok(answer)
    }
}
