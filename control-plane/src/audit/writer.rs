//! Writing one replica's chain: a record per note, a checkpoint after so many records or so much
//! time, and one at the end. A checkpoint takes the place of the one before of the same day, so a
//! day leaves one behind.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proto::audit::{CheckpointKind, digest};
use proto::rest::AuditRecord;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{AuditConfig, Error, Note, Sealer};
use crate::health::Health;
use crate::store::keys::Key;
use crate::store::{Outcome, Revision, Store, Txn};

const RETRY: Duration = Duration::from_millis(500);
/// How long after the end others may still note something.
const LAST_NOTES: Duration = Duration::from_millis(300);
const END_WITHIN: Duration = Duration::from_secs(3);

async fn late(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(END_WITHIN).await;
}

/// A checkpoint of ours in the store.
#[derive(Debug)]
struct Checkpointed {
    key: String,
    revision: Revision,
    at: Timestamp,
}

/// The writing end.
#[derive(Debug)]
pub struct AuditWriter {
    notes: mpsc::Receiver<Note>,
    store: Arc<dyn Store>,
    sealer: Sealer,
    health: Arc<Health>,
    every: u64,
    after: Duration,
    seq: u64,
    previous: String,
    /// The last number that is covered.
    signed: u64,
    due: Option<Instant>,
    checkpoint: Option<Checkpointed>,
}

impl AuditWriter {
    pub(super) fn new(
        notes: mpsc::Receiver<Note>,
        store: Arc<dyn Store>,
        sealer: Sealer,
        health: Arc<Health>,
        config: &AuditConfig,
    ) -> Self {
        Self {
            notes,
            store,
            sealer,
            health,
            every: config.checkpoint_every.max(1),
            after: config.checkpoint_after,
            seq: 0,
            previous: String::new(),
            signed: 0,
            due: None,
            checkpoint: None,
        }
    }

    /// Writes until `shutdown`, and then what was noted last, for a bounded time.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let due = self.due.unwrap_or_else(|| Instant::now() + self.after);
            let note = tokio::select! {
                biased;
                note = self.notes.recv() => note,
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep_until(due), if self.due.is_some() => {
                    self.sign().await;
                    continue;
                }
            };
            let Some(note) = note else { break };
            tokio::select! {
                () = self.take(note) => {}
                // The store is away and we are to end: what waits is lost, and counted as such.
                () = late(&shutdown) => {
                    self.lost();
                    return;
                }
            }
        }
        let rest = async {
            while let Ok(Some(note)) = tokio::time::timeout(LAST_NOTES, self.notes.recv()).await {
                self.take(note).await;
            }
            if self.signed < self.seq {
                self.sign().await;
            }
        };
        if tokio::time::timeout(END_WITHIN, rest).await.is_err() {
            self.lost();
        }
    }

    fn lost(&self) {
        let waiting = self.notes.len();
        self.health.audit_dropped.inc_by(waiting as u64);
        tracing::error!(waiting, "audit records not written at the end");
    }

    async fn take(&mut self, note: Note) {
        self.write(note).await;
        if self.seq - self.signed >= self.every {
            self.sign().await;
        } else if self.due.is_none() && self.signed < self.seq {
            self.due = Some(Instant::now() + self.after);
        }
    }

    fn record(&self, note: &Note) -> AuditRecord {
        let mut record = AuditRecord {
            replica: self.sealer.replica().to_owned(),
            seq: self.seq + 1,
            at: note.at,
            by: note.by.clone(),
            action: note.action.clone(),
            subject: note.subject.clone(),
            result: note.result.clone(),
            previous: self.previous.clone(),
            hash: String::new(),
        };
        record.hash = digest(&record);
        record
    }

    async fn write(&mut self, note: Note) {
        loop {
            let record = self.record(&note);
            match self.put(&record).await {
                Ok(true) => {
                    (self.seq, self.previous) = (record.seq, record.hash);
                    return;
                }
                Ok(false) => {}
                Err(Error::Store(error)) if error.retryable() => tokio::time::sleep(RETRY).await,
                Err(error) => {
                    self.health.audit_dropped.inc();
                    let action = note.action;
                    tracing::error!(error = &error as &dyn std::error::Error, action, "write the audit");
                    return;
                }
            }
        }
    }

    /// Whether it stands. `false`: its number was taken by something else, which is next to be
    /// followed.
    async fn put(&mut self, record: &AuditRecord) -> Result<bool, Error> {
        let key = Key::Audit { replica: &record.replica, seq: record.seq }.path()?;
        let value = serde_json::to_vec(record)?;
        let txn = Txn::new().absent(&key).put(&key, value.clone());
        if let Outcome::Committed { .. } = self.store.txn(txn).await? {
            return Ok(true);
        }
        // Our own, if the answer to it was lost; then it is written already.
        let Some(stored) = self.store.get(&key).await? else {
            return Ok(false);
        };
        if stored.value == value {
            return Ok(true);
        }
        // Nobody has our name; whoever wrote this is not hidden by writing over it.
        tracing::error!(key, "a foreign record stands in this replica's audit");
        let foreign = serde_json::from_slice::<AuditRecord>(&stored.value).ok();
        (self.seq, self.previous) = (record.seq, foreign.map(|record| record.hash).unwrap_or_default());
        Ok(false)
    }

    /// Signs what is written so far. A failure is tried again with the next record or in a while.
    async fn sign(&mut self) {
        match self.put_checkpoint().await {
            Ok(()) => (self.signed, self.due) = (self.seq, None),
            Err(error) => {
                self.due = Some(Instant::now() + self.after.min(Duration::from_secs(30)));
                tracing::warn!(error = &error as &dyn std::error::Error, "sign the audit");
            }
        }
    }

    async fn put_checkpoint(&mut self) -> Result<(), Error> {
        let (replica, seq) = (self.sealer.replica(), self.seq);
        let checkpoint = self.sealer.checkpoint(replica, seq, &self.previous, CheckpointKind::Progress)?;
        let key = Key::AuditCheckpoint { replica, seq }.path()?;
        let value = serde_json::to_vec(&checkpoint)?;
        let at = checkpoint.at;
        let put = Txn::new().put(&key, value.clone());
        let same_day = |old: &&Checkpointed| day(old.at) == day(at) && old.key != key;
        let replaces = self.checkpoint.as_ref().filter(same_day);
        let txn = match replaces {
            Some(old) => put.clone().unchanged(&old.key, old.revision).delete(&old.key),
            None => put.clone(),
        };
        let mut outcome = self.store.txn(txn).await?;
        if outcome.is_conflict() {
            // The leader made a pruning of it: that one stays.
            outcome = self.store.txn(put).await?;
        }
        self.checkpoint = Some(Checkpointed { key, revision: outcome.committed()?, at });
        Ok(())
    }
}

fn day(at: Timestamp) -> jiff::civil::Date {
    at.to_zoned(TimeZone::UTC).date()
}
