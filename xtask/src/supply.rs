//! What may be linked in: licences, banned crates, one source, no double of what must be one. `deny.toml` says
//! the same to cargo-deny, which takes longer to build than all of this project and is used where installed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::shell::{cargo, output, say};

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
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
}

/// Looks at everything that is compiled for this platform.
pub(crate) fn check() -> Result<()> {
    let host = output(&mut crate::shell::command("rustc", &["-vV"]))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let text =
        output(&mut cargo(&["metadata", "--locked", "--format-version", "1", "--filter-platform", host]))?;
    let Metadata { packages, resolve } = serde_json::from_str(&text)?;
    let used: HashSet<&str> = resolve.nodes.iter().map(|node| node.id.as_str()).collect();
    let mut problems = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut count = 0;
    for package in packages.iter().filter(|package| used.contains(package.id.as_str())) {
        count += 1;
        let name = format!("{} {}", package.name, package.version);
        versions.entry(&package.name).or_default().insert(&package.version);
        if BANNED.contains(&package.name.as_str()) {
            problems.push(format!("{name} is banned"));
        }
        match &package.license {
            Some(licence) if allowed(licence) => {}
            licence => problems.push(format!("{name} has the licence {licence:?}")),
        }
        if package.source.as_deref().is_some_and(|source| source != SOURCE) {
            problems.push(format!("{name} comes from {:?}", package.source));
        }
    }
    for name in SINGLE {
        if versions.get(name).is_some_and(|found| found.len() > 1) {
            problems.push(format!("{name} is there more than once: {:?}", versions[name]));
        }
    }
    if !problems.is_empty() {
        bail!("dependencies:\n  {}", problems.join("\n  "));
    }
    say(&format!("{count} packages: licences, bans, sources and doubles are as they should be"));
    Ok(())
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
