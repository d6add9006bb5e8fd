//! The meaning of targets and selectors.

use super::Report;
use crate::experiment::{Pick, Target};
use crate::selector::{ClusterSelector, LabelOperator, LabelSelector};

pub(super) fn check(target: &Target, path: &str, p: &mut Report) {
    if let Some(clusters) = &target.clusters {
        if clusters.is_empty() {
            p.add(format!("{path}.clusters"), "name clusters or give a label selector, or leave it out");
        }
        check_clusters(clusters, &format!("{path}.clusters"), p);
    }
    let pods = &target.pods;
    if pods.namespaces.is_empty() {
        p.add(format!("{path}.pods.namespaces"), "name at least one namespace");
    }
    for (index, namespace) in pods.namespaces.iter().enumerate() {
        p.label(&format!("{path}.pods.namespaces[{index}]"), namespace);
    }
    if pods.is_empty() {
        p.add(
            format!("{path}.pods"),
            "an empty selection would hit everything: give labelSelector, names or workload",
        );
    }
    if let Some(labels) = &pods.label_selector {
        check_labels(labels, &format!("{path}.pods.labelSelector"), p);
    }
    if let Some(workload) = &pods.workload {
        const KINDS: [&str; 6] = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Workload"];
        if !KINDS.contains(&workload.kind.as_str()) {
            p.add(
                format!("{path}.pods.workload.kind"),
                format!("{:?} is not one of {}", workload.kind, KINDS.join(", ")),
            );
        }
        p.name(&format!("{path}.pods.workload.name"), &workload.name);
    }
    match &target.at_most {
        None if !target.is_peer_only() => {
            p.add(format!("{path}.atMost"), "missing: say how many pods may be hit, as in {perCluster: 5}");
        }
        Some(at_most) if at_most.total.is_some_and(|t| t < at_most.per_cluster) => {
            p.add(format!("{path}.atMost.total"), "is less than perCluster");
        }
        _ => {}
    }
    if target.allows_empty() && target.is_peer_only() {
        let why = "a PeerOnly target gives addresses, and without any a fault has no other end: leave it out";
        p.add(format!("{path}.allowEmpty"), why);
    }
    if let Some(pick) = &target.pick {
        check_pick(pick, &format!("{path}.pick"), p);
    }
}

fn check_pick(pick: &Pick, path: &str, p: &mut Report) {
    let ways = [pick.one.is_some(), pick.all.is_some(), pick.count.is_some(), pick.percent.is_some()]
        .iter()
        .filter(|w| **w)
        .count();
    if ways != 1 {
        p.add(path, format!("names {ways} ways to pick; name exactly one of one, all, count, percent"));
    }
    for (name, flag) in [("one", pick.one), ("all", pick.all)] {
        if flag == Some(false) {
            p.add(format!("{path}.{name}"), "is false: leave it out");
        }
    }
}

pub(super) fn check_clusters(clusters: &ClusterSelector, path: &str, p: &mut Report) {
    for (index, name) in clusters.names.iter().enumerate() {
        p.label(&format!("{path}.names[{index}]"), name);
    }
    if let Some(labels) = &clusters.label_selector {
        check_labels(labels, &format!("{path}.labelSelector"), p);
    }
}

fn check_labels(labels: &LabelSelector, path: &str, p: &mut Report) {
    for (index, expression) in labels.match_expressions.iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let takes_values = matches!(expression.operator, LabelOperator::In | LabelOperator::NotIn);
        if takes_values == expression.values.is_empty() {
            let why = if takes_values {
                "In and NotIn need values"
            } else {
                "Exists and DoesNotExist take no values"
            };
            p.add(format!("{path}.values"), why);
        }
        if expression.key.is_empty() {
            p.add(format!("{path}.key"), "missing");
        }
    }
}
