//! What this replica knows, for everyone who reads: sessions, the service, probes. The driver is
//! the only writer; nobody holds the lock across an await. Changes are announced, never queued
//! per reader: whoever is slow sees the latest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use proto::ids::{ClusterId, RunId};
use tokio::sync::{broadcast, watch};

use crate::driver::codec::{FOLLOWED, followed_by};
use crate::engine::object::Revision;
use crate::engine::state::State;
use crate::link::lane::Lane;
use crate::store::{self, Outcome, Store, Txn};

/// Run changes that a reader may lag behind before it is told to look again.
const CHANGES: usize = 1024;
/// Why an agent is sent elsewhere when this replica ends.
const DRAINING: &str = "Draining";
/// How long a writer waits to read its own write.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Lanes {
    of: BTreeMap<ClusterId, Arc<Lane>>,
    /// This replica ends: who comes now goes at once.
    draining: bool,
}

/// The shared view.
#[derive(Debug)]
pub struct Cache {
    state: RwLock<State>,
    lanes: Mutex<Lanes>,
    runs: broadcast::Sender<RunId>,
    /// How far each followed prefix was taken in: each comes by itself.
    applied: watch::Sender<[Revision; FOLLOWED.len()]>,
    complete: watch::Sender<bool>,
    endpoints: watch::Sender<()>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            state: RwLock::default(),
            lanes: Mutex::default(),
            runs: broadcast::channel(CHANGES).0,
            applied: watch::channel([0; FOLLOWED.len()]).0,
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

    /// Everything under this one of [`FOLLOWED`] stands here as it stood at this revision.
    pub(crate) fn announce_applied(&self, prefix: usize, revision: Revision) {
        self.applied.send_modify(|applied| applied[prefix] = revision);
    }

    pub(crate) fn announce_complete(&self) {
        self.complete.send_replace(true);
    }

    /// Waits until the store was read completely once: half a world must not be told to anybody.
    pub async fn complete(&self) {
        // The sender lives as long as this, so the wait never fails.
        let _ = self.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// Writes, and waits (bounded) until what was written is seen here.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn write_through(&self, store: &dyn Store, txn: Txn) -> Result<Outcome, store::Error> {
        let written = txn.written();
        let outcome = store.txn(txn).await?;
        if let Outcome::Committed { revision } = outcome {
            self.seen(revision, &written).await;
        }
        Ok(outcome)
    }

    /// Waits (bounded) until a write of this revision has come back, for each of these keys. Name only what it
    /// certainly wrote: a prefix in which nothing changed may never hear of the revision.
    pub async fn seen(&self, revision: Revision, written: &[impl AsRef<str>]) {
        let prefixes: Vec<usize> = written.iter().filter_map(|key| followed_by(key.as_ref())).collect();
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| prefixes.iter().all(|prefix| applied[*prefix] >= revision));
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

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane of a cluster's session on this replica.
    pub fn lane(&self, cluster: &ClusterId) -> Option<Arc<Lane>> {
        self.lanes().of.get(cluster).cloned()
    }

    /// Every lane.
    pub fn all_lanes(&self) -> Vec<(ClusterId, Arc<Lane>)> {
        self.lanes().of.iter().map(|(id, lane)| (id.clone(), lane.clone())).collect()
    }

    /// Makes a lane the cluster's; the one before is told to go.
    pub(crate) fn attach(&self, cluster: &ClusterId, lane: &Arc<Lane>) {
        let mut lanes = self.lanes();
        if lanes.draining {
            lane.close(DRAINING);
        }
        let old = lanes.of.insert(cluster.clone(), lane.clone());
        drop(lanes);
        if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, lane)) {
            old.close("Superseded");
        }
    }

    /// Tells every agent to go elsewhere, and whose session is still opening as soon as it has a lane.
    pub(crate) fn drain(&self) {
        let mut lanes = self.lanes();
        lanes.draining = true;
        lanes.of.values().for_each(|lane| lane.close(DRAINING));
    }

    /// Takes a lane away, unless another took its place.
    pub(crate) fn detach(&self, cluster: &ClusterId, lane: &Arc<Lane>) {
        let mut lanes = self.lanes();
        if lanes.of.get(cluster).is_some_and(|current| Arc::ptr_eq(current, lane)) {
            lanes.of.remove(cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_writer_waits_for_what_it_wrote_and_for_nothing_else() {
        let cache = Cache::default();
        let experiment = "experiments/central/central/x";
        let (one, two, token) = ([experiment], [experiment, "session/c-1"], ["tokens/t"]);
        let at = |key: &str| followed_by(key).unwrap();
        // Each prefix comes by itself: another one is ahead.
        cache.announce_applied(at("session/c-1"), 9);
        let seen = cache.seen(7, &one);
        tokio::pin!(seen);
        assert!(poll!(&mut seen).is_pending());
        cache.announce_applied(at(experiment), 7);
        assert!(poll!(&mut seen).is_ready());

        let both = cache.seen(9, &two);
        tokio::pin!(both);
        assert!(poll!(&mut both).is_pending());
        cache.announce_applied(at(experiment), 10);
        assert!(poll!(&mut both).is_ready());
        // Nobody follows tokens, so nothing of them would ever come.
        let seen = cache.seen(100, &token);
        tokio::pin!(seen);
        assert!(poll!(&mut seen).is_ready());
    }

    #[test]
    fn who_comes_while_this_replica_ends_is_sent_elsewhere_too() {
        let cache = Cache::default();
        let lanes = ["c-1", "c-2"].map(|id| (id.parse().unwrap(), Arc::new(Lane::new(id, true))));
        let [(early, before), (late, after)] = &lanes;
        cache.attach(early, before);
        assert_eq!(before.closed(), None);
        cache.drain();
        // Its Hello was taken before the end began.
        cache.attach(late, after);
        assert_eq!([before.closed(), after.closed()], [Some(DRAINING); 2]);
    }
}
