//! Publishes what is seen of nodes and pods: whole snapshots, as often as [`Pace`] says, none before every watch has
//! delivered once. Called by [`Kube::run`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use proto::plan::Owner;
use tokio::time::{Instant, sleep_until};

use super::Kube;
use super::basics::{self, Basics};
use super::follow::{Listed, Pace, events};
use super::slim::{
    self, NodeOrNot, PodOfClass, SlimJob, SlimNode, SlimPod, SlimReplicaSet, SlimRuntimeClass,
};
use crate::cluster::{Inventory, PodSeen};

#[derive(Debug, Default)]
struct Seen {
    pods: Listed<PodOfClass>,
    nodes: Listed<NodeOrNot>,
    replica_sets: Listed<Option<Owner>>,
    jobs: Listed<Option<Owner>>,
    /// Handlers by the name of their class.
    classes: Listed<String>,
}

/// Follows for ever.
pub(super) async fn follow(door: &Kube) {
    let mut basics = basics::wait_for(door).await;
    let client = || door.client();
    let mut pods = pin!(events(Api::<SlimPod>::all(client()), "pods", None));
    let mut nodes = pin!(events(Api::<SlimNode>::all(client()), "nodes", None));
    let mut replica_sets = pin!(events(Api::<SlimReplicaSet>::all(client()), "replicasets", None));
    let mut jobs = pin!(events(Api::<SlimJob>::all(client()), "jobs", None));
    let mut classes = pin!(events(Api::<SlimRuntimeClass>::all(client()), "runtimeclasses", None));
    let mut good_for = basics.good_for(&basics, Duration::ZERO);
    let mut again = Instant::now() + good_for;
    let mut seen = Seen::default();
    let mut pace = Pace::new(Instant::now());
    loop {
        let changed = tokio::select! {
            Some(event) = pods.next() => seen.pods.take(event, slim::pod),
            Some(event) = nodes.next() => seen.nodes.take(event, slim::node),
            Some(event) = replica_sets.next() => seen.replica_sets.take(event, |o| slim::above(o.metadata)),
            Some(event) = jobs.next() => seen.jobs.take(event, |o| slim::above(o.metadata)),
            Some(event) = classes.next() => seen.classes.take(event, slim::runtime_class),
            () = sleep_until(again) => {
                let known = refresh(door, &basics).await;
                good_for = known.good_for(&basics, good_for);
                again = Instant::now() + good_for;
                std::mem::replace(&mut basics, known) != basics
            }
            () = pace.due(), if pace.is_due() => {
                pace.published(Instant::now());
                publish(door, &seen, &basics);
                false
            }
            else => return,
        };
        if changed {
            pace.changed(Instant::now());
        }
    }
}

async fn refresh(door: &Kube, known: &Basics) -> Basics {
    match basics::read(door).await {
        Ok(now) => now.after(known),
        Err(error) => {
            tracing::debug!(%error, "kept what was known of the apiserver");
            known.clone()
        }
    }
}

fn publish(door: &Kube, seen: &Seen, basics: &Basics) {
    let before = door.0.inventory.borrow().clone();
    let Some(resolved) = resolved(seen, before.as_deref()) else {
        return;
    };
    let inventory = Inventory {
        cluster_uid: basics.cluster_uid.clone(),
        own_namespace: door.settings().namespace.clone(),
        api_addresses: basics.api_addresses.clone(),
        api_faults_only: door.settings().api_faults_only,
        ..resolved
    };
    door.0.inventory.send_if_modified(|shown| {
        let changed = shown.as_deref() != Some(&inventory);
        if changed {
            *shown = Some(Arc::new(inventory));
        }
        changed
    });
}

/// Nodes, and pods with the top of their owner chains, and what no daemon can reach of both; `None` until all was
/// listed.
fn resolved(seen: &Seen, before: Option<&Inventory>) -> Option<Inventory> {
    let (pods, nodes) = (seen.pods.all()?, seen.nodes.all()?);
    let (replica_sets, jobs, classes) = (seen.replica_sets.all()?, seen.jobs.all()?, seen.classes.all()?);
    let top = |pod: &PodSeen| -> Owner {
        let above = match pod.owner.kind.as_str() {
            "ReplicaSet" => replica_sets.get(&pod.owner.uid),
            "Job" => jobs.get(&pod.owner.uid),
            _ => return pod.owner.clone(),
        };
        match above {
            Some(Some(top)) => top.clone(),
            Some(None) => pod.owner.clone(),
            // A deployment that is deleted loses its ReplicaSets before its pods: they keep their owner.
            None => before
                .and_then(|inventory| inventory.pods.get(&pod.uid))
                .map_or_else(|| pod.owner.clone(), |earlier| earlier.owner.clone()),
        }
    };
    let of_node = |name: &str| nodes.get(name).and_then(|node| node.skipped);
    let of_pod = |seen: &PodOfClass| match of_node(&seen.pod.node) {
        Some(why) => Some(format!("its node {} {why}", seen.pod.node)),
        // A class that is not there (any more) may still say something by its name.
        None => slim::sandbox(classes.get(&seen.class).unwrap_or(&seen.class)).map(str::to_owned),
    };
    let skipped_nodes =
        nodes.iter().filter_map(|(name, node)| Some((name.clone(), node.skipped?.to_owned())));
    Some(Inventory {
        skipped_nodes: skipped_nodes.collect(),
        skipped_pods: pods.iter().filter_map(|(uid, pod)| Some((uid.clone(), of_pod(pod)?))).collect(),
        nodes: nodes.iter().map(|(name, seen)| (name.clone(), seen.node.clone())).collect(),
        pods: pods
            .iter()
            .map(|(uid, PodOfClass { pod, .. })| (uid.clone(), PodSeen { owner: top(pod), ..pod.clone() }))
            .collect(),
        ..Inventory::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::runtime::watcher::Event;

    use super::*;
    use crate::cluster::NodeSeen;

    fn owner(kind: &str, uid: &str) -> Owner {
        Owner { kind: kind.into(), namespace: "shop".into(), name: kind.to_lowercase(), uid: uid.into() }
    }

    fn pod(uid: &str, owner: Owner) -> PodOfClass {
        let pod = PodSeen {
            namespace: "shop".into(),
            name: uid.into(),
            uid: uid.into(),
            node: "n1".into(),
            ips: Vec::new(),
            labels: BTreeMap::new(),
            owner,
            containers: Vec::new(),
            host_network: false,
            running: true,
            terminating: false,
        };
        PodOfClass { pod, class: String::new() }
    }

    fn list<V: PartialEq + Clone>(into: &mut Listed<V>, all: &[(&str, V)]) {
        into.take::<()>(Event::Init, |()| None);
        for (key, value) in all {
            into.take(Event::InitApply(()), |()| Some(((*key).to_owned(), value.clone())));
        }
        into.take::<()>(Event::InitDone, |()| None);
    }

    #[test]
    fn nothing_is_shown_until_every_watch_has_delivered() {
        let mut seen = Seen::default();
        list(&mut seen.pods, &[("p", pod("p", owner("ReplicaSet", "rs")))]);
        list(&mut seen.nodes, &[]);
        list(&mut seen.jobs, &[]);
        list(&mut seen.classes, &[]);
        assert!(resolved(&seen, None).is_none());
        list(&mut seen.replica_sets, &[("rs", Some(owner("Deployment", "d")))]);
        assert_eq!(resolved(&seen, None).unwrap().pods["p"].owner, owner("Deployment", "d"));
    }

    #[test]
    fn what_no_daemon_can_reach_is_told_with_its_reason() {
        let mut seen = Seen::default();
        let node = |skipped| NodeOrNot { node: NodeSeen { ready: true }, skipped };
        list(&mut seen.nodes, &[("n1", node(None)), ("w1", node(Some("runs Windows")))]);
        let of = |uid: &str, node: &str, class: &str| {
            let PodOfClass { pod, .. } = pod(uid, owner("Pod", uid));
            PodOfClass { pod: PodSeen { node: node.into(), ..pod }, class: class.into() }
        };
        let pods = [
            ("plain", of("plain", "n1", "")),
            ("win", of("win", "w1", "")),
            ("gvisor", of("gvisor", "n1", "safe")),
            ("kata", of("kata", "n1", "kata-gone")),
            ("fast", of("fast", "n1", "fast")),
        ];
        list(&mut seen.pods, &pods);
        list(&mut seen.classes, &[("safe", "runsc".to_owned()), ("fast", "crun".to_owned())]);
        list(&mut seen.jobs, &[]);
        list(&mut seen.replica_sets, &[]);
        let now = resolved(&seen, None).unwrap();
        assert_eq!(now.skipped_nodes, [("w1".to_owned(), "runs Windows".to_owned())].into());
        assert_eq!(now.skipped_pods.keys().collect::<Vec<_>>(), ["gvisor", "kata", "win"]);
        assert_eq!(now.skipped_pods["win"], "its node w1 runs Windows");
        assert!(now.skipped_pods["gvisor"].contains("gVisor") && now.skipped_pods["kata"].contains("Kata"));
        assert_eq!((now.nodes.len(), now.pods.len()), (2, 5), "skipped, and still seen");
    }

    #[test]
    fn a_pod_keeps_its_owner_when_the_link_between_them_goes_first() {
        let mut seen = Seen::default();
        list(
            &mut seen.pods,
            &[("p", pod("p", owner("ReplicaSet", "rs"))), ("q", pod("q", owner("Node", "n")))],
        );
        list(&mut seen.nodes, &[]);
        list(&mut seen.jobs, &[]);
        list(&mut seen.classes, &[]);
        list(&mut seen.replica_sets, &[("rs", Some(owner("Deployment", "d")))]);
        let before = resolved(&seen, None).unwrap();
        list(&mut seen.replica_sets, &[]);
        assert_eq!(resolved(&seen, Some(&before)).unwrap().pods, before.pods);
        assert_eq!(resolved(&seen, None).unwrap().pods["p"].owner, owner("ReplicaSet", "rs"), "never known");
        list(&mut seen.replica_sets, &[("rs", None)]);
        assert_eq!(
            resolved(&seen, Some(&before)).unwrap().pods["p"].owner,
            owner("ReplicaSet", "rs"),
            "orphaned"
        );
    }
}
