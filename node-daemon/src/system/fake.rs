//! The in-memory twin of the kernel, for tests of the engine, the journal and the faults without
//! privileges. It keeps time only when told to ([`FakeSystem::advance`]), ends timed elements and
//! workers by it, and can be told to fail or to lose a target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cgroup::FreezerState;
use super::nft::ruleset::Ruleset;
use super::nft::{Counter, TableSpec, TableState};
use super::target::{CgroupRef, NetnsRef, ProcessRef, Target};
use super::tc::{NetemSpec, NetemState};
use super::{Error, System};
use crate::worker::spec::{WorkerReport, WorkerSpec, WorkerState};

/// A node that exists in memory only.
#[derive(Debug, Default)]
pub struct FakeSystem {
    node: Mutex<Node>,
}

#[derive(Debug, Default)]
struct Node {
    now_ms: u64,
    targets: BTreeMap<i32, Target>,
    tables: BTreeMap<(u64, String), (Ruleset, u64, u64)>,
    netems: BTreeMap<(u64, String), NetemSpec>,
    frozen: BTreeSet<CgroupRef>,
    workers: BTreeMap<String, (ProcessRef, u64)>,
    next_pid: i32,
    fail_next: Option<String>,
}

impl FakeSystem {
    /// An empty node whose boottime is one second.
    pub fn new() -> Self {
        let system = Self::default();
        system.node().now_ms = 1000;
        system
    }

    /// Adds a process with a namespace and a cgroup of its own.
    pub fn add_target(&self, pid: i32) -> Target {
        let directory = format!("/sys/fs/cgroup/freezer/fake/{pid}").into();
        let target = Target {
            process: ProcessRef { pid, start_ticks: 100 + pid as u64 },
            netns: NetnsRef { path: format!("/proc/{pid}/ns/net").into(), cookie: 5000 + pid as u64 },
            cgroup: CgroupRef { directories: BTreeMap::from([("freezer".to_owned(), directory)]) },
        };
        self.node().targets.insert(pid, target.clone());
        target
    }

    /// The process ends and takes its namespace and cgroup with it.
    pub fn lose_target(&self, pid: i32) {
        let mut node = self.node();
        let Some(target) = node.targets.remove(&pid) else {
            return;
        };
        node.tables.retain(|(cookie, _), _| *cookie != target.netns.cookie);
        node.netems.retain(|(cookie, _), _| *cookie != target.netns.cookie);
        node.frozen.remove(&target.cgroup);
    }

    /// Lets time pass: elements and workers whose time has come end.
    pub fn advance(&self, by: Duration) {
        let mut node = self.node();
        node.now_ms += by.as_millis() as u64;
        let now_ms = node.now_ms;
        node.workers.retain(|_, (_, deadline_ms)| *deadline_ms > now_ms);
    }

    /// Packets match every rule of that table.
    pub fn count_packets(&self, netns: &NetnsRef, name: &str, packets: u64) {
        if let Some(table) = self.node().tables.get_mut(&(netns.cookie, name.to_owned())) {
            table.2 += packets;
        }
    }

    /// Somebody else deletes the table.
    pub fn lose_table(&self, netns: &NetnsRef, name: &str) {
        self.node().tables.remove(&(netns.cookie, name.to_owned()));
    }

    /// The next call that changes something is refused with this message.
    pub fn fail_next(&self, message: &str) {
        self.node().fail_next = Some(message.to_owned());
    }

    /// How many things of ours are on the node: tables, netems, frozen groups, workers.
    pub fn things(&self) -> usize {
        let node = self.node();
        node.tables.len() + node.netems.len() + node.frozen.len() + node.workers.len()
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For calls that change something.
    fn change(&self) -> Result<MutexGuard<'_, Node>, Error> {
        let mut node = self.node();
        match node.fail_next.take() {
            Some(message) => Err(Error::refused("change the fake node", std::io::Error::other(message))),
            None => Ok(node),
        }
    }
}

impl Node {
    fn enter(&self, netns: &NetnsRef) -> Result<(), Error> {
        if self.targets.values().any(|target| target.netns == *netns) {
            return Ok(());
        }
        Err(Error::gone(format!("network namespace {}", netns.path.display())))
    }

    fn has_cgroup(&self, cgroup: &CgroupRef) -> bool {
        self.targets.values().any(|target| target.cgroup == *cgroup)
    }
}

impl System for FakeSystem {
    fn boottime_ms(&self) -> u64 {
        self.node().now_ms
    }

    fn identify(&self, pid: i32) -> Result<Target, Error> {
        self.node().targets.get(&pid).cloned().ok_or_else(|| Error::gone(format!("process {pid}")))
    }

    fn install_table(&self, netns: &NetnsRef, table: &TableSpec, lifetime: Duration) -> Result<(), Error> {
        let ruleset = Ruleset::render(table)?;
        let mut node = self.change()?;
        node.enter(netns)?;
        let ends_ms = node.now_ms + lifetime.as_millis() as u64;
        node.tables.insert((netns.cookie, table.name.clone()), (ruleset, ends_ms, 0));
        Ok(())
    }

    fn read_table(&self, netns: &NetnsRef, name: &str) -> Result<Option<TableState>, Error> {
        let node = self.node();
        node.enter(netns)?;
        let Some((ruleset, ends_ms, packets)) = node.tables.get(&(netns.cookie, name.to_owned())) else {
            return Ok(None);
        };
        let mut ruleset = ruleset.clone();
        let left_ms = ends_ms.saturating_sub(node.now_ms);
        let mut remaining_ms = BTreeMap::new();
        for (name, set) in &mut ruleset.sets {
            if left_ms == 0 {
                set.elements.clear();
            }
            remaining_ms.insert(name.clone(), vec![left_ms; set.elements.len()]);
        }
        let counters = vec![Counter { packets: *packets, bytes: packets * 64 }];
        Ok(Some(TableState { ruleset, counters, remaining_ms }))
    }

    fn remove_table(&self, netns: &NetnsRef, name: &str) -> Result<(), Error> {
        let mut node = self.change()?;
        node.enter(netns)?;
        node.tables.remove(&(netns.cookie, name.to_owned()));
        Ok(())
    }

    fn install_netem(&self, netns: &NetnsRef, netem: &NetemSpec) -> Result<(), Error> {
        let mut node = self.change()?;
        node.enter(netns)?;
        node.netems.insert((netns.cookie, netem.device.clone()), netem.clone());
        Ok(())
    }

    fn read_netem(&self, netns: &NetnsRef, device: &str) -> Result<Option<NetemState>, Error> {
        let node = self.node();
        node.enter(netns)?;
        let spec = node.netems.get(&(netns.cookie, device.to_owned())).cloned();
        Ok(spec.map(|spec| NetemState { spec, packets: 0 }))
    }

    fn remove_netem(&self, netns: &NetnsRef, device: &str) -> Result<(), Error> {
        let mut node = self.change()?;
        node.enter(netns)?;
        node.netems.remove(&(netns.cookie, device.to_owned()));
        Ok(())
    }

    fn freeze(&self, init: &ProcessRef, cgroup: &CgroupRef) -> Result<(), Error> {
        let mut node = self.change()?;
        if !node.targets.values().any(|target| target.process == *init && target.cgroup == *cgroup) {
            return Err(Error::gone(format!("process {}", init.pid)));
        }
        node.frozen.insert(cgroup.clone());
        Ok(())
    }

    fn read_freezer(&self, cgroup: &CgroupRef) -> Result<Option<FreezerState>, Error> {
        let node = self.node();
        let state = if node.frozen.contains(cgroup) { FreezerState::Frozen } else { FreezerState::Thawed };
        Ok(node.has_cgroup(cgroup).then_some(state))
    }

    fn thaw(&self, cgroup: &CgroupRef) -> Result<(), Error> {
        self.change()?.frozen.remove(cgroup);
        Ok(())
    }

    fn start_worker(&self, spec: &WorkerSpec, deadline_boottime_ms: u64) -> Result<ProcessRef, Error> {
        let mut node = self.change()?;
        if deadline_boottime_ms <= node.now_ms {
            return Err(Error::Invalid { what: "the deadline has passed".to_owned() });
        }
        node.next_pid += 1;
        let process = ProcessRef { pid: 100_000 + node.next_pid, start_ticks: node.now_ms / 10 };
        node.workers.insert(spec.id.clone(), (process.clone(), deadline_boottime_ms));
        Ok(process)
    }

    fn read_worker(&self, id: &str) -> Result<Option<WorkerState>, Error> {
        let node = self.node();
        Ok(node.workers.get(id).map(|(process, _)| WorkerState {
            process: process.clone(),
            report: Some(WorkerReport::default()),
        }))
    }

    fn stop_worker(&self, id: &str) -> Result<(), Error> {
        self.change()?.workers.remove(id);
        Ok(())
    }
}
