//! `cargo xtask check`.

use anyhow::{Result, bail};

use crate::shell::{cargo, has, run, say, section};
use crate::{generate, supply};

type Part = fn() -> Result<()>;

const PARTS: &[(&str, Part)] = &[
    ("format", || run(&mut cargo(&["fmt", "--all", "--check"]))),
    ("lints", || {
        run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    }),
    ("documentation", || {
        let mut doc = cargo(&["doc", "--locked", "--workspace", "--no-deps", "--quiet"]);
        run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("dependencies", || {
        supply::check()?;
        supply::check_fuzz_lock()?;
        if has("cargo-deny") {
            run(&mut cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
        }
        Ok(())
    }),
    ("generated files", || generate::generate(true)),
];

/// Every part is looked at, also after one has failed.
pub(crate) fn check() -> Result<()> {
    let mut failed = Vec::new();
    for (name, part) in PARTS {
        section(name);
        if let Err(error) = part() {
            say(&format!("failed: {error:#}"));
            failed.push(*name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("not in order: {}", failed.join(", ")) }
}
