//! Uploads that must be there whole before they can be read: a file without a name in the data folder, gone with whoever holds
//! it. One upload has a limit, all of one process together have one too.

use std::fs::File;
use std::future::poll_fn;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millgate_types::{Fault, code};

use super::feed::Feed;

/// So much is gathered before it is written.
const PIECE: usize = 1 << 20;
/// All uploads together may have so many times the bytes of one, and so many bytes in any case: endpoints with small limits do
/// not suffer from those with large ones.
const TOGETHER: u64 = 8;
const TOGETHER_AT_LEAST: u64 = 8 << 30;

/// Bytes of all uploads that are kept now.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// An upload that has come whole.
pub(super) struct Spooled {
    pub(super) file: File,
    pub(super) kept: Kept,
}

/// What an upload takes of the disk.
#[derive(Default)]
pub(super) struct Kept(u64);

impl Kept {
    fn more(&mut self, bytes: u64, limit: u64) -> Result<(), Fault> {
        let kept = KEPT.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0 += bytes;
        if self.0 > limit {
            let public = format!("the file is over the limit of {limit} bytes");
            return Err(Fault::client(code::BODY_TOO_LARGE, public));
        }
        if kept > limit.saturating_mul(TOGETHER).max(TOGETHER_AT_LEAST) {
            let public = "too many files are being scored at once";
            return Err(Fault::gateway(code::OVERLOADED, public).with_retry_after(Duration::from_secs(5)));
        }
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Writes a body into a file below `data`. Faults: those of the body, `body_too_large`, `overloaded`, `dependency_unavailable`
/// for a disk that takes nothing.
pub(super) async fn spool(
    feed: &mut Feed,
    data: &Path,
    limit: u64,
    came: &mut u64,
) -> Result<Spooled, Fault> {
    let folder = data.join("tmp");
    let mut file = off_thread(move || create(folder)).await?;
    let mut kept = Kept::default();
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut gathered = 0;
    loop {
        let piece = poll_fn(|context| feed.poll(context, came)).await.transpose()?;
        let is_last = piece.is_none();
        if let Some(piece) = piece {
            kept.more(piece.len() as u64, limit)?;
            gathered += piece.len();
            pieces.push(piece);
        }
        if is_last || gathered >= PIECE {
            let taken = std::mem::take(&mut pieces);
            gathered = 0;
            file = off_thread(move || {
                taken.iter().try_for_each(|piece| file.write_all(piece))?;
                Ok(file)
            })
            .await?;
        }
        if is_last {
            return Ok(Spooled { file, kept });
        }
    }
}

fn create(folder: PathBuf) -> std::io::Result<File> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    tempfile::tempfile_in(folder)
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let failed = |cause: std::io::Error| {
        Fault::gateway(code::DEPENDENCY_UNAVAILABLE, "the file cannot be kept while it is scored")
            .with_cause(cause)
            .with_retry_after(Duration::from_secs(5))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))).map_err(failed)
}
