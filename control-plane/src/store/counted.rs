//! A store whose errors are counted by call, for the metrics. Put around the real one by the
//! replica; it changes nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{
    Entry, Error, Health, Lease, LeaseId, Outcome, Page, PageRequest, Revision, Store, Txn, WatchStream,
};

/// Names the call that failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    call: &'static str,
}

/// Errors by call.
pub type Errors = Family<Call, Counter>;

/// Every call, so that the metric has all its series from the start.
const CALLS: [&str; 8] =
    ["get", "list", "txn", "watch", "lease_grant", "lease_keep_alive", "compact", "health"];

/// Counts the errors of the store inside.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Store>,
    errors: Errors,
}

impl Counted {
    /// Counts into `errors`.
    pub fn new(inner: Arc<dyn Store>, errors: &Errors) -> Self {
        for call in CALLS {
            drop(errors.get_or_create(&Call { call }));
        }
        Self { inner, errors: errors.clone() }
    }

    fn count<T>(&self, call: &'static str, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.errors.get_or_create(&Call { call }).inc();
        }
        result
    }
}

#[async_trait]
impl Store for Counted {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.count("get", self.inner.get(key).await)
    }

    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        self.count("list", self.inner.list(prefix, page).await)
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.count("txn", self.inner.txn(txn).await)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.count("watch", self.inner.watch(prefix, from).await)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.count("lease_grant", self.inner.lease_grant(ttl).await)
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        self.count("lease_keep_alive", self.inner.lease_keep_alive(id).await)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.inner.lease_revoke(id).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.count("compact", self.inner.compact(revision).await)
    }

    async fn health(&self) -> Result<Health, Error> {
        self.count("health", self.inner.health().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn an_error_is_counted_and_passed_on() {
        let errors = Errors::default();
        let store = Counted::new(Arc::new(MemoryStore::new()), &errors);
        store.get("a").await.expect("no error");
        assert!(matches!(store.watch("", 1000).await, Err(Error::Rewound { .. })));
        for (call, count) in [("get", 0), ("watch", 1)] {
            assert_eq!(errors.get_or_create(&Call { call }).get(), count, "{call}");
        }
    }
}
