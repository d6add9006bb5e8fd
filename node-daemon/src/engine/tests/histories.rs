//! The engine's invariants under random histories: whatever happens in whatever order, nothing that may
//! have been made is forgotten, and no rule is broken on the way.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What may happen to a daemon, in any order.
#[derive(Debug, Clone)]
enum Chance {
    Inject { id: usize, epoch: u64 },
    Clock { behind_ms: i64 },
    Resolve(usize, bool),
    Record(usize, bool),
    Apply(usize, u8),
    Undo(usize, bool),
    Look(usize, u8),
    Revert(usize),
    Halt,
    Resume,
    HaltFile(bool),
    Link(bool),
    Pass(u64),
    TakeNoMore,
    Drain,
}

fn chance() -> impl Strategy<Value = Chance> {
    let id = 0..4usize;
    prop_oneof![
        4 => (id.clone(), 1..5u64).prop_map(|(id, epoch)| Chance::Inject { id, epoch }),
        6 => (-20_000..20_000i64).prop_map(|behind_ms| Chance::Clock { behind_ms }),
        6 => (id.clone(), prop::bool::weighted(0.9)).prop_map(|(id, ok)| Chance::Resolve(id, ok)),
        6 => (id.clone(), prop::bool::weighted(0.9)).prop_map(|(id, ok)| Chance::Record(id, ok)),
        6 => (id.clone(), 0..5u8).prop_map(|(id, how)| Chance::Apply(id, how)),
        5 => (id.clone(), prop::bool::weighted(0.7)).prop_map(|(id, ok)| Chance::Undo(id, ok)),
        3 => (id.clone(), 0..4u8).prop_map(|(id, how)| Chance::Look(id, how)),
        2 => id.prop_map(Chance::Revert),
        1 => Just(Chance::Halt),
        1 => Just(Chance::Resume),
        1 => any::<bool>().prop_map(Chance::HaltFile),
        1 => any::<bool>().prop_map(Chance::Link),
        4 => (0..30_000u64).prop_map(Chance::Pass),
        1 => Just(Chance::TakeNoMore),
        1 => Just(Chance::Drain),
    ]
}

/// The node as the effects leave it, and the rules that must hold.
#[derive(Default)]
struct World {
    journalled: BTreeSet<InjectionId>,
    applying: BTreeSet<InjectionId>,
    maybe_made: BTreeSet<InjectionId>,
    undoing: BTreeSet<InjectionId>,
    applied_ever: BTreeSet<InjectionId>,
    stopped: BTreeSet<InjectionId>,
    deadline: BTreeMap<InjectionId, u64>,
    probe: u64,
    halted: bool,
    halt_file: bool,
    draining: bool,
}

impl World {
    fn watch(&mut self, effects: &[Effect], now: Now) {
        for effect in effects {
            match effect {
                Effect::WriteRecord(record) => {
                    let id = &record.injection.id;
                    let deadline = record.deadline.boottime_ms;
                    assert_eq!(
                        *self.deadline.entry(id.clone()).or_insert(deadline),
                        deadline,
                        "a deadline moved"
                    );
                }
                Effect::Apply { record, start_before_ms } => {
                    let id = &record.injection.id;
                    assert!(self.journalled.contains(id), "applied before it was journalled");
                    assert!(!self.stopped.contains(id), "a stopped id was applied");
                    assert!(self.applied_ever.insert(id.clone()), "applied twice");
                    assert!(now.boottime_ms <= *start_before_ms, "applied late");
                    assert!(now.boottime_ms < record.deadline.boottime_ms, "applied after its deadline");
                    assert!(
                        !self.halted && !self.halt_file && !self.draining,
                        "applied while halted or draining"
                    );
                    assert!(!record.steps.is_empty());
                    self.applying.insert(id.clone());
                    self.maybe_made.insert(id.clone());
                }
                Effect::Undo(record) => {
                    let id = &record.injection.id;
                    assert!(!self.applying.contains(id), "undone while it was being made");
                    assert!(self.undoing.insert(id.clone()), "two undos at once");
                }
                Effect::Send(NodeUp::ClockProbe { id }) => self.probe = *id,
                Effect::Send(NodeUp::State(status)) if status.phase == InjectionPhase::Injected => {
                    assert!(self.maybe_made.contains(&status.id), "Injected over nothing");
                }
                Effect::WriteEnded(ended) => {
                    let id = &ended.status.id;
                    assert!(!self.maybe_made.contains(id), "over, and may still be made: {:?}", ended.status);
                    self.stopped.insert(id.clone());
                }
                _ => {}
            }
        }
    }
}

fn one(id: usize) -> Injection {
    if id < 2 {
        pause(&format!("r1.a.{id}"), 7 + id as i32)
    } else {
        partition(&format!("r1.a.{id}"), 7, &[])
    }
}

/// What comes back of what was asked for.
fn answer(chance: &Chance, world: &mut World) -> Option<Event> {
    Some(match chance {
        Chance::Resolve(id, ok) => {
            let result = if *ok { Ok(plan(&one(*id))) } else { Err(Unfit::TargetGone("x".into())) };
            Event::Resolved { id: one(*id).id, result }
        }
        Chance::Record(id, ok) => {
            let id = one(*id).id;
            world.journalled.insert(id.clone());
            Event::Recorded { id, result: if *ok { Ok(()) } else { Err("x".into()) } }
        }
        Chance::Apply(id, how) => {
            let id = one(*id).id;
            if !world.applying.remove(&id) {
                return None;
            }
            let result = match how {
                0 => Err(Failure::Late),
                1 => Err(Failure::Error("x".into())),
                2 => Err(Failure::Residue(Remains { what: "x".into(), command: "y".into() })),
                _ => Ok(step::Effect::NotCounted),
            };
            if matches!(how, 0 | 1) {
                world.maybe_made.remove(&id);
            }
            Event::Applied { id, result }
        }
        Chance::Undo(id, ok) => {
            let id = one(*id).id;
            if !world.undoing.remove(&id) {
                return None;
            }
            if *ok {
                world.maybe_made.remove(&id);
            }
            let remains = Remains { what: "x".into(), command: "y".into() };
            Event::Undone { id, result: if *ok { Ok(()) } else { Err(remains) } }
        }
        Chance::Look(id, how) => {
            let look = match how {
                0 => Look::Absent("x".into()),
                1 => Look::Drifted(vec![]),
                2 => Look::TargetGone,
                _ => Look::Intended(step::Effect::Seen),
            };
            Event::Looked { id: one(*id).id, look }
        }
        _ => return None,
    })
}

fn event(chance: &Chance, world: &mut World, now: Now) -> Option<Event> {
    Some(match chance {
        Chance::Inject { id, epoch } => {
            let at = |ms: i64| Timestamp::from_millisecond(now.wall_ms + ms).unwrap();
            Event::Down(NodeDown::Inject(Box::new(Inject {
                injection: one(*id),
                agent_epoch: *epoch,
                remaining_ms: 40_000,
                deadline: at(40_000),
                start_before: at(10_000),
            })))
        }
        Chance::Clock { behind_ms } => {
            let at = Timestamp::from_millisecond(now.wall_ms - behind_ms).unwrap();
            Event::Down(NodeDown::ClockReply { id: world.probe, at })
        }
        Chance::Resolve(..)
        | Chance::Record(..)
        | Chance::Apply(..)
        | Chance::Undo(..)
        | Chance::Look(..) => {
            return answer(chance, world);
        }
        Chance::Revert(id) => {
            let id = one(*id).id;
            world.stopped.insert(id.clone());
            Event::Down(NodeDown::Revert { injection: id, reason: "Stopped".into() })
        }
        Chance::Halt => {
            world.halted = true;
            Event::Down(NodeDown::Halts { halts: vec![halt("h1", HaltScope::Fleet)], resumed: vec![] })
        }
        Chance::Resume => {
            world.halted = false;
            Event::Down(NodeDown::Halts { halts: vec![], resumed: vec!["h1".parse().unwrap()] })
        }
        Chance::HaltFile(present) => {
            world.halt_file = *present;
            Event::HaltFile(present.then(String::new))
        }
        Chance::Link(up) => {
            if *up {
                Event::Connected
            } else {
                Event::Disconnected
            }
        }
        Chance::Pass(_) => Event::Tick,
        Chance::TakeNoMore => {
            world.draining = true;
            Event::TakeNoMore
        }
        Chance::Drain => {
            world.draining = true;
            Event::Drain
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_left_and_no_rule_is_broken(chances in prop::collection::vec(chance(), 1..80)) {
        let (mut bench, mut world, mut now) = (Bench::new(), World::default(), START);
        for chance in &chances {
            if let Chance::Pass(ms) = chance {
                now = Now { boottime_ms: now.boottime_ms + ms, wall_ms: now.wall_ms + *ms as i64 };
            }
            let Some(event) = event(chance, &mut world, now) else { continue };
            let effects = bench.step(event, now);
            world.watch(&effects, now);
        }
        // From here on everything answers and the time passes: all of it must come to an end.
        for _ in 0..40 {
            now = Now { boottime_ms: now.boottime_ms + 40_000, wall_ms: now.wall_ms + 40_000 };
            let effects = bench.step(Event::Tick, now);
            world.watch(&effects, now);
            for id in 0..4 {
                for chance in [Chance::Record(id, true), Chance::Apply(id, 4), Chance::Undo(id, true)] {
                    if let Some(event) = event(&chance, &mut world, now) {
                        let effects = bench.step(event, now);
                        world.watch(&effects, now);
                    }
                }
            }
        }
        prop_assert!(world.maybe_made.is_empty(), "left: {:?}", world.maybe_made);
        prop_assert_eq!(bench.state.held(), 0);
    }
}
