//! Bulk scoring: rows are read while others are scored and their predictions leave, in order. What is held is bounded by the
//! batches under way, whatever the input's length: a caller who does not read is not read from either.

mod answer;
mod arrow;
mod cells;
mod feed;
mod form;
mod pages;
mod parquet;
mod rows;
mod spool;
mod typed;

pub(crate) use form::form;
pub(crate) use parquet::whole as read_parquet;
pub(crate) use rows::bulk;
