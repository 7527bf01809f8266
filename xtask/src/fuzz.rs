//! `cargo xtask fuzz`: libFuzzer over everything that reads bytes of others. Built with the stable toolchain:
//! coverage without a sanitizer, which finds panics, broken properties and what does not end.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::shell::{cargo, command, output, root, run, section};
use crate::test;

/// The target, and where its first inputs come from.
const TARGETS: &[(&str, &[&str])] = &[
    ("caller", &["crates/dialect/tests/golden"]),
    ("answer", &["crates/dialect/tests/golden"]),
    ("stream", &["crates/dialect/tests/golden"]),
    ("wire", &[]),
    ("request", &["crates/http1/tests/requests"]),
    ("config", &["examples"]),
];

/// A look that is shorter takes less time than its program takes to be optimised, in seconds.
const WORTH_OPTIMISING: u32 = 30;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only this target.
    #[arg(long)]
    only: Option<String>,
}

pub(crate) fn fuzz(arguments: &Arguments) -> Result<()> {
    smoke(arguments.seconds, arguments.only.as_deref())
}

/// Every target for some seconds; what was found in `target/fuzz` before comes first.
pub(crate) fn smoke(seconds: u32, only: Option<&str>) -> Result<()> {
    section("fuzz targets");
    let folder = test::target().join("fuzz");
    let manifest = root().join("fuzz/Cargo.toml").display().to_string();
    // Named, so that build scripts are not built for coverage too.
    let version = output(&mut command("rustc", &["-vV"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc says no host")?;
    let mut build =
        cargo(&["build", "--quiet", "--locked", "--release", "--target", host, "--manifest-path", &manifest]);
    build.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", FLAGS.join(" "));
    if seconds < WORTH_OPTIMISING {
        build.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    }
    run(&mut build)?;
    for (name, seeds) in TARGETS.iter().filter(|(name, _)| only.is_none_or(|only| *name == only)) {
        section(name);
        let corpus = folder.join("corpus").join(name);
        let crashes = folder.join("crashes");
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&crashes)?;
        let seeds = gather(seeds, &folder.join("seeds").join(name))?;
        run(&mut command(
            folder.join(host).join("release").join(name),
            &[
                &corpus.display().to_string(),
                &seeds.display().to_string(),
                &format!("-artifact_prefix={}/{name}-", crashes.display()),
                &format!("-max_total_time={seconds}"),
                "-max_len=8192",
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-verbosity=0",
                "-print_final_stats=1",
            ],
        ))
        .with_context(|| format!("the input that failed is in {}", crashes.display()))?;
    }
    Ok(())
}

/// What `cargo fuzz` sets, but for what needs a nightly compiler.
const FLAGS: &[&str] = &[
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// One flat folder of small files: libFuzzer reads no tree.
fn gather(from: &[&str], to: &PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(to)?;
    let mut folders: Vec<PathBuf> = from.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.metadata()?.len() <= 8192 {
                let name = path.strip_prefix(root())?.display().to_string().replace('/', "_");
                std::fs::copy(&path, to.join(name))?;
            }
        }
    }
    Ok(to.clone())
}
