//! Rows as a Parquet file: its end says where its columns are, so it must be there whole. It is read some rows at a time, off
//! the data thread, with memory for the pages that are open and the rows at hand. What a file says about itself is not
//! believed: its pages are weighed first, and a reader that stumbles stops alone.

use std::fs::File;
use std::future::Future as _;
use std::io::{Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use ::parquet::basic::Compression;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::ChunkReader;
use arrow_array::{RecordBatch, RecordBatchReader as _};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use millgate_scoring::bulk::BatchLimits;
use millgate_types::{Fault, code};
use tokio::task::JoinHandle;

use super::arrow::write_row;
use super::cells;
use super::pages::{self, Weight};
use super::spool::{Kept, Spooled};

/// The longest description of a file at its end.
const MAX_FOOTER: u32 = 8 << 20;
const MAX_COLUMNS: usize = 4096;
/// Pages of a row group that are open at once, decoded.
const MAX_OPEN: u64 = 256 << 20;
/// Values of the rows that are read at once.
const MAX_ROWS: u64 = 32 << 20;
/// A byte of a file may hold so many rows: columns of one value take next to nothing.
const ROWS_A_BYTE: u64 = 100;
/// A file may have so many rows whatever its size.
const FREE_ROWS: u64 = 1 << 20;

type Next = (ParquetRecordBatchReader, Option<Result<RecordBatch, ArrowError>>);

/// The record batches of a file.
pub(super) struct Batches {
    state: State,
    /// The file is kept as long.
    _kept: Kept,
}

enum State {
    Idle(ParquetRecordBatchReader),
    Reading(JoinHandle<Next>),
    Done,
}

impl Batches {
    /// Faults: `bad_encoding`, `schema_mismatch`, `body_too_large`.
    pub(super) async fn open(spooled: Spooled, limits: BatchLimits) -> Result<Self, Fault> {
        let Spooled { file, kept } = spooled;
        let opened = tokio::task::spawn_blocking(move || {
            let pages = file.try_clone().map_err(damaged)?;
            open::<File>(file, pages, limits.rows)
        });
        let reader = opened.await.unwrap_or_else(|stopped| Err(stumbled(stopped)))?;
        Ok(Self { state: State::Idle(reader), _kept: kept })
    }

    /// The next rows; `None` behind the last ones or a fault.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch, Fault>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Poll::Ready(None),
                State::Idle(mut reader) => {
                    self.state = State::Reading(tokio::task::spawn_blocking(move || {
                        let next = reader.next();
                        (reader, next)
                    }));
                }
                State::Reading(mut reading) => {
                    let Poll::Ready(done) = Pin::new(&mut reading).poll(context) else {
                        self.state = State::Reading(reading);
                        return Poll::Pending;
                    };
                    return Poll::Ready(match done {
                        Ok((reader, Some(Ok(batch)))) => {
                            self.state = State::Idle(reader);
                            Some(Ok(batch))
                        }
                        Ok((_, Some(Err(cause)))) => Some(Err(damaged(ParquetError::from(cause)))),
                        Ok((_, None)) => None,
                        Err(stopped) => Some(Err(stumbled(stopped))),
                    });
                }
            }
        }
    }
}

/// A whole file as one body of the scoring protocol, at most `limit` bytes long; `None` where a column has no counterpart.
/// Faults: `bad_encoding`, `body_too_large`.
pub(crate) async fn whole(body: Bytes, limit: usize) -> Result<Option<Bytes>, Fault> {
    let read = tokio::task::spawn_blocking(move || {
        let opened = open(body.clone(), std::io::Cursor::new(body), 1000);
        let reader = match opened {
            Ok(reader) => reader,
            Err(fault) if fault.code == code::SCHEMA_MISMATCH => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let mut out = String::from("{\"dataframe_split\":{\"columns\":");
        let schema = reader.schema();
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        out.push_str(&serde_json::json!(names).to_string());
        out.push_str(",\"data\":[");
        let mut row = 0;
        for batch in reader {
            let batch = batch.map_err(|cause| damaged(ParquetError::from(cause)))?;
            for at in 0..batch.num_rows() {
                if row > 0 {
                    out.push(',');
                }
                write_row(&mut out, &batch, at, row, false)?;
                row += 1;
                if out.len() > limit {
                    let public = format!("the rows are over the limit of {limit} bytes as JSON");
                    return Err(Fault::client(code::BODY_TOO_LARGE, public));
                }
            }
        }
        out.push_str("]}}");
        Ok(Some(Bytes::from(out)))
    });
    read.await.unwrap_or_else(|stopped| Err(stumbled(stopped)))
}

/// Reads a file's end, checks what it says, and weighs its pages.
fn open<T: ChunkReader + 'static>(
    file: T,
    mut pages: impl Read + Seek,
    most_rows: usize,
) -> Result<ParquetRecordBatchReader, Fault> {
    check_footer(&mut pages)?;
    let size = file.len();
    // What a file says about the Arrow types it was made of is left alone: words instead of codes, plain texts.
    let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::load(&file, plain).map_err(damaged)?;
    let schema = taken(&metadata)?;
    let rows = weighed(metadata.metadata(), &mut pages, most_rows, size)?;
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options).map_err(damaged)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    builder.with_batch_size(rows).build().map_err(damaged)
}

fn check_footer(file: &mut (impl Read + Seek)) -> Result<(), Fault> {
    let mut end = [0; 8];
    let read = file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut end));
    let [a, b, c, d, magic @ ..] = end;
    if read.is_err() || magic != *b"PAR1" {
        return Err(Fault::client(code::BAD_ENCODING, DAMAGED));
    }
    if u32::from_le_bytes([a, b, c, d]) > MAX_FOOTER {
        let public = format!("the file's description is over the limit of {MAX_FOOTER} bytes");
        return Err(Fault::client(code::BODY_TOO_LARGE, public));
    }
    Ok(())
}

/// The columns as they are read: texts stay in the pages that they came in.
fn taken(metadata: &ArrowReaderMetadata) -> Result<Schema, Fault> {
    let mismatch = |public: String| Fault::client(code::SCHEMA_MISMATCH, public);
    let fields = metadata.schema().fields();
    if fields.len() > MAX_COLUMNS {
        return Err(mismatch(format!("the file has more than {MAX_COLUMNS} columns")));
    }
    let mut read = Vec::with_capacity(fields.len());
    for field in fields {
        let refused = |reason: &str| {
            let name: String = field.name().chars().filter(|c| !c.is_control()).take(64).collect();
            mismatch(format!("column `{name}`: {reason}"))
        };
        let kind = match field.data_type() {
            DataType::Utf8 => DataType::Utf8View,
            DataType::Binary => DataType::BinaryView,
            // A row of them may be as long as all others together.
            kind if kind.is_nested() => return Err(refused("lists and objects are not taken from Parquet")),
            kind if cells::is_taken(kind) => kind.clone(),
            _ => return Err(refused(cells::NOT_TAKEN)),
        };
        read.push(Field::new(field.name(), kind, field.is_nullable()));
    }
    Ok(Schema::new(read))
}

/// How many rows may be read at once.
fn weighed(
    metadata: &ParquetMetaData,
    pages: &mut (impl Read + Seek),
    most_rows: usize,
    size: u64,
) -> Result<usize, Fault> {
    let too_large = |public: String| Fault::client(code::BODY_TOO_LARGE, public);
    let (mut all, mut row) = (0_u64, 1);
    for group in metadata.row_groups() {
        all = all.saturating_add(u64::try_from(group.num_rows()).unwrap_or(u64::MAX));
        let (mut open, mut values) = (0_u64, 0_u64);
        for column in group.columns() {
            let compression = column.compression();
            if !matches!(
                compression,
                Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) | Compression::GZIP(_)
            ) {
                let name = format!("{compression:?}");
                let name = name.split('(').next().unwrap_or_default();
                let public = format!("the file is compressed with {name}: snappy, zstd and gzip are taken");
                return Err(Fault::client(code::UNSUPPORTED_ENCODING, public));
            }
            // A negative place makes this panic, which is caught.
            let (start, length) = column.byte_range();
            if start.saturating_add(length) > size {
                return Err(Fault::client(code::BAD_ENCODING, DAMAGED));
            }
            let weight = pages::weigh(pages, start, length).map_err(unweighable)?;
            let Weight { open: page, value } = weight;
            open = open.saturating_add(page);
            values = values.saturating_add(value);
        }
        if open > MAX_OPEN {
            let public = format!("pages of a row group are over the limit of {MAX_OPEN} bytes together");
            return Err(too_large(public));
        }
        row = values.max(row);
    }
    if all > FREE_ROWS && all > size.saturating_mul(ROWS_A_BYTE) {
        return Err(too_large(format!("the file has more than {ROWS_A_BYTE} rows a byte")));
    }
    let rows = usize::try_from(MAX_ROWS / row).unwrap_or(usize::MAX);
    Ok(rows.clamp(1, most_rows))
}

const DAMAGED: &str = "the body is no Parquet file, or it is damaged";

fn unweighable(cause: std::io::Error) -> Fault {
    if cause.kind() == std::io::ErrorKind::Unsupported {
        let public = format!("the file has pages in the encoding {cause}, which is not taken");
        return Fault::client(code::UNSUPPORTED_ENCODING, public);
    }
    damaged(cause)
}

fn damaged(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
    Fault::client(code::BAD_ENCODING, DAMAGED).with_cause(cause)
}

/// The reader met something that it did not look for.
fn stumbled(stopped: tokio::task::JoinError) -> Fault {
    damaged(stopped)
}
