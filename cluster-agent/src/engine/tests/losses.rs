//! What gets lost in the middle of a run: the centre, the apiserver, the leadership, the agent itself, and what it
//! acts on. Every run ends, with words for what is known and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::assignment::{ClusterPhase, Intent, Outcome, Residue};
use proto::injection::{EndReason, InjectionPhase};
use proto::plan::refusal;
use serde_json::{Value, json};

use super::world::{NODE, World, delay, hello, inventory};
use crate::cluster::Inventory;
use crate::engine::{Effect, Event};

fn reverts(world: &World) -> usize {
    world.log.iter().filter(|e| matches!(e, Effect::Revert { .. })).count()
}

fn injects(world: &World) -> usize {
    world.log.iter().filter(|e| matches!(e, Effect::Inject { .. })).count()
}

/// A fault of four minutes with this rule for a lost link, running.
fn long(action: &str) -> World {
    let mut spec = delay();
    spec["faults"][0]["for"] = json!("4m");
    spec["limits"]["onLinkLoss"] = json!({ "after": "90s", "do": action });
    let mut world = World::new(spec);
    world.running("r1");
    world
}

#[test]
fn a_restarted_agent_without_a_centre_keeps_to_the_rule_of_the_spec() {
    for (action, outcome) in [("Revert", Outcome::Aborted), ("RunToDeadline", Outcome::Completed)] {
        let mut world = long(action);
        world.pass(10_000);
        world.take(Event::LinkDown);
        world.restart();
        world.node_up();
        world.log.clear();
        // The default would have ended it after 60 s.
        world.pass(89_999);
        assert_eq!(reverts(&world), 0, "{action}");
        world.pass(1);
        assert_eq!(reverts(&world) > 0, action == "Revert");
        world.daemon();
        world.pass(140_000);
        world.daemon();
        world.settle();
        let over = world.run("r1");
        assert_eq!(
            (over.outcome, over.residue),
            (Some(outcome), Residue::Clean),
            "{action}: {}",
            over.message
        );
        assert_eq!(injects(&world), 0);
    }
}

#[test]
fn a_restart_does_not_move_the_end_of_a_fault() {
    let mut world = long("RunToDeadline");
    let began = world.run("r1").started_at.expect("it runs").as_millisecond();
    world.pass(100_000);
    world.restart();
    let seen = world.run("r1");
    assert_eq!((seen.residue, seen.counts.unknown), (Residue::Unknown, 2));
    let by = seen.residue_resolves_at.expect("an instant").as_millisecond();
    assert_eq!(by - began, 240_000, "the fault's own end, not the cluster's deadline");
    // Its node never comes back: given up right after that end.
    world.pass(140_000);
    assert_ne!(world.run("r1").phase, ClusterPhase::Finished);
    world.pass(3_000);
    assert_eq!(world.run("r1").reason, "NodeLost");
}

#[test]
fn a_cut_between_plan_and_start_starts_in_time_or_is_missed() {
    for (away_ms, outcome) in
        [(59_000, None), (60_000, Some(Outcome::Missed)), (3_600_000, Some(Outcome::Missed))]
    {
        let mut world = World::new(delay());
        world.take(Event::LinkUp { accepted: true });
        world.node_up();
        world.want("r1", Intent::Plan, 0);
        world.settle();
        world.take(Event::LinkDown);
        // Dispatched meanwhile, and told with what is left of its time once the link is back.
        let mut start = world.desired("r1", Intent::Start);
        let bound = world.now().wall + jiff::SignedDuration::from_mins(1);
        start.start_before = Some(bound);
        world.start_before.insert(start.run.clone(), bound.as_millisecond().unsigned_abs());
        world.pass(away_ms);
        world.take(Event::LinkUp { accepted: true });
        let start_within_ms = 60_000_u64.saturating_sub(away_ms);
        world.take(Event::Desired { desired: Box::new(start), start_within_ms });
        world.settle();
        let said = world.run("r1");
        assert_eq!((said.outcome, world.held.is_empty()), (outcome, outcome.is_some()), "{away_ms}");
    }
}

#[test]
fn a_cut_between_start_and_clock_is_missed_without_any_link() {
    let mut world = World::new(delay());
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    world.want("r1", Intent::Plan, 0);
    world.settle();
    world.want("r1", Intent::Start, 60_000);
    let id = world.clocks.pop().expect("the clock is asked");
    world.take(Event::LinkDown);
    // An answer of the connection that is gone does not count.
    let centre_at = world.now().wall;
    world.take(Event::ClockReply { id, centre_at, rtt_ms: 1 });
    world.settle();
    assert!(world.held.is_empty());
    world.pass(60_000);
    let said = world.run("r1");
    assert_eq!((said.outcome, said.reason.as_str()), (Some(Outcome::Missed), refusal::TOO_LATE));
}

/// Two runs, one running, one planned; then something makes the agent stop-only.
fn stop_only(lose: impl Fn(&mut World)) -> World {
    let mut world = World::new(delay());
    world.running("r1");
    world.want("r2", Intent::Plan, 0);
    world.settle();
    lose(&mut world);
    world.want("r2", Intent::Start, 60_000);
    world.answer_clocks(0);
    let said = world.run("r2");
    assert_eq!((said.outcome, said.reason.as_str()), (Some(Outcome::Denied), refusal::STOP_ONLY));
    world.log.clear();
    world
}

fn no_apiserver(world: &mut World) {
    world.take(Event::Leadership { accepts_starts: false });
}

#[test]
fn without_an_apiserver_nothing_starts_and_a_stop_waits_for_no_record() {
    let mut world = stop_only(no_apiserver);
    world.want("r1", Intent::Stop, 0);
    assert_eq!(reverts(&world), 2, "although no record can be written");
    world.daemon();
    let over = world.run("r1");
    assert_eq!((over.outcome, over.residue), (Some(Outcome::Aborted), Residue::Clean));
    // Back again: the word that was not written is written, and nothing starts anew.
    world.take(Event::Leadership { accepts_starts: true });
    world.settle();
    assert_eq!(injects(&world), 0);
}

#[test]
fn without_an_apiserver_a_halt_reverts_and_is_latched_only_when_it_is_durable() {
    let mut world = stop_only(no_apiserver);
    world.halt("h1");
    assert_eq!(reverts(&world), 2);
    world.daemon();
    let latched = |world: &World| {
        world.log.iter().any(|e| matches!(e, Effect::SendHaltState(word) if !word.latched.is_empty()))
    };
    assert!(!latched(&world), "said before it was durable");
    world.settle();
    assert!(latched(&world));
    assert_eq!(world.run("r1").outcome, Some(Outcome::Halted));
}

#[test]
fn a_leader_that_was_followed_by_another_starts_nothing_and_still_stops() {
    let mut world = stop_only(|world| {
        let held = world.held.values().map(|(status, _)| status.clone()).collect();
        let hello = proto::wire::NodeHello { highest_epoch: 2, ..hello(held) };
        world.take(Event::NodeUp { node: NODE.into(), hello: Box::new(hello) });
    });
    world.want("r1", Intent::Stop, 0);
    assert_eq!(reverts(&world), 2);
}

/// The daemon's word on every injection, or on the first `count`.
fn all_become(world: &mut World, count: usize, phase: InjectionPhase, was_made: bool) {
    for (status, _) in world.held.values_mut().take(count) {
        (status.phase, status.reason) = (phase, Some(EndReason::TargetGone));
        if !was_made {
            status.injected_at_unix_ms = None;
        }
    }
    for status in world.held.values().map(|(s, _)| s.clone()).collect::<Vec<_>>() {
        world.take(Event::NodeState { node: NODE.into(), status: Box::new(status) });
    }
}

#[test]
fn pods_that_go_away_end_the_run_early_and_it_says_so() {
    let mut world = World::new(delay());
    world.running("r1");
    // The namespace is deleted: no pod is left, the daemon tells what became of the faults.
    world.take(Event::Inventory(Arc::new(Inventory { pods: BTreeMap::new(), ..inventory(0) })));
    assert_ne!(world.run("r1").phase, ClusterPhase::Finished, "the inventory alone says nothing of a fault");
    all_become(&mut world, 1, InjectionPhase::TargetGone, true);
    assert_ne!(world.run("r1").phase, ClusterPhase::Finished, "the other one lasts");
    all_become(&mut world, 2, InjectionPhase::TargetGone, true);
    world.settle();
    let over = world.run("r1").clone();
    assert_eq!((over.outcome, over.reason.as_str()), (Some(Outcome::Completed), "TargetGone"));
    assert!(over.message.starts_with("2 of 2 targets went away"), "{}", over.message);
    assert_eq!((over.residue, over.counts.reverted), (Residue::Clean, 2));
    world.want("r1", Intent::Forget, 0);
    assert!(world.records.is_empty(), "nothing keeps it");
}

#[test]
fn pods_that_were_gone_before_anything_was_made_are_no_success() {
    let mut world = World::new(delay());
    world.running("r1");
    all_become(&mut world, 2, InjectionPhase::TargetGone, false);
    let over = world.run("r1");
    assert_eq!((over.outcome, over.reason.as_str()), (Some(Outcome::Failed), "TargetGone"));
    assert_eq!(over.residue, Residue::Clean);
}

#[test]
fn pods_that_go_away_between_plan_and_start_deny_it() {
    let mut world = World::new(delay());
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    world.want("r1", Intent::Plan, 0);
    world.settle();
    world.take(Event::Inventory(Arc::new(inventory(0))));
    world.want("r1", Intent::Start, 60_000);
    world.settle();
    let over = world.run("r1");
    assert_eq!((over.outcome, over.reason.as_str()), (Some(Outcome::Denied), refusal::NO_TARGETS));
}

/// The node is deleted: it and its pods leave the inventory, its daemon is never heard of again.
#[test]
fn a_deleted_node_is_unknown_until_its_faults_have_ended_and_blocks_nothing_after() {
    let gone = || Inventory { nodes: BTreeMap::new(), pods: BTreeMap::new(), ..inventory(0) };
    // While it runs, or only after the run was given up.
    for at_once in [true, false] {
        let mut world = World::new(delay());
        world.running("r1");
        world.take(Event::NodeDown { node: NODE.into() });
        if at_once {
            world.take(Event::Inventory(Arc::new(gone())));
        }
        world.pass(20_000);
        assert_eq!(world.run("r1").residue, Residue::Unknown, "its machine may still be there");
        world.pass(15_000);
        world.settle();
        let said = world.run("r1");
        assert_eq!(said.phase, ClusterPhase::Finished);
        let words = (said.outcome, said.reason.as_str(), said.residue);
        if at_once {
            assert_eq!(words, (Some(Outcome::Completed), "TargetGone", Residue::Clean));
        } else {
            assert_eq!(words, (Some(Outcome::Failed), "NodeLost", Residue::Unknown), "it may come back");
            world.take(Event::Inventory(Arc::new(gone())));
            assert_eq!(world.run("r1").residue, Residue::Clean);
        }
        world.want("r1", Intent::Forget, 0);
        assert!(world.records.is_empty() && world.state.runs.is_empty());
    }
}

/// As before, but it is the next leader that finds out.
#[test]
fn a_node_that_was_deleted_while_no_agent_led_blocks_nothing() {
    let mut world = World::new(delay());
    world.running("r1");
    world.restart();
    world.take(Event::LinkUp { accepted: true });
    let gone = Inventory { nodes: BTreeMap::new(), pods: BTreeMap::new(), ..inventory(0) };
    world.take(Event::Inventory(Arc::new(gone)));
    world.pass(40_000);
    world.settle();
    let said = world.run("r1");
    assert_eq!((said.phase, said.residue), (ClusterPhase::Finished, Residue::Clean), "{}", said.message);
}

/// Nobody can look any more: it is listed until a person deletes the run, which the centre's list then lacks.
#[test]
fn what_is_dirty_on_a_deleted_node_is_listed_until_the_run_is_deleted() {
    let mut world = World::new(delay());
    world.running("r1");
    for (status, _) in world.held.values_mut() {
        status.phase = InjectionPhase::Residue;
    }
    world.node_up();
    world.settle();
    world.take(Event::NodeDown { node: NODE.into() });
    let gone = Inventory { nodes: BTreeMap::new(), pods: BTreeMap::new(), ..inventory(0) };
    world.take(Event::Inventory(Arc::new(gone)));
    world.pass(8 * 24 * 3600 * 1000);
    world.settle();
    let said = world.run("r1");
    assert_eq!((said.phase, said.residue), (ClusterPhase::Finished, Residue::Dirty));
    world.take(Event::DesiredList(vec!["r1".parse().unwrap()]));
    assert_eq!(world.records.len(), 1);
    world.take(Event::DesiredList(vec![]));
    assert!(world.state.runs.is_empty() && world.records.is_empty());
}

fn kill() -> Value {
    let mut spec = delay();
    spec["faults"][0] = json!({ "name": "kill", "target": "payments", "pod": { "kill": {} } });
    spec
}

#[test]
fn a_pod_that_was_gone_before_it_was_killed_was_not_killed() {
    use crate::cluster::PodDeletion;
    for (answer, outcome) in
        [(PodDeletion::Gone, Outcome::Failed), (PodDeletion::Accepted, Outcome::Completed)]
    {
        let mut world = World::new(kill());
        world.running("r1");
        let asked: Vec<_> = world
            .log
            .iter()
            .filter_map(|e| match e {
                Effect::KillPod { run, injection, .. } => Some((run.clone(), injection.clone())),
                _ => None,
            })
            .collect();
        assert_eq!(asked.len(), 2);
        for (run, injection) in asked {
            world.take(Event::PodKilled { run, injection, result: Ok(answer) });
        }
        world.take(Event::Inventory(Arc::new(inventory(0))));
        let over = world.run("r1");
        assert_eq!(
            (over.outcome, over.residue),
            (Some(outcome), Residue::Clean),
            "{answer:?}: {}",
            over.message
        );
    }
}
