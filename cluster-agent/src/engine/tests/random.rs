//! Random lives. Whatever comes in whatever order: nothing is made without its durable record, twice, late, above
//! its bound, after a stop, after a restart, or under a halt (all checked in `World::check`), and everything ends.

use std::sync::Arc;

use proptest::prelude::*;
use proto::assignment::{ClusterPhase, Intent, Residue};
use serde_json::{Value, json};

use super::world::{NODE, World, ceiling, delay, inventory};
use crate::cluster::CeilingSeen;
use crate::engine::Event;

#[derive(Debug, Clone)]
enum Op {
    Pass(u64),
    LinkUp,
    LinkDown,
    Want(u8, Intent, u64),
    /// Planned in peace, then asked to start.
    Begin(u8, u64),
    /// Everything that was asked is answered.
    Settle,
    Repeat(u8),
    Persist,
    Specs,
    Clocks(u64),
    NodeUp,
    NodeDown,
    Daemon,
    Halt(u8),
    Resume(u8),
    Pods(usize),
    Ceiling(bool),
    AcceptsStarts(bool),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let intent = prop_oneof![
        4 => Just(Intent::Plan),
        6 => Just(Intent::Start),
        1 => Just(Intent::Stop),
        1 => Just(Intent::Forget),
    ];
    prop_oneof![
        4 => (0u64..20_000).prop_map(Op::Pass),
        8 => (0u8..3, 1u64..90_000).prop_map(|(run, within)| Op::Begin(run, within)),
        6 => Just(Op::Settle),
        4 => Just(Op::LinkUp),
        1 => Just(Op::LinkDown),
        5 => (0u8..3, intent, 1u64..90_000).prop_map(|(run, intent, within)| Op::Want(run, intent, within)),
        1 => (0u8..3).prop_map(Op::Repeat),
        5 => Just(Op::Persist),
        4 => Just(Op::Specs),
        4 => (0u64..30_000).prop_map(Op::Clocks),
        5 => Just(Op::NodeUp),
        1 => Just(Op::NodeDown),
        6 => Just(Op::Daemon),
        1 => (0u8..2).prop_map(Op::Halt),
        3 => (0u8..2).prop_map(Op::Resume),
        1 => (0usize..7).prop_map(Op::Pods),
        1 => prop::bool::weighted(0.7).prop_map(Op::Ceiling),
        1 => prop::bool::weighted(0.8).prop_map(Op::AcceptsStarts),
        1 => Just(Op::Restart),
    ]
}

fn apply(world: &mut World, op: &Op) {
    let name = |run: u8| format!("r{run}");
    match *op {
        Op::Pass(ms) => world.pass(ms),
        Op::LinkUp => drop(world.take(Event::LinkUp { accepted: true })),
        Op::LinkDown => {
            world.specs.clear();
            world.clocks.clear();
            world.take(Event::LinkDown);
        }
        Op::Want(run, intent, within) => world.want(&name(run), intent, within),
        Op::Begin(run, within) => {
            world.want(&name(run), Intent::Plan, 0);
            world.settle();
            world.want(&name(run), Intent::Start, within);
        }
        Op::Settle => world.settle(),
        Op::Repeat(run) => {
            let desired = world.state.runs.get(&name(run).parse().unwrap()).map(|r| r.desired.clone());
            if let Some(desired) = desired {
                world.take(Event::Desired { desired: Box::new(desired), start_within_ms: 0 });
            }
        }
        Op::Persist => drop(world.persist()),
        Op::Specs => drop(world.answer_specs()),
        Op::Clocks(rtt) => drop(world.answer_clocks(rtt)),
        Op::NodeUp => world.node_up(),
        Op::NodeDown => drop(world.take(Event::NodeDown { node: NODE.into() })),
        Op::Daemon => world.daemon(),
        Op::Halt(id) => world.halt(&format!("h{id}")),
        Op::Resume(id) => world.resume(&format!("h{id}")),
        Op::Pods(pods) => drop(world.take(Event::Inventory(Arc::new(inventory(pods))))),
        Op::Ceiling(present) => {
            let seen = if present { ceiling() } else { CeilingSeen::Absent };
            world.take(Event::Ceiling(seen));
        }
        Op::AcceptsStarts(accepts_starts) => drop(world.take(Event::Leadership { accepts_starts })),
        Op::Restart => world.restart(),
    }
}

/// The spec, as it is, held to its very pods, or allowed to find none.
fn spec() -> impl Strategy<Value = Value> {
    let with = |pointer: &str, key: &str, value: Value| {
        let mut spec = delay();
        spec.pointer_mut(pointer).unwrap()[key] = value;
        spec
    };
    prop_oneof![
        Just(delay()),
        Just(with("/limits", "planBinding", json!("Exact"))),
        Just(with("/targets/0", "allowEmpty", json!(true))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_made_that_must_not_be_and_everything_ends(
        spec in spec(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(spec);
        world.take(Event::LinkUp { accepted: true });
        world.node_up();
        for op in ops {
            apply(&mut world, &op);
        }
        // A calm hour: everything that has begun comes to its end, and nothing is left.
        world.node_up();
        world.take(Event::LinkUp { accepted: true });
        for _ in 0..60 {
            world.settle();
            world.daemon();
            world.pass(60_000);
        }
        for run in world.state.runs.values() {
            let ended = matches!(run.observed.phase, ClusterPhase::Finished | ClusterPhase::Planned);
            prop_assert!(ended, "{:?} {:?}", run.stage, run.observed);
            prop_assert_eq!(run.observed.residue, Residue::Clean);
        }
        prop_assert!(world.held.values().all(|(status, _)| status.phase.is_terminal()));
        prop_assert!(world.state.wake_at().is_none(), "a timer is left: {:?}", world.state.wake_at());
    }
}
