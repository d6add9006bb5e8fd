//! A fresh store of each kind, with two handles as two replicas would have.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use control_plane::driver::rewritten;
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::memory::MemoryStore;
use control_plane::store::preserving::Preserving;
use control_plane::store::redb::RedbStore;
use control_plane::store::{Error, Event, Limits, Revision, Store, Txn, WatchItem, WatchStream};

use crate::server::EtcdServer;

/// No test takes longer, whatever hangs.
const TEST_BOUND: Duration = Duration::from_mins(1);

/// Runs a test within a bound. Its future is boxed: tests are long and the stack is short.
pub(crate) async fn bounded(test: impl Future<Output = ()>) {
    tokio::time::timeout(TEST_BOUND, Box::pin(test)).await.expect("test took longer than 60 s");
}

pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    /// Another replica's view; the same store where there can only be one.
    pub(crate) other: Arc<dyn Store>,
    _keep: Box<dyn Any + Send>,
}

impl Fixture {
    pub(crate) fn memory() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        Self { other: store.clone(), store, _keep: Box::new(()) }
    }

    /// As replicas have it, each with its own memory of what it does not know.
    pub(crate) fn preserving() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let around = || Arc::new(Preserving::new(store.clone(), rewritten)) as Arc<dyn Store>;
        Self { store: around(), other: around(), _keep: Box::new(()) }
    }

    pub(crate) async fn redb() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path().join("store.redb"), Limits::default()).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        Self { other: store.clone(), store, _keep: Box::new(dir) }
    }

    /// `None` when the tests on etcd are switched off.
    pub(crate) async fn etcd() -> Option<Self> {
        let server = EtcdServer::start().await?;
        let connect = || async {
            let store = EtcdStore::connect(EtcdConfig::new(vec![server.endpoint()])).await.unwrap();
            Arc::new(store) as Arc<dyn Store>
        };
        let (store, other) = (connect().await, connect().await);
        Some(Self { store, other, _keep: Box::new(server) })
    }
}

/// Commits and returns the revision.
pub(crate) async fn commit(store: &dyn Store, txn: Txn) -> Revision {
    store.txn(txn).await.unwrap().committed().unwrap()
}

pub(crate) async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    commit(store, Txn::new().put(key, value.to_owned())).await
}

pub(crate) async fn delete(store: &dyn Store, key: &str) -> Revision {
    commit(store, Txn::new().delete(key)).await
}

pub(crate) async fn value(store: &dyn Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

/// The next events of a watch, as `key=value@revision` or `-key@revision`.
pub(crate) async fn events(watch: &mut WatchStream, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        if let WatchItem::Events { events, .. } = watch.next().await.unwrap() {
            seen.extend(events.iter().map(describe));
        }
    }
    seen
}

pub(crate) fn describe(event: &Event) -> String {
    match event {
        Event::Put(entry) => {
            format!("{}={}@{}", entry.key, String::from_utf8_lossy(&entry.value), entry.mod_revision)
        }
        Event::Delete { key, revision } => format!("-{key}@{revision}"),
    }
}

/// How a watch that must fail does so.
pub(crate) async fn watch_error(store: &dyn Store, prefix: &str, from: Revision) -> Error {
    match store.watch(prefix, from).await {
        Err(error) => error,
        Ok(mut watch) => loop {
            match watch.next().await {
                Err(error) => return error,
                Ok(WatchItem::Progress { .. }) => {}
                Ok(item) => panic!("the watch went on: {item:?}"),
            }
        },
    }
}
