//! A halt's id that was lifted is never used again, also not by a replica that has not heard of it.

use control_plane::centre::Expected;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use control_plane::store::memory::MemoryStore;
use control_plane::store::{
    Entry, Error, Health, Lease, LeaseId, Outcome, Page, PageRequest, Revision, Store, Txn, WatchStream,
};
use futures::stream;
use proto::halt::HaltScope;
use proto::problem::ErrorCode;
use proto::rest::SetHalt;

use super::fixture::{Centre, admin, eventually};

/// A store whose watches say nothing any more: a replica that follows it lags behind for ever.
#[derive(Debug)]
struct Lagging {
    store: Arc<MemoryStore>,
    deaf: Arc<AtomicBool>,
}

#[async_trait]
impl Store for Lagging {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        self.store.list(prefix, page).await
    }
    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.store.txn(txn).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let inner = (self.store.watch(prefix, from).await?, self.deaf.clone());
        Ok(WatchStream::new(stream::unfold(inner, |(mut watch, deaf)| async move {
            let item = watch.next().await;
            if deaf.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Some((item, (watch, deaf)))
        })))
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.store.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        self.store.lease_keep_alive(id).await
    }
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.store.lease_revoke(id).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.store.compact(revision).await
    }
    async fn health(&self) -> Result<Health, Error> {
        self.store.health().await
    }
}

#[tokio::test]
async fn an_id_that_only_the_store_knows_as_lifted_is_refused() {
    let store = Arc::new(MemoryStore::new());
    let mut centre = Centre::on(store.clone(), 1).await;
    let deaf = Arc::new(AtomicBool::new(false));
    let lagging = centre.replica_on(Arc::new(Lagging { store, deaf: deaf.clone() }), "lagging").await;
    let halt = || SetHalt { id: Some("h".to_owned()), scope: HaltScope::Fleet, reason: String::new() };
    deaf.store(true, Ordering::Relaxed);
    centre.api().set_halt(&admin(), halt()).await.unwrap();
    centre.api().resume_halt(&admin(), "h", &Expected::Anything).await.unwrap();
    // It knows of neither, so nothing but the store can say no.
    assert!(lagging.centre.halts(&admin()).unwrap().is_empty());
    let refused = lagging.centre.set_halt(&admin(), halt()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict);
    assert!(refused.to_string().contains("was resumed"), "{refused}");
    assert!(lagging.centre.halts(&admin()).unwrap().is_empty(), "nothing is latched");
    // Another id is taken: it is this one that is refused.
    let other = SetHalt { id: Some("h2".to_owned()), ..halt() };
    assert!(lagging.centre.set_halt(&admin(), other).await.unwrap().persisted);
    eventually("the other replica has it", || {
        let halts = centre.api().halts(&admin()).unwrap();
        if halts.len() == 1 && halts[0].halt.id.as_str() == "h2" { Ok(()) } else { Err(halts) }
    })
    .await;
    centre.stop().await;
}
