//! What may be linked in: licences, banned crates, one source, no double of what must be one. `deny.toml` says
//! the same to cargo-deny, which is used where it is installed: building it for every run is not worth it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, output, root, say};

const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// One crypto library, and it is not one of these.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls", "ring", "rsa", "serde_yaml", "git2"];
/// Two versions of these would be two worlds.
const SINGLE: &[&str] = &[
    "rustls",
    "hyper",
    "hyper-util",
    "http",
    "http-body",
    "tokio",
    "bytes",
    "serde",
    "aws-lc-rs",
    "rustls-webpki",
];

/// Looks at everything that is compiled for this platform. Not `cargo metadata`: that also names what a weak
/// feature would switch on and nobody does.
pub(crate) fn check() -> Result<()> {
    let text = output(&mut cargo(&[
        "tree",
        "--locked",
        "--workspace",
        "--edges",
        "normal,build,dev",
        "--prefix",
        "none",
        "--format",
        "{p}\t{l}",
    ]))?;
    let mut problems = BTreeSet::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines() {
        let Some((package, licence)) = line.split_once('\t') else { continue };
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        versions.entry(name).or_default().insert(version);
        if BANNED.contains(&name) {
            problems.insert(format!("{name} {version} is banned"));
        }
        if !allowed(licence.trim_end_matches("(*)").trim()) {
            problems.insert(format!("{name} {version} has the licence `{licence}`"));
        }
        // Packages of the usual registry name no source; ours name a folder of this repository.
        let root = root().display().to_string();
        if let Some(source) =
            words.find(|word| word.starts_with('(') && *word != "(*)" && *word != "(proc-macro)")
            && !source.contains(&root)
        {
            problems.insert(format!("{name} {version} comes from {source}"));
        }
    }
    for name in SINGLE {
        if let Some(found) = versions.get(name).filter(|found| found.len() > 1) {
            problems.insert(format!("{name} is there more than once: {found:?}"));
        }
    }
    if !problems.is_empty() {
        bail!("dependencies:\n  {}", problems.into_iter().collect::<Vec<_>>().join("\n  "));
    }
    say(&format!("{} packages: licences, bans, sources and doubles are as they should be", versions.len()));
    Ok(())
}

/// The fuzz targets are a workspace of their own: their lock file stays behind when a crate of ours gets a new
/// dependency, and without this the fuzz run would be the first to say so.
pub(crate) fn check_fuzz_lock() -> Result<()> {
    let manifest = root().join("fuzz/Cargo.toml").display().to_string();
    output(&mut cargo(&["tree", "--locked", "--depth", "0", "--manifest-path", &manifest]))
        .map(drop)
        .context("fuzz/Cargo.lock is out of date: cargo update --workspace --manifest-path fuzz/Cargo.toml")
}

/// Whether a licence expression can be satisfied.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let mut words = expression.replace('(', " ( ").replace(')', " ) ");
    words = words.replace(" WITH ", "~");
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut at = 0;
    let satisfied = either(&words, &mut at);
    satisfied && at == words.len()
}

fn either(words: &[&str], at: &mut usize) -> bool {
    let mut satisfied = all(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        satisfied |= all(words, at);
    }
    satisfied
}

fn all(words: &[&str], at: &mut usize) -> bool {
    let mut satisfied = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        satisfied &= one(words, at);
    }
    satisfied
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word != "(" {
        return LICENCES.contains(&word.replace('~', " WITH ").as_str());
    }
    let satisfied = either(words, at);
    *at += 1;
    satisfied
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn licence_expressions_are_understood() {
        for fine in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "ISC AND (Apache-2.0 OR GPL-2.0)",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(allowed(fine), "{fine}");
        }
        for wrong in ["GPL-3.0", "MIT AND GPL-3.0", "", "ISC AND (GPL-2.0 OR GPL-3.0)"] {
            assert!(!allowed(wrong), "{wrong}");
        }
    }
}
