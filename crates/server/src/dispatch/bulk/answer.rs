//! Predictions on their way out: lines of JSON, or an Arrow IPC stream whose columns keep the types of the first batch.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::writer::StreamWriter;
use arrow_ipc::{
    KeyValue, KeyValueArgs, Message, MessageArgs, MessageHeader, MetadataVersion, RecordBatch as Rows,
    RecordBatchArgs, root_as_message,
};
use arrow_schema::Schema;
use flatbuffers::FlatBufferBuilder;
use millgate_models::LiveModel;
use millgate_scoring::bulk::answer_lines;
use millgate_types::{Dialect, Fault, RequestId, Retry, code};
use serde::Deserialize;
use serde_json::Value;

use super::form::AnswerForm;
use super::typed::Columns;

/// The member of the last message's metadata that says what went wrong.
const ERROR: &str = "millgate:error";

/// What writes the answer.
pub(super) enum Answer {
    Lines,
    Arrow(Box<Arrow>),
}

/// An Arrow IPC stream on its way out.
#[derive(Default)]
pub(super) struct Arrow {
    /// `None`: nothing has been written.
    stream: Option<(Columns, StreamWriter<Vec<u8>>)>,
}

impl Answer {
    pub(super) fn new(form: AnswerForm) -> Self {
        match form {
            AnswerForm::Lines => Self::Lines,
            AnswerForm::Arrow => Self::Arrow(Box::default()),
        }
    }

    /// The predictions of a batch as bytes of the answer. `live`: the model that answers, where only one does. Fault:
    /// `model_failed` for what is no answer to so many rows, or does not have the columns' types.
    pub(super) fn write(
        &mut self,
        body: &[u8],
        rows: usize,
        live: impl FnOnce() -> Option<LiveModel>,
    ) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Lines => answer_lines(body, rows),
            Self::Arrow(arrow) => arrow.write(body, rows, live),
        }
    }

    /// What stands behind the last prediction: the answer is whole.
    pub(super) fn finish(&mut self, live: impl FnOnce() -> Option<LiveModel>) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Lines => Ok(Vec::new()),
            Self::Arrow(arrow) => arrow.finish(live),
        }
    }

    /// What went wrong, for the last thing that the caller gets. Nothing that means success follows it.
    pub(super) fn fail(&mut self, fault: &Fault, id: RequestId) -> Vec<u8> {
        let line = millgate_dialect::codec(Dialect::Scoring).fault_event(fault, id);
        match self {
            Self::Lines => line,
            Self::Arrow(arrow) => arrow.fail(&line),
        }
    }
}

#[derive(Deserialize)]
struct Predictions {
    predictions: Value,
}

impl Arrow {
    fn write(
        &mut self,
        body: &[u8],
        rows: usize,
        live: impl FnOnce() -> Option<LiveModel>,
    ) -> Result<Vec<u8>, Fault> {
        let answer: Predictions = serde_json::from_slice(body)
            .map_err(|cause| failed("the model's answer has no predictions").with_cause(cause))?;
        let (columns, stream) = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let live = live();
                let outputs = live.as_ref().and_then(LiveModel::outputs);
                let columns = match outputs.and_then(Columns::of_signature) {
                    Some(columns) => columns,
                    None => Columns::of_predictions(&answer.predictions),
                };
                let stream = begin(columns.schema())?;
                none.insert((columns, stream))
            }
        };
        let batch = columns.batch(&answer.predictions, rows).map_err(failed)?;
        stream.write(&batch).map_err(unwritten)?;
        Ok(std::mem::take(stream.get_mut()))
    }

    fn finish(&mut self, live: impl FnOnce() -> Option<LiveModel>) -> Result<Vec<u8>, Fault> {
        if self.stream.is_none() {
            // No row came: the types are the signature's, if it has any.
            let live = live();
            let outputs = live.as_ref().and_then(LiveModel::outputs);
            let columns = outputs.and_then(Columns::of_signature).unwrap_or_default();
            let stream = begin(columns.schema())?;
            self.stream = Some((columns, stream));
        }
        let Some((_, stream)) = &mut self.stream else { return Ok(Vec::new()) };
        stream.finish().map_err(unwritten)?;
        Ok(std::mem::take(stream.get_mut()))
    }

    /// A record batch without rows whose message says what went wrong; the mark of the stream's end is left out.
    fn fail(&mut self, line: &[u8]) -> Vec<u8> {
        let Some((columns, stream)) = &mut self.stream else { return Vec::new() };
        stream.get_mut().clear();
        if stream.write(&RecordBatch::new_empty(Arc::clone(columns.schema()))).is_err() {
            return Vec::new();
        }
        let empty = std::mem::take(stream.get_mut());
        let text: Option<Value> = serde_json::from_slice(line).ok();
        let error = text.and_then(|text| text.get("error").map(Value::to_string)).unwrap_or_default();
        annotated(&empty, &error).unwrap_or_default()
    }
}

fn begin(schema: &Arc<Schema>) -> Result<StreamWriter<Vec<u8>>, Fault> {
    StreamWriter::try_new(Vec::new(), schema).map_err(unwritten)
}

/// The message of a record batch without rows, with an error in its metadata.
fn annotated(empty: &[u8], error: &str) -> Option<Vec<u8>> {
    // The mark of a message, its length, and the message: what follows is empty buffers.
    const MARK: [u8; 4] = [0xff; 4];
    let length = u32::from_le_bytes(empty.strip_prefix(&MARK)?.get(..4)?.try_into().ok()?) as usize;
    let message = root_as_message(empty.get(8..8 + length)?).ok()?;
    let batch = message.header_as_record_batch()?;
    let mut builder = FlatBufferBuilder::new();
    let nodes: Vec<_> = batch.nodes()?.iter().copied().collect();
    let buffers: Vec<_> = batch.buffers()?.iter().copied().collect();
    let args = RecordBatchArgs {
        length: 0,
        nodes: Some(builder.create_vector(&nodes)),
        buffers: Some(builder.create_vector(&buffers)),
        ..RecordBatchArgs::default()
    };
    let header = Rows::create(&mut builder, &args);
    let (key, value) = (builder.create_string(ERROR), builder.create_string(error));
    let pair = KeyValue::create(&mut builder, &KeyValueArgs { key: Some(key), value: Some(value) });
    let metadata = builder.create_vector(&[pair]);
    let args = MessageArgs {
        version: MetadataVersion::V5,
        header_type: MessageHeader::RecordBatch,
        header: Some(header.as_union_value()),
        bodyLength: message.bodyLength(),
        custom_metadata: Some(metadata),
    };
    let message = Message::create(&mut builder, &args);
    builder.finish(message, None);
    let mut bytes = builder.finished_data().to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let mut out = MARK.to_vec();
    out.extend(u32::try_from(bytes.len()).ok()?.to_le_bytes());
    out.extend(bytes);
    out.extend(empty.get(8 + length..)?);
    Some(out)
}

fn failed(public: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::worker(code::MODEL_FAILED, Retry::NextTarget, public)
}

fn unwritten(cause: arrow_schema::ArrowError) -> Fault {
    Fault::gateway(code::INTERNAL_ERROR, "the predictions cannot be written as an Arrow stream")
        .with_cause(cause)
}
