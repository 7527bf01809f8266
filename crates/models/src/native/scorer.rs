//! An estimator that nothing here computes, as an ONNX graph that skl2onnx made of it. It computes in 32 bits, so it serves
//! only where the endpoint has a `tolerance`.

use std::path::Path;
use std::sync::Arc;

use millgate_scoring::{Predictions, Values};
use millgate_types::{Fault, Retry, code};
use ort::session::SessionInputValue;
use ort::value::{Tensor, TensorElementType, ValueType};

use super::onnx::{Pool, output};

/// The largest graph, in bytes.
const LIMIT: usize = 64 << 20;

/// A graph with one input, `features` 32-bit numbers a row.
#[derive(Debug)]
pub(super) struct Scorer {
    pool: Pool,
    input: String,
    output: String,
    features: usize,
}

impl Scorer {
    /// Opens a graph. `output` is the one that answers. The error says why it is refused.
    pub(super) fn open(
        library: &Path,
        graph: &[u8],
        output: String,
        features: usize,
    ) -> Result<Self, String> {
        if graph.len() > LIMIT {
            return Err("a graph that is too large".to_owned());
        }
        let (pool, input) = Pool::open(library, graph, |ends| {
            use TensorElementType as E;
            let [(input, kind)] = ends.inputs.as_slice() else {
                return Err("a graph with several inputs".to_owned());
            };
            let takes = matches!(kind, ValueType::Tensor { ty: E::Float32, shape, .. }
                if matches!(**shape, [rows, width] if rows < 0 && width == features as i64));
            if !takes {
                return Err("a graph that does not fit its features".to_owned());
            }
            let answers = ends.outputs.iter().any(|(name, kind)| {
                *name == output
                    && matches!(kind, ValueType::Tensor { ty: E::Float32 | E::Int64 | E::String, .. })
            });
            if answers { Ok(input.clone()) } else { Err("a graph without its answer".to_owned()) }
        })?;
        Ok(Self { pool, input, output, features })
    }

    /// The answers to rows of as many numbers as there are features: one a row, or several of a kind.
    pub(super) fn predict(&self, rows: Vec<f32>) -> Result<Predictions, Fault> {
        let failed = || Fault::worker(code::MODEL_FAILED, Retry::NextTarget, "the ONNX Runtime failed");
        let count = rows.len() / self.features;
        let fails = |error: ort::Error| failed().with_cause(error);
        let value = Tensor::from_array(([count, self.features], rows)).map_err(fails)?.into_dyn();
        let input = vec![(std::borrow::Cow::Borrowed(self.input.as_str()), SessionInputValue::from(value))];
        let mut session = self.pool.session();
        let answered = session.run(input).map_err(fails)?;
        let value = answered.get(&self.output).ok_or_else(failed)?;
        let output = output(&self.output, value).map_err(fails)?;
        let width = match output.shape.as_slice() {
            [rows] if *rows == count => 1,
            [rows, width] if *rows == count => *width,
            _ => return Err(failed()),
        };
        Ok(match output.values {
            Values::Integers(labels) if width == 1 => Predictions::Labels(labels),
            Values::Texts(texts) if width == 1 => {
                Predictions::Texts(texts.into_iter().map(Arc::from).collect())
            }
            Values::Floats(values) => {
                Predictions::Doubles { width, values: values.into_iter().map(f64::from).collect() }
            }
            _ => return Err(failed()),
        })
    }
}
