//! `make bench`: how long it takes until a fault is there, beside a floor that
//! is measured in the same run. Two figures: one cluster in one process with a
//! real etcd (`single`), and an author in one real cluster with targets in
//! another (`fleet`). The report goes to standard output and to
//! docs/benchmarks.md. Run by the `bench` binary only; it is no test.

mod centre;
mod figures;
mod fleet;
mod floor;
mod member;
mod report;
mod rest;
mod single;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::lab::say;

/// Runs what is named, or both; 0 when all was measured.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [] => both(),
        ["single"] => one(single),
        ["fleet"] => one(fleet::measure),
        _ => Err(anyhow::anyhow!("usage: bench [single | fleet]")),
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    say("bench", format_args!("{error:#}"));
    ExitCode::FAILURE
}

fn both() -> Result<()> {
    if cfg!(debug_assertions) {
        bail!("a debug build measures nothing worth keeping: use `make bench`");
    }
    let sections = [single()?, fleet::measure()?];
    report::print(&sections)?;
    report::write(&sections)
}

/// Prints one; the document holds both or nothing.
fn one(measure: fn() -> Result<report::Section>) -> Result<()> {
    report::print(&[measure()?])
}

fn single() -> Result<report::Section> {
    certs::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let section = runtime.block_on(single::measure());
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    section
}
