//! Looking records up: by number, time, caller and kind. Nothing is verified here; `verify` does that.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::AuditError;
use crate::segment::{read_line, segments};

/// Records looked at for one page: a page may be shorter than asked for though more follow.
const LOOKED_AT: usize = 200_000;
/// Bytes of one page.
const PAGE_BYTES: usize = 4 << 20;

/// Which records are wanted. What is not said is not asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only records behind this number.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
    /// From this time on, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Before this time.
    pub until_ms: Option<i64>,
    /// The caller's name.
    pub principal: Option<String>,
    /// `change` or `call`.
    pub kind: Option<String>,
    /// The path, or its beginning.
    pub path: Option<String>,
}

/// A page of records.
#[derive(Debug, Default)]
pub struct Found {
    /// Their numbers and texts, in order.
    pub records: Vec<(u64, String)>,
    /// The number to go on behind; `None` at the end of the log.
    pub next: Option<u64>,
}

/// What is asked of a record. Changes say when in `time_ms`, calls in `time`.
#[derive(Deserialize)]
struct Facts<'a> {
    kind: Option<&'a str>,
    time_ms: Option<i64>,
    #[serde(borrow)]
    principal: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    path: Option<std::borrow::Cow<'a, str>>,
    time: Option<&'a str>,
}

impl Query {
    /// Whether a record is one that is wanted, its number apart.
    pub fn wants(&self, record: &str, clock: &dyn Fn(&str) -> Option<i64>) -> bool {
        let Ok(facts) = serde_json::from_str::<Facts<'_>>(record) else { return false };
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted.as_str()))
        };
        if !same(&self.kind, facts.kind) || !same(&self.principal, facts.principal.as_deref()) {
            return false;
        }
        let path = facts.path.as_deref().unwrap_or_default();
        if self.path.as_ref().is_some_and(|wanted| !path.starts_with(wanted.as_str())) {
            return false;
        }
        if self.since_ms.is_none() && self.until_ms.is_none() {
            return true;
        }
        let Some(at) = facts.time_ms.or_else(|| clock(facts.time?)) else { return false };
        self.since_ms.is_none_or(|since| at >= since) && self.until_ms.is_none_or(|until| at < until)
    }
}

/// Looks records up in the log at `folder`; a gateway may be writing to it. `clock` reads a time as calls write it.
pub fn search(
    folder: &Path,
    query: &Query,
    clock: &dyn Fn(&str) -> Option<i64>,
) -> Result<Found, AuditError> {
    let all = segments(folder)?;
    // The last segment that begins at or before the first record that is wanted.
    let from = all.partition_point(|(first, _)| *first <= query.after + 1).saturating_sub(1);
    let mut found = Found::default();
    let (mut looked_at, mut bytes, mut last) = (0, 0, query.after);
    for (_, path) in all.get(from..).unwrap_or_default() {
        let file = match File::open(path) {
            Ok(file) => file,
            // Over its time since the folder was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(AuditError::Io { path: path.clone(), error }),
        };
        let mut file = BufReader::new(file);
        let mut line = String::new();
        loop {
            line.clear();
            let read =
                file.read_line(&mut line).map_err(|error| AuditError::Io { path: path.clone(), error })?;
            // A line without its end is being written.
            let Some(text) = line.strip_suffix('\n').filter(|_| read > 0) else { break };
            let Some(record) = read_line(text).filter(|record| record.seq > query.after) else { continue };
            if found.records.len() >= query.limit || looked_at >= LOOKED_AT || bytes >= PAGE_BYTES {
                found.next = Some(last);
                return Ok(found);
            }
            (looked_at, last) = (looked_at + 1, record.seq);
            if query.wants(record.record, clock) {
                bytes += record.record.len();
                found.records.push((record.seq, record.record.to_owned()));
            }
        }
    }
    Ok(found)
}
