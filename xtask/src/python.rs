//! The tests' Python environment: made once per content of `tests/requirements.txt`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest, Sha256};

use crate::shell::{command, ensure_apt, output, root, run, say};

/// The environment's interpreter; makes the environment when it is not there. `MILLGATE_TEST_VENV` names
/// another one to use as it is.
pub(crate) fn interpreter() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("MILLGATE_TEST_VENV") {
        let python = PathBuf::from(folder).join("bin/python");
        ensure!(python.is_file(), "MILLGATE_TEST_VENV has no {}", python.display());
        return Ok(python);
    }
    let requirements = root().join("tests/requirements.txt");
    let text = std::fs::read(&requirements).context("tests/requirements.txt cannot be read")?;
    ensure_apt("python3", "python3")?.context("the tests need python3")?;
    let version = output(&mut command("python3", &["--version"]))?;
    let digest = Sha256::new().chain_update(&text).chain_update(version.trim()).finalize();
    let hash: Vec<String> = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = cache()?.join(format!("venv-{}", hash.concat()));
    let python = folder.join("bin/python");
    if folder.join(".complete").is_file() {
        return Ok(python);
    }
    say(&format!("making a Python environment in {}", folder.display()));
    // Only the marker makes it valid: what an interrupted run left is made anew.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let path = folder.display().to_string();
    if run(&mut command("python3", &["-m", "venv", &path])).is_err() {
        ensure_apt("pyvenv", "python3-venv")?;
        run(&mut command("python3", &["-m", "venv", "--clear", &path]))?;
    }
    let file = requirements.display().to_string();
    run(command(
        &python,
        &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", &file],
    )
    .env("PIP_NO_INPUT", "1"))?;
    std::fs::write(folder.join(".complete"), "")?;
    Ok(python)
}

/// Where environments are kept.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("millgate"))
}
