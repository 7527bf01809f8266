//! What the conversion job wrote: a description, and questions with Python's answers. The model is used only when it answers
//! every question as Python does, on the path that requests take.

use std::path::Path;

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
    library: Option<&Path>,
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
    if let Some(kind) = model.graph() {
        if tolerance.is_none() {
            return Err(format!(
                "not converted: the estimator {kind}; as ONNX it computes in 32 bits, which a `tolerance` would allow"
            ));
        }
        if library.is_none() {
            return Err(format!(
                "not converted: the estimator {kind}; as ONNX it needs the ONNX Runtime (`models.onnx_library`)"
            ));
        }
    }
    let pipeline =
        model.build(columns, library).map_err(|why| format!("the description is refused: {why}"))?;
    let tolerance = tolerance.filter(|_| !pipeline.is_exact());
    let what = if pipeline.has_graph() { "converted, its estimator to ONNX" } else { "converted" };
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
    Ok(Converted { model, reason: format!("{what}; answers are {how}") })
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

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::*;

    fn packed(bytes: Vec<u8>) -> Value {
        Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    fn doubles(values: &[f64]) -> Value {
        packed(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn integers(values: &[i32]) -> Value {
        packed(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// One split of one feature behind a scaler: 10 where x / 2 <= 0.25, else 20.
    fn whole() -> Value {
        let questions: Vec<Value> = [("0.5", "10.0"), ("0.6", "20.0")]
            .iter()
            .cycle()
            .take(FEWEST)
            .map(|(x, y)| {
                json!({
                    "kind": "application/json",
                    "body": format!("{{\"inputs\": [[{x}]]}}"),
                    "answer": format!("{{\"predictions\": [{y}]}}"),
                })
            })
            .collect();
        json!({
            "model": {
                "width": 1,
                "steps": [{"scale": {"divide": doubles(&[2.0])}}],
                "estimator": {"trees": {
                    "sizes": integers(&[3]), "outputs_of": integers(&[0]),
                    "left": integers(&[1, -1, -1]), "right": integers(&[2, 0, 1]),
                    "feature": integers(&[0, 0, 0]), "threshold": doubles(&[0.25, 0.0, 0.0]),
                    "missing_left": integers(&[0, 0, 0]), "sets": [], "values": doubles(&[10.0, 20.0]),
                    "wide": true, "width": 1, "features": 1, "outputs": 1, "start": doubles(&[0.0]),
                    "divide": null, "missing": false,
                }},
                "answer": {"values": {"link": "identity"}},
                "text_null": {"beside": "nan", "alone": "nan", "typed": "nan", "csv": "nan"},
            },
            "questions": questions,
        })
    }

    fn read_value(written: &Value, tolerance: Option<f64>) -> Result<Converted, String> {
        let inputs = r#"[{"type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,1]}}]"#;
        let signature = Signature::parse(Some(inputs), None).unwrap();
        read(written.to_string().as_bytes(), &signature, tolerance, None)
    }

    #[test]
    fn a_whole_description_is_believed_when_every_answer_is_pythons() {
        let read = read_value(&whole(), None).unwrap();
        assert!(read.reason.contains("the same bits"), "{}", read.reason);
        for (place, reason) in [
            ("/questions/3/answer", "verification row 3 is answered differently"),
            ("/questions/0/answer", "verification row 0 is answered differently"),
        ] {
            let mut lie = whole();
            *lie.pointer_mut(place).unwrap() = json!("{\"predictions\": [15.0]}");
            assert_eq!(
                read_value(&lie, Some(100.0)).unwrap_err(),
                reason,
                "a tolerance is nothing for trees"
            );
        }
        let mut refused = whole();
        *refused.pointer_mut("/questions/2/answer").unwrap() = Value::Null;
        let why = read_value(&refused, None).unwrap_err();
        assert_eq!(why, "verification row 2 is answered, where Python refuses it");
        let mut few = whole();
        few["questions"].as_array_mut().unwrap().truncate(FEWEST - 1);
        assert!(read_value(&few, None).is_err());
    }

    #[test]
    fn a_graph_needs_a_tolerance_and_the_runtime() {
        let mut written = whole();
        written["model"]["estimator"] =
            json!({ "graph": { "bytes": "AAAA", "output": "label", "features": 1, "kind": "sklearn.SVC" } });
        written["model"]["answer"] = json!({ "own": {} });
        let why = read_value(&written, None).unwrap_err();
        assert!(why.contains("the estimator sklearn.SVC; as ONNX") && why.contains("`tolerance`"), "{why}");
        let why = read_value(&written, Some(1e-6)).unwrap_err();
        assert!(why.contains("needs the ONNX Runtime"), "{why}");
    }

    #[test]
    fn a_forged_description_is_refused() {
        for (place, forged) in [
            ("left", integers(&[0, -1, -1])),
            ("left", integers(&[7, -1, -1])),
            ("left", integers(&[i32::MAX, -1, -1])),
            ("right", integers(&[1, 0, 1])),
            ("right", integers(&[-2, 0, 1])),
            ("right", integers(&[2, 0, 9])),
            ("feature", integers(&[1, 0, 0])),
            ("feature", integers(&[-1, 0, 0])),
            ("threshold", doubles(&[f64::NAN, 0.0, 0.0])),
            ("threshold", doubles(&[0.25])),
            ("values", doubles(&[10.0, f64::INFINITY])),
            ("values", doubles(&[10.0, 20.0, 30.0])),
            ("values", doubles(&[10.0])),
            ("values", json!("%%%")),
            ("values", json!("AAAA")),
            ("sizes", integers(&[i32::MAX])),
            ("sizes", integers(&[-3])),
            ("sizes", integers(&[1, 2])),
            ("sizes", integers(&[])),
            ("outputs_of", integers(&[1])),
            ("set", integers(&[0, -1, -1])),
            ("width", json!(0)),
            ("width", json!(u64::MAX)),
            ("features", json!(0)),
            ("features", json!(4_000_000_000_u32)),
            ("outputs", json!(0)),
            ("outputs", json!(1_000_000_000)),
            ("start", doubles(&[])),
            ("divide", json!(0)),
        ] {
            let mut written = whole();
            written["model"]["estimator"]["trees"][place] = forged.clone();
            let why = read_value(&written, None).unwrap_err();
            let told = why.starts_with("the description is refused") || why.contains("no description");
            assert!(told, "{place} {forged}: {why}");
        }
        let mut deep = json!({"identity": {}});
        for _ in 0..40 {
            deep = json!({"pipeline": [deep]});
        }
        for step in [
            deep,
            json!({"scale": {"divide": doubles(&[2.0, 2.0])}}),
            json!({"columns": [{"columns": [1], "step": {"identity": {}}}]}),
            json!({"columns": [{"columns": vec![0; 5_000_000], "step": {"identity": {}}}]}),
            json!({"one_hot": {"categories": [[]], "drop": [3], "unknown": "error"}}),
            json!({"one_hot": {"categories": [[]], "drop": [], "unknown": "error"}}),
            json!({"weigh": {"idf": doubles(&[]), "sublinear": false, "norm": null}}),
            json!({"unheard_of": {}}),
        ] {
            let mut written = whole();
            written["model"]["steps"] = json!([step]);
            assert!(read_value(&written, None).is_err());
        }
        for text in ["", "[]", "{}", "null", "{\"model\": 3, \"questions\": []}"] {
            let signature = Signature::default();
            assert!(read(text.as_bytes(), &signature, None, None).is_err(), "{text}");
        }
    }
}
