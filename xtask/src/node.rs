//! The tests' JavaScript clients: installed once per content of the lock file.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};

use crate::python::cache;
use crate::shell::{command, ensure_apt, root, run, say};

/// The folder `node_modules` with the clients of `tests/e2e/node/package-lock.json`; installs them when they are
/// not there. The clients need Node.js 18.
pub(crate) fn modules() -> Result<PathBuf> {
    let from = root().join("tests/e2e/node");
    ensure_apt("node", "nodejs")?.context("the tests need Node.js")?;
    ensure_apt("npm", "npm")?.context("the tests need npm")?;
    let lock = std::fs::read(from.join("package-lock.json")).context("package-lock.json cannot be read")?;
    let digest = Sha256::digest(&lock);
    let hash: Vec<String> = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = cache()?.join(format!("node-{}", hash.concat()));
    let modules = folder.join("node_modules");
    if folder.join(".complete").is_file() {
        return Ok(modules);
    }
    say(&format!("installing the JavaScript clients in {}", folder.display()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    for file in ["package.json", "package-lock.json", ".npmrc"] {
        std::fs::copy(from.join(file), folder.join(file))
            .with_context(|| format!("{file} cannot be copied"))?;
    }
    let path = folder.display().to_string();
    run(&mut command("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", &path]))?;
    std::fs::write(folder.join(".complete"), "")?;
    Ok(modules)
}
