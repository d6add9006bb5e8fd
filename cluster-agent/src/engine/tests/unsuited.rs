//! Clusters where a daemon cannot do everything: nodes that are not Linux, sandboxed pods, no daemons at all.

use std::sync::Arc;

use proto::assignment::Intent;
use proto::plan::{ClusterPlan, refusal};
use serde_json::{Value, json};

use super::world::{World, delay, inventory};
use crate::cluster::Inventory;
use crate::engine::Event;

fn kill() -> Value {
    let mut spec = delay();
    spec["faults"][0] = json!({ "name": "kill", "target": "payments", "pod": { "kill": {} } });
    spec
}

fn planned(spec: Value, seen: impl FnOnce(&mut Inventory)) -> ClusterPlan {
    let mut world = World::new(spec);
    let mut now = inventory(4);
    seen(&mut now);
    world.take(Event::Inventory(Arc::new(now)));
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    world.want("r1", Intent::Plan, 0);
    world.settle_plan();
    world.run("r1").plan.clone().unwrap()
}

/// The first `count` pods cannot be reached into.
fn skip(now: &mut Inventory, count: usize) -> Vec<String> {
    let uids: Vec<String> = now.pods.keys().take(count).cloned().collect();
    now.skipped_pods = uids.iter().map(|uid| (uid.clone(), "is in a gVisor sandbox".to_owned())).collect();
    uids
}

#[test]
fn pods_no_daemon_can_reach_are_left_out_and_named() {
    let mut skipped = Vec::new();
    let plan = planned(delay(), |now| skipped = skip(now, 2));
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    // Half of the two that are left.
    assert_eq!((plan.sample["payments"].len(), plan.envelope.targets["payments"].max_count), (1, 1));
    assert!(plan.sample["payments"].iter().all(|target| !skipped.contains(&target.uid)));
    let said: Vec<_> = plan.warnings.iter().filter(|w| w.contains("leaves out shop/")).collect();
    assert_eq!(said.len(), 2, "{:?}", plan.warnings);
    assert!(said[0].contains("is in a gVisor sandbox"), "{}", said[0]);
}

#[test]
fn a_target_of_nothing_else_is_refused_with_the_reason() {
    let plan = planned(delay(), |now| drop(skip(now, 4)));
    let [refused] = &plan.refusals[..] else { panic!("{:?}", plan.refusals) };
    assert_eq!(refused.code, refusal::NO_TARGETS);
    assert!(refused.message.contains("is in a gVisor sandbox; and 3 more"), "{}", refused.message);
}

#[test]
fn what_the_agent_does_through_the_api_reaches_every_pod() {
    let plan = planned(kill(), |now| {
        drop(skip(now, 4));
        now.api_faults_only = true;
    });
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert_eq!(plan.sample["payments"].len(), 2);
}

#[test]
fn without_node_daemons_the_rest_is_refused_by_name() {
    let plan = planned(delay(), |now| now.api_faults_only = true);
    let [refused] = &plan.refusals[..] else { panic!("{:?}", plan.refusals) };
    assert_eq!((refused.code.as_str(), refused.whose.as_str()), (refusal::NO_DAEMON, "cluster owner"));
    assert!(refused.message.contains("network.delay needs node daemons"), "{}", refused.message);
    assert!(refused.cure.contains("nodes.enabled=true"), "{}", refused.cure);
}
