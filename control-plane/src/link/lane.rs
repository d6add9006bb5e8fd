//! What a session has to tell its agent: never a queue of messages but a set of what is due, so
//! that an agent which stalls costs nothing and gets the latest when it reads again. Filled by the
//! driver and the session's reader without waiting, emptied by the session's sender.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::ids::RunId;
use proto::wire::{AuthoredRef, Nack};
use tokio::sync::Notify;

/// Clock probes and heartbeats that may wait; older ones are dropped, as their answer is stale.
const MAX_PROBES: usize = 16;
/// Nacks that may wait; further ones are dropped.
const MAX_NACKS: usize = 64;
/// Specs that may wait to be sent.
const MAX_SPECS: usize = 64;
/// Statuses that may wait: more than one cluster's quota of objects.
const MAX_MIRRORS: usize = 4096;

/// What is due next, most urgent first.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// The session is over, for this reason.
    Close(&'static str),
    /// All halts.
    Halts,
    /// A stop of this run.
    Stop(RunId),
    /// The time, for this probe.
    Clock(u64),
    /// That we are alive.
    Heartbeat(u64),
    /// That an observation was committed.
    Ack(RunId, u64, u64),
    /// The complete list of runs.
    DesiredList,
    /// The latest of this run.
    Desired(RunId),
    /// A spec's body.
    Spec(String),
    /// Where the centre is.
    Endpoints,
    /// A new certificate: chain and bundle.
    Renewed(String, String),
    /// That something was not taken.
    Nack(Nack),
    /// The status of the run, for its authored object.
    MirrorRun(RunId),
    /// A status as it is.
    Mirror(AuthoredRef, Vec<u8>),
}

#[derive(Debug, Default)]
struct Inner {
    close: Option<&'static str>,
    halts: bool,
    stops: BTreeSet<RunId>,
    clocks: VecDeque<u64>,
    heartbeat: Option<u64>,
    acks: BTreeMap<RunId, (u64, u64)>,
    endpoints: bool,
    desired_list: bool,
    desired: BTreeSet<RunId>,
    specs: BTreeSet<String>,
    renewed: Option<(String, String)>,
    nacks: VecDeque<Nack>,
    mirror_runs: BTreeSet<RunId>,
    mirrors: BTreeMap<AuthoredRef, Vec<u8>>,
}

/// What is due to one agent.
#[derive(Debug)]
pub struct Lane {
    session: String,
    /// As the agent was told.
    accepted: bool,
    /// Of the session's key in the store.
    revision: AtomicU64,
    /// The agent takes lists of the centre's addresses.
    takes_endpoints: AtomicBool,
    inner: Mutex<Inner>,
    wake: Notify,
    /// The session's key is gone from the store though the session lives.
    pub(crate) reassert: Notify,
}

impl Lane {
    /// Nothing due yet.
    pub fn new(session: impl Into<String>, accepted: bool) -> Self {
        Self {
            session: session.into(),
            accepted,
            revision: AtomicU64::new(0),
            takes_endpoints: AtomicBool::new(false),
            inner: Mutex::default(),
            wake: Notify::new(),
            reassert: Notify::new(),
        }
    }

    /// Whether the agent was told that its cluster is accepted.
    pub fn accepted(&self) -> bool {
        self.accepted
    }

    /// The revision of the session's key.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    pub(crate) fn set_revision(&self, revision: u64) {
        self.revision.fetch_max(revision, Ordering::Relaxed);
    }

    /// The session's id.
    pub fn session(&self) -> &str {
        &self.session
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner());
        self.wake.notify_one();
    }

    /// The session is over.
    pub fn close(&self, reason: &'static str) {
        self.change(|inner| inner.close = inner.close.or(Some(reason)));
    }

    /// Why the session is over, if it is.
    pub fn closed(&self) -> Option<&'static str> {
        self.inner().close
    }

    /// Halts changed.
    pub fn halts(&self) {
        self.change(|inner| inner.halts = true);
    }

    /// The agent said in its Hello that it takes lists of the centre's addresses.
    pub(crate) fn set_takes_endpoints(&self) {
        self.takes_endpoints.store(true, Ordering::Relaxed);
    }

    /// The list of the centre's addresses is due, to an agent that takes one.
    pub fn endpoints(&self) {
        if self.takes_endpoints.load(Ordering::Relaxed) {
            self.change(|inner| inner.endpoints = true);
        }
    }

    /// A run is to stop; goes before everything but halts.
    pub fn stop(&self, run: &RunId) {
        self.change(|inner| {
            inner.desired.remove(run);
            inner.stops.insert(run.clone());
        });
    }

    /// What is desired of a run changed.
    pub fn desired(&self, run: &RunId) {
        self.change(|inner| {
            if !inner.stops.contains(run) {
                inner.desired.insert(run.clone());
            }
        });
    }

    /// The complete list is due.
    pub fn desired_list(&self) {
        self.change(|inner| inner.desired_list = true);
    }

    /// An observation was committed.
    pub fn ack(&self, run: &RunId, epoch: u64, seq: u64) {
        self.change(|inner| {
            let known = inner.acks.entry(run.clone()).or_default();
            *known = (*known).max((epoch, seq));
        });
    }

    /// The agent asked for the time.
    pub fn clock(&self, id: u64) {
        self.change(|inner| {
            if inner.clocks.len() >= MAX_PROBES {
                inner.clocks.pop_front();
            }
            inner.clocks.push_back(id);
        });
    }

    /// The agent is alive.
    pub fn heartbeat(&self, seq: u64) {
        self.change(|inner| inner.heartbeat = Some(seq));
    }

    /// The agent asked for a spec.
    pub fn spec(&self, hash: String) {
        self.change(|inner| {
            if inner.specs.len() < MAX_SPECS {
                inner.specs.insert(hash);
            }
        });
    }

    /// A new certificate is there.
    pub fn renewed(&self, chain_pem: String, bundle_pem: String) {
        self.change(|inner| inner.renewed = Some((chain_pem, bundle_pem)));
    }

    /// Something was not taken.
    pub fn nack(&self, nack: Nack) {
        self.change(|inner| {
            if inner.nacks.len() < MAX_NACKS {
                inner.nacks.push_back(nack);
            }
        });
    }

    /// A run's status changed.
    pub fn mirror_run(&self, run: &RunId) {
        self.change(|inner| {
            if inner.mirror_runs.len() < MAX_MIRRORS {
                inner.mirror_runs.insert(run.clone());
            }
        });
    }

    /// An object's status is this.
    pub fn mirror(&self, object: AuthoredRef, status: Vec<u8>) {
        self.change(|inner| {
            if inner.mirrors.len() < MAX_MIRRORS || inner.mirrors.contains_key(&object) {
                inner.mirrors.insert(object, status);
            }
        });
    }

    /// Waits for the next thing due. Cancel safe; for one caller.
    pub async fn next(&self) -> Due {
        loop {
            // Registered before looking, so that nothing is missed in between.
            let woken = self.wake.notified();
            if let Some(due) = self.inner().take() {
                return due;
            }
            woken.await;
        }
    }
}

impl Inner {
    fn take(&mut self) -> Option<Due> {
        // A close stays: everything after it is the same answer.
        if let Some(reason) = self.close
            && !self.halts
            && self.stops.is_empty()
        {
            return Some(Due::Close(reason));
        }
        if std::mem::take(&mut self.halts) {
            return Some(Due::Halts);
        }
        None.or_else(|| self.stops.pop_first().map(Due::Stop))
            .or_else(|| self.clocks.pop_front().map(Due::Clock))
            .or_else(|| self.heartbeat.take().map(Due::Heartbeat))
            .or_else(|| self.acks.pop_first().map(|(run, (epoch, seq))| Due::Ack(run, epoch, seq)))
            .or_else(|| std::mem::take(&mut self.endpoints).then_some(Due::Endpoints))
            .or_else(|| std::mem::take(&mut self.desired_list).then_some(Due::DesiredList))
            .or_else(|| self.desired.pop_first().map(Due::Desired))
            .or_else(|| self.specs.pop_first().map(Due::Spec))
            .or_else(|| self.renewed.take().map(|(chain, bundle)| Due::Renewed(chain, bundle)))
            .or_else(|| self.nacks.pop_front().map(Due::Nack))
            .or_else(|| self.mirror_runs.pop_first().map(Due::MirrorRun))
            .or_else(|| self.mirrors.pop_first().map(|(object, status)| Due::Mirror(object, status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str) -> RunId {
        id.parse().unwrap()
    }

    #[tokio::test]
    async fn ten_updates_while_stalled_are_one_send() {
        let lane = Lane::new("s", true);
        for _ in 0..10 {
            lane.desired(&run("r1"));
        }
        assert_eq!(lane.next().await, Due::Desired(run("r1")));
        assert_eq!(lane.inner().take(), None);
    }

    #[tokio::test]
    async fn halts_and_stops_go_first_and_a_stop_replaces_the_update() {
        let lane = Lane::new("s", true);
        lane.desired(&run("r1"));
        lane.desired(&run("r2"));
        lane.ack(&run("r2"), 1, 3);
        lane.ack(&run("r2"), 1, 2);
        lane.stop(&run("r1"));
        lane.halts();
        assert_eq!(lane.next().await, Due::Halts);
        assert_eq!(lane.next().await, Due::Stop(run("r1")));
        assert_eq!(lane.next().await, Due::Ack(run("r2"), 1, 3));
        assert_eq!(lane.next().await, Due::Desired(run("r2")));
    }

    #[tokio::test]
    async fn the_list_of_addresses_is_due_once_and_only_to_who_takes_it() {
        let lane = Lane::new("s", true);
        lane.endpoints();
        assert_eq!(lane.inner().take(), None);
        lane.set_takes_endpoints();
        for _ in 0..10 {
            lane.endpoints();
        }
        lane.desired_list();
        assert_eq!(lane.next().await, Due::Endpoints);
        assert_eq!(lane.next().await, Due::DesiredList);
        assert_eq!(lane.inner().take(), None);
    }

    #[tokio::test]
    async fn a_flood_is_bounded_and_a_close_is_final() {
        let lane = Lane::new("s", true);
        for id in 0..1000 {
            lane.clock(id);
            lane.spec(format!("{id}"));
        }
        assert_eq!(lane.inner().clocks.len(), MAX_PROBES);
        assert_eq!(lane.next().await, Due::Clock(1000 - MAX_PROBES as u64));
        assert_eq!(lane.inner().specs.len(), MAX_SPECS);
        lane.close("Revoked");
        lane.close("Superseded");
        assert_eq!(lane.next().await, Due::Close("Revoked"));
        assert_eq!(lane.next().await, Due::Close("Revoked"));
    }
}
