//! A backup, more work, and the backup restored; and agents of the version before and after.

use control_plane::centre::Expected;
use std::sync::Arc;

use control_plane::restored::mark;
use control_plane::store::memory::MemoryStore;
use control_plane::store::{PageRequest, Store, Txn};
use proto::assignment::{Intent, Outcome};
use proto::halt::{Halt, HaltScope};
use proto::status::RunPhase;
use proto::wire::{Down, Hello, PROTOCOL};

use super::agent::{Agent, hello};
use super::fixture::{Centre, admin, eventually};

/// Everything in the store that does not hang on a lease, as a snapshot restores it.
async fn backup(store: &dyn Store) -> Arc<dyn Store> {
    let copy = MemoryStore::new();
    let page = store.list("", PageRequest::first(10_000)).await.unwrap();
    for entry in page.entries.into_iter().filter(|entry| entry.lease.is_none()) {
        copy.txn(Txn::new().put(entry.key, entry.value)).await.unwrap().committed().unwrap();
    }
    Arc::new(copy)
}

#[tokio::test]
async fn after_a_restore_nothing_starts_until_an_operator_released_it() {
    let before = Centre::start(1).await;
    let mut agent = before.connected("west").await;
    before.experiment("slow", &["west"]).await;
    before.grant_all().await;
    before.api().invite_cluster(&admin(), serde_json::from_str(r#"{"name":"east"}"#).unwrap()).await.unwrap();
    let id = before.run("slow-1", "slow").await.record.id;
    let (asked, _) = agent.desired(Intent::Plan).await;
    let copy = backup(before.store.as_ref()).await;
    // What the backup does not know: the run went on, and somebody set a halt.
    agent.plan(&asked, 1).await;
    agent.desired(Intent::Start).await;
    let later = Halt {
        id: "incident-9".parse().unwrap(),
        scope: HaltScope::Fleet,
        reason: "after the backup".to_owned(),
        by: "operator:ann".to_owned(),
        at: before.clock.now(),
        origin: None,
    };
    let west = agent.id.clone();
    before.stop().await;

    let clock = control_plane::driver::clock::Clock::new();
    let epoch = copy.get("epoch").await.unwrap().unwrap().value;
    let restored = mark(copy.as_ref(), &clock).await.unwrap();
    assert_ne!(restored.epoch.as_bytes(), epoch.as_ref());
    assert_eq!(
        (restored.clusters.as_slice(), restored.tokens_burnt),
        (&["east".to_owned(), "west".to_owned()][..], 2)
    );
    assert_eq!((restored.unfinished.as_slice(), restored.revoked.len()), (&[id.to_string()][..], 0));

    let after = Centre::on(copy, 1).await;
    assert!(after.keys("tokens/").await.is_empty());
    eventually("the member is known", || {
        after.api().cluster(&admin(), "west").map(drop).map_err(|e| e.to_string())
    })
    .await;
    let hello = Hello { halts: vec![later], ..hello(2) };
    let mut agent = Agent::dial(&after.replicas[0], &west, hello).await;
    let Down::Welcome(welcome) = agent.until("Welcome", |down| matches!(down, Down::Welcome(_))).await else {
        unreachable!()
    };
    assert_eq!(welcome.store_epoch, restored.epoch);
    agent.halts(|halts| halts.halts.iter().any(|halt| halt.id == restored.halt)).await;
    // The old run is not dispatched, and a new one neither.
    let old = after.finished(id.as_str()).await;
    assert!(matches!(old.summary.outcome, Some(Outcome::Denied | Outcome::Halted)), "{:?}", old.summary);
    assert!(old.summary.dispatched_at.is_none());
    let new = after.run("slow-2", "slow").await;
    let new = after.finished(new.record.id.as_str()).await;
    assert_eq!((new.summary.phase, new.summary.dispatched_at), (RunPhase::Finished, None));
    eventually("the halt that the backup does not know was given back", || {
        let halts = after.api().halts(&admin()).unwrap();
        let ids: Vec<String> = halts.iter().map(|view| view.halt.id.to_string()).collect();
        if ids.contains(&"incident-9".to_owned()) { Ok(()) } else { Err(ids) }
    })
    .await;

    // Both are released by a person; then work goes on.
    for id in [restored.halt.as_str(), "incident-9"] {
        after.api().resume_halt(&admin(), id, &Expected::Anything).await.unwrap();
    }
    // The scripted agent was silent for a while.
    let mut agent = Agent::connect(&after.replicas[0], &west, 3).await;
    after.run("slow-3", "slow").await;
    agent.planned(1).await;
    agent.desired(Intent::Start).await;
    after.stop().await;
}

#[tokio::test]
async fn agents_of_the_version_before_and_after_are_welcome() {
    let centre = Centre::start(1).await;
    let west = centre.member("west").await;
    centre.agent(0, &west).await;
    for (min, max, version) in
        [(PROTOCOL - 1, PROTOCOL, "0.0.9"), (PROTOCOL, PROTOCOL + 1, "0.2.0"), (PROTOCOL, PROTOCOL, "0.1.7")]
    {
        let hello = Hello { protocol_min: min, protocol_max: max, version: version.to_owned(), ..hello(1) };
        let mut agent = Agent::dial(&centre.replicas[0], &west, hello).await;
        match agent.until("Welcome", |down| matches!(down, Down::Welcome(_))).await {
            Down::Welcome(welcome) => assert_eq!(welcome.protocol, PROTOCOL, "{version}"),
            _ => unreachable!(),
        }
    }
    // One that has dropped ours is told so, and harms nobody.
    let hello = Hello { protocol_min: PROTOCOL + 1, protocol_max: PROTOCOL + 2, ..hello(1) };
    let mut agent = Agent::dial(&centre.replicas[0], &west, hello).await;
    match agent.until("GoAway", |down| matches!(down, Down::GoAway { .. })).await {
        Down::GoAway { reason, .. } => assert_eq!(reason, "ProtocolUnsupported"),
        _ => unreachable!(),
    }
    centre.stop().await;
}
