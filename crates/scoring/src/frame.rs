//! Checked input as a native runtime takes it: columns in the signature's order, or one matrix.

use std::ops::Range;

/// What a checked request holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// One entry per column of the signature.
    Frame(Frame),
    /// The one unnamed tensor of a tensor signature, two-dimensional.
    Matrix(Matrix),
}

impl Data {
    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.rows,
            Self::Matrix(matrix) => matrix.rows,
        }
    }

    /// Some of its rows; those that are not there are left out.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> Self {
        fn cut<T: Clone>(cells: &[T], rows: &Range<usize>) -> Vec<T> {
            cells.get(rows.start.min(cells.len())..rows.end.min(cells.len())).unwrap_or_default().to_vec()
        }
        let count = rows.end.min(self.rows()).saturating_sub(rows.start);
        match self {
            Self::Frame(frame) => {
                let columns = frame.columns.iter().map(|column| match column {
                    ColumnData::Int(cells) => ColumnData::Int(cut(cells, &rows)),
                    ColumnData::Float(cells) => ColumnData::Float(cut(cells, &rows)),
                    ColumnData::Bool(cells) => ColumnData::Bool(cut(cells, &rows)),
                    ColumnData::Text(cells) => ColumnData::Text(cut(cells, &rows)),
                    ColumnData::Opaque => ColumnData::Opaque,
                    ColumnData::Missing => ColumnData::Missing,
                });
                Self::Frame(Frame { rows: count, columns: columns.collect(), form: frame.form })
            }
            Self::Matrix(matrix) => {
                let width = matrix.width;
                let values = cut(&matrix.values, &(rows.start * width..rows.end * width));
                Self::Matrix(Matrix { rows: count, width, values })
            }
        }
    }
}

/// A table whose columns are those of the signature, in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Rows in every column.
    pub rows: usize,
    /// The columns.
    pub columns: Vec<ColumnData>,
    /// How it came.
    pub form: Form,
}

/// How a table came: Python reads a missing text differently from each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `dataframe_split`, `dataframe_records`
    Table,
    /// `inputs`, `instances`
    Typed,
    /// `text/csv`
    Csv,
}

/// The cells of one column.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnData {
    /// `integer` and `long`.
    Int(Vec<i64>),
    /// `float` and `double`; null is NaN. `float` cells are rounded to 32 bits.
    Float(Vec<f64>),
    /// `boolean`.
    Bool(Vec<Option<bool>>),
    /// `string`.
    Text(Vec<Option<String>>),
    /// A type no native runtime takes, checked and left in the body.
    Opaque,
    /// An optional column that the caller left out.
    Missing,
}

/// A two-dimensional tensor, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Values per row.
    pub width: usize,
    /// All values, rounded as the tensor's type demands.
    pub values: Vec<f64>,
}
