//! Segments on disk, their lines, and the two places that are written down beside them: where the chain begins, after old
//! segments were let go, and how far it came.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use millgate_types::{hex, hex_into, unhex};
use serde::{Deserialize, Serialize};

use crate::AuditError;
use crate::chain::{Chain, Mac};

/// Where the chain begins when it does not begin at the beginning.
pub(crate) const START: &str = "start.json";
/// How far it surely came.
pub(crate) const HEAD: &str = "head.json";

/// One line taken apart.
pub(crate) struct Line<'a> {
    pub(crate) seq: u64,
    pub(crate) mac: Mac,
    pub(crate) record: &'a str,
}

/// Appends a line.
pub(crate) fn write_line(seq: u64, mac: &Mac, record: &[u8], out: &mut Vec<u8>) {
    let mut digits = [0; 64];
    hex_into(mac, &mut digits);
    let mut number = itoa::Buffer::new();
    let seq = number.format(seq).as_bytes();
    for part in [&b"{\"seq\":"[..], seq, b",\"mac\":\"", &digits, b"\",\"record\":", record, b"}\n"] {
        out.extend_from_slice(part);
    }
}

/// Reads a line without its end, exactly as it is written.
pub(crate) fn read_line(line: &str) -> Option<Line<'_>> {
    let (seq, rest) = line.strip_prefix("{\"seq\":")?.split_once(",\"mac\":\"")?;
    let (mac, rest) = rest.split_once("\",\"record\":")?;
    let record = rest.strip_suffix('}')?;
    // `+7` and `007` are numbers too.
    let number: u64 = seq.parse().ok().filter(|number: &u64| number.to_string() == seq)?;
    Some(Line { seq: number, mac: unhex(mac).filter(|found| hex(found) == mac)?, record })
}

/// The file of the segment that begins with `seq`.
pub(crate) fn path(folder: &Path, seq: u64) -> PathBuf {
    folder.join(format!("audit-{seq:020}.jsonl"))
}

/// All segments in order, each with the number that its name says.
pub(crate) fn segments(folder: &Path) -> Result<Vec<(u64, PathBuf)>, AuditError> {
    let failed = |error| AuditError::Io { path: folder.to_owned(), error };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("audit-").and_then(|name| name.strip_suffix(".jsonl"));
        found.extend(number.and_then(|number| number.parse().ok()).map(|number: u64| (number, path.clone())));
    }
    found.sort();
    Ok(found)
}

/// A place in the chain: the number of a record and its hash, sealed.
#[derive(Serialize, Deserialize)]
struct Written {
    seq: u64,
    mac: String,
    seal: String,
}

/// Reads a place. `Ok(None)`: there is none; `Err`: it is not what was written.
pub(crate) fn read_place(folder: &Path, name: &str, chain: &Chain) -> Result<Option<(u64, Mac)>, ()> {
    let Ok(text) = fs::read(folder.join(name)) else { return Ok(None) };
    let written: Written = serde_json::from_slice(text.trim_ascii()).map_err(drop)?;
    let mac = unhex(&written.mac).ok_or(())?;
    if hex(&chain.seal(name, written.seq, &mac)) == written.seal {
        Ok(Some((written.seq, mac)))
    } else {
        Err(())
    }
}

/// Writes a place whole, and has it on the disk.
pub(crate) fn write_place(
    folder: &Path,
    name: &str,
    chain: &Chain,
    seq: u64,
    mac: &Mac,
) -> Result<(), AuditError> {
    let path = folder.join(name);
    let fresh = folder.join(format!("{name}.new"));
    let written = Written { seq, mac: hex(mac), seal: hex(&chain.seal(name, seq, mac)) };
    let write = || -> std::io::Result<()> {
        let mut file = create(&fresh, true)?;
        file.write_all(&serde_json::to_vec(&written)?)?;
        file.sync_data()?;
        fs::rename(&fresh, &path)
    };
    write().map_err(|error| AuditError::Io { path: path.clone(), error })
}

/// A file for us alone: made anew, or written on.
pub(crate) fn create(path: &Path, anew: bool) -> std::io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.create(true).mode(0o600);
    if anew {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    options.open(path)
}
