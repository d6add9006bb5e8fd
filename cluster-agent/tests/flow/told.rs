//! What people are told with events: injections on the pods that they hit, each word once.

use proto::assignment::ClusterPhase;
use proto::injection::{EndReason, InjectionPhase};
use proto::wire::{AuthoredKind, AuthoredRef, Down, Mirror};
use serde_json::json;
use tokio::task::JoinSet;

use super::fixture::{Agent, PausedClock, delay, word};

#[tokio::test(start_paused = true)]
async fn a_run_is_told_on_its_pods_and_on_its_object() {
    let agent = Agent::start();
    let spec = delay();
    let mut daemon = agent.node(vec![]).await;
    let mut beats = JoinSet::new();
    daemon.beat(&mut beats);
    let mut centre = agent.connect(&spec).await;
    let start = centre.plan("r1", &spec).await;
    centre.want(&start).await;
    centre.until("r1", |o| o.phase >= ClusterPhase::Running).await;
    let inject = daemon.inject().await;
    for _ in 0..2 {
        daemon.say(word(&inject.injection, InjectionPhase::Injected, None)).await;
    }
    centre.until("r1", |o| o.counts.active == 1).await;
    daemon.say(word(&inject.injection, InjectionPhase::Reverted, Some(EndReason::Deadline))).await;
    centre.until("r1", |o| o.phase == ClusterPhase::Finished).await;

    let object = AuthoredRef {
        kind: AuthoredKind::Run,
        namespace: "shop".parse().unwrap(),
        name: "r1".parse().unwrap(),
        uid: "u-r1".into(),
    };
    let at = PausedClock::wall_at_zero().to_string();
    let status = json!({ "conditions": [{ "type": "Complete", "status": "True", "reason": "Completed",
        "message": "", "lastTransitionTime": at }] });
    let mirror = Mirror { object, status: status.to_string().into_bytes() };
    for _ in 0..2 {
        centre.down.send(Down::Mirror(mirror.clone())).await.unwrap();
    }
    let told = loop {
        let told = agent.memory.snapshot().announced;
        if told.iter().any(|word| word.reason == "Complete") {
            break told;
        }
        centre.serve().await;
    };
    let words: Vec<_> = told.iter().map(|a| (a.on.kind.as_str(), a.reason.as_str(), a.warning)).collect();
    assert_eq!(words, [("Pod", "Injected", false), ("Pod", "Reverted", false), ("Run", "Complete", false)]);
    assert_eq!(told[0].on.uid, inject.injection.target.uid);
    assert!(told[0].message.contains("run r1"), "{}", told[0].message);
}
