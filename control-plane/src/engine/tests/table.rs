//! One situation each.

use proto::assignment::{ClusterPhase, Intent, Outcome, Residue, StopReason};
use proto::halt::HaltScope;
use proto::status::RunPhase;
use serde_json::json;

use super::super::object::{Object, ObjectKey};
use super::super::{Effect, Event, step};
use super::{World, at, cluster, run_id};

fn dispatched() -> World {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run(&["west"]);
    world.plan("west", 2);
    assert_eq!(world.intent("west"), Some(Intent::Start));
    world
}

fn denied(world: &World, code: &str) {
    let summary = world.summary();
    assert_eq!((summary.phase, summary.outcome), (RunPhase::Finished, Some(Outcome::Denied)), "{summary:#?}");
    assert_eq!(summary.reason, code, "{summary:#?}");
    assert!(world.written.iter().all(|(_, desired)| desired.intent != Intent::Start));
}

#[test]
fn plan_start_finish_forget() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run(&["west"]);
    assert_eq!(world.intent("west"), Some(Intent::Plan));
    world.plan("west", 2);
    let start = world.desired("west").unwrap();
    assert_eq!((start.intent, start.generation), (Intent::Start, 2));
    assert_eq!(start.start_before, Some(at(120)));
    assert_eq!(start.run_deadline, Some(at(600)));
    assert_eq!(world.summary().phase, RunPhase::Dispatching);
    world.observe("west", ClusterPhase::Accepted, None);
    assert_eq!(world.summary().phase, RunPhase::Running);
    world.observe("west", ClusterPhase::Reverting, None);
    assert_eq!(world.summary().phase, RunPhase::Reverting);
    world.observe("west", ClusterPhase::Finished, Some(Outcome::Completed));
    assert_eq!(world.summary().phase, RunPhase::Finished);
    assert_eq!(world.summary().outcome, Some(Outcome::Completed));
    assert_eq!(world.intent("west"), Some(Intent::Forget));
    assert_eq!(world.conflicts, 0);
}

/// A finished run whose node is away stays known to its agent, so that the node's word can still clear it.
#[test]
fn what_is_unknown_is_not_forgotten_until_it_is_clean() {
    let mut world = dispatched();
    for residue in [Residue::Unknown, Residue::Dirty] {
        world.observe_left("west", ClusterPhase::Finished, Some(Outcome::Failed), residue);
        let summary = world.summary();
        assert_eq!((summary.phase, summary.residue), (RunPhase::Finished, residue));
        assert_eq!(world.intent("west"), Some(Intent::Start));
    }
    world.observe("west", ClusterPhase::Finished, Some(Outcome::Failed));
    assert_eq!(world.summary().residue, Residue::Clean);
    assert_eq!(world.intent("west"), Some(Intent::Forget));
}

#[test]
fn the_dispatch_compares_everything_it_was_decided_on() {
    let world = dispatched();
    let dispatch = world
        .commits
        .iter()
        .find(|commit| {
            commit.put.iter().any(|o| matches!(o, Object::Desired(_, d) if d.intent == Intent::Start))
        })
        .unwrap();
    let compared = |key: &ObjectKey| dispatch.compare.iter().any(|(compared, _)| compared == key);
    for key in [
        ObjectKey::Run(run_id()),
        ObjectKey::Summary(run_id()),
        ObjectKey::Plan(run_id(), cluster("west")),
        ObjectKey::Desired(cluster("west"), run_id()),
        ObjectKey::ClusterSpec(cluster("west")),
        ObjectKey::Grant("g".to_owned()),
        ObjectKey::HaltsRevision,
    ] {
        assert!(compared(&key), "{key:?} is not compared");
    }
}

#[test]
fn a_halt_that_the_engine_has_not_seen_yet_makes_the_dispatch_fail() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run(&["west"]);
    // In the store, but its event is still on the way.
    world.revision += 1;
    world.objects.insert(ObjectKey::HaltsRevision, (Object::HaltsRevision, world.revision));
    world.plan("west", 2);
    assert_eq!((world.conflicts, world.intent("west")), (1, Some(Intent::Plan)));
    world.halt("h", HaltScope::Fleet);
    world.pass(1);
    denied(&world, "Halted");
}

#[test]
fn what_stands_in_the_way_denies() {
    // No Grant.
    let mut world = World::new();
    world.member("west");
    world.run(&["west"]);
    world.plan("west", 2);
    denied(&world, "NoGrant");
    // More than atMost.total over all clusters.
    let mut world = World::new();
    world.member("west");
    world.member("east");
    world.grant();
    world.run(&["west", "east"]);
    world.plan("west", 4);
    assert_eq!(world.summary().phase, RunPhase::Planning);
    world.plan("east", 3);
    denied(&world, "TooManyTargets");
    // A cluster that nobody knows.
    let mut world = World::new();
    world.grant();
    world.run(&["north"]);
    denied(&world, "NoClusters");
    // notAfter has passed.
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run_with(&["west"], |record| {
        record.spec.not_after = Some(at(-1).to_string());
    });
    denied(&world, "TooLate");
}

#[test]
fn a_cluster_that_does_not_answer_or_is_away_denies_after_a_while() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run(&["west"]);
    world.pass(19);
    assert_eq!(world.summary().phase, RunPhase::Planning);
    world.pass(2);
    denied(&world, "ClusterUnavailable");

    let mut world = World::new();
    world.member("west");
    world.disconnect("west");
    world.grant();
    world.run(&["west"]);
    assert_eq!(world.summary().phase, RunPhase::Planning);
    world.pass(6);
    denied(&world, "ClusterUnavailable");
}

#[test]
fn a_run_waits_for_its_experiment_but_not_for_ever() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run_with(&["west"], |record| record.spec_hash.clear());
    world.pass(29);
    assert_eq!(world.summary().phase, RunPhase::Planning);
    world.pass(2);
    denied(&world, "NoExperiment");
}

#[test]
fn not_after_bounds_the_start() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run_with(&["west"], |record| {
        record.spec.not_after = Some(at(30).to_string());
    });
    world.plan("west", 1);
    assert_eq!(world.desired("west").unwrap().start_before, Some(at(30)));
}

#[test]
fn a_stop_before_the_dispatch_ends_it_and_after_it_stops_every_cluster() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run(&["west"]);
    world.stop();
    world.plan("west", 1);
    let summary = world.summary();
    assert_eq!((summary.phase, summary.outcome), (RunPhase::Finished, Some(Outcome::Aborted)));
    assert_eq!(world.intent("west"), Some(Intent::Forget));

    let mut world = dispatched();
    world.observe("west", ClusterPhase::Running, None);
    world.stop();
    let stop = world.desired("west").unwrap();
    assert_eq!((stop.intent, stop.generation), (Intent::Stop, 3));
    assert_eq!(stop.stop_reason, Some(StopReason::Requested));
    assert_eq!(world.summary().phase, RunPhase::Running, "until it is read back");
    world.observe("west", ClusterPhase::Finished, Some(Outcome::Aborted));
    assert_eq!(world.summary().outcome, Some(Outcome::Aborted));
}

#[test]
fn a_halt_stops_what_it_covers_and_nothing_else() {
    for (scope, covered) in [
        (HaltScope::Fleet, true),
        (HaltScope::Cluster { cluster: cluster("west") }, true),
        (HaltScope::Cluster { cluster: cluster("east") }, false),
        (HaltScope::Namespace { cluster: cluster("west"), namespace: "shop".to_owned() }, true),
        (HaltScope::Namespace { cluster: cluster("west"), namespace: "other".to_owned() }, false),
    ] {
        let mut world = dispatched();
        world.halt("h", scope.clone());
        let expected = if covered { Intent::Stop } else { Intent::Start };
        assert_eq!(world.intent("west"), Some(expected), "{scope:?}");
    }
}

#[test]
fn the_run_deadline_stops_and_a_silent_cluster_is_given_up() {
    let mut world = dispatched();
    world.observe("west", ClusterPhase::Running, None);
    world.disconnect("west");
    let summary = world.summary();
    assert_eq!((summary.residue, summary.clusters.unknown), (Residue::Unknown, 1));
    assert_eq!(summary.residue_resolves_at, Some(at(60)));
    // clusterDeadline and the grace have passed.
    world.pass(91);
    let summary = world.summary();
    assert_eq!((summary.phase, summary.outcome), (RunPhase::Finished, Some(Outcome::Failed)));
    assert_eq!(summary.reason, "ClusterLost");
    assert_eq!(world.intent("west"), Some(Intent::Stop), "should it come back, it stops");
    // It comes back and tells how it really ended.
    world.connect("west");
    world.observe("west", ClusterPhase::Finished, Some(Outcome::Aborted));
    let summary = world.summary();
    assert_eq!((summary.outcome, summary.residue), (Some(Outcome::Aborted), Residue::Clean));
    assert_eq!(world.intent("west"), Some(Intent::Forget));
}

#[test]
fn the_worst_cluster_gives_the_outcome() {
    let mut world = World::new();
    world.member("west");
    world.member("east");
    world.grant();
    world.run(&["west", "east"]);
    world.plan("west", 2);
    world.plan("east", 2);
    world.observe("west", ClusterPhase::Finished, Some(Outcome::Completed));
    assert_ne!(world.summary().phase, RunPhase::Finished);
    world.observe("east", ClusterPhase::Finished, Some(Outcome::Missed));
    let summary = world.summary();
    assert_eq!((summary.phase, summary.outcome), (RunPhase::Finished, Some(Outcome::Missed)));
    assert_eq!((summary.clusters.completed, summary.clusters.missed), (1, 1));
}

#[test]
fn many_clusters_are_dispatched_in_bounded_transactions() {
    let names: Vec<String> = (0..60).map(|n| format!("n{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new();
    for name in &names {
        world.member(name);
    }
    let grant = json!({
        "from": { "operators": ["ann"] },
        "to": { "clusters": { "names": names }, "namespaces": ["*"], "kinds": ["*"], "maxTargets": 5 }
    });
    world.put(Object::Grant("g".to_owned(), serde_json::from_value(grant).unwrap()));
    world.run_with(&names, |_| {});
    for name in &names {
        world.plan(name, 0);
    }
    assert!(names.iter().all(|name| world.intent(name) == Some(Intent::Start)));
    assert!(world.commits.iter().all(|commit| commit.compare.len() < 100 && commit.put.len() < 100));
    let one_hash = world.state.runs[&run_id()].desired.values().map(|d| d.value.plan_hash.clone());
    assert_eq!(one_hash.collect::<std::collections::BTreeSet<_>>().len(), 1);
}

#[test]
fn a_finished_run_leaves_after_its_time() {
    let mut world = dispatched();
    world.observe("west", ClusterPhase::Finished, Some(Outcome::Completed));
    world.pass(167 * 3600);
    assert!(world.state.runs.contains_key(&run_id()));
    world.pass(2 * 3600);
    assert!(!world.state.runs.contains_key(&run_id()));
}

#[test]
fn only_a_leader_with_a_whole_world_decides() {
    for (leading, complete) in [(false, true), (true, false)] {
        let mut world = World::new();
        world.state.complete = complete;
        world.feed(Event::Leading(leading));
        world.member("west");
        world.grant();
        world.run(&["west"]);
        assert!(world.commits.is_empty());
    }
}

#[test]
fn the_same_event_twice_decides_once() {
    let mut world = dispatched();
    let record = world.state.runs[&run_id()].plans[&cluster("west")].clone();
    let event = Event::Stored(
        Box::new(Object::Plan(run_id(), cluster("west"), Box::new(record.value))),
        record.revision,
    );
    let now = world.now;
    assert_eq!(step(&mut world.state, event.clone(), now), Vec::<Effect>::new());
    assert_eq!(step(&mut world.state, event, now), Vec::<Effect>::new());
}

#[test]
fn the_spec_of_these_tests_is_valid() {
    let spec = super::spec(&["west"]);
    proto::validate::experiment(&spec).unwrap();
    serde_json::from_str::<proto::experiment::ExperimentSpec>(&spec.to_string()).unwrap();
}
