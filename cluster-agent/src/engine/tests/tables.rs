//! One behaviour each.

use std::sync::Arc;

use proto::assignment::{ClusterPhase, Intent, Outcome, Residue, Verdict};
use proto::ceiling::{CeilingFrom, CeilingSpec};
use proto::injection::{EndReason, InjectionPhase, InjectionStatus};
use proto::plan::refusal;
use proto::probe::ProbeStage;
use proto::wire::Halts;
use serde_json::{Value, json};

use super::world::{NODE, World, ceiling_spec, delay, inventory, pod};
use crate::cluster::{CeilingSeen, Inventory, LocalHalt};
use crate::engine::{Effect, Event, Sample};

/// The codes that planning gives after the world was changed.
pub(super) fn refusals(spec: Value, change: impl FnOnce(&mut World)) -> Vec<String> {
    let mut world = World::new(spec);
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    change(&mut world);
    world.want("r1", Intent::Plan, 0);
    world.settle_plan();
    let plan = world.run("r1").plan.clone().expect("a plan");
    let mut codes: Vec<String> = plan.refusals.into_iter().map(|r| r.code).collect();
    codes.sort();
    codes.dedup();
    codes
}

fn with(path: &str, value: Value) -> Value {
    let mut spec = delay();
    *spec.pointer_mut(path).unwrap() = value;
    spec
}

fn show(world: &mut World, change: impl Fn(&mut crate::cluster::PodSeen)) {
    let mut pods: Inventory = inventory(4);
    pods.pods.values_mut().for_each(change);
    world.take(Event::Inventory(Arc::new(pods)));
}

/// Gives the world this Ceiling.
pub(super) fn ceil(world: &mut World, change: impl FnOnce(&mut CeilingSpec)) {
    let mut spec = ceiling_spec();
    change(&mut spec);
    world.take(Event::Ceiling(CeilingSeen::Present(Arc::new(spec))));
}

/// The one that ends is not the one that came.
#[test]
fn a_new_daemon_of_a_node_takes_starts_again() {
    let none: [&str; 0] = [];
    let found = refusals(delay(), |w| {
        w.take(Event::NodeDraining { node: NODE.into() });
        w.take(Event::NodeDown { node: NODE.into() });
        w.node_up();
    });
    assert_eq!(found, none);
}

#[test]
fn what_stands_in_the_way_is_named() {
    let none: [&str; 0] = [];
    assert_eq!(refusals(delay(), |_| {}), none);
    let one = |found: Vec<String>, code: &str| assert_eq!(found, [code]);
    one(refusals(delay(), |w| drop(w.take(Event::Ceiling(CeilingSeen::Absent)))), refusal::NO_CEILING);
    one(refusals(delay(), |w| drop(w.take(Event::Ceiling(CeilingSeen::Unknown)))), refusal::NO_CEILING);
    one(refusals(delay(), |w| ceil(w, |c| c.from = vec![])), refusal::ABOVE_CEILING);
    one(refusals(delay(), |w| ceil(w, |c| c.from = vec![CeilingFrom::default()])), refusal::ABOVE_CEILING);
    one(refusals(delay(), |w| ceil(w, |c| c.namespaces = vec!["other".into()])), refusal::ABOVE_CEILING);
    one(refusals(delay(), |w| ceil(w, |c| c.kinds = vec!["pod.*".into()])), refusal::ABOVE_CEILING);
    one(refusals(delay(), |w| ceil(w, |c| c.max_targets = Some(1))), refusal::ABOVE_CEILING);
    let short = proto::quantity::Span::written("29s");
    one(refusals(delay(), |w| ceil(w, |c| c.max_duration = Some(short))), refusal::ABOVE_CEILING);
    one(refusals(delay(), |w| drop(w.take(Event::NodeDown { node: NODE.into() }))), refusal::NO_DAEMON);
    one(refusals(delay(), |w| drop(w.take(Event::NodeDraining { node: NODE.into() }))), refusal::DRAINING);
    one(
        refusals(delay(), |w| {
            drop(w.take(Event::Leadership { accepts_starts: false }));
        }),
        refusal::STOP_ONLY,
    );
}

/// A target whose addresses are read is below the Ceiling like one that is hit.
#[test]
fn peers_are_bounded_too() {
    let mut spec = delay();
    let mut peer = spec["targets"][0].clone();
    (peer["name"], peer["role"]) = (json!("db"), json!("PeerOnly"));
    peer["pods"]["namespaces"] = json!(["vault"]);
    spec["targets"].as_array_mut().unwrap().push(peer);
    spec["faults"][0]["network"]["delay"]["peers"] = json!([{ "target": "db" }]);
    let with_vault = |w: &mut World, addresses: u8| {
        let mut seen: Inventory = inventory(4);
        let mut db = pod(9);
        db.namespace = "vault".into();
        db.ips = (0..addresses).map(|n| [10, 1, 0, n].into()).collect();
        seen.pods.insert(db.uid.clone(), db);
        w.take(Event::Inventory(Arc::new(seen)));
    };
    let open = |w: &mut World| ceil(w, |c| c.namespaces = vec!["shop".into(), "vault".into()]);
    let found = |change: &dyn Fn(&mut World)| refusals(spec.clone(), change);
    assert_eq!(found(&|w| with_vault(w, 1)), [refusal::ABOVE_CEILING], "its namespace is not covered");
    let none: [&str; 0] = [];
    assert_eq!(found(&|w| (with_vault(w, 200), open(w)).0), none);
    assert_eq!(found(&|w| (with_vault(w, 201), open(w)).0), [refusal::TOO_MANY_TARGETS]);
    // A cluster that has only the peers lets in whom its owner lets in, and nobody else.
    let mut only = spec.clone();
    only["targets"][0]["clusters"] = json!({ "names": ["elsewhere"] });
    only["targets"][0]["pods"]["namespaces"] = json!(["nowhere"]);
    let found = refusals(only, |w| {
        with_vault(w, 1);
        ceil(w, |c| (c.namespaces, c.from) = (vec!["*".into()], vec![]));
    });
    assert_eq!(found, [refusal::ABOVE_CEILING]);
}

#[test]
fn pods_that_cannot_be_hit_are_named() {
    let one = |found: Vec<String>, code: &str| assert_eq!(found, [code]);
    one(refusals(delay(), |w| w.halt("h1")), refusal::HALTED);
    one(refusals(delay(), |w| show(w, |p| p.host_network = true)), refusal::HOST_NETWORK);
    one(refusals(delay(), |w| show(w, |p| p.terminating = true)), refusal::NO_TARGETS);
    one(refusals(delay(), |w| show(w, |p| p.running = false)), refusal::NO_TARGETS);
    let ours = |p: &mut crate::cluster::PodSeen| {
        p.labels.insert("app.kubernetes.io/name".into(), "faultline".into());
    };
    one(refusals(delay(), |w| show(w, ours)), refusal::PROTECTED);
    one(refusals(with("/targets/0/pick", json!({ "all": true })), |_| {}), refusal::TOO_MANY_TARGETS);
    one(refusals(with("/targets/0/pick", json!({ "count": 5 })), |_| {}), refusal::NO_TARGETS);
}

#[test]
fn kube_system_and_our_namespace_are_protected_even_below_a_ceiling_of_everything() {
    for namespace in ["kube-system", "faultline"] {
        let spec = with("/targets/0/pods/namespaces", json!([namespace]));
        let found = refusals(spec, |w| {
            ceil(w, |c| c.namespaces = vec!["*".into(), namespace.into()]);
            show(w, |p| p.namespace = namespace.into());
        });
        assert_eq!(found, [refusal::PROTECTED], "although the Ceiling names it");
    }
}

#[test]
fn a_missing_capability_names_the_node_and_what_it_lacks() {
    let mut world = World::new(with(
        "/faults/0",
        json!({
        "name": "late", "target": "payments", "for": "30s", "container": { "pause": {} } }),
    ));
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    world.want("r1", Intent::Plan, 0);
    world.settle();
    let plan = world.run("r1").plan.clone().unwrap();
    assert_eq!(plan.refusals[0].code, refusal::MISSING_CAPABILITY);
    assert!(
        plan.refusals[0].message.contains("node n1 lacks cgroup-freezer"),
        "{}",
        plan.refusals[0].message
    );
}

#[test]
fn the_choice_is_repeatable_and_disturbs_nobody_else() {
    let chosen = |world: &World| -> Vec<String> {
        let plan = world.run("r1").plan.clone().unwrap();
        plan.sample["payments"].iter().map(|t| t.uid.clone()).collect()
    };
    let plan = |pods: Inventory| {
        let mut world = World::new(with("/targets/0/pick", json!({ "count": 2, "seed": 7 })));
        world.take(Event::LinkUp { accepted: true });
        world.node_up();
        world.take(Event::Inventory(Arc::new(pods)));
        world.want("r1", Intent::Plan, 0);
        world.settle();
        chosen(&world)
    };
    let first = plan(inventory(4));
    assert_eq!(first.len(), 2);
    assert_eq!(first, plan(inventory(4)));
    let mut fewer = inventory(4);
    let spared: String = (0..4).map(|n| pod(n).uid).find(|uid| !first.contains(uid)).unwrap();
    fewer.pods.remove(&spared);
    assert_eq!(first, plan(fewer), "a pod that was not chosen may go");
}

#[test]
fn a_start_outside_its_envelope_is_denied() {
    let mut world = World::new(delay());
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    world.want("r1", Intent::Plan, 0);
    world.settle();
    show(&mut world, |p| p.owner.uid = "another".into());
    world.want("r1", Intent::Start, 60_000);
    world.settle();
    let over = world.run("r1");
    assert_eq!((over.phase, over.outcome), (ClusterPhase::Finished, Some(Outcome::Denied)));
    assert_eq!(over.reason, refusal::LEFT_ENVELOPE);
    assert!(!world.log.iter().any(|e| matches!(e, Effect::Inject { .. })));
}

#[test]
fn generations_only_grow() {
    let mut world = World::new(delay());
    world.take(Event::LinkUp { accepted: true });
    world.want("r1", Intent::Plan, 0);
    world.want("r1", Intent::Plan, 0);
    let mut old = world.desired("r1", Intent::Plan);
    old.generation = 1;
    world.take(Event::Desired { desired: Box::new(old.clone()), start_within_ms: 0 });
    assert_eq!(world.nacks(), 1, "older");
    old.generation = 2;
    old.spec_hash = "other".into();
    world.take(Event::Desired { desired: Box::new(old), start_within_ms: 0 });
    assert_eq!(world.nacks(), 2, "equal with other content");
}

#[test]
fn a_stop_is_held_as_one_over_a_restart_so_that_a_centre_that_forgot_it_is_told() {
    let mut world = World::new(delay());
    world.running("r1");
    world.want("r1", Intent::Stop, 0);
    world.settle();
    let held = |world: &World| {
        let run = world.state.runs.values().next().unwrap();
        (run.desired.intent, run.desired.generation)
    };
    let before = held(&world);
    assert_eq!(before.0, Intent::Stop);
    world.restart();
    assert_eq!(held(&world), before);
    // The centre's store is older now: its Start is stale, and nothing starts.
    world.take(Event::LinkUp { accepted: true });
    world.log.clear();
    let mut start = world.desired("r1", Intent::Start);
    start.generation = before.1 - 1;
    world.take(Event::Desired { desired: Box::new(start), start_within_ms: 60_000 });
    world.settle();
    assert!(!world.log.iter().any(|effect| matches!(effect, Effect::Inject { .. })));
    assert_eq!(held(&world), before);
}

#[test]
fn a_halt_reverts_is_latched_when_durable_and_clean_when_read_back() {
    let mut world = World::new(delay());
    world.running("r1");
    world.log.clear();
    world.halt("h1");
    let reverts =
        world.log.iter().filter(|e| matches!(e, Effect::Revert { reason, .. } if reason == "Halted"));
    assert_eq!(reverts.count(), 2);
    let said = |world: &World| {
        world.log.iter().rev().find_map(|e| match e {
            Effect::SendHaltState(state) => Some((state.latched.len(), state.clean.len())),
            _ => None,
        })
    };
    assert_eq!(said(&world), None, "not durable yet");
    world.settle();
    assert_eq!(said(&world), Some((1, 0)), "latched, not clean");
    world.daemon();
    world.settle();
    assert_eq!(said(&world), Some((1, 1)));
    assert_eq!(world.run("r1").outcome, Some(Outcome::Halted));
    world.take(Event::Halts(Halts::default()));
    assert_eq!(world.state.halts.latched.halts.len(), 1, "absence is no resume");
    world.resume("h1");
    world.halt("h1");
    assert!(world.state.halts.latched.halts.is_empty(), "a resumed id does not come back");
}

#[test]
fn a_halt_object_stops_without_any_centre() {
    let mut world = World::new(delay());
    world.running("r1");
    world.take(Event::LinkDown);
    let halt = LocalHalt {
        name: "stop".into(),
        reason: String::new(),
        namespace: Some("shop".into()),
        at: world.now().wall,
    };
    world.take(Event::LocalHalts(Arc::new(vec![halt])));
    world.daemon();
    world.settle();
    assert_eq!(world.state.runs.values().next().unwrap().observed.outcome, Some(Outcome::Halted));
    let levels: Vec<_> = world.log.iter().filter(|e| matches!(e, Effect::HaltObjectLevel { .. })).collect();
    assert_eq!(levels.len(), 2, "{levels:?}");
}

#[test]
fn a_lost_link_reverts_or_runs_on_as_the_spec_says() {
    for (action, outcome) in [("Revert", Outcome::Aborted), ("RunToDeadline", Outcome::Completed)] {
        let mut spec = delay();
        spec["limits"]["onLinkLoss"] = json!({ "after": "10s", "do": action });
        let mut world = World::new(spec);
        world.running("r1");
        world.take(Event::LinkDown);
        world.pass(9_999);
        assert!(world.state.runs.values().all(|r| r.end.is_none()));
        world.pass(1);
        for _ in 0..4 {
            world.daemon();
            world.pass(10_000);
            world.settle();
        }
        let over = world.run("r1");
        assert_eq!((over.outcome, over.residue), (Some(outcome), Residue::Clean), "{action}");
    }
}

#[test]
fn a_dead_daemon_leaves_unknown_with_an_instant_and_clean_when_it_is_back() {
    let mut world = World::new(delay());
    world.running("r1");
    world.take(Event::NodeDown { node: NODE.into() });
    let seen = world.run("r1");
    assert_eq!((seen.residue, seen.counts.unknown), (Residue::Unknown, 2));
    assert!(seen.residue_resolves_at.is_some());
    world.pass(31_000);
    assert_ne!(world.run("r1").phase, ClusterPhase::Finished, "not before the deadline has passed");
    world.pass(2_000);
    let over = world.run("r1");
    assert_eq!(
        (over.outcome, over.reason.as_str(), over.residue),
        (Some(Outcome::Failed), "NodeLost", Residue::Unknown)
    );
    for (status, _) in world.held.values_mut() {
        (status.phase, status.reason) = (InjectionPhase::Reverted, Some(EndReason::DaemonRestart));
    }
    world.node_up();
    let over = world.run("r1");
    assert_eq!((over.outcome, over.residue), (Some(Outcome::Failed), Residue::Clean));
}

#[test]
fn a_restarted_daemon_aborts() {
    let mut world = World::new(delay());
    world.running("r1");
    for (status, _) in world.held.values_mut() {
        (status.phase, status.reason) = (InjectionPhase::Reverted, Some(EndReason::DaemonRestart));
    }
    world.take(Event::NodeDown { node: NODE.into() });
    world.node_up();
    world.settle();
    let over = world.run("r1");
    assert_eq!((over.outcome, over.reason.as_str()), (Some(Outcome::Aborted), "DaemonRestart"));
}

#[test]
fn a_daemon_speaks_for_its_own_node_only() {
    let mut world = World::new(delay());
    world.running("r1");
    let before = world.run("r1").clone();
    for (status, _) in world.held.clone().into_values() {
        let status = Box::new(InjectionStatus { phase: InjectionPhase::Reverted, ..status });
        world.take(Event::NodeState { node: "n2".into(), status });
    }
    world.settle();
    assert_eq!(world.run("r1").counts, before.counts);
    assert!(world.run("r1").outcome.is_none());
}

#[test]
fn what_the_daemon_holds_and_nobody_wants_is_reverted() {
    let mut world = World::new(delay());
    world.running("r1");
    world.records.clear();
    world.restart();
    world.log.clear();
    world.node_up();
    let reverts =
        world.log.iter().filter(|e| matches!(e, Effect::Revert { reason, .. } if reason == "NotWanted"));
    assert_eq!(reverts.count(), 2);
}

fn probed(when: &[&str], on_breach: &str) -> Value {
    let mut spec = delay();
    spec["steadyState"] = json!([{
        "name": "answers", "http": { "url": "http://checkout.shop:8080/" }, "every": "1s", "breachAfter": 2,
        "when": when, "onBreach": on_breach
    }]);
    spec
}

fn sample(world: &mut World, stage: ProbeStage, good: bool) {
    let run = "r1".parse().unwrap();
    let sample =
        Sample { run, stage, probe: "answers".into(), good, latency_ms: Some(5), detail: String::new() };
    world.take(Event::Sample(sample));
}

#[test]
fn a_steady_state_that_holds() {
    let mut world = World::new(probed(&["Before", "During", "After"], "Abort"));
    world.running("r1");
    assert_eq!(world.run("r1").phase, ClusterPhase::Baseline);
    assert!(world.held.is_empty(), "nothing before the baseline");
    for _ in 0..3 {
        sample(&mut world, ProbeStage::Before, true);
    }
    world.settle();
    world.daemon();
    for _ in 0..3 {
        sample(&mut world, ProbeStage::During, true);
    }
    world.pass(30_000);
    world.daemon();
    assert_eq!(world.run("r1").phase, ClusterPhase::Settling);
    for _ in 0..3 {
        sample(&mut world, ProbeStage::After, true);
    }
    let over = world.run("r1");
    assert_eq!((over.outcome, over.verdict), (Some(Outcome::Completed), Verdict::Held));
    assert_eq!(over.probes[0].stages.len(), 3);
}

#[test]
fn a_false_baseline_denies() {
    let mut world = World::new(probed(&["Before"], "Abort"));
    world.running("r1");
    for n in 0..12 {
        sample(&mut world, ProbeStage::Before, n % 2 == 0);
    }
    let over = world.run("r1");
    assert_eq!((over.outcome, over.reason.as_str()), (Some(Outcome::Denied), refusal::BASELINE_BROKEN));
    assert_eq!((over.verdict, world.held.len()), (Verdict::NotMeasured, 0));
}

#[test]
fn a_breach_aborts_or_is_recorded() {
    for (on_breach, outcome) in [("Abort", Outcome::Aborted), ("Record", Outcome::Completed)] {
        let mut world = World::new(probed(&["During"], on_breach));
        world.running("r1");
        sample(&mut world, ProbeStage::During, false);
        sample(&mut world, ProbeStage::During, false);
        world.daemon();
        world.pass(30_000);
        world.daemon();
        world.settle();
        let over = world.run("r1");
        assert_eq!((over.outcome, over.verdict), (Some(outcome), Verdict::Broken), "{on_breach}");
    }
}
