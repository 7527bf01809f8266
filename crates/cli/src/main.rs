//! The `millgate` binary: arguments in, exit code out. 0 is fine, 1 a failure at run time, 2 wrong usage or
//! configuration.

mod admin;
mod args;
mod audit;
mod check;
mod config;
mod demo;
mod doctor;
mod keys;
mod principals;
mod registry;
mod rollout;
mod run;
mod secrets;
mod serve;
mod sessions;
mod store;
mod usage;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command, Format, Models};

/// Measured at 5 to 10 % of the CPU of a request, for free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::WorkerExec { json } => {
            // Becomes the worker; comes back only when that failed.
            let error = match millgate_models::worker_exec(&json) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            eprintln!("millgate worker-exec: {error}");
            return ExitCode::FAILURE;
        }
        Command::Start(arguments) => run::start(&arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Models(Models::Serve(arguments)) => serve::serve(&arguments),
        Command::Models(Models::List(arguments)) => registry::list(&arguments),
        Command::Models(Models::Show(arguments)) => registry::show(&arguments),
        Command::Audit(command) => audit::audit(&command),
        Command::Config(command) => config::config(&command),
        Command::Keys(command) => keys::keys(&command),
        Command::Teams(command) => principals::principals(principals::Kind::Teams, &command),
        Command::Users(command) => principals::principals(principals::Kind::Users, &command),
        Command::Secrets(command) => secrets::secrets(&command),
        Command::Sessions(command) => sessions::sessions(&command),
        Command::Usage(arguments) => usage::usage(&arguments),
        Command::Limits(reach) => usage::limits(&reach),
        Command::Budgets(reach) => usage::budgets(&reach),
        Command::Rollout(command) => rollout::rollout(&command),
        Command::Check(arguments) => check::check(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Providers(output) => check::providers(output.output),
        Command::Schema => check::print(&(pretty(&millgate_config::json_schema()) + "\n")),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// JSON for people.
fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Wrong usage or configuration.
fn wrong_usage() -> ExitCode {
    ExitCode::from(2)
}

fn is_json(format: Format) -> bool {
    format == Format::Json
}
