//! One situation each.

use proto::assignment::{ClusterPhase, Intent, Outcome, Residue, StopReason, Verdict};
use proto::halt::{Halt, HaltScope};
use proto::status::RunPhase;
use serde_json::json;

use super::super::object::{Object, ObjectKey};
use super::super::{Effect, Event, step};
use super::{World, at, cluster, run_id, spec};

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

/// It is listed until its cluster reads back clean, or a person deletes the run.
#[test]
fn time_alone_does_not_clear_what_is_dirty() {
    const TTL_S: i64 = 168 * 3600;
    let listed = |world: &World| world.state.runs.get(&run_id()).is_some_and(|run| run.record.is_some());
    let mut world = dispatched();
    world.observe_left("west", ClusterPhase::Finished, Some(Outcome::Failed), Residue::Dirty);
    world.pass(TTL_S + 1);
    assert!(listed(&world) && world.summary().residue == Residue::Dirty);
    world.observe("west", ClusterPhase::Finished, Some(Outcome::Failed));
    assert!(!listed(&world), "the time to live of a clean run is over");
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
    // Labels that no member has.
    let mut world = World::new();
    world.member("west");
    world.grant();
    let mut nowhere = spec(&[]);
    nowhere["clusters"] = json!({ "labelSelector": { "matchLabels": { "network": "none" } } });
    world.run_of(&nowhere, |_| {});
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
fn a_halt_file_stops_a_node_and_not_its_cluster() {
    for (id, covered) in [("c-west.node-n1", false), ("c-west.object-node-n1-0a1b2c3d", true)] {
        let mut world = dispatched();
        world.put(Object::Halt(Halt {
            id: id.parse().unwrap(),
            scope: HaltScope::Cluster { cluster: cluster("west") },
            reason: String::new(),
            by: "node n1".to_owned(),
            at: world.now,
            origin: Some(cluster("west")),
        }));
        world.put(Object::HaltsRevision);
        let expected = if covered { Intent::Stop } else { Intent::Start };
        assert_eq!(world.intent("west"), Some(expected), "{id}");
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

/// The run is planned, and nobody leads until the given seconds after the question.
fn led_again_after(seconds: i64) -> World {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run(&["west"]);
    world.feed(Event::Leading(false));
    world.plan("west", 2);
    world.pass(seconds);
    world.feed(Event::Leading(true));
    world
}

#[test]
fn an_expired_plan_is_never_dispatched() {
    let ttl = proto::plan::PLAN_TTL_MS / 1000;
    let world = led_again_after(ttl - 1);
    let start = world.desired("west").unwrap();
    assert_eq!((start.intent, start.plan_expires), (Intent::Start, Some(at(ttl))), "the start says it, too");
    assert_eq!(world.summary().plan_expires, Some(at(ttl)));
    let world = led_again_after(ttl);
    let summary = world.summary();
    assert_eq!((summary.phase, summary.outcome), (RunPhase::Finished, Some(Outcome::Missed)));
    assert_eq!(summary.reason, "PlanExpired");
    assert!(world.written.iter().all(|(_, desired)| desired.intent != Intent::Start));
}

/// Given up, heard of again, and away again: the summary of a finished run follows.
#[test]
fn a_run_that_was_given_up_still_says_what_is_unknown() {
    let mut world = dispatched();
    world.pass(120 + 60 + 31);
    assert_eq!(world.summary().phase, RunPhase::Finished);
    world.observe("west", ClusterPhase::Running, None);
    assert_eq!(world.summary().residue, Residue::Clean, "connected, and nothing is said of any residue");
    world.disconnect("west");
    assert_eq!((world.summary().residue, world.summary().clusters.unknown), (Residue::Unknown, 1));
}

/// The first transaction took place, then nobody led: the rest of the clusters is missed, and the run says so.
#[test]
fn clusters_that_were_not_told_to_start_in_time_are_missed() {
    for (start_within, seconds, reason) in [("2m", 120, "TooLate"), ("1h", 900, "PlanExpired")] {
        let names: Vec<String> = (0..30).map(|n| format!("n{n:02}")).collect();
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
        let mut spec = super::spec(&names);
        spec["limits"]["startWithin"] = json!(start_within);
        spec["limits"]["runDeadline"] = json!("2h");
        world.run_of(&spec, |_| {});
        for name in &names[1..] {
            world.plan(name, 0);
        }
        world.commits_left = Some(1);
        world.plan(names[0], 0);
        world.commits_left = None;
        assert_eq!(world.intent(names[24]), Some(Intent::Start));
        assert_eq!(world.intent(names[25]), Some(Intent::Plan));
        world.pass(seconds);
        for name in &names[..25] {
            world.observe(name, ClusterPhase::Finished, Some(Outcome::Completed));
        }
        for _ in 0..2 {
            let summary = world.summary();
            assert_eq!((summary.phase, summary.outcome), (RunPhase::Finished, Some(Outcome::Missed)));
            assert_eq!((summary.clusters.completed, summary.clusters.missed), (25, 5));
            assert_eq!(summary.reason, reason);
            // Forgetting them changes no word.
            world.pass(60);
            assert!(names.iter().all(|name| world.intent(name) == Some(Intent::Forget)));
        }
    }
}

#[test]
fn a_cluster_without_a_pod_says_nothing_about_the_others() {
    let mut world = World::new();
    world.member("west");
    world.member("east");
    world.grant();
    world.run(&["west", "east"]);
    world.plan("west", 2);
    world.plan("east", 0);
    world.observe_as("east", |observed| {
        observed.reason = proto::assignment::NOTHING_TO_HIT.to_owned();
        observed.verdict = Verdict::NotMeasured;
    });
    assert_ne!(world.summary().phase, RunPhase::Finished);
    world.observe_as("west", |observed| observed.verdict = Verdict::Held);
    let summary = world.summary();
    assert_eq!((summary.outcome, summary.verdict), (Some(Outcome::Completed), Verdict::Held));
    assert_eq!(summary.reason, "", "west's word");
    // Nothing anywhere: completed, and nothing learnt.
    let mut world = dispatched();
    world.observe_as("west", |observed| observed.reason = proto::assignment::NOTHING_TO_HIT.to_owned());
    let summary = world.summary();
    assert_eq!((summary.outcome, summary.verdict), (Some(Outcome::Completed), Verdict::NotMeasured));
    assert_eq!(summary.reason, "NothingToHit");
}

/// The link is cut after planning: the start is written all the same, bound in time, and given up when nothing is
/// heard.
#[test]
fn a_cut_between_plan_and_dispatch_leaves_a_start_that_ends_by_itself() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run(&["west"]);
    world.feed(Event::Leading(false));
    world.plan("west", 2);
    world.disconnect("west");
    world.feed(Event::Leading(true));
    assert_eq!(world.desired("west").unwrap().start_before, Some(at(120)));
    // Back too late: it says so itself.
    world.pass(130);
    world.connect("west");
    world.observe("west", ClusterPhase::Finished, Some(Outcome::Missed));
    let summary = world.summary();
    assert_eq!((summary.outcome, summary.residue), (Some(Outcome::Missed), Residue::Clean));
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
fn what_a_run_or_a_member_needs_is_not_forgotten() {
    use crate::engine::prune::{resumption_is_unused, spec_is_unused, tombstone_is_unused};
    let mut world = dispatched();
    let hash = world.state.runs[&run_id()].record.as_ref().unwrap().value.spec_hash.clone();
    assert!(!spec_is_unused(&world.state, &hash) && spec_is_unused(&world.state, "another"));
    assert!(!tombstone_is_unused(&world.state, &run_id()));
    assert!(tombstone_is_unused(&world.state, &"run-2".parse().unwrap()));
    let halt = "h".parse().unwrap();
    assert!(resumption_is_unused(&world.state, &halt));
    let status = serde_json::from_value(serde_json::json!({ "halts": { "h": "Latched" } })).unwrap();
    world.put(Object::ClusterStatus(cluster("west"), Box::new(status)));
    assert!(!resumption_is_unused(&world.state, &halt));
    // Half a run is known: it may need anything.
    world.delete(ObjectKey::Run(run_id()));
    assert!(!spec_is_unused(&world.state, "another"));
}

#[test]
fn the_spec_of_these_tests_is_valid() {
    let spec = super::spec(&["west"]);
    proto::validate::experiment(&spec).unwrap();
    serde_json::from_str::<proto::experiment::ExperimentSpec>(&spec.to_string()).unwrap();
}

#[test]
fn a_question_that_cannot_be_read_ends_the_run_and_leaves_with_it() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    let key = ObjectKey::Desired(cluster("west"), run_id());
    world.revision += 1;
    // Something stands there, whatever it is.
    world.objects.insert(key.clone(), (Object::HaltsRevision, world.revision));
    world.feed(Event::Unreadable(key.clone()));
    world.run(&["west"]);
    denied(&world, proto::plan::refusal::CLUSTER_UNAVAILABLE);
    assert!(world.summary().message.contains("cannot be read"), "{:?}", world.summary());
    assert_eq!(world.conflicts, 0);
    world.pass(8 * 24 * 3600);
    assert!(!world.state.runs.contains_key(&run_id()) && !world.objects.contains_key(&key));
    assert!(world.state.unreadable.is_empty());
}

#[test]
fn a_start_that_cannot_be_read_any_more_is_unknown_and_not_nothing() {
    let mut world = dispatched();
    let key = ObjectKey::Desired(cluster("west"), run_id());
    world.revision += 1;
    world.objects.insert(key.clone(), (Object::HaltsRevision, world.revision));
    world.feed(Event::Unreadable(key));
    world.stop();
    assert_eq!(world.summary().residue, Residue::Unknown, "{:?}", world.summary());
    assert!(!world.summary().message.contains("before anything started"), "{:?}", world.summary());
}
