//! `cargo xtask test`.

use anyhow::{Result, bail};
use clap::Args;

use crate::shell::{cargo, command, is_ci, root, run, section};
use crate::{
    dist, fuzz, node, postgres, python,
    shell::{ensure_apt, say},
};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Leave the Rust tests out.
    #[arg(long)]
    no_rust: bool,
    /// Leave the Python tests out.
    #[arg(long)]
    no_python: bool,
    /// For pytest, for example `-k promotion`.
    #[arg(last = true)]
    pytest: Vec<String>,
}

pub(crate) fn test(arguments: &Arguments) -> Result<()> {
    section("programs");
    run(&mut cargo(&["build", "--locked", "-p", "millgate", "-p", "millgate-testkit", "--bins"]))?;
    let folder = target().join("debug");
    let (gateway, provider) = (folder.join("millgate"), folder.join("fake-provider"));
    section("Python environment");
    let python = match python::interpreter() {
        Ok(python) => Some(python),
        Err(error) if is_ci() => bail!("the Python environment cannot be made: {error:#}"),
        Err(error) => {
            say(&format!("no Python: tests with real models and clients are left out: {error:#}"));
            None
        }
    };
    section("PostgreSQL");
    let postgres = postgres::start()?;
    section("Redis and nginx");
    // Tests start their own, to stop it again.
    for (program, package) in [("redis-server", "redis-server"), ("nginx", "nginx-light")] {
        if ensure_apt(program, package)?.is_none() {
            say(&format!("no {program}: tests with several replicas are left out"));
        }
    }
    if !arguments.no_rust {
        section("Rust tests");
        let mut tests = cargo(&["test", "--locked", "--workspace"]);
        tests.env("MILLGATE_BIN", &gateway);
        if let Some(python) = &python {
            tests.env("MILLGATE_TEST_PYTHON", python);
        }
        if let Some(postgres) = &postgres {
            tests.env("MILLGATE_TEST_POSTGRES", &postgres.uri);
        }
        run(&mut tests)?;
        section("every order of threads");
        run(&mut cargo(&[
            "test",
            "--locked",
            "-p",
            "millgate-policy",
            "--features",
            "loom",
            "--test",
            "loom",
        ]))?;
        fuzz::smoke(5, None)?;
        dist::rehearse()?;
    }
    if let (false, Some(python)) = (arguments.no_python, &python) {
        section("JavaScript clients");
        let modules = match node::modules() {
            Ok(modules) => Some(modules),
            Err(error) if is_ci() => bail!("the JavaScript clients cannot be installed: {error:#}"),
            Err(error) => {
                say(&format!("no JavaScript clients: their tests are left out: {error:#}"));
                None
            }
        };
        section("end to end");
        let mut tests = command(python, &["-m", "pytest", "tests/e2e", "-q"]);
        tests
            .args(&arguments.pytest)
            .env("MILLGATE_BIN", &gateway)
            .env("FAKE_PROVIDER_BIN", &provider)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(postgres) = &postgres {
            tests.env("MILLGATE_TEST_POSTGRES", &postgres.uri);
        }
        match python::flavours(python) {
            Ok(flavours) => drop(tests.env("MILLGATE_TEST_FLAVOURS", flavours)),
            Err(error) if is_ci() => bail!("the flavours' environment cannot be made: {error:#}"),
            Err(error) => say(&format!("models of heavier flavours are left out: {error:#}")),
        }
        if let Some(modules) = modules {
            tests.env("MILLGATE_TEST_NODE_MODULES", modules);
        }
        run(&mut tests)?;
    }
    Ok(())
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), std::path::PathBuf::from)
}
