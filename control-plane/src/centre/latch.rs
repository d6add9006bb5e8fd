//! Stops and halts that this replica took, from the moment it took them: its sessions are told at
//! once, the store as soon as it can be reached. Also remembers who authenticated, so that a stop
//! is taken while the store is down.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::assignment::StopReason;
use proto::halt::Halt;
use proto::ids::{HaltId, RunId};
use proto::run::StopRequest;
use tokio::sync::Notify;

use super::{Caller, Error};
use crate::authored::record_stop;
use crate::cache::Cache;
use crate::driver::codec;
use crate::engine::object::Object;
use crate::store::{Store, Txn};

/// Tokens remembered.
const MAX_CALLERS: usize = 1024;
/// How long a caller waits for the store before the answer is "taken, not persisted yet".
const PERSIST_WITHIN: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Inner {
    stops: BTreeMap<RunId, StopRequest>,
    halts: BTreeMap<HaltId, Halt>,
    callers: BTreeMap<String, Caller>,
}

/// What is latched in memory.
#[derive(Debug, Default)]
pub struct Latch {
    inner: Mutex<Inner>,
    wake: Notify,
}

impl Latch {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stop and tells this replica's sessions.
    pub fn stop(&self, cache: &Cache, id: &RunId, stop: StopRequest) {
        self.inner().stops.entry(id.clone()).or_insert(stop);
        let clusters: Vec<_> = cache.read(|state| {
            state.runs.get(id).map(|entry| entry.desired.keys().cloned().collect()).unwrap_or_default()
        });
        for lane in clusters.iter().filter_map(|cluster| cache.lane(cluster)) {
            lane.stop(id);
        }
        self.wake.notify_one();
    }

    /// Takes a halt and tells this replica's sessions.
    pub fn halt(&self, cache: &Cache, halt: Halt) {
        self.inner().halts.entry(halt.id.clone()).or_insert(halt);
        for (_, lane) in cache.all_lanes() {
            lane.halts();
        }
        self.wake.notify_one();
    }

    /// Why a run is stopped, if it is so in memory.
    pub fn stop_reason(&self, id: &RunId) -> Option<StopReason> {
        self.inner().stops.get(id).map(|stop| stop.reason)
    }

    /// Halts that may not be in the store yet.
    pub fn halts(&self) -> Vec<Halt> {
        self.inner().halts.values().cloned().collect()
    }

    /// A halt was resumed.
    pub fn forget_halt(&self, id: &HaltId) {
        self.inner().halts.remove(id);
    }

    pub(super) fn remember(&self, hash: String, caller: &Caller) {
        let callers = &mut self.inner().callers;
        if callers.len() < MAX_CALLERS || callers.contains_key(&hash) {
            callers.insert(hash, caller.clone());
        }
    }

    pub(super) fn remembered(&self, hash: &str) -> Option<Caller> {
        self.inner().callers.get(hash).cloned()
    }

    /// Tries, for a bounded time, to have everything in the store.
    pub(super) async fn try_persist(&self, store: &dyn Store, cache: &Cache) {
        match tokio::time::timeout(PERSIST_WITHIN, self.persist(store, cache)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "persist what is latched");
            }
            Err(_) => tracing::warn!("persist what is latched: no answer in time"),
        }
    }

    async fn persist(&self, store: &dyn Store, cache: &Cache) -> Result<(), Error> {
        let (stops, halts) = {
            let inner = self.inner();
            (inner.stops.clone(), inner.halts.clone())
        };
        for (id, stop) in stops {
            let known = record_stop(store, &id, &stop).await?;
            // Until the cache shows it, the latch still answers for it.
            let shown = cache.read(|state| {
                let record = state.runs.get(&id).and_then(|entry| entry.record.as_ref());
                record.is_none_or(|record| record.value.stop.is_some())
            });
            if !known || shown {
                self.inner().stops.remove(&id);
            }
        }
        for (id, halt) in halts {
            let (resumed, shown) =
                cache.read(|state| (state.resumed.contains(&id), state.halts.contains_key(&id)));
            if !resumed && !shown {
                persist_halt(store, halt).await?;
            }
            if resumed || shown {
                self.inner().halts.remove(&id);
            }
        }
        Ok(())
    }

    /// Keeps trying for as long as anything is latched.
    pub async fn run(&self, store: &dyn Store, cache: &Cache) {
        loop {
            let idle = {
                let inner = self.inner();
                inner.stops.is_empty() && inner.halts.is_empty()
            };
            if idle {
                self.wake.notified().await;
            } else {
                tokio::time::sleep(RETRY).await;
            }
            self.try_persist(store, cache).await;
        }
    }
}

/// Writes a halt unless its id stands for one already or was lifted.
pub(crate) async fn persist_halt(store: &dyn Store, halt: Halt) -> Result<(), Error> {
    use crate::engine::object::ObjectKey;
    let resumed = codec::path(&ObjectKey::Resumed(halt.id.clone()))?;
    let path = codec::path(&ObjectKey::Halt(halt.id.clone()))?;
    let txn = Txn::new()
        .absent(&path)
        .absent(resumed)
        .put(&path, codec::encode(&Object::Halt(halt))?)
        .put(codec::path(&ObjectKey::HaltsRevision)?, codec::encode(&Object::HaltsRevision)?);
    // A conflict means that it is known.
    let _ = store.txn(txn).await?;
    Ok(())
}
