//! Running other programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Whether this is a build machine, where nothing may be left out.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

#[expect(clippy::print_stdout, reason = "for a person to read")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// A title above what follows, and when that began.
pub(crate) fn section(title: &str) {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    say(&format!("\n==> {title} ({} s)", START.elapsed().as_secs()));
}

/// A command in the repository's folder, without input.
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments)
}

/// Runs to the end; an error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be started"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} failed: {status}") }
}

/// Runs to the end and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{command:?} cannot be started"))?;
    if !out.status.success() {
        bail!("{command:?} failed: {}", out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether a program is on the path.
pub(crate) fn has(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Installs a Debian package when `program` is missing and we may: `None` when it is still missing.
pub(crate) fn ensure_apt(program: &str, package: &str) -> Result<Option<()>> {
    if has(program) {
        return Ok(Some(()));
    }
    install_apt(package)?;
    match has(program) {
        true => Ok(Some(())),
        false if is_ci() => bail!("`{program}` is missing and cannot be installed"),
        false => {
            say(&format!("`{program}` is missing: install the package {package} for this part"));
            Ok(None)
        }
    }
}

/// Installs a Debian package, where we may.
pub(crate) fn install_apt(package: &str) -> Result<()> {
    let is_root = output(&mut command("id", &["-u"])).is_ok_and(|id| id.trim() == "0");
    if is_root && has("apt-get") {
        say(&format!("installing {package}"));
        let mut install = command("apt-get", &["install", "-y", "-qq", "--no-install-recommends", package]);
        install.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        if run(&mut install).is_err() {
            run(&mut command("apt-get", &["update", "-qq"]))?;
            run(&mut install)?;
        }
    }
    Ok(())
}

/// A child that ends with us.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command.spawn().map(Self).with_context(|| format!("{command:?} cannot be started"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end, waits two seconds, and in the end makes it.
    pub(crate) fn stop(&mut self) {
        self.end(Duration::from_secs(2));
    }

    /// Asks it to end, waits, and in the end makes it.
    pub(crate) fn end(&mut self, patience: Duration) {
        let _gone = run(&mut command("kill", &["-TERM", &self.id().to_string()]));
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}
