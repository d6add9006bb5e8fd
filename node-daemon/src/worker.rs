//! The long-lived parts of a fault: children started as `faultline worker <kind> --id <id>`, each in its
//! own process so that it can stand in another namespace or cgroup and die alone. A worker is told what
//! to do by the first line of its standard input; the pipe stays open, and its end means that the daemon
//! is gone: the worker then undoes its own redirect and exits. It also holds its deadline itself, on
//! `CLOCK_BOOTTIME`. What it says goes to standard output, one JSON object a line.

use std::ffi::OsString;

use anyhow::Context;

mod cpu;
mod life;
mod nfqueue;
pub mod spawn;
pub mod spec;

use life::{Life, Order};
use spec::Work;

/// Runs a worker to its end. `args` are the words after `worker`: the kind and `--id <id>`. Call it
/// before any other thread is started, so that signals reach the worker's own descriptor.
pub fn main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let words: Vec<String> = args.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let [kind, flag, id] = words.as_slice() else {
        anyhow::bail!("usage: worker <kind> --id <id>, started by the node daemon only");
    };
    let done = run(kind, flag, id);
    if let Err(error) = &done {
        life::say(&life::Said { report: None, error: Some(format!("{error:#}")) });
    }
    done
}

fn run(kind: &str, flag: &str, id: &str) -> anyhow::Result<()> {
    let (life, Order { spec, .. }) = Life::begin().context("read the order from standard input")?;
    let as_ordered = flag == "--id" && *id == spec.id && kind == spec.work.kind();
    anyhow::ensure!(as_ordered, "the order is for {} {}", spec.work.kind(), spec.id);
    match &spec.work {
        Work::Nfqueue { netns, table, queue, delay, max_packets } => {
            nfqueue::run(&life, netns, table, *queue, delay, *max_packets)
        }
        Work::CpuStress { init, cgroup, workers, load_percent, proc_root } => {
            cpu::run(&life, init, cgroup, *workers, *load_percent, proc_root)
        }
    }
}
