//! A store whose calls are timed and whose errors are counted by call, for the metrics. Put around the real one by the
//! replica; it changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

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
/// Times of calls, errors included, in seconds.
pub type Durations = Family<Call, Histogram, fn() -> Histogram>;

/// Seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What is measured. Clones share it.
#[derive(Debug, Clone)]
pub struct Calls {
    /// Errors.
    pub errors: Errors,
    /// Times.
    pub durations: Durations,
}

impl Default for Calls {
    fn default() -> Self {
        let calls = Self {
            errors: Errors::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        };
        for call in CALLS {
            drop((calls.errors.get_or_create(&Call { call }), calls.durations.get_or_create(&Call { call })));
        }
        calls
    }
}

/// Every call, so that the metric has all its series from the start.
const CALLS: [&str; 8] =
    ["get", "list", "txn", "watch", "lease_grant", "lease_keep_alive", "compact", "health"];

/// Counts and times the calls of the store inside.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Store>,
    calls: Calls,
}

impl Counted {
    /// Counts into `calls`.
    pub fn new(inner: Arc<dyn Store>, calls: &Calls) -> Self {
        Self { inner, calls: calls.clone() }
    }

    async fn count<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let result = answer.await;
        self.calls.durations.get_or_create(&Call { call }).observe(begun.elapsed().as_secs_f64());
        if result.is_err() {
            self.calls.errors.get_or_create(&Call { call }).inc();
        }
        result
    }
}

#[async_trait]
impl Store for Counted {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.count("get", self.inner.get(key)).await
    }

    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        self.count("list", self.inner.list(prefix, page)).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.count("txn", self.inner.txn(txn)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.count("watch", self.inner.watch(prefix, from)).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.count("lease_grant", self.inner.lease_grant(ttl)).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        self.count("lease_keep_alive", self.inner.lease_keep_alive(id)).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.inner.lease_revoke(id).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.count("compact", self.inner.compact(revision)).await
    }

    async fn health(&self) -> Result<Health, Error> {
        self.count("health", self.inner.health()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn an_error_is_counted_and_passed_on() {
        let calls = Calls::default();
        let store = Counted::new(Arc::new(MemoryStore::new()), &calls);
        store.get("a").await.expect("no error");
        assert!(matches!(store.watch("", 1000).await, Err(Error::Rewound { .. })));
        for (call, count) in [("get", 0), ("watch", 1)] {
            assert_eq!(calls.errors.get_or_create(&Call { call }).get(), count, "{call}");
        }
    }
}
