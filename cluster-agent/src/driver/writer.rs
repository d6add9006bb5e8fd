//! Writes to the cluster door in the background: the latest per key, tried again until it succeeds or is replaced.
//! The driver never waits for the apiserver or the disk, and one key that fails holds up no other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::halt::HaltLevel;
use proto::ids::RunId;
use proto::wire::{AuthoredRef, Mirror};
use tokio::sync::{Notify, mpsc};

use super::Input;
use crate::cluster::{Doors, Error, LatchedHalts, RunRecordHeld};

const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Record(RunId),
    Latched,
    Status(AuthoredRef),
    Level(String),
}

#[derive(Debug, Clone)]
enum Write {
    Put { version: u64, record: Box<RunRecordHeld> },
    Delete(RunId),
    Latched(LatchedHalts),
    Status(Mirror),
    Level(String, HaltLevel),
}

/// What is still to be written. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Writer(Arc<Pending>);

#[derive(Debug, Default)]
struct Pending {
    writes: Mutex<BTreeMap<Key, Write>>,
    more: Notify,
}

impl Writer {
    /// Replaces a run's record.
    pub fn put(&self, version: u64, record: Box<RunRecordHeld>) {
        self.push(Key::Record(record.run().clone()), Write::Put { version, record });
    }

    /// Drops a run's record.
    pub fn delete(&self, run: RunId) {
        self.push(Key::Record(run.clone()), Write::Delete(run));
    }

    /// Replaces the latched halts.
    pub fn latched(&self, halts: LatchedHalts) {
        self.push(Key::Latched, Write::Latched(halts));
    }

    /// Replaces the status of an authored object.
    pub fn status(&self, mirror: Mirror) {
        self.push(Key::Status(mirror.object.clone()), Write::Status(mirror));
    }

    /// Replaces the level of a Halt object.
    pub fn level(&self, name: String, level: HaltLevel) {
        self.push(Key::Level(name.clone()), Write::Level(name, level));
    }

    fn push(&self, key: Key, write: Write) {
        self.lock().insert(key, write);
        self.0.more.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Write>> {
        self.0.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes for ever; tells the driver what became durable.
    pub async fn run(self, doors: Doors, tell: mpsc::Sender<Input>) {
        loop {
            let batch = std::mem::take(&mut *self.lock());
            if batch.is_empty() {
                self.0.more.notified().await;
                continue;
            }
            let mut failed = false;
            for (key, write) in batch {
                match perform(&doors, &write).await {
                    Ok(()) => {
                        if let Some(input) = done(write) {
                            // The driver is gone only when everything ends.
                            let _ = tell.send(input).await;
                        }
                    }
                    Err(error)
                        if matches!(write, Write::Status(_) | Write::Level(..)) && !error.retryable() =>
                    {
                        tracing::warn!(%error, "status not written");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "write to the cluster failed; trying again");
                        failed = true;
                        self.lock().entry(key).or_insert(write);
                    }
                }
            }
            if failed {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn perform(doors: &Doors, write: &Write) -> Result<(), Error> {
    match write {
        Write::Put { record, .. } => doors.records.put(record).await,
        Write::Delete(run) => doors.records.delete(run).await,
        Write::Latched(halts) => doors.records.put_latched(halts).await,
        Write::Status(mirror) => doors.acts.write_status(mirror).await,
        Write::Level(name, level) => doors.acts.set_halt_status(name, *level).await,
    }
}

fn done(write: Write) -> Option<Input> {
    match write {
        Write::Put { version, record } => Some(Input::Persisted { run: record.run().clone(), version }),
        Write::Latched(halts) => Some(Input::HaltsPersisted(halts)),
        _ => None,
    }
}
