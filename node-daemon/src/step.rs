//! The closed vocabulary of things the daemon does to a node. A fault is a list of steps; each is
//! journalled before it is applied, and carries everything its read-back and its undo need, also in
//! another process (the keeper, a restarted daemon) of the same boot.
//!
//! Rules for callers: write the steps to the journal, sync, then [`apply`] them in order; say `Injected`
//! only when [`read_back`] of every step gives [`Observation::Intended`]; [`undo`] in reverse order. All
//! three block for a bounded time (at most about 10 s): call them on a blocking thread. `undo` may be
//! repeated, also for steps that were never applied.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::system::cgroup::FreezerState;
use crate::system::nft::TableSpec;
use crate::system::target::{CgroupRef, NetnsRef, ProcessRef};
use crate::system::tc::NetemSpec;
use crate::system::{Error, System, spoken};
use crate::worker::spec::WorkerSpec;

/// One thing done to a node, with its inverse known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// A table of our own in a network namespace; its matches end by themselves at the deadline.
    NftTable {
        /// Where.
        netns: NetnsRef,
        /// What; the name identifies it for the undo.
        table: TableSpec,
    },
    /// A qdisc tree of our own on one device of a namespace.
    NetemTree {
        /// Where.
        netns: NetnsRef,
        /// What; device and [`crate::system::tc::ROOT_MAJOR`] identify it for the undo.
        netem: NetemSpec,
    },
    /// A container's processes stopped by the cgroup freezer.
    FreezeCgroup {
        /// The container's init.
        init: ProcessRef,
        /// Its cgroups.
        cgroup: CgroupRef,
    },
    /// A worker child; its id in the command line identifies it for the undo. It ends by itself at the
    /// deadline, and when the daemon that started it is gone.
    Worker {
        /// Which and how.
        worker: WorkerSpec,
    },
}

impl Step {
    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Step::NftTable { .. } => "the packet table",
            Step::NetemTree { .. } => "the qdisc",
            Step::FreezeCgroup { .. } => "the freeze",
            Step::Worker { .. } => "the worker",
        }
    }
}

/// Now and the deadline, both in milliseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// When this was read.
    pub now_ms: u64,
    /// When the effect must have ended.
    pub deadline_ms: u64,
}

/// What a read-back found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The kernel holds what was intended.
    Intended(Effect),
    /// The kernel holds something else under our name: every difference in words.
    Drifted(Vec<String>),
    /// Nothing of ours is there.
    Absent,
    /// The target itself is gone.
    TargetGone,
}

/// Whether the fault touched anything yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// This step has no counter (its presence is its effect, or another step counts).
    NotCounted,
    /// The counters are zero.
    NoTraffic,
    /// The counters are not zero.
    Seen,
}

/// How an undo ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// Read back: nothing of ours is left (or the target is gone, and everything with it).
    Clean,
    /// Something may be left.
    Residue {
        /// What, and why it could not be removed.
        what: String,
        /// What a person would run on the node to remove it.
        command: String,
    },
}

impl Window {
    /// Time left; zero when the deadline has passed.
    pub const fn left(self) -> Duration {
        Duration::from_millis(self.deadline_ms.saturating_sub(self.now_ms))
    }
}

/// Does it. Applying a step again that is applied is allowed and renews its lifetime. A window with no
/// time left is refused.
pub fn apply(system: &dyn System, step: &Step, window: Window) -> Result<(), Error> {
    if window.left().is_zero() {
        return Err(Error::Invalid { what: "the deadline has passed".to_owned() });
    }
    match step {
        Step::NftTable { netns, table } => system.install_table(netns, table, window.left()),
        Step::NetemTree { netns, netem } => system.install_netem(netns, netem),
        Step::FreezeCgroup { init, cgroup } => system.freeze(init, cgroup),
        Step::Worker { worker } => system.start_worker(worker, window.deadline_ms).map(|_| ()),
    }
}

/// Looks at what the kernel holds.
pub fn read_back(system: &dyn System, step: &Step) -> Result<Observation, Error> {
    let seen = match step {
        Step::NftTable { netns, table } => read_table(system, netns, table),
        Step::NetemTree { netns, netem } => read_netem(system, netns, netem),
        Step::FreezeCgroup { cgroup, .. } => read_freezer(system, cgroup),
        Step::Worker { worker } => system.read_worker(&worker.id).map(|state| match state {
            None => Observation::Absent,
            Some(state) => Observation::Intended(match state.report {
                None => Effect::NotCounted,
                Some(report) => Effect::of(report.units),
            }),
        }),
    };
    match seen {
        Err(error) if error.is_target_gone() => Ok(Observation::TargetGone),
        other => other,
    }
}

/// Takes it away and reads back that it is gone. Never fails because the thing, or its target, is gone
/// already.
pub fn undo(system: &dyn System, step: &Step) -> Undone {
    let done = match step {
        Step::NftTable { netns, table } => system.remove_table(netns, &table.name),
        Step::NetemTree { netns, netem } => system.remove_netem(netns, &netem.device),
        Step::FreezeCgroup { cgroup, .. } => system.thaw(cgroup),
        Step::Worker { worker } => system.stop_worker(&worker.id),
    };
    let seen = match done {
        Err(error) if error.is_target_gone() => return Undone::Clean,
        Err(error) => return residue(step, &spoken(&error)),
        Ok(()) => read_back(system, step),
    };
    match seen {
        Ok(Observation::Absent | Observation::TargetGone) => Undone::Clean,
        Ok(other) => residue(step, &format!("still there after the undo: {other:?}")),
        Err(error) => residue(step, &spoken(&error)),
    }
}

fn read_table(system: &dyn System, netns: &NetnsRef, table: &TableSpec) -> Result<Observation, Error> {
    let Some(state) = system.read_table(netns, &table.name)? else {
        return Ok(Observation::Absent);
    };
    let drift = state.drift(table);
    if drift.is_empty() {
        return Ok(Observation::Intended(Effect::of(state.total().packets)));
    }
    Ok(Observation::Drifted(drift))
}

fn read_netem(system: &dyn System, netns: &NetnsRef, netem: &NetemSpec) -> Result<Observation, Error> {
    let Some(state) = system.read_netem(netns, &netem.device)? else {
        return Ok(Observation::Absent);
    };
    if state.spec == *netem {
        return Ok(Observation::Intended(Effect::of(state.packets)));
    }
    Ok(Observation::Drifted(vec![format!("netem is {:?}, wanted {netem:?}", state.spec)]))
}

fn read_freezer(system: &dyn System, cgroup: &CgroupRef) -> Result<Observation, Error> {
    Ok(match system.read_freezer(cgroup)? {
        None => Observation::TargetGone,
        Some(FreezerState::Frozen) => Observation::Intended(Effect::NotCounted),
        Some(FreezerState::Freezing) => {
            Observation::Drifted(vec!["not every process has stopped".to_owned()])
        }
        Some(FreezerState::Thawed) => Observation::Absent,
    })
}

fn residue(step: &Step, why: &str) -> Undone {
    let (what, command) = match step {
        Step::NftTable { netns, table } => (
            format!("nft table {} in {}", table.name, netns.path.display()),
            format!("nsenter --net={} nft delete table inet {}", netns.path.display(), table.name),
        ),
        Step::NetemTree { netns, netem } => (
            format!("root qdisc of {} in {}", netem.device, netns.path.display()),
            format!("nsenter --net={} tc qdisc del dev {} root", netns.path.display(), netem.device),
        ),
        Step::FreezeCgroup { cgroup, .. } => {
            let command = cgroup.thaw_command();
            (format!("frozen cgroup of {}", cgroup.freezer_path().display()), command)
        }
        Step::Worker { worker } => {
            (format!("worker process {}", worker.id), format!("pkill -KILL -f -- '--id {}$'", worker.id))
        }
    };
    Undone::Residue { what: format!("{what}: {why}"), command }
}

impl Effect {
    const fn of(count: u64) -> Self {
        if count == 0 { Self::NoTraffic } else { Self::Seen }
    }
}

#[cfg(test)]
mod tests;
