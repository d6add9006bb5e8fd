//! What only the memory store promises: bounded history.

use control_plane::store::memory::MemoryStore;
use control_plane::store::{Error, FollowConfig, Limits, follow};
use std::sync::Arc;

use crate::fixture::{bounded, put, watch_error};
use crate::following::{Replay, everything, storm};

#[tokio::test]
async fn history_is_bounded_and_mirrors_do_not_mind() {
    bounded(async {
        let store = Arc::new(MemoryStore::with_limits(Limits::default(), 10));
        let mut mirror = follow(store.clone(), "s/", FollowConfig { queue: 1, ..FollowConfig::default() });
        let mut replay = Replay::default();
        for _ in 0..5 {
            storm(&*store, 1, 50).await;
            let last = put(&*store, "s/last", "1").await;
            replay.until(&mut mirror, last).await;
            assert_eq!(replay.entries, everything(&*store, "s/").await);
        }
        let error = watch_error(&*store, "", 2).await;
        assert!(
            matches!(error, Error::Compacted { compact_revision } if compact_revision > 200),
            "{error:?}"
        );
        // What is promised is there.
        let now = put(&*store, "x", "1").await;
        drop(control_plane::store::Store::watch(&*store, "", now - 9).await.unwrap());
    })
    .await;
}
