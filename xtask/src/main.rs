//! `cargo xtask`: what continuous integration, the README and we ourselves call.

mod bench;
mod check;
mod dist;
mod fuzz;
mod generate;
mod node;
mod postgres;
mod python;
mod shell;
mod supply;
mod test;

use clap::{Parser, Subcommand};

/// Everything that is done with this repository beside compiling it.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, lints, documentation, dependencies, generated files.
    Check,
    /// All tests: Rust, then end to end with Python clients and a real MLflow.
    Test(test::Arguments),
    /// Build target/dist/millgate, optimised as a whole and by a profile of itself at work.
    Dist {
        /// Only put the debug build to the same work, as the tests do.
        #[arg(long)]
        rehearse: bool,
    },
    /// Measure against nginx on this machine and write docs/benchmarks.md.
    Bench(bench::Arguments),
    /// Count the instructions that a request takes, by function.
    Count(bench::Count),
    /// Write the generated files.
    Gen {
        /// Only say whether they are up to date.
        #[arg(long)]
        check: bool,
    },
    /// Feed everything that reads bytes of others with what it does not expect.
    Fuzz(fuzz::Arguments),
    /// Make the tests' Python environment and print its interpreter.
    Python {
        /// The one with the packages of heavier flavours.
        #[arg(long)]
        flavours: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Check => check::check(),
        Command::Test(arguments) => test::test(&arguments),
        Command::Dist { rehearse: false } => dist::dist().map(drop),
        Command::Dist { rehearse: true } => dist::rehearse(),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Count(arguments) => bench::count(&arguments),
        Command::Gen { check } => generate::generate(check),
        Command::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Command::Python { flavours } => {
            let python = python::interpreter()?;
            let python = if flavours { python::flavours(&python)? } else { python };
            shell::say(&python.display().to_string());
            Ok(())
        }
    }
}
