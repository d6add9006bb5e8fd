//! What holds whatever happens, in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::assignment::{ClusterPhase, Intent, Outcome};
use proto::halt::HaltScope;
use proto::status::RunPhase;

use super::super::object::ObjectKey;
use super::super::{Event, step};
use super::{World, run_id};

#[derive(Debug, Clone)]
enum Happening {
    Plan(bool, u32),
    Observe(bool, u8),
    Stop,
    Halt,
    Grant,
    Ungrant,
    Connect(bool),
    Disconnect(bool),
    Pass(i64),
    Depose,
    Lead,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        3 => (any::<bool>(), 0u32..5).prop_map(|(c, n)| Plan(c, n)),
        4 => (any::<bool>(), 0u8..8).prop_map(|(c, p)| Observe(c, p)),
        1 => Just(Stop),
        1 => Just(Halt),
        2 => Just(Grant),
        1 => Just(Ungrant),
        2 => any::<bool>().prop_map(Connect),
        1 => any::<bool>().prop_map(Disconnect),
        2 => (0i64..200).prop_map(Pass),
        1 => Just(Depose),
        1 => Just(Lead),
    ]
}

fn name(first: bool) -> &'static str {
    if first { "west" } else { "east" }
}

const PHASES: [ClusterPhase; 8] = [
    ClusterPhase::Pending,
    ClusterPhase::Planned,
    ClusterPhase::Accepted,
    ClusterPhase::Baseline,
    ClusterPhase::Running,
    ClusterPhase::Reverting,
    ClusterPhase::Settling,
    ClusterPhase::Finished,
];

impl World {
    fn happen(&mut self, happening: &Happening) {
        if !self.state.runs.contains_key(&run_id()) {
            return;
        }
        match happening {
            Happening::Plan(c, pods) => self.plan(name(*c), *pods),
            Happening::Observe(c, phase) => {
                let phase = PHASES[usize::from(*phase)];
                let outcome = (phase == ClusterPhase::Finished).then_some(Outcome::Completed);
                self.observe(name(*c), phase, outcome);
            }
            Happening::Stop => self.stop(),
            Happening::Halt => self.halt("h", HaltScope::Fleet),
            Happening::Grant => self.grant(),
            Happening::Ungrant => self.delete(ObjectKey::Grant("g".to_owned())),
            Happening::Connect(c) => self.connect(name(*c)),
            Happening::Disconnect(c) => self.disconnect(name(*c)),
            Happening::Pass(seconds) => self.pass(*seconds),
            Happening::Depose => self.feed(Event::Leading(false)),
            Happening::Lead => self.feed(Event::Leading(true)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn promises_hold_in_any_order(happenings in proptest::collection::vec(happening(), 1..40)) {
        let mut world = World::new();
        world.member("west");
        world.member("east");
        world.grant();
        world.run(&["west", "east"]);
        let mut closed = None;
        for happening in &happenings {
            let before = world.written.len();
            let plans = world.state.runs.get(&run_id()).map(|run| run.plans.len());
            world.happen(happening);
            let started = world.written[before..].iter().any(|(_, desired)| desired.intent == Intent::Start);
            // No Start without every plan; the happening may have brought the last.
            if started {
                prop_assert!(plans.unwrap_or(0) + 1 >= 2, "{happening:?}");
                prop_assert!(world.state.runs[&run_id()].plans.len() == 2);
                prop_assert!(!world.state.halts.contains_key(&"h".parse().unwrap()));
            }
            // Stop, Denied and Finished are absorbing.
            if let Some(since) = closed {
                prop_assert!(world.written[since..].iter().all(|(_, desired)| desired.intent != Intent::Start));
            }
            let over = world.state.runs.get(&run_id()).is_none_or(|run| {
                run.record.as_ref().is_some_and(|record| record.value.stop.is_some())
                    || run.summary.as_ref().is_some_and(|summary| summary.value.phase == RunPhase::Finished)
            });
            if over && closed.is_none() {
                closed = Some(world.written.len());
            }
        }
        // Generations only grow, one by one, per cluster.
        let mut generations = BTreeMap::new();
        let mut starts = BTreeMap::new();
        for (cluster, desired) in &world.written {
            let last = generations.insert(cluster.clone(), desired.generation).unwrap_or(0);
            prop_assert_eq!(desired.generation, last + 1);
            if desired.intent == Intent::Start {
                *starts.entry(cluster.clone()).or_insert(0) += 1;
            }
        }
        prop_assert!(starts.values().all(|count| *count == 1), "a run starts once per cluster");
        prop_assert_eq!(world.conflicts, 0, "a single writer never loses a race");
    }

    #[test]
    fn at_rest_another_look_changes_nothing(happenings in proptest::collection::vec(happening(), 1..25)) {
        let mut world = World::new();
        world.member("west");
        world.member("east");
        world.grant();
        world.run(&["west", "east"]);
        for happening in &happenings {
            world.happen(happening);
        }
        let now = world.now;
        prop_assert_eq!(step(&mut world.state, Event::Tick, now), vec![]);
        let leading = world.state.leading;
        prop_assert_eq!(step(&mut world.state, Event::Leading(leading), now), vec![]);
    }
}
