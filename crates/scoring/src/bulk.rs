//! Bulk scoring: rows as lines of JSON (NDJSON), taken in batches whose bodies are the scoring protocol's, and predictions
//! as lines again. Holds no more than the batch at hand and the line that is still coming.

use std::fmt::Write as _;
use std::ops::Range;

use millgate_types::{Fault, Retry, code};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::json::Json;
use crate::signature::{Inputs, Signature};

/// How many rows, and how many bytes of them, one batch may have. A single row may have as many bytes.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Rows that are scored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The number of the first one in the whole input, from 0.
    pub first: u64,
    /// How many.
    pub rows: usize,
    /// A body of the scoring protocol.
    pub body: Vec<u8>,
}

/// Lines on their way in.
#[derive(Debug)]
pub struct Lines {
    limits: BatchLimits,
    buffer: Vec<u8>,
    /// What of the buffer is used up.
    start: usize,
    /// Where the line begins that is still coming.
    open: usize,
    /// How far line ends have been looked for.
    scanned: usize,
    /// Complete lines that are not blank.
    complete: std::collections::VecDeque<Range<usize>>,
    /// The number of the next row.
    next: u64,
}

/// What a line begins with: rows of one batch are all of one kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    List,
    Scalar,
}

impl Lines {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(limits: BatchLimits) -> Self {
        let complete = std::collections::VecDeque::new();
        Self { limits, buffer: Vec::new(), start: 0, open: 0, scanned: 0, complete, next: 0 }
    }

    /// Takes bytes; `last`: nothing comes behind them, so that a line without an end is one. Fault: `body_too_large` for a
    /// row that is longer than a batch may be.
    pub fn push(&mut self, bytes: &[u8], last: bool) -> Result<(), Fault> {
        if self.start > 0 && self.start * 2 > self.buffer.len() {
            self.compact();
        }
        self.buffer.extend_from_slice(bytes);
        while let Some(length) = find(self.buffer.get(self.scanned..).unwrap_or_default()) {
            let end = self.scanned + length;
            self.line(end);
            (self.open, self.scanned) = (end + 1, end + 1);
        }
        self.scanned = self.buffer.len();
        if last {
            self.line(self.scanned);
            self.open = self.scanned;
        }
        let open = self.buffer.len() - self.open;
        let longest = self.complete.iter().map(ExactSizeIterator::len).max().unwrap_or(0).max(open);
        if longest > self.limits.bytes {
            let row = self.next
                + self.complete.iter().take_while(|line| line.len() <= self.limits.bytes).count() as u64;
            let public = format!("row {row} is over the limit of {} bytes", self.limits.bytes);
            return Err(Fault::client(code::BODY_TOO_LARGE, public));
        }
        Ok(())
    }

    /// The open line ends here.
    fn line(&mut self, end: usize) {
        if !self.buffer[self.open..end].trim_ascii().is_empty() {
            self.complete.push_back(self.open..end);
        }
    }

    fn compact(&mut self) {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.open -= self.start;
        for line in &mut self.complete {
            *line = line.start - self.start..line.end - self.start;
        }
        self.start = 0;
    }

    /// Whether a whole batch, or more than one, is there.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.complete.len() >= self.limits.rows
            || self.complete.iter().map(ExactSizeIterator::len).sum::<usize>() >= self.limits.bytes
    }

    /// Whether no complete row is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.complete.is_empty()
    }

    /// The next batch, if a row is there. `signature`: the model's, for rows that are lists. Fault: `invalid_json` naming
    /// the row, once those before it have been taken.
    pub fn take(&mut self, signature: Option<&Signature>) -> Option<Result<Batch, Fault>> {
        let first = self.next;
        let mut kind = None;
        let (mut rows, mut bytes) = (0, 0);
        let mut body = Vec::new();
        while let Some(line) = self.complete.front() {
            let text = self.buffer[line.clone()].trim_ascii();
            let own = match text.first() {
                Some(b'{') => Kind::Object,
                Some(b'[') => Kind::List,
                _ => Kind::Scalar,
            };
            let full = rows >= self.limits.rows || (rows > 0 && bytes + text.len() > self.limits.bytes);
            if full || kind.is_some_and(|kind| kind != own) {
                break;
            }
            // One whole value and nothing else: what stands in a line cannot leave its row.
            if let Err(error) = serde_json::from_slice::<IgnoredAny>(text) {
                if rows > 0 {
                    break;
                }
                let (row, column) = (self.next, error.column());
                let reason = error.to_string();
                let reason = reason.split(" at line ").next().unwrap_or_default();
                let public = format!("row {row}: {reason} at byte {column} of its line");
                return Some(Err(Fault::client(code::INVALID_JSON, public)));
            }
            if kind.is_none() {
                kind = Some(own);
                body.extend_from_slice(before(own, signature).as_bytes());
            } else {
                body.push(b',');
            }
            body.extend_from_slice(text);
            bytes += text.len();
            rows += 1;
            self.next += 1;
            self.start = line.end;
            self.complete.pop_front();
        }
        let kind = kind?;
        body.extend_from_slice(behind(kind, signature).as_bytes());
        Some(Ok(Batch { first, rows, body }))
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

fn takes_split(signature: Option<&Signature>) -> bool {
    signature.is_some_and(|signature| matches!(signature.inputs, Some(Inputs::Columns(_))))
}

/// What stands before the rows of a batch.
fn before(kind: Kind, signature: Option<&Signature>) -> String {
    if kind == Kind::Object {
        return "{\"dataframe_records\":[".to_owned();
    }
    let Some(Inputs::Columns(columns)) = signature.and_then(|signature| signature.inputs.as_ref()) else {
        return "{\"inputs\":[".to_owned();
    };
    let names: Option<Vec<&str>> = columns.iter().map(|column| column.name.as_deref()).collect();
    match names {
        Some(names) => format!("{{\"dataframe_split\":{{\"columns\":{},\"data\":[", serde_json::json!(names)),
        None => "{\"dataframe_split\":{\"data\":[".to_owned(),
    }
}

fn behind(kind: Kind, signature: Option<&Signature>) -> &'static str {
    if kind != Kind::Object && takes_split(signature) { "]}}" } else { "]}" }
}

/// Parameters for all rows, as JSON text. Faults: `invalid_json`, `duplicate_member`, `schema_mismatch` for what is no
/// object.
pub fn params(text: &str) -> Result<String, Fault> {
    match Json::parse(text.as_bytes()).map_err(|mut fault| {
        fault.public = format!("`params`: {}", fault.public).into();
        fault.with_param("params")
    })? {
        params @ Json::Object(_) => Ok(params.to_text()),
        other => {
            let public = format!("`params`: expected an object, found {}", other.type_name());
            Err(Fault::client(code::SCHEMA_MISMATCH, public).with_param("params"))
        }
    }
}

impl Batch {
    /// The body with parameters beside the rows.
    #[must_use]
    pub fn with_params(self, params: Option<&str>) -> Self {
        let Some(params) = params else { return self };
        let mut body = Vec::with_capacity(self.body.len() + params.len() + 12);
        body.extend_from_slice(b"{\"params\":");
        body.extend_from_slice(params.as_bytes());
        body.push(b',');
        // A batch's body is an object with one member.
        body.extend_from_slice(self.body.get(1..).unwrap_or_default());
        Self { body, ..self }
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    predictions: &'a RawValue,
}

/// The predictions of a batch, one a line. Fault: `model_failed` when there are not as many as rows.
pub fn answer_lines(body: &[u8], rows: usize) -> Result<Vec<u8>, Fault> {
    let failed = |public: String| Fault::worker(code::MODEL_FAILED, Retry::NextTarget, public);
    let none = || failed("the model's answer has no predictions".to_owned());
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|cause| none().with_cause(cause))?;
    let text = answer.predictions.get();
    let mut out = Vec::with_capacity(text.len() + rows);
    let count = match text.as_bytes().first() {
        Some(b'[') => {
            let items: Vec<&RawValue> =
                serde_json::from_str(text).map_err(|cause| none().with_cause(cause))?;
            for item in &items {
                // A line break inside a value is white space: inside a text it would be escaped.
                out.extend(
                    item.get().bytes().map(|byte| if byte == b'\n' || byte == b'\r' { b' ' } else { byte }),
                );
                out.push(b'\n');
            }
            items.len()
        }
        Some(b'{') => {
            by_column(&serde_json::from_str(text).map_err(|cause| none().with_cause(cause))?, &mut out)
        }
        _ => return Err(none()),
    };
    if count != rows {
        return Err(failed(format!("{rows} rows were asked about, {count} answered")));
    }
    Ok(out)
}

/// Lists by column as one object a row.
fn by_column(columns: &Value, out: &mut Vec<u8>) -> usize {
    let Value::Object(columns) = columns else { return 0 };
    let lengths = columns.values().map(|column| column.as_array().map_or(0, Vec::len));
    let rows = lengths.min().unwrap_or(0);
    for row in 0..rows {
        let record: serde_json::Map<String, Value> =
            columns.iter().map(|(name, column)| (name.clone(), column[row].clone())).collect();
        out.extend_from_slice(Value::Object(record).to_string().as_bytes());
        out.push(b'\n');
    }
    rows
}

/// The fault of a batch with the row's number in the whole input: checks count from the batch's first row.
#[must_use]
pub fn renumber(mut fault: Fault, first: u64) -> Fault {
    const WORD: &str = "row ";
    let text = fault.public.as_ref();
    // Behind the last such word stands the check's own number: names of columns come before it.
    let found = text.rfind(WORD).map(|at| at + WORD.len()).and_then(|at| {
        let digits = text[at..].bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text.get(at..at + digits)?.parse().ok()?;
        let mut out = String::with_capacity(text.len() + 8);
        let _infallible = write!(out, "{}{}{}", &text[..at], first + number, &text[at + digits..]);
        Some(out)
    });
    if let Some(text) = found {
        fault.public = text.into();
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { rows: 2, bytes: 40 };

    fn all(input: &[u8], piece: usize, signature: Option<&Signature>) -> Vec<Result<Batch, String>> {
        let mut lines = Lines::new(LIMITS);
        let mut out = Vec::new();
        for bytes in input.chunks(piece) {
            if let Err(fault) = lines.push(bytes, false) {
                out.push(Err(fault.public.into_owned()));
                return out;
            }
            while lines.is_full() {
                out.extend(
                    lines.take(signature).map(|batch| batch.map_err(|fault| fault.public.into_owned())),
                );
                if out.last().is_some_and(Result::is_err) {
                    return out;
                }
            }
        }
        lines.push(b"", true).unwrap();
        while let Some(batch) = lines.take(signature) {
            out.push(batch.map_err(|fault| fault.public.into_owned()));
            if out.last().is_some_and(Result::is_err) {
                break;
            }
        }
        out
    }

    fn texts(input: &str, piece: usize, signature: Option<&Signature>) -> Vec<String> {
        all(input.as_bytes(), piece, signature)
            .into_iter()
            .map(|batch| match batch {
                Ok(batch) => {
                    format!("{}+{} {}", batch.first, batch.rows, String::from_utf8(batch.body).unwrap())
                }
                Err(reason) => reason,
            })
            .collect()
    }

    #[test]
    fn lines_become_batches_however_they_come() {
        let input = "{\"a\":1}\n\n  {\"a\": 2}\r\n{\"a\":3}\n[1,2]\n7\n8";
        for piece in [1, 2, 3, 7, 100] {
            assert_eq!(
                texts(input, piece, None),
                [
                    r#"0+2 {"dataframe_records":[{"a":1},{"a": 2}]}"#,
                    r#"2+1 {"dataframe_records":[{"a":3}]}"#,
                    r#"3+1 {"inputs":[[1,2]]}"#,
                    r#"4+2 {"inputs":[7,8]}"#,
                ],
                "{piece}"
            );
        }
        assert!(texts("\n \n", 1, None).is_empty());
        let named =
            Signature::parse(Some(r#"[{"name":"a","type":"long"},{"name":"b","type":"long"}]"#), None)
                .unwrap();
        assert_eq!(
            texts("[1,2]\n[3,4]\n", 3, Some(&named)),
            [r#"0+2 {"dataframe_split":{"columns":["a","b"],"data":[[1,2],[3,4]]}}"#]
        );
    }

    #[test]
    fn a_row_cannot_leave_its_line_and_is_named_when_it_is_wrong() {
        for piece in [1, 5, 100] {
            let found = texts("{\"a\":1}\n{\"a\":1}],\"params\":{}\n", piece, None);
            assert_eq!(found.len(), 2, "{found:?}");
            assert!(found[0].starts_with("0+1 "), "{found:?}");
            assert!(found[1].starts_with("row 1: trailing characters at byte 8"), "{found:?}");
            let long = format!("1\n{}\n", "9".repeat(60));
            assert!(
                texts(&long, piece, None).last().unwrap().contains("row 1 is over the limit of 40 bytes")
            );
        }
    }

    #[test]
    fn params_stand_beside_the_rows_of_every_batch() {
        let batch = Batch { first: 0, rows: 1, body: br#"{"inputs":[1]}"#.to_vec() };
        let text = params(r#" {"a": [1.5, "x"], "b": 1} "#).unwrap();
        let with = batch.clone().with_params(Some(&text));
        assert_eq!(String::from_utf8(with.body).unwrap(), r#"{"params":{"a":[1.5,"x"],"b":1},"inputs":[1]}"#);
        assert_eq!(batch.clone().with_params(None), batch);
        assert_eq!(params("[1]").unwrap_err().public, "`params`: expected an object, found list");
        assert_eq!(params(r#"{"a":1,"a":2}"#).unwrap_err().code, code::DUPLICATE_MEMBER);
        assert_eq!(params("{").unwrap_err().code, code::INVALID_JSON);
    }

    #[test]
    fn predictions_become_lines() {
        let lines = |body: &str, rows| {
            answer_lines(body.as_bytes(), rows).map(|lines| String::from_utf8(lines).unwrap())
        };
        assert_eq!(
            lines(r#"{"predictions": [0.1, [1, 2], {"a": "\n"}]}"#, 3).unwrap(),
            "0.1\n[1, 2]\n{\"a\": \"\\n\"}\n"
        );
        assert_eq!(lines("{\"predictions\": [[1,\n2]]}", 1).unwrap(), "[1, 2]\n");
        assert_eq!(
            lines(r#"{"predictions": {"a": [1, 2], "b": ["x", "y"]}}"#, 2).unwrap(),
            "{\"a\":1,\"b\":\"x\"}\n{\"a\":2,\"b\":\"y\"}\n"
        );
        assert_eq!(
            lines(r#"{"predictions": [1]}"#, 2).unwrap_err().public,
            "2 rows were asked about, 1 answered"
        );
        assert!(lines("[]", 0).is_err() && lines(r#"{"predictions": 1}"#, 1).is_err());
    }

    #[test]
    fn rows_are_numbered_over_the_whole_input() {
        let fault =
            |public: &'static str| renumber(Fault::client(code::SCHEMA_MISMATCH, public), 2000).public;
        assert_eq!(
            fault("column `row 7`, row 17: expected long, found string"),
            "column `row 7`, row 2017: expected long, found string"
        );
        assert_eq!(fault("the model failed"), "the model failed");
    }
}
