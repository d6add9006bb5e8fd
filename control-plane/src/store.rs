//! The one door to the place where the control plane keeps what must survive it.
//!
//! [`Store`] is a byte key-value store with the semantics of etcd: one revision counter for
//! all keys, compare-and-swap transactions, prefix watches from a revision, leases, compaction.
//! [`memory`], [`redb`] and [`etcd`] behave the same, proved by one contract suite
//! (`tests/store_contract.rs`). The drivers of the control plane are the only callers: they read
//! through one [`follow::Mirror`] per prefix and write through [`Store::txn`].

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};

pub(crate) mod backoff;
pub mod counted;
pub mod election;
pub mod error;
pub mod etcd;
pub mod follow;
pub mod keys;
pub mod lease;
mod local;
pub mod memory;
mod mvcc;
pub mod preserving;
pub mod redb;
pub mod txn;

pub use error::Error;
pub use follow::{Change, FollowConfig, Mirror, follow};
pub use keys::{Key, Prefix};
pub use txn::{Compare, Limits, Op, Outcome, Txn};

/// The store-wide counter: every transaction that changes something raises it by one. A new
/// store stands at 1.
pub type Revision = u64;

/// Names a lease: keys put with it are deleted when it expires or is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl std::fmt::Display for LeaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A lease as granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Names the lease in puts, keep-alives and the revocation.
    pub id: LeaseId,
    /// The time to live the store granted: at least what was asked for.
    pub ttl: Duration,
}

/// One key as it stands at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, without the prefix that the store may be configured with.
    pub key: String,
    /// What was put.
    pub value: Bytes,
    /// The revision that created the key; changes only when it is deleted and put again.
    pub create_revision: Revision,
    /// The revision that put this value: what [`Compare::ModRevision`] is checked against.
    pub mod_revision: Revision,
    /// Puts since the key was created; 1 for a new key.
    pub version: u64,
    /// The lease this value dies with.
    pub lease: Option<LeaseId>,
}

/// Which part of a prefix [`Store::list`] returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Only keys after this one; `None` starts at the first.
    pub after: Option<String>,
    /// At most this many entries; 0 is taken as 1.
    pub limit: usize,
    /// Read as of this revision: pass the one of the first page to get one consistent list.
    pub revision: Option<Revision>,
}

impl PageRequest {
    /// The first page, at the current revision.
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit, revision: None }
    }

    /// The page after `page`, at the same revision; `None` when that was the last.
    pub fn next(&self, page: &Page) -> Option<Self> {
        let last = page.entries.last().filter(|_| page.more)?;
        Some(Self { after: Some(last.key.clone()), limit: self.limit, revision: Some(page.revision) })
    }
}

/// A part of a prefix, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries, ordered by key.
    pub entries: Vec<Entry>,
    /// The revision that the list was read at.
    pub revision: Revision,
    /// Whether keys of the prefix follow the last entry.
    pub more: bool,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key now stands like this.
    Put(Entry),
    /// The key was deleted, or died with its lease.
    Delete {
        /// The key that is gone.
        key: String,
        /// The revision that deleted it.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes in order. A transaction is never split over two batches.
    Events {
        /// Everything of the prefix up to this revision has been yielded.
        revision: Revision,
        /// At least one change.
        events: Vec<Event>,
    },
    /// Nothing new: everything of the prefix up to this revision has been yielded.
    Progress {
        /// A safe point to resume after.
        revision: Revision,
    },
}

/// A running watch. It does not resume: after an error it is over, see [`follow`].
pub struct WatchStream {
    inner: Pin<Box<dyn Stream<Item = Result<WatchItem, Error>> + Send>>,
}

impl WatchStream {
    /// Wraps what a kind of store yields; the stream ends after its first error.
    pub fn new(inner: impl Stream<Item = Result<WatchItem, Error>> + Send + 'static) -> Self {
        Self { inner: Box::pin(inner) }
    }

    /// Waits for the next item. Cancel safe.
    ///
    /// # Errors
    /// Every end is an error: [`Error::Compacted`] means list again, [`Error::Closed`] that the
    /// error was already given or the store is gone, retryable ones mean watch again after the
    /// last revision seen.
    pub async fn next(&mut self) -> Result<WatchItem, Error> {
        self.inner.next().await.unwrap_or(Err(Error::Closed))
    }
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream").finish_non_exhaustive()
    }
}

/// The answer of a store that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The current revision, agreed on by a quorum where there is one.
    pub revision: Revision,
}

/// A byte key-value store with the semantics of etcd. All calls are bounded in time.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Reads one key at the current revision (linearizable).
    ///
    /// # Errors
    /// [`Error::InvalidKey`], or a retryable error.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// Reads a page of the keys that start with `prefix`. An empty prefix means every key.
    ///
    /// # Errors
    /// [`Error::Compacted`] when the revision asked for is gone: start the list again.
    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error>;

    /// Does all operations or none. A transaction that changes nothing leaves the revision as it is.
    ///
    /// # Errors
    /// Refused before sending: too many operations, values too large, a key written twice.
    /// [`Error::LeaseNotFound`] when a put names a dead lease. After [`Error::Timeout`] and
    /// [`Error::Unavailable`] it is **not known whether the transaction took place**: read again
    /// before trying again, or make it idempotent by its comparisons.
    async fn txn(&self, txn: Txn) -> Result<Outcome, Error>;

    /// Yields every change of `prefix` at `from` or later, past ones included. `from` may be at
    /// most the current revision plus one.
    ///
    /// # Errors
    /// [`Error::Rewound`] when `from` lies in the future; [`Error::Compacted`] (here or as the
    /// stream's first item) when changes at or after `from` may be forgotten already.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error>;

    /// Makes a lease that lives for at least `ttl` without keep-alive.
    ///
    /// # Errors
    /// Retryable ones; nobody holds the lease then and it dies by itself.
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error>;

    /// Starts the lease's time to live anew and returns it.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] when it has expired or was revoked.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error>;

    /// Ends the lease and deletes its keys. A lease that is gone already is no error.
    ///
    /// # Errors
    /// Retryable ones.
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error>;

    /// Forgets the past before and at `revision`, except the values still current then. Doing so twice is no error.
    ///
    /// # Errors
    /// [`Error::Rewound`] when `revision` lies in the future.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// Asks whether the store can serve reads and (where there is a quorum) agree on one.
    ///
    /// # Errors
    /// What keeps it from doing so.
    async fn health(&self) -> Result<Health, Error>;
}
