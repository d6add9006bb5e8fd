//! What was planned is what runs: plans that bind pods, plans that expire, targets that may be empty.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proto::assignment::{ClusterPhase, Intent, NOTHING_TO_HIT, Outcome, Residue, Verdict};
use proto::plan::{EXACT_PODS_MAX, refusal};
use serde_json::{Value, json};

use super::world::{World, delay, inventory, pod};
use crate::cluster::Inventory;
use crate::engine::runs::TARGETS_WITHIN_MS;
use crate::engine::{Effect, Event};

fn exact() -> Value {
    let mut spec = delay();
    spec["limits"]["planBinding"] = json!("Exact");
    spec
}

fn pods(numbers: impl IntoIterator<Item = usize>) -> Inventory {
    let pods = numbers.into_iter().map(pod).map(|p| (p.uid.clone(), p)).collect();
    Inventory { pods, ..inventory(0) }
}

fn planned(spec: Value, there: Inventory) -> World {
    let mut world = World::new(spec);
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    world.take(Event::Inventory(Arc::new(there)));
    world.want("r1", Intent::Plan, 0);
    world.settle_plan();
    world
}

fn refused(world: &World) -> Vec<String> {
    let plan = world.run("r1").plan.as_ref().expect("a plan");
    plan.refusals.iter().map(|r| r.code.clone()).collect()
}

fn hit(world: &World) -> BTreeSet<String> {
    world.held.values().map(|(_, inject)| inject.injection.target.uid.clone()).collect()
}

#[test]
fn a_replaced_pod_is_hit_where_workloads_are_bound_and_denied_where_pods_are() {
    for (spec, outcome) in [(delay(), None), (exact(), Some(Outcome::Denied))] {
        let mut world = planned(spec, inventory(4));
        // The workload rolled: other pods of the same owner.
        world.take(Event::Inventory(Arc::new(pods(10..14))));
        world.want("r1", Intent::Start, 60_000);
        world.settle();
        let said = world.run("r1");
        assert_eq!(said.outcome, outcome, "{}", said.message);
        if outcome.is_some() {
            assert_eq!(said.reason, refusal::LEFT_ENVELOPE);
            assert!(said.message.contains("planBinding is Exact"), "{}", said.message);
            assert!(world.held.is_empty());
        } else {
            assert_eq!(hit(&world).len(), 2);
        }
    }
}

#[test]
fn only_exact_plans_name_pods_and_not_too_many() {
    let plan = |spec, there| planned(spec, there).run("r1").plan.clone().unwrap();
    assert!(plan(delay(), inventory(4)).envelope.targets["payments"].pods.is_empty());
    let named = plan(exact(), inventory(4)).envelope.targets["payments"].pods.clone();
    assert_eq!(named.len(), 2);
    assert!(named.is_sorted());

    let mut spec = exact();
    spec["targets"][0]["pick"] = json!({ "all": true });
    spec["targets"][0]["atMost"] = json!({ "perCluster": 1000 });
    for (count, too_many) in [(EXACT_PODS_MAX, false), (EXACT_PODS_MAX + 1, true)] {
        let mut world = planned(spec.clone(), pods(0..count));
        assert_eq!(refused(&world).contains(&refusal::TOO_MANY_TARGETS.to_owned()), too_many, "{count}");
        // Asked to start all the same, it is denied.
        world.want("r1", Intent::Start, 60_000);
        world.settle();
        assert_eq!(world.run("r1").outcome, Some(Outcome::Denied));
    }
}

#[test]
fn a_start_whose_plan_has_expired_is_missed() {
    for (late_ms, outcome) in [(-1, None), (0, Some(Outcome::Missed))] {
        let mut world = planned(delay(), inventory(4));
        let ttl_ms = proto::plan::PLAN_TTL_MS + late_ms;
        world.pass(ttl_ms.unsigned_abs());
        world.want("r1", Intent::Start, 3_600_000);
        world.settle();
        let said = world.run("r1");
        assert_eq!(said.outcome, outcome, "{late_ms}");
        if outcome.is_some() {
            assert_eq!(said.reason, refusal::PLAN_EXPIRED);
            assert!(world.held.is_empty());
        } else {
            assert_eq!(said.phase, ClusterPhase::Running);
        }
    }
}

/// The way to the centre and back counts against the plan, too.
#[test]
fn a_plan_that_may_have_expired_on_the_way_has_expired() {
    let mut world = planned(delay(), inventory(4));
    world.pass(proto::plan::PLAN_TTL_MS.unsigned_abs() - 1_000);
    world.want("r1", Intent::Start, 3_600_000);
    let (id, centre_at) = (world.clocks.pop().expect("the clock is asked"), world.now().wall);
    world.take(Event::ClockReply { id, centre_at, rtt_ms: 1_000 });
    assert_eq!(world.run("r1").reason, refusal::PLAN_EXPIRED);
}

/// Who waits until a pod is ready and then asks for a run may be faster than our watch.
#[test]
fn a_pod_that_is_seen_a_moment_after_the_question_is_planned() {
    let mut two = delay();
    two["targets"][0]["pick"] = json!({ "count": 2 });
    for (spec, first) in [(delay(), 0), (two, 1)] {
        let mut world = World::new(spec);
        world.take(Event::LinkUp { accepted: true });
        world.node_up();
        world.take(Event::Inventory(Arc::new(inventory(first))));
        let asked_ms = world.now().boottime_ms;
        world.want("r1", Intent::Plan, 0);
        world.settle();
        world.pass(TARGETS_WITHIN_MS - 1);
        assert!(world.latest.values().all(|said| said.plan.is_none()), "not given up yet");
        assert_eq!(world.state.wake_at(), Some(asked_ms + TARGETS_WITHIN_MS));
        let mut late = world.clone();
        late.take(Event::Inventory(Arc::new(inventory(4))));
        assert!(refused(&late).is_empty());
        world.pass(1);
        assert_eq!(refused(&world), [refusal::NO_TARGETS]);
        // The answer stands; another question is another look.
        world.take(Event::Inventory(Arc::new(inventory(4))));
        assert_eq!(refused(&world), [refusal::NO_TARGETS]);
        world.want("r2", Intent::Plan, 0);
        world.settle();
        assert!(world.run("r2").plan.as_ref().is_some_and(|plan| plan.refusals.is_empty()));
    }
}

#[test]
fn no_matching_pod_refuses_unless_it_is_allowed() {
    assert_eq!(refused(&planned(delay(), inventory(0))), [refusal::NO_TARGETS]);
    let mut spec = delay();
    spec["targets"][0]["allowEmpty"] = json!(true);
    spec["targets"][0]["pick"] = json!({ "count": 2 });
    spec["steadyState"] = json!([{ "name": "answers", "http": { "url": "http://checkout.shop:8080/" } }]);
    let mut world = planned(spec.clone(), inventory(0));
    assert!(refused(&world).is_empty());
    let plan = world.run("r1").plan.clone().unwrap();
    assert!(plan.warnings.iter().any(|w| w.contains("has no pod here")), "{:?}", plan.warnings);
    ends_without_anything(&mut world);
    // There when it was planned, gone when it starts.
    let mut world = planned(spec, inventory(4));
    world.take(Event::Inventory(Arc::new(inventory(0))));
    ends_without_anything(&mut world);
}

fn ends_without_anything(world: &mut World) {
    world.want("r1", Intent::Start, 60_000);
    world.settle();
    let over = world.run("r1");
    assert_eq!((over.outcome, over.reason.as_str()), (Some(Outcome::Completed), NOTHING_TO_HIT));
    assert_eq!((over.verdict, over.residue, over.counts.total), (Verdict::NotMeasured, Residue::Clean, 0));
    let measured = world.log.iter().any(|e| matches!(e, Effect::StartProbes { .. } | Effect::Inject { .. }));
    assert!(!measured, "nothing was made, so there is nothing to measure");
    // It had its one start: pods that come back change nothing.
    world.take(Event::Inventory(Arc::new(inventory(4))));
    world.want("r1", Intent::Start, 60_000);
    world.settle();
    assert!(world.held.is_empty());
}

#[test]
fn an_empty_target_beside_another_takes_nothing_from_it() {
    let mut spec = delay();
    let mut other = spec["targets"][0].clone();
    other["name"] = json!("ghosts");
    other["allowEmpty"] = json!(true);
    other["pods"]["labelSelector"] = json!({ "matchLabels": { "app": "ghosts" } });
    spec["targets"].as_array_mut().unwrap().push(other);
    let mut fault = spec["faults"][0].clone();
    (fault["name"], fault["target"]) = (json!("late-ghosts"), json!("ghosts"));
    spec["faults"].as_array_mut().unwrap().push(fault);
    let mut world = planned(spec, inventory(4));
    world.want("r1", Intent::Start, 60_000);
    world.settle();
    assert_eq!((world.run("r1").phase, hit(&world).len()), (ClusterPhase::Running, 2));
}

/// Without any address of the other end a fault would hit everything: empty is never allowed there.
#[test]
fn a_peer_without_address_is_refused_whatever_is_allowed() {
    let mut spec = delay();
    let mut peer = spec["targets"][0].clone();
    (peer["name"], peer["allowEmpty"]) = (json!("db"), json!(true));
    peer["pods"]["labelSelector"] = json!({ "matchLabels": { "app": "db" } });
    spec["targets"].as_array_mut().unwrap().push(peer);
    spec["faults"][0]["network"]["delay"]["peers"] = json!([{ "target": "db" }]);
    let mut world = planned(spec, inventory(4));
    world.want("r1", Intent::Start, 60_000);
    world.settle();
    let said = world.run("r1");
    assert_eq!((said.outcome, said.reason.as_str()), (Some(Outcome::Denied), refusal::NO_TARGETS));
}

proptest! {
    #[test]
    fn an_exact_plan_never_hits_a_pod_that_was_not_planned(
        before in prop::collection::btree_set(0usize..5, 1..=5),
        after in prop::collection::btree_set(0usize..5, 0..=5),
        is_exact in any::<bool>(),
    ) {
        let mut world = planned(if is_exact { exact() } else { delay() }, pods(before.iter().copied()));
        prop_assert_eq!(refused(&world), Vec::<String>::new());
        let plan = world.run("r1").plan.clone().unwrap();
        let sample: BTreeSet<String> = plan.sample["payments"].iter().map(|t| t.uid.clone()).collect();
        world.take(Event::Inventory(Arc::new(pods(after.iter().copied()))));
        world.want("r1", Intent::Start, 60_000);
        world.settle();
        let (hit, said) = (hit(&world), world.run("r1"));
        if is_exact {
            prop_assert!(hit.is_subset(&sample), "{hit:?} {sample:?}");
            let strange = after.iter().any(|n| !sample.contains(&pod(*n).uid));
            prop_assert!(strange || after.is_empty() || !hit.is_empty(), "denied without a reason: {}", said.message);
        }
        prop_assert!(hit.len() <= plan.envelope.targets["payments"].max_count as usize);
        prop_assert_eq!(hit.is_empty(), said.outcome == Some(Outcome::Denied));
    }
}
