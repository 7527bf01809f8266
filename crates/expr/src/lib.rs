//! Expressions and templates of the configuration: compiled at load, with bounds on what they may cost, evaluated on
//! data of callers and models. Does no IO; its errors never hold the data.

mod condition;
mod expression;
mod template;

pub use condition::Condition;
pub use expression::Expression;
pub use template::BodyTemplate;

use serde_json::Value;

/// What an expression or a template can name.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `result`: what the model before answered.
    pub result: &'a Value,
    /// `request`: what was asked for.
    pub request: &'a Value,
    /// `rows`: how many rows the request has.
    pub rows: u64,
}

/// The names of [`Facts`].
pub(crate) const NAMES: [&str; 3] = ["result", "request", "rows"];
