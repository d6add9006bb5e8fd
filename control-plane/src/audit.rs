//! The audit: every decision and request, one hash chain per replica and process. Noting never
//! waits; a task writes in order with create-if-absent, over outages of the store. What finds no
//! room is counted and logged as an error.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::hash::sha256_hex;
use proto::rest::AuditRecord;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::driver::clock::Clock;
use crate::health::Health;
use crate::store::keys::Key;
use crate::store::{Outcome, Store, Txn};

/// Records that may wait for the store.
const QUEUE: usize = 4096;
const RETRY: Duration = Duration::from_millis(500);
/// How long after the end others may still note something.
const LAST_NOTES: Duration = Duration::from_millis(300);
const END_WITHIN: Duration = Duration::from_secs(3);

async fn late(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(END_WITHIN).await;
}

#[derive(Debug)]
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

/// The writing end.
#[derive(Debug)]
pub struct AuditWriter {
    notes: mpsc::Receiver<Note>,
    store: Arc<dyn Store>,
    replica: String,
    seq: u64,
    previous: String,
}

/// Both ends, for a replica whose name nobody had before.
pub fn new(
    store: Arc<dyn Store>,
    replica: &str,
    clock: Clock,
    health: Arc<Health>,
) -> (Auditor, AuditWriter) {
    let (sender, notes) = mpsc::channel(QUEUE);
    let writer = AuditWriter { notes, store, replica: replica.to_owned(), seq: 0, previous: String::new() };
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

impl AuditWriter {
    /// Writes until `shutdown`, and then what was noted last, for a bounded time.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let note = tokio::select! {
                biased;
                note = self.notes.recv() => note,
                () = shutdown.cancelled() => break,
            };
            let Some(note) = note else { return };
            tokio::select! {
                () = self.write(note) => {}
                // The store is away and we are to end: what waits is lost, and counted as such.
                () = late(&shutdown) => {
                    tracing::error!(waiting = self.notes.len(), "audit records not written at the end");
                    return;
                }
            }
        }
        let rest = async {
            while let Ok(Some(note)) = tokio::time::timeout(LAST_NOTES, self.notes.recv()).await {
                self.write(note).await;
            }
        };
        if tokio::time::timeout(END_WITHIN, rest).await.is_err() {
            tracing::error!("audit records not written at the end");
        }
    }

    async fn write(&mut self, note: Note) {
        let Note { at, by, action, subject, result } = note;
        loop {
            let record = AuditRecord {
                replica: self.replica.clone(),
                seq: self.seq + 1,
                at,
                by: by.clone(),
                action: action.clone(),
                subject: subject.clone(),
                result: result.clone(),
                previous: self.previous.clone(),
            };
            let (Ok(value), Ok(key)) =
                (serde_json::to_vec(&record), Key::Audit { replica: &self.replica, seq: record.seq }.path())
            else {
                return;
            };
            let hash = sha256_hex(&value);
            match self.store.txn(Txn::new().absent(&key).put(&key, value.clone())).await {
                Ok(Outcome::Committed { .. }) => {
                    (self.seq, self.previous) = (record.seq, hash);
                    return;
                }
                Ok(Outcome::Conflict { .. }) => {
                    // Our own, if the answer to it was lost; then this record is written already.
                    let stored = self.store.get(&key).await.ok().flatten();
                    let ours = stored.as_ref().is_some_and(|entry| entry.value == value);
                    let Some(stored) = stored else { continue };
                    (self.seq, self.previous) = (record.seq, sha256_hex(&stored.value));
                    if ours {
                        return;
                    }
                }
                Err(error) if error.retryable() => tokio::time::sleep(RETRY).await,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, action, "write the audit");
                    return;
                }
            }
        }
    }
}

/// Whether records of one replica, in order, form an unbroken chain from the first.
pub fn is_chain(records: &[AuditRecord]) -> bool {
    let mut previous = String::new();
    for (index, record) in records.iter().enumerate() {
        if record.seq != index as u64 + 1 || record.previous != previous {
            return false;
        }
        let Ok(json) = serde_json::to_vec(record) else {
            return false;
        };
        previous = sha256_hex(&json);
    }
    true
}
