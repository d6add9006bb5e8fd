//! Writes to the cluster door in the background: the latest per key, tried again until it succeeds or is replaced.
//! The driver never waits for the apiserver or the disk, and one key that fails holds up no other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::halt::HaltLevel;
use proto::ids::RunId;
use proto::wire::{AuthoredRef, Mirror};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::Input;
use crate::cluster::{Doors, Error, LatchedHalts, RunRecordHeld};

const RETRY: Duration = Duration::from_millis(500);
/// What was refused for good is tried again all the same: somebody may have allowed it since.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

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

#[derive(Debug)]
struct Waiting {
    write: Write,
    /// When it is tried again; none: at once.
    not_before: Option<Instant>,
}

/// What is still to be written. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Writer(Arc<Pending>);

#[derive(Debug, Default)]
struct Pending {
    writes: Mutex<BTreeMap<Key, Waiting>>,
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
        self.lock().insert(key, Waiting { write, not_before: None });
        self.0.more.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Waiting>> {
        self.0.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes for ever; tells the driver what became durable.
    pub async fn run(self, doors: Doors, tell: mpsc::Sender<Input>) {
        loop {
            let (batch, next) = self.due(Instant::now());
            if batch.is_empty() {
                let pause = async {
                    match next {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = self.0.more.notified() => {}
                    () = pause => {}
                }
                continue;
            }
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
                        let pause = if error.retryable() { RETRY } else { REFUSED_RETRY };
                        let not_before = Some(Instant::now() + pause);
                        // What replaced it meanwhile goes at once.
                        self.lock().entry(key).or_insert(Waiting { write, not_before });
                    }
                }
            }
        }
    }

    /// Takes out what may be written now, and says when the next of the others may.
    fn due(&self, now: Instant) -> (Vec<(Key, Write)>, Option<Instant>) {
        let mut writes = self.lock();
        let is_due = |_: &Key, waiting: &mut Waiting| waiting.not_before.is_none_or(|at| at <= now);
        let due = writes.extract_if(.., is_due).map(|(key, waiting)| (key, waiting.write)).collect();
        (due, writes.values().filter_map(|waiting| waiting.not_before).min())
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use proto::assignment::{Desired, Intent, Origin};
    use proto::grant::Principal;
    use tokio::task::JoinSet;

    use super::*;
    use crate::cluster::memory::Memory;
    use crate::cluster::{RecordState, Records};

    /// Refuses r1 for good.
    #[derive(Debug, Default)]
    struct Refusing {
        refused: AtomicUsize,
        more: Notify,
    }

    #[async_trait]
    impl Records for Refusing {
        async fn put(&self, record: &RunRecordHeld) -> Result<(), Error> {
            if record.run().as_str() != "r1" {
                return Ok(());
            }
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.more.notify_one();
            Err(Error::Refused { what: "put r1".into(), why: "not valid".into() })
        }
        async fn list(&self) -> Result<Vec<RunRecordHeld>, Error> {
            Ok(Vec::new())
        }
        async fn delete(&self, _: &RunId) -> Result<(), Error> {
            Ok(())
        }
        async fn latched(&self) -> Result<LatchedHalts, Error> {
            Ok(LatchedHalts::default())
        }
        async fn put_latched(&self, _: &LatchedHalts) -> Result<(), Error> {
            Ok(())
        }
    }

    fn record(run: &str) -> Box<RunRecordHeld> {
        let desired = Desired {
            run: run.parse().unwrap(),
            generation: 1,
            intent: Intent::Start,
            spec_hash: "00".into(),
            principal: Principal::Operator { name: "ann".into() },
            origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
            plan_hash: None,
            plan_expires: None,
            envelope: None,
            peers: BTreeMap::new(),
            start_before: None,
            run_deadline: None,
            stop_reason: None,
            trace: proto::trace::TraceContext::NONE,
        };
        Box::new(RunRecordHeld {
            desired,
            state: RecordState::Started,
            started_at: None,
            deadline: None,
            link_loss: None,
            injections: Vec::new(),
            end_reason: String::new(),
            observed: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_that_is_refused_holds_up_no_other() {
        let door = Arc::new(Refusing::default());
        let doors = Doors { records: door.clone(), ..Memory::new().doors() };
        let (tell, mut told) = mpsc::channel(8);
        let writer = Writer::default();
        let mut writing = JoinSet::new();
        writing.spawn(writer.clone().run(doors, tell));
        writer.put(1, record("r1"));
        door.more.notified().await;
        for version in 1..=20 {
            writer.put(version, record("r2"));
            let Some(Input::Persisted { run, version: durable }) = told.recv().await else { panic!() };
            assert_eq!((run.as_str(), durable), ("r2", version));
        }
        assert_eq!(door.refused.load(Ordering::Relaxed), 1, "nobody waited for the next attempt");
        // It is tried again in its own time, and at once when it is another.
        door.more.notified().await;
        writer.put(2, record("r1"));
        door.more.notified().await;
        assert_eq!(door.refused.load(Ordering::Relaxed), 3);
    }
}
