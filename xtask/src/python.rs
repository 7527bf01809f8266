//! The tests' Python environments: each made once per content of its list.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest, Sha256};

use crate::shell::{command, ensure_apt, install_apt, output, root, run, say};

/// The environment's interpreter; makes the environment when it is not there. `MILLGATE_TEST_VENV` names
/// another one to use as it is.
pub(crate) fn interpreter() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("MILLGATE_TEST_VENV") {
        let python = PathBuf::from(folder).join("bin/python");
        ensure!(python.is_file(), "MILLGATE_TEST_VENV has no {}", python.display());
        return Ok(python);
    }
    let requirements = root().join("tests/requirements.txt");
    ensure_apt("python3", "python3")?.context("the tests need python3")?;
    let (folder, is_there) = place("venv", "python3", &requirements)?;
    let python = folder.join("bin/python");
    if is_there {
        return Ok(python);
    }
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

/// The interpreter with the packages of heavier flavours (`tests/flavours.txt`), which the clients' environment need not
/// have. PyTorch is Debian's build for the system's Python: the package index has none without CUDA's libraries, which
/// are some gigabytes. `main` is the clients' interpreter; `MILLGATE_TEST_FLAVOURS` names another one to use as it is.
pub(crate) fn flavours(main: &Path) -> Result<PathBuf> {
    if let Some(python) = std::env::var_os("MILLGATE_TEST_FLAVOURS") {
        return Ok(PathBuf::from(python));
    }
    let system = "/usr/bin/python3";
    let has_torch = || run(&mut command(system, &["-c", "import torch"])).is_ok();
    if Path::new(system).is_file() && !has_torch() {
        install_apt("python3-torch")?;
    }
    let base = if Path::new(system).is_file() && has_torch() { system } else { "python3" };
    let requirements = root().join("tests/flavours.txt");
    let (folder, is_there) = place("flavours", base, &requirements)?;
    let python = folder.join("bin/python");
    if is_there {
        return Ok(python);
    }
    let path = folder.display().to_string();
    run(&mut command(base, &["-m", "venv", "--without-pip", "--system-site-packages", &path]))?;
    let file = requirements.display().to_string();
    let target = python.display().to_string();
    let pip = ["-m", "pip", "--python", &target, "install", "--quiet", "--disable-pip-version-check"];
    run(command(main, &pip).args(["--no-deps", "--ignore-installed", "-r", &file]).env("PIP_NO_INPUT", "1"))?;
    std::fs::write(folder.join(".complete"), "")?;
    Ok(python)
}

/// The folder of an environment, empty unless it is there whole.
fn place(name: &str, base: &str, requirements: &Path) -> Result<(PathBuf, bool)> {
    let text =
        std::fs::read(requirements).with_context(|| format!("{} cannot be read", requirements.display()))?;
    let version = output(&mut command(base, &["--version"]))?;
    let digest = Sha256::new().chain_update(&text).chain_update(version.trim()).finalize();
    let hash: Vec<String> = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = cache()?.join(format!("{name}-{}", hash.concat()));
    if folder.join(".complete").is_file() {
        return Ok((folder, true));
    }
    say(&format!("making a Python environment in {}", folder.display()));
    // Only the marker makes it valid: what an interrupted run left is made anew.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok((folder, false))
}

/// Where environments are kept.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("millgate"))
}
