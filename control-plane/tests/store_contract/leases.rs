//! Leases and elections.

use std::sync::Arc;
use std::time::Duration;

use control_plane::store::election::campaign;
use control_plane::store::lease::KeptLease;
use control_plane::store::{Error, LeaseId, PageRequest, Txn};

use crate::fixture::{Fixture, commit, delete, events, put, value};

/// The shortest that etcd grants.
const TTL: Duration = Duration::from_secs(2);
/// Of leases that must live on a busy machine; less than two of the above.
const KEPT_TTL: Duration = Duration::from_secs(3);
const ELECTION_TTL: Duration = Duration::from_secs(6);

pub(crate) async fn an_expired_lease_deletes_its_keys_and_the_watch_sees_it(f: Fixture) {
    let lease = f.store.lease_grant(TTL).await.unwrap();
    assert!(lease.ttl >= TTL);
    let leased = Txn::new().put_leased("l/a", "1", lease.id).put_leased("l/b", "2", lease.id).put("l/c", "3");
    let revision = commit(&*f.store, leased).await;
    // As it stood then: on a busy machine its life may be over already.
    let then = PageRequest { revision: Some(revision), ..PageRequest::first(1) };
    assert_eq!(f.store.list("l/a", then).await.unwrap().entries[0].lease, Some(lease.id));
    let mut watch = f.other.watch("l/", revision + 1).await.unwrap();
    let mut seen = events(&mut watch, 2).await;
    seen.sort();
    assert_eq!(seen, [format!("-l/a@{}", revision + 1), format!("-l/b@{}", revision + 1)]);
    assert_eq!(value(&*f.store, "l/c").await.as_deref(), Some("3"));
    let error = f.store.lease_keep_alive(lease.id).await.unwrap_err();
    assert!(matches!(error, Error::LeaseNotFound(id) if id == lease.id), "{error:?}");
}

pub(crate) async fn a_kept_lease_lives_and_a_revoked_one_dies(f: Fixture) {
    let kept = KeptLease::grant(f.store.clone(), KEPT_TTL).await.unwrap();
    let revision = commit(&*f.store, Txn::new().put_leased("k", "1", kept.id())).await;
    assert!(f.store.lease_keep_alive(kept.id()).await.unwrap() >= TTL);
    // Two whole lives of a lease that nobody keeps alive: the kept one outlives them.
    let mut watch = f.other.watch("w", revision + 1).await.unwrap();
    let witness = f.store.lease_grant(TTL).await.unwrap();
    commit(&*f.store, Txn::new().put_leased("w1", "1", witness.id)).await;
    events(&mut watch, 2).await;
    let witness = f.store.lease_grant(TTL).await.unwrap();
    commit(&*f.store, Txn::new().put_leased("w2", "1", witness.id)).await;
    events(&mut watch, 2).await;
    assert_eq!(value(&*f.other, "k").await.as_deref(), Some("1"));
    let lost = kept.lost();
    assert!(!lost.is_cancelled());
    let id = kept.id();
    kept.revoke().await.unwrap();
    assert!(lost.is_cancelled());
    assert_eq!(value(&*f.other, "k").await, None);
    f.store.lease_revoke(id).await.unwrap();
}

pub(crate) async fn a_put_without_lease_detaches(f: Fixture) {
    let lease = f.store.lease_grant(TTL * 30).await.unwrap();
    let other = f.store.lease_grant(TTL * 30).await.unwrap();
    for key in ["kept", "moved", "dies"] {
        commit(&*f.store, Txn::new().put_leased(key, "1", lease.id)).await;
    }
    put(&*f.store, "kept", "2").await;
    commit(&*f.store, Txn::new().put_leased("moved", "2", other.id)).await;
    f.store.lease_revoke(lease.id).await.unwrap();
    assert_eq!(value(&*f.store, "dies").await, None);
    let kept = f.store.get("kept").await.unwrap().unwrap();
    assert_eq!((kept.lease, kept.version), (None, 2));
    assert_eq!(f.store.get("moved").await.unwrap().unwrap().lease, Some(other.id));
    delete(&*f.store, "moved").await;
    let before = f.store.health().await.unwrap();
    f.store.lease_revoke(other.id).await.unwrap();
    assert_eq!(f.store.health().await.unwrap(), before, "a lease without keys changes nothing");
}

pub(crate) async fn a_dead_lease_is_refused(f: Fixture) {
    let lease = f.store.lease_grant(TTL).await.unwrap();
    f.store.lease_revoke(lease.id).await.unwrap();
    let txn = |id: LeaseId| Txn::new().put("plain", "1").put_leased("leased", "1", id);
    for id in [lease.id, LeaseId(12345)] {
        let error = f.store.txn(txn(id)).await.unwrap_err();
        assert!(matches!(error, Error::LeaseNotFound(found) if found == id), "{error:?}");
        let error = f.store.lease_keep_alive(id).await.unwrap_err();
        assert!(matches!(error, Error::LeaseNotFound(found) if found == id), "{error:?}");
    }
    assert_eq!(value(&*f.store, "plain").await, None, "half a transaction");
}

pub(crate) async fn leadership_passes_and_the_deposed_is_fenced(f: Fixture) {
    let lease_a = KeptLease::grant(f.store.clone(), ELECTION_TTL).await.unwrap();
    let lease_b = KeptLease::grant(f.other.clone(), ELECTION_TTL).await.unwrap();
    let first = campaign(f.store.clone(), "leader", "a", &lease_a).await.unwrap();
    assert_eq!(value(&*f.other, "leader").await.as_deref(), Some("a"));
    let decide = |leader: &control_plane::store::election::Leadership, by: &'static str| {
        Txn::new().when(leader.fence()).put("decision", by)
    };
    commit(&*f.store, decide(&first, "a")).await;

    let mut contender = Box::pin(campaign(f.other.clone(), "leader", "b", &lease_b));
    // While a leads, b only waits: a's writes go on.
    tokio::select! {
        biased;
        second = &mut contender => panic!("two leaders: {second:?}"),
        _ = commit(&*f.store, decide(&first, "a again")) => {}
    }
    assert!(!first.lost().is_cancelled());
    // The lease goes without a's knowledge, as if the replica had been frozen.
    f.other.lease_revoke(lease_a.id()).await.unwrap();
    let second = contender.await.unwrap();
    assert_eq!(value(&*f.store, "leader").await.as_deref(), Some("b"));
    assert!(second.create_revision() > first.create_revision());
    assert!(f.store.txn(decide(&first, "deposed")).await.unwrap().is_conflict());
    commit(&*f.other, decide(&second, "b")).await;
    assert_eq!(value(&*f.store, "decision").await.as_deref(), Some("b"));
    first.lost().cancelled().await;
    lease_a.lost().cancelled().await;
    assert!(!second.lost().is_cancelled());
    // Who has no lease cannot stand.
    let error = campaign(f.store.clone(), "leader", "a", &lease_a).await.unwrap_err();
    assert!(matches!(error, Error::LeaseNotFound(_)), "{error:?}");
}

pub(crate) async fn resigning_keeps_the_lease(f: Fixture) {
    let lease_a = KeptLease::grant(f.store.clone(), ELECTION_TTL).await.unwrap();
    let lease_b = KeptLease::grant(f.other.clone(), ELECTION_TTL).await.unwrap();
    commit(&*f.store, Txn::new().put_leased("replicas/a", "1", lease_a.id())).await;
    let first = campaign(f.store.clone(), "leader", "a", &lease_a).await.unwrap();
    let fence = first.fence();
    let (second, ()) =
        tokio::join!(async { campaign(f.other.clone(), "leader", "b", &lease_b).await.unwrap() }, async {
            first.resign().await.unwrap();
        },);
    assert!(f.store.txn(Txn::new().when(fence).put("x", "1")).await.unwrap().is_conflict());
    assert!(!second.lost().is_cancelled());
    assert_eq!(value(&*f.store, "replicas/a").await.as_deref(), Some("1"));
    assert!(!lease_a.lost().is_cancelled());
    let store: Arc<_> = f.store.clone();
    // A resigned leader may stand again and wait its turn.
    let (third, ()) =
        tokio::join!(async { campaign(store, "leader", "a", &lease_a).await.unwrap() }, async {
            lease_b.revoke().await.unwrap();
        },);
    assert!(third.create_revision() > second.create_revision());
    second.lost().cancelled().await;
}
