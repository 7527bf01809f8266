//! Answers of models that ran in process, written byte for byte as MLflow's scoring server writes them.

use std::fmt::Write as _;

/// What a native model predicts.
#[derive(Clone, Debug, PartialEq)]
pub enum Predictions {
    /// One label per row.
    Labels(Vec<i64>),
    /// float32 values, `width` of them per row; `width` 1 is one number per row.
    Floats {
        /// Numbers per row.
        width: usize,
        /// Row by row.
        values: Vec<f32>,
    },
    /// float64 values, likewise.
    Doubles {
        /// Numbers per row.
        width: usize,
        /// Row by row.
        values: Vec<f64>,
    },
}

impl Predictions {
    /// `{"predictions": [...]}` with Python's separators and number forms. A value that is not finite, which
    /// JSON cannot hold, becomes `null`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::from("{\"predictions\": ");
        match self {
            Self::Labels(labels) => write_list(&mut out, 1, labels, |out, label| {
                let _ = write!(out, "{label}");
            }),
            Self::Floats { width, values } => {
                write_list(&mut out, *width, values, |out, value| write_float(out, f64::from(*value)));
            }
            Self::Doubles { width, values } => {
                write_list(&mut out, *width, values, |out, value| write_float(out, *value));
            }
        }
        out.push('}');
        out
    }
}

fn write_list<T>(out: &mut String, width: usize, values: &[T], write: impl Fn(&mut String, &T)) {
    let plain = |out: &mut String, values: &[T]| {
        out.push('[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            write(out, value);
        }
        out.push(']');
    };
    if width <= 1 {
        return plain(out, values);
    }
    out.push('[');
    for (index, row) in values.chunks(width).enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        plain(out, row);
    }
    out.push(']');
}

/// Python's `repr(float)`: the shortest digits that read back, exponent form outside 1e-4..1e16.
fn write_float(out: &mut String, value: f64) {
    if !value.is_finite() {
        out.push_str("null");
        return;
    }
    let size = value.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        let start = out.len();
        let _ = write!(out, "{value}");
        if !out[start..].contains('.') {
            out.push_str(".0");
        }
        return;
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let values =
            [0.1_f32.into(), 1.0, -0.0, 1e-5, 1.5e-7, 1e16, 1.25e22, 123_456_789.0, 1e15, 0.0001, 1e100];
        let text = Predictions::Doubles { width: 1, values: values.to_vec() }.to_json();
        assert_eq!(
            text,
            "{\"predictions\": [0.10000000149011612, 1.0, -0.0, 1e-05, 1.5e-07, 1e+16, 1.25e+22, 123456789.0, \
             1000000000000000.0, 0.0001, 1e+100]}"
        );
        let rows = Predictions::Floats { width: 2, values: vec![0.5, 0.25, 1.0, 2.0] };
        assert_eq!(rows.to_json(), "{\"predictions\": [[0.5, 0.25], [1.0, 2.0]]}");
        assert_eq!(Predictions::Labels(vec![2, 0]).to_json(), "{\"predictions\": [2, 0]}");
    }
}
