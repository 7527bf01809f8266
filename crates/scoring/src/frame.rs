//! Checked input as a native runtime takes it: columns in the signature's order, or one matrix.

/// What a checked request holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// One entry per column of the signature.
    Frame(Frame),
    /// The one unnamed tensor of a tensor signature, two-dimensional.
    Matrix(Matrix),
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
