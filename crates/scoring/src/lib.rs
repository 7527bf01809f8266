//! The MLflow scoring protocol without IO: signatures, request bodies checked against them, answers as MLflow
//! writes them. Strict by default: what would be cut, wrapped or guessed is refused with the column, row,
//! expected and found type, never with the value.

mod answer;
mod array;
pub mod bulk;
mod cell;
mod combine;
mod content_type;
mod csv_input;
mod flow;
mod frame;
pub mod inference;
mod input;
mod json;
mod params;
mod plain;
mod rows;
mod schema;
mod signature;
mod table;
mod template;

pub use answer::{Output, Predictions, Values};
pub use array::{Array, Dtype};
pub use combine::{Combination, combine};
pub use content_type::ContentType;
pub use flow::{hand_over, mismatch, unlike};
pub use frame::{ColumnData, Data, Form, Frame, Matrix};
pub use input::{Checked, check};
pub use json::Json;
pub use rows::{RowBody, replace};
pub use schema::{answer_schema, request_schema, row_schema};
pub use signature::{Column, Inputs, Kind, Param, Property, Signature, SignatureError, Tensor};
pub use template::{PLACEHOLDERS, Template};

/// A caller's name for a column or member, safe to show: short, without control characters.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(64).map(|c| if c.is_control() || c == '`' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
