//! What this replica knows, for everyone who reads: sessions, the service, probes. The driver is
//! the only writer; nobody holds the lock across an await. Changes are announced, never queued
//! per reader: whoever is slow sees the latest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use proto::ids::{ClusterId, RunId};
use tokio::sync::{broadcast, watch};

use crate::engine::object::Revision;
use crate::engine::state::State;
use crate::link::lane::Lane;

/// Run changes that a reader may lag behind before it is told to look again.
const CHANGES: usize = 1024;
/// How long a writer waits to read its own write.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// The shared view.
#[derive(Debug)]
pub struct Cache {
    state: RwLock<State>,
    lanes: Mutex<BTreeMap<ClusterId, Arc<Lane>>>,
    runs: broadcast::Sender<RunId>,
    applied: watch::Sender<Revision>,
    complete: watch::Sender<bool>,
    endpoints: watch::Sender<()>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            state: RwLock::default(),
            lanes: Mutex::default(),
            runs: broadcast::channel(CHANGES).0,
            applied: watch::channel(0).0,
            complete: watch::channel(false).0,
            endpoints: watch::channel(()).0,
        }
    }
}

impl Cache {
    /// Reads; be quick, nothing else goes on meanwhile.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes; for the driver alone.
    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut State) -> T) -> T {
        write(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ids of runs that changed. Lagging means: look again at everything you care about.
    pub fn run_changes(&self) -> broadcast::Receiver<RunId> {
        self.runs.subscribe()
    }

    pub(crate) fn announce_run(&self, id: &RunId) {
        // Nobody listening is fine.
        let _ = self.runs.send(id.clone());
    }

    pub(crate) fn announce_applied(&self) {
        let (applied, complete) = self.read(|state| (state.applied, state.complete));
        self.complete.send_if_modified(|known| std::mem::replace(known, complete) != complete);
        self.applied.send_if_modified(|known| std::mem::replace(known, applied) != applied);
    }

    /// Waits until the store was read completely once: half a world must not be told to anybody.
    pub async fn complete(&self) {
        // The sender lives as long as this, so the wait never fails.
        let _ = self.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// Waits (bounded) until a write of this revision has come back.
    pub async fn seen(&self, revision: Revision) {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= revision);
        if tokio::time::timeout(SEEN_WITHIN, reached).await.is_err() {
            tracing::warn!(revision, "a write did not come back in time");
        }
    }

    /// Wakes whoever asks when the list of the centre's addresses changes.
    pub(crate) fn endpoints_changes(&self) -> watch::Receiver<()> {
        self.endpoints.subscribe()
    }

    pub(crate) fn announce_endpoints(&self) {
        self.endpoints.send_replace(());
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane of a cluster's session on this replica.
    pub fn lane(&self, cluster: &ClusterId) -> Option<Arc<Lane>> {
        self.lanes().get(cluster).cloned()
    }

    /// Every lane.
    pub fn all_lanes(&self) -> Vec<(ClusterId, Arc<Lane>)> {
        self.lanes().iter().map(|(id, lane)| (id.clone(), lane.clone())).collect()
    }

    /// Makes a lane the cluster's; the one before is told to go.
    pub(crate) fn attach(&self, cluster: &ClusterId, lane: &Arc<Lane>) {
        let old = self.lanes().insert(cluster.clone(), lane.clone());
        if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, lane)) {
            old.close("Superseded");
        }
    }

    /// Takes a lane away, unless another took its place.
    pub(crate) fn detach(&self, cluster: &ClusterId, lane: &Arc<Lane>) {
        let mut lanes = self.lanes();
        if lanes.get(cluster).is_some_and(|current| Arc::ptr_eq(current, lane)) {
            lanes.remove(cluster);
        }
    }
}
