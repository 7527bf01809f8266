//! What the conversion job wrote: a description, and questions with Python's answers. The model is used only when it answers
//! every question as Python does, on the path that requests take.

use millgate_scoring::{ContentType, Inputs, Predictions, Signature};
use serde::Deserialize;
use serde_json::Value;

use super::description::Described;
use super::{Form, NativeModel};

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Unsupported { unsupported: String },
    Model { model: Box<Described>, questions: Vec<Question> },
}

#[derive(Deserialize)]
struct Question {
    kind: String,
    body: String,
    /// `None` when Python refuses the question.
    answer: Option<String>,
}

/// A model that passed, and in a few words how.
#[derive(Debug)]
pub(crate) struct Converted {
    pub(crate) model: NativeModel,
    pub(crate) reason: String,
}

/// Questions that must have been answered: fewer prove nothing.
const FEWEST: usize = 8;

/// Reads what the job wrote and compares. `tolerance` is how far a number may lie from Python's where numbers come out of
/// sums or functions whose last bits depend on a library. The error says why a worker must serve the model; it names rows
/// by their place, never a value.
pub(crate) fn read(
    written: &[u8],
    signature: &Signature,
    tolerance: Option<f64>,
) -> Result<Converted, String> {
    let written = serde_json::from_slice(written);
    let (model, questions) = match written {
        Ok(Written::Model { model, questions }) => (model, questions),
        Ok(Written::Unsupported { unsupported }) => {
            let plain: String = unsupported.chars().filter(|c| !c.is_control()).take(300).collect();
            return Err(format!("not converted: {plain}"));
        }
        Err(_) => return Err("the conversion job wrote something that is no description".to_owned()),
    };
    let columns = match &signature.inputs {
        Some(Inputs::Columns(columns)) => columns.len(),
        Some(Inputs::Tensors(tensors)) => match tensors.as_slice() {
            [tensor] if tensor.name.is_none() && tensor.shape.len() == 2 => {
                usize::try_from(tensor.shape[1]).map_err(|_| "the signature leaves the columns open")?
            }
            _ => return Err("the signature is not one two-dimensional tensor".to_owned()),
        },
        None => return Err("the model has no signature".to_owned()),
    };
    let pipeline = model.build(columns).map_err(|why| format!("the description is refused: {why}"))?;
    let tolerance = tolerance.filter(|_| !pipeline.is_exact());
    let model = NativeModel { form: Form::Pipeline(pipeline) };
    let (mut rows, mut answered, mut furthest) = (0, 0, 0.0_f64);
    for question in &questions {
        let (count, distance) = compare(&model, question, signature, tolerance, rows)?;
        rows += count;
        answered += usize::from(question.answer.is_some());
        furthest = furthest.max(distance);
    }
    if answered < FEWEST {
        return Err("Python answered too few questions to compare".to_owned());
    }
    let how = if furthest > 0.0 {
        format!("no further than {furthest:.1e} from Python's on {rows} rows")
    } else {
        format!("the same bits as Python's on {rows} rows")
    };
    Ok(Converted { model, reason: format!("converted; answers are {how}") })
}

/// Rows of the question, and how far the furthest number lies from Python's.
fn compare(
    model: &NativeModel,
    question: &Question,
    signature: &Signature,
    tolerance: Option<f64>,
    before: u64,
) -> Result<(u64, f64), String> {
    let kind = if question.kind == "text/csv" { ContentType::Csv } else { ContentType::Json };
    let ours = millgate_scoring::check(question.body.as_bytes(), kind, signature).and_then(|checked| {
        let data = checked.data.ok_or_else(|| {
            millgate_types::Fault::client(millgate_types::code::SCHEMA_MISMATCH, "not readable")
        })?;
        Ok((checked.rows, model.predict(&data)?))
    });
    let (rows, ours, theirs) = match (ours, &question.answer) {
        (Err(_), None) => return Ok((0, 0.0)),
        (Ok(_), None) => {
            return Err(format!("verification row {before} is answered, where Python refuses it"));
        }
        (Err(fault), Some(_)) => {
            return Err(format!(
                "verification row {before} is refused, where Python answers: {}",
                fault.public
            ));
        }
        (Ok((rows, ours)), Some(theirs)) => (rows, ours, theirs),
    };
    let text = ours.to_json();
    if text == *theirs {
        return Ok((rows, 0.0));
    }
    let place = |row: usize| before + row as u64;
    let list = |text: &str| -> Option<Vec<Value>> {
        let mut value: Value = serde_json::from_str(text).ok()?;
        match value.get_mut("predictions")?.take() {
            Value::Array(list) => Some(list),
            _ => None,
        }
    };
    let (Some(ours_list), Some(theirs)) = (list(&text), list(theirs)) else {
        return Err(format!("verification row {} is answered in another form", place(0)));
    };
    if ours_list.len() != theirs.len() {
        return Err(format!("verification row {} is answered in another form", place(0)));
    }
    let numbers = matches!(ours, Predictions::Doubles { .. } | Predictions::Floats { .. });
    let mut furthest = 0.0_f64;
    for (row, (our, their)) in ours_list.iter().zip(&theirs).enumerate() {
        let far = if numbers { distance(our, their) } else { None };
        match (far, tolerance) {
            _ if our == their => {}
            (Some(far), Some(tolerance)) if far <= tolerance => furthest = furthest.max(far),
            (Some(far), None) if far < 1e-6 => {
                return Err(format!(
                    "verification row {} differs in its last bits; `tolerance` would allow that",
                    place(row)
                ));
            }
            _ => return Err(format!("verification row {} is answered differently", place(row))),
        }
    }
    if furthest == 0.0 {
        return Err(format!("verification row {} is written differently", place(0)));
    }
    Ok((rows, furthest))
}

/// How far two answers of one row lie apart; `None` when they are not the same shape of numbers.
fn distance(our: &Value, their: &Value) -> Option<f64> {
    match (our, their) {
        (Value::Array(our), Value::Array(their)) if our.len() == their.len() => our
            .iter()
            .zip(their)
            .try_fold(0.0_f64, |most, (our, their)| Some(most.max(distance(our, their)?))),
        (Value::Number(our), Value::Number(their)) => Some((our.as_f64()? - their.as_f64()?).abs()),
        _ => None,
    }
}
