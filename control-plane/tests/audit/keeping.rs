//! Checkpoints, what the leader signs for the dead, and what it deletes.

use std::sync::Arc;
use std::time::Duration;

use control_plane::audit::SinkChoice;
use control_plane::store::memory::MemoryStore;
use control_plane::store::{Error, PageRequest, Txn};
use jiff::SignedDuration;
use proto::audit::{CheckpointKind, FlawKind, digest};
use proto::rest::AuditRecord;

use crate::fixture::{World, eventually};

/// At noon: what is counted by days does not depend on when the tests run.
fn world() -> World {
    let world = World::new(Arc::new(MemoryStore::new()));
    let of_day = world.clock.now().as_second().rem_euclid(24 * 3600);
    world.clock.advance(SignedDuration::from_secs(36 * 3600 - of_day));
    world
}

const MONTH: SignedDuration = SignedDuration::from_hours(31 * 24);

async fn put(world: &World, key: &str, value: impl Into<bytes::Bytes>) {
    world.store.txn(Txn::new().put(key, value)).await.unwrap().committed().unwrap();
}

async fn is_there(world: &World, key: &str) -> bool {
    world.store.get(key).await.unwrap().is_some()
}

#[tokio::test]
async fn a_checkpoint_comes_with_the_count_with_time_and_at_the_end() {
    let mut world = world();
    let one = world.start("one").await;
    one.note(10).await;
    let report = eventually("two checkpoints' worth", async || {
        let report = world.reports().await.pop()?;
        (report.signed_to == 8 && report.records == 10).then_some(report)
    })
    .await;
    assert_eq!((report.unsigned, report.flaws.as_slice()), (2, [].as_slice()));
    one.stop().await;
    let report = world.report("one").await;
    assert_eq!((report.records, report.signed_to, report.unsigned), (10, 10, 0), "{report:?}");
    assert_eq!(world.checkpoints().await.len(), 1, "a day leaves one behind");
    world.audit.checkpoint_after = Duration::from_millis(100);
    let two = world.start("two").await;
    two.note(1).await;
    eventually("time signs too", async || (world.reports().await.pop()?.signed_to == 1).then_some(())).await;
    two.stop().await;
}

#[tokio::test]
async fn who_writes_the_store_but_cannot_sign_is_found() {
    let world = world();
    let one = world.start("one").await;
    one.note(6).await;
    one.stop().await;
    let mut records = world.records().await;
    // Record 3 is made another, and everything after it made to fit.
    records[2].subject = "another".to_owned();
    for index in 2..records.len() {
        records[index].previous = records[index - 1].hash.clone();
        records[index].hash = digest(&records[index]);
        let record = &records[index];
        put(&world, &format!("audit/one/{:020}", record.seq), serde_json::to_vec(record).unwrap()).await;
    }
    let report = world.report("one").await;
    assert_eq!(
        report.flaws.iter().map(|flaw| (flaw.seq, flaw.kind)).collect::<Vec<_>>(),
        [(6, FlawKind::Rewritten)]
    );
    // Its checkpoint made anew, with another CA.
    let other = World::new(world.store.clone());
    let mut stolen = world.checkpoints().await.remove(0);
    stolen.hash = records[5].hash.clone();
    let signed = certs::Authority::from_pem(&other.ca)
        .unwrap()
        .sign_statement(&certs::Role::audit("one"), &stolen.statement(), stolen.at)
        .unwrap();
    (stolen.chain_pem, stolen.signature) = (signed.chain_pem, signed.signature);
    put(&world, "audit-checkpoints/one/00000000000000000006", serde_json::to_vec(&stolen).unwrap()).await;
    let report = world.report("one").await;
    assert_eq!(report.flaws[0].kind, FlawKind::Forged, "{report:?}");
    assert_eq!(report.signed_to, 0);
    // A certificate of the CA, but an agent's.
    let signed = certs::Authority::from_pem(&world.ca)
        .unwrap()
        .sign_statement(&certs::Role::agent("c1"), &stolen.statement(), stolen.at)
        .unwrap();
    (stolen.chain_pem, stolen.signature) = (signed.chain_pem, signed.signature);
    put(&world, "audit-checkpoints/one/00000000000000000006", serde_json::to_vec(&stolen).unwrap()).await;
    let report = world.report("one").await;
    assert!(report.flaws[0].message.contains("cluster/c1/agent"), "{report:?}");
}

#[tokio::test]
async fn the_leader_signs_for_a_replica_that_died() {
    let world = world();
    let one = world.start("one").await;
    one.note(3).await;
    eventually("written", async || (world.records().await.len() == 3).then_some(())).await;
    one.kill().await;
    assert_eq!(world.report("one").await.unsigned, 3);
    let two = world.start("two").await;
    let report = eventually("signed by the leader", async || {
        let report = world.report("one").await;
        (report.signed_to == 3).then_some(report)
    })
    .await;
    assert_eq!((report.unsigned, report.flaws.as_slice()), (0, [].as_slice()));
    two.stop().await;
}

#[tokio::test]
async fn what_is_old_goes_up_to_a_checkpoint_and_the_rest_still_verifies() {
    let world = world();
    let one = world.start("one").await;
    one.note(10).await;
    eventually("written", async || (world.find("one").await?.signed_to == 8).then_some(())).await;
    world.clock.advance(MONTH);
    one.note(1).await;
    let report = eventually("pruned", async || {
        let report = world.report("one").await;
        (report.pruned_to == 8 && report.first == 9).then_some(report)
    })
    .await;
    // 9 and 10 are old too, but no checkpoint covers them: a month without one is what is said of them.
    let kinds: Vec<FlawKind> = report.flaws.iter().map(|flaw| flaw.kind).collect();
    assert!(kinds.iter().all(|kind| *kind == FlawKind::Unsigned), "{report:?}");
    assert!(one.started.health.audit_pruned.get() >= 8);
    one.stop().await;
    let report = world.report("one").await;
    assert_eq!((report.last, report.unsigned, report.flaws.as_slice()), (11, 0, [].as_slice()));
    // The mark is what excuses the missing beginning, not that it is missing.
    let marks = world.checkpoints().await;
    let mark = marks.iter().find(|mark| mark.kind == CheckpointKind::Pruned).unwrap();
    let key = format!("audit-checkpoints/one/{:020}", mark.seq);
    world.store.txn(Txn::new().delete(key)).await.unwrap().committed().unwrap();
    assert_eq!(world.report("one").await.flaws[0].kind, FlawKind::Headless);
}

#[tokio::test]
async fn a_dead_chain_goes_in_the_end_and_leaves_nothing() {
    let world = world();
    let one = world.start("one").await;
    one.note(5).await;
    one.stop().await;
    world.clock.advance(MONTH);
    let two = world.start("two").await;
    eventually("only its mark is left", async || {
        let report = world.report("one").await;
        (report.pruned_to == 5 && report.records == 0 && report.flaws.is_empty()).then_some(())
    })
    .await;
    world.clock.advance(MONTH);
    eventually("not even that", async || {
        world.reports().await.iter().all(|report| report.replica != "one").then_some(())
    })
    .await;
    two.stop().await;
}

#[tokio::test]
async fn nothing_is_deleted_that_the_sink_lacks_or_that_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = world();
    let path = dir.path().join("later/audit.jsonl");
    world.audit.sink = Some(SinkChoice::Jsonl { path });
    let one = world.start("one").await;
    one.note(8).await;
    eventually("signed", async || (world.find("one").await?.signed_to == 8).then_some(())).await;
    world.clock.advance(MONTH);
    // A new mark of time is written by the round that would have deleted.
    eventually("a round", async || {
        let marks = world.store.get("revision-marks").await.unwrap()?;
        (marks.version >= 2).then_some(())
    })
    .await;
    assert_eq!(world.report("one").await.first, 1);
    // The sink works, but meanwhile somebody altered a record.
    let mut record: AuditRecord = world.records().await.remove(2);
    record.by = "nobody".to_owned();
    put(&world, "audit/one/00000000000000000003", serde_json::to_vec(&record).unwrap()).await;
    std::fs::create_dir(dir.path().join("later")).unwrap();
    eventually("found broken", async || (one.started.health.audit_broken.get() == 1).then_some(())).await;
    assert_eq!(world.report("one").await.first, 1);
    one.stop().await;
}

#[tokio::test]
async fn what_nobody_needs_is_forgotten_when_it_is_old() {
    let world = world();
    let tombstone = |run: &str| format!(r#"{{"run":"{run}","uid":"u"}}"#);
    let (hash, other) = ("a".repeat(64), "b".repeat(64));
    put(&world, "tombstones/c-1/shop/old/u", tombstone("run-1")).await;
    put(&world, &format!("specs/{hash}"), "{}").await;
    put(&world, "halts-resumed/h1", "{}").await;
    put(&world, "halts-resumed/h2", "{}").await;
    put(&world, "tombstones/c-1/shop/seen/u", tombstone("run-2")).await;
    // A member that was last heard of with a halt must be told of its end.
    let status = serde_json::json!({ "halts": { "h2": "Latched" } });
    put(&world, "clusters/c-1/status", status.to_string()).await;
    let one = world.start("one").await;
    eventually("a mark", async || is_there(&world, "revision-marks").await.then_some(())).await;
    world.clock.advance(SignedDuration::from_hours(24 * 20));
    eventually("another mark", async || {
        (world.store.get("revision-marks").await.unwrap()?.version >= 2).then_some(())
    })
    .await;
    put(&world, "tombstones/c-1/shop/seen/u", tombstone("run-2")).await;
    put(&world, &format!("specs/{other}"), "{}").await;
    world.clock.advance(SignedDuration::from_hours(24 * 20));
    for key in ["tombstones/c-1/shop/old/u", &format!("specs/{hash}"), "halts-resumed/h1"] {
        eventually(key, async || (!is_there(&world, key).await).then_some(())).await;
    }
    for key in ["tombstones/c-1/shop/seen/u", &format!("specs/{other}"), "halts-resumed/h2"] {
        assert!(is_there(&world, key).await, "{key}");
    }
    one.stop().await;
}

#[tokio::test]
async fn what_is_over_goes_and_what_must_stay_known_stays() {
    let world = world();
    let at = |hours: i64| (world.clock.now() + SignedDuration::from_hours(hours)).to_string();
    let answer =
        |hours| serde_json::json!({ "request": "r", "at": at(hours), "seed": "s", "answer": "sealed" });
    let token = |hours| {
        let secret = "0".repeat(64);
        serde_json::json!({ "cluster": "c-1", "secret": secret, "expiresAt": at(hours), "autoAccept": false })
    };
    // Without a lease, as if a restart had given it its life anew; and one with, that a day has not passed of.
    put(&world, "once/over", answer(-25).to_string()).await;
    let lease = world.store.lease_grant(Duration::from_hours(25)).await.unwrap();
    let leased = Txn::new().put_leased("once/leased", answer(-25).to_string(), lease.id);
    world.store.txn(leased).await.unwrap().committed().unwrap();
    put(&world, "once/kept", answer(24 * 40).to_string()).await;
    put(&world, "tokens/over", token(1).to_string()).await;
    put(&world, "tokens/kept", token(24 * 15).to_string()).await;
    for n in 0..102 {
        put(&world, &format!("operators-spent/{n:03}"), "{}").await;
    }
    put(&world, "revoked/c-1/1234", "{}").await;
    put(&world, "revoked/c-1/all", "{}").await;
    put(&world, "revoked/c-2/all", "{}").await;
    let member = serde_json::json!({ "id": "c-1", "name": "east", "accepted": true, "revoked": true, "createdAt": at(0) });
    put(&world, "clusters/c-1/spec", member.to_string()).await;
    let one = world.start("one").await;
    for key in ["once/over", "once/leased"] {
        eventually(key, async || (!is_there(&world, key).await).then_some(())).await;
    }
    assert!(is_there(&world, "tokens/over").await, "until it is as old as what the audit keeps");
    world.clock.advance(SignedDuration::from_hours(24 * 20));
    eventually("another mark", async || {
        (world.store.get("revision-marks").await.unwrap()?.version >= 2).then_some(())
    })
    .await;
    put(&world, "revoked/c-2/5678", "{}").await;
    world.clock.advance(SignedDuration::from_hours(24 * 20));
    for key in
        ["tokens/over", "operators-spent/000", "operators-spent/001", "revoked/c-1/1234", "revoked/c-2/all"]
    {
        eventually(key, async || (!is_there(&world, key).await).then_some(())).await;
    }
    for key in ["once/kept", "tokens/kept", "operators-spent/002", "revoked/c-1/all", "revoked/c-2/5678"] {
        assert!(is_there(&world, key).await, "{key}");
    }
    one.stop().await;
}

#[tokio::test]
async fn the_leader_lets_the_store_forget() {
    let mut world = world();
    world.retention.compact_every = Some(Duration::from_millis(30));
    put(&world, "x/1", "1").await;
    let then = world.store.health().await.unwrap().revision;
    let one = world.start("one").await;
    one.note(1).await;
    eventually("the past is gone", async || {
        let old = PageRequest { after: None, limit: 1, revision: Some(then) };
        matches!(world.store.list("x/", old).await, Err(Error::Compacted { .. })).then_some(())
    })
    .await;
    assert!(is_there(&world, "x/1").await);
    one.stop().await;
}
