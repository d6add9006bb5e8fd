//! What the embedded store keeps over a restart, and that only one process has it open.

use std::time::Duration;

use control_plane::store::redb::RedbStore;
use control_plane::store::{Error, Limits, PageRequest, Store, Txn};

use crate::fixture::{bounded, commit, delete, events, put, value, watch_error};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_but_history_survives_a_restart() {
    bounded(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = RedbStore::open(&path, Limits::default()).await.unwrap();
        put(&store, "a", "1").await;
        put(&store, "a", "2").await;
        put(&store, "b", "1").await;
        let lease = store.lease_grant(Duration::from_secs(2)).await.unwrap();
        commit(&store, Txn::new().put_leased("leased", "1", lease.id)).await;
        let last = delete(&store, "b").await;
        let before = store.list("", PageRequest::first(10)).await.unwrap();
        drop(store);

        let store = RedbStore::open(&path, Limits::default()).await.unwrap();
        assert_eq!(store.list("", PageRequest::first(10)).await.unwrap(), before);
        assert_eq!(store.health().await.unwrap().revision, last);
        let error = watch_error(&store, "", last).await;
        assert!(matches!(error, Error::Compacted { compact_revision } if compact_revision == last));
        // The lease lives on, dies in its time, and its name is not given again.
        let other = store.lease_grant(Duration::from_mins(1)).await.unwrap();
        assert_ne!(other.id, lease.id);
        let mut watch = store.watch("", last + 1).await.unwrap();
        assert_eq!(events(&mut watch, 1).await, [format!("-leased@{}", last + 1)]);
        drop(store);

        let store = RedbStore::open(&path, Limits::default()).await.unwrap();
        assert_eq!(value(&store, "leased").await, None);
        assert!(matches!(store.lease_keep_alive(lease.id).await, Err(Error::LeaseNotFound(_))));
        assert_eq!(store.lease_keep_alive(other.id).await.unwrap(), Duration::from_mins(1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_opener_is_told_who_is_in_the_way() {
    bounded(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = RedbStore::open(&path, Limits::default()).await.unwrap();
        let error = RedbStore::open(&path, Limits::default()).await.unwrap_err();
        assert!(matches!(&error, Error::Locked { path: locked } if *locked == path), "{error:?}");
        assert!(error.to_string().contains("in use by another process"));
        assert!(!error.retryable());
        put(&store, "still", "works").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_memory_and_disk_alike() {
    bounded(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = RedbStore::open(&path, Limits::default()).await.unwrap();
        for round in 0..50 {
            let write = store.txn(Txn::new().put(format!("k{round}"), "v"));
            // Polled once, so that the write is under way, and dropped.
            tokio::select! { biased; _ = write => {}, () = std::future::ready(()) => {} }
        }
        // Every one of them takes place all the same.
        let mut watch = store.watch("k", 1).await.unwrap();
        events(&mut watch, 50).await;
        let before = store.list("", PageRequest::first(100)).await.unwrap();
        assert_eq!((before.entries.len(), before.revision), (50, 51));
        drop(store);
        let store = RedbStore::open(&path, Limits::default()).await.unwrap();
        assert_eq!(store.list("", PageRequest::first(100)).await.unwrap(), before);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_store_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    std::fs::write(&path, b"something else entirely").unwrap();
    let error = RedbStore::open(&path, Limits::default()).await.unwrap_err();
    assert!(matches!(error, Error::Disk { operation: "open", .. }), "{error:?}");
    let missing = RedbStore::open(dir.path().join("no/such/dir"), Limits::default()).await.unwrap_err();
    assert!(matches!(missing, Error::Disk { .. }), "{missing:?}");
}
