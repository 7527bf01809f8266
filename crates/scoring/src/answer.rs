//! Answers of models that ran in process, written byte for byte as MLflow's scoring server writes them.

use std::fmt::Write as _;
use std::sync::Arc;

/// What a native model predicts.
#[derive(Clone, Debug, PartialEq)]
pub enum Predictions {
    /// One label per row.
    Labels(Vec<i64>),
    /// One truth value per row.
    Truths(Vec<bool>),
    /// One text per row.
    Texts(Vec<Arc<str>>),
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
    /// Several named outputs, each as long as its shape says.
    Outputs {
        /// A list of records with one value of each output, of which all have the same length; else an object of nested
        /// lists.
        records: bool,
        /// In order.
        outputs: Vec<Output>,
    },
}

/// One of several named outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Sizes of its dimensions.
    pub shape: Vec<usize>,
    /// Row by row.
    pub values: Values,
}

/// Values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// float32
    Floats(Vec<f32>),
    /// float64
    Doubles(Vec<f64>),
    /// Integers of up to 64 bits.
    Integers(Vec<i64>),
    /// bool
    Truths(Vec<bool>),
    /// str
    Texts(Vec<String>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Doubles(values) => values.len(),
            Self::Integers(values) => values.len(),
            Self::Truths(values) => values.len(),
            Self::Texts(values) => values.len(),
        }
    }

    fn write(&self, out: &mut String, place: usize) {
        match self {
            Self::Floats(values) => write_float(out, f64::from(values[place])),
            Self::Doubles(values) => write_float(out, values[place]),
            Self::Integers(values) => {
                let _ = write!(out, "{}", values[place]);
            }
            Self::Truths(values) => out.push_str(if values[place] { "true" } else { "false" }),
            Self::Texts(values) => write_text(out, &values[place]),
        }
    }

    fn not_finite(&self) -> Option<usize> {
        match self {
            Self::Floats(values) => values.iter().position(|value| !value.is_finite()),
            Self::Doubles(values) => values.iter().position(|value| !value.is_finite()),
            _ => None,
        }
    }
}

/// As nested lists; `start` is the first value's place.
fn write_nested(out: &mut String, shape: &[usize], values: &Values, start: usize) {
    let Some((size, inner)) = shape.split_first() else {
        values.write(out, start);
        return;
    };
    let step = inner.iter().product::<usize>();
    out.push('[');
    for index in 0..*size {
        if index > 0 {
            out.push_str(", ");
        }
        write_nested(out, inner, values, start + index * step);
    }
    out.push(']');
}

/// One value of each output per row, or each output whole.
fn write_outputs(out: &mut String, records: bool, outputs: &[Output]) {
    let rows = if records { outputs.first().map_or(0, |output| output.values.len()) } else { 1 };
    if records {
        out.push('[');
    }
    for row in 0..rows {
        out.push_str(if row > 0 { ", {" } else { "{" });
        for (index, output) in outputs.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            write_text(out, &output.name);
            out.push_str(": ");
            if records {
                output.values.write(out, row);
            } else {
                write_nested(out, &output.shape, &output.values, 0);
            }
        }
        out.push('}');
    }
    if records {
        out.push(']');
    }
}

impl Predictions {
    /// Row and, where rows have several numbers, column of the first value that JSON cannot hold.
    #[must_use]
    pub fn not_finite(&self) -> Option<(usize, Option<usize>)> {
        let (width, at) = match self {
            Self::Labels(_) | Self::Truths(_) | Self::Texts(_) => return None,
            Self::Outputs { outputs, .. } => {
                let found = outputs.iter().enumerate().find_map(|(index, output)| {
                    let row = output.shape.iter().skip(1).product::<usize>().max(1);
                    output.values.not_finite().map(|at| (at / row, index))
                });
                return found.map(|(row, column)| (row, (outputs.len() > 1).then_some(column)));
            }
            Self::Floats { width, values } => (*width, values.iter().position(|value| !value.is_finite())?),
            Self::Doubles { width, values } => (*width, values.iter().position(|value| !value.is_finite())?),
        };
        Some(if width > 1 { (at / width, Some(at % width)) } else { (at, None) })
    }

    /// Adds the rows of an answer of the same kind and width; of another kind there is nothing to add.
    pub fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::Labels(all), Self::Labels(more)) => all.extend(more),
            (Self::Truths(all), Self::Truths(more)) => all.extend(more),
            (Self::Texts(all), Self::Texts(more)) => all.extend(more),
            (Self::Floats { values: all, .. }, Self::Floats { values: more, .. }) => all.extend(more),
            (Self::Doubles { values: all, .. }, Self::Doubles { values: more, .. }) => all.extend(more),
            _ => {}
        }
    }

    /// `{"predictions": [...]}` with Python's separators and number forms. A value that is not finite, which
    /// JSON cannot hold, becomes `null`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::from("{\"predictions\": ");
        match self {
            Self::Labels(labels) => write_list(&mut out, None, labels.iter(), |out, label| {
                let _ = write!(out, "{label}");
            }),
            Self::Truths(truths) => write_list(&mut out, None, truths.iter(), |out, truth| {
                out.push_str(if *truth { "true" } else { "false" });
            }),
            Self::Texts(texts) => write_list(&mut out, None, texts.iter(), |out, text| write_text(out, text)),
            Self::Outputs { records, outputs } => write_outputs(&mut out, *records, outputs),
            Self::Floats { width, values } => {
                let width = (*width > 1).then_some(*width);
                write_list(&mut out, width, values.iter(), |out, value| write_float(out, f64::from(*value)));
            }
            Self::Doubles { width, values } => {
                let width = (*width > 1).then_some(*width);
                write_list(&mut out, width, values.iter(), |out, value| write_float(out, *value));
            }
        }
        out.push('}');
        out
    }
}

/// `width`: numbers per row, each row a list of its own; `None`: one number per row, not in a list.
pub(crate) fn write_list<T>(
    out: &mut String,
    width: Option<usize>,
    values: impl ExactSizeIterator<Item = T>,
    write: impl Fn(&mut String, T),
) {
    let count = values.len();
    out.push('[');
    for (index, value) in values.enumerate() {
        match width {
            Some(width) if index % width == 0 => out.push_str(if index > 0 { "], [" } else { "[" }),
            _ if index > 0 => out.push_str(", "),
            _ => {}
        }
        write(out, value);
        if width.is_some() && index + 1 == count {
            out.push(']');
        }
    }
    out.push(']');
}

/// A JSON string as Python writes it: ASCII only, characters above U+FFFF as surrogate pairs.
fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(letter),
            _ => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// Python's `repr(float)`: the shortest digits that read back (ryu breaks ties to even, as Python does and Rust's
/// own formatting does not), exponent form outside 1e-4..1e16.
pub(crate) fn write_float(out: &mut String, value: f64) {
    if !value.is_finite() {
        out.push_str("null");
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(value);
    let size = value.abs();
    if size == 0.0 || (1e-3..1e15).contains(&size) {
        // Here both write plain digits with a point.
        out.push_str(text);
        return;
    }
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (number, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut exponent = exponent.parse::<i32>().unwrap_or(0) + whole.len() as i32;
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    // 0.digits times ten to this power.
    exponent -= (all.len() - digits.len()) as i32;
    let digits = digits.trim_end_matches('0');
    out.push_str(sign);
    if (-3..=0).contains(&exponent) {
        let _ = write!(out, "0.{}{digits}", "0".repeat(-exponent as usize));
    } else if (1..=16).contains(&exponent) {
        let point = exponent as usize;
        if digits.len() > point {
            let _ = write!(out, "{}.{}", &digits[..point], &digits[point..]);
        } else {
            let _ = write!(out, "{digits}{}.0", "0".repeat(point - digits.len()));
        }
    } else {
        let (first, rest) = digits.split_at(digits.len().min(1));
        let point = if rest.is_empty() { "" } else { "." };
        let power = exponent - 1;
        let sign = if power < 0 { '-' } else { '+' };
        let _ = write!(out, "{first}{point}{rest}e{sign}{:02}", power.abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_python_writes_them() {
        let texts = ["a \"b\"\\", "\u{e9}\u{1f600}\u{7f}\n\u{1}", ""].map(Arc::from).to_vec();
        assert_eq!(
            Predictions::Texts(texts).to_json(),
            r#"{"predictions": ["a \"b\"\\", "\u00e9\ud83d\ude00\u007f\n\u0001", ""]}"#
        );
        assert_eq!(Predictions::Truths(vec![true, false]).to_json(), "{\"predictions\": [true, false]}");
    }

    #[test]
    fn named_outputs_are_records_or_nested_lists() {
        let label = Output { name: "label".to_owned(), shape: vec![2], values: Values::Integers(vec![1, 0]) };
        let share =
            Output { name: "p".to_owned(), shape: vec![2, 1], values: Values::Floats(vec![0.5, 1.0]) };
        let outputs = vec![label, share];
        let answer = |records| Predictions::Outputs { records, outputs: outputs.clone() }.to_json();
        assert_eq!(answer(true), r#"{"predictions": [{"label": 1, "p": 0.5}, {"label": 0, "p": 1.0}]}"#);
        assert_eq!(answer(false), r#"{"predictions": {"label": [1, 0], "p": [[0.5], [1.0]]}}"#);
    }

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let values = [
            25.054_947_f32.into(),
            1.5e-4,
            -2.5e15,
            1.234_567_890_123_456_7e15,
            0.1_f32.into(),
            1.0,
            -0.0,
            1e-5,
            1.5e-7,
            1e16,
            1.25e22,
            123_456_789.0,
            1e15,
            0.0001,
            1e100,
        ];
        let text = Predictions::Doubles { width: 1, values: values.to_vec() }.to_json();
        assert_eq!(
            text,
            "{\"predictions\": [25.054946899414062, 0.00015, -2500000000000000.0, 1234567890123456.8, 0.10000000149011612, 1.0, -0.0, 1e-05, 1.5e-07, 1e+16, 1.25e+22, 123456789.0, \
             1000000000000000.0, 0.0001, 1e+100]}"
        );
        let rows = Predictions::Floats { width: 2, values: vec![0.5, 0.25, 1.0, 2.0] };
        assert_eq!(rows.to_json(), "{\"predictions\": [[0.5, 0.25], [1.0, 2.0]]}");
        assert_eq!(rows.not_finite(), None);
        let odd = Predictions::Floats { width: 2, values: vec![0.5, 0.25, 1.0, f32::NAN] };
        assert_eq!(odd.not_finite(), Some((1, Some(1))));
        let odd = Predictions::Doubles { width: 1, values: vec![0.5, f64::INFINITY] };
        assert_eq!(odd.not_finite(), Some((1, None)));
        assert_eq!(Predictions::Labels(vec![2, 0]).to_json(), "{\"predictions\": [2, 0]}");
    }
}
