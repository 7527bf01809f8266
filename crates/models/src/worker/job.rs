//! The conversion job: one confined process that describes a scikit-learn model as data. It is started as workers are, and
//! what it writes is believed as little.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;

use super::process::Plan;
use crate::artifacts::{private_dir, private_temp};

/// The job's source, written into its private folder.
pub(crate) const SOURCE: &str = include_str!("convert.py");
/// The largest description, in bytes.
const LIMIT: u64 = 256 << 20;
/// What is kept of its last words, in bytes.
const WORDS: u64 = 1 << 16;

/// Ends the job's whole group when it is dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.id().and_then(|id| Pid::from_raw(id as i32)) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let _ = self.0.start_kill();
    }
}

impl Plan {
    /// Runs the job once. The error is fit for callers.
    pub(crate) async fn convert(&self) -> Result<Vec<u8>, String> {
        let io = |error: std::io::Error| format!("the conversion job cannot be started ({})", error.kind());
        private_dir(&self.run_dir).map_err(io)?;
        let private = private_temp("convert-", &self.run_dir).map_err(io)?;
        let source = private.path().join("convert.py");
        std::fs::write(&source, SOURCE).map_err(io)?;
        if let Some(user) = &self.user {
            std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o644)).map_err(io)?;
            user.give(private.path()).map_err(io)?;
        }
        let args = ["-I".to_owned(), source.display().to_string(), self.model.display().to_string()];
        let child = self
            .confined(private.path(), args.into())
            .map_err(io)?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io)?;
        let mut group = Group(child);
        let (Some(out), Some(mut err)) = (group.0.stdout.take(), group.0.stderr.take()) else {
            return Err("the conversion job has no output".to_owned());
        };
        let work = async {
            let mut written = Vec::new();
            let words = async {
                let mut words = Vec::new();
                let mut part = [0; 4096];
                // Read to its end, so that the job never waits for us.
                while let Ok(count @ 1..) = err.read(&mut part).await {
                    words.extend_from_slice(&part[..count]);
                    let over = words.len().saturating_sub(WORDS as usize);
                    words.drain(..over);
                }
                words
            };
            let mut out = out.take(LIMIT + 1);
            let (read, words) = tokio::join!(out.read_to_end(&mut written), words);
            let status = group.0.wait().await;
            (read, written, words, status)
        };
        let Ok((read, written, words, status)) = tokio::time::timeout(self.load_timeout, work).await else {
            return Err(format!("the conversion took more than {} s", self.load_timeout.as_secs()));
        };
        if read.is_err() || written.len() as u64 > LIMIT {
            return Err("the description is too large".to_owned());
        }
        if !status.is_ok_and(|status| status.success()) {
            let words = String::from_utf8_lossy(&words);
            let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            let last = super::process::clean(last, self);
            return Err(format!("the conversion failed: {last}"));
        }
        Ok(written)
    }
}
