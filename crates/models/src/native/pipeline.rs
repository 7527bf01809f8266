//! A converted scikit-learn model: steps, then an estimator. Rows go through the steps one by one, then through the
//! estimator together.

use millgate_scoring::{ColumnData, Data, Form, Frame, Predictions};
use millgate_types::{Fault, code};
use serde::Deserialize;

use super::estimator::{Answer, Estimator, Gathered};
use super::rejected;
use super::transform::{Absent, Cell, Row, Step};

/// A model as it was described.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Columns of the input.
    pub(super) width: u32,
    /// Each with the features that come out of it.
    pub(super) steps: Vec<(Step, u32)>,
    pub(super) estimator: Estimator,
    pub(super) answer: Answer,
    pub(super) nulls: Nulls,
}

/// What a null in a text column is for Python: that depends on the body's form and on the column's other cells.
#[derive(Debug, Deserialize)]
pub(super) struct Nulls {
    /// In a table, beside texts.
    beside: Null,
    /// In a table, in a column of nothing else.
    alone: Null,
    /// In `inputs` and `instances`.
    typed: Null,
    csv: Null,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Null {
    None,
    Nan,
    /// The word `None`.
    Word,
    Refused,
}

impl Pipeline {
    /// How much a row costs, in tree walks.
    pub(super) fn work(&self) -> usize {
        // A step of one row costs about what a tree does.
        self.estimator.work() + self.steps.len()
    }

    /// Whether an ONNX graph is in it.
    pub(super) fn has_graph(&self) -> bool {
        matches!(self.estimator, Estimator::Graph(_))
    }

    /// Whether answers must be Python's to the last bit.
    pub(super) fn is_exact(&self) -> bool {
        self.estimator.is_exact()
            && match &self.answer {
                Answer::Values(link) => link.is_exact(),
                Answer::Labels(..) | Answer::Own => true,
            }
    }

    pub(super) fn predict(&self, data: &Data) -> Result<Predictions, Fault> {
        let mut blocks = Blocks { pipeline: self, gathered: self.estimator.gather(), rows: 0, done: None };
        let mut row = Row::new();
        match data {
            Data::Matrix(matrix) if matrix.width != self.width as usize && matrix.rows > 0 => {
                let text = format!("expected {} values a row, found {}", self.width, matrix.width);
                return Err(Fault::client(code::SCHEMA_MISMATCH, text));
            }
            Data::Matrix(matrix) => {
                for (index, values) in matrix.values.chunks_exact(matrix.width.max(1)).enumerate() {
                    row.clear();
                    row.extend((0..).zip(values).map(|(place, value)| (place, Cell::Number(*value))));
                    blocks.push(index, &mut row)?;
                }
            }
            Data::Frame(frame) => {
                let nulls = self.nulls_of(frame);
                for index in 0..frame.rows {
                    read_row(frame, &nulls, index, &mut row)?;
                    blocks.push(index, &mut row)?;
                }
            }
        }
        blocks.finish()
    }

    /// For each column.
    fn nulls_of(&self, frame: &Frame) -> Vec<Null> {
        let each = frame.columns.iter().map(|column| match (frame.form, column) {
            (Form::Csv, _) => self.nulls.csv,
            (Form::Typed, _) => self.nulls.typed,
            (Form::Table, ColumnData::Text(cells)) if cells.iter().all(Option::is_none) => self.nulls.alone,
            (Form::Table, _) => self.nulls.beside,
        });
        each.collect()
    }
}

/// Numbers that are spread out for an estimator at a time: many rows of a wide model are answered in blocks.
const BLOCK: usize = 1 << 20;

/// Rows on their way to the estimator, and what was answered already.
struct Blocks<'p> {
    pipeline: &'p Pipeline,
    gathered: Gathered,
    rows: usize,
    done: Option<Predictions>,
}

impl<'p> Blocks<'p> {
    fn push<'a>(&mut self, index: usize, row: &mut Row<'a>) -> Result<(), Fault>
    where
        'p: 'a,
    {
        let refused = |why: &str| rejected(format!("row {index}: {why}"));
        let mut width = self.pipeline.width;
        for (step, made) in &self.pipeline.steps {
            let mut next = Row::with_capacity(row.len());
            step.apply(row, width, 0, &mut next).map_err(refused)?;
            *row = next;
            width = *made;
        }
        self.pipeline.estimator.push(row, width as usize, &mut self.gathered).map_err(refused)?;
        self.rows += 1;
        if self.rows * width as usize > BLOCK {
            self.answer()?;
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<(), Fault> {
        let Pipeline { estimator, answer, .. } = self.pipeline;
        let rows = std::mem::replace(&mut self.gathered, estimator.gather());
        let more = estimator.finish(rows, answer)?;
        self.rows = 0;
        match &mut self.done {
            None => self.done = Some(more),
            Some(done) => done.append(more),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Predictions, Fault> {
        if self.rows > 0 || self.done.is_none() {
            self.answer()?;
        }
        Ok(self.done.unwrap_or(Predictions::Labels(Vec::new())))
    }
}

fn read_row<'a>(frame: &'a Frame, nulls: &[Null], index: usize, row: &mut Row<'a>) -> Result<(), Fault> {
    row.clear();
    for (place, (column, null)) in (0..).zip(frame.columns.iter().zip(nulls)) {
        let cell = match column {
            ColumnData::Int(cells) => cells.get(index).map(|cell| Cell::Number(*cell as f64)),
            ColumnData::Float(cells) => cells.get(index).map(|cell| Cell::Number(*cell)),
            ColumnData::Text(cells) => match (cells.get(index), null) {
                (None, _) => None,
                (Some(Some(text)), _) => Some(Cell::Text(text)),
                (Some(None), Null::None) => Some(Cell::Nothing(Absent::None)),
                (Some(None), Null::Nan) => Some(Cell::Nothing(Absent::Nan)),
                (Some(None), Null::Word) => Some(Cell::Text("None")),
                (Some(None), Null::Refused) => {
                    return Err(rejected(format!("row {index}: the model takes no missing texts")));
                }
            },
            ColumnData::Bool(cells) => match cells.get(index) {
                Some(Some(cell)) => Some(Cell::Number(f64::from(u8::from(*cell)))),
                Some(None) => return Err(rejected(format!("row {index}: the model takes no null booleans"))),
                None => None,
            },
            ColumnData::Missing => {
                return Err(rejected(format!("the model needs all of its {} columns", frame.columns.len())));
            }
            ColumnData::Opaque => None,
        };
        row.push((
            place,
            cell.ok_or_else(|| rejected("a column of a type that the model does not take".to_owned()))?,
        ));
    }
    Ok(())
}
