//! Models that run in this process: trees, read as data, and scikit-learn models as the conversion job describes them.
//! Nothing of a model's code runs here.

mod categories;
pub(crate) mod converted;
mod description;
mod estimator;
mod forest;
mod lightgbm;
pub(crate) mod onnx;
mod pipeline;
mod scorer;
mod transform;
mod ubjson;
mod words;
mod xgboost;

use millgate_scoring::{Column, ColumnData, Data, Inputs, Kind, Predictions, Signature};
use millgate_types::{Fault, Retry, code};
use serde_json::Value;

use crate::model_file::ModelFile;
use categories::Words;
use lightgbm::Lightgbm;
use onnx::Onnx;
use pipeline::Pipeline;
use xgboost::{Wrapper, Xgboost};

/// The largest model file that is read into this process, in bytes.
const FILE_LIMIT: u64 = 512 << 20;

/// A model that needs no worker.
#[derive(Debug)]
pub(crate) struct NativeModel {
    form: Form,
}

#[derive(Debug)]
enum Form {
    Trees(Trees),
    Pipeline(Pipeline),
    Onnx(Onnx),
}

#[derive(Debug)]
enum Trees {
    Xgboost(Xgboost),
    Lightgbm(Lightgbm),
}

impl Trees {
    fn features(&self) -> usize {
        match self {
            Self::Xgboost(trees) => trees.features(),
            Self::Lightgbm(trees) => trees.features(),
        }
    }

    /// The column names that Python compares with; LightGBM's booster goes by position.
    fn names(&self) -> &[String] {
        match self {
            Self::Xgboost(trees) => &trees.names,
            Self::Lightgbm(trees) => &trees.names,
        }
    }

    /// The words of columns that are categories, by feature.
    fn words(&self) -> &[Option<Words>] {
        match self {
            Self::Xgboost(trees) => &trees.words,
            Self::Lightgbm(trees) => &trees.words,
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Xgboost(trees) => trees.trees(),
            Self::Lightgbm(trees) => trees.trees(),
        }
    }
}

impl NativeModel {
    /// Reads a model. The error says why a worker must serve it.
    pub(crate) fn load(model: &ModelFile) -> Result<Self, String> {
        let trees = if let Some(flavor) = model.flavor("xgboost") {
            Trees::Xgboost(load_xgboost(model, flavor)?)
        } else if let Some(flavor) = model.flavor("lightgbm") {
            Trees::Lightgbm(load_lightgbm(model, flavor)?)
        } else {
            return Err("no native runtime knows the model's flavours".to_owned());
        };
        check_columns(&model.signature, &trees)?;
        Ok(Self { form: Form::Trees(trees) })
    }

    /// The runtime's name.
    pub(crate) fn runtime(&self) -> &'static str {
        match self.form {
            Form::Trees(_) | Form::Pipeline(_) => "native",
            Form::Onnx(_) => "onnx",
        }
    }

    /// How much one call costs, in tree walks.
    pub(crate) fn work(&self, rows: u64) -> u64 {
        let row = match &self.form {
            Form::Trees(trees) => trees.count(),
            Form::Pipeline(pipeline) => pipeline.work(),
            Form::Onnx(onnx) => onnx.work(),
        };
        rows.saturating_mul(row as u64)
    }

    /// Predicts rows that were checked against the signature.
    pub(crate) fn predict(&self, data: &Data) -> Result<Predictions, Fault> {
        let trees = match &self.form {
            Form::Trees(trees) => trees,
            Form::Pipeline(pipeline) => return pipeline.predict(data),
            Form::Onnx(onnx) => return onnx.predict(data),
        };
        let (width, words) = (trees.features(), trees.words());
        match trees {
            Trees::Xgboost(trees) => {
                // What it makes of an unknown word depends on how it is asked: that is refused.
                let unknown = |row| Err(rejected(format!("row {row}: the model knows no such category")));
                let rows =
                    matrix_with(data, width, words, |value| value as f32, |value| value as f32, unknown)?;
                // XGBoost refuses infinities ("Input data contains `inf`").
                if rows.iter().any(|value| value.is_infinite()) {
                    return Err(rejected("a value is beyond what a 32-bit float holds".to_owned()));
                }
                Ok(trees.predict(&rows))
            }
            Trees::Lightgbm(trees) => {
                let unknown = |_| Ok(f64::NAN);
                let rows = matrix_with(data, width, words, |value| value, |value| value as f64, unknown)?;
                let (width, values) = trees.predict(rows);
                Ok(Predictions::Doubles { width, values })
            }
        }
    }
}

fn load_xgboost(model: &ModelFile, flavor: &Value) -> Result<Xgboost, String> {
    let class = flavor.get("model_class").and_then(Value::as_str).unwrap_or("unknown");
    let wrapper = match class.rsplit('.').next().unwrap_or_default() {
        "Booster" => Wrapper::Booster,
        "XGBClassifier" => Wrapper::Classifier,
        "XGBRegressor" => Wrapper::Regressor,
        _ => return Err(format!("no native runtime for xgboost class `{class}`")),
    };
    let (name, bytes) = model_bytes(model, flavor, "data")?;
    let tree = match name.rsplit('.').next() {
        Some("ubj") => ubjson::parse(&bytes).map_err(str::to_owned)?,
        Some("json") => {
            serde_json::from_slice(&bytes).map_err(|_| "the model file is not JSON".to_owned())?
        }
        _ => return Err("the model file is in XGBoost's old binary format".to_owned()),
    };
    Xgboost::read(&tree, wrapper).map_err(|why| format!("xgboost model with {why}"))
}

fn load_lightgbm(model: &ModelFile, flavor: &Value) -> Result<Lightgbm, String> {
    let class = flavor.get("model_class").and_then(Value::as_str).unwrap_or("unknown");
    if class != "lightgbm.basic.Booster" {
        return Err(format!("no native runtime for lightgbm class `{class}`"));
    }
    let (_, bytes) = model_bytes(model, flavor, "data")?;
    let text = String::from_utf8(bytes).map_err(|_| "the model file is not text".to_owned())?;
    Lightgbm::read(&text).map_err(|why| format!("lightgbm model with {why}"))
}

fn model_bytes(model: &ModelFile, flavor: &Value, key: &str) -> Result<(String, Vec<u8>), String> {
    let name = flavor.get(key).and_then(Value::as_str).ok_or("the flavour names no file")?;
    let path = model.file(name).ok_or("the model file is missing")?;
    if std::fs::metadata(&path).map_or(u64::MAX, |meta| meta.len()) > FILE_LIMIT {
        return Err("the model file is too large to run natively".to_owned());
    }
    let bytes = std::fs::read(&path).map_err(|error| format!("the model file: {}", error.kind()))?;
    Ok((name.to_owned(), bytes))
}

/// Checked input as rows of numbers.
fn matrix<T: Copy>(
    data: &Data,
    width: usize,
    float: impl Fn(f64) -> T,
    int: impl Fn(i64) -> T,
) -> Result<Vec<T>, Fault> {
    let numbers_only = |_| Err(rejected("the model takes numbers only".to_owned()));
    matrix_with(data, width, &[], float, int, numbers_only)
}

/// The same where some columns are texts that the model knows by number. `unknown`: what a text becomes that is none of its
/// column's, by its row.
fn matrix_with<T: Copy>(
    data: &Data,
    width: usize,
    words: &[Option<Words>],
    float: impl Fn(f64) -> T,
    int: impl Fn(i64) -> T,
    unknown: impl Fn(usize) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let frame = match data {
        Data::Matrix(matrix) if matrix.width == width || matrix.rows == 0 => {
            return Ok(matrix.values.iter().map(|value| float(*value)).collect());
        }
        Data::Matrix(matrix) => {
            let text = format!("expected {width} values a row, found {}", matrix.width);
            return Err(Fault::client(code::SCHEMA_MISMATCH, text));
        }
        Data::Frame(frame) => frame,
    };
    let mut rows = vec![float(f64::NAN); frame.rows * width];
    for (column, cells) in frame.columns.iter().enumerate().take(width) {
        let slots = rows.iter_mut().skip(column).step_by(width);
        match cells {
            ColumnData::Int(cells) => slots.zip(cells).for_each(|(slot, cell)| *slot = int(*cell)),
            ColumnData::Float(cells) => slots.zip(cells).for_each(|(slot, cell)| *slot = float(*cell)),
            ColumnData::Bool(cells) => {
                for (row, (slot, cell)) in slots.zip(cells).enumerate() {
                    let Some(cell) = cell else {
                        return Err(rejected(format!("row {row}: the model takes no null booleans")));
                    };
                    *slot = int(i64::from(*cell));
                }
            }
            ColumnData::Missing => {
                return Err(rejected(format!("the model needs all of its {width} columns")));
            }
            ColumnData::Text(cells) if words.get(column).is_some_and(Option::is_some) => {
                let words = words.get(column).and_then(Option::as_ref);
                for (row, (slot, cell)) in slots.zip(cells).enumerate() {
                    // What is missing stays so.
                    let Some(cell) = cell else { continue };
                    *slot = match words.and_then(|words| words.number(cell)) {
                        Some(number) => int(i64::from(number)),
                        None => unknown(row)?,
                    };
                }
            }
            ColumnData::Text(_) | ColumnData::Opaque => {
                return Err(rejected("the model takes numbers only".to_owned()));
            }
        }
    }
    Ok(rows)
}

fn rejected(text: String) -> Fault {
    Fault::new(code::MODEL_REJECTED_INPUT, millgate_types::Source::Client, Retry::Never, text)
}

/// The signature must give exactly the model's features, under the model's own names and order: then, and only
/// then, the Python side does the same with them.
fn check_columns(signature: &Signature, trees: &Trees) -> Result<(), String> {
    // LightGBM names what has no name; XGBoost leaves it empty.
    let unnamed = trees.names().is_empty() || matches!(trees, Trees::Lightgbm(_));
    match &signature.inputs {
        None => Err("the model has no signature".to_owned()),
        Some(Inputs::Tensors(tensors)) => match tensors.as_slice() {
            [tensor] if tensor.name.is_none() && tensor.shape.len() == 2 => {
                let known = matches!(tensor.dtype.as_str(), "float64" | "float32" | "int64" | "int32");
                let known = known && trees.words().is_empty();
                let fits = known && tensor.shape[1] == trees.features() as i64 && unnamed;
                if fits { Ok(()) } else { Err("the tensor signature does not fit the trees".to_owned()) }
            }
            _ => Err("the signature is not one two-dimensional tensor".to_owned()),
        },
        Some(Inputs::Columns(columns)) => {
            if columns.len() != trees.features() {
                return Err(format!(
                    "the signature has {} columns, the trees {}",
                    columns.len(),
                    trees.features()
                ));
            }
            let number = |column: &Column| {
                matches!(column.kind, Kind::Boolean | Kind::Integer | Kind::Long | Kind::Float | Kind::Double)
            };
            for (index, column) in columns.iter().enumerate() {
                let is_category = trees.words().get(index).is_some_and(Option::is_some);
                if is_category && column.kind != Kind::Text {
                    return Err("a column of categories is not a string in the signature".to_owned());
                }
                if !is_category && !number(column) {
                    return Err("the signature has columns that are not numbers".to_owned());
                }
            }
            let named = trees.names().iter().map(|name| Some(name.as_str()));
            if !named.eq(columns.iter().map(|column| column.name.as_deref())) {
                return Err("the signature's columns are not the trees' features by name".to_owned());
            }
            Ok(())
        }
    }
}
