//! What a decision wrote comes back key by key, over several watches: nothing is decided on half of it, and nothing
//! waits for long.

use proto::assignment::Intent;
use proto::run::StopRequest;

use super::super::object::{Object, ObjectKey};
use super::super::{Commit, Effect, Event, RETRY_MS, later, step};
use super::{World, cluster, run_id};

/// A run that is to be planned: its first decision, not committed yet.
fn asking() -> (World, Commit) {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.commits_left = Some(0);
    world.run(&["west"]);
    let commit = world.commits.pop().unwrap();
    assert!(commit.put.iter().any(|object| matches!(object, Object::Desired(..))));
    // As if the store had not answered yet.
    let run = world.state.runs.get_mut(&run_id()).unwrap();
    (run.in_flight, run.writes) = (true, commit.put.iter().map(Object::key).collect());
    world.commits.clear();
    (world, commit)
}

fn decisions(world: &mut World, event: Event) -> usize {
    step(&mut world.state, event, world.now).len()
}

fn stored(commit: &Commit, wanted: fn(&Object) -> bool) -> Event {
    let object = commit.put.iter().find(|object| wanted(object)).unwrap().clone();
    Event::Stored(Box::new(object), 100)
}

#[test]
fn half_of_a_decision_is_no_ground_for_the_next() {
    let (mut world, commit) = asking();
    let summary = stored(&commit, |object| matches!(object, Object::Summary(_)));
    assert_eq!(decisions(&mut world, Event::Committed(run_id(), Some(100))), 0);
    assert_eq!(decisions(&mut world, summary), 0, "the question itself is still to come");
    let desired = stored(&commit, |object| matches!(object, Object::Desired(..)));
    assert_eq!(decisions(&mut world, desired), 0, "now it is asked, and the answer is waited for");
    assert_eq!(world.intent("west"), Some(Intent::Plan));
    world.plan("west", 2);
    assert_eq!(world.commits.len(), 1, "and goes on with it");
}

#[test]
fn what_never_comes_back_is_waited_for_a_moment_only() {
    let (mut world, commit) = asking();
    let summary = stored(&commit, |object| matches!(object, Object::Summary(_)));
    decisions(&mut world, Event::Committed(run_id(), Some(100)));
    assert_eq!(decisions(&mut world, summary), 0);
    let wake = world.state.runs[&run_id()].wake_at.unwrap();
    assert_eq!(wake.duration_since(world.now).as_millis(), i128::from(RETRY_MS));
    // Somebody deleted it behind a compaction: it is asked again.
    world.now = wake;
    assert_eq!(decisions(&mut world, Event::Tick), 1);
}

#[test]
fn a_decision_that_lost_to_a_known_change_is_made_again_at_once() {
    let (mut world, _) = asking();
    assert_eq!(decisions(&mut world, Event::Committed(run_id(), None)), 0, "nothing is known: later");
    assert!(world.state.runs[&run_id()].wake_at.is_some());

    let (mut world, _) = asking();
    let mut record = world.record();
    record.stop = Some(StopRequest {
        reason: proto::assignment::StopReason::Requested,
        by: "ann".to_owned(),
        at: world.now,
    });
    assert_eq!(decisions(&mut world, Event::Stored(Box::new(Object::Run(Box::new(record))), 99)), 0);
    let Effect::Commit(commit) =
        step(&mut world.state, Event::Committed(run_id(), None), world.now).remove(0);
    assert!(commit.put.iter().all(|object| object.key() != ObjectKey::Desired(cluster("west"), run_id())));
}

#[test]
fn a_clock_that_was_set_back_does_not_make_the_wait_longer() {
    let (mut world, commit) = asking();
    let summary = stored(&commit, |object| matches!(object, Object::Summary(_)));
    decisions(&mut world, Event::Committed(run_id(), Some(100)));
    assert_eq!(decisions(&mut world, summary), 0);
    world.now = later(world.now, -3_600_000).unwrap();
    let record = Object::Run(Box::new(world.record()));
    assert_eq!(decisions(&mut world, Event::Stored(Box::new(record), 101)), 1);
}

#[test]
fn a_stop_on_half_a_dispatch_waits_for_what_was_started() {
    let mut world = World::new();
    world.member("west");
    world.grant();
    world.run(&["west"]);
    let asked = world.state.runs[&run_id()].desired[&cluster("west")].revision;
    world.commits_left = Some(0);
    world.plan("west", 2);
    let dispatch = world.commits.pop().unwrap();
    let run = world.state.runs.get_mut(&run_id()).unwrap();
    (run.in_flight, run.writes) = (true, dispatch.put.iter().map(Object::key).collect());
    decisions(&mut world, Event::Committed(run_id(), Some(100)));
    decisions(&mut world, stored(&dispatch, |object| matches!(object, Object::Summary(_))));
    let mut record = world.record();
    record.stop = Some(StopRequest {
        reason: proto::assignment::StopReason::Requested,
        by: "ann".to_owned(),
        at: world.now,
    });
    assert_eq!(decisions(&mut world, Event::Stored(Box::new(Object::Run(Box::new(record))), 101)), 0);
    // However often: the Start stands in the store at another revision, so each of these is lost.
    for _ in 0..3 {
        world.now = later(world.now, RETRY_MS).unwrap();
        let Effect::Commit(commit) = step(&mut world.state, Event::Tick, world.now).remove(0);
        let start = (ObjectKey::Desired(cluster("west"), run_id()), asked);
        assert!(commit.compare.contains(&start), "{commit:#?}");
        assert_eq!(decisions(&mut world, Event::Committed(run_id(), None)), 0);
    }
    let start = stored(&dispatch, |object| matches!(object, Object::Desired(..)));
    let Effect::Commit(commit) = step(&mut world.state, start, world.now).remove(0);
    let stops = |object: &Object| matches!(object, Object::Desired(_, told) if told.intent == Intent::Stop);
    assert!(commit.put.iter().any(stops), "{commit:#?}");
}
