//! The `lab` binary: brings the two clusters up for a person or for a test
//! run, and takes them away again. The Makefile calls it.

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::lab::cli::main()
}
