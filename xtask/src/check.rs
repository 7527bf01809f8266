//! `cargo xtask check`.

use anyhow::Result;

use crate::shell::{cargo, has, run, section};
use crate::{generate, supply};

pub(crate) fn check() -> Result<()> {
    section("format");
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    section("lints");
    run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    section("documentation");
    run(
        cargo(&["doc", "--locked", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings")
    )?;
    section("dependencies");
    supply::check()?;
    if has("cargo-deny") {
        run(&mut cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
    }
    section("generated files");
    generate::generate(true)
}
