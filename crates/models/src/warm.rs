//! What a version must do before it takes requests: answer its input example, and show whether its rows may share a
//! call: rows asked one by one must be answered as they are together.

use std::time::{Duration, Instant};

use bytes::Bytes;
use millgate_scoring::{ColumnData, ContentType, Data, Form, Frame, Inputs, Kind, Matrix, Signature, check};
use serde_json::Value;

use crate::deployment::{DeploymentSpec, columns_of};
use crate::live::LoadError;
use crate::model_file::ModelFile;
use crate::worker::{Ask, Columns, Pool, Reply};

/// Rows of the check.
const ROWS: usize = 4;
/// Relative difference of numbers that is rounding: sums in another order, of 32-bit floats at worst.
const ROUNDING: f64 = 1e-5;

/// Answers the input example once, then decides on batching. An example the model itself refuses is not held against
/// it; a dead or silent worker is.
pub(crate) async fn warm(
    spec: &DeploymentSpec,
    pool: &Pool,
    model: &ModelFile,
    patience: Duration,
) -> Result<(), LoadError> {
    if spec.chat {
        // Its example is not asked: a chat model may ask another one, for money.
        pool.batch(Err("a chat model answers one conversation at a time".to_owned()));
        return Ok(());
    }
    let example = model.example.clone();
    let checked = example.as_ref().filter(|_| !spec.compat_mlflow).and_then(|example| {
        let checked = check(example, ContentType::Json, &model.signature);
        checked.ok().filter(|checked| !checked.llm)
    });
    if let Some(body) = example {
        let columns = checked.as_ref().and_then(|checked| columns_of(checked, &model.signature));
        let ask = Ask { content_type: ContentType::Json.name(), body, columns, chat: None };
        match pool.predict(ask, Instant::now() + patience).await {
            Ok(Reply::Answer(_) | Reply::Stream(_)) => {}
            Ok(Reply::Error { class, status, .. }) => {
                tracing::warn!(endpoint = %spec.endpoint, status, class, "the model refuses its own input example");
            }
            Err(fault) => return Err(LoadError::Model(format!("the input example: {}", fault.public))),
        }
    }
    let example = checked.and_then(|checked| checked.data);
    let decided = decide(spec, pool, &model.signature, example, patience).await;
    if let Err(why) = &decided {
        tracing::debug!(endpoint = %spec.endpoint, why, "requests share no calls");
    }
    pool.batch(decided);
    Ok(())
}

/// Whether requests may share calls; `Err` says why not.
async fn decide(
    spec: &DeploymentSpec,
    pool: &Pool,
    signature: &Signature,
    example: Option<Data>,
    patience: Duration,
) -> Result<(), String> {
    let facts = pool.facts();
    if spec.batching.wanted == Some(false) {
        return Err("`batching: false` is configured".to_owned());
    }
    if spec.compat_mlflow {
        return Err("`compat: mlflow` leaves the body to MLflow".to_owned());
    }
    if !facts.columns {
        return Err(facts.why.unwrap_or_else(|| "the worker takes only JSON".to_owned()));
    }
    if spec.batching.wanted == Some(true) {
        return Ok(());
    }
    if !facts.rowwise {
        return Err("its rows may depend on each other".to_owned());
    }
    let data = match &example {
        Some(data) if data.rows() > 0 => spread(data),
        _ => synthetic(signature).ok_or("the model has no signature of plain columns")?,
    };
    let laid_out = |data: &Data| Columns::of(data, signature, None);
    let all = laid_out(&data).ok_or("its columns are read by MLflow")?;
    let together = ask(pool, all, patience).await?;
    let mut singly = Vec::with_capacity(ROWS);
    for row in 0..data.rows() {
        let one = laid_out(&data.slice(row..row + 1)).ok_or("its columns are read by MLflow")?;
        singly.push(ask(pool, one, patience).await?);
    }
    match join(singly) {
        Some(joined) if close(&joined, &together) => Ok(()),
        _ => Err("rows asked one by one are not answered as they are together".to_owned()),
    }
}

async fn ask(pool: &Pool, columns: Columns, patience: Duration) -> Result<Value, String> {
    let ask = Ask {
        content_type: ContentType::Json.name(),
        body: Bytes::new(),
        columns: Some(columns),
        chat: None,
    };
    match pool.predict(ask, Instant::now() + patience).await {
        Ok(Reply::Answer(text)) => {
            let answer: Value = serde_json::from_slice(&text).map_err(|_| "its answer is not JSON")?;
            Ok(answer.get("predictions").cloned().unwrap_or_default())
        }
        Ok(Reply::Error { .. } | Reply::Stream(_)) => {
            Err("the model refuses the rows of the check; `batching: true` insists".to_owned())
        }
        Err(fault) => Err(format!("the check failed: {}", fault.public)),
    }
}

/// `ROWS` rows out of those of the example, their floats moved apart.
fn spread(example: &Data) -> Data {
    let rows = example.rows();
    let factor = |row: usize| 1.0 + row as f64 / 8.0;
    match example {
        Data::Frame(frame) => {
            let columns = frame.columns.iter().map(|column| match column {
                ColumnData::Int(cells) => ColumnData::Int(pick(cells, rows)),
                ColumnData::Float(cells) => {
                    let cells = pick(cells, rows).into_iter().enumerate();
                    // 32-bit cells stay 32-bit.
                    ColumnData::Float(
                        cells.map(|(row, cell)| f64::from((cell * factor(row)) as f32)).collect(),
                    )
                }
                ColumnData::Bool(cells) => ColumnData::Bool(pick(cells, rows)),
                ColumnData::Text(cells) => ColumnData::Text(pick(cells, rows)),
                ColumnData::Opaque => ColumnData::Opaque,
                ColumnData::Missing => ColumnData::Missing,
            });
            Data::Frame(Frame { rows: ROWS, columns: columns.collect(), form: Form::Table })
        }
        Data::Matrix(matrix) => {
            let width = matrix.width;
            let values = (0..ROWS * width).map(|at| {
                let cell =
                    matrix.values.get(at % width + at / width % rows * width).copied().unwrap_or_default();
                f64::from((cell * factor(at / width)) as f32)
            });
            Data::Matrix(Matrix { rows: ROWS, width, values: values.collect() })
        }
    }
}

fn pick<T: Clone>(cells: &[T], rows: usize) -> Vec<T> {
    (0..ROWS).filter_map(|row| cells.get(row % rows).cloned()).collect()
}

/// `ROWS` made-up rows.
fn synthetic(signature: &Signature) -> Option<Data> {
    match signature.inputs.as_ref()? {
        Inputs::Columns(columns) => {
            let columns = columns.iter().enumerate().map(|(index, column)| {
                let rows = 0..ROWS;
                Some(match column.kind {
                    Kind::Integer | Kind::Long => {
                        ColumnData::Int(rows.map(|row| (row + index % 2) as i64).collect())
                    }
                    Kind::Float | Kind::Double => {
                        ColumnData::Float(rows.map(|row| row as f64 * 0.75 - index as f64 * 0.25).collect())
                    }
                    Kind::Boolean => ColumnData::Bool(rows.map(|row| Some(row % 2 == 0)).collect()),
                    Kind::Text => {
                        ColumnData::Text(rows.map(|row| Some(["a", "b"][row % 2].to_owned())).collect())
                    }
                    _ => return None,
                })
            });
            Some(Data::Frame(Frame {
                rows: ROWS,
                columns: columns.collect::<Option<_>>()?,
                form: Form::Table,
            }))
        }
        Inputs::Tensors(tensors) => match tensors.as_slice() {
            [tensor] if tensor.name.is_none() => {
                let &[_, width] = tensor.shape.as_slice() else { return None };
                let width = usize::try_from(width).ok().filter(|width| (1..=100_000).contains(width))?;
                let values = (0..ROWS * width).map(|at| (at % 7) as f64).collect();
                Some(Data::Matrix(Matrix { rows: ROWS, width, values }))
            }
            _ => None,
        },
    }
}

/// The answers of single rows as one answer.
fn join(answers: Vec<Value>) -> Option<Value> {
    answers.into_iter().try_fold(None, |joined: Option<Value>, answer| match (joined, answer) {
        (None, answer) => Some(Some(answer)),
        (Some(Value::Array(mut rows)), Value::Array(more)) => {
            rows.extend(more);
            Some(Some(Value::Array(rows)))
        }
        (Some(Value::Object(mut names)), Value::Object(more)) => {
            for (name, value) in more {
                let (Some(Value::Array(rows)), Value::Array(value)) = (names.get_mut(&name), value) else {
                    return None;
                };
                rows.extend(value);
            }
            Some(Some(Value::Object(names)))
        }
        _ => None,
    })?
}

fn close(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => (one - other).abs() <= ROUNDING * one.abs().max(other.abs()).max(1.0),
            _ => false,
        },
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| close(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| close(one, other)))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn single_answers_are_joined_and_compared_up_to_rounding() {
        let joined = join(vec![json!([[0.1, "a"]]), json!([[0.2, "b"]])]).unwrap();
        assert!(close(&joined, &json!([[0.1 + 1e-12, "a"], [0.2, "b"]])));
        assert!(!close(&joined, &json!([[0.1, "a"], [0.3, "b"]])));
        assert!(!close(&joined, &json!([[0.1, "a"]])));
        let named = join(vec![json!({"y": [1]}), json!({"y": [2]})]).unwrap();
        assert!(close(&named, &json!({"y": [1, 2]})));
        assert!(join(vec![json!(1), json!(2)]).is_none());
        assert!(join(vec![json!({"y": [1]}), json!({"z": [2]})]).is_none());
    }

    #[test]
    fn rows_of_the_check_differ_where_the_example_has_one() {
        let example = Data::Frame(Frame {
            form: Form::Table,
            rows: 1,
            columns: vec![ColumnData::Float(vec![8.0]), ColumnData::Text(vec![Some("x".to_owned())])],
        });
        let Data::Frame(frame) = spread(&example) else { panic!() };
        assert_eq!(frame.columns[0], ColumnData::Float(vec![8.0, 9.0, 10.0, 11.0]));
        let matrix = Data::Matrix(Matrix { rows: 2, width: 2, values: vec![1.0, 2.0, 3.0, 4.0] });
        let Data::Matrix(matrix) = spread(&matrix) else { panic!() };
        assert_eq!(matrix.values[..4], [1.0, 2.0, 3.375, 4.5]);
        assert_eq!(matrix.values.len(), 8);
    }
}
