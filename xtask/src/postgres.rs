//! A PostgreSQL for the tests: a fresh cluster in a temporary folder, on a free port, gone with us.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell::{Process, command, ensure_apt, output, run};

/// A server under way.
pub(crate) struct Postgres {
    _process: Process,
    _folder: tempfile::TempDir,
    /// `postgres://...`
    pub(crate) uri: String,
}

/// Debian keeps the server's programs off the path.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<_> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    folders.retain(|folder| folder.join("initdb").is_file());
    folders.sort();
    folders.pop()
}

/// Starts one; `None` where it is not installed and cannot be.
pub(crate) fn start() -> Result<Option<Postgres>> {
    if programs().is_none() && ensure_apt("pg_ctlcluster", "postgresql")?.is_none() {
        return Ok(None);
    }
    let programs = programs().context("PostgreSQL is installed without its server's programs")?;
    let folder = tempfile::Builder::new().prefix("millgate-postgres-").tempdir()?;
    // It refuses to run as root; the package brings a user.
    let is_root = output(&mut command("id", &["-u"]))?.trim() == "0";
    if is_root {
        run(&mut command("chown", &["postgres", &folder.path().display().to_string()]))?;
    }
    let as_user = |program: &str, arguments: &[&str]| -> Command {
        let program = programs.join(program).display().to_string();
        let prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--", &program];
        let words: Vec<&str> =
            prefix[if is_root { 0 } else { 5 }..].iter().chain(arguments).copied().collect();
        let mut command = command(words[0], &words[1..]);
        command.current_dir("/").stdout(Stdio::null());
        command
    };
    let data = folder.path().join("data").display().to_string();
    run(&mut as_user("initdb", &["-D", &data, "-A", "trust", "-U", "millgate", "-E", "UTF8", "--no-sync"]))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let sockets = folder.path().display().to_string();
    let server = ["-D", &data, "-p", &port, "-k", &sockets, "-h", "127.0.0.1", "-c", "fsync=off"];
    let mut server = as_user("postgres", &server);
    let process = Process::start(server.stderr(Stdio::null()))?;
    let uri = format!("postgres://millgate@127.0.0.1:{port}/postgres");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !as_user("pg_isready", &["-q", "-h", "127.0.0.1", "-p", &port]).status()?.success() {
        if Instant::now() > deadline {
            bail!("PostgreSQL does not start");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(Some(Postgres { _process: process, _folder: folder, uri }))
}
