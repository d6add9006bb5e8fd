//! Lists of the centre's addresses, signed by the right and the wrong hands, and stores that were left.

use certs::{Authority, Role, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use proto::endpoints::{EndpointList, SignedEndpoints};
use tokio::time::{Instant, timeout};

use super::{Home, Refused, SAVE_AGAIN};
use crate::link::stage::{Stage, signed_by};

/// Takes a list to its answer.
async fn take(home: &mut Home, signed: &SignedEndpoints) -> Result<u64, Refused> {
    match home.offer(signed)? {
        Some(sequence) => Ok(sequence),
        None => home.saved().await.unwrap(),
    }
}

/// Enters a store, and waits until that is written.
async fn enter(home: &mut Home, epoch: &str) {
    home.enter(epoch).unwrap();
    assert!(home.saved().await.is_none());
}

#[tokio::test]
async fn a_list_of_the_centre_is_on_disk_before_it_is_acknowledged_and_dialled_at_once() {
    let mut stage = Stage::of(None).await;
    let role = Role::endpoints("r1");
    let clone = stage.credentials.clone();
    assert_eq!((clone.endpoints(), stage.home.sequence()), (vec!["a:1".to_owned()], Some(0)));
    let signed = signed_by(&stage.ca.authority, &role, stage.list(7, "b:1"));
    assert_eq!(take(&mut stage.home, &signed).await.unwrap(), 7);
    assert_eq!(clone.endpoints(), ["b:1", "a:1"], "whoever dials sees it");
    assert_eq!(stage.again().await.endpoints(), ["b:1", "a:1"]);
    assert_eq!(stage.again().await.centre().enrol, ["e:1"]);
    // The same once more is acknowledged again.
    assert_eq!(take(&mut stage.home, &signed).await.unwrap(), 7);

    // A session at the old address proves nothing.
    stage.home.settle(Some("a:1"));
    stage.home.settle(None);
    assert_eq!(stage.again().await.endpoints(), ["b:1", "a:1"]);
    stage.home.moves();
    stage.home.settle(Some("b:1"));
    assert!(stage.home.saved().await.is_none());
    assert_eq!((clone.endpoints(), stage.home.detours()), (vec!["b:1".to_owned()], 0));
    assert_eq!(stage.again().await.endpoints(), ["b:1"]);
    assert_eq!(stage.again().await.enrolled_endpoints(), ["b:1"], "also for an agent that reads no lists");
}

#[tokio::test]
async fn what_is_not_to_be_believed_changes_nothing() {
    let mut stage = Stage::of(None).await;
    let role = Role::endpoints("r1");
    let good = signed_by(&stage.ca.authority, &role, stage.list(7, "b:1"));
    take(&mut stage.home, &good).await.unwrap();
    let kept = stage.again().await.centre();

    let stranger = Authority::create(TrustDomain::new("throwaway.test").unwrap(), Timestamp::now()).unwrap();
    let mut altered = good.clone();
    altered.list.sequence = 8;
    let mut backdated = signed_by(&stage.ca.authority, &role, stage.list(8, "c:1"));
    backdated.list.at = Timestamp::now() - SignedDuration::from_hours(1);
    let foreign = EndpointList { trust_domain: "else.test".to_owned(), ..stage.list(8, "c:1") };
    let cases = [
        ("BadSignature", altered),
        ("BadSignature", backdated),
        ("BadSignature", signed_by(&stranger, &role, stage.list(8, "c:1"))),
        ("BadSignature", signed_by(&stage.ca.authority, &Role::agent("c2"), stage.list(8, "c:1"))),
        ("BadSignature", signed_by(&stage.ca.authority, &Role::audit("r1"), stage.list(8, "c:1"))),
        ("BadSignature", signed_by(&stage.ca.authority, &Role::control_plane("r1"), stage.list(8, "c:1"))),
        ("OtherTrustDomain", signed_by(&stage.ca.authority, &role, foreign)),
        ("OlderEndpoints", signed_by(&stage.ca.authority, &role, stage.list(6, "c:1"))),
        ("OlderEndpoints", signed_by(&stage.ca.authority, &role, stage.list(7, "c:1"))),
        ("BadEndpoints", signed_by(&stage.ca.authority, &role, stage.list(8, "not an address"))),
    ];
    for (code, signed) in cases {
        let refused = take(&mut stage.home, &signed).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert_eq!(stage.again().await.centre(), kept);
        assert_eq!(stage.home.sequence(), Some(7));
    }
}

#[tokio::test]
async fn a_list_for_another_trust_domain_than_the_agents_is_refused() {
    let mut stage = Stage::of(Some("other.test")).await;
    let signed = signed_by(&stage.ca.authority, &Role::endpoints("r1"), stage.list(7, "b:1"));
    let refused = take(&mut stage.home, &signed).await.unwrap_err();
    assert!(matches!(refused, Refused::TrustDomain { .. }), "{refused}");
}

#[tokio::test]
async fn a_store_that_was_left_is_refused_also_after_a_restart() {
    let mut stage = Stage::of(None).await;
    enter(&mut stage.home, "e1").await;
    enter(&mut stage.home, "e2").await;
    assert!(stage.home.enter("e1").is_err());
    let mut after = Home::new(Some(stage.again().await));
    assert_eq!(after.known().store_epoch, "e2");
    let old = after.enter("e1").unwrap_err();
    assert!(old.to_string().contains("mark-restored"), "{old}");
    after.enter("e2").unwrap();
    enter(&mut after, "e3").await;
    assert_eq!(stage.again().await.centre().left, ["e1", "e2"]);
}

#[tokio::test]
async fn without_an_identity_no_list_is_taken_and_stores_are_told_apart_all_the_same() {
    let stage = Stage::of(None).await;
    let mut home = Home::new(None);
    assert_eq!(home.sequence(), None);
    let signed = signed_by(&stage.ca.authority, &Role::endpoints("r1"), stage.list(7, "b:1"));
    assert_eq!(take(&mut home, &signed).await.unwrap_err().code(), "NoIdentity");
    home.enter("e1").unwrap();
    home.enter("e2").unwrap();
    assert!(home.enter("e1").is_err());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_put_on_disk_is_no_list_but_is_a_store_that_was_left() {
    let mut stage = Stage::of(None).await;
    let signed = signed_by(&stage.ca.authority, &Role::endpoints("r1"), stage.list(7, "b:1"));
    stage.memory.break_method("put_secret");
    assert_eq!(take(&mut stage.home, &signed).await.unwrap_err().code(), "EndpointsNotKept");
    assert_eq!((stage.home.sequence(), stage.credentials.endpoints()), (Some(0), vec!["a:1".to_owned()]));
    stage.home.enter("e1").unwrap();
    enter(&mut stage.home, "e2").await;
    assert!(stage.home.enter("e1").is_err());
    assert_eq!(stage.again().await.centre().store_epoch, "");
    stage.memory.mend("put_secret");
    let begun = Instant::now();
    stage.home.settle(Some("a:1"));
    assert!(stage.home.saved().await.is_none());
    assert!(begun.elapsed() >= SAVE_AGAIN, "not with each heartbeat: {:?}", begun.elapsed());
    assert_eq!(stage.again().await.centre().left, ["e1"]);
    let begun = Instant::now();
    assert_eq!(take(&mut stage.home, &signed).await.unwrap(), 7);
    assert!(begun.elapsed() < SAVE_AGAIN);
    assert_eq!(stage.again().await.centre().store_epoch, "e2");
}

#[tokio::test(start_paused = true)]
async fn what_is_learnt_while_a_list_is_written_is_written_after_it() {
    let mut stage = Stage::of(None).await;
    let role = Role::endpoints("r1");
    let [first, second] =
        [(7, "b:1"), (8, "c:1")].map(|(n, at)| signed_by(&stage.ca.authority, &role, stage.list(n, at)));
    stage.memory.stall_secrets(true);
    assert_eq!(stage.home.offer(&first).unwrap(), None);
    assert!(timeout(SAVE_AGAIN, stage.home.saved()).await.is_err(), "given up, and gone on with later");
    stage.home.enter("e1").unwrap();
    assert_eq!(stage.home.offer(&second).unwrap(), None);
    assert_eq!((stage.home.sequence(), stage.again().await.centre().sequence), (Some(0), 0));
    stage.memory.stall_secrets(false);
    assert_eq!(stage.home.saved().await.unwrap().unwrap(), 7);
    assert_eq!(stage.again().await.centre().store_epoch, "");
    assert_eq!(stage.home.saved().await.unwrap().unwrap(), 8);
    let kept = stage.again().await.centre();
    assert_eq!((kept.sequence, kept.store_epoch.as_str()), (8, "e1"));
    assert_eq!(&kept, stage.home.known());
    assert!(timeout(SAVE_AGAIN * 2, stage.home.saved()).await.is_err(), "nothing is left to write");
    // A list that is older than what was put on disk meanwhile.
    assert_eq!(take(&mut stage.home, &first).await.unwrap_err().code(), "OlderEndpoints");
}
