//! The only owner of the world and the only reader of clock and ids: follows the store into the
//! engine, commits what it decides (fenced by the leader's key), and tells sessions and watchers
//! what changed. It never waits for a session: what is due is marked, not sent.

pub mod clock;
pub mod codec;
mod presence;
mod publish;
mod rewritten;

pub use rewritten::rewritten;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use certs::{Reloadable, Revocations};
use clock::Clock;
use jiff::Timestamp;
use proto::assignment;
use proto::ids::RunId;
use proto::status::RunPhase;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::audit::Auditor;
use crate::cache::Cache;
use crate::engine::object::{ALL_SERIALS, Object, ObjectKey, Revision};
use crate::engine::state::State;
use crate::engine::{self, Commit, Effect, Event};
use crate::format;
use crate::health::Health;
use crate::store::{self, Change, Compare, FollowConfig, LeaseId, Outcome, Store, follow};

/// Changes of all prefixes that may wait for the engine.
const FEED: usize = 1024;
/// The clock is looked at this often at least.
const TICK: Duration = Duration::from_millis(500);
/// And no more often than this.
const TICK_APART: Duration = Duration::from_millis(5);
/// How often the store is asked whether it is there.
const PROBE: Duration = Duration::from_secs(2);

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be followed any more: nothing known may be trusted.
    #[error("follow the store")]
    Store(#[from] store::Error),
    /// Replicas of a newer version have raised the store's format: nothing may be written any more.
    #[error(transparent)]
    Format(#[from] format::TooNew),
    /// A part of it ended by itself.
    #[error("a task of the driver ended: {0}")]
    Task(String),
}

/// What reaches the loop.
#[derive(Debug)]
enum Feed {
    Change(usize, Result<Change, store::Error>),
    Leading(Option<Compare>),
}

/// Settings of a driver.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// This process's name in the store.
    pub replica: String,
    /// How long a dead replica's sessions and leadership outlive it.
    pub lease_ttl: Duration,
    /// How the store is followed.
    pub follow: FollowConfig,
    /// `host:port` at which other replicas reach this one; empty: they do not.
    pub peer_address: String,
}

/// The driver of one replica.
#[derive(Debug)]
pub struct Driver {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Written here only.
    pub cache: Arc<Cache>,
    /// Time.
    pub clock: Clock,
    /// Who is told of decisions.
    pub audit: Auditor,
    /// State for `/readyz`.
    pub health: Arc<Health>,
    /// The deny list of this replica's listeners.
    pub revocations: Reloadable<Revocations>,
    /// This replica's lease, for the keys of its sessions.
    pub lease: watch::Sender<Option<LeaseId>>,
    /// What fences this replica's transactions while it leads.
    pub leads: watch::Sender<Option<Compare>>,
    /// Settings.
    pub config: DriverConfig,
}

impl Driver {
    /// Works until `shutdown`, then gives the lease back.
    ///
    /// # Errors
    /// When it cannot go on: the process must end.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let (sender, feed) = mpsc::channel(FEED);
        let mut tasks = JoinSet::new();
        for (index, prefix) in codec::FOLLOWED.iter().enumerate() {
            let mut mirror = follow(self.store.clone(), *prefix, self.config.follow);
            let sender = sender.clone();
            tasks.spawn(async move {
                loop {
                    let change = mirror.next().await;
                    let over = change.is_err();
                    if sender.send(Feed::Change(index, change)).await.is_err() || over {
                        return;
                    }
                }
            });
        }
        let mut presence = JoinSet::new();
        presence.spawn(presence::run(
            self.store.clone(),
            self.cache.clone(),
            self.config.clone(),
            self.lease.clone(),
            presence::Leads(sender),
            shutdown.clone(),
        ));
        tasks.spawn(probe(self.store.clone(), self.health.clone(), shutdown.clone()));
        let mut running = Running {
            driver: &self,
            fence: None,
            unsynced: (0..codec::FOLLOWED.len()).collect(),
            commits: JoinSet::new(),
        };
        let result = running.work(feed, &mut tasks, &shutdown).await;
        // Hands the lease back, so that another replica leads at once.
        let _ = tokio::time::timeout(Duration::from_secs(3), presence.join_next()).await;
        result
    }
}

async fn probe(store: Arc<dyn Store>, health: Arc<Health>, shutdown: CancellationToken) {
    loop {
        health.set_store_ok(store.health().await.is_ok());
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PROBE) => {}
        }
    }
}

/// How a commit ended.
type Committed = (RunId, Option<Revision>);

struct Running<'a> {
    driver: &'a Driver,
    fence: Option<Compare>,
    unsynced: BTreeSet<usize>,
    commits: JoinSet<Committed>,
}

impl Running<'_> {
    async fn work(
        &mut self,
        mut feed: mpsc::Receiver<Feed>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let mut ticked = Instant::now();
        loop {
            let due = self.due(ticked);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(done) = self.commits.join_next() => {
                    let (run, revision) = done.map_err(|error| Error::Task(error.to_string()))?;
                    self.step(Event::Committed(run, revision));
                }
                // Before the feed: however much changes, time passes too.
                () = sleep_until(due) => {
                    ticked = Instant::now();
                    self.step(Event::Tick);
                }
                next = feed.recv() => match next {
                    Some(next) => self.take(next)?,
                    None => return Err(Error::Task("every follower is gone".to_owned())),
                },
                Some(ended) = tasks.join_next(), if shutdown.is_cancelled() => drop(ended),
            }
        }
    }

    /// When the clock alone changes something, and not too soon after the last time.
    fn due(&self, ticked: Instant) -> Instant {
        let now = self.driver.clock.now();
        let wake = self.driver.cache.read(State::next_wake);
        let left = wake.map_or(TICK, |at| at.duration_since(now).try_into().unwrap_or_default());
        (Instant::now() + left.min(TICK)).clamp(ticked + TICK_APART, ticked + TICK)
    }

    fn take(&mut self, feed: Feed) -> Result<(), Error> {
        match feed {
            Feed::Leading(fence) => {
                self.driver.health.leading.set(i64::from(fence.is_some()));
                tracing::info!(leading = fence.is_some(), "leadership");
                self.driver.leads.send_replace(fence.clone());
                self.fence = fence;
                self.step(Event::Leading(self.fence.is_some()));
            }
            Feed::Change(_, Err(error)) => return Err(error.into()),
            Feed::Change(_, Ok(Change::Put(entry))) => {
                let Some(key) = codec::parse(&entry.key) else {
                    return Ok(());
                };
                match codec::decode(&key, &entry.value) {
                    Ok(Object::Format(stored)) => {
                        format::readable(stored)?;
                        self.stored(Object::Format(stored), entry.mod_revision);
                    }
                    Ok(object) => self.stored(object, entry.mod_revision),
                    Err(error) => {
                        tracing::error!(key = entry.key, %error, "a value cannot be read");
                        match codec::unreadable(&key) {
                            Some(object) => self.stored(object, entry.mod_revision),
                            None => self.unreadable(&key),
                        }
                    }
                }
            }
            Feed::Change(_, Ok(Change::Delete { key, .. })) => {
                if let Some(key) = codec::parse(&key) {
                    self.deleted(&key);
                }
            }
            Feed::Change(index, Ok(Change::Synced { revision })) => {
                self.driver.cache.announce_applied(index, revision);
                if self.unsynced.remove(&index) && self.unsynced.is_empty() {
                    self.driver.health.set_synced();
                    tracing::info!("the store was read completely");
                    self.driver.revocations.replace(self.driver.cache.read(deny_list));
                    self.step(Event::Complete);
                    self.driver.cache.announce_complete();
                }
            }
        }
        Ok(())
    }

    fn stored(&mut self, object: Object, revision: Revision) {
        let note = publish::Note::of(&object);
        self.step(Event::Stored(Box::new(object), revision));
        publish::stored(self.driver, &note, revision);
    }

    fn deleted(&mut self, key: &ObjectKey) {
        self.step(Event::Deleted(key.clone()));
        publish::deleted(self.driver, key);
    }

    fn unreadable(&mut self, key: &ObjectKey) {
        self.step(Event::Unreadable(key.clone()));
        publish::deleted(self.driver, key);
    }

    /// One step of the engine; its commits go their way without anybody waiting.
    fn step(&mut self, event: Event) {
        let now: Timestamp = self.driver.clock.now();
        let effects = self.driver.cache.write(|state| engine::step(state, event, now));
        for Effect::Commit(commit) in effects {
            self.commit(commit);
        }
    }

    /// The outcome with which a commit ends its run, if it does.
    fn finishes(&self, commit: &Commit) -> Option<assignment::Outcome> {
        let ended = commit.put.iter().find_map(|object| match object {
            Object::Summary(summary) if summary.phase == RunPhase::Finished => Some(summary),
            _ => None,
        })?;
        let before =
            self.driver.cache.read(|state| Some(state.runs.get(&ended.id)?.summary.as_ref()?.value.phase));
        ended.outcome.filter(|_| before != Some(RunPhase::Finished))
    }

    fn commit(&mut self, commit: Commit) {
        let (Some(run), Some(fence)) = (commit.run.clone(), self.fence.clone()) else {
            return;
        };
        let txn = match codec::txn(&commit) {
            Ok(txn) => txn.when(fence),
            Err(error) => {
                tracing::error!(run = %run, %error, "write a decision");
                return;
            }
        };
        let finished = self.finishes(&commit);
        let (store, audit, health) =
            (self.driver.store.clone(), self.driver.audit.clone(), self.driver.health.clone());
        let by = format!("replica:{}", self.driver.config.replica);
        let span = self.span(&run, &commit);
        let committing = async move {
            match store.txn(txn).await {
                Ok(Outcome::Committed { revision }) => {
                    health.commits.inc();
                    if let Some(outcome) = finished {
                        health.run_finished(outcome);
                    }
                    if let Some((action, result)) = commit.note {
                        audit.note(&by, action, run.as_str(), &result);
                    }
                    (run, Some(revision))
                }
                Ok(Outcome::Conflict { .. }) => {
                    health.conflicts.inc();
                    (run, None)
                }
                Err(error) => {
                    tracing::warn!(run = %run, error = &error as &dyn std::error::Error, "commit a decision");
                    (run, None)
                }
            }
        };
        self.commits.spawn(committing.instrument(span));
    }

    /// Of a decision that is worth a line in the audit, under its run's trace.
    fn span(&self, run: &RunId, commit: &Commit) -> Span {
        let Some((action, _)) = &commit.note else { return Span::none() };
        let record = |state: &State| Some(state.runs.get(run)?.record.as_ref()?.value.trace.clone());
        let trace = self.driver.cache.read(record).unwrap_or_default();
        trace.child(tracing::info_span!("decide", otel.name = *action, faultline.run = %run))
    }
}

/// The deny list as the store has it.
fn deny_list(state: &State) -> Revocations {
    let mut list = Revocations::default();
    for (cluster, serial) in &state.revoked {
        match serial.parse() {
            _ if serial == ALL_SERIALS => drop(list.clusters.insert(cluster.clone())),
            Ok(serial) => drop(list.serials.insert(serial)),
            Err(_) => drop(list.clusters.insert(cluster.clone())),
        }
    }
    let revoked =
        state.clusters.values().filter_map(|entry| entry.spec.as_ref()).filter(|spec| spec.value.revoked);
    list.clusters.extend(revoked.map(|spec| spec.value.id.to_string()));
    list
}

/// Keys that the deny list is made of.
fn is_of_deny_list(key: &ObjectKey) -> bool {
    matches!(key, ObjectKey::ClusterSpec(_) | ObjectKey::Revoked(..))
}

#[cfg(test)]
pub(crate) mod tests;
