//! Lives of runs, from plan to finish, and the ways they end early.

use proto::assignment::{ClusterPhase, Intent, Outcome, Residue, Verdict};
use proto::injection::{EndReason, InjectionPhase};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::fixture::{Agent, PATIENCE, delay, spec, word};
use cluster_agent::cluster::{LocalHalt, RecordState};
use proto::halt::HaltLevel;
use proto::wire::{Down, NodeDown, Up};

#[tokio::test(start_paused = true)]
async fn plan_start_injected_reverted_finished() {
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
    assert_eq!(agent.memory.snapshot().records.len(), 1, "recorded before it was made");
    assert_eq!(inject.injection.backend, "nfqueue");
    assert!((29_000..=30_000).contains(&inject.remaining_ms), "{}", inject.remaining_ms);
    daemon.say(word(&inject.injection, InjectionPhase::Injected, None)).await;
    let running = centre.until("r1", |o| o.counts.active == 1).await;
    assert_eq!((running.residue, running.injected_at.is_some()), (Residue::Unknown, true));
    daemon.say(word(&inject.injection, InjectionPhase::Reverted, Some(EndReason::Deadline))).await;

    let over = centre.until("r1", |o| o.phase == ClusterPhase::Finished).await;
    assert_eq!(over.outcome, Some(Outcome::Completed));
    assert_eq!((over.verdict, over.residue), (Verdict::NotMeasured, Residue::Clean));
    assert_eq!((over.counts.total, over.counts.injected, over.counts.reverted), (1, 1, 1));
    assert!(over.reverted_at.is_some() && over.started_at.is_some() && over.finished_at.is_some());
    let mut forget = start.clone();
    forget.intent = Intent::Forget;
    centre.want(&forget).await;
    while !agent.memory.snapshot().records.is_empty() {
        centre.serve().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_comes_late_by_the_centres_clock_is_missed() {
    let agent = Agent::start();
    let spec = delay();
    let mut daemon = agent.node(vec![]).await;
    let mut centre = agent.connect(&spec).await;
    let start = centre.plan("r1", &spec).await;
    centre.ahead_ms = 61_000;
    centre.want(&start).await;
    let over = centre.until("r1", |o| o.phase == ClusterPhase::Finished).await;
    assert_eq!(over.outcome, Some(Outcome::Missed));
    let kept = agent.memory.snapshot().records.into_values().next().unwrap();
    assert_eq!(kept.state, RecordState::Finished);
    // Nothing but heartbeats and halts ever went to the daemon.
    while let Ok(message) = daemon.down.try_recv() {
        assert!(matches!(message, proto::wire::NodeDown::Halts { .. }), "{message:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn stop_reverts_and_is_absorbing() {
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
    daemon.say(word(&inject.injection, InjectionPhase::Injected, None)).await;
    centre.until("r1", |o| o.counts.active == 1).await;

    let mut stop = start.clone();
    (stop.generation, stop.intent) = (1, Intent::Stop); // no generation check
    centre.want(&stop).await;
    assert_eq!(daemon.revert().await, (inject.injection.id.to_string(), "Stopped".to_owned()));
    daemon.say(word(&inject.injection, InjectionPhase::Reverted, Some(EndReason::Stopped))).await;
    let over = centre.until("r1", |o| o.phase == ClusterPhase::Finished).await;
    assert_eq!((over.outcome, over.residue), (Some(Outcome::Aborted), Residue::Clean));

    let mut again = start.clone();
    again.generation = 9;
    centre.want(&again).await;
    let same = centre.until("r1", |o| o.generation == 9).await;
    assert_eq!((same.phase, same.outcome), (ClusterPhase::Finished, Some(Outcome::Aborted)));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_watches_and_never_starts_again() {
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
    let active = word(&inject.injection, InjectionPhase::Injected, None);
    daemon.say(active.clone()).await;
    centre.until("r1", |o| o.counts.active == 1).await;

    let active_since = active.injected_at_unix_ms;
    let agent = agent.restart().await;
    let mut daemon = agent.node(vec![active]).await;
    daemon.beat(&mut beats);
    let mut centre = agent.connect(&spec).await;
    centre.want(&start).await;
    let watched = centre.until("r1", |o| o.counts.active == 1).await;
    let made_at = watched.injected_at.map(jiff::Timestamp::as_millisecond);
    assert_eq!(made_at, active_since, "when it was made, not when the successor learnt of it");
    daemon.say(word(&inject.injection, InjectionPhase::Reverted, Some(EndReason::Deadline))).await;
    let over = centre.until("r1", |o| o.phase == ClusterPhase::Finished).await;
    assert_eq!((over.outcome, over.residue), (Some(Outcome::Completed), Residue::Clean));
    while let Ok(message) = daemon.down.try_recv() {
        assert!(!matches!(message, proto::wire::NodeDown::Inject(_)), "{message:?}");
    }
}

/// The agent dies, its successor never reaches the centre: what a lost link means is in the record.
#[tokio::test(start_paused = true)]
async fn a_restarted_agent_without_a_centre_ends_or_keeps_a_fault_as_its_spec_says() {
    for action in ["Revert", "RunToDeadline"] {
        let agent = Agent::start();
        let mut spec = spec(&json!({ "for": "4m", "network": { "delay": { "latency": "200ms" } } }));
        spec["limits"] = json!({ "onLinkLoss": { "after": "20s", "do": action } });
        let mut daemon = agent.node(vec![]).await;
        let mut beats = JoinSet::new();
        daemon.beat(&mut beats);
        let mut centre = agent.connect(&spec).await;
        let start = centre.plan("r1", &spec).await;
        centre.want(&start).await;
        centre.until("r1", |o| o.phase >= ClusterPhase::Running).await;
        let inject = daemon.inject().await;
        let active = word(&inject.injection, InjectionPhase::Injected, None);
        daemon.say(active.clone()).await;
        centre.until("r1", |o| o.counts.active == 1).await;
        drop(centre);

        let agent = agent.restart().await;
        let restarted = Instant::now();
        let mut daemon = agent.node(vec![active]).await;
        daemon.beat(&mut beats);
        let (_, reason) = timeout(PATIENCE, daemon.revert()).await.expect("it is taken away");
        let after = restarted.elapsed().as_secs();
        match action {
            "Revert" => {
                assert_eq!((reason.as_str(), (20..=22).contains(&after)), ("LinkLost", true), "{after} s");
            }
            // The daemon of this test ends nothing by itself: it is told, once its time is over.
            _ => assert_eq!((reason.as_str(), (239..=250).contains(&after)), ("Deadline", true), "{after} s"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pod_kill_is_read_back_from_the_inventory() {
    let agent = Agent::start();
    let spec = spec(&json!({ "pod": { "kill": {} } }));
    let mut centre = agent.connect(&spec).await;
    let start = centre.plan("r1", &spec).await;
    centre.want(&start).await;
    let over = centre.until("r1", |o| o.phase == ClusterPhase::Finished).await;
    assert_eq!(over.outcome, Some(Outcome::Completed), "{over:?}");
    assert_eq!((over.counts.injected, over.counts.reverted), (1, 1));
    assert_eq!(agent.memory.snapshot().deleted.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_dialled_again_and_what_was_not_acknowledged_is_said_again() {
    let agent = Agent::start();
    let spec = delay();
    let _daemon = agent.node(vec![]).await;
    let mut centre = agent.connect(&spec).await;
    let desired = super::fixture::desired("r1", &spec);
    centre.want(&desired).await;
    // The plan is said but never acknowledged, and no heartbeat is answered.
    loop {
        match centre.next().await {
            Up::SpecRequest { hash } => {
                let body = serde_json::to_vec(&spec).unwrap();
                centre.down.send(Down::Spec { hash, body }).await.unwrap();
            }
            Up::Observed { observed, .. } if observed.phase == ClusterPhase::Planned => break,
            _ => {}
        }
    }
    let mut again = agent.connect(&spec).await;
    let planned = again.until("r1", |o| o.phase == ClusterPhase::Planned).await;
    assert!(planned.plan.is_some());
    // The old session was given up for want of heartbeats.
    while centre.up.recv().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_halt_object_ends_what_runs_and_is_told_to_the_daemon() {
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
    daemon.say(word(&inject.injection, InjectionPhase::Injected, None)).await;
    centre.until("r1", |o| o.counts.active == 1).await;
    let at = super::fixture::PausedClock::wall_at_zero();
    let halt = LocalHalt { name: "stop".into(), reason: "enough".into(), namespace: None, at };
    agent.memory.set_local_halts(vec![halt]);
    let mut told = false;
    loop {
        match daemon.next().await {
            NodeDown::Halts { halts, .. } => told |= halts.iter().any(|h| h.reason == "enough"),
            NodeDown::Revert { reason, .. } => {
                assert_eq!(reason, "Halted");
                break;
            }
            _ => {}
        }
    }
    assert!(told);
    assert_eq!(agent.memory.snapshot().halt_levels.get("stop"), Some(&HaltLevel::Latched));
    daemon.say(word(&inject.injection, InjectionPhase::Reverted, Some(EndReason::Halted))).await;
    let over = centre.until("r1", |o| o.phase == ClusterPhase::Finished).await;
    assert_eq!((over.outcome, over.residue), (Some(Outcome::Halted), Residue::Clean));
    while agent.memory.snapshot().halt_levels.get("stop") != Some(&HaltLevel::Clean) {
        centre.serve().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_while_the_record_cannot_be_written() {
    let agent = Agent::start();
    let spec = delay();
    let mut daemon = agent.node(vec![]).await;
    let mut beats = JoinSet::new();
    daemon.beat(&mut beats);
    let mut centre = agent.connect(&spec).await;
    let start = centre.plan("r1", &spec).await;
    agent.memory.break_method("put");
    centre.want(&start).await;
    let over = centre.until("r1", |o| o.phase == ClusterPhase::Finished).await;
    assert_eq!(over.outcome, Some(Outcome::Missed), "{over:?}");
    while let Ok(message) = daemon.down.try_recv() {
        assert!(!matches!(message, NodeDown::Inject(_)), "{message:?}");
    }
}
