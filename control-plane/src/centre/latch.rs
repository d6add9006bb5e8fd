//! Stops and halts that this replica took, from the moment it took them: its sessions are told at
//! once, other replicas by [`crate::peers`], the store as soon as it can be reached. What is kept
//! here is dropped only when the cache shows it, so that there is no gap in which it is nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::assignment::StopReason;
use proto::halt::Halt;
use proto::ids::{HaltId, RunId};
use proto::rest::{Reached, Taken};
use proto::run::StopRequest;
use proto::wire::{Latched, MAX_LATCHED};
use tokio::sync::{Notify, watch};

use super::Error;
use crate::audit::Auditor;
use crate::authored::{Recorded, record_stop};
use crate::cache::Cache;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::store::{Store, Txn};

/// Stops kept, and halts kept. More are refused, never dropped.
const MAX_KEPT: usize = 4096;
/// How long a caller waits for the store before the answer is "taken, not persisted yet".
const SETTLE_WITHIN: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(500);

/// What can be latched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// A run's stop.
    Stop(RunId),
    /// A halt.
    Halt(HaltId),
}

#[derive(Debug, Clone)]
enum Word {
    Stop(StopRequest),
    Halt(Box<Halt>),
}

#[derive(Debug, Clone)]
struct Kept {
    word: Word,
    /// The replica that told us; `None`: it was asked for here.
    from: Option<String>,
    /// Replicas that have it.
    told: BTreeSet<String>,
    /// The store has it.
    persisted: bool,
    /// The store was tried and did not take it.
    failed: bool,
}

/// What is latched in memory.
#[derive(Debug)]
pub struct Latch {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    audit: Auditor,
    /// This replica.
    replica: String,
    kept: Mutex<BTreeMap<Item, Kept>>,
    wake: Notify,
    changes: watch::Sender<()>,
}

impl Latch {
    /// Nothing latched yet.
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>, audit: Auditor, replica: &str) -> Self {
        Self {
            store,
            cache,
            audit,
            replica: replica.to_owned(),
            kept: Mutex::default(),
            wake: Notify::new(),
            changes: watch::channel(()).0,
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Item, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stop, asked for here or told by replica `from`, and tells this replica's sessions.
    /// The first one stays.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn stop(&self, id: &RunId, stop: StopRequest, from: Option<&str>) -> Result<(), Error> {
        self.take(Item::Stop(id.clone()), Word::Stop(stop), from)?;
        let clusters: Vec<_> = self.cache.read(|state| {
            state.runs.get(id).map(|entry| entry.desired.keys().cloned().collect()).unwrap_or_default()
        });
        for lane in clusters.iter().filter_map(|cluster| self.cache.lane(cluster)) {
            lane.stop(id);
        }
        Ok(())
    }

    /// Takes a halt, as [`Self::stop`].
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn halt(&self, halt: Halt, from: Option<&str>) -> Result<(), Error> {
        self.take(Item::Halt(halt.id.clone()), Word::Halt(Box::new(halt)), from)?;
        for (_, lane) in self.cache.all_lanes() {
            lane.halts();
        }
        Ok(())
    }

    fn take(&self, item: Item, word: Word, from: Option<&str>) -> Result<(), Error> {
        let mut kept = self.kept();
        if let Some(known) = kept.get_mut(&item) {
            known.told.extend(from.map(str::to_owned));
        } else if kept.len() >= MAX_KEPT {
            return Err(Error::Full(format!("{MAX_KEPT} stops and halts wait for the store")));
        } else {
            let told = from.map(str::to_owned).into_iter().collect();
            let from = from.map(str::to_owned);
            kept.insert(item, Kept { word, from, told, persisted: false, failed: false });
        }
        drop(kept);
        self.wake.notify_one();
        self.changes.send_replace(());
        Ok(())
    }

    /// Why a run is stopped, if it is so in memory.
    pub fn stop_reason(&self, id: &RunId) -> Option<StopReason> {
        match &self.kept().get(&Item::Stop(id.clone()))?.word {
            Word::Stop(stop) => Some(stop.reason),
            Word::Halt(_) => None,
        }
    }

    /// Halts that may not be in the store yet.
    pub fn halts(&self) -> Vec<Halt> {
        let halt = |kept: &Kept| match &kept.word {
            Word::Halt(halt) => Some(halt.as_ref().clone()),
            Word::Stop(_) => None,
        };
        self.kept().values().filter_map(halt).collect()
    }

    /// The store has it that a halt was resumed.
    pub fn forget_halt(&self, id: &HaltId) {
        self.forget(&Item::Halt(id.clone()));
    }

    fn forget(&self, item: &Item) {
        self.kept().remove(item);
        self.changes.send_replace(());
    }

    fn mark(&self, item: &Item, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = self.kept().get_mut(item) {
            change(kept);
        }
        self.changes.send_replace(());
    }

    /// Fires whenever something is taken, told, stored or dropped.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether nothing is latched.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Stops and halts that are latched.
    pub fn count(&self) -> usize {
        self.kept().len()
    }

    /// What this replica was not told yet; at most one message full.
    pub fn untold(&self, replica: &str) -> Latched {
        let mut latched = Latched::default();
        let kept = self.kept();
        let due = kept.iter().filter(|(_, kept)| !kept.told.contains(replica)).take(MAX_LATCHED);
        for (item, kept) in due {
            match (item, &kept.word) {
                (Item::Stop(run), Word::Stop(stop)) => latched.stops.push((run.clone(), stop.clone())),
                (_, Word::Halt(halt)) => latched.halts.push(halt.as_ref().clone()),
                (Item::Halt(_), Word::Stop(_)) => {}
            }
        }
        latched
    }

    /// This replica has all of it.
    pub fn told(&self, replica: &str, latched: &Latched) {
        let stops = latched.stops.iter().map(|(run, _)| Item::Stop(run.clone()));
        let halts = latched.halts.iter().map(|halt| Item::Halt(halt.id.clone()));
        for item in stops.chain(halts) {
            self.mark(&item, |kept| kept.told.extend([replica.to_owned()]));
        }
    }

    /// Waits, for a bounded time, until the store has it, or until the store failed and every
    /// other replica has it; then says which.
    pub(super) async fn settled<T>(&self, item: &Item, view: impl FnOnce() -> T) -> Taken<T> {
        let mut changes = self.changes();
        let wait = async {
            loop {
                let (persisted, failed, reached) = self.reach(item);
                if persisted || (failed && reached.told >= reached.known) || changes.changed().await.is_err()
                {
                    return;
                }
            }
        };
        // Whichever way it ends, the answer says how far it came.
        let _ = tokio::time::timeout(SETTLE_WITHIN, wait).await;
        let (persisted, _, reached) = self.reach(item);
        Taken { view: view(), persisted, replicas: (!persisted).then_some(reached) }
    }

    /// Whether the store has it, whether the store failed, and which replicas have it.
    fn reach(&self, item: &Item) -> (bool, bool, Reached) {
        let others: Vec<String> = self
            .cache
            .read(|state| state.replicas.keys().filter(|id| **id != self.replica).cloned().collect());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let kept = self.kept();
        let Some(kept) = kept.get(item) else {
            return (true, false, Reached::default());
        };
        let told = others.iter().filter(|other| kept.told.contains(*other)).count();
        (kept.persisted, kept.failed, Reached { told: count(told), known: count(others.len()) })
    }

    /// Writes what is latched, for as long as anything is.
    pub async fn run(&self) {
        loop {
            if self.is_empty() {
                self.wake.notified().await;
            } else {
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
            if let Err(error) = self.persist().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "persist what is latched");
                for kept in self.kept().values_mut() {
                    kept.failed |= !kept.persisted;
                }
                self.changes.send_replace(());
            }
        }
    }

    /// Writes each; a store that is out of reach ends the round, anything else only that item's part.
    async fn persist(&self) -> Result<(), Error> {
        let all: Vec<(Item, Kept)> =
            self.kept().iter().map(|(item, kept)| (item.clone(), kept.clone())).collect();
        for (item, kept) in all {
            let stored = match (&item, &kept.word) {
                (Item::Stop(run), Word::Stop(stop)) => self.persist_stop(run, stop, &kept).await,
                (_, Word::Halt(halt)) => self.persist_halt(halt, &kept).await,
                (Item::Halt(_), Word::Stop(_)) => Ok(()),
            };
            match stored {
                Err(Error::Store(error)) if error.retryable() => return Err(Error::Store(error)),
                Err(error) => {
                    tracing::error!(
                        ?item,
                        error = &error as &dyn std::error::Error,
                        "persist what is latched"
                    );
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn persist_stop(&self, run: &RunId, stop: &StopRequest, kept: &Kept) -> Result<(), Error> {
        let item = Item::Stop(run.clone());
        let shown = self.cache.read(|state| {
            let record = state.runs.get(run).and_then(|entry| entry.record.as_ref());
            record.is_some_and(|record| record.value.stop.is_some())
        });
        if shown {
            self.forget(&item);
            return Ok(());
        }
        match record_stop(self.store.as_ref(), run, stop).await? {
            Recorded::NoRun => self.forget(&item),
            Recorded::Known => self.mark(&item, |kept| kept.persisted = true),
            Recorded::Written => {
                self.mark(&item, |kept| kept.persisted = true);
                self.relayed(&stop.by, "run.stop.relayed", run.as_str(), kept);
            }
        }
        Ok(())
    }

    async fn persist_halt(&self, halt: &Halt, kept: &Kept) -> Result<(), Error> {
        let item = Item::Halt(halt.id.clone());
        let shown =
            |id: &HaltId| self.cache.read(|state| state.resumed.contains(id) || state.halts.contains_key(id));
        if shown(&halt.id) {
            self.forget(&item);
        } else if !kept.persisted {
            let written = persist_halt(self.store.as_ref(), halt.clone()).await?;
            self.mark(&item, |kept| kept.persisted = true);
            if written {
                self.relayed(&halt.by, "halt.set.relayed", halt.id.as_str(), kept);
            }
        }
        Ok(())
    }

    /// The replica that was asked audits the request. That another one wrote it down is on record,
    /// too: the first may not live to say anything.
    fn relayed(&self, by: &str, action: &str, subject: &str, kept: &Kept) {
        if kept.from.is_some() {
            self.audit.note(by, action, subject, "ok");
        }
    }
}

/// Writes a halt unless its id stands for one already or was lifted. `true` when it was written.
pub(crate) async fn persist_halt(store: &dyn Store, halt: Halt) -> Result<bool, Error> {
    let resumed = codec::path(&ObjectKey::Resumed(halt.id.clone()))?;
    let path = codec::path(&ObjectKey::Halt(halt.id.clone()))?;
    let txn = Txn::new()
        .absent(&path)
        .absent(resumed)
        .put(&path, codec::encode(&Object::Halt(halt))?)
        .put(codec::path(&ObjectKey::HaltsRevision)?, codec::encode(&Object::HaltsRevision)?);
    // A conflict means that it is known.
    Ok(!store.txn(txn).await?.is_conflict())
}
