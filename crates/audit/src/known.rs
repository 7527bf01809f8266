//! Segments that were read to their end before: what a start need not read again. Full verification reads them all the same.

use std::fs::Metadata;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use millgate_types::hex;
use serde::{Deserialize, Serialize};

use crate::AuditError;
use crate::chain::{Chain, Mac};
use crate::segment::create;

/// The file that says it.
const FILE: &str = "known.json";

/// A segment that is complete, as it lay on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// Its first record.
    pub(crate) first: u64,
    /// Its last record.
    pub(crate) last: u64,
    /// The hash of the record before its first, and of its last, in hexadecimal.
    pub(crate) before: String,
    pub(crate) after: String,
    bytes: u64,
    modified_ns: i128,
    inode: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Written {
    segments: Vec<Segment>,
    seal: String,
}

impl Segment {
    pub(crate) fn new(first: u64, last: u64, before: &Mac, after: &Mac, on_disk: &Metadata) -> Self {
        let (bytes, modified_ns, inode) = place(on_disk);
        Self { first, last, before: hex(before), after: hex(after), bytes, modified_ns, inode }
    }

    /// Whether the file is still the one that was read.
    pub(crate) fn is(&self, on_disk: &Metadata) -> bool {
        (self.bytes, self.modified_ns, self.inode) == place(on_disk)
    }
}

fn place(on_disk: &Metadata) -> (u64, i128, u64) {
    let ns = i128::from(on_disk.mtime()) * 1_000_000_000 + i128::from(on_disk.mtime_nsec());
    (on_disk.len(), ns, on_disk.ino())
}

fn seal(chain: &Chain, segments: &[Segment]) -> String {
    let text = serde_json::to_string(segments).unwrap_or_default();
    hex(&chain.seal(&format!("{FILE} {text}"), 0, &crate::chain::BEGINNING))
}

/// What is known; nothing where it is not what was written.
pub(crate) fn read(folder: &Path, chain: &Chain) -> Vec<Segment> {
    let text = std::fs::read(folder.join(FILE)).unwrap_or_default();
    let written: Written = serde_json::from_slice(&text).unwrap_or_default();
    if written.seal == seal(chain, &written.segments) { written.segments } else { Vec::new() }
}

/// Writes down what is known.
pub(crate) fn write(folder: &Path, chain: &Chain, segments: &[Segment]) -> Result<(), AuditError> {
    let path = folder.join(FILE);
    let fresh = folder.join(format!("{FILE}.new"));
    let written = Written { segments: segments.to_vec(), seal: seal(chain, segments) };
    let write = || -> std::io::Result<()> {
        create(&fresh, true)?.write_all(&serde_json::to_vec(&written)?)?;
        std::fs::rename(&fresh, &path)
    };
    write().map_err(|error| AuditError::Io { path: path.clone(), error })
}
