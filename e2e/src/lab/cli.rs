//! The commands of the `lab` binary. Progress goes to standard error, results
//! to standard output. Called by main.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use super::layout::Folder;
use super::process::{Ledger, Process};
use super::{Lab, down, images, say, take_down, tools, wait};
use crate::product::Product;

const USAGE: &str = "\
usage: lab up [--fresh]           bring both clusters up, or reuse those that run
       lab down                   take everything away and check that nothing is left
       lab status                 say what runs, and how much memory it uses
       lab images [--binary FILE] build the images; with FILE also the product's
       lab load --binary FILE     build the product's image and load it into every node
       lab product                bring both up and install the charts with the binary of this build
       lab doctor                 say what this machine lacks";

/// Runs one command; 0 when it did its work, 1 when not, 2 for a wrong call.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = watch_signals().and_then(|()| match args[..] {
        ["up"] => up(false),
        ["up", "--fresh"] => up(true),
        ["down"] => take_down().map(|()| say("lab", format_args!("down; nothing is left but the logs"))),
        ["status"] => status(),
        ["images"] => build_images(None),
        ["images", "--binary", file] => build_images(Some(Path::new(file))),
        ["load", "--binary", file] => load(Path::new(file)),
        ["product"] => product(),
        ["doctor"] => tools::check().map(|()| say("lab", format_args!("this machine has all it needs"))),
        _ => bail!("{USAGE}"),
    });
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    say("lab", format_args!("{error:#}"));
    ExitCode::from(if error.to_string().starts_with("usage") { 2 } else { 1 })
}

/// Makes the first SIGINT, SIGTERM or SIGHUP end all waits, so that a half-made
/// lab is taken down on the way out.
fn watch_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Before any other thread, so that all of them inherit the mask.
    signals.thread_block().context("block signals")?;
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            say("lab", format_args!("{signal}: stopping"));
            wait::stop();
        }
    });
    Ok(())
}

fn up(fresh: bool) -> Result<()> {
    let lab = if fresh { Lab::up_fresh() } else { Lab::up_or_reuse() }?;
    say("lab", format_args!("up"));
    let mut out = io::stdout().lock();
    for cluster in lab.clusters() {
        writeln!(out, "{}\t{}", cluster.name, cluster.kubeconfig.display())?;
    }
    let hub = &lab.hub_etcd;
    writeln!(out, "hub-etcd\t{}\t{}", hub.endpoint, hub.client_cert.display())?;
    Ok(())
}

/// Both clusters with Faultline on them, for a person.
fn product() -> Result<()> {
    let product = Product::install(Lab::up_or_reuse()?)?;
    let mut out = io::stdout().lock();
    for cluster in product.lab.clusters() {
        writeln!(out, "{}\t{}", cluster.name, cluster.kubeconfig.display())?;
    }
    writeln!(out, "operator\tFAULTLINE_CONFIG={}", product.config().display())?;
    Ok(())
}

fn status() -> Result<()> {
    let folder = Folder::from_env()?;
    let processes = Ledger::open(&folder)?.processes();
    let mut out = io::stdout().lock();
    for each in &processes {
        let state = if each.alive() { "running" } else { "dead" };
        writeln!(out, "{:24} {:8} {:8} {:6} MiB", each.name, each.pid, state, each.resident_kib() / 1024)?;
    }
    let total: u64 = processes.iter().map(Process::resident_kib).sum();
    let left = down::leftovers(&folder).len();
    writeln!(
        out,
        "{} processes, {} MiB resident, {left} things on the machine",
        processes.len(),
        total / 1024
    )?;
    if processes.is_empty() && left == 0 {
        writeln!(out, "the lab is down")?;
    }
    Ok(())
}

fn build_images(binary: Option<&Path>) -> Result<()> {
    tools::check()?;
    let mut built = images::workload()?.to_vec();
    built.push(images::base()?);
    if let Some(binary) = binary {
        built.push(images::product(binary)?);
    }
    let mut out = io::stdout().lock();
    for image in built {
        writeln!(out, "{}\t{}", image.reference(), image.archive().display())?;
    }
    Ok(())
}

fn load(binary: &Path) -> Result<()> {
    let image = images::product(binary)?;
    Lab::up_or_reuse()?.load_image(&image)?;
    writeln!(io::stdout().lock(), "{}", image.reference())?;
    Ok(())
}
