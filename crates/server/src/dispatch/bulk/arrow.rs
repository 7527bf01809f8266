//! Rows in Arrow's form, as an IPC stream or one record batch after the other: they become bodies of the scoring protocol, some
//! rows at a time. Holds one record batch and what of the next has come.

use std::collections::VecDeque;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::DataType;
use millgate_scoring::bulk::{Batch, BatchLimits};
use millgate_scoring::{Inputs, Signature};
use millgate_types::{Fault, code};

use super::cells;

/// The longest record batch, in bytes as they come.
const MAX_RECORD_BATCH: usize = 64 << 20;

/// Record batches on their way in.
pub(super) struct ArrowRows {
    limits: BatchLimits,
    decoder: StreamDecoder,
    /// Those of which rows are left.
    batches: VecDeque<RecordBatch>,
    /// The first row of the first one that is left.
    at: usize,
    /// Bytes of the record batch that is still coming.
    coming: usize,
    /// The number of the next row.
    next: u64,
}

impl ArrowRows {
    pub(super) fn new(limits: BatchLimits) -> Self {
        let (decoder, batches) = (StreamDecoder::new(), VecDeque::new());
        Self { limits, decoder, batches, at: 0, coming: 0, next: 0 }
    }

    /// Takes a record batch as it is.
    pub(super) fn push_batch(&mut self, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.batches.push_back(batch);
        }
    }

    /// Takes bytes of an IPC stream; `last`: nothing comes behind them.
    pub(super) fn push(&mut self, bytes: &[u8], last: bool) -> Result<(), Fault> {
        let broken = |cause: arrow_schema::ArrowError| {
            let public = "the body is no Arrow IPC stream, or it is damaged";
            Fault::client(code::BAD_ENCODING, public).with_cause(cause)
        };
        self.coming += bytes.len();
        let mut buffer = Buffer::from(bytes.to_vec());
        while !buffer.is_empty() {
            if let Some(batch) = self.decoder.decode(&mut buffer).map_err(broken)? {
                self.coming = buffer.len();
                self.push_batch(batch);
            }
        }
        if self.coming > MAX_RECORD_BATCH {
            let public = format!("a record batch is over the limit of {MAX_RECORD_BATCH} bytes");
            return Err(Fault::client(code::BODY_TOO_LARGE, public));
        }
        if last {
            // A stream may end without the mark of its end, but not inside a message.
            self.decoder.finish().map_err(broken)?;
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        let rows: usize = self.batches.iter().map(RecordBatch::num_rows).sum();
        rows >= self.at + self.limits.rows || self.batches.len() > 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The next batch, if a row is there. Faults: `schema_mismatch` for columns that have no counterpart, `body_too_large` for a
    /// row that is longer than a batch may be.
    pub(super) fn take(&mut self, signature: Option<&Signature>) -> Option<Result<Batch, Fault>> {
        let batch = self.batches.front()?;
        let first = self.next;
        let tensor = is_tensor(signature);
        let mut body = before(batch, tensor);
        let mut rows = 0;
        while self.at + rows < batch.num_rows() && rows < self.limits.rows {
            if rows > 0 {
                if body.len() > self.limits.bytes {
                    break;
                }
                body.push(',');
            }
            let (before, number) = (body.len(), first + rows as u64);
            let written = write_row(&mut body, batch, self.at + rows, number, tensor);
            let too_long = || {
                let public = format!("row {number} is over the limit of {} bytes", self.limits.bytes);
                Fault::client(code::BODY_TOO_LARGE, public)
            };
            let long = body.len() - before > self.limits.bytes;
            if let Err(fault) = written.and_then(|()| if long { Err(too_long()) } else { Ok(()) }) {
                if rows > 0 {
                    // Those before it are answered first.
                    body.truncate(before - 1);
                    break;
                }
                return Some(Err(fault));
            }
            rows += 1;
        }
        body.push_str(if tensor { "]}" } else { "]}}" });
        self.at += rows;
        self.next += rows as u64;
        if self.at >= batch.num_rows() {
            self.batches.pop_front();
            self.at = 0;
        }
        Some(Ok(Batch { first, rows, body: body.into_bytes() }))
    }
}

fn is_tensor(signature: Option<&Signature>) -> bool {
    signature.is_some_and(|signature| matches!(signature.inputs, Some(Inputs::Tensors(_))))
}

/// What stands before the rows.
fn before(batch: &RecordBatch, tensor: bool) -> String {
    if tensor {
        return "{\"inputs\":[".to_owned();
    }
    let schema = batch.schema_ref();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    format!("{{\"dataframe_split\":{{\"columns\":{},\"data\":[", serde_json::json!(names))
}

/// Adds a row as a list of its cells, or as the one cell that is a tensor. Fault: `schema_mismatch`.
pub(super) fn write_row(
    out: &mut String,
    batch: &RecordBatch,
    row: usize,
    number: u64,
    tensor: bool,
) -> Result<(), Fault> {
    // One column of lists is the tensor itself.
    let is_whole = |column: &ArrayRef| {
        matches!(column.data_type(), DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
    };
    let bare = tensor && matches!(batch.columns(), [column] if is_whole(column));
    if !bare {
        out.push('[');
    }
    for (place, column) in batch.columns().iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        cells::write(out, column.as_ref(), row).map_err(|reason| {
            let schema = batch.schema_ref();
            let name: String =
                schema.field(place).name().chars().filter(|c| !c.is_control()).take(64).collect();
            Fault::client(code::SCHEMA_MISMATCH, format!("column `{name}`, row {number}: {reason}"))
        })?;
    }
    if !bare {
        out.push(']');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, StringArray};
    use arrow_ipc::writer::StreamWriter;

    use super::*;

    fn stream(columns: Vec<(&str, ArrayRef)>, times: usize) -> Vec<u8> {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
        for _ in 0..times {
            writer.write(&batch).unwrap();
        }
        writer.into_inner().unwrap()
    }

    fn rows() -> ArrowRows {
        ArrowRows::new(BatchLimits { rows: 2, bytes: 1000 })
    }

    #[test]
    fn record_batches_become_bodies_however_they_come() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(3)]))),
            ("x", Arc::new(Float64Array::from(vec![0.1, f64::NAN, 1e22]))),
            ("f", Arc::new(Float32Array::from(vec![0.1_f32, 1.0, 2.0]))),
            ("t", Arc::new(StringArray::from(vec!["a\"]", "b", "c"]))),
            ("b", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ];
        let bytes = stream(columns, 2);
        for piece in [1, 7, 64, bytes.len()] {
            let mut rows = rows();
            let mut found = Vec::new();
            for part in bytes.chunks(piece) {
                rows.push(part, false).unwrap();
                while rows.is_full() {
                    found.push(rows.take(None).unwrap().unwrap());
                }
            }
            rows.push(b"", true).unwrap();
            while let Some(batch) = rows.take(None) {
                found.push(batch.unwrap());
            }
            let shape: Vec<_> = found.iter().map(|batch| (batch.first, batch.rows)).collect();
            assert_eq!(shape, [(0, 2), (2, 1), (3, 2), (5, 1)], "{piece}");
            assert_eq!(
                String::from_utf8_lossy(&found[0].body),
                r#"{"dataframe_split":{"columns":["n","x","f","t","b"],"data":[[9223372036854775807,0.1,0.10000000149011612,"a\"]",true],[null,null,1.0,"b",false]]}}"#
            );
            assert!(String::from_utf8_lossy(&found[1].body).contains("[3,1e22,2.0,\"c\",true]"));
        }
    }

    #[test]
    fn what_is_damaged_or_has_no_counterpart_is_refused() {
        let bytes = stream(vec![("n", Arc::new(Int64Array::from(vec![1, 2])))], 1);
        let mut cut = rows();
        cut.push(&bytes[..bytes.len() - 20], false).unwrap();
        assert_eq!(cut.push(b"", true).unwrap_err().code, code::BAD_ENCODING);
        assert_eq!(rows().push(b"PAR1 is something else", true).unwrap_err().code, code::BAD_ENCODING);
        let infinite = stream(vec![("x", Arc::new(Float64Array::from(vec![f64::INFINITY])))], 1);
        let mut rows = rows();
        rows.push(&infinite, true).unwrap();
        let fault = rows.take(None).unwrap().unwrap_err();
        assert_eq!(fault.public, "column `x`, row 0: the number is infinite");
    }
}
