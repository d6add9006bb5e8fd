//! The `faultline` binary as a library: arguments in, exit code out. Data goes
//! to stdout, everything else to stderr.

mod args;
mod client;
mod context;
mod demo;
mod exit;
mod output;
mod serve;
mod telemetry;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::exit::Exit;

/// The tree of commands, for the generated reference.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nothing is left to tell anyone when stderr is gone.
            drop(error.print());
            return code.into();
        }
    };
    let exit = match cli.command {
        Command::Serve(role) => serve::main(*role),
        Command::Worker(worker) => serve::worker(&worker),
        Command::Demo(demo) => demo::main(&demo),
        verb => verbs::main(verb, cli.global),
    };
    exit.unwrap_or_else(|error| {
        output::error(&error);
        Exit::of_error(&error)
    })
    .into()
}
