//! A watch that survives: lists a prefix, watches from there, watches again after any error,
//! and on compaction lists and works out what changed. One per prefix and replica feeds the
//! control plane's in-memory index; nothing else there watches the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::{Entry, Error, Event, PageRequest, Revision, Store, WatchItem};

/// How [`follow`] behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowConfig {
    /// Entries a list call returns at most.
    pub page: usize,
    /// Changes that may wait for the consumer.
    pub queue: usize,
    /// First ceiling of the waits after an error.
    pub backoff_min: Duration,
    /// Last ceiling of the waits after an error.
    pub backoff_max: Duration,
    /// List and compare at least this often (with up to a tenth of jitter), also when nothing
    /// failed: versions of etcd have been shipped whose watches lose events.
    pub resync_every: Duration,
}

impl Default for FollowConfig {
    fn default() -> Self {
        Self {
            page: 500,
            queue: 1024,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            resync_every: Duration::from_mins(10),
        }
    }
}

/// One step of a mirrored prefix. Between two `Synced`, changes that a watch brought are in the
/// order of their revisions; after a compaction or a resync they are the difference, by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key now stands like this. A key that was deleted and put again is always seen as
    /// `Delete` and then `Put`.
    Put(Entry),
    /// The key is gone.
    Delete {
        /// The key.
        key: String,
        /// When it was deleted; after a compaction, by when.
        revision: Revision,
    },
    /// All of the above together is the prefix as it stood at this revision: no transaction is
    /// seen in half. The first one ends the initial list.
    Synced {
        /// Never goes back.
        revision: Revision,
    },
}

/// The consumer's end of [`follow`]; dropping it ends the following.
#[derive(Debug)]
pub struct Mirror {
    changes: mpsc::Receiver<Result<Change, Error>>,
    _follower: JoinSet<()>,
}

impl Mirror {
    /// Waits for the next change, over any outage of the store. Cancel safe.
    ///
    /// # Errors
    /// Only what no waiting cures, then [`Error::Closed`]: [`Error::Rewound`] when the store went
    /// back in time, [`Error::Refused`] and the like when it refuses us.
    pub async fn next(&mut self) -> Result<Change, Error> {
        self.changes.recv().await.unwrap_or(Err(Error::Closed))
    }
}

/// Follows `prefix`; see [`Change`]. Must be called in a tokio runtime.
pub fn follow(store: Arc<dyn Store>, prefix: impl Into<String>, config: FollowConfig) -> Mirror {
    let (sender, changes) = mpsc::channel(config.queue.max(1));
    let mut follower = JoinSet::new();
    let state = Follower {
        store,
        prefix: prefix.into(),
        config,
        sender,
        known: BTreeMap::new(),
        synced: 0,
        resync_at: Instant::now(),
        backoff: Backoff::new(config.backoff_min, config.backoff_max),
    };
    follower.spawn(state.run());
    Mirror { changes, _follower: follower }
}

/// What is known of a key: enough to tell a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    create_revision: Revision,
    mod_revision: Revision,
}

impl From<&Entry> for Known {
    fn from(entry: &Entry) -> Self {
        Self { create_revision: entry.create_revision, mod_revision: entry.mod_revision }
    }
}

struct Follower {
    store: Arc<dyn Store>,
    prefix: String,
    config: FollowConfig,
    sender: mpsc::Sender<Result<Change, Error>>,
    known: BTreeMap<String, Known>,
    synced: Revision,
    resync_at: Instant,
    backoff: Backoff,
}

impl Follower {
    async fn run(mut self) {
        let mut listed = false;
        loop {
            let Err(error) = self.pass(&mut listed).await else {
                listed = false;
                continue;
            };
            match error {
                Error::Closed if self.sender.is_closed() => return,
                Error::Compacted { compact_revision } => {
                    tracing::info!(
                        prefix = self.prefix,
                        compact_revision,
                        synced = self.synced,
                        "list again"
                    );
                    listed = false;
                }
                error if error.retryable() => {
                    let delay = self.backoff.next_delay();
                    tracing::warn!(
                        prefix = self.prefix,
                        synced = self.synced,
                        delay_ms = delay.as_millis() as u64,
                        error = &error as &dyn std::error::Error,
                        "follow the store"
                    );
                    tokio::time::sleep(delay).await;
                }
                error => {
                    tracing::error!(
                        prefix = self.prefix,
                        error = &error as &dyn std::error::Error,
                        "stop following"
                    );
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Lists unless done, then watches on. Ends well when it is time to list again.
    async fn pass(&mut self, listed: &mut bool) -> Result<(), Error> {
        if !*listed {
            self.list().await?;
            *listed = true;
            self.resync_at = Instant::now() + self.config.resync_every.mul_f64(1.0 + fastrand::f64() / 10.0);
        }
        self.watch().await
    }

    async fn send(&self, change: Change) -> Result<(), Error> {
        self.sender.send(Ok(change)).await.map_err(|_| Error::Closed)
    }

    /// Emits the difference between what is known and the store, page by page.
    async fn list(&mut self) -> Result<(), Error> {
        let mut unseen = std::mem::take(&mut self.known);
        let listed = self.list_pages(&mut unseen).await;
        let revision = match listed {
            Ok(revision) => revision,
            Err(error) => {
                // What was not listed yet is still known.
                self.known.append(&mut unseen);
                return Err(error);
            }
        };
        for key in unseen.into_keys() {
            self.send(Change::Delete { key, revision }).await?;
        }
        self.synced(revision).await
    }

    async fn list_pages(&mut self, unseen: &mut BTreeMap<String, Known>) -> Result<Revision, Error> {
        let mut request = PageRequest::first(self.config.page);
        loop {
            let page = self.store.list(&self.prefix, request.clone()).await?;
            if page.revision < self.synced {
                return Err(Error::Rewound { seen: self.synced, current: page.revision });
            }
            let next = request.next(&page);
            for entry in page.entries {
                let before = unseen.remove(&entry.key);
                self.put(before, entry).await?;
            }
            match next {
                Some(next) => request = next,
                None => return Ok(page.revision),
            }
        }
    }

    /// Emits an entry if it differs from what was known.
    async fn put(&mut self, before: Option<Known>, entry: Entry) -> Result<(), Error> {
        let now = Known::from(&entry);
        self.known.insert(entry.key.clone(), now);
        match before {
            Some(before) if before == now => return Ok(()),
            Some(before) if before.create_revision != now.create_revision => {
                let (key, revision) = (entry.key.clone(), entry.mod_revision);
                self.send(Change::Delete { key, revision }).await?;
            }
            _ => {}
        }
        self.send(Change::Put(entry)).await
    }

    async fn synced(&mut self, revision: Revision) -> Result<(), Error> {
        self.backoff.reset();
        self.synced = self.synced.max(revision);
        self.send(Change::Synced { revision: self.synced }).await
    }

    async fn watch(&mut self) -> Result<(), Error> {
        let mut watch = self.store.watch(&self.prefix, self.synced + 1).await?;
        loop {
            let item = tokio::select! {
                biased;
                () = self.sender.closed() => return Err(Error::Closed),
                item = watch.next() => item?,
                () = tokio::time::sleep_until(self.resync_at) => return Ok(()),
            };
            match item {
                WatchItem::Events { revision, events } => {
                    for event in events {
                        self.event(event).await?;
                    }
                    self.synced(revision).await?;
                }
                WatchItem::Progress { revision } if revision > self.synced => self.synced(revision).await?,
                WatchItem::Progress { .. } => {}
            }
        }
    }

    async fn event(&mut self, event: Event) -> Result<(), Error> {
        // A list cut short may have brought it already, or a later state of the key.
        let known = self.known.get(event.key()).copied();
        if event.revision() <= self.synced
            || known.is_some_and(|known| known.mod_revision >= event.revision())
        {
            return Ok(());
        }
        match event {
            Event::Put(entry) => self.put(known, entry).await,
            Event::Delete { key, revision } => match self.known.remove(&key) {
                Some(_) => self.send(Change::Delete { key, revision }).await,
                None => Ok(()),
            },
        }
    }
}
