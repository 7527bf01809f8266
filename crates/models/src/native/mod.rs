//! Models that run in this process: gradient-boosted trees, read as data. Nothing of a model's code runs here.

mod ubjson;
mod xgboost;

use millgate_scoring::{Column, ColumnData, Data, Inputs, Kind, Predictions, Signature};
use millgate_types::{Fault, Retry, code};
use serde_json::Value;

use crate::model_file::ModelFile;
use xgboost::{Wrapper, Xgboost};

/// The largest model file that is read into this process, in bytes.
const FILE_LIMIT: u64 = 512 << 20;

/// A model that needs no worker.
#[derive(Debug)]
pub(crate) struct NativeModel {
    trees: Xgboost,
}

impl NativeModel {
    /// Reads a model. The error says why a worker must serve it.
    pub(crate) fn load(model: &ModelFile) -> Result<Self, String> {
        let flavor = model.flavor("xgboost").ok_or("no native runtime knows the model's flavours")?;
        let text = |name: &str| flavor.get(name).and_then(Value::as_str);
        let class = text("model_class").unwrap_or("unknown");
        let wrapper = match class.rsplit('.').next().unwrap_or_default() {
            "Booster" => Wrapper::Booster,
            "XGBClassifier" => Wrapper::Classifier,
            "XGBRegressor" => Wrapper::Regressor,
            _ => return Err(format!("no native runtime for xgboost class `{class}`")),
        };
        let name = text("data").ok_or("the xgboost flavour names no file")?;
        let path = model.file(name).ok_or("the xgboost model file is missing")?;
        let size = std::fs::metadata(&path).map_or(u64::MAX, |meta| meta.len());
        if size > FILE_LIMIT {
            return Err("the model file is too large to run natively".to_owned());
        }
        let bytes = std::fs::read(&path).map_err(|error| format!("the model file: {}", error.kind()))?;
        let tree = match name.rsplit('.').next() {
            Some("ubj") => ubjson::parse(&bytes).map_err(str::to_owned)?,
            Some("json") => {
                serde_json::from_slice(&bytes).map_err(|_| "the model file is not JSON".to_owned())?
            }
            _ => return Err("the model file is in XGBoost's old binary format".to_owned()),
        };
        let trees = Xgboost::read(&tree, wrapper).map_err(|why| format!("xgboost model with {why}"))?;
        check_columns(&model.signature, &trees)?;
        Ok(Self { trees })
    }

    /// How much one call costs, in tree walks.
    pub(crate) fn work(&self, rows: u64) -> u64 {
        rows.saturating_mul(self.trees.trees() as u64)
    }

    /// Predicts rows that were checked against the signature.
    pub(crate) fn predict(&self, data: &Data) -> Result<Predictions, Fault> {
        let width = self.trees.features;
        let rows = match data {
            Data::Matrix(matrix) if matrix.width == width || matrix.rows == 0 => {
                matrix.values.iter().map(|value| *value as f32).collect::<Vec<f32>>()
            }
            Data::Matrix(matrix) => {
                let text = format!("expected {width} values a row, found {}", matrix.width);
                return Err(Fault::client(code::SCHEMA_MISMATCH, text));
            }
            Data::Frame(frame) => {
                let mut rows = vec![f32::NAN; frame.rows * width];
                for (column, cells) in frame.columns.iter().enumerate().take(width) {
                    let slots = rows.iter_mut().skip(column).step_by(width);
                    match cells {
                        ColumnData::Int(cells) => {
                            slots.zip(cells).for_each(|(slot, cell)| *slot = *cell as f32)
                        }
                        ColumnData::Float(cells) => {
                            slots.zip(cells).for_each(|(slot, cell)| *slot = *cell as f32)
                        }
                        ColumnData::Bool(cells) => {
                            for (row, (slot, cell)) in slots.zip(cells).enumerate() {
                                let Some(cell) = cell else {
                                    let text = format!("row {row}: the model takes no null booleans");
                                    return Err(rejected(text));
                                };
                                *slot = f32::from(u8::from(*cell));
                            }
                        }
                        ColumnData::Missing => {
                            return Err(rejected(format!("the model needs all of its {width} columns")));
                        }
                        ColumnData::Text(_) | ColumnData::Opaque => {
                            return Err(rejected("the model takes numbers only".to_owned()));
                        }
                    }
                }
                rows
            }
        };
        // XGBoost refuses infinities ("Input data contains `inf`").
        if rows.iter().any(|value| value.is_infinite()) {
            return Err(rejected("a value is beyond what a 32-bit float holds".to_owned()));
        }
        Ok(self.trees.predict(&rows))
    }
}

fn rejected(text: String) -> Fault {
    Fault::new(code::MODEL_REJECTED_INPUT, millgate_types::Source::Client, Retry::Never, text)
}

/// The signature must give exactly the model's features, under the model's own names and order: then, and only
/// then, the Python side does the same with them.
fn check_columns(signature: &Signature, trees: &Xgboost) -> Result<(), String> {
    match &signature.inputs {
        None => Err("the model has no signature".to_owned()),
        Some(Inputs::Tensors(tensors)) => match tensors.as_slice() {
            [tensor] if tensor.name.is_none() && tensor.shape.len() == 2 => {
                let known = matches!(tensor.dtype.as_str(), "float64" | "float32" | "int64" | "int32");
                let fits = known && tensor.shape[1] == trees.features as i64 && trees.names.is_empty();
                if fits { Ok(()) } else { Err("the tensor signature does not fit the trees".to_owned()) }
            }
            _ => Err("the signature is not one two-dimensional tensor".to_owned()),
        },
        Some(Inputs::Columns(columns)) => {
            if columns.len() != trees.features {
                return Err(format!(
                    "the signature has {} columns, the trees {}",
                    columns.len(),
                    trees.features
                ));
            }
            let number = |column: &Column| {
                matches!(column.kind, Kind::Boolean | Kind::Integer | Kind::Long | Kind::Float | Kind::Double)
            };
            if !columns.iter().all(number) {
                return Err("the signature has columns that are not numbers".to_owned());
            }
            let named = trees.names.iter().map(|name| Some(name.as_str()));
            if !named.eq(columns.iter().map(|column| column.name.as_deref())) {
                return Err("the signature's columns are not the trees' features by name".to_owned());
            }
            Ok(())
        }
    }
}
