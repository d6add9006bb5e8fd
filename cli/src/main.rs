//! The `faultline` binary: every role and every operator verb is a subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
