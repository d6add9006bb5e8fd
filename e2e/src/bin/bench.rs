//! The `bench` binary; `make bench` builds it optimised and runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::bench::main()
}
