//! What costs time between an order and its effect: how often the record is written, how often a run is said.

use proto::assignment::{ClusterPhase, Intent};
use proto::injection::InjectionPhase;
use serde_json::{Value, json};

use super::world::{NODE, World, delay};
use crate::cluster::RecordState;
use crate::engine::{Effect, Event};

fn started(world: &World) -> Vec<bool> {
    let written = world.log.iter().filter_map(|effect| match effect {
        Effect::PersistRecord { record, .. } if record.state == RecordState::Started => Some(record),
        _ => None,
    });
    written.map(|record| record.started_at.is_some()).collect()
}

/// Up to where the start's record is asked for and not yet durable.
fn asked(spec: Value) -> World {
    let mut world = World::new(spec);
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    world.want("r1", Intent::Plan, 0);
    world.settle();
    world.want("r1", Intent::Start, 60_000);
    assert!(world.answer_clocks(0) && world.held.is_empty());
    world
}

#[test]
fn without_a_baseline_one_record_names_the_start() {
    let mut world = asked(delay());
    world.pass(40);
    world.settle();
    assert_eq!(started(&world), [true]);
    assert_eq!(world.held.len(), 2);
    let began = world.records[&"r1".parse().unwrap()].started_at;
    assert_eq!(world.run("r1").started_at, began, "what is said is what is on record");
}

#[test]
fn a_record_that_took_long_names_no_start_of_long_ago() {
    let mut world = asked(delay());
    let before = world.now().wall;
    world.pass(20_000);
    world.settle();
    assert_eq!(started(&world), [true, true]);
    let began = world.run("r1").started_at.unwrap();
    assert_eq!(began.as_millisecond() - before.as_millisecond(), 20_000, "its faults last as long as ever");
}

#[test]
fn with_a_baseline_the_start_is_not_known_before_it() {
    let mut spec = delay();
    spec["steadyState"] = json!([{
        "name": "answers", "http": { "url": "http://payments.shop:8080/" }, "when": ["Before"],
    }]);
    let mut world = asked(spec);
    world.settle();
    assert_eq!(started(&world), [false]);
    assert_eq!(world.run("r1").phase, ClusterPhase::Baseline);
}

#[test]
fn what_is_stopped_before_its_record_is_durable_has_not_begun() {
    let mut world = asked(delay());
    world.want("r1", Intent::Stop, 0);
    world.settle();
    let run = world.run("r1");
    assert_eq!((run.phase, run.started_at, world.held.len()), (ClusterPhase::Finished, None, 0));
    assert_eq!(world.records[&"r1".parse().unwrap()].started_at, None);
}

#[test]
fn faults_on_their_way_are_said_together_and_the_last_one_at_once() {
    let mut world = asked(delay());
    world.settle();
    let report = |world: &mut World, nth: usize, phase: InjectionPhase| {
        let mut status = world.held.values().nth(nth).unwrap().0.clone();
        (status.phase, status.injected_at_unix_ms) = (phase, Some(world.now().wall.as_millisecond()));
        let effects = world.take(Event::NodeState { node: NODE.into(), status: Box::new(status) });
        effects.iter().filter(|effect| matches!(effect, Effect::SendObserved(_))).count()
    };
    assert_eq!(report(&mut world, 0, InjectionPhase::Injected), 0, "the other one is still being made");
    let due = world.state.wake_at().unwrap() - world.now().boottime_ms;
    assert!((1..=100).contains(&due), "it is not forgotten: {due}");
    world.pass(due);
    assert_eq!(world.run("r1").counts.injected, 1);
    assert_eq!(report(&mut world, 1, InjectionPhase::Injected), 1, "the last one is waited for");
    assert_eq!(world.run("r1").counts.injected, 2);

    let mut world = asked(delay());
    world.settle();
    assert_eq!(report(&mut world, 0, InjectionPhase::Failed), 1, "what goes wrong is said at once");
}
