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
mod usage;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::args::{Cli, Command};
use crate::exit::Exit;

/// The tree of commands, each with its examples.
pub fn command() -> clap::Command {
    args::with_examples(Cli::command())
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|mut found| Cli::from_arg_matches_mut(&mut found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage::say(&error).into(),
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
