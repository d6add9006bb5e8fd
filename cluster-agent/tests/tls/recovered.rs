//! An agent whose certificate expired comes back by its identity key, also after it died with the request under way.

use std::sync::atomic::Ordering;
use std::time::Duration;

use certs::{Lifetime, PrivateKey};
use jiff::Timestamp;
use proto::wire::Up;

use super::centre::{PATIENCE, Running, start};

/// Awaits a condition.
async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_expired(running: &Running) -> bool {
    let enrolled = running.kept().enrolled.unwrap();
    let lifetime = Lifetime::of_chain_pem(&enrolled.chain_pem).unwrap();
    certs::renewal::is_expired(&lifetime, Timestamp::now())
}

async fn hello(running: &mut Running) {
    while !matches!(running.next().await.1, Up::Hello(_)) {}
}

#[tokio::test]
async fn an_expired_agent_comes_back_also_after_a_crash_with_the_request_under_way() {
    let mut running = start(Duration::from_secs(8)).await;
    hello(&mut running).await;
    running.crash().await;
    until("expired", || is_expired(&running)).await;
    let before = running.kept();
    assert_eq!((before.recoveries, before.recovering_key_pem.is_none()), (0, true));

    // The centre signs, and the answer never comes; the agent dies waiting for it.
    let recoveries = running.recoveries.clone();
    recoveries.unanswered.store(1, Ordering::Relaxed);
    running.agent();
    until("asked", || !recoveries.asked.lock().unwrap().is_empty()).await;
    running.crash().await;
    let under_way = running.kept();
    assert_eq!(
        (under_way.recoveries, under_way.recovering_key_pem.is_some()),
        (1, true),
        "kept before it left"
    );

    running.agent();
    hello(&mut running).await;
    let asked = recoveries.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[0], asked[1], "the same counter and the same key");
    assert_eq!(asked[0].0, 1);
    let after = running.kept();
    assert_eq!(PrivateKey::from_pem(&after.key_pem).unwrap().key_hash(), asked[0].1);
    assert_eq!((after.recoveries, after.recovering_key_pem.is_none()), (1, true));
    assert_eq!(after.identity_key_pem, before.identity_key_pem, "kept for life");

    // Away again: another counter, another key.
    running.crash().await;
    until("expired again", || is_expired(&running)).await;
    running.agent();
    hello(&mut running).await;
    let asked = recoveries.asked.lock().unwrap().clone();
    let last = asked.last().unwrap();
    assert_eq!(last.0, 2);
    assert_ne!(last.1, asked[0].1);
}
