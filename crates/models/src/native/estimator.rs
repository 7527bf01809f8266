//! The last step of a pipeline: from features to sums, and from sums to what `predict` or `predict_proba` answers.

use std::sync::Arc;

use millgate_scoring::Predictions;
use millgate_types::Fault;

use super::forest::{Forest, Number};
use super::lightgbm::Lightgbm;
use super::scorer::Scorer;
use super::transform::{Cell, Refusal, Row};
use super::xgboost::Xgboost;

/// What computes the sums of a row.
#[derive(Debug)]
pub(super) enum Estimator {
    Trees(TreeModel),
    Linear(Linear),
    Lightgbm(Lightgbm),
    Xgboost(Xgboost),
    /// What nothing here computes, as an ONNX graph.
    Graph(Scorer),
}

/// scikit-learn's trees.
#[derive(Debug)]
pub(super) struct TreeModel {
    pub(super) input: Input,
    pub(super) start: Vec<f64>,
    /// A forest answers the mean.
    pub(super) divide: Option<f64>,
    /// Whether values may be missing.
    pub(super) missing: bool,
}

/// What the trees look at: values cut to 32 bits, or whole ones.
#[derive(Debug)]
pub(super) enum Input {
    Narrow(Forest<f32, f64>),
    Wide(Forest<f64, f64>),
}

/// A weighted sum for each output.
#[derive(Debug)]
pub(super) struct Linear {
    /// Those of one feature stand together.
    pub(super) coefficients: Vec<f64>,
    pub(super) intercept: Vec<f64>,
}

/// What becomes of the sums.
#[derive(Debug)]
pub(super) enum Answer {
    Values(Link),
    Labels(Rule, Classes),
    /// The estimator's own last step.
    Own,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Link {
    None,
    Exponent,
    /// Two classes by the logistic function.
    Logistic,
    /// The probability of the second of two classes is there already.
    Pair,
    Softmax,
    /// softmax of the sum and its opposite.
    SoftmaxPair,
    /// Logistic functions, divided by their sum.
    Shares,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    Largest,
    Positive,
    NotNegative,
    /// The second class when its probability is the larger one.
    Half,
}

#[derive(Debug)]
pub(super) enum Classes {
    Integers(Vec<i64>),
    Truths(Vec<bool>),
    Doubles(Vec<f64>),
    Texts(Vec<Arc<str>>),
}

impl Classes {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Integers(list) => list.len(),
            Self::Truths(list) => list.len(),
            Self::Doubles(list) => list.len(),
            Self::Texts(list) => list.len(),
        }
    }

    fn pick(&self, places: impl Iterator<Item = usize>) -> Predictions {
        match self {
            Self::Integers(list) => Predictions::Labels(places.map(|place| list[place]).collect()),
            Self::Truths(list) => Predictions::Truths(places.map(|place| list[place]).collect()),
            Self::Doubles(list) => {
                Predictions::Doubles { width: 1, values: places.map(|place| list[place]).collect() }
            }
            Self::Texts(list) => Predictions::Texts(places.map(|place| Arc::clone(&list[place])).collect()),
        }
    }
}

/// Rows on their way to an estimator, in the form it takes.
pub(super) enum Gathered {
    Narrow(Vec<f32>),
    Wide(Vec<f64>),
    Sums(Vec<f64>),
}

const MISSING: Refusal = "the model takes no missing numbers";
const TEXT: Refusal = "the model takes numbers only";
const BEYOND: Refusal = "a value is beyond what a 32-bit float holds";

impl Estimator {
    pub(super) fn outputs(&self) -> usize {
        match self {
            Self::Trees(trees) => trees.start.len(),
            Self::Linear(linear) => linear.intercept.len(),
            Self::Lightgbm(trees) => trees.outputs(),
            Self::Xgboost(_) | Self::Graph(_) => 1,
        }
    }

    /// How much one row costs, in tree walks.
    pub(super) fn work(&self) -> usize {
        match self {
            Self::Trees(TreeModel { input: Input::Narrow(trees), .. }) => trees.trees(),
            Self::Trees(TreeModel { input: Input::Wide(trees), .. }) => trees.trees(),
            Self::Linear(_) => 1,
            Self::Lightgbm(trees) => trees.trees(),
            Self::Xgboost(trees) => trees.trees(),
            // Unknown; a hundred trees are a fair guess, and what is large leaves the data thread.
            Self::Graph(_) => 100,
        }
    }

    /// Whether sums must be those of Python to the last bit: trees. Others add in the order of a library of matrices.
    pub(super) fn is_exact(&self) -> bool {
        !matches!(self, Self::Linear(_) | Self::Graph(_))
    }

    pub(super) fn gather(&self) -> Gathered {
        match self {
            Self::Trees(TreeModel { input: Input::Narrow(_), .. }) | Self::Xgboost(_) | Self::Graph(_) => {
                Gathered::Narrow(Vec::new())
            }
            Self::Trees(_) | Self::Lightgbm(_) => Gathered::Wide(Vec::new()),
            Self::Linear(_) => Gathered::Sums(Vec::new()),
        }
    }

    /// Adds one row of `width` features.
    pub(super) fn push(&self, row: &Row<'_>, width: usize, rows: &mut Gathered) -> Result<(), Refusal> {
        let missing = match self {
            Self::Trees(trees) => trees.missing,
            Self::Linear(_) | Self::Graph(_) => false,
            Self::Lightgbm(_) | Self::Xgboost(_) => true,
        };
        match rows {
            Gathered::Narrow(rows) => spread(row, width, rows, missing, |value| {
                let narrow = value as f32;
                if narrow.is_infinite() { Err(BEYOND) } else { Ok(narrow) }
            }),
            Gathered::Wide(rows) => spread(row, width, rows, missing, Ok),
            Gathered::Sums(sums) => match self {
                Self::Linear(linear) => linear.push(row, sums),
                _ => Ok(()),
            },
        }
    }

    /// What the gathered rows are answered with. Fault: `model_failed`.
    pub(super) fn finish(&self, rows: Gathered, answer: &Answer) -> Result<Predictions, Fault> {
        let outputs = self.outputs();
        let sums = match (self, rows) {
            (
                Self::Trees(TreeModel { input: Input::Narrow(trees), start, divide, .. }),
                Gathered::Narrow(rows),
            ) => tree_sums(trees, &rows, start, *divide),
            (
                Self::Trees(TreeModel { input: Input::Wide(trees), start, divide, .. }),
                Gathered::Wide(rows),
            ) => tree_sums(trees, &rows, start, *divide),
            (Self::Lightgbm(trees), Gathered::Wide(rows)) => trees.predict(rows).1,
            (Self::Xgboost(trees), Gathered::Narrow(rows)) => return Ok(trees.predict(&rows)),
            (Self::Graph(graph), Gathered::Narrow(rows)) => return graph.predict(rows),
            (_, Gathered::Sums(sums)) => sums,
            _ => Vec::new(),
        };
        Ok(match answer {
            Answer::Values(link) => link.apply(sums, outputs),
            Answer::Labels(rule, classes) => {
                classes.pick(sums.chunks_exact(outputs).map(|sums| rule.pick(sums)))
            }
            Answer::Own => Predictions::Doubles { width: outputs, values: sums },
        })
    }
}

fn spread<T: Copy + Default>(
    row: &Row<'_>,
    width: usize,
    rows: &mut Vec<T>,
    missing: bool,
    convert: impl Fn(f64) -> Result<T, Refusal>,
) -> Result<(), Refusal> {
    let start = rows.len();
    rows.resize(start + width, T::default());
    let Some(slots) = rows.get_mut(start..) else { return Ok(()) };
    for (place, cell) in row {
        let Cell::Number(value) = cell else { return Err(TEXT) };
        if value.is_nan() && !missing {
            return Err(MISSING);
        }
        if let Some(slot) = slots.get_mut(*place as usize) {
            *slot = convert(*value)?;
        }
    }
    Ok(())
}

fn tree_sums<T: Number>(trees: &Forest<T, f64>, rows: &[T], start: &[f64], divide: Option<f64>) -> Vec<f64> {
    let mut sums = start.repeat(rows.len() / trees.features());
    trees.add_up(rows, &mut sums, start.len());
    if let Some(divide) = divide {
        for sum in &mut sums {
            *sum /= divide;
        }
    }
    sums
}

impl Linear {
    fn push(&self, row: &Row<'_>, sums: &mut Vec<f64>) -> Result<(), Refusal> {
        let outputs = self.intercept.len();
        let start = sums.len();
        sums.resize(start + outputs, 0.0);
        for (place, cell) in row {
            let Cell::Number(value) = cell else { return Err(TEXT) };
            if value.is_nan() {
                return Err(MISSING);
            }
            let first = *place as usize * outputs;
            for (sum, coefficient) in sums[start..].iter_mut().zip(&self.coefficients[first..first + outputs])
            {
                *sum += value * coefficient;
            }
        }
        for (sum, intercept) in sums[start..].iter_mut().zip(&self.intercept) {
            *sum += intercept;
        }
        Ok(())
    }
}

impl Rule {
    fn pick(self, sums: &[f64]) -> usize {
        let first = sums[0];
        match self {
            Self::Positive => usize::from(first > 0.0),
            Self::NotNegative => usize::from(first >= 0.0),
            Self::Half => usize::from(first > 1.0 - first),
            Self::Largest => {
                let mut best = 0;
                for (place, sum) in sums.iter().enumerate() {
                    if *sum > sums[best] {
                        best = place;
                    }
                }
                best
            }
        }
    }
}

fn logistic(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}

impl Link {
    fn apply(self, mut sums: Vec<f64>, outputs: usize) -> Predictions {
        let pairs = |sums: Vec<f64>, pair: fn(f64) -> [f64; 2]| Predictions::Doubles {
            width: 2,
            values: sums.into_iter().flat_map(pair).collect(),
        };
        match self {
            Self::None => {}
            Self::Exponent => sums.iter_mut().for_each(|sum| *sum = sum.exp()),
            Self::Logistic => {
                return pairs(sums, |sum| {
                    let second = logistic(sum);
                    [1.0 - second, second]
                });
            }
            Self::Pair => return pairs(sums, |second| [1.0 - second, second]),
            Self::SoftmaxPair => {
                return pairs(sums, |sum| {
                    let mut pair = [-sum, sum];
                    softmax(&mut pair);
                    pair
                });
            }
            Self::Softmax => sums.chunks_exact_mut(outputs).for_each(softmax),
            Self::Shares => {
                for row in sums.chunks_exact_mut(outputs) {
                    for sum in row.iter_mut() {
                        *sum = logistic(*sum);
                    }
                    divide_by_sum(row);
                }
            }
        }
        Predictions::Doubles { width: outputs, values: sums }
    }

    /// Whether numpy's own exponential function is in it, which differs from the C library's in the last bit.
    pub(super) fn is_exact(self) -> bool {
        matches!(self, Self::None | Self::Logistic | Self::Pair)
    }
}

fn softmax(row: &mut [f64]) {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for sum in row.iter_mut() {
        *sum = (*sum - largest).exp();
    }
    divide_by_sum(row);
}

fn divide_by_sum(row: &mut [f64]) {
    let sum = pairwise(row);
    for value in row {
        *value /= sum;
    }
}

/// A sum in the order of numpy's.
fn pairwise(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return values.iter().fold(0.0, |sum, value| sum + value);
    }
    if values.len() > 128 {
        let half = values.len() / 2 / 8 * 8;
        return pairwise(&values[..half]) + pairwise(&values[half..]);
    }
    let (chunks, rest) = values.as_chunks::<8>();
    let mut sums = chunks[0];
    for chunk in &chunks[1..] {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
    }
    let [left, right] = [&sums[..4], &sums[4..]].map(|four| (four[0] + four[1]) + (four[2] + four[3]));
    rest.iter().fold(left + right, |sum, value| sum + value)
}
