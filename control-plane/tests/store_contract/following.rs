//! `follow`: the mirror loses and duplicates nothing, whatever happens to its watches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use control_plane::store::{
    Change, Entry, Error, FollowConfig, Health, Lease, LeaseId, Mirror, Outcome, Page, PageRequest, Revision,
    Store, Txn, WatchStream, follow,
};
use futures::stream;

use crate::fixture::{Fixture, commit, delete, put};

/// A store whose watches break after a few items and whose lists fail now and then.
#[derive(Debug)]
pub(crate) struct Flaky {
    inner: Arc<dyn Store>,
    /// While set, nothing gets through.
    down: AtomicBool,
    calls: AtomicU32,
    pub(crate) breaks: AtomicU32,
}

impl Flaky {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            down: AtomicBool::new(false),
            calls: AtomicU32::new(0),
            breaks: AtomicU32::new(0),
        })
    }

    fn fail(&self, every: u32) -> Result<(), Error> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) || call % every == every - 1 {
            return Err(Error::Unavailable { operation: "flaky", source: "as told".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        self.fail(7)?;
        self.inner.list(prefix, page).await
    }
    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.inner.txn(txn).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.fail(4)?;
        let watch = self.inner.watch(prefix, from).await?;
        let lasts = self.calls.load(Ordering::SeqCst) % 4 + 1;
        self.breaks.fetch_add(1, Ordering::SeqCst);
        Ok(WatchStream::new(stream::unfold((watch, lasts), |(mut watch, lasts)| async move {
            if lasts == 0 {
                return Some((Err(Error::Lagged), (watch, lasts)));
            }
            let item = watch.next().await;
            Some((item, (watch, lasts - 1)))
        })))
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.inner.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        self.inner.lease_keep_alive(id).await
    }
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.inner.lease_revoke(id).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }
    async fn health(&self) -> Result<Health, Error> {
        self.inner.health().await
    }
}

/// What a consumer builds from the changes; checks the promises of [`Change`] on the way.
#[derive(Default)]
pub(crate) struct Replay {
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) puts: usize,
    pub(crate) deletes: usize,
    pub(crate) synced: Revision,
}

impl Replay {
    pub(crate) async fn until(&mut self, mirror: &mut Mirror, revision: Revision) {
        while self.synced < revision {
            self.take(mirror.next().await.unwrap());
        }
    }

    pub(crate) fn take(&mut self, change: Change) {
        match change {
            Change::Put(entry) => {
                self.puts += 1;
                if let Some(old) = self.entries.insert(entry.key.clone(), entry.clone()) {
                    assert!(old.mod_revision < entry.mod_revision, "twice or backwards: {old:?} {entry:?}");
                    assert_eq!(old.create_revision, entry.create_revision, "a deletion was lost");
                }
            }
            Change::Delete { key, revision } => {
                self.deletes += 1;
                let old = self.entries.remove(&key).expect("deleted twice");
                assert!(old.mod_revision < revision);
            }
            Change::Synced { revision } => {
                assert!(revision >= self.synced);
                self.synced = revision;
            }
        }
    }
}

pub(crate) async fn everything(store: &dyn Store, prefix: &str) -> BTreeMap<String, Entry> {
    let page = store.list(prefix, PageRequest::first(10_000)).await.unwrap();
    page.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}

pub(crate) fn quick() -> FollowConfig {
    FollowConfig {
        page: 3,
        queue: 4,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        ..FollowConfig::default()
    }
}

/// Puts and deletes on a few keys; returns how many of each took place.
pub(crate) async fn storm(store: &dyn Store, writer: u64, rounds: u64) -> (usize, usize) {
    let (mut puts, mut deletes) = (0, 0);
    for round in 0..rounds {
        let n = round * 7 + writer * 3;
        let (put_key, gone_key) = (format!("s/{writer}/{}", n % 11), format!("s/{writer}/{}", n % 5));
        if round % 3 == 2 && put_key != gone_key {
            let existed = store.get(&gone_key).await.unwrap().is_some();
            commit(store, Txn::new().put(put_key, round.to_string()).delete(gone_key)).await;
            deletes += usize::from(existed);
        } else {
            commit(store, Txn::new().put(put_key, round.to_string())).await;
        }
        puts += 1;
    }
    (puts, deletes)
}

pub(crate) async fn a_mirror_equals_the_store_after_a_storm(f: Fixture) {
    put(&*f.store, "s/before", "1").await;
    put(&*f.store, "t/elsewhere", "1").await;
    let flaky = Flaky::new(f.other.clone());
    let mut mirror = follow(flaky.clone(), "s/", quick());
    let mut replay = Replay::default();
    replay.until(&mut mirror, 1).await;
    assert_eq!(replay.entries.keys().collect::<Vec<_>>(), ["s/before"]);

    let (mut puts, mut deletes) = (1, 0);
    for round in 0..24 {
        // Its queue is short: the mirror is at work while this goes on, and is held up by us.
        let (a, b, c) = tokio::join!(storm(&*f.store, 1, 6), storm(&*f.store, 2, 6), storm(&*f.other, 3, 6));
        let last = put(&*f.store, "s/last", &round.to_string()).await;
        puts += a.0 + b.0 + c.0 + 1;
        deletes += a.1 + b.1 + c.1;
        replay.until(&mut mirror, last).await;
    }
    assert_eq!(replay.entries, everything(&*f.store, "s/").await);
    assert_eq!((replay.puts, replay.deletes), (puts, deletes), "lost or seen twice");
    assert!(flaky.breaks.load(Ordering::SeqCst) > 5, "the watches did not break");
}

pub(crate) async fn compaction_under_a_slow_consumer_loses_nothing(f: Fixture) {
    let flaky = Flaky::new(f.other.clone());
    let mut mirror = follow(flaky.clone(), "s/", FollowConfig { queue: 1, ..quick() });
    let mut replay = Replay::default();
    replay.until(&mut mirror, 1).await;
    for _ in 0..4 {
        // Nobody reads while this happens, and the past is gone before anybody does.
        storm(&*f.store, 1, 40).await;
        let now = f.store.health().await.unwrap().revision;
        f.store.compact(now).await.unwrap();
        let last = put(&*f.store, "s/last", "1").await;
        replay.until(&mut mirror, last).await;
        assert_eq!(replay.entries, everything(&*f.store, "s/").await);
    }
}

pub(crate) async fn a_recreated_key_is_seen_as_deleted_and_put(f: Fixture) {
    put(&*f.store, "s/same", "1").await;
    put(&*f.store, "s/gone", "1").await;
    put(&*f.store, "s/again", "1").await;
    let flaky = Flaky::new(f.other.clone());
    let mut mirror = follow(flaky.clone(), "s/", quick());
    let mut replay = Replay::default();
    replay.until(&mut mirror, 1).await;
    flaky.down.store(true, Ordering::SeqCst);
    // The running watch lasts for at most four more items: let it end.
    for _ in 0..5 {
        put(&*f.store, "s/tick", "1").await;
    }
    delete(&*f.store, "s/gone").await;
    delete(&*f.store, "s/again").await;
    let now = put(&*f.store, "s/again", "2").await;
    f.store.compact(now).await.unwrap();
    flaky.down.store(false, Ordering::SeqCst);
    let mut changes = Vec::new();
    while replay.synced < now {
        let change = mirror.next().await.unwrap();
        replay.take(change.clone());
        match change {
            Change::Put(entry) if entry.key != "s/tick" => changes.push(format!("put {}", entry.key)),
            Change::Delete { key, .. } => changes.push(format!("delete {key}")),
            _ => {}
        }
    }
    changes.sort_by_key(|change| change.ends_with("gone"));
    assert_eq!(changes, ["delete s/again", "put s/again", "delete s/gone"]);
    assert_eq!(replay.entries, everything(&*f.store, "s/").await);
}

pub(crate) async fn a_resync_changes_nothing(f: Fixture) {
    put(&*f.store, "s/a", "1").await;
    let config = FollowConfig { resync_every: Duration::from_millis(20), ..quick() };
    let mut mirror = follow(f.other.clone(), "s/", config);
    let mut replay = Replay::default();
    for _ in 0..10 {
        // Each list ends in one of these.
        loop {
            let change = mirror.next().await.unwrap();
            replay.take(change.clone());
            if matches!(change, Change::Synced { .. }) {
                break;
            }
        }
    }
    assert_eq!((replay.puts, replay.deletes), (1, 0));
    let last = put(&*f.store, "s/b", "1").await;
    replay.until(&mut mirror, last).await;
    assert_eq!((replay.puts, replay.deletes), (2, 0));
    assert_eq!(replay.entries, everything(&*f.store, "s/").await);
}
