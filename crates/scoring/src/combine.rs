//! Predictions of several models about the same rows as one: number by number, or by vote.

use serde_json::Value;

/// How numbers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// The weighted mean.
    Mean,
    /// What most members say of a row, by weight; of several the one whose member stands first.
    Vote,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// The one in the middle; of an even count the mean of the two in the middle.
    Median,
}

/// Combines `predictions` with a weight each. All must have the same shape: as many rows, the same columns, lists of the
/// same length. The error says where they differ, never a value.
pub fn combine(predictions: &[(f64, &Value)], by: Combination) -> Result<Value, String> {
    match by {
        Combination::Vote => by_row(predictions),
        _ => number(predictions, by, &mut String::new()),
    }
}

/// Votes are about rows: those of a list, or of each list of an object.
fn by_row(predictions: &[(f64, &Value)]) -> Result<Value, String> {
    match predictions.first().map(|(_, first)| *first) {
        Some(Value::Object(members)) => {
            let column = |name: &String| {
                let columns = members_of(predictions, name, "")?;
                Ok((name.clone(), by_row(&columns)?))
            };
            same_members(predictions, "")?;
            Ok(Value::Object(members.keys().map(column).collect::<Result<_, String>>()?))
        }
        Some(Value::Array(rows)) => {
            let row = |row: usize| vote(&items_of(predictions, row));
            same_length(predictions, "")?;
            Ok((0..rows.len()).map(row).collect())
        }
        _ => Ok(vote(predictions)),
    }
}

fn vote(answers: &[(f64, &Value)]) -> Value {
    let mut counted: Vec<(f64, &Value)> = Vec::with_capacity(answers.len());
    for (weight, answer) in answers {
        match counted.iter_mut().find(|(_, known)| known == answer) {
            Some((sum, _)) => *sum += weight,
            None => counted.push((*weight, answer)),
        }
    }
    let mut best: Option<(f64, &Value)> = None;
    for (sum, answer) in counted {
        if best.is_none_or(|(most, _)| sum > most) {
            best = Some((sum, answer));
        }
    }
    best.map_or(Value::Null, |(_, answer)| answer.clone())
}

fn number(values: &[(f64, &Value)], by: Combination, at: &mut String) -> Result<Value, String> {
    let length = at.len();
    match values.first().map(|(_, first)| *first) {
        Some(Value::Array(first)) => {
            same_length(values, at)?;
            let mut out = Vec::with_capacity(first.len());
            for index in 0..first.len() {
                at.push_str(&format!("[{index}]"));
                out.push(number(&items_of(values, index), by, at)?);
                at.truncate(length);
            }
            Ok(Value::Array(out))
        }
        Some(Value::Object(first)) => {
            same_members(values, at)?;
            let mut out = serde_json::Map::with_capacity(first.len());
            for name in first.keys() {
                at.push_str(&format!(".{}", crate::shown(name)));
                let column = members_of(values, name, at)?;
                out.insert(name.clone(), number(&column, by, at)?);
                at.truncate(length);
            }
            Ok(Value::Object(out))
        }
        _ => scalar(values, by, at),
    }
}

fn scalar(values: &[(f64, &Value)], by: Combination, at: &str) -> Result<Value, String> {
    let mut numbers = Vec::with_capacity(values.len());
    for (place, (weight, value)) in values.iter().enumerate() {
        let number = value.as_f64().ok_or_else(|| {
            format!("member {}{}: expected a number, found {}", place + 1, shown_at(at), word(value))
        })?;
        numbers.push((*weight, number, *value));
    }
    let of = |number: f64| Value::from(number);
    let pick = |better: fn(f64, f64) -> bool| {
        let mut numbers = numbers.iter();
        let first = numbers.next();
        // The value itself, so that integers stay integers.
        first.map_or(Value::Null, |first| {
            numbers.fold(first, |best, next| if better(next.1, best.1) { next } else { best }).2.clone()
        })
    };
    Ok(match by {
        Combination::Max => pick(|a, b| a > b),
        Combination::Min => pick(|a, b| a < b),
        Combination::Median => {
            let mut sorted: Vec<f64> = numbers.iter().map(|(_, number, _)| *number).collect();
            sorted.sort_by(f64::total_cmp);
            let middle = sorted.len() / 2;
            let upper = sorted.get(middle).copied().unwrap_or_default();
            let even = sorted.len().is_multiple_of(2);
            of(if even { f64::midpoint(sorted[middle.saturating_sub(1)], upper) } else { upper })
        }
        Combination::Mean | Combination::Vote => {
            let sum: f64 = numbers.iter().map(|(weight, number, _)| weight * number).sum();
            let weights: f64 = numbers.iter().map(|(weight, ..)| weight).sum();
            if weights <= 0.0 {
                return Err("the members that answered have no weight".to_owned());
            }
            of(sum / weights)
        }
    })
}

fn items_of<'a>(values: &[(f64, &'a Value)], index: usize) -> Vec<(f64, &'a Value)> {
    values.iter().filter_map(|(weight, value)| Some((*weight, value.get(index)?))).collect()
}

fn members_of<'a>(
    values: &[(f64, &'a Value)],
    name: &str,
    at: &str,
) -> Result<Vec<(f64, &'a Value)>, String> {
    let found: Vec<_> =
        values.iter().filter_map(|(weight, value)| Some((*weight, value.get(name)?))).collect();
    if found.len() == values.len() {
        return Ok(found);
    }
    Err(format!("not every member answers `{}`{}", crate::shown(name), shown_at(at)))
}

fn same_length(values: &[(f64, &Value)], at: &str) -> Result<(), String> {
    let length = |value: &Value| value.as_array().map(Vec::len);
    let expected = values.first().and_then(|(_, first)| length(first)).unwrap_or_default();
    for (place, (_, value)) in values.iter().enumerate() {
        match length(value) {
            Some(found) if found == expected => {}
            Some(found) => {
                let what = if at.is_empty() { "rows" } else { "values" };
                return Err(format!(
                    "member {}{}: expected {expected} {what}, as member 1 has them, found {found}",
                    place + 1,
                    shown_at(at)
                ));
            }
            None => {
                return Err(format!(
                    "member {}{}: expected a list, as member 1 has one, found {}",
                    place + 1,
                    shown_at(at),
                    word(value)
                ));
            }
        }
    }
    Ok(())
}

fn same_members(values: &[(f64, &Value)], at: &str) -> Result<(), String> {
    let expected = values.first().and_then(|(_, first)| first.as_object()).map_or(0, serde_json::Map::len);
    for (place, (_, value)) in values.iter().enumerate() {
        if value.as_object().is_none_or(|members| members.len() != expected) {
            return Err(format!(
                "member {}{}: expected an object with {expected} members, as member 1 has one",
                place + 1,
                shown_at(at)
            ));
        }
    }
    Ok(())
}

fn shown_at(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!(" at `{at}`") }
}

/// The word for a value's kind.
pub(crate) fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(by: Combination, weights: &[f64], values: &[Value]) -> Result<Value, String> {
        let weighted: Vec<_> = weights.iter().copied().zip(values).collect();
        combine(&weighted, by)
    }

    #[test]
    fn numbers_are_combined_place_by_place() {
        let (a, b) = (json!([1, [0.5, 2]]), json!([3, [1.5, 4]]));
        let both = [a.clone(), b.clone()];
        assert_eq!(of(Combination::Mean, &[1.0, 1.0], &both), Ok(json!([2.0, [1.0, 3.0]])));
        assert_eq!(of(Combination::Mean, &[3.0, 1.0], &both), Ok(json!([1.5, [0.75, 2.5]])));
        assert_eq!(of(Combination::Max, &[1.0, 1.0], &both), Ok(json!([3, [1.5, 4]])));
        assert_eq!(of(Combination::Min, &[1.0, 1.0], &both), Ok(json!([1, [0.5, 2]])));
        assert_eq!(of(Combination::Median, &[1.0, 1.0], &both), Ok(json!([2.0, [1.0, 3.0]])));
        let three = [a, b, json!([9, [0, 3]])];
        assert_eq!(of(Combination::Median, &[1.0; 3], &three), Ok(json!([3.0, [0.5, 3.0]])));
        let records = [json!([{ "p": 0.25, "q": 1 }]), json!([{ "q": 3, "p": 0.75 }])];
        assert_eq!(of(Combination::Mean, &[1.0, 1.0], &records), Ok(json!([{ "p": 0.5, "q": 2.0 }])));
    }

    #[test]
    fn votes_count_whole_rows_by_weight() {
        let votes = [json!(["a", 1, [1, 2]]), json!(["b", 2, [1, 2]]), json!(["b", 3, [2, 1]])];
        assert_eq!(of(Combination::Vote, &[1.0; 3], &votes), Ok(json!(["b", 1, [1, 2]])));
        assert_eq!(of(Combination::Vote, &[5.0, 1.0, 1.0], &votes), Ok(json!(["a", 1, [1, 2]])));
        assert_eq!(of(Combination::Vote, &[1.0, 1.0], &votes[..2]), Ok(json!(["a", 1, [1, 2]])));
        let columns = [json!({ "x": ["a"], "y": [1] }), json!({ "x": ["b"], "y": [1] })];
        assert_eq!(of(Combination::Vote, &[1.0, 2.0], &columns), Ok(json!({ "x": ["b"], "y": [1] })));
    }

    #[test]
    fn what_does_not_fit_together_is_named_by_its_place() {
        for (values, reason) in [
            ([json!([1, 2]), json!([1])], "member 2: expected 2 rows, as member 1 has them, found 1"),
            ([json!([[1, 2]]), json!([[1]])], "member 2 at `[0]`: expected 2 values"),
            ([json!([1]), json!(["secret"])], "member 2 at `[0]`: expected a number, found a string"),
            ([json!([null]), json!([1])], "member 1 at `[0]`: expected a number, found null"),
            ([json!([{ "a": 1 }]), json!([{ "b": 1 }])], "not every member answers `a` at `[0].a`"),
            ([json!([1]), json!({ "a": 1 })], "member 2: expected a list"),
        ] {
            let error = of(Combination::Mean, &[1.0, 1.0], &values).unwrap_err();
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
