//! The door to the kernel and the container runtime: the only place of the daemon that opens netlink
//! sockets, enters namespaces, writes cgroup files or starts processes. The engine's driver reaches it
//! through [`System`], an object-safe trait with two implementations: [`kernel::KernelSystem`] and the
//! in-memory twin [`fake::FakeSystem`]. One contract suite (`tests/system_contract.rs`) runs on both.
//!
//! All methods block for a bounded time and are meant for a blocking thread. Removing a thing that is
//! not there is success. No method executes another program, except `start_worker`, which starts this
//! very binary.

use std::fmt::Debug;
use std::time::Duration;

pub mod cgroup;
pub mod clock;
pub mod cri;
pub mod fake;
pub mod kernel;
pub(crate) mod netlink;
pub mod netns;
pub mod nft;
pub mod probe;
pub mod target;
pub mod tc;

use crate::worker::spec::{WorkerSpec, WorkerState};
use cgroup::FreezerState;
use nft::{TableSpec, TableState};
use target::{CgroupRef, NetnsRef, ProcessRef, Target};
use tc::{NetemSpec, NetemState};

/// What the kernel and the runtime can be asked to do. Identity is checked inside every call, right
/// before acting: a namespace whose cookie differs, or a process whose start time differs, is
/// [`Error::TargetGone`].
pub trait System: Send + Sync + Debug {
    /// Milliseconds of `CLOCK_BOOTTIME`, the clock every deadline is held on.
    fn boottime_ms(&self) -> u64;

    /// Who `pid` is: its start time, network namespace and cgroups.
    fn identify(&self, pid: i32) -> Result<Target, Error>;

    /// Installs one table of our own in one transaction; every element ends after `lifetime`. An
    /// earlier table of that name is replaced in the same transaction.
    fn install_table(&self, netns: &NetnsRef, table: &TableSpec, lifetime: Duration) -> Result<(), Error>;
    /// What the kernel has under that name now, or `None`.
    fn read_table(&self, netns: &NetnsRef, name: &str) -> Result<Option<TableState>, Error>;
    /// Deletes the table; absent is success.
    fn remove_table(&self, netns: &NetnsRef, name: &str) -> Result<(), Error>;

    /// Installs our classful root with netem on one device; refuses when a qdisc that is not a kernel
    /// default is there ([`Error::Foreign`]).
    fn install_netem(&self, netns: &NetnsRef, netem: &NetemSpec) -> Result<(), Error>;
    /// What the device's root is now, or `None` when it is not ours.
    fn read_netem(&self, netns: &NetnsRef, device: &str) -> Result<Option<NetemState>, Error>;
    /// Deletes our own root of that device; absent or foreign is left alone and is success.
    fn remove_netem(&self, netns: &NetnsRef, device: &str) -> Result<(), Error>;

    /// Freezes the container's cgroup and waits (bounded) until the kernel says it is frozen.
    fn freeze(&self, init: &ProcessRef, cgroup: &CgroupRef) -> Result<(), Error>;
    /// The freezer's state, or `None` when the cgroup does not exist any more.
    fn read_freezer(&self, cgroup: &CgroupRef) -> Result<Option<FreezerState>, Error>;
    /// Thaws; a cgroup that is gone is success.
    fn thaw(&self, cgroup: &CgroupRef) -> Result<(), Error>;

    /// Starts a worker child that ends by itself at `deadline_boottime_ms`, and waits (bounded) until
    /// it says it is at work.
    fn start_worker(&self, spec: &WorkerSpec, deadline_boottime_ms: u64) -> Result<ProcessRef, Error>;
    /// The worker of that id, whoever started it, or `None` when no such process runs.
    fn read_worker(&self, id: &str) -> Result<Option<WorkerState>, Error>;
    /// Ends every worker of that id: asks, waits (bounded), kills. Absent is success.
    fn stop_worker(&self, id: &str) -> Result<(), Error>;
}

/// Why the kernel or the runtime could not be made to do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace, process or cgroup meant is not there any more (or its number now names another).
    #[error("target gone: {what}")]
    TargetGone {
        /// What was looked for.
        what: String,
    },
    /// Something that is not ours is in the way; nothing was changed.
    #[error("{what}")]
    Foreign {
        /// What was found.
        what: String,
    },
    /// This node lacks a capability.
    #[error("{capability} missing: {detail}")]
    Missing {
        /// Name as in the capability list.
        capability: &'static str,
        /// What was tried and what it gave.
        detail: String,
    },
    /// The kernel or a file refused.
    #[error("{action}")]
    Refused {
        /// What was being done, as a bare verb phrase.
        action: String,
        /// What the kernel answered.
        #[source]
        source: std::io::Error,
    },
    /// It did not happen within the time allowed.
    #[error("{what} did not happen within {after_ms} ms")]
    TimedOut {
        /// What was awaited.
        what: String,
        /// Milliseconds waited.
        after_ms: u64,
    },
    /// The request itself makes no sense to the kernel.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
}

impl Error {
    pub(crate) fn refused(action: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Refused { action: action.into(), source: source.into() }
    }

    pub(crate) fn gone(what: impl Into<String>) -> Self {
        Self::TargetGone { what: what.into() }
    }

    /// Whether the target itself is gone, so that there is nothing left to undo.
    pub fn is_target_gone(&self) -> bool {
        matches!(self, Self::TargetGone { .. })
    }
}

/// An error with its causes, in one line.
pub(crate) fn spoken(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
