//! Whether a log is what was written.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use millgate_types::{hex, unhex};
use serde::Serialize;

use crate::AuditError;
use crate::chain::{BEGINNING, Chain, Mac};
use crate::known::Segment;
use crate::segment::{HEAD, START, read_line, read_place, segments};

/// A log that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records.
    pub records: u64,
    /// Files.
    pub segments: usize,
    /// The number of the first record.
    pub first: Option<u64>,
    /// The number of the last record.
    pub last: Option<u64>,
    /// Bytes behind the last whole record: what a crash left of a record that nobody was told of.
    pub torn: u64,
}

/// Where a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Broken {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Where the next record belongs.
pub(crate) struct End {
    pub(crate) report: Report,
    pub(crate) seq: u64,
    pub(crate) mac: Mac,
    /// The last segment and the bytes of it that are whole.
    pub(crate) tail: Option<(PathBuf, u64)>,
    /// All segments before it.
    pub(crate) complete: Vec<Segment>,
}

impl End {
    /// Cuts off what stands behind the last whole record.
    pub(crate) fn cut(&self) -> Result<(), AuditError> {
        let Some((path, whole)) = &self.tail else { return Ok(()) };
        let cut = File::options().write(true).open(path).and_then(|file| {
            file.set_len(*whole)?;
            file.sync_all()
        });
        cut.map_err(|error| AuditError::Io { path: path.clone(), error })
    }
}

/// Reads a whole log and checks every record. `each` sees the records in order.
pub fn verify(folder: &Path, key: &[u8], mut each: impl FnMut(u64, &str)) -> Result<Report, AuditError> {
    walk(folder, &Chain::new(key), &[], &mut each).map(|end| end.report)
}

/// Reads the log from its beginning to its end, but for segments that are `known` and lie there as they did.
pub(crate) fn walk(
    folder: &Path,
    chain: &Chain,
    known: &[Segment],
    each: &mut dyn FnMut(u64, &str),
) -> Result<End, AuditError> {
    let broken = |path: &Path, line: u64, what: String| Broken { path: path.to_owned(), line, what };
    let place = |name: &str| {
        let wrong = |()| broken(&folder.join(name), 0, "it was changed".to_owned());
        read_place(folder, name, chain).map_err(wrong)
    };
    let (mut seq, mut mac) = place(START)?.unwrap_or((0, BEGINNING));
    let all = segments(folder)?;
    let mut report = Report { records: 0, segments: all.len(), first: None, last: None, torn: 0 };
    let mut tail = None;
    let mut complete: Vec<Segment> = Vec::new();
    for (index, (named, path)) in all.iter().enumerate() {
        if *named != seq + 1 {
            let what = format!("record {} should come next, and this file begins with {named}", seq + 1);
            return Err(broken(path, 0, what).into());
        }
        let failed = |error| AuditError::Io { path: path.clone(), error };
        let is_last = index + 1 == all.len();
        let on_disk = path.metadata().map_err(failed)?;
        let as_before = |one: &&Segment| one.first == *named && one.before == hex(&mac) && one.is(&on_disk);
        if let Some(before) = known.iter().find(as_before).filter(|_| !is_last)
            && let Some(after) = unhex(&before.after)
        {
            (seq, mac) = (before.last, after);
            report.records += before.last + 1 - before.first;
            report.first.get_or_insert(before.first);
            report.last = Some(seq);
            complete.push(before.clone());
            continue;
        }
        let before = mac;
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let (mut line, mut number, mut whole) = (Vec::new(), 0, 0);
        loop {
            line.clear();
            let read = file.read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                break;
            }
            number += 1;
            let Some(text) = line.strip_suffix(b"\n") else {
                // Only at the very end may a crash leave a piece.
                if !is_last {
                    return Err(broken(path, number, "the line is cut".to_owned()).into());
                }
                report.torn = read as u64;
                break;
            };
            let found = std::str::from_utf8(text).ok().and_then(read_line);
            let found = found.ok_or_else(|| broken(path, number, "this is no record".to_owned()))?;
            if found.seq != seq + 1 {
                let what = format!("record {} stands where {} belongs", found.seq, seq + 1);
                return Err(broken(path, number, what).into());
            }
            if chain.next(&mac, found.seq, found.record.as_bytes()) != found.mac {
                let what = format!("record {} was changed, or what stood before it", found.seq);
                return Err(broken(path, number, what).into());
            }
            (seq, mac) = (found.seq, found.mac);
            report.records += 1;
            report.first.get_or_insert(seq);
            report.last = Some(seq);
            whole += read as u64;
            each(seq, found.record);
        }
        if is_last {
            tail = Some((path.clone(), whole));
        } else {
            complete.push(Segment::new(*named, seq, &before, &mac, &on_disk));
        }
    }
    if let Some((head, _)) = place(HEAD)?
        && head > seq
    {
        let what = format!("{head} records were written, and {seq} are left");
        return Err(broken(folder, 0, what).into());
    }
    Ok(End { report, seq, mac, tail, complete })
}
