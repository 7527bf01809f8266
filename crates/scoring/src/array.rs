//! Numbers as a worker hands them over, in the machine's little-endian bytes, written as MLflow writes them.

use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;

use crate::answer::{write_float, write_list};

/// What the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 64-bit integers.
    Long,
    /// 32-bit floats.
    Float,
    /// 64-bit floats.
    Double,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Float => 4,
            Self::Long | Self::Double => 8,
        }
    }
}

/// An array of one or two dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    dtype: Dtype,
    /// Numbers per row; `None` where a row is a bare number.
    width: Option<usize>,
    bytes: Bytes,
}

impl Array {
    /// `None` when the bytes are no whole number of rows.
    #[must_use]
    pub fn new(dtype: Dtype, width: Option<usize>, bytes: Bytes) -> Option<Self> {
        let row = width.unwrap_or(1).checked_mul(dtype.size())?;
        (row > 0 && bytes.len().is_multiple_of(row)).then_some(Self { dtype, width, bytes })
    }

    fn row_size(&self) -> usize {
        self.width.unwrap_or(1) * self.dtype.size()
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.row_size()
    }

    /// How many bytes its numbers have.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// `{"predictions": [...]}` of some rows, which are cut to those that are there.
    ///
    /// # Errors
    ///
    /// Row (within `rows`) and, where rows have several numbers, column of the first one that JSON cannot hold.
    pub fn to_json(&self, rows: Range<usize>) -> Result<String, (usize, Option<usize>)> {
        let size = self.row_size();
        let end = rows.end.saturating_mul(size).min(self.bytes.len());
        let bytes = self.bytes.get(rows.start.saturating_mul(size)..end).unwrap_or_default();
        let mut out = String::with_capacity(24 + bytes.len() * 2);
        out.push_str("{\"predictions\": ");
        let odd = match self.dtype {
            Dtype::Long => {
                let values = bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
                write_list(&mut out, self.width, values, |out, value| {
                    let _ = write!(out, "{value}");
                });
                None
            }
            Dtype::Float => {
                let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                let odd = values.clone().position(|value| !value.is_finite());
                write_list(&mut out, self.width, values, |out, value| write_float(out, f64::from(value)));
                odd
            }
            Dtype::Double => {
                let values = bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
                let odd = values.clone().position(|value| !value.is_finite());
                write_list(&mut out, self.width, values, write_float);
                odd
            }
        };
        out.push('}');
        match odd {
            None => Ok(out),
            Some(at) => Err(self.width.map_or((at, None), |width| (at / width, Some(at % width)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f64]) -> Bytes {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    #[test]
    fn rows_are_cut_out_and_written_as_python_writes_them() {
        let array = Array::new(Dtype::Double, Some(2), bytes(&[0.1, 1e16, 1e-5, -0.0])).unwrap();
        assert_eq!(array.rows(), 2);
        assert_eq!(array.to_json(0..2).unwrap(), r#"{"predictions": [[0.1, 1e+16], [1e-05, -0.0]]}"#);
        assert_eq!(array.to_json(1..2).unwrap(), r#"{"predictions": [[1e-05, -0.0]]}"#);
        let single = Array::new(Dtype::Double, Some(1), bytes(&[1.0, 2.0])).unwrap();
        assert_eq!(single.to_json(0..2).unwrap(), r#"{"predictions": [[1.0], [2.0]]}"#);
        let flat = Array::new(Dtype::Double, None, bytes(&[1.0, 2.0])).unwrap();
        assert_eq!(flat.to_json(0..2).unwrap(), r#"{"predictions": [1.0, 2.0]}"#);
        let labels = Array::new(Dtype::Long, None, 7_i64.to_le_bytes().to_vec().into()).unwrap();
        assert_eq!(labels.to_json(0..1).unwrap(), r#"{"predictions": [7]}"#);
        let none = Array::new(Dtype::Long, None, Bytes::new()).unwrap();
        assert_eq!(none.to_json(0..0).unwrap(), r#"{"predictions": []}"#);
    }

    #[test]
    fn what_json_cannot_hold_is_told_by_its_place() {
        let array = Array::new(Dtype::Double, Some(2), bytes(&[0.1, 1.0, 1.0, f64::NAN])).unwrap();
        assert!(array.to_json(0..1).is_ok());
        assert_eq!(array.to_json(1..2), Err((0, Some(1))));
        let flat = Array::new(Dtype::Double, None, bytes(&[f64::INFINITY])).unwrap();
        assert_eq!(flat.to_json(0..1), Err((0, None)));
        assert!(Array::new(Dtype::Double, Some(2), bytes(&[1.0])).is_none());
        assert!(Array::new(Dtype::Double, Some(0), Bytes::new()).is_none());
    }
}
