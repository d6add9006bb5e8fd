//! Burns processor time inside a target's cgroup, so that the target's own limits and neighbours feel
//! it. Ends with its target, since a process left in a container's group keeps the group from being
//! removed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::life::{Life, Woken, report};
use super::spec::WorkerReport;
use crate::system::cgroup;
use crate::system::target::{CgroupRef, ProcessRef, Roots, check_process};

/// One turn of work and rest.
const TURN: Duration = Duration::from_millis(50);
/// How often the target is looked at and a report given, in microseconds.
const LOOK_EVERY_US: u64 = 250_000;

pub(super) fn run(
    life: &Life,
    init: &ProcessRef,
    group: &CgroupRef,
    workers: u16,
    load_percent: u8,
    proc_root: &Path,
) -> anyhow::Result<()> {
    let roots = Roots { proc: proc_root.to_path_buf(), ..Roots::default() };
    check_process(&roots, init)?;
    // Where memory is short, this process goes first and the target stays.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let directories = group.cpu_directories();
    anyhow::ensure!(!directories.is_empty(), "the target is in no cpu group");
    cgroup::join(&directories, 0).context("join the target's cgroup")?;

    let stop = AtomicBool::new(false);
    let turns = AtomicU64::new(0);
    let busy = TURN.mul_f64(f64::from(load_percent.clamp(1, 100)) / 100.0);
    std::thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| burn(busy, &stop, &turns));
        }
        let ended = watch(life, &roots, init, &turns);
        stop.store(true, Ordering::Relaxed);
        ended
    })
}

fn watch(life: &Life, roots: &Roots, init: &ProcessRef, turns: &AtomicU64) -> anyhow::Result<()> {
    loop {
        report(WorkerReport { units: turns.load(Ordering::Relaxed), held: 0 });
        if life.wait(None, LOOK_EVERY_US)? == Woken::End || check_process(roots, init).is_err() {
            return Ok(());
        }
    }
}

fn burn(busy: Duration, stop: &AtomicBool, turns: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        while started.elapsed() < busy {
            std::hint::spin_loop();
        }
        turns.fetch_add(1, Ordering::Relaxed);
        // The rest of the turn is the part of the load that was not asked for.
        std::thread::sleep(TURN.saturating_sub(started.elapsed()));
    }
}
