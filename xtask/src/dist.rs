//! `cargo xtask dist`: the program as it is meant to be run, optimised as a whole and by a profile of itself at work. It is
//! built twice: once so that it counts which ways it takes, and with those counts.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::shell::{cargo, command, has, install_apt, output, run, say, section};
use crate::{bench, test};

/// Builds it; gives the folder that it is in.
pub(crate) fn dist() -> Result<PathBuf> {
    section("programs that put it to work");
    let folder = test::target().join("dist");
    build(&["-p", "millgate-testkit", "--bins"], None)?;
    section("the program that counts");
    let host = host()?;
    let built = test::target().join("pgo");
    let place = built.display().to_string();
    // With a target named, build scripts and macros are built without the flags, and once.
    let arguments = ["-p", "millgate", "--target", &host.triple, "--target-dir", &place];
    let profiles = built.join("profiles");
    build(&arguments, Some(&format!("-Cprofile-generate={}", profiles.display())))?;
    let program = built.join(&host.triple).join("dist/millgate");
    let number = Sha256::digest(std::fs::read(&program)?);
    // Its name changes with what was counted: cargo does not look into it.
    let profile = built.join(format!("{}.profdata", millgate_types::hex(&number[..6])));
    if !profile.is_file() {
        section("at work");
        let _none = std::fs::remove_dir_all(&profiles);
        std::fs::create_dir_all(&profiles)?;
        bench::train(&folder, &program, Some(&profiles))?;
        merge(&host, &profiles, &profile)?;
    }
    section("the program");
    build(&arguments, Some(&format!("-Cprofile-use={}", profile.display())))?;
    let place = folder.join("millgate");
    // Not in the place of one that runs.
    let _none = std::fs::remove_file(&place);
    std::fs::copy(&program, &place)?;
    let version = output(&mut command(&place, &["--version"])).context("the program does not run")?;
    say(&format!("{}: {}", place.display(), version.trim()));
    Ok(folder)
}

/// Makes one profile of what several processes counted. It is there whole, or not at all.
fn merge(host: &Host, profiles: &Path, profile: &Path) -> Result<()> {
    let unfinished = profile.with_extension("unfinished");
    let mut merge = command(profdata(host)?, &["merge", "-o"]);
    merge.arg(&unfinished);
    for entry in std::fs::read_dir(profiles)? {
        merge.arg(entry?.path());
    }
    run(&mut merge)?;
    std::fs::rename(&unfinished, profile)?;
    Ok(std::fs::remove_dir_all(profiles)?)
}

/// Whether the work that it is optimised by is answered.
pub(crate) fn rehearse() -> Result<()> {
    section("the work that `cargo xtask dist` optimises by");
    run(&mut cargo(&["build", "--locked", "-p", "millgate", "-p", "millgate-testkit", "--bins"]))?;
    let folder = test::target().join("debug");
    bench::train(&folder, &folder.join("millgate"), None)
}

fn build(arguments: &[&str], flags: Option<&str>) -> Result<()> {
    let mut build = cargo(&[&["build", "--locked", "--profile", "dist"], arguments].concat());
    if let Some(flags) = flags {
        let more = std::env::var("RUSTFLAGS").unwrap_or_default();
        build.env("RUSTFLAGS", format!("{more} {flags}").trim());
    }
    run(&mut build)
}

/// What the compiler says of itself.
struct Host {
    triple: String,
    /// The major version of its LLVM: another one's tools may not read what it counts.
    llvm: String,
    sysroot: PathBuf,
}

fn host() -> Result<Host> {
    let told = output(&mut command("rustc", &["-vV"]))?;
    let of = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = of("LLVM version:").and_then(|version| version.split('.').next());
    Ok(Host {
        triple: of("host:").context("rustc tells no host")?.to_owned(),
        llvm: llvm.context("rustc tells no version of LLVM")?.to_owned(),
        sysroot: output(&mut command("rustc", &["--print", "sysroot"]))?.trim().into(),
    })
}

/// `llvm-profdata` of the compiler's own LLVM: rustup's component `llvm-tools`, or the distribution's package.
fn profdata(host: &Host) -> Result<PathBuf> {
    let own = host.sysroot.join("lib/rustlib").join(&host.triple).join("bin/llvm-profdata");
    let package = format!("llvm-{}", host.llvm);
    let places = [own, Path::new("/usr/lib").join(&package).join("bin/llvm-profdata")];
    let find = || places.iter().find(|place| place.is_file()).cloned();
    if let Some(found) = find() {
        return Ok(found);
    }
    let name = format!("llvm-profdata-{}", host.llvm);
    if has(&name) {
        return Ok(name.into());
    }
    install_apt(&package)?;
    match find() {
        Some(found) => Ok(found),
        None => bail!("`llvm-profdata` of LLVM {} is missing: `rustup component add llvm-tools`", host.llvm),
    }
}
