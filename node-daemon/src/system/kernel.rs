//! The real implementation of the door: this node's kernel. Made once at start by the daemon, and by the
//! keeper and the worker for their undo.

use std::time::Duration;

use super::cgroup::{self, FreezerState};
use super::nft::expr::{Expr, QueueBy};
use super::nft::ruleset::Ruleset;
use super::nft::{TableSpec, TableState, wire as nft};
use super::target::{self, CgroupRef, NetnsRef, ProcessRef, Roots, Target};
use super::tc::{NetemSpec, NetemState, wire as tc};
use super::{Error, System, clock, netns};
use crate::worker::spawn::Children;
use crate::worker::spec::{WorkerSpec, WorkerState};

/// The kernel of this node.
#[derive(Debug)]
pub struct KernelSystem {
    roots: Roots,
    children: Children,
}

impl KernelSystem {
    /// A door that sees the node's file systems under `roots`. Workers started through it end when it is
    /// dropped.
    pub fn new(roots: Roots) -> Self {
        Self { children: Children::new(roots.clone()), roots }
    }

    /// Where it sees the node's file systems.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Names of the tables of ours in a namespace, whoever made them.
    pub fn list_tables(&self, netns: &NetnsRef) -> Result<Vec<String>, Error> {
        netns::inside(netns, || nft::list().map_err(|error| Error::refused("list nft tables", error)))
    }
}

impl System for KernelSystem {
    fn boottime_ms(&self) -> u64 {
        clock::boottime_ms()
    }

    fn identify(&self, pid: i32) -> Result<Target, Error> {
        target::identify(&self.roots, pid)
    }

    fn install_table(&self, netns: &NetnsRef, table: &TableSpec, lifetime: Duration) -> Result<(), Error> {
        let ruleset = Ruleset::render(table)?;
        // Zero would mean "no timeout" to the kernel.
        let lifetime_ms = lifetime.as_millis().max(1) as u64;
        netns::inside(netns, || install(&table.name, &ruleset, lifetime_ms))
    }

    fn read_table(&self, netns: &NetnsRef, name: &str) -> Result<Option<TableState>, Error> {
        netns::inside(netns, || {
            nft::read(name).map_err(|error| Error::refused(format!("read nft table {name}"), error))
        })
    }

    fn remove_table(&self, netns: &NetnsRef, name: &str) -> Result<(), Error> {
        netns::inside(netns, || remove_table(name))
    }

    fn install_netem(&self, netns: &NetnsRef, netem: &NetemSpec) -> Result<(), Error> {
        netns::inside(netns, || tc::install(netem))
    }

    fn read_netem(&self, netns: &NetnsRef, device: &str) -> Result<Option<NetemState>, Error> {
        netns::inside(netns, || tc::read(device))
    }

    fn remove_netem(&self, netns: &NetnsRef, device: &str) -> Result<(), Error> {
        netns::inside(netns, || tc::remove(device))
    }

    fn freeze(&self, init: &ProcessRef, cgroup: &CgroupRef) -> Result<(), Error> {
        target::check_process(&self.roots, init)?;
        let now = target::cgroup_of(&self.roots, init.pid)?;
        if now.freezer_path() != cgroup.freezer_path() {
            return Err(Error::gone(format!("process {} in {}", init.pid, cgroup.freezer_path().display())));
        }
        cgroup::freeze(&self.roots, cgroup)
    }

    fn read_freezer(&self, cgroup: &CgroupRef) -> Result<Option<FreezerState>, Error> {
        cgroup::read_freezer(cgroup)
    }

    fn thaw(&self, cgroup: &CgroupRef) -> Result<(), Error> {
        cgroup::thaw(cgroup)
    }

    fn start_worker(&self, spec: &WorkerSpec, deadline_boottime_ms: u64) -> Result<ProcessRef, Error> {
        self.children.start(spec, deadline_boottime_ms)
    }

    fn read_worker(&self, id: &str) -> Result<Option<WorkerState>, Error> {
        self.children.read(id)
    }

    fn stop_worker(&self, id: &str) -> Result<(), Error> {
        self.children.stop(id)
    }
}

/// Installs in the calling thread's namespace; the native queue expression first, the xtables target
/// where the kernel does not know it.
pub(crate) fn install(name: &str, ruleset: &Ruleset, lifetime_ms: u64) -> Result<(), Error> {
    let queues = ruleset.rules.values().flatten().flatten().any(|one| matches!(one, Expr::Queue { .. }));
    let native = nft::install(name, ruleset, lifetime_ms, QueueBy::Native);
    let result = match native {
        Err(error) if queues && error.raw_os_error() == Some(libc::ENOENT) => {
            nft::install(name, ruleset, lifetime_ms, QueueBy::Xtables)
        }
        other => other,
    };
    result.map_err(|error| Error::refused(format!("install nft table {name}"), error))
}

/// Deletes in the calling thread's namespace.
pub(crate) fn remove_table(name: &str) -> Result<(), Error> {
    nft::remove(name).map_err(|error| Error::refused(format!("delete nft table {name}"), error))
}
