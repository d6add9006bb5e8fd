//! The audit: every decision and request, one hash chain per replica and process
//! (`proto::audit` says how it is hashed and signed). Noting never waits; a task writes in order
//! with create-if-absent, over outages of the store, and signs checkpoints. What finds no room is
//! counted and logged as an error. The leader sends the audit to a sink, signs for replicas that
//! died, and deletes what is old. Started by `replica`.

mod chains;
mod error;
mod export;
mod keep;
mod seal;
pub mod sink;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

pub(crate) use chains::Chains;
pub use error::Error;
pub(crate) use export::{Cursor, Export};
pub(crate) use keep::Keeper;
pub(crate) use seal::Sealer;
pub use seal::{Disbelief, believe};
pub use sink::SinkChoice;
pub use writer::AuditWriter;

use crate::driver::clock::Clock;
use crate::health::Health;
use crate::store::Store;

/// Records that may wait for the store.
const QUEUE: usize = 4096;

/// How the audit is kept.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// A checkpoint is signed after so many records.
    pub checkpoint_every: u64,
    /// And so long after a record that none covers yet.
    pub checkpoint_after: Duration,
    /// Where it is sent.
    pub sink: Option<SinkChoice>,
    /// The sink is alarmingly behind when its oldest missing record is older than this.
    pub alarm_after: Duration,
    /// How long records, and what else remembers the past, stay in the store.
    pub keep_for: Duration,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            checkpoint_every: 256,
            checkpoint_after: Duration::from_mins(5),
            sink: None,
            alarm_after: Duration::from_mins(5),
            keep_for: Duration::from_hours(24 * 30),
        }
    }
}

/// What is to become a record.
#[derive(Debug, Clone)]
struct Note {
    at: Timestamp,
    by: String,
    action: String,
    subject: String,
    result: String,
}

/// Where to note. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Auditor {
    notes: mpsc::Sender<Note>,
    clock: Clock,
    health: Arc<Health>,
}

/// Both ends, for a replica whose name nobody had before.
pub(crate) fn new(
    store: Arc<dyn Store>,
    sealer: Sealer,
    clock: Clock,
    health: Arc<Health>,
    config: &AuditConfig,
) -> (Auditor, AuditWriter) {
    let (sender, notes) = mpsc::channel(QUEUE);
    let writer = AuditWriter::new(notes, store, sealer, health.clone(), config);
    (Auditor { notes: sender, clock, health }, writer)
}

fn short(text: &str) -> String {
    text.chars().take(512).collect()
}

impl Auditor {
    /// Notes who did what to what, and how it went (`ok`, or a code).
    pub fn note(&self, by: &str, action: &str, subject: &str, result: &str) {
        tracing::info!(by, action, subject, result, "audit");
        let note = Note {
            at: self.clock.now(),
            by: short(by),
            action: short(action),
            subject: short(subject),
            result: short(result),
        };
        if self.notes.try_send(note).is_err() {
            self.health.audit_dropped.inc();
            tracing::error!(by, action, subject, result, "audit record dropped");
        }
    }
}
