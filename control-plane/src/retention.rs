//! What the leader does about the past: it keeps the audit's chains in order, deletes what is
//! older than the audit is kept, and tells the store to forget old revisions. The store knows no
//! times, so the leader writes down now and then which revision it stood at.
//!
//! Nothing in the store grows for ever. Who takes what out, by the first segment of its key:
//!
//! | keys | taken out by |
//! |---|---|
//! | `audit` | [`crate::audit`]: up to a signed checkpoint, once old and with the sink |
//! | `audit-checkpoints` | the same, with its records |
//! | `audit-cursor` | the same, with its chain |
//! | `ca` | nobody: one |
//! | `certs` | people, with the member |
//! | `clusters` | people: a member that is removed |
//! | `desired` | the engine, with the run; people, with the member |
//! | `endpoints` | nobody: one |
//! | `epoch` | nobody: one |
//! | `experiments` | people; an author's go with the object, or with the member |
//! | `format` | nobody: one |
//! | `grants` | people |
//! | `halts` | people: resumed |
//! | `halts-resumed` | here, once old, unless a member was last heard of with it |
//! | `halts-revision` | nobody: one |
//! | `leader` | its lease |
//! | `observed` | the engine, with the run; people, with the member |
//! | `once` | its lease, after a day; here, where a restart gave the lease its life anew |
//! | `operators` | people, at most 1000 |
//! | `operators-revision` | nobody: one |
//! | `operators-spent` | here, once old, but for the newest hundred |
//! | `replicas` | its lease |
//! | `results` | nobody writes any yet |
//! | `revision-marks` | nobody: one, with a bounded number of marks |
//! | `revoked` | here, once no certificate of its time is valid any more, unless the member is still there |
//! | `runs` | the engine, after the time to live; people |
//! | `session` | its lease |
//! | `specs` | here, once old, unless a run refers to it |
//! | `tokens` | here, once expired for as long as the audit is kept |
//! | `tombstones` | here, once old, unless the run is there |

mod marks;
mod rounds;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Keeper};
use crate::cache::Cache;
use crate::driver::clock::Clock;
use crate::health::Health;
use crate::leading::{Led, while_leading};
use crate::store::{self, Compare, Revision, Store};

/// How often the leader looks after the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Between two rounds.
    pub every: Duration,
    /// The store forgets revisions older than this, this often; `None` leaves it to somebody else.
    pub compact_every: Option<Duration>,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { every: Duration::from_mins(5), compact_every: Some(Duration::from_mins(5)) }
    }
}

/// Why a round ended early: the next one tries again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the store is not available")]
    Store(#[from] store::Error),
    #[error(transparent)]
    Audit(#[from] audit::Error),
    #[error(transparent)]
    Key(#[from] store::keys::KeyError),
    #[error("write a value")]
    Json(#[from] serde_json::Error),
}

/// Looks after the past whenever this replica leads.
#[derive(Debug)]
pub(crate) struct Retention {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) clock: Clock,
    pub(crate) health: Arc<Health>,
    pub(crate) keeper: Keeper,
    pub(crate) leads: watch::Receiver<Option<Compare>>,
    pub(crate) keep_for: Duration,
    /// The longest that an agent's certificate is valid.
    pub(crate) certificates_live: Duration,
    pub(crate) config: RetentionConfig,
}

impl Led for Retention {
    async fn lead(&self, fence: Compare) {
        self.cache.complete().await;
        let mut rounds = interval(self.config.every.max(Duration::from_millis(10)));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let compact_every = self.config.compact_every.unwrap_or(Duration::MAX / 4);
        let mut compactions = interval(compact_every.max(Duration::from_millis(10)));
        compactions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stood_at = None;
        loop {
            let done = tokio::select! {
                _ = rounds.tick() => self.round(&fence).await,
                _ = compactions.tick(), if self.config.compact_every.is_some() => self.compact(&mut stood_at).await,
            };
            if let Err(error) = done {
                tracing::warn!(error = &error as &dyn std::error::Error, "look after the past");
            }
        }
    }

    fn over(&self) {
        self.health.audit_broken.set(0);
    }
}

impl Retention {
    /// Works until `shutdown`; a round under way is not waited for.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        while_leading(&self, self.leads.clone(), shutdown).await;
    }

    /// Before this instant is old.
    fn before(&self, now: Timestamp) -> Timestamp {
        let age = SignedDuration::try_from(self.keep_for).unwrap_or(SignedDuration::MAX);
        now.checked_sub(age).unwrap_or(Timestamp::MIN)
    }

    /// Forgets the revisions before the compaction before: watchers have had that long to see them.
    async fn compact(&self, stood_at: &mut Option<Revision>) -> Result<(), Error> {
        let now_at = self.store.health().await?.revision;
        if let Some(revision) = stood_at.replace(now_at) {
            self.store.compact(revision).await?;
            tracing::debug!(revision, "the store was compacted");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
