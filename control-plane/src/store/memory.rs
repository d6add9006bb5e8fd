//! The store of tests and of the simulator: everything is gone with the process. Leases run on
//! tokio's clock, so paused time works.

use std::time::Duration;

use async_trait::async_trait;

use super::local::Local;
use super::mvcc::Mvcc;
use super::{
    Entry, Error, Health, Lease, LeaseId, Limits, Outcome, Page, PageRequest, Revision, Store, Txn,
    WatchStream,
};

/// Revisions of history kept unless configured.
pub(super) const HISTORY: usize = 10_000;

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    local: Local,
}

impl MemoryStore {
    /// An empty store with the default limits.
    pub fn new() -> Self {
        Self::with_limits(Limits::default(), HISTORY)
    }

    /// An empty store. At least `history` revisions are kept for watches, at most twice as many.
    pub fn with_limits(limits: Limits, history: usize) -> Self {
        Self { local: Local::new(Mvcc::empty(), limits, history, None) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.local.get(key)
    }

    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        self.local.list(prefix, &page)
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.local.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.local.watch(prefix, from)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.local.grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        self.local.keep_alive(id)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.local.revoke(id).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.local.compact(revision)
    }

    async fn health(&self) -> Result<Health, Error> {
        Ok(self.local.health())
    }
}
