//! Sending the audit to its sink: the leader's part, in order per chain, at least once. How far
//! each chain is sent stands in the store, moved only after the sink has answered, so that another
//! leader or another process goes on there: nothing is skipped, some of it may be sent twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::audit::AuditLine;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::chains::PAGE;
use super::sink::{Sink, SinkChoice, SinkError};
use super::{Chains, Error};
use crate::driver::clock::Clock;
use crate::health::Health;
use crate::leading::{Led, while_leading};
use crate::store::keys::Key;
use crate::store::{self, Compare, Revision, Store, Txn};

/// How often it is looked for new records.
const EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a failure, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often it is looked for chains of replicas that are gone.
const ALL_EVERY: Duration = Duration::from_secs(30);
/// How often a late sink is told in the log.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);
/// Pages of a chain that are counted to say how far behind the sink is.
const COUNTED_PAGES: usize = 50;

/// The value of `audit-cursor/<sink>/<replica>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cursor {
    /// The last record that the sink has.
    pub(crate) seq: u64,
    /// The last checkpoint.
    pub(crate) checkpoint: u64,
    /// When it moved.
    pub(crate) at: Option<Timestamp>,
}

/// Why a round of sending ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Audit(#[from] Error),
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Audit(error.into())
    }
}

/// Sends the audit to one sink.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) choice: SinkChoice,
    /// This process.
    pub(crate) replica: String,
    pub(crate) clock: Clock,
    pub(crate) health: Arc<Health>,
    pub(crate) alarm_after: Duration,
    pub(crate) leads: watch::Receiver<Option<Compare>>,
}

/// What is known while this replica leads.
struct Round<'a> {
    export: &'a Export,
    chains: Chains,
    name: String,
    fence: Compare,
    sink: Box<dyn Sink>,
    /// Chains that may have more, and how far each was sent.
    places: BTreeMap<String, (Cursor, Revision)>,
    all_at: Instant,
    complained: Option<Instant>,
}

impl Led for Export {
    async fn lead(&self, fence: Compare) {
        let mut wait = RETRY.0;
        let mut round = loop {
            match self.choice.open(&self.replica) {
                Ok(sink) => break self.round(sink, fence),
                Err(error) => {
                    tracing::error!(sink = %self.choice, error = &error as &dyn std::error::Error, "open the audit sink");
                    tokio::time::sleep(RETRY.1).await;
                }
            }
        };
        loop {
            match round.pass().await {
                Ok(()) => {
                    wait = RETRY.0;
                    tokio::time::sleep(EVERY).await;
                }
                Err(failure) => {
                    round.failed(&failure).await;
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    fn over(&self) {
        self.health.sink.current();
    }
}

impl Export {
    /// Sends whenever this replica leads, until `shutdown`; a batch under way is not waited for.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        while_leading(&self, self.leads.clone(), shutdown).await;
    }

    fn round(&self, sink: Box<dyn Sink>, fence: Compare) -> Round<'_> {
        Round {
            export: self,
            chains: Chains::new(self.store.clone()),
            name: self.choice.name(),
            fence,
            sink,
            places: BTreeMap::new(),
            all_at: Instant::now(),
            complained: None,
        }
    }
}

impl Round<'_> {
    /// Sends what every chain has.
    async fn pass(&mut self) -> Result<(), Failure> {
        let live = self.chains.live().await?;
        let mut names = live.clone();
        if self.all_at <= Instant::now() {
            names.extend(self.chains.names().await?);
            self.all_at = Instant::now() + ALL_EVERY;
        }
        for name in names {
            self.place(&name).await?;
        }
        let names: Vec<String> = self.places.keys().cloned().collect();
        for name in names {
            while self.batch(&name).await? {}
            if !live.contains(&name) {
                self.places.remove(&name);
            }
        }
        self.export.health.sink.current();
        self.complained = None;
        Ok(())
    }

    async fn place(&mut self, replica: &str) -> Result<(Cursor, Revision), Error> {
        if let Some(place) = self.places.get(replica) {
            return Ok(*place);
        }
        let key = Key::AuditCursor { sink: &self.name, replica }.path()?;
        let place = match self.export.store.get(&key).await? {
            // One that cannot be read begins anew: rather twice than never.
            Some(entry) => (serde_json::from_slice(&entry.value).unwrap_or_default(), entry.mod_revision),
            None => (Cursor::default(), 0),
        };
        self.places.insert(replica.to_owned(), place);
        Ok(place)
    }

    /// Sends some of a chain; whether there may be more.
    async fn batch(&mut self, replica: &str) -> Result<bool, Failure> {
        let (cursor, revision) = self.place(replica).await?;
        let records = self.chains.records(replica, cursor.seq).await?;
        let full = records.len() >= PAGE;
        let seq = records.last().map_or(cursor.seq, |(seq, _)| *seq);
        let checkpoints = self.chains.checkpoints(replica, cursor.checkpoint).await?;
        let due = checkpoints.into_iter().map(|(checkpoint, _)| checkpoint).filter(|c| c.seq <= seq);
        let mut lines: Vec<AuditLine> =
            records.into_iter().filter_map(|(_, record)| record).map(AuditLine::Record).collect();
        let last_at = lines.iter().rev().find_map(|line| match line {
            AuditLine::Record(record) => Some(record.at),
            AuditLine::Checkpoint(_) => None,
        });
        lines.extend(due.map(AuditLine::Checkpoint));
        if lines.is_empty() && seq == cursor.seq {
            return Ok(false);
        }
        self.sink.write(&lines).await?;
        let checkpoint = lines.iter().rev().find_map(|line| match line {
            AuditLine::Checkpoint(checkpoint) => Some(checkpoint.seq),
            AuditLine::Record(_) => None,
        });
        let now = self.export.clock.now();
        let moved = Cursor { seq, checkpoint: checkpoint.unwrap_or(cursor.checkpoint), at: Some(now) };
        let revision = self.save(replica, moved, revision).await?;
        self.places.insert(replica.to_owned(), (moved, revision));
        self.export.health.sink.sent(lines.len() as u64, now);
        if full && let Some(at) = last_at {
            self.export.health.sink.behind(None, lag(now, at));
        }
        Ok(full)
    }

    /// Moves the cursor, if this replica still leads and nobody else moved it.
    async fn save(&mut self, replica: &str, cursor: Cursor, revision: Revision) -> Result<Revision, Error> {
        let key = Key::AuditCursor { sink: &self.name, replica }.path()?;
        let txn = Txn::new().when(self.fence.clone()).unchanged(&key, revision);
        let saved = self.export.store.txn(txn.put(&key, serde_json::to_vec(&cursor)?)).await;
        if !matches!(saved, Ok(store::Outcome::Committed { .. })) {
            // What stands there is read again before anything else is sent.
            self.places.remove(replica);
        }
        Ok(saved?.committed()?)
    }

    /// Tells how far behind the sink is; raises the alarm when that is too far.
    async fn failed(&mut self, failure: &Failure) {
        let health = &self.export.health;
        health.sink.failed();
        let sink = self.export.choice.to_string();
        tracing::warn!(sink, error = failure as &dyn std::error::Error, "send the audit");
        let Ok((pending, oldest)) = self.backlog().await else { return };
        let Some(oldest) = oldest else { return };
        let lag = lag(self.export.clock.now(), oldest);
        health.sink.behind(Some(pending), lag);
        let late = lag > self.export.alarm_after;
        health.sink.set_late(late);
        if late && self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::error!(sink, pending, lag_seconds = lag.as_secs(), "the audit sink is behind");
        }
    }

    /// How many records wait, counted up to a bound, and since when.
    async fn backlog(&mut self) -> Result<(u64, Option<Timestamp>), Error> {
        let (mut pending, mut oldest) = (0, None::<Timestamp>);
        for (replica, (cursor, _)) in &self.places {
            let mut after = cursor.seq;
            for _ in 0..COUNTED_PAGES {
                let records = self.chains.records(replica, after).await?;
                pending += records.len() as u64;
                let first = records.iter().find_map(|(_, record)| Some(record.as_ref()?.at));
                oldest = oldest.into_iter().chain(first).min();
                match records.last() {
                    Some((seq, _)) if records.len() >= PAGE => after = *seq,
                    _ => break,
                }
            }
        }
        Ok((pending, oldest))
    }
}

fn lag(now: Timestamp, since: Timestamp) -> Duration {
    now.duration_since(since).max(SignedDuration::ZERO).try_into().unwrap_or_default()
}
